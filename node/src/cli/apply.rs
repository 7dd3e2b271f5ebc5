//! `mesh apply`: reads a group's file, and shows every mistake at its line. The mesh checks the rest: what it refuses
//! names a value, and the line of that value is shown too.

use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use mesh_failover::policy::{self, Finding};
use mesh_proto::operator::{Answer, Ask, Refusal};
use mesh_proto::spec::GroupSpec;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::args::ApplyArgs;
use super::client::changes;
use super::exit::{Exit, Failure};
use super::operate::Operator;

/// Longest accepted file: a spec is a few kilobytes; this keeps a device or a dump from being read whole.
const MAX_BYTES: u64 = 1024 * 1024;

/// Runs `mesh apply`.
///
/// # Errors
/// A [`Failure`] that shows the place in the file, where there is one.
pub async fn run(operator: &Operator, args: &ApplyArgs) -> Result<Exit, Failure> {
    let (name, text) = read(&args.file)?;
    let file = File { name: &name, text: &text };
    let spec = file.parse()?;
    // The mesh checks the same again; here every mistake is found at once, and shown at its line.
    let nodes = operator.ask(Ask::Nodes).await?;
    let Answer::Nodes(nodes) = nodes else { return Err(operator.other_answer(false)) };
    let members: Vec<_> = nodes.into_iter().map(|node| node.member).collect();
    if !members.is_empty() {
        file.mistakes(policy::check(&spec, &members))?;
    }
    let ask = Ask::Apply { spec: Box::new(spec), dry_run: args.dry_run };
    let changing = changes(&ask);
    match operator.client.ask(ask).await {
        Ok(Answer::Refused(refusal)) => Err(file.refused(refusal)),
        Ok(answer) => operator.answer(&answer),
        Err(error) => Err(error.failure(changing)),
    }
}

