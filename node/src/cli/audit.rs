//! `mesh audit`: pages through the chain of records.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use mesh_failover::state::{Audit, verify};
use mesh_proto::audit::AuditRecord;
use mesh_proto::operator::{Agreement, Answer, Ask, AuditReport};

use super::args::AuditCommand;
use super::exit::{Exit, Failure};
use super::operate::Operator;
use super::render;

/// Records asked for at once: whole commands are a few kilobytes each.
const PAGE: u32 = 500;

/// Runs `mesh audit …`.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub async fn run(operator: &Operator, command: AuditCommand) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Verify { file: Some(file) } => verify_export(operator, &file).await,
        AuditCommand::Verify { file: None } => {
            let answer = operator.ask(Ask::AuditVerify).await?;
            operator.answer(&answer)
        }
        AuditCommand::Live { group } => {
            let answer = operator.ask(Ask::Live { group }).await?;
            operator.answer(&answer)
        }
        AuditCommand::Export { out } => export(operator, out.as_deref()).await,
        AuditCommand::Show { from, limit, group, run } => {
            let wanted = |record: &AuditRecord| {
                group.as_ref().is_none_or(|group| record.group.as_ref() == Some(group))
                    && run.is_none_or(|run| record.run == Some(run))
            };
            let records = match from {
                Some(from) => forward(operator, from, limit, wanted).await?,
                None => backward(operator, limit, wanted).await?,
            };
            operator.output.show(&records, |records, look| render::audit(records, look))?;
            Ok(Exit::Done)
        }
    }
}

async fn forward(
    operator: &Operator,
    from: u64,
    limit: u32,
    wanted: impl Fn(&AuditRecord) -> bool,
) -> Result<Vec<AuditRecord>, Failure> {
    let (mut found, mut next) = (Vec::new(), from.max(1));
    while found.len() < limit as usize {
        let records = page(operator, next, PAGE).await?;
        let Some(last) = records.last() else { break };
        next = last.seq + 1;
        found.extend(records.into_iter().filter(|record| wanted(record)));
    }
    found.truncate(limit as usize);
    Ok(found)
}

async fn backward(
    operator: &Operator,
    limit: u32,
    wanted: impl Fn(&AuditRecord) -> bool,
) -> Result<Vec<AuditRecord>, Failure> {
    let mut found = Vec::new();
    let mut end = head(operator).await?;
    while end > 0 && found.len() < limit as usize {
        let from = end.saturating_sub(u64::from(PAGE)) + 1;
        let records = page(operator, from, PAGE).await?;
        found.extend(records.into_iter().rev().filter(|record| record.seq <= end && wanted(record)));
        end = from - 1;
    }
    found.truncate(limit as usize);
    found.reverse();
    Ok(found)
}

async fn head(operator: &Operator) -> Result<u64, Failure> {
    let answer = operator.ask(Ask::AuditHash { seq: 0 }).await?;
    let Answer::AuditHash { head, hash: _ } = answer else { return Err(operator.other_answer(false)) };
    Ok(head)
}

async fn page(operator: &Operator, from: u64, limit: u32) -> Result<Vec<AuditRecord>, Failure> {
    let answer = operator.ask(Ask::Audit { from, limit }).await?;
    let Answer::Audit(records) = answer else { return Err(operator.other_answer(false)) };
    Ok(records)
}

