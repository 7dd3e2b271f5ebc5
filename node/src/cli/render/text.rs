//! Words and numbers as people read them.

use mesh_proto::evidence::Seen;
use mesh_proto::{Millis, Wall};

/// How text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Whether color may be used: only on a terminal.
    pub color: bool,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Worth looking at.
    Warn,
    /// Wrong.
    Bad,
    /// Of lesser interest.
    Dim,
}

impl Look {
    /// Text with its meaning as color, where there is color.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Dim => "2",
        };
        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    /// What to type next. Never wrapped: a command that is broken in two cannot be copied, and terminals wrap by themselves.
    #[must_use]
    pub fn step(&self, label: &str, text: &str) -> String {
        Self { width: usize::MAX, ..*self }.labelled(Tone::Dim, label, text)
    }
    /// `label` and text behind it, wrapped, with later lines under the text.
    #[must_use]
    pub fn labelled(&self, tone: Tone, label: &str, text: &str) -> String {
        let indent = " ".repeat(label.chars().count());
        let mut out = String::new();
        for line in text.lines() {
            for piece in wrap(line, self.width.saturating_sub(label.chars().count()).max(20)) {
                let front = if out.is_empty() { self.paint(tone, label) } else { indent.clone() };
                out.push_str(format!("{front}{piece}").trim_end());
                out.push('\n');
            }
        }
        out
    }
}

/// Breaks a line between words. A word that is longer than the width stays whole, and so does a command in backticks:
/// one that is broken in two cannot be copied.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut command = false;
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let inside = command;
        command ^= !word.matches('`').count().is_multiple_of(2);
        if line.is_empty() {
            line.push_str(word);
        } else if inside || line.chars().count() + 1 + whole(text, word).chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The word, or the whole command in backticks that it begins. `word` is a part of `text`.
fn whole<'a>(text: &'a str, word: &'a str) -> &'a str {
    if word.matches('`').count().is_multiple_of(2) {
        return word;
    }
    let start = word.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let rest = text.get(start..).unwrap_or(word);
    let end = rest.match_indices('`').nth(1).map_or(rest.len(), |(at, _)| at + 1);
    rest.get(..end).unwrap_or(word)
}

/// A number of bytes, in binary units: `0 B`, `640 B`, `12.0 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths of a unit, in whole numbers: rounding never shows a lag as zero.
    let (mut tenths, mut unit) = (u128::from(count) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A length of time with one or two significant units: `340 ms`, `2.1 s`, `9 min 58 s`, `3 h 5 min`.
pub fn length(time: Millis) -> String {
    let seconds = time.0 / 1000;
    match seconds {
        0 => format!("{} ms", time.0),
        1..=59 => format!("{}.{} s", seconds, time.0 % 1000 / 100),
        60..=3599 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Milliseconds of a run: exact below ten seconds, since that is what people compare.
pub fn exact(time: Millis) -> String {
    if time.0 < 10_000 { format!("{} ms", time.0) } else { length(time) }
}

/// A point in time, UTC, to the second: `2025-11-21 08:04:05Z`.
pub fn moment(wall: Wall) -> String {
    stamp(wall, "%Y-%m-%d %H:%M:%SZ")
}

/// A time of day, UTC, to the millisecond.
pub fn clock(wall: Wall) -> String {
    stamp(wall, "%H:%M:%S.%3fZ")
}

fn stamp(wall: Wall, format: &str) -> String {
    let millis = i64::try_from(wall.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => time.strftime(format).to_string(),
        Err(_) => format!("{} ms since 1970", wall.0),
    }
}

/// What a probe found, in a word or two.
pub fn seen(seen: Seen) -> &'static str {
    match seen {
        Seen::Writable { .. } => "writable",
        Seen::ReadOnly => "read-only",
        Seen::Starting => "starting",
        Seen::Busy => "busy",
        Seen::Refused => "refused",
        Seen::TimedOut => "timed out",
        Seen::Unreachable => "unreachable",
        Seen::AuthFailed => "bad credentials",
        Seen::WrongSystem => "another cluster",
        Seen::Error => "error",
        Seen::NotYet => "not yet",
    }
}

/// `1 standby`, `2 standbys`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (16 << 20, "16.0 MB"), (u64::MAX, "16383.9 PB")];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        let times = [
            (0, "0 ms"),
            (999, "999 ms"),
            (2_149, "2.1 s"),
            (598_000, "9 min 58 s"),
            (1_800_000, "30 min"),
            (11_100_000, "3 h 5 min"),
            (90_000_000, "1 d 1 h"),
        ];
        for (millis, text) in times {
            assert_eq!(length(Millis(millis)), text);
        }
        assert_eq!(moment(Wall(1_763_712_245_000)), "2025-11-21 08:04:05Z");
        assert_eq!(clock(Wall(1_763_712_245_678)), "08:04:05.678Z");
        assert_eq!(moment(Wall(u64::MAX)), format!("{} ms since 1970", u64::MAX));
    }

    #[test]
    fn long_lines_are_wrapped_under_their_label() {
        let look = Look { width: 30, color: false };
        let text = look.labelled(Tone::Plain, "next: ", "one two three four five six seven\nmesh ack");
        assert_eq!(text, "next: one two three four five\n      six seven\n      mesh ack\n");
        assert_eq!(wrap("type `mesh ack --group a` now", 20), ["type", "`mesh ack --group a`", "now"]);
        assert_eq!(wrap("type `mesh` now ` or", 12), ["type `mesh`", "now ` or"]);
    }
}
