//! Where text goes: results to standard output, progress and errors to standard error when the result is JSON.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::render::Look;

/// The two streams of a command, and how they look.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
    /// Width and color of standard output.
    pub look: Look,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

impl Output {
    /// The streams of this process.
    #[must_use]
    pub fn of_process(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let look = Look { width: width(terminal), color: terminal && !plain };
        Self { json, look, terminal }
    }

    /// A result for people.
    ///
    /// # Errors
    /// A [`Failure`] when standard output cannot be written.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        write(io::stdout().lock(), text)
    }
    /// A result for programs: one line, or an indented document on a terminal.
    ///
    /// # Errors
    /// A [`Failure`] when standard output cannot be written.
    pub fn value<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let encoded =
            if self.terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let encoded = encoded.map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("the answer has no JSON form: {error}"),
                "please report this as a bug",
            )
        })?;
        write(io::stdout().lock(), &format!("{encoded}\n"))
    }
    /// A value as JSON, or as the text that `render` makes of it.
    ///
    /// # Errors
    /// A [`Failure`] when standard output cannot be written.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.value(value) } else { self.text(&render(value, &self.look)) }
    }
    /// Progress: beside the result, so that a program can read the result alone.
    ///
    /// # Errors
    /// A [`Failure`] when the stream cannot be written.
    pub fn progress(&self, text: &str) -> Result<(), Failure> {
        if self.json { write(io::stderr().lock(), text) } else { write(io::stdout().lock(), text) }
    }
    /// The error that a command ends with; one without words is not shown. Nothing can be done about a standard error that cannot be written.
    pub fn failure(&self, failure: &Failure) {
        if failure.what.is_empty() {
            return;
        }
        let text = if self.json { failure.json() } else { failure.text() };
        let _gone = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn write(mut stream: impl io::Write, text: &str) -> Result<(), Failure> {
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).map_err(|error| {
        // Whoever read has seen enough (`mesh audit show | head`): nothing is wrong.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Exit::Error, "", "");
        }
        Failure::new(
            Exit::Error,
            format!("cannot write the output: {error}"),
            "what was asked for may have been done: look with `mesh status`",
        )
    })
}

/// Lines are not wrapped where there is no terminal: logs are searched by line.
const UNWRAPPED: usize = 10_000;

/// Columns of the terminal.
fn width(terminal: bool) -> usize {
    if !terminal {
        return UNWRAPPED;
    }
    let columns = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    columns.filter(|columns| *columns >= 40).unwrap_or(100)
}
