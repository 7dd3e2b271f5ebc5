//! The database entry: as a line of the include file, and as `SHOW DATABASES` and `SHOW SERVERS` have it.

use std::net::SocketAddr;

use super::console::Row;
use crate::owned::Mark;

const HEADING: &str = "[databases]";

/// The include file that leads `database` to `address`. `rest` is what else the entry says (`dbname=`, `pool_size=` …).
pub(super) fn render(database: &str, address: SocketAddr, rest: &str, mark: &Mark) -> String {
    let rest = rest.trim();
    let blank = if rest.is_empty() { "" } else { " " };
    format!(
        "; mesh owns this file and replaces it as a whole; what else the entry shall say stands in the agent's file\n\
         ; {mark}\n{HEADING}\n{database} = host={} port={}{blank}{rest}\n",
        address.ip(),
        address.port()
    )
}

/// Whether a line of a file without a mark may be replaced: it is the entry of this database, a heading or a comment.
pub(super) fn is_ours(database: &str, line: &str) -> bool {
    let line = line.trim();
    let key = line.split('=').next().unwrap_or_default().trim().trim_matches('"');
    line.starts_with([';', '#']) || line == HEADING || key == database
}

/// What a file says, without the mark: whether PgBouncer must read it again.
pub(super) fn body(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim_start().starts_with(';')).collect()
}

/// The entry in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) host: String,
    pub(super) port: String,
    pub(super) paused: bool,
    pub(super) disabled: bool,
}

/// A table of the console without a column that every known version has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{table} has no column {column}")]
pub struct NoColumn {
    /// Which.
    pub table: &'static str,
    /// Which.
    pub column: &'static str,
}

fn column<'a>(table: &'static str, row: &'a Row, column: &'static str) -> Result<&'a str, NoColumn> {
    row.get(column).map(String::as_str).ok_or(NoColumn { table, column })
}

/// The entry of a database; `None` when there is none.
pub(super) fn in_force(rows: &[Row], database: &str) -> Result<Option<InForce>, NoColumn> {
    let table = "SHOW DATABASES";
    for row in rows {
        if column(table, row, "name")? == database {
            return Ok(Some(InForce {
                host: column(table, row, "host")?.to_owned(),
                port: column(table, row, "port")?.to_owned(),
                paused: column(table, row, "paused")? != "0",
                disabled: column(table, row, "disabled")? != "0",
            }));
        }
    }
    Ok(None)
}

impl InForce {
    /// Whether it leads to this address.
    pub(super) fn leads_to(&self, address: SocketAddr) -> bool {
        self.host == address.ip().to_string() && self.port == address.port().to_string()
    }
}

/// `server_login_retry` from `SHOW CONFIG`, in seconds.
pub(super) fn login_retry(rows: &[Row]) -> Option<f64> {
    let row = rows.iter().find(|row| row.get("key").is_some_and(|key| key == "server_login_retry"))?;
    row.get("value")?.parse().ok()
}

/// Server connections of a database that lead elsewhere, or that PgBouncer itself will close.
pub(super) fn elsewhere(rows: &[Row], database: &str, address: SocketAddr) -> Result<u32, NoColumn> {
    let table = "SHOW SERVERS";
    let mut count = 0;
    for row in rows {
        let there = column(table, row, "addr")? == address.ip().to_string()
            && column(table, row, "port")? == address.port().to_string();
        let stays = there && column(table, row, "close_needed")? == "0";
        if column(table, row, "database")? == database && !stays {
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use mesh_proto::effect::StepRef;
    use mesh_proto::{Epoch, RunId};

    use super::*;

    fn row(pairs: &[(&str, &str)]) -> Row {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_entry_names_its_epoch_and_keeps_what_the_agents_file_adds() {
        let step = StepRef { run: RunId(3), step: 9, attempt: 1 };
        let mark = Mark { route: "orders/app".to_owned(), epoch: Epoch(4), step };
        let text = render("app", "10.1.0.1:5432".parse().unwrap(), " dbname=orders pool_size=20 ", &mark);
        assert!(text.contains("epoch=4") && text.lines().count() == 4, "{text}");
        let entry = "app = host=10.1.0.1 port=5432 dbname=orders pool_size=20";
        assert_eq!(body(&text), ["[databases]", entry]);
        assert!(text.lines().all(|line| is_ours("app", line)));
        assert!(is_ours("app", "\"app\"=host=x") && !is_ours("app", "app2 = host=x"));
        assert!(!is_ours("app", "%include other.ini") && !is_ours("app", "[users]"));
    }

    #[test]
    fn tables_are_read_by_name_and_a_missing_column_is_an_error() {
        let to = "10.1.0.1:5432".parse().unwrap();
        let entry = |host: &str| {
            row(&[("name", "app"), ("host", host), ("port", "5432"), ("paused", "1"), ("disabled", "0")])
        };
        let found = in_force(&[row(&[("name", "pgbouncer")]), entry("10.1.0.1")], "app").unwrap().unwrap();
        assert!(found.leads_to(to) && found.paused && !found.disabled);
        assert!(!in_force(&[entry("10.0.0.1")], "app").unwrap().unwrap().leads_to(to));
        assert_eq!(in_force(&[entry("10.0.0.1")], "other").unwrap(), None);
        assert!(in_force(&[row(&[("name", "app")])], "app").is_err());
        let server = |database: &str, addr: &str, close: &str| {
            row(&[("database", database), ("addr", addr), ("port", "5432"), ("close_needed", close)])
        };
        let rows = [
            server("app", "10.1.0.1", "0"),
            server("app", "10.1.0.1", "1"),
            server("app", "10.0.0.1", "0"),
            server("other", "10.0.0.1", "0"),
        ];
        assert_eq!(elsewhere(&rows, "app", to).unwrap(), 2);
        assert!(elsewhere(&[row(&[("database", "app")])], "app", to).is_err());
        let config =
            [row(&[("key", "x"), ("value", "1")]), row(&[("key", "server_login_retry"), ("value", "15")])];
        assert_eq!(login_retry(&config), Some(15.0));
        assert_eq!(login_retry(&config[..1]), None);
    }

    #[test]
    fn fuzz_entry() {
        mesh_fuzz::fuzz!("entry", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let kept = body(&text);
            assert!(kept.iter().all(|line| !line.trim_start().starts_with(';')));
            for line in text.lines().filter(|line| is_ours("app", line)) {
                let line = line.trim();
                let key = line.trim_start_matches('"').starts_with("app");
                assert!(key || line.starts_with([';', '#', '[']), "{line:?} would be lost");
            }
            // The console's answers, a field a line.
            let fields: Vec<&str> = text.lines().collect();
            let rows: Vec<Row> = fields
                .chunks(6)
                .map(|values| {
                    let names = ["name", "host", "port", "paused", "disabled", "value"];
                    names
                        .iter()
                        .zip(values)
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect()
                })
                .collect();
            let to = "10.1.0.1:5432".parse().unwrap();
            if let Ok(Some(entry)) = in_force(&rows, "app") {
                assert!(!entry.leads_to(to) || (entry.host == "10.1.0.1" && entry.port == "5432"));
            }
            let _ = (elsewhere(&rows, "app", to), login_retry(&rows));
        });
    }
}