fn read(path: &Path) -> Result<(String, String), Failure> {
    let (name, opened): (_, std::io::Result<Box<dyn std::io::Read>>) = if path == Path::new("-") {
        ("standard input".to_owned(), Ok(Box::new(std::io::stdin())))
    } else {
        (path.display().to_string(), std::fs::File::open(path).map(|file| Box::new(file) as _))
    };
    let mut bytes = Vec::new();
    opened.and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(|error| {
        Failure::new(Exit::Invalid, format!("cannot read {name}: {error}"), "name the group's file with -f")
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::new(
            Exit::Invalid,
            format!("{name} is larger than 1 MiB"),
            "name the group's file with -f: a spec is a few kilobytes",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(
            Exit::Invalid,
            format!("{name} is not UTF-8 text (byte {at})"),
            "save it as UTF-8, and apply it again",
        )
    })?;
    Ok((name, text))
}

/// A file as it was read.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

impl File<'_> {
    /// Reads the spec in it.
    ///
    /// # Errors
    /// A [`Failure`] that shows the offending line.
    pub fn parse(&self) -> Result<GroupSpec, Failure> {
        toml::from_str(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let word = self.text.get(span.clone()).unwrap_or_default();
            let message = error.message();
            let what = message.lines().next().unwrap_or("not valid TOML");
            let next = match nearest(word, message) {
                Some(near) => {
                    format!("did you mean `{near}`? Correct the line and apply again; nothing was changed")
                }
                None => "correct the line and apply again; nothing was changed".to_owned(),
            };
            self.wrong_at(Some(span), what, next)
        })
    }

    /// A refusal of the mesh, with the line of the value that it names.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> Failure {
        let span = refusal.at.as_deref().and_then(|path| self.locate(path));
        if span.is_none() {
            return refusal.into();
        }
        let exit = refusal.code.into();
        Failure { exit, ..self.wrong_at(span, &refusal.what, refusal.next) }
    }

    /// What the policy says against the spec, each finding at its line.
    ///
    /// # Errors
    /// A [`Failure`] when there is any.
    pub fn mistakes(&self, findings: Vec<Finding>) -> Result<(), Failure> {
        let failures: Vec<_> = findings
            .into_iter()
            .map(|Finding { key, what, next }| match self.locate(&key) {
                None => self.wrong_at(None, &format!("{key}: {what}"), next),
                span => self.wrong_at(span, &what, next),
            })
            .collect();
        if failures.is_empty() {
            return Ok(());
        }
        if let [only] = failures.as_slice() {
            return Err(Failure { next: format!("{}; nothing was changed", only.next), ..only.clone() });
        }
        let mut place = String::new();
        for Failure { what, place: shown, next, .. } in &failures {
            place.push_str(&format!("{what}\n{}  -> {next}\n", shown.as_deref().unwrap_or_default()));
        }
        Err(Failure {
            exit: Exit::Invalid,
            what: format!("{} has {} mistakes", self.name, failures.len()),
            place: Some(place),
            next: "correct them and apply again; nothing was changed".to_owned(),
        })
    }

    fn wrong_at(&self, span: Option<Range<usize>>, what: &str, next: String) -> Failure {
        let Some(span) = span.filter(|span| span.start <= self.text.len()) else {
            return Failure::new(Exit::Invalid, format!("{}: {what}", self.name), next);
        };
        let (line, column, place) = self.excerpt(&span);
        Failure {
            exit: Exit::Invalid,
            what: format!("{}:{line}:{column}: {what}", self.name),
            place: Some(place),
            next,
        }
    }

    /// Line and column, both from 1, and the line with a mark under the span.
    fn excerpt(&self, span: &Range<usize>) -> (usize, usize, String) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let number = before.matches('\n').count() + 1;
        let line = self.text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
        let column = before.get(begin..).unwrap_or_default().chars().count();
        let marked = self.text.get(span.clone()).unwrap_or_default();
        let length = marked.lines().next().unwrap_or_default().chars().count().max(1);
        let gutter = number.to_string();
        let pad = " ".repeat(gutter.len());
        // Tabs stay tabs, so that the mark stands under what it marks.
        let indent: String = line.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let place = format!("  {pad} |\n  {gutter} | {line}\n  {pad} | {indent}{}\n", "^".repeat(length));
        (number, column + 1, place)
    }

    /// The span of a value named as [`Refusal::at`] names it. An absent value leads to the table it belongs to.
    fn locate(&self, path: &str) -> Option<Range<usize>> {
        let root = DeTable::parse(self.text).ok()?;
        let mut found = None;
        let mut table = root.get_ref();
        for part in path.split('.') {
            let (key, name) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                Some((key, name)) => (key, Some(name)),
                None => (part, None),
            };
            let Some((_, value)) = table.iter().find(|(found, _)| found.get_ref().as_ref() == key) else {
                return found;
            };
            let value = match name {
                None => value,
                Some(name) => match named(value, name) {
                    Some(value) => value,
                    None => return found,
                },
            };
            found = Some(value.span());
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => return found,
            }
        }
        found
    }
}

/// The table of an array of tables whose `name` is this one.
fn named<'a, 'i>(value: &'a Spanned<DeValue<'i>>, name: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    let DeValue::Array(items) = value.get_ref() else { return None };
    items.iter().find(|item| {
        let DeValue::Table(table) = item.get_ref() else { return false };
        table.iter().any(|(key, value)| {
            key.get_ref().as_ref() == "name"
                && matches!(value.get_ref(), DeValue::String(text) if text.as_ref() == name)
        })
    })
}

/// The word among those that the message offers in backticks which is nearest to what was written. Only for the hint.
fn nearest(written: &str, message: &str) -> Option<String> {
    let written = written.trim_matches('"');
    let offered = message.split_once("expected")?.1.split('`').skip(1).step_by(2);
    let (distance, word) = offered.map(|word| (distance(written, word), word)).min()?;
    (distance <= 3 && distance * 2 < word.len().max(2) && written != word).then(|| word.to_owned())
}

/// Edit distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use mesh_proto::operator::RefusalCode;

    use super::*;

    const GOOD: &str = r#"group = "orders"
max_lag_bytes = 1048576

[timing]
lease_ms = 400

[[instance]]
name = "pg-east"
site = "east"
agent = "a-east"
address = "10.0.0.1:5432"
guard = "10.0.0.1:7401"

