//! Reads HAProxy's tables: `show servers state`, `show stat`, `show info`. Columns are found by name, since each
//! version adds some.

use std::collections::BTreeMap;

/// Why a table could not be read. Something else than HAProxy answers, or a version that mesh does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The version of the table is not 1.
    #[error("expected table version 1, found {found:?}")]
    Version {
        /// First line.
        found: String,
    },
    /// A column is missing.
    #[error("the table has no column {column}")]
    NoColumn {
        /// Its name.
        column: &'static str,
    },
    /// A row has no such field, or not the kind of value expected.
    #[error("line {line} has {found:?} as {column}")]
    Field {
        /// Line of the answer, from 1.
        line: usize,
        /// Name of the column.
        column: &'static str,
        /// What stands there.
        found: String,
    },
}

/// `SRV_ADMF_FMAINT | IMAINT | RMAINT`: put into maintenance at run time, by a tracked server, or for want of an address.
/// (`CMAINT`, 0x04, only remembers that the file said `disabled`.)
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x20;
/// `SRV_ADMF_FMAINT`
const FORCED_MAINTENANCE: u32 = 0x01;
/// `SRV_ADMF_FDRAIN | IDRAIN`
const DRAINING: u32 = 0x08 | 0x10;
/// `SRV_ST_STARTING`, `SRV_ST_RUNNING`: takes sessions.
const TAKES_SESSIONS: [u32; 2] = [1, 2];
/// `CHK_ST_CONFIGURED`
const CHECK_CONFIGURED: u32 = 0x02;

/// One server as `show servers state` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) backend: String,
    pub(super) backend_id: u32,
    pub(super) name: String,
    pub(super) address: String,
    pub(super) port: String,
    pub(super) operation: u32,
    pub(super) admin: u32,
    check: u32,
    agent: u32,
}

impl Server {
    /// Takes new sessions.
    pub(super) fn is_in(&self) -> bool {
        TAKES_SESSIONS.contains(&self.operation) && self.admin & (MAINTENANCE | DRAINING) == 0
    }
    /// Takes none, and no check or agent will change that.
    pub(super) const fn is_out(&self) -> bool {
        self.operation == 0 && self.admin & FORCED_MAINTENANCE != 0
    }
    pub(super) const fn has_check(&self) -> bool {
        self.check & CHECK_CONFIGURED != 0
    }
    pub(super) const fn has_agent(&self) -> bool {
        self.agent & CHECK_CONFIGURED != 0
    }
    /// The state in words, for people.
    pub(super) fn words(&self) -> &'static str {
        if self.is_in() {
            "in"
        } else if self.admin & MAINTENANCE != 0 {
            "in maintenance"
        } else if self.admin & DRAINING != 0 {
            "draining"
        } else if self.operation == 0 {
            "down by its check"
        } else {
            "stopping"
        }
    }
}

/// What is read of `show servers state`.
const SERVER_COLUMNS: [&str; 9] = [
    "be_name",
    "be_id",
    "srv_name",
    "srv_addr",
    "srv_port",
    "srv_op_state",
    "srv_admin_state",
    "srv_check_state",
    "srv_agent_state",
];

/// A table without rows is empty only under its heading; anything else is no table.
fn whole(names: &[&str], columns: &[&'static str]) -> Result<(), TableError> {
    match columns.iter().find(|column| !names.contains(column)) {
        Some(column) => Err(TableError::NoColumn { column }),
        None => Ok(()),
    }
}

/// `show servers state`, and a server-state file.
pub(super) fn servers(text: &str) -> Result<Vec<Server>, TableError> {
    let mut lines = text.lines().enumerate();
    let version = lines.next().map_or("", |(_, line)| line);
    if version.trim() != "1" {
        return Err(TableError::Version { found: version.chars().take(80).collect() });
    }
    let heading = lines.next().map_or("", |(_, line)| line);
    let names: Vec<_> = heading.trim_start_matches('#').split_whitespace().collect();
    whole(&names, &SERVER_COLUMNS)?;
    let rows = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    rows.map(|(at, line)| {
        let row =
            Row { line: at + 1, names: &names, fields: line.split_whitespace().map(str::to_owned).collect() };
        Ok(Server {
            backend: row.text("be_name")?,
            backend_id: row.number("be_id")?,
            name: row.text("srv_name")?,
            address: row.text("srv_addr")?,
            port: row.text("srv_port")?,
            operation: row.number("srv_op_state")?,
            admin: row.number("srv_admin_state")?,
            check: row.number("srv_check_state")?,
            agent: row.number("srv_agent_state")?,
        })
    })
    .collect()
}

/// Sessions of a server: those going on, and all that there ever were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sessions {
    pub(super) current: u32,
    pub(super) total: u32,
}