/// An export proves itself, whoever kept it meanwhile; that it is this mesh's, an agent says.
async fn verify_export(operator: &Operator, path: &Path) -> Result<Exit, Failure> {
    let (audit, mut broken) = read_export(path)?;
    if broken.is_none() {
        broken = verify(&audit).err().map(|(seq, why)| (seq, why.to_string()));
    }
    let head = audit.head();
    let mut newer = 0;
    let agreement = match operator.client.ask(Ask::AuditHash { seq: head.0 }).await {
        Ok(Answer::AuditHash { hash: Some(hash), head: there }) if hash == head.1 => {
            newer = there.saturating_sub(head.0);
            Agreement::Agrees(head.0)
        }
        Ok(Answer::AuditHash { hash: Some(_), .. }) => Agreement::Differs(head.0),
        Ok(Answer::AuditHash { hash: None, head: there }) => {
            Agreement::NotReached(format!("it has no record {} (its newest is {there})", head.0))
        }
        Ok(_) => return Err(operator.other_answer(false)),
        Err(error) => Agreement::NotReached(error.to_string()),
    };
    let records = u64::try_from(audit.records.len()).unwrap_or(u64::MAX);
    let report = render::ExportReport {
        file: path.to_owned(),
        first: audit.anchor.0 + 1,
        report: AuditReport { records, head, broken, agents: Vec::new() },
        mesh: agreement,
        newer,
    };
    operator.output.show(&report, render::export_report)?;
    Ok(if report.intact() { Exit::Done } else { Exit::RunFailed })
}

/// The records up to the first line that is not one as it was written, and that line.
fn read_export(path: &Path) -> Result<(Audit, Option<(u64, String)>), Failure> {
    let unreadable = |error: std::io::Error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Invalid, what, "name a file that `mesh audit export` wrote")
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let (mut audit, mut broken) = (Audit::default(), None);
    for (line, number) in BufReader::new(file).lines().zip(1_u64..) {
        let line = line.map_err(unreadable)?;
        let Ok(record) = serde_json::from_str::<AuditRecord>(&line) else {
            broken = Some((number, format!("line {number} of the file is no record")));
            break;
        };
        // What is not hashed, because it is not read, is a change too.
        if serde_json::to_string(&record).ok().as_ref() != Some(&line) {
            broken = Some((record.seq, format!("line {number} of the file is not as it was written")));
            break;
        }
        if number == 1 && record.seq > 1 {
            audit.anchor = (record.seq - 1, record.previous.clone());
        }
        audit.records.push(record);
    }
    if audit.records.is_empty() && broken.is_none() {
        return Err(Failure::new(
            Exit::Invalid,
            format!("{} has no record in it", path.display()),
            "name a file that `mesh audit export` wrote",
        ));
    }
    Ok((audit, broken))
}

async fn export(operator: &Operator, out: Option<&Path>) -> Result<Exit, Failure> {
    let mut sink: Box<dyn Write> = match out {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            Box::new(BufWriter::new(file.map_err(|error| {
                let what = format!("cannot create {}: {error}", path.display());
                Failure::new(Exit::Invalid, what, "name a new file in a directory that you may write")
            })?))
        }
    };
    let unwritten = |error: std::io::Error| {
        Failure::new(
            Exit::Error,
            format!("cannot write the export: {error}"),
            "what was written so far is incomplete: remove it and export again",
        )
    };
    let (mut next, mut count) = (1, 0_u64);
    loop {
        let records = page(operator, next, PAGE).await?;
        let Some(last) = records.last() else { break };
        next = last.seq + 1;
        for record in &records {
            serde_json::to_writer(&mut sink, record).map_err(|error| unwritten(error.into()))?;
            sink.write_all(b"\n").map_err(unwritten)?;
            count += 1;
        }
    }
    sink.flush().map_err(unwritten)?;
    if let Some(path) = out {
        let line = format!("{count} records written to {}\n", path.display());
        if operator.output.json {
            operator.output.value(&serde_json::json!({ "records": count, "file": path }))?;
        } else {
            operator.output.text(&line)?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_export() {
        mesh_fuzz::fuzz!("export", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("export");
            std::fs::write(&path, bytes).unwrap();
            let Ok((audit, broken)) = mesh_fuzz::bounded(bytes.len(), || read_export(&path)) else { return };
            // A chain that proves itself was written so, to the letter.
            if verify(&audit).is_ok() && broken.is_none() {
                let lines: Vec<String> =
                    audit.records.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
                let text = String::from_utf8_lossy(bytes);
                assert_eq!(text.lines().collect::<Vec<_>>(), lines);
            }
        });
    }
}
