//! Markers as text: `key=value` fields in a fixed order. What is missing, out of order or too much is refused by the caller.

use std::str::{FromStr, Split};

/// The fields of one text, taken one by one.
pub(crate) struct Fields<'a>(Split<'a, char>);

impl<'a> Fields<'a> {
    pub(crate) fn of(text: &'a str, between: char) -> Self {
        Self(text.split(between))
    }

    /// The value of the next field, which must have this key.
    pub(crate) fn next(&mut self, key: &str) -> Option<&'a str> {
        self.0.next()?.strip_prefix(key)?.strip_prefix('=')
    }

    /// The same, read.
    pub(crate) fn read<T: FromStr>(&mut self, key: &str) -> Option<T> {
        self.next(key)?.parse().ok()
    }

    /// Whether none is left.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.0.next().is_none().then_some(())
    }
}
