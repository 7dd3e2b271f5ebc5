//! The live view: what the client is told each second, and what mesh writes into its audit, in the order of time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_proto::audit::AuditRecord;
use mesh_proto::command::Command;
use mesh_proto::effect::Outcome;
use mesh_tests::lab::cluster::Cluster;
use mesh_tests::lab::timeline::wall;
use mesh_tests::lab::writer::Writer;

use crate::voice::{Tone, Voice};

/// How often the audit is looked at. Each look is a command of its own, so not more often than needed.
const PACE: Duration = Duration::from_millis(200);

/// What is shown, and how far it has been shown.
#[derive(Debug)]
pub struct View<'a> {
    voice: Voice,
    writer: &'a Writer,
    counted: usize,
    second: Instant,
    next_record: u64,
    zero: u64,
    /// What each step of the newest runs does, and when it began.
    steps: BTreeMap<(u64, u32), (String, u64)>,
}

impl<'a> View<'a> {
    /// A view that begins now: older records are not shown.
    ///
    /// # Errors
    /// When no agent answers.
    pub async fn begin(voice: Voice, writer: &'a Writer, cluster: &Cluster) -> Result<Self> {
        let next_record = cluster.audit(1).await?.last().map_or(1, |record| record.seq + 1);
        let counted = writer.count();
        Ok(Self {
            voice,
            writer,
            counted,
            second: Instant::now(),
            next_record,
            zero: wall(),
            steps: BTreeMap::new(),
        })
    }

    /// Times are counted from now on; the wall clock of that moment.
    pub fn zero(&mut self) -> u64 {
        self.zero = wall();
        self.zero
    }

