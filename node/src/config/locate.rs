//! Finds the place of a key or value in the text of the file, and renders problems for people.

use std::fmt::Write as _;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::check::{At, Finding};

/// One thing that is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when the place is not known.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The line itself.
    pub text: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// A problem that the TOML reader found.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let (line, column, shown) = error.span().map_or((0, 1, ""), |span| line_at(text, span.start));
    Problem {
        line,
        column,
        text: shown.to_owned(),
        what: error.message().lines().collect::<Vec<_>>().join("; "),
        next: "correct this line; nothing was started or changed".to_owned(),
    }
}

/// A problem that our own checks found, with the place of the value it is about.
pub(super) fn place(text: &str, finding: Finding) -> Problem {
    let offset = DeTable::parse(text).ok().and_then(|table| find(&table, &finding.at));
    let (line, column, shown) = offset.map_or((0, 1, ""), |offset| line_at(text, offset));
    Problem { line, column, text: shown.to_owned(), what: finding.what, next: finding.next }
}

/// Byte offset of the value at a path, or of the nearest table above it that exists.
fn find(table: &toml::Spanned<DeTable<'_>>, path: &[At]) -> Option<usize> {
    let mut offset = None;
    let mut keys = path.iter();
    let At::Key(first) = keys.next()? else { return None };
    let mut value = table.get_ref().get(*first)?;
    offset.replace(value.span().start);
    for step in keys {
        let next = match (step, value.get_ref()) {
            (At::Key(key), DeValue::Table(table)) => table.get(*key),
            (At::Index(index), DeValue::Array(array)) => array.get(*index),
            (At::Key(_) | At::Index(_), _) => None,
        };
        let Some(next) = next else { break };
        value = next;
        offset.replace(value.span().start);
    }
    offset
}

/// Line and column (both from 1) of a byte offset, and the line itself.
fn line_at(text: &str, offset: usize) -> (usize, usize, &str) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[start..].chars().count() + 1;
    (line, column, text[start..].lines().next().unwrap_or(""))
}

/// All problems of a file, for a terminal.
pub(super) fn render(path: &Path, problems: &[Problem]) -> String {
    let mut out = String::new();
    for (number, problem) in problems.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let Problem { line, column, text, what, next } = problem;
        // Writing to a String cannot fail.
        let _ = if *line == 0 {
            write!(out, "{}: {what}\n  -> {next}", path.display())
        } else {
            let gutter = line.to_string();
            let caret = " ".repeat(gutter.len() + 3 + column.saturating_sub(1));
            write!(
                out,
                "{}:{line}:{column}: {what}\n  {gutter} | {text}\n  {caret}^\n  -> {next}",
                path.display()
            )
        };
    }
    out
}
