//! A position in PostgreSQL's write-ahead log.
//!
//! Only the number and its textual form. It never says on which timeline the position lies: two positions are comparable
//! only after their lineage was compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A byte position in the write-ahead log, written `X/Y` in hexadecimal as PostgreSQL writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The text is not a log position of the form `X/Y`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a log position; expected two hexadecimal numbers of at most 8 digits, such as 0/16B3748"
)]
pub struct LsnParseError {
    /// What was given.
    pub text: String,
}

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`: no position at all.
    pub const INVALID: Lsn = Lsn(0);

    /// Bytes from `earlier` to `self`; zero when `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this is a position at all.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self != Lsn::INVALID
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || LsnParseError { text: text.to_owned() };
        let half = |digits: &str| {
            let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten().ok_or_else(bad)
        };
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_as_postgresql_does() {
        for (text, value) in [("0/0", 0), ("0/16B3748", 0x16B_3748), ("16/B374D848", 0x16_B374_D848)] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        assert_eq!("ff/0000001f".parse::<Lsn>(), Ok(Lsn(0xFF_0000_001F)));
    }

    #[test]
    fn refuses_what_postgresql_would_refuse() {
        for text in ["", "/", "0", "0/", "/0", "0/123456789", "+1/0", "0/ 1", "0x1/0", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn travels_as_a_string() {
        let json = serde_json::to_string(&Lsn(0x2_0000_0001)).unwrap();
        assert_eq!(json, "\"2/1\"");
        assert_eq!(serde_json::from_str::<Lsn>(&json).unwrap(), Lsn(0x2_0000_0001));
        assert!(serde_json::from_str::<Lsn>("\"nonsense\"").is_err());
    }
}