    /// Shows what happens for some time.
    pub async fn watch(&mut self, cluster: &Cluster, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.look(cluster).await;
        }
    }

    /// Shows what happens until `done` says so, or the limit is reached; whether it was.
    pub async fn until<F>(
        &mut self,
        cluster: &Cluster,
        limit: Duration,
        mut done: impl FnMut(&'a Writer) -> F,
    ) -> bool
    where
        F: Future<Output = bool>,
    {
        let end = Instant::now() + limit;
        loop {
            self.look(cluster).await;
            if done(self.writer).await {
                self.look(cluster).await;
                return true;
            }
            if Instant::now() > end {
                return false;
            }
        }
    }

    /// One look: new records, and the client's count once a second.
    pub async fn look(&mut self, cluster: &Cluster) {
        let pause = tokio::time::sleep(PACE);
        // An agent that does not answer just now (it may have been killed on purpose) has nothing to show.
        if let Ok(records) = cluster.audit(self.next_record).await {
            for record in &records {
                self.next_record = record.seq + 1;
                self.record(record);
            }
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second += Duration::from_secs(1);
            self.client();
        }
        pause.await;
    }

    fn client(&mut self) {
        let count = self.writer.count();
        let fresh = count - self.counted;
        self.counted = count;
        let told = match self.writer.last_error() {
            Some((at, text)) if fresh == 0 && at.elapsed() < Duration::from_secs(1) => {
                format!("; it is told: {text}")
            }
            Some(_) | None => String::new(),
        };
        let text = format!("{fresh:>4} rows acknowledged this second, {count:>6} in all{told}");
        let tone = if fresh == 0 { Tone::Bad } else { Tone::Good };
        println!(
            "   {}  {}  {}",
            self.clock(wall()),
            self.voice.paint(Tone::Dim, "client "),
            self.voice.paint(tone, &text)
        );
    }

    fn record(&mut self, record: &AuditRecord) {
        let Some(role) = role(&record.command) else { return };
        let refused = record.refused.as_ref().map(|why| format!(" (refused: {why})")).unwrap_or_default();
        let text = format!("{}{refused}", self.words(record));
        println!("   {}  {}  {text}", self.clock(record.at.0), self.voice.paint(Tone::Strong, role));
    }

    /// The record in words: the end of a step is told with what the step was.
    fn words(&mut self, record: &AuditRecord) -> String {
        let summary = || record.summary.clone();
        match &record.command {
            Command::StepsStarted { run, steps, .. } => {
                for step in steps {
                    self.steps.insert((run.0, step.step), (step.effect.to_string(), record.at.0));
                }
                summary()
            }
            Command::StepEnded { run, step, outcome, .. } => match (self.steps.get(&(run.0, *step)), outcome)
            {
                (Some((what, began)), Outcome::Done(_)) => {
                    format!("done:  {what}, after {} ms", record.at.0.saturating_sub(*began))
                }
                (Some((what, _)), Outcome::Refused { detail, .. }) => format!("refused: {what}: {detail}"),
                (Some((what, _)), Outcome::Unknown { detail }) => format!("unknown: {what}: {detail}"),
                (None, _) => summary(),
            },
            Command::MeshFormed { .. }
            | Command::MeshRecovered { .. }
            | Command::MemberAdded { .. }
            | Command::MemberRemoved { .. }
            | Command::AccessDenied { .. }
            | Command::TokenTried { .. }
            | Command::RunProposed { .. }
            | Command::RunApproved { .. }
            | Command::ProposalEnded { .. }
            | Command::ElectorateChanging { .. }
            | Command::ElectorateChanged { .. }
            | Command::ElectorateKept { .. }
            | Command::SpecApplied { .. }
            | Command::Founded { .. }
            | Command::LeaseGranted { .. }
            | Command::VerdictChanged { .. }
            | Command::RunOpened { .. }
            | Command::ErrandSkipped { .. }
            | Command::Signalled { .. }
            | Command::PromotionCommitted { .. }
            | Command::RepairStarted { .. }
            | Command::RepairEnded { .. }
            | Command::Paused { .. }
            | Command::Resumed { .. }
            | Command::Acknowledged { .. }
            | Command::QuorumChanged { .. }
            | Command::QuorumConfirmed { .. }
            | Command::DegradeBegun { .. }
            | Command::DegradeEnded { .. }
            | Command::HoldersKnown { .. }
            | Command::RunOverridden { .. } => summary(),
        }
    }

    fn clock(&self, at: u64) -> String {
        let ms = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(self.zero).unwrap_or(i64::MAX);
        let (sign, ms) = if ms < 0 { ('-', -ms) } else { ('+', ms) };
        let text = format!("{sign}{}.{:03} s", ms / 1000, ms % 1000);
        self.voice.paint(Tone::Dim, &format!("{text:>10}"))
    }
}

/// Whether a record is something seen, decided or done; `None` for bookkeeping.
const fn role(command: &Command) -> Option<&'static str> {
    match command {
        Command::VerdictChanged { .. } => Some("sees   "),
        Command::Founded { .. }
        | Command::MeshRecovered { .. }
        | Command::LeaseGranted { .. }
        | Command::RunOpened { .. }
        | Command::ErrandSkipped { .. }
        | Command::Signalled { .. }
        | Command::PromotionCommitted { .. }
        | Command::Paused { .. }
        | Command::Resumed { .. }
        | Command::Acknowledged { .. }
        | Command::QuorumChanged { .. }
        | Command::RunOverridden { .. } => Some("decides"),
        Command::StepsStarted { .. }
        | Command::StepEnded { .. }
        | Command::RepairStarted { .. }
        | Command::RepairEnded { .. } => Some("does   "),
        Command::MeshFormed { .. }
        | Command::MemberAdded { .. }
        | Command::MemberRemoved { .. }
        | Command::AccessDenied { .. }
        | Command::TokenTried { .. }
        | Command::RunProposed { .. }
        | Command::RunApproved { .. }
        | Command::ProposalEnded { .. }
        | Command::ElectorateChanging { .. }
        | Command::ElectorateChanged { .. }
        | Command::ElectorateKept { .. }
        | Command::QuorumConfirmed { .. }
        | Command::DegradeBegun { .. }
        | Command::DegradeEnded { .. }
        | Command::HoldersKnown { .. }
        | Command::SpecApplied { .. } => None,
    }
}
