//! What is asked of a name server, and what its answers say.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mesh_proto::spec::RecordKind;

use crate::dns::decide::{Name as WantedName, Seen, Wanted};
pub(super) use crate::dns::marker::marker_name;

/// Longest piece of a TXT record; DNS allows 255 bytes.
const TXT_PIECE: usize = 250;

/// A name or value that has no wire form. Specs are checked, so only what stands in the zone can be one.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} has no wire form")]
pub(super) struct NoWireForm(String);

fn name(text: &str) -> Result<Name, NoWireForm> {
    Name::from_ascii(text).map_err(|_| NoWireForm(text.to_owned()))
}

/// Shortest question and record: the root's name, and what stands behind it (RFC 1035 §4.1.2 and §4.1.3).
const QUESTION_MIN: usize = 5;
const RECORD_MIN: usize = 11;

/// Reads an answer. Room is made for as many records as its head announces, so they must fit into it.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    let least = count(4)? * QUESTION_MIN + (count(6)? + count(8)? + count(10)?) * RECORD_MIN;
    (least <= bytes.len()).then(|| Message::from_vec(bytes).ok()).flatten()
}

/// A question about one name, to the server's own knowledge.
pub(super) fn question(text: &str, kind: RecordType) -> Result<Message, NoWireForm> {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name(text)?, kind));
    Ok(message)
}

pub(super) const fn wire_kind(kind: RecordKind) -> RecordType {
    match kind {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Cname => RecordType::CNAME,
    }
}

/// The values of one type at one name, sorted, and their TTL.
pub(super) fn values(answer: &Message, at: &str, kind: RecordType) -> (Vec<String>, u32) {
    let Ok(at) = name(at) else { return (Vec::new(), 0) };
    let found: Vec<_> =
        answer.answers.iter().filter(|record| record.name == at && record.record_type() == kind).collect();
    let mut values: Vec<_> = found.iter().filter_map(|record| text(&record.data)).collect();
    values.sort();
    (values, found.first().map_or(0, |record| record.ttl))
}

fn text(data: &RData) -> Option<String> {
    if let RData::A(A(address)) = data {
        return Some(address.to_string());
    }
    if let RData::AAAA(AAAA(address)) = data {
        return Some(address.to_string());
    }
    if let RData::CNAME(CNAME(target)) = data {
        return Some(target.to_ascii().to_ascii_lowercase());
    }
    if let RData::NS(target) = data {
        return Some(target.0.to_ascii().to_ascii_lowercase());
    }
    if let RData::TXT(text) = data {
        return Some(text.txt_data.iter().map(|piece| String::from_utf8_lossy(piece)).collect());
    }
    None
}

fn data(kind: RecordKind, value: &str) -> Result<RData, NoWireForm> {
    let refused = || NoWireForm(value.to_owned());
    match kind {
        RecordKind::Cname => Ok(RData::CNAME(CNAME(name(value)?))),
        RecordKind::A | RecordKind::Aaaa => match value.parse::<IpAddr>().map_err(|_| refused())? {
            IpAddr::V4(address) => Ok(RData::A(A(address))),
            IpAddr::V6(address) => Ok(RData::AAAA(AAAA(address))),
        },
    }
}

fn txt(text: &str) -> RData {
    let pieces = text.as_bytes().chunks(TXT_PIECE).collect();
    RData::TXT(TXT::from_bytes(pieces))
}

