//! What a hook says: bounded, and always read, so that a full pipe never stops it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of a hook's output is kept.
pub const KEPT_BYTES: usize = 16 * 1024;

/// The output, standard error and standard output as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The first part; what is not UTF-8 is replaced.
    pub text: String,
    /// Bytes that were thrown away.
    pub cut: u64,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.trim_end())?;
        if self.cut > 0 {
            write!(f, " [{} more bytes were thrown away]", self.cut)?;
        }
        Ok(())
    }
}

/// Both streams of one hook. A reader that is abandoned leaves what it has read.
#[derive(Debug, Clone, Default)]
pub(super) struct Gatherer(Arc<Mutex<(Vec<u8>, u64)>>);

impl Gatherer {
    /// Reads a stream to its end.
    pub(super) async fn read(self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = vec![0; 8 * 1024];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) => return,
                Ok(length) => self.take(&chunk[..length]),
                Err(error) => {
                    tracing::debug!(%error, "a hook's output ended with an error");
                    return;
                }
            }
        }
    }

    fn take(&self, bytes: &[u8]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, cut) = &mut *held;
        let room = KEPT_BYTES.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        *cut += (bytes.len() - room) as u64;
    }

    pub(super) fn so_far(&self) -> Output {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Output { text: String::from_utf8_lossy(&held.0).into_owned(), cut: held.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_output() {
        mesh_fuzz::fuzz!("output", |bytes| {
            let gatherer = Gatherer::default();
            for _ in 0..40 {
                gatherer.take(bytes);
            }
            let output = gatherer.so_far();
            let kept = (40 * bytes.len()).min(KEPT_BYTES);
            assert_eq!(output.cut, (40 * bytes.len() - kept) as u64);
            // A byte that is no UTF-8 is shown as three.
            assert!(output.text.len() <= 3 * kept);
        });
    }
}
