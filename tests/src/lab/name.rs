//! A client's look-up of a name, asked of one server each time: nothing is kept, so that what the server says now is what
//! is followed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// How long an answer is waited for.
const SOON: Duration = Duration::from_secs(1);
/// The longest answer that is understood.
const LONGEST: usize = 1_232;

/// A name, and who is asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Followed {
    /// The name server.
    pub server: SocketAddrV4,
    /// The name, with its last dot.
    pub name: &'static str,
}

impl Followed {
    /// The address that the name leads to now.
    ///
    /// # Errors
    /// When the server does not answer within 1 s, or there is no address.
    pub async fn address(&self) -> Result<Ipv4Addr> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(self.name)?, RecordType::A));
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(self.server).await?;
        let talk = async {
            socket.send(&question.to_vec()?).await?;
            let mut bytes = [0; LONGEST];
            let length = socket.recv(&mut bytes).await?;
            anyhow::Ok(Message::from_vec(&bytes[..length])?)
        };
        let answer = tokio::time::timeout(SOON, talk).await.context("the name server is silent")??;
        if answer.id != question.id {
            bail!("the name server answered another question");
        }
        let found = answer
            .answers
            .iter()
            .find_map(|record| if let RData::A(address) = &record.data { Some(address.0) } else { None });
        found.with_context(|| format!("{} has no address: {:?}", self.name, answer.response_code))
    }
}
