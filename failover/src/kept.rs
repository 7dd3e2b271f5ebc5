//! Which of the evidence that rejoins kept may go: what is too old, and the oldest of what is too much. Never the newest.
//!
//! It is told ages, not times, and names things only by what it was given. It never removes anything, and never hears of what
//! mesh did not write: whoever lists the directory leaves that out.

use mesh_proto::Millis;

/// Milliseconds of a day.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// How long, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepPolicy {
    /// What is older than this many days goes.
    pub days: u32,
    /// While more bytes than this are kept for an instance, the oldest goes.
    pub max_bytes: u64,
}

/// One thing that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is called, once for each instance.
    pub name: String,
    /// Since it was kept.
    pub age: Millis,
    /// Its size.
    pub bytes: u64,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// It is older than the policy's days.
    Old,
    /// With it, more is kept than the policy's bytes.
    TooMuch,
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Old => "older than [keep] days",
            Self::TooMuch => "more is kept than [keep] max_bytes",
        })
    }
}

/// What goes, the oldest first. The newest stays, however old and large it is, and so does whatever is as new as that: of two
/// of one age nobody can say which is the newer.
#[must_use]
pub fn to_prune(kept: &[Kept], policy: KeepPolicy) -> Vec<(&Kept, Because)> {
    let Some(newest) = kept.iter().map(|one| one.age).min() else { return Vec::new() };
    let limit = Millis(u64::from(policy.days).saturating_mul(DAY));
    let mut left = kept.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
    let mut oldest: Vec<&Kept> = kept.iter().filter(|one| one.age > newest).collect();
    oldest.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.name.cmp(&b.name)));
    let mut go = Vec::new();
    for one in oldest {
        let because = if one.age > limit {
            Because::Old
        } else if left > policy.max_bytes {
            Because::TooMuch
        } else {
            break;
        };
        left = left.saturating_sub(one.bytes);
        go.push((one, because));
    }
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: KeepPolicy = KeepPolicy { days: 30, max_bytes: 1000 };

    fn kept(name: &str, days: u64, bytes: u64) -> Kept {
        Kept { name: name.to_owned(), age: Millis(days * DAY), bytes }
    }

    fn names(go: &[(&Kept, Because)]) -> Vec<(String, Because)> {
        go.iter().map(|(one, because)| (one.name.clone(), *because)).collect()
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_not_stays() {
        let all = [kept("b", 31, 1), kept("a", 400, 1), kept("c", 30, 1), kept("d", 2, 1)];
        let go = to_prune(&all, MONTH);
        assert_eq!(names(&go), [("a".to_owned(), Because::Old), ("b".to_owned(), Because::Old)]);
    }

    #[test]
    fn of_what_is_too_much_the_oldest_go_until_it_fits() {
        let all = [kept("new", 1, 600), kept("mid", 2, 400), kept("old", 3, 1)];
        assert_eq!(names(&to_prune(&all, MONTH)), [("old".to_owned(), Because::TooMuch)]);
        // What fits beside the newest stays, although something older and larger had to go.
        let all = [kept("new", 1, 600), kept("mid", 2, 100), kept("old", 3, 5000)];
        assert_eq!(names(&to_prune(&all, MONTH)), [("old".to_owned(), Because::TooMuch)]);
        assert_eq!(to_prune(&[kept("new", 1, 600), kept("old", 2, 400)], MONTH), []);
    }

    #[test]
    fn what_is_old_makes_room_for_what_is_not() {
        let all = [kept("new", 1, 500), kept("mid", 2, 500), kept("old", 40, 500)];
        assert_eq!(names(&to_prune(&all, MONTH)), [("old".to_owned(), Because::Old)]);
    }

    #[test]
    fn the_newest_never_goes_however_old_and_large() {
        assert_eq!(to_prune(&[], MONTH), []);
        assert_eq!(to_prune(&[kept("only", 4000, u64::MAX)], MONTH), []);
        let all = [kept("older", 4001, u64::MAX), kept("newest", 4000, u64::MAX)];
        assert_eq!(names(&to_prune(&all, MONTH)), [("older".to_owned(), Because::Old)]);
        // A clock that was set back makes everything new: nothing goes.
        let all = [kept("a", 0, u64::MAX), kept("b", 0, u64::MAX)];
        assert_eq!(to_prune(&all, KeepPolicy { days: 1, max_bytes: 0 }), []);
    }
}
