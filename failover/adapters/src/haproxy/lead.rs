//! Leads a backend to one server, and verifies where it leads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::error::{HaproxyError, Lost};
use super::exchange::{Endpoint, exchange};
use super::state_file;
use super::table::{self, Server, Sessions};
use crate::owned::{self, Mark};

/// How often the old servers' sessions are counted while they end.
const COUNT_EVERY: Duration = Duration::from_millis(5);
/// How long sessions may take to end before they are called stragglers. HAProxy ends them within a few milliseconds;
/// the route must not wait for one that does not.
const GRACE: Duration = Duration::from_millis(250);

const SERVERS_STATE: &str = "show servers state";

/// One HAProxy.
#[derive(Debug, Clone)]
pub struct Haproxy {
    endpoint: Endpoint,
    kept: Option<Kept>,
}

/// The server-state file of the backend, and what is written into it.
#[derive(Debug, Clone)]
struct Kept {
    path: PathBuf,
    mark: Mark,
}

/// Where a backend shall lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The backend.
    pub backend: String,
    /// The server that shall be in: the name of the new primary's instance. All others shall be out.
    pub server: String,
    /// The address that this server must have in HAProxy; `None` where HAProxy reaches it under another one.
    pub address: Option<SocketAddr>,
}

/// A backend leads where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    /// Sessions to other servers that were ended.
    pub ended: u32,
    /// Sessions to other servers that go on all the same.
    pub stragglers: u32,
    /// Whether anything had to be changed.
    pub changed: bool,
}

/// Which HAProxy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its version.
    pub version: String,
    /// Its process: another one after a reload, which forgets every change at run time.
    pub pid: u32,
    /// What the socket may do: `admin` is needed.
    pub level: String,
}