[[route]]
name = "app"
kind = "haproxy"
agent = "a-east"
backend = "pg"
listen = "127.0.0.1:5000"
"#;

    fn failure(text: &str) -> String {
        File { name: "orders.toml", text }.parse().unwrap_err().text()
    }

    #[test]
    fn a_good_file_is_read() {
        let spec = File { name: "orders.toml", text: GOOD }.parse().unwrap();
        assert_eq!(spec.group.as_str(), "orders");
        assert_eq!(spec.instances.len(), 1);
    }

    #[test]
    fn an_unknown_key_is_shown_with_what_was_meant() {
        let text = failure(&GOOD.replace("max_lag_bytes", "max_lag_byte"));
        assert!(text.starts_with("mesh: orders.toml:2:1: unknown field `max_lag_byte`"), "{text}");
        assert!(text.contains("\n  2 | max_lag_byte = 1048576\n    | ^^^^^^^^^^^^\n"), "{text}");
        assert!(text.contains("did you mean `max_lag_bytes`?"), "{text}");
    }

    #[test]
    fn mistakes_of_every_kind_have_a_line_and_an_exit() {
        for (from, to, place) in [
            ("group = \"orders\"", "group = \"Orders\"", ":1:9: "),
            ("group = \"orders\"", "group = orders", ":1:9: "),
            ("= 1048576", "= \"many\"", ":2:17: "),
            ("lease_ms = 400", "lease_ms = -4", ":5:12: "),
            ("10.0.0.1:5432", "db.example:5432", ":11:11: "),
            ("kind = \"haproxy\"", "kind = \"haprox\"", ":16:8: "),
            ("[[route]]", "[[route]", ":14:"),
            ("site = \"east\"\n", "", ":7:1: "),
            ("backend = \"pg\"\n", "", ":14:1: route app of kind \"haproxy\" needs `backend`"),
        ] {
            let text = failure(&GOOD.replace(from, to));
            assert!(text.contains(&format!("orders.toml{place}")), "{to}: {text}");
            assert!(text.contains(" | ") && text.contains("\nnext: "), "{to}: {text}");
        }
    }

    #[test]
    fn every_mistake_is_shown_at_its_line() {
        let file = File { name: "orders.toml", text: GOOD };
        let finding =
            |key: &str, what: &str| Finding { key: key.into(), what: what.into(), next: "mend it".into() };
        assert_eq!(file.mistakes(Vec::new()), Ok(()));
        let one = file.mistakes(vec![finding("timing.lease_ms", "too short")]).unwrap_err().text();
        assert!(one.starts_with("mesh: orders.toml:5:12: too short\n"), "{one}");
        assert!(one.ends_with("next: mend it; nothing was changed\n"), "{one}");
        let two = [finding("timing.lease_ms", "too short"), finding("site_preference", "no such site")];
        let two = file.mistakes(two.into()).unwrap_err().text();
        assert!(two.starts_with("mesh: orders.toml has 2 mistakes\norders.toml:5:12: too short\n"), "{two}");
        assert!(two.contains("\norders.toml: site_preference: no such site\n  -> mend it\n"), "{two}");
    }

    #[test]
    fn what_the_mesh_refuses_is_shown_at_its_line() {
        let file = File { name: "orders.toml", text: GOOD };
        let refuse = |at: &str| {
            let refusal =
                Refusal::new(RefusalCode::Invalid, "the lease is shorter than three probes", "raise it")
                    .about(at);
            file.refused(refusal).text()
        };
        assert!(refuse("timing.lease_ms").starts_with("mesh: orders.toml:5:12: the lease is shorter"));
        assert!(refuse("instance[pg-east].site").contains("\n  9 | site = \"east\"\n"));
        assert!(refuse("route[app].agent").contains("orders.toml:17:9"));
        // A value that is not in the file: its table; a table that is not: no place, and never a panic.
        assert!(refuse("instance[pg-east].priority").contains("orders.toml:7:1"));
        assert!(refuse("instance[pg-west].site").starts_with("mesh: the lease is shorter"));
        assert!(refuse("durability").starts_with("mesh: the lease is shorter"));
    }

    #[test]
    fn fuzz_specs() {
        mesh_fuzz::fuzz!("specs", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match (File { name: "orders.toml", text: &text }).parse() {
                Ok(spec) => {
                    let written = toml::to_string(&spec).unwrap();
                    assert_eq!(File { name: "orders.toml", text: &written }.parse(), Ok(spec), "{written}");
                }
                Err(failure) => {
                    let said = failure.text();
                    assert!(said.starts_with("mesh: orders.toml:") && said.contains("next: "), "{said}");
                }
            }
        });
    }
}
