//! Checks the signature of receipts before they count. A guard shows its public key in every status, over a connection
//! that its certificate authenticates; a receipt that its key did not sign is dropped.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mesh_proto::effect::{Finding, Outcome};
use mesh_proto::evidence::GuardStatus;
use mesh_proto::lease::Receipt;
use mesh_proto::{GuardIncarnation, InstanceName};
use ring::signature::{ED25519, UnparsedPublicKey};

/// The keys of guards, by instance and life.
#[derive(Debug, Default)]
pub struct Receipts {
    keys: Mutex<BTreeMap<(InstanceName, GuardIncarnation), String>>,
}

impl Receipts {
    /// Notes the guard's key, and drops a receipt that it did not sign.
    pub fn admit(&self, status: &mut GuardStatus) {
        let who = (status.instance.clone(), status.guard.clone());
        {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            // One life of a guard has one key: another one under the same life is an impostor's or a fault.
            let known = keys.entry(who).or_insert_with(|| status.public_key.clone());
            if *known != status.public_key {
                tracing::error!(instance = %status.instance, "a guard changed its receipt key within one life");
                status.receipt = None;
                return;
            }
        }
        if let Some(receipt) = &status.receipt
            && !self.holds(receipt)
        {
            tracing::error!(instance = %status.instance, "a receipt without a valid signature was dropped");
            status.receipt = None;
        }
    }

    /// Turns an outcome whose receipt is not signed into an unknown one: verified again, or waited out.
    #[must_use]
    pub fn checked(&self, outcome: Outcome) -> Outcome {
        match &outcome {
            Outcome::Done(Finding::Fenced(receipt)) if !self.holds(receipt) => {
                Outcome::Unknown { detail: "the receipt's signature does not verify".to_owned() }
            }
            Outcome::Done(_) | Outcome::Refused { .. } | Outcome::Unknown { .. } => outcome,
        }
    }

    fn holds(&self, receipt: &Receipt) -> bool {
        let who = (receipt.key.instance.clone(), receipt.guard.clone());
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(&who).is_some_and(|key| verifies(key, receipt))
    }
}

fn verifies(key: &str, receipt: &Receipt) -> bool {
    match (bytes(key), bytes(&receipt.signature)) {
        (Some(key), Some(signature)) => {
            UnparsedPublicKey::new(&ED25519, key).verify(&receipt.signed_bytes(), &signature).is_ok()
        }
        (None, _) | (_, None) => false,
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use mesh_proto::lease::{FenceCause, LeaseKey, LeaseTerm, ReceiptLevel};
    use mesh_proto::{DataIncarnation, Epoch, LeaseNo};
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn only_what_the_guard_signed_counts() {
        let pair = Ed25519KeyPair::from_pkcs8(
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref(),
        )
        .unwrap();
        let mut receipt = Receipt {
            key: LeaseKey { group: "orders".parse().unwrap(), instance: "pg-east".parse().unwrap() },
            term: LeaseTerm { epoch: Epoch(1), lease_no: LeaseNo(1) },
            guard: GuardIncarnation("g1".into()),
            data: DataIncarnation("d1".into()),
            level: ReceiptLevel::Quiet,
            shutdown_at: None,
            cause: FenceCause::Died,
            signature: String::new(),
        };
        receipt.signature = hex(pair.sign(&receipt.signed_bytes()).as_ref());
        let key = hex(pair.public_key().as_ref());
        assert!(verifies(&key, &receipt));
        receipt.term.lease_no = LeaseNo(2);
        assert!(!verifies(&key, &receipt), "a receipt for another lease than was signed");
        receipt.signature = "zz".into();
        assert!(!verifies(&key, &receipt));
    }
}
