//! The guard's look at its own server: all it wants to know, in one packet over a connection kept open.
//!
//! It reads; it never writes. (The write probe has a connection of its own.)

use std::net::SocketAddr;
use std::time::Instant;

use redis::Pipeline;

use super::fault::{AskError, Fault};
use super::info::{Info, Role, parse as parse_info};
use super::instance::Instance;
use super::link::{Link, as_text, command};
use super::sentinel::{self, Sentinels};
use super::standby::Position;
use super::{gate, stamp};

/// What a running server says of itself, all at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its answer to `INFO`.
    pub info: Info,
    /// What its data says.
    pub stamp: Option<super::Stamp>,
    /// What identifies its data; `None` for an empty server of no group.
    pub system: Option<u64>,
    /// Whether the gate is closed.
    pub gated: bool,
    /// Who else decides here.
    pub sentinels: Sentinels,
}

impl Look {
    /// Whether it takes writes of clients.
    #[must_use]
    pub fn acknowledges(&self) -> bool {
        self.info.replication.role == Role::Primary && !self.gated
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::of(&self.info.replication, self.stamp.as_ref())
    }

    /// Whether it streams.
    #[must_use]
    pub fn streaming(&self) -> bool {
        self.info.replication.upstream.as_ref().is_some_and(|up| up.up && !up.copying)
    }

    /// The address that it replicates from, unless it is held.
    #[must_use]
    pub fn upstream(&self) -> Option<SocketAddr> {
        let address = self.info.replication.upstream.as_ref()?.address?;
        (address != super::standby::DEAD_END).then_some(address)
    }
}

/// A connection for looking. It opens itself when needed.
#[derive(Debug, Default)]
pub struct Glance {
    link: Option<Link>,
}

impl Glance {
    /// Looks.
    ///
    /// # Errors
    /// When the server does not answer in time, or refuses; [`Fault::Loading`] while it loads its data.
    pub async fn look(&mut self, instance: &Instance, deadline: Instant) -> Result<Look, AskError> {
        let kept = self.link.is_some();
        match self.try_look(instance, deadline).await {
            // A connection that was ended, by us after a switch or by an operator, says little: the next one tells.
            Err(AskError { fault: Fault::Broken, .. }) if kept => self.try_look(instance, deadline).await,
            other => other,
        }
    }

    async fn try_look(&mut self, instance: &Instance, deadline: Instant) -> Result<Look, AskError> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&instance.target(), deadline).await?,
        };
        let look = look(&mut link, deadline).await;
        match &look {
            // An answer may still be under way in it, and would delay the next ones.
            Err(AskError { fault: Fault::TimedOut | Fault::Broken | Fault::Form, .. }) => {}
            Ok(_) | Err(_) => self.link = Some(link),
        }
        look
    }
}

pub(super) async fn look(link: &mut Link, deadline: Instant) -> Result<Look, AskError> {
    let what = "look at Redis";
    let form = || AskError::new(what, Fault::Form);
    let mut all = Pipeline::new();
    all.add_command(command(&["INFO"]));
    all.add_command(stamp::read_command());
    all.add_command(command(&["CONFIG", "GET", gate::SETTING]));
    all.add_command(sentinel::count_command());
    let mut answers = link.ask_all(what, &all, deadline).await?.into_iter();
    let mut next = || answers.next().ok_or_else(form);
    let info = parse_info(&as_text(&next()??).ok_or_else(form)?).ok_or_else(form)?;
    let stamp = stamp::parse(what, &next()??)?;
    let gated = gate::parse(&next()??).ok_or_else(form)?;
    let sentinels = sentinel::parse(&next()??).ok_or_else(form)?;
    let system = stamp::system(&info, stamp.as_ref());
    Ok(Look { info, stamp, system, gated, sentinels })
}
