//! Callers whom nobody knows yet. Anybody can open a connection and say nothing, as often as he likes; he shuts nobody out by it,
//! and fills no log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

/// What is done for so many callers at a time. When there are more, the oldest makes way: an honest one is done within
/// milliseconds, so the oldest is the one that stalls. All end when this is dropped.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    tasks: JoinSet<()>,
    waiting: VecDeque<AbortHandle>,
}

impl Crowd {
    /// Nobody yet.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, tasks: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Lets another one in. Whether somebody had to go for it.
    pub fn admit(&mut self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.waiting.retain(|task| !task.is_finished());
        let oldest = if self.waiting.len() < self.most { None } else { self.waiting.pop_front() };
        self.waiting.push_back(self.tasks.spawn(task));
        oldest.inspect(AbortHandle::abort).is_some()
    }
}

/// Lines that strangers can cause: some in each while, the others are counted.
#[derive(Debug, Default)]
pub struct Sparing(Mutex<Option<While>>);

#[derive(Debug, Clone, Copy)]
struct While {
    began: Instant,
    lines: u32,
    kept_back: u64,
}

impl Sparing {
    /// How long a while is, and how many lines it has.
    const WHILE: Duration = Duration::from_secs(10);
    const LINES: u32 = 5;

    /// Whether a line may be written now; then how many were not since the last one.
    pub fn line(&self, now: Instant) -> Option<u64> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = While { began: now, lines: 0, kept_back: 0 };
        let mut this = held.unwrap_or(fresh);
        if now.saturating_duration_since(this.began) >= Self::WHILE {
            this = While { kept_back: this.kept_back, ..fresh };
        }
        let may = this.lines < Self::LINES;
        let said = may.then_some(this.kept_back);
        (this.lines, this.kept_back) =
            if may { (this.lines + 1, 0) } else { (this.lines, this.kept_back + 1) };
        *held = Some(this);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_way_and_whoever_is_done_counts_no_more() {
        let mut crowd = Crowd::new(2);
        let (first, held) = tokio::sync::oneshot::channel::<()>();
        let stall = |end: Option<tokio::sync::oneshot::Sender<()>>| async move {
            let _end = end;
            std::future::pending::<()>().await;
        };
        assert!(!crowd.admit(stall(Some(first))));
        assert!(!crowd.admit(async {}));
        tokio::task::yield_now().await;
        assert!(!crowd.admit(stall(None)), "the second is done");
        assert!(crowd.admit(stall(None)));
        // Its sender is gone with it.
        held.await.unwrap_err();
    }

    #[test]
    fn a_flood_is_some_lines_and_a_number() {
        let (sparing, began) = (Sparing::default(), Instant::now());
        let said: Vec<_> = (0..1000).map(|_| sparing.line(began)).collect();
        assert_eq!(said.iter().flatten().count(), 5);
        assert_eq!(sparing.line(began + Duration::from_secs(9)), None);
        assert_eq!(sparing.line(began + Duration::from_secs(10)), Some(996));
        assert_eq!(sparing.line(began + Duration::from_secs(10)), Some(0));
    }
}