impl Haproxy {
    /// The HAProxy behind a socket. Nothing is opened yet.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, kept: None }
    }

    /// The same, with the server-state file of its backend, which mesh owns and writes first.
    #[must_use]
    pub fn keeping(self, path: PathBuf, mark: Mark) -> Self {
        Self { kept: Some(Kept { path, mark }), ..self }
    }

    /// Asks which HAProxy this is.
    ///
    /// # Errors
    /// [`HaproxyError::NotReached`], [`HaproxyError::Unreadable`].
    pub async fn info(&self, deadline: Instant) -> Result<Info, HaproxyError> {
        let command = "show info";
        let text = self.read(command, deadline).await?;
        let unreadable = |source| self.unreadable(command, source);
        let pid = table::info(&text, "Pid").map_err(unreadable)?;
        let wrong =
            |_| unreadable(table::TableError::Field { line: 0, column: "Pid", found: pid.to_owned() });
        Ok(Info {
            version: table::info(&text, "Version").map_err(unreadable)?.to_owned(),
            pid: pid.parse().map_err(wrong)?,
            level: self.read("show cli level", deadline).await?,
        })
    }

    /// Leads the backend to the wanted server: the others out, their sessions ended, the wanted one in; then reads it
    /// back. Doing it again changes nothing. After an error in the middle all may be out: no server in is safe, two are not.
    ///
    /// # Errors
    /// [`HaproxyError`]; after [`HaproxyError::Unknown`] call [`Haproxy::verify`] before anything else.
    pub async fn lead(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, HaproxyError> {
        check_names(wanted)?;
        let level = match self.read("show cli level", deadline).await {
            Ok(level) => level,
            Err(error) => {
                self.write_for_its_return(wanted, deadline).await?;
                return Err(error);
            }
        };
        if level != "admin" {
            return Err(HaproxyError::TooWeak { endpoint: self.endpoint.clone(), level });
        }
        let table = self.state(deadline).await?;
        let before = self.pick(&table, wanted)?;
        let sessions = self.sessions(&before, deadline).await?;
        if let Some(kept) = &self.kept {
            self.write(kept, &table, wanted, deadline).await?;
        }
        let mut change = Change { haproxy: self, deadline, sent: None, said: Vec::new() };
        let backend = &wanted.backend;
        for old in before.iter().filter(|server| server.name != wanted.server) {
            let name = &old.name;
            if !old.is_out() {
                change.set(&format!("set server {backend}/{name} state maint")).await?;
            }
            // Also when it was out already: whoever took it out may have left its sessions.
            if sessions_of(&sessions, name).current > 0 || !old.is_out() {
                change.set(&format!("shutdown sessions server {backend}/{name}")).await?;
            }
        }
        // Two servers in would be two ways for writes. So the others are seen out before the new one comes in.
        let between = change.servers(wanted).await?;
        let still_in = not_out(&between, wanted);
        if !still_in.is_empty() {
            return Err(not_in_force(wanted, still_in, change.said));
        }
        for command in bring_in(&between, wanted) {
            change.set(&command).await?;
        }
        let (ended, stragglers) = change.end_sessions(wanted, &before, &sessions).await?;
        let after = change.servers(wanted).await?;
        let findings = findings(&after, wanted);
        if !findings.is_empty() {
            return Err(not_in_force(wanted, findings, change.said));
        }
        Ok(Led { ended, stragglers, changed: change.sent.is_some() })
    }

    /// Only looks whether the backend leads to the wanted server, and to no other.
    ///
    /// # Errors
    /// [`HaproxyError::NotSo`] when it does not; others when that cannot be found out. Never [`HaproxyError::Unknown`].
    pub async fn verify(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, HaproxyError> {
        check_names(wanted)?;
        let servers = self.pick(&self.state(deadline).await?, wanted)?;
        let mut findings = findings(&servers, wanted);
        if let Some(kept) = &self.kept {
            findings.extend(self.not_kept(kept, wanted, deadline).await?);
        }
        if !findings.is_empty() {
            let Wanted { backend, server, .. } = wanted.clone();
            return Err(HaproxyError::NotSo { backend, server, findings });
        }
        let sessions = self.sessions(&servers, deadline).await?;
        Ok(Led { ended: 0, stragglers: remaining(&sessions, wanted), changed: false })
    }

    /// Sends a command that changes nothing.
    async fn read(&self, command: &str, deadline: Instant) -> Result<String, HaproxyError> {
        let answer = exchange(&self.endpoint, command, deadline).await;
        answer.map_err(|source| HaproxyError::NotReached { endpoint: self.endpoint.clone(), source })
    }

    fn unreadable(&self, command: &str, source: table::TableError) -> HaproxyError {
        HaproxyError::Unreadable { endpoint: self.endpoint.clone(), command: command.to_owned(), source }
    }

    async fn state(&self, deadline: Instant) -> Result<String, HaproxyError> {
        self.read(SERVERS_STATE, deadline).await
    }

    /// The servers of the wanted backend, checked to contain the wanted one at its address.
    fn pick(&self, table: &str, wanted: &Wanted) -> Result<Vec<Server>, HaproxyError> {
        let all = table::servers(table).map_err(|source| self.unreadable(SERVERS_STATE, source))?;
        pick(all, wanted)
    }

    /// Writes the server-state file: what HAProxy comes up with from now on.
    async fn write(
        &self,
        kept: &Kept,
        table: &str,
        wanted: &Wanted,
        deadline: Instant,
    ) -> Result<(), HaproxyError> {
        let failed = |source| HaproxyError::File { backend: wanted.backend.clone(), source };
        let found = owned::read(&kept.path, deadline).await.map_err(failed)?;
        let ours = |line: &str| state_file::is_ours(&wanted.backend, line);
        owned::may_replace(&kept.path, &found, &kept.mark, ours).map_err(failed)?;
        let text = state_file::render(table, &wanted.backend, &wanted.server, &kept.mark);
        let text = text.map_err(|source| self.unreadable(SERVERS_STATE, source))?;
        if found.text == text {
            return Ok(());
        }
        owned::replace(&kept.path, text, deadline).await.map_err(failed)
    }

    /// HAProxy is not there: when it comes back, it shall not lead to the old primary until it is told. Only what it said
    /// before, in the file, can tell us its servers.
    async fn write_for_its_return(&self, wanted: &Wanted, deadline: Instant) -> Result<(), HaproxyError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let failed = |source| HaproxyError::File { backend: wanted.backend.clone(), source };
        // The way to HAProxy may have used up the time; the disk has its own.
        let deadline = deadline.max(Instant::now() + GRACE);
        let found = owned::read(&kept.path, deadline).await.map_err(failed)?;
        let known = state_file::servers(&found.text, &wanted.backend).unwrap_or_default();
        if known.iter().any(|server| server.name == wanted.server) {
            self.write(kept, &found.text, wanted, deadline).await?;
        }
        Ok(())
    }

    /// What the server-state file says otherwise.
    async fn not_kept(
        &self,
        kept: &Kept,
        wanted: &Wanted,
        deadline: Instant,
    ) -> Result<Vec<String>, HaproxyError> {
        let failed = |source| HaproxyError::File { backend: wanted.backend.clone(), source };
        let found = owned::read(&kept.path, deadline).await.map_err(failed)?;
        let servers = state_file::servers(&found.text, &wanted.backend).unwrap_or_default();
        let says =
            |what: String| format!("{} says that {what}, so a reload would undo it", kept.path.display());
        if !servers.iter().any(|server| server.name == wanted.server) {
            return Ok(vec![says(format!("there is no server {}", wanted.server))]);
        }
        Ok(findings(&servers, wanted).into_iter().map(says).collect())
    }

    async fn sessions(
        &self,
        servers: &[Server],
        deadline: Instant,
    ) -> Result<BTreeMap<String, Sessions>, HaproxyError> {
        let command = show_sessions(servers);
        let text = self.read(&command, deadline).await?;
        table::sessions(&text).map_err(|source| self.unreadable(&command, source))
    }
}

