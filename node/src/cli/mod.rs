//! The command line: words in, questions to the agent of this host, answers rendered for people or as JSON. It decides
//! nothing about a database: whatever changes something is asked of the mesh.
//!
//! Reading order: [`args`] (the words), [`operate`] (what each does), [`client`] (how the agent is asked), [`follow`]
//! (a run to its end), [`render`] (pure: values to text), [`exit`] (how a command ends).

pub mod apply;
pub mod args;
pub mod audit;
pub mod caller;
pub mod client;
pub mod doctor;
pub mod everything;
pub mod exit;
pub mod follow;
pub mod gate;
pub mod init;
pub mod issuing;
pub mod join;
pub mod local;
pub mod operate;
pub mod output;
pub mod papers;
pub mod proposals;
pub mod recover;
pub mod remote;
pub mod render;
pub mod version;

pub use args::{Cli, Command};
pub use exit::{Exit, Failure};

/// An error with its causes, for people: `what: because: because`.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
