//! What others wrote, or damaged, against every parser of this crate.

use mesh_fuzz::{bounded, flipped, fuzz};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{self, Kind};
use crate::ids::NAME_MAX_BYTES;
use crate::spec::{DnsName, GroupSpec, LbTarget, TargetGroupArn};
use crate::{InstanceName, Lsn, RunId};

const KINDS: [Kind; 8] = [
    Kind::Entry,
    Kind::Snapshot,
    Kind::GuardState,
    Kind::VoterState,
    Kind::Applied,
    Kind::Message,
    Kind::RouteGates,
    Kind::Errands,
];

/// A record of this body whose header fits.
fn framed(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut record = codec::encode(kind, &()).unwrap();
    record.truncate(6);
    record.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
    record.extend_from_slice(body);
    record
}

/// What is accepted is written, and read again as the same; one turned bit makes it an error.
fn kept<T>(kind: Kind, body: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let record = framed(kind, body);
    let Ok(value) = bounded(body.len(), || codec::decode::<T>(kind, &record)) else { return };
    let written = codec::encode(kind, &value).unwrap();
    assert_eq!(codec::decode::<T>(kind, &written).unwrap(), value);
    let damaged = flipped(&written, body).unwrap();
    assert!(codec::decode::<T>(kind, &damaged).is_err(), "a turned bit was not noticed");
}

#[test]
fn fuzz_records() {
    fuzz!("records", |bytes| {
        for kind in KINDS {
            let Ok(value) = bounded(bytes.len(), || codec::decode::<serde_json::Value>(kind, bytes)) else {
                continue;
            };
            let whole = framed(kind, &bytes[10..]);
            assert_eq!(bytes, whole, "{value} was read from another header than is written");
            for cut in 0..bytes.len() {
                assert!(codec::decode::<serde_json::Value>(kind, &bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    });
}

#[test]
fn fuzz_entries() {
    fuzz!("entries", |bytes| kept::<crate::command::Entry>(Kind::Entry, bytes));
}

#[test]
fn fuzz_messages() {
    fuzz!("messages", |bytes| {
        kept::<crate::operator::Question>(Kind::Message, bytes);
        kept::<crate::operator::Answer>(Kind::Message, bytes);
        kept::<crate::effect::Order>(Kind::Message, bytes);
        kept::<crate::effect::Outcome>(Kind::Message, bytes);
        kept::<crate::evidence::Report>(Kind::Message, bytes);
        kept::<crate::evidence::GuardStatus>(Kind::Message, bytes);
        kept::<crate::lease::RenewRequest>(Kind::Message, bytes);
        kept::<crate::lease::PledgeRequest>(Kind::Message, bytes);
    });
}

#[test]
fn fuzz_specs() {
    fuzz!("specs", |bytes| kept::<GroupSpec>(Kind::Message, bytes));
}

#[test]
fn fuzz_positions() {
    fuzz!("positions", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(lsn) = text.parse::<Lsn>() {
            assert!(text.len() <= 17, "{text:?} is longer than any position");
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        let any = Lsn(bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight)));
        assert_eq!(any.to_string().parse(), Ok(any));
        assert_eq!(serde_json::from_str::<Lsn>(&serde_json::to_string(&any).unwrap()).unwrap(), any);
    });
}

#[test]
fn fuzz_names() {
    fuzz!("names", |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(name) = InstanceName::new(text.clone()) {
            assert!((1..=NAME_MAX_BYTES).contains(&text.len()) && text.is_ascii(), "{name}");
        }
        if let Ok(run) = text.parse::<RunId>() {
            let digits = text.strip_prefix('r').unwrap_or(&text);
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{text:?} is taken for {run}");
            assert_eq!(run.to_string().parse::<RunId>().ok(), Some(run));
        }
        if let Ok(name) = DnsName::new(&text) {
            assert!(name.as_str().len() <= 240 && name.as_str().ends_with('.'));
            assert_eq!(DnsName::new(name.as_str()), Ok(name));
        }
        if let Ok(target) = LbTarget::try_from(text.clone()) {
            assert_eq!(LbTarget::try_from(target.to_string()), Ok(target));
        }
        if let Ok(arn) = TargetGroupArn::try_from(text.clone()) {
            assert_eq!((arn.as_str(), arn.region().is_empty()), (text.as_str(), false));
        }
    });
}