/// The part of a call in which things change: from the first command sent on, every lost answer is an unknown outcome.
struct Change<'a> {
    haproxy: &'a Haproxy,
    deadline: Instant,
    /// The newest command that changed something.
    sent: Option<String>,
    /// What HAProxy answered in words, for people.
    said: Vec<String>,
}

impl Change<'_> {
    async fn set(&mut self, command: &str) -> Result<(), HaproxyError> {
        let answer = exchange(&self.haproxy.endpoint, command, self.deadline).await;
        match answer {
            Ok(said) => {
                self.sent = Some(command.to_owned());
                // Words are usually a refusal; whether it is one, the read-back says.
                if !said.is_empty() {
                    self.said.push(format!("HAProxy answered {command:?} with {said:?}"));
                }
                Ok(())
            }
            Err(source) if self.sent.is_none() && !source.may_have_been_done() => {
                Err(HaproxyError::NotReached { endpoint: self.haproxy.endpoint.clone(), source })
            }
            Err(source) => {
                Err(HaproxyError::Unknown { command: command.to_owned(), source: Lost::Exchange(source) })
            }
        }
    }

    /// Reads a table after changes; before any, failing to is no unknown outcome.
    async fn table<T>(
        &self,
        command: &str,
        read: impl FnOnce(&str) -> Result<T, table::TableError>,
    ) -> Result<T, HaproxyError> {
        let endpoint = &self.haproxy.endpoint;
        let answer = exchange(endpoint, command, self.deadline).await;
        let (lost, sent) = match (answer, &self.sent) {
            (Ok(text), sent) => match (read(&text), sent) {
                (Ok(table), _) => return Ok(table),
                (Err(source), None) => return Err(self.haproxy.unreadable(command, source)),
                (Err(source), Some(sent)) => (Lost::Table(source), sent),
            },
            (Err(source), None) => {
                return Err(HaproxyError::NotReached { endpoint: endpoint.clone(), source });
            }
            (Err(source), Some(sent)) => (Lost::Exchange(source), sent),
        };
        Err(HaproxyError::Unknown { command: sent.clone(), source: lost })
    }

    async fn servers(&self, wanted: &Wanted) -> Result<Vec<Server>, HaproxyError> {
        pick(self.table(SERVERS_STATE, table::servers).await?, wanted)
    }

    /// Waits, for a short while, until the old servers have no session; ends those that slipped in meanwhile (a session
    /// that had chosen its server before it went out). Returns how many ended, and how many remain.
    async fn end_sessions(
        &mut self,
        wanted: &Wanted,
        servers: &[Server],
        before: &BTreeMap<String, Sessions>,
    ) -> Result<(u32, u32), HaproxyError> {
        let patience = self.deadline.min(Instant::now() + GRACE).into();
        let command = show_sessions(servers);
        let mut pace = tokio::time::interval(COUNT_EVERY);
        loop {
            let now = self.table(&command, table::sessions).await?;
            let remain = remaining(&now, wanted);
            if remain == 0 || timeout_at(patience, pace.tick()).await.is_err() {
                let arrived = |(name, now): (&String, &Sessions)| {
                    let old = sessions_of(before, name);
                    old.current + now.total.saturating_sub(old.total)
                };
                let ever: u32 = now.iter().filter(|(name, _)| **name != wanted.server).map(arrived).sum();
                return Ok((ever.saturating_sub(remain), remain));
            }
            for (name, _) in now.iter().filter(|(name, s)| **name != wanted.server && s.current > 0) {
                self.set(&format!("shutdown sessions server {}/{name}", wanted.backend)).await?;
            }
        }
    }
}

