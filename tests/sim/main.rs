//! The promises, in a simulation of the whole mesh: a short range of seeds, every seed that ever failed, every rule taken
//! away on purpose, and a fault at every place of every effect.
//!
//! More seeds: `cargo run --release -p mesh-tests --bin mesh-sim -- --seeds 0..10000`. A failure names the command that
//! replays it; put its seed into `seeds.txt` when the fault is mended.

// A test file: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod mutants;
mod places;
mod seeds;
