//! `make demo`: three sites on this host, a real PostgreSQL primary, its loss, and the way back.
//!
//! It shows and checks; it repairs nothing. What it started it ends, unless told to keep it.

mod args;
mod cache;
mod scenes;
mod view;
mod voice;

use std::process::ExitCode;

use args::Asked;
use mesh_tests::lab::ground::sweep;
use tokio::signal::unix::{SignalKind, signal};
use voice::{Tone, Voice};

#[tokio::main]
async fn main() -> ExitCode {
    let voice = Voice::new();
    match args::parse(std::env::args().skip(1)) {
        Ok(Asked::Show { scenario, keep }) => show(voice, scenario, keep).await,
        Ok(Asked::Stop(dir)) => finish(voice, sweep(&dir).map(|()| true)),
        Ok(Asked::Help) => {
            println!("{}", args::USAGE);
            ExitCode::SUCCESS
        }
        Err(error) => finish(voice, Err(error)),
    }
}

async fn show(voice: Voice, scenario: args::Scenario, keep: bool) -> ExitCode {
    let (mut terminate, mut hangup) = match (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
        (Ok(terminate), Ok(hangup)) => (terminate, hangup),
        (Err(error), _) | (_, Err(error)) => return finish(voice, Err(error.into())),
    };
    // Whichever ends first: dropping the play ends everything that it started.
    let interrupted = tokio::select! {
        ended = scenes::play(voice, scenario, keep) => return finish(voice, ended),
        heard = tokio::signal::ctrl_c() => heard,
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    match interrupted {
        Ok(()) => {
            println!("\n   interrupted; everything that was started has been ended");
            ExitCode::from(130)
        }
        Err(error) => finish(voice, Err(error.into())),
    }
}

fn finish(voice: Voice, ended: anyhow::Result<bool>) -> ExitCode {
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            let (last, context) =
                causes.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
            for text in context {
                eprintln!("{text}");
            }
            eprintln!("{} {last}", voice.paint(Tone::Bad, "mesh-demo:"));
            ExitCode::FAILURE
        }
    }
}
