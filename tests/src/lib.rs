//! What the tests, the demonstration and the measurements share. Nothing here is part of the product: it may see every
//! crate, and no crate may see it.

pub mod chaos;
pub mod lab;
pub mod sim;