fn check_names(wanted: &Wanted) -> Result<(), HaproxyError> {
    // HAProxy's own rule; and a blank, `;` or newline would begin another command.
    let good = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'))
    };
    match [&wanted.backend, &wanted.server].into_iter().find(|name| !good(name)) {
        Some(name) => Err(HaproxyError::BadName { name: name.clone() }),
        None => Ok(()),
    }
}

/// The servers of the wanted backend, when the wanted one is among them and at its address.
fn pick(all: Vec<Server>, wanted: &Wanted) -> Result<Vec<Server>, HaproxyError> {
    let Wanted { backend, server, address } = wanted.clone();
    let mut known: Vec<_> = all.iter().map(|server| server.backend.clone()).collect();
    known.dedup();
    let servers: Vec<_> = all.into_iter().filter(|server| server.backend == backend).collect();
    if servers.is_empty() {
        return Err(HaproxyError::UnknownBackend { backend, known });
    }
    let Some(found) = servers.iter().find(|found| found.name == server) else {
        let known = servers.into_iter().map(|server| server.name).collect();
        return Err(HaproxyError::UnknownServer { backend, server, known });
    };
    if let Some(expected) = address
        && (found.address != expected.ip().to_string() || found.port != expected.port().to_string())
    {
        let found = format!("{}:{}", found.address, found.port);
        return Err(HaproxyError::OtherAddress { backend, server, expected: expected.to_string(), found });
    }
    Ok(servers)
}

/// The commands that bring the wanted server in; none when it is.
fn bring_in(servers: &[Server], wanted: &Wanted) -> Vec<String> {
    let Some(server) = servers.iter().find(|server| server.name == wanted.server && !server.is_in()) else {
        return Vec::new();
    };
    let name = format!("{}/{}", wanted.backend, wanted.server);
    let mut commands = vec![format!("set server {name} state ready")];
    // Out of maintenance a checked server is one failed check away from down, and its check may lag behind the promotion.
    if server.has_check() {
        commands.push(format!("set server {name} health up"));
    }
    if server.has_agent() {
        commands.push(format!("set server {name} agent up"));
    }
    commands
}

fn show_sessions(servers: &[Server]) -> String {
    // Type 4: servers. By number, since older versions take no name here.
    let backend = servers.first().map_or(0, |server| server.backend_id);
    format!("show stat {backend} 4 -1")
}

fn sessions_of(sessions: &BTreeMap<String, Sessions>, server: &str) -> Sessions {
    sessions.get(server).copied().unwrap_or_default()
}

fn remaining(sessions: &BTreeMap<String, Sessions>, wanted: &Wanted) -> u32 {
    sessions.iter().filter(|(name, _)| **name != wanted.server).map(|(_, s)| s.current).sum()
}

fn not_out(servers: &[Server], wanted: &Wanted) -> Vec<String> {
    let others = servers.iter().filter(|server| server.name != wanted.server && !server.is_out());
    others.map(|server| format!("{} is {} and must be out", server.name, server.words())).collect()
}

/// What differs from where the backend should lead.
fn findings(servers: &[Server], wanted: &Wanted) -> Vec<String> {
    let own = servers.iter().filter(|server| server.name == wanted.server && !server.is_in());
    own.map(|server| format!("{} is {} and must be in", server.name, server.words()))
        .chain(not_out(servers, wanted))
        .collect()
}

fn not_in_force(wanted: &Wanted, mut findings: Vec<String>, said: Vec<String>) -> HaproxyError {
    let Wanted { backend, server, .. } = wanted.clone();
    findings.extend(said);
    HaproxyError::NotInForce { backend, server, findings }
}
