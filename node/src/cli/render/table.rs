//! Aligned columns. The last column takes what is left of the width, and is wrapped.

use super::text::{Look, Tone, wrap};

/// Rows of cells, each with its meaning.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<(Tone, String)>>,
}

impl Table {
    /// A table with a heading.
    pub fn with_heading(names: &[&str]) -> Self {
        Self { rows: vec![names.iter().map(|name| (Tone::Dim, (*name).to_owned())).collect()] }
    }
    /// Adds a row.
    pub fn row(&mut self, cells: Vec<(Tone, String)>) {
        self.rows.push(cells);
    }
    /// The text, each line indented by `indent` columns.
    pub fn text(&self, look: &Look, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                self.rows.iter().filter_map(|row| row.get(at)).map(|c| c.1.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let before_last: usize = indent + widths.iter().rev().skip(1).map(|width| width + 2).sum::<usize>();
        let room = look.width.saturating_sub(before_last).max(20);
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            let mut rest = Vec::new();
            for (at, (tone, cell)) in row.iter().enumerate() {
                if at + 1 < columns {
                    let gap = " ".repeat(widths[at] - cell.chars().count() + 2);
                    line.push_str(&look.paint(*tone, cell));
                    line.push_str(&gap);
                } else {
                    let mut pieces = wrap(cell, room).into_iter();
                    line.push_str(&look.paint(*tone, &pieces.next().unwrap_or_default()));
                    rest = pieces.map(|piece| look.paint(*tone, &piece)).collect();
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
            for piece in rest {
                out.push_str(&" ".repeat(before_last));
                out.push_str(&piece);
                out.push('\n');
            }
        }
        out
    }
}
