//! The server-state file of a backend, from which HAProxy takes at each start or reload which servers are in.
//!
//! `load-server-state-from-file local` and `server-state-file-name` in the backend make HAProxy read it; mesh owns it, and
//! writes it before it changes anything at run time. It has the form of `show servers state`, so it can be made of HAProxy's
//! answer, or, while HAProxy is not there, of what it said before. Addresses in it are not taken by HAProxy, ports are.

use super::table::{self, Server, TableError};
use crate::owned::Mark;

/// `SRV_ADMF_CMAINT`: overcomes a `disabled` in HAProxy's file, and means nothing without one.
const IN: (&str, &str) = ("2", "4");
/// `SRV_ADMF_FMAINT`, alone: beside CMAINT, HAProxy takes it for a `disabled` that its file has no more, and lets the server in.
const OUT: (&str, &str) = ("0", "1");

/// The file with which only `server` of `backend` is in. `table` is an answer to `show servers state`, or an older file.
pub(super) fn render(table: &str, backend: &str, server: &str, mark: &Mark) -> Result<String, TableError> {
    let mut lines = table.lines().filter(|line| !line.starts_with("# mesh-mark"));
    let (version, heading) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let names: Vec<_> = heading.trim_start_matches('#').split_whitespace().collect();
    let column =
        |column| names.iter().position(|name| *name == column).ok_or(TableError::NoColumn { column });
    let (of, name, operation, admin) =
        (column("be_name")?, column("srv_name")?, column("srv_op_state")?, column("srv_admin_state")?);
    let mut text = format!("{version}\n{heading}\n# {mark}\n");
    for line in lines {
        let mut fields: Vec<_> = line.split_whitespace().collect();
        if fields.get(of) != Some(&backend) {
            continue;
        }
        let state = if fields.get(name) == Some(&server) { IN } else { OUT };
        for (at, value) in [(operation, state.0), (admin, state.1)] {
            if let Some(field) = fields.get_mut(at) {
                *field = value;
            }
        }
        text.push_str(&fields.join(" "));
        text.push('\n');
    }
    Ok(text)
}

/// Whether a line of a file without a mark may be replaced: it is of the same kind.
pub(super) fn is_ours(backend: &str, line: &str) -> bool {
    let line = line.trim();
    line == "1" || line.starts_with('#') || line.split_whitespace().nth(1) == Some(backend)
}

/// The servers of a backend as the file has them; none where the file is empty.
pub(super) fn servers(text: &str, backend: &str) -> Result<Vec<Server>, TableError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(table::servers(text)?.into_iter().filter(|server| server.backend == backend).collect())
}

#[cfg(test)]
mod tests {
    use mesh_proto::effect::StepRef;
    use mesh_proto::{Epoch, RunId};

    use super::*;
    use mesh_fuzz::fuzz;

    const TABLE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_agent_state srv_port\n\
        3 pg 1 pg-east 127.0.0.1 2 0 6 0 5432\n3 pg 2 pg-dr 127.0.0.1 0 5 6 0 5432\n4 web 1 a 127.0.0.1 2 0 0 0 80\n";

    fn mark(epoch: u64) -> Mark {
        let step = StepRef { run: RunId(3), step: 9, attempt: 1 };
        Mark { route: "orders/app".to_owned(), epoch: Epoch(epoch), step }
    }

    #[test]
    fn only_the_wanted_server_is_in_and_other_backends_are_left_out() {
        let text = render(TABLE, "pg", "pg-dr", &mark(4)).unwrap();
        let found = servers(&text, "pg").unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].is_out() && found[1].is_in(), "{text}");
        assert!(text.contains("epoch=4") && !text.contains("web"), "{text}");
        assert!(text.ends_with("3 pg 2 pg-dr 127.0.0.1 2 4 6 0 5432\n"), "{text}");
    }

    #[test]
    fn a_file_makes_the_next_one() {
        let text = render(TABLE, "pg", "pg-dr", &mark(4)).unwrap();
        let next = render(&text, "pg", "pg-east", &mark(5)).unwrap();
        let found = servers(&next, "pg").unwrap();
        assert!(found[0].is_in() && found[1].is_out(), "{next}");
        assert!(next.contains("epoch=5") && !next.contains("epoch=4"), "{next}");
        assert!(TABLE.lines().take(4).all(|line| is_ours("pg", line)) && !is_ours("pg", "4 web 1 a"));
    }

    #[test]
    fn what_is_no_table_makes_no_file() {
        assert!(render("", "pg", "pg-dr", &mark(1)).is_err());
        assert!(render("1\nnonsense\n", "pg", "pg-dr", &mark(1)).is_err());
        assert!(servers("garbage", "pg").is_err());
        assert!(servers("\n", "pg").unwrap().is_empty());
    }

    #[test]
    fn fuzz_state_file() {
        fuzz!("state_file", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(file) = render(&text, "pg", "pg-dr", &mark(4)) else { return };
            // A table that is damaged makes a file that is refused, or one in which nobody else is in.
            let Ok(found) = servers(&file, "pg") else { return };
            for server in &found {
                assert_eq!(
                    (server.is_in(), server.is_out()),
                    (server.name == "pg-dr", server.name != "pg-dr")
                );
            }
            assert_eq!(servers(&render(&file, "pg", "pg-dr", &mark(5)).unwrap(), "pg"), Ok(found));
        });
    }
}