/// The change of all names of a zone: what must still be so, and what shall be (RFC 2136 §2.4 and §2.5).
pub(super) fn update(wanted: &Wanted, seen: &[Seen]) -> Result<Message, NoWireForm> {
    let id = Message::query().id;
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(name(wanted.zone.as_str())?, RecordType::SOA));
    for (one, seen) in wanted.names.iter().zip(seen) {
        let at = name(one.name.as_str())?;
        let marker = name(&marker_name(&one.name))?;
        let still = seen.markers.iter().map(|text| txt(text)).collect();
        message.add_answers(same(&marker, RecordType::TXT, still));
        let still = seen.values.iter().map(|value| data(one.kind, value)).collect::<Result<_, _>>()?;
        message.add_answers(same(&at, wire_kind(one.kind), still));
        // Beside a CNAME nothing else may stand: the server would ignore the change, and say that it is done.
        message.add_answers(excluded(one).iter().map(|kind| absent(&at, *kind)));

        message.add_authority(delete(&marker, RecordType::TXT));
        message.add_authority(Record::from_rdata(marker, one.ttl, txt(&wanted.marker(one).to_string())));
        message.add_authority(delete(&at, wire_kind(one.kind)));
        message.add_authority(Record::from_rdata(at, one.ttl, data(one.kind, &one.value)?));
    }
    Ok(message)
}

/// The types that shut out a name's own.
pub(super) const fn excluded(name: &WantedName) -> &'static [RecordType] {
    match name.kind {
        RecordKind::A | RecordKind::Aaaa => &[RecordType::CNAME],
        RecordKind::Cname => &[RecordType::A, RecordType::AAAA],
    }
}

/// Prerequisite: exactly these records of this type, no more and no less.
fn same(at: &Name, kind: RecordType, values: Vec<RData>) -> Vec<Record> {
    if values.is_empty() {
        return vec![absent(at, kind)];
    }
    values.into_iter().map(|value| Record::from_rdata(at.clone(), 0, value)).collect()
}

/// Prerequisite: no record of this type.
fn absent(at: &Name, kind: RecordType) -> Record {
    let mut record = Record::update0(at.clone(), 0, kind);
    record.dns_class = DNSClass::NONE;
    record
}

/// Update: remove all records of this type, which the prerequisites have pinned.
fn delete(at: &Name, kind: RecordType) -> Record {
    let mut record = Record::update0(at.clone(), 0, kind);
    record.dns_class = DNSClass::ANY;
    record
}

/// What an answer to a change means.
pub(super) enum Verdict {
    /// Done.
    Done,
    /// Something is not as it was seen.
    Differs,
    /// Refused by how server and agent are set up.
    Refused(&'static str),
    /// The server failed, so that nobody can say.
    Failed,
}

pub(super) fn verdict(code: ResponseCode) -> Verdict {
    match code {
        ResponseCode::NoError => Verdict::Done,
        ResponseCode::NXRRSet | ResponseCode::YXRRSet | ResponseCode::NXDomain | ResponseCode::YXDomain => {
            Verdict::Differs
        }
        ResponseCode::Refused => Verdict::Refused(
            "its policy must let this key change the name and its marker `_mesh-epoch.<name>` TXT",
        ),
        ResponseCode::NotAuth | ResponseCode::NotZone => {
            Verdict::Refused("it must be the primary server of that zone, and the name must lie in it")
        }
        ResponseCode::NotImp => Verdict::Refused("it must allow dynamic updates"),
        ResponseCode::FormErr => Verdict::Refused("look at its log"),
        ResponseCode::ServFail
        | ResponseCode::BADVERS
        | ResponseCode::BADSIG
        | ResponseCode::BADKEY
        | ResponseCode::BADTIME
        | ResponseCode::BADMODE
        | ResponseCode::BADNAME
        | ResponseCode::BADALG
        | ResponseCode::BADTRUNC
        | ResponseCode::BADCOOKIE
        | ResponseCode::Unknown(_) => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_message() {
        mesh_fuzz::fuzz!("message", |bytes| {
            let Some(answer) = mesh_fuzz::bounded(bytes.len(), || parse(bytes)) else { return };
            let _ = verdict(answer.response_code);
            for kind in [RecordType::A, RecordType::AAAA, RecordType::CNAME, RecordType::TXT, RecordType::NS]
            {
                let (values, _ttl) =
                    mesh_fuzz::bounded(bytes.len(), || values(&answer, "_mesh-epoch.db.lab.test.", kind));
                assert!(values.is_sorted() && values.len() <= answer.answers.len());
            }
        });
    }
}
