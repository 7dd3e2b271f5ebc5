//! Log lines of every process of mesh: to standard error, as text or JSON.
//!
//! Writing never blocks the caller: a full pipe or a hung journal must not delay a fence, so lines go through a bounded
//! queue to a thread of their own, and lines that find it full are counted and dropped, never waited for.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: a few seconds of a busy log, about a megabyte.
const QUEUE_LINES: usize = 4096;
/// The variable that sets what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
const FILTER_VARIABLE: &str = "MESH_LOG";
const DEFAULT_FILTER: &str = "info,openraft=warn";

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `MESH_LOG` is no filter.
    #[error("MESH_LOG is not a log filter; write for example MESH_LOG=info or MESH_LOG=mesh_node=debug,warn")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The thread that writes could not be started.
    #[error("the log thread could not be started")]
    Thread(#[source] io::Error),
    /// Something else in this process logs already.
    #[error("logging was already started in this process")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging for this process.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(form: Form) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::try_new(text).map_err(TelemetryError::Filter)?,
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
    };
    let (sender, receiver) = sync_channel(QUEUE_LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&lost);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || drain(&receiver, &counter))
        .map_err(TelemetryError::Thread)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Lines { sender, lost });
    match form {
        Form::Text => builder.finish().try_init(),
        Form::Json => builder.json().finish().try_init(),
    }
    .map_err(TelemetryError::Twice)
}

/// Runs until the last sender is gone, which is the end of the process.
fn drain(receiver: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    let mut stderr = io::stderr();
    while let Ok(line) = receiver.recv() {
        // Nobody is left to tell when standard error is gone; the process goes on without its log.
        let _ = stderr.write_all(&line);
        let dropped = lost.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(stderr, "{dropped} log lines were dropped because standard error was too slow");
        }
    }
}

#[derive(Debug, Clone)]
struct Lines {
    sender: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line { bytes: Vec::with_capacity(256), lines: self.clone() }
    }
}

/// Collects one line, and hands it over when it is complete.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    lines: Lines,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() && self.lines.sender.try_send(std::mem::take(&mut self.bytes)).is_err() {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_never_blocks_the_caller() {
        let (sender, receiver) = sync_channel(2);
        let lines = Lines { sender, lost: Arc::new(AtomicU64::new(0)) };
        for _ in 0..5 {
            lines.make_writer().write_all(b"line\n").unwrap();
        }
        assert_eq!(lines.lost.load(Ordering::Relaxed), 3);
        assert_eq!(receiver.try_iter().count(), 2);
    }
}
