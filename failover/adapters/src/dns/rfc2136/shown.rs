//! Asking every authoritative server of a zone until it shows the new markers. What a server does not show in time is
//! named; it changes nothing about what is in force at the primary server.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, select_ok};
use hickory_proto::rr::RecordType;
use tokio::time::timeout_at;

use super::exchange::Connection;
use super::{NameServer, message};
use crate::dns::decide::Wanted;
use crate::dns::error::DnsError;
use crate::dns::lead::Led;
use crate::dns::marker::Marker;

/// Pause between two questions to one server. Transfers take some tens of milliseconds after a NOTIFY.
const AGAIN: Duration = Duration::from_millis(100);
/// How long one question may take.
const ANSWER: Duration = Duration::from_millis(500);
/// The port of name servers that only NS records name.
const PORT: u16 = 53;

impl NameServer {
    /// Waits until all authoritative servers show what was led, or until the deadline.
    pub async fn shown(&self, wanted: &Wanted, deadline: Instant) -> Led {
        let servers = match self.servers(deadline).await {
            Ok(servers) => servers,
            Err(error) => {
                let lagging = vec![format!("the servers of {} are not known: {error}", self.zone)];
                return Led { lagging, ..Led::default() };
            }
        };
        each_shows(&servers, wanted, deadline).await
    }

    /// The servers that the agent's file names, or those of the zone's NS records.
    async fn servers(&self, deadline: Instant) -> Result<Vec<Server>, DnsError> {
        if !self.authoritative.is_empty() {
            return Ok(self.authoritative.iter().copied().map(Server::at).collect());
        }
        let mut connection = self.open(deadline).await?;
        let answer = self.ask(&mut connection, self.zone.as_str(), RecordType::NS, deadline).await?;
        let (names, _) = message::values(&answer, self.zone.as_str(), RecordType::NS);
        let mut servers = Vec::with_capacity(names.len());
        for name in names {
            // Names within the zone are its own knowledge; the others need a resolver, which may be part of the trouble.
            let mut addresses: Vec<IpAddr> = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                if let Ok(answer) = self.ask(&mut connection, &name, kind, deadline).await {
                    let (values, _) = message::values(&answer, &name, kind);
                    addresses.extend(values.iter().filter_map(|value| value.parse::<IpAddr>().ok()));
                }
            }
            let mut addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect();
            if addresses.is_empty() {
                addresses = resolve(&name, deadline).await;
            }
            servers.push(Server { name, addresses });
        }
        Ok(servers)
    }
}

/// Waits until each of the servers shows what was led, or until the deadline.
pub(in crate::dns) async fn each_shows(servers: &[Server], wanted: &Wanted, deadline: Instant) -> Led {
    let asked: Vec<_> = servers.iter().map(|server| server.until_shown(wanted, deadline)).collect();
    let shown = join_all(asked).await;
    let late = shown
        .into_iter()
        .zip(servers)
        .filter_map(|(shown, server)| shown.err().map(|why| format!("{}: {why}", server.name)));
    let lagging = late.collect();
    Led { changed: false, servers: u32::try_from(servers.len()).unwrap_or(u32::MAX), lagging }
}

/// One authoritative server.
pub(in crate::dns) struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// A server that the agent's file names.
    pub(in crate::dns) fn at(address: SocketAddr) -> Self {
        Self { name: address.to_string(), addresses: vec![address] }
    }

    /// Any of its addresses will do: an agent without IPv6 still reaches it.
    async fn until_shown(&self, wanted: &Wanted, deadline: Instant) -> Result<(), String> {
        if self.addresses.is_empty() {
            return Err("its name has no address".to_owned());
        }
        let mut each = Vec::with_capacity(self.addresses.len());
        for address in &self.addresses {
            each.push(Box::pin(until_shown(*address, wanted, deadline)));
        }
        select_ok(each).await.map(|_| ())
    }
}

/// Looks a name up through the host's resolver; nothing when it does not answer in time.
pub(in crate::dns) async fn resolve(name: &str, deadline: Instant) -> Vec<SocketAddr> {
    match timeout_at(deadline.into(), tokio::net::lookup_host((name, PORT))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

async fn until_shown(server: SocketAddr, wanted: &Wanted, deadline: Instant) -> Result<(), String> {
    loop {
        let why = match shows(server, wanted, deadline.min(Instant::now() + ANSWER)).await {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        let again = Instant::now() + AGAIN;
        if again >= deadline {
            return Err(why);
        }
        tokio::time::sleep_until(again.into()).await;
    }
}

/// Whether a server shows every marker, in this epoch or a newer one.
async fn shows(server: SocketAddr, wanted: &Wanted, deadline: Instant) -> Result<(), String> {
    // Secondaries rarely know the key; what they say is shown to people and decides nothing.
    let mut connection = Connection::open(server, None, deadline).await.map_err(|error| error.to_string())?;
    for name in &wanted.names {
        let marker = message::marker_name(&name.name);
        let question = message::question(&marker, RecordType::TXT).map_err(|error| error.to_string())?;
        let answer = connection.exchange(question, deadline).await.map_err(|error| error.to_string())?;
        let (texts, _) = message::values(&answer, &marker, RecordType::TXT);
        let epochs = texts.iter().filter_map(|text| text.parse::<Marker>().ok()).map(|marker| marker.epoch);
        match epochs.max() {
            Some(epoch) if epoch >= wanted.epoch => {}
            Some(epoch) => return Err(format!("still shows {} of epoch {epoch}", name.name)),
            None => return Err(format!("does not show {} yet", name.name)),
        }
    }
    Ok(())
}
