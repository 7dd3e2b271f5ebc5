//! Who talks to whom: mutual TLS between agents and guards, a Unix socket for the command line.
//!
//! Every certificate names one agent or one guard of one mesh ([`identity`]); a server learns the caller's name from it
//! ([`accept`]) and a client insists on the name that it meant to reach ([`connect`]), so that an address that another
//! process holds now is refused. Newer files are taken without a restart ([`renewal`]), and a
//! connection whose peer they revoke ends. It never decides who may do what: that is `rpc::authorise`.

pub mod accept;
pub mod connect;
pub mod ends;
pub mod first;
pub mod identity;
pub mod local;
pub mod material;
pub mod renewal;
pub mod revoked;
mod tethered;

pub use accept::{Incoming, MeshStream};
pub use connect::Dialer;
pub use identity::Identity;
pub use local::LocalIncoming;
pub use material::Material;
pub use renewal::{Credentials, Renewal};

#[cfg(test)]
mod tests;