/// `show stat … 4 -1`: the sessions of each server.
pub(super) fn sessions(text: &str) -> Result<BTreeMap<String, Sessions>, TableError> {
    let mut lines = text.lines().enumerate();
    let heading = lines.next().map_or("", |(_, line)| line).trim_start_matches("# ");
    let names: Vec<_> = heading.split(',').collect();
    whole(&names, &["svname", "scur", "stot"])?;
    let rows = lines.filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(at, line)| {
        let row = Row { line: at + 1, names: &names, fields: comma_separated(line) };
        let sessions = Sessions { current: row.number("scur")?, total: row.number("stot")? };
        Ok((row.text("svname")?, sessions))
    })
    .collect()
}

/// `show info`: a value by its name.
pub(super) fn info<'a>(text: &'a str, name: &'static str) -> Result<&'a str, TableError> {
    let found = text.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
    found.map(|(_, value)| value.trim()).ok_or(TableError::NoColumn { column: name })
}

struct Row<'a> {
    line: usize,
    names: &'a [&'a str],
    fields: Vec<String>,
}

impl Row<'_> {
    fn text(&self, column: &'static str) -> Result<String, TableError> {
        let at = self.names.iter().position(|name| *name == column).ok_or(TableError::NoColumn { column })?;
        let missing = || TableError::Field { line: self.line, column, found: String::new() };
        self.fields.get(at).cloned().ok_or_else(missing)
    }
    fn number(&self, column: &'static str) -> Result<u32, TableError> {
        let found = self.text(column)?;
        found.parse().map_err(|_| TableError::Field { line: self.line, column, found })
    }
}

/// Fields of a line, where a quoted field may contain commas and doubled quotes.
fn comma_separated(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(std::mem::take(&mut field)),
            (other, _) => field.push(other),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_fuzz::{bounded, fuzz};

    const STATE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_agent_state srv_port\n\
        2 pg 1 pg-east 127.0.0.1 2 4 6 0 23001\n2 pg 2 pg-dr 127.0.0.1 0 5 8 0 23002\n";

    #[test]
    fn states_are_read_by_their_columns() {
        let found = servers(STATE).unwrap();
        assert!(found[0].is_in() && !found[0].is_out() && found[0].has_check());
        assert!(found[1].is_out() && !found[1].is_in() && !found[1].has_check());
    }

    #[test]
    fn what_is_no_table_is_an_error_and_never_empty() {
        assert!(matches!(servers(""), Err(TableError::Version { .. })));
        assert!(matches!(servers("HTTP/1.1 400 Bad request"), Err(TableError::Version { .. })));
        assert!(matches!(servers(&STATE.replace("srv_admin_state", "x")), Err(TableError::NoColumn { .. })));
        assert!(matches!(servers(&STATE.replace(" 8 0 23002", "")), Err(TableError::Field { line: 4, .. })));
        assert!(matches!(servers(&STATE.replace(" 2 4 ", " up 4 ")), Err(TableError::Field { line: 3, .. })));
        assert!(matches!(
            sessions("# pxname,svname,scur\npg,a,1"),
            Err(TableError::NoColumn { column: "stot" })
        ));
        assert!(sessions("garbage\nmore").is_err());
        for cut in ["", "garbage", "# pxname,svname,scur"] {
            assert!(matches!(sessions(cut), Err(TableError::NoColumn { .. })), "{cut:?}");
        }
        assert!(matches!(servers("1\n"), Err(TableError::NoColumn { .. })));
        assert!(
            servers(STATE.split_inclusive('\n').take(2).collect::<String>().as_str()).unwrap().is_empty()
        );
    }

    #[test]
    fn quoted_fields_keep_their_commas() {
        let text = "# pxname,svname,desc,scur,stot\npg,a,\"x, \"\"y\"\"\",3,9\n";
        let found = sessions(text).unwrap();
        assert_eq!(found["a"], Sessions { current: 3, total: 9 });
        assert_eq!(comma_separated("a,\"b, \"\"c\"\"\",d"), ["a", "b, \"c\"", "d"]);
    }

    #[test]
    fn fuzz_tables() {
        fuzz!("tables", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let (servers, sessions) = bounded(bytes.len(), || (servers(&text), sessions(&text)));
            if let Ok(servers) = servers {
                assert!(text.contains("srv_admin_state"), "{servers:?} of no table");
                assert!(servers.iter().all(|server| !(server.is_in() && server.is_out())));
            }
            if let Ok(sessions) = sessions {
                assert!(text.contains("stot"), "{sessions:?} of no table");
            }
            let _ = info(&text, "Version");
        });
    }
}
