//! How the demonstration speaks: calm, aligned, one thought a line.

use std::io::IsTerminal as _;

/// Width of running text.
const WIDTH: usize = 92;

/// The demonstration's voice.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    color: bool,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Of lesser interest.
    Dim,
    /// As promised.
    Good,
    /// Not as promised.
    Bad,
    /// A heading.
    Strong,
}

impl Voice {
    /// Color only on a terminal that wants it.
    #[must_use]
    pub fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { color: std::io::stdout().is_terminal() && !unwanted }
    }

    /// Text with its meaning.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Strong => "1",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A new act.
    pub fn act(self, number: u32, title: &str) {
        println!("\n{}", self.paint(Tone::Strong, &format!("{number}. {title}")));
    }

    /// Running text.
    pub fn say(self, text: &str) {
        for line in wrap(text, WIDTH) {
            println!("   {line}");
        }
    }

    /// A line as it is.
    pub fn line(self, text: &str) {
        println!("   {text}");
    }

    /// What another program printed.
    pub fn quote(self, command: &str, output: &str) {
        println!("   {}", self.paint(Tone::Strong, &format!("$ {command}")));
        for line in output.trim_end().lines() {
            println!("   {} {line}", self.paint(Tone::Dim, "|"));
        }
    }

    /// A promise, kept or not.
    pub fn promise(self, kept: bool, what: &str) {
        let (tone, word) = if kept { (Tone::Good, "kept  ") } else { (Tone::Bad, "BROKEN") };
        println!("   {}  {what}", self.paint(tone, word));
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
