//! What happened, a line an event, for people: `seconds.millis.micros  what`.

use super::clock::Time;

/// The trace of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trace {
    print: bool,
}

impl Trace {
    /// Prints every line if told to; otherwise no line is even made.
    #[must_use]
    pub const fn new(print: bool) -> Self {
        Self { print }
    }

    /// One event.
    pub fn line(self, now: Time, text: impl FnOnce() -> String) {
        if self.print {
            println!("{:>4}.{:03}.{:03}  {}", now / 1_000_000, now / 1_000 % 1_000, now % 1_000, text());
        }
    }
}
