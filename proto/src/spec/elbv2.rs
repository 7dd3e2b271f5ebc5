//! Target groups of AWS Elastic Load Balancing that lead to the primary, and which target each instance is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Drift, InstanceSpec};
use crate::InstanceName;

/// A target group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elbv2Target {
    /// Its ARN.
    pub target_group: TargetGroupArn,
    /// The target of each instance; one left out is registered by its own address.
    pub targets: BTreeMap<InstanceName, LbTarget>,
    /// `IP:port` at which clients connect; the proving write goes through it.
    pub listen: SocketAddr,
    /// What is done about a target that belongs to none of the group's instances.
    pub drift: Drift,
}

impl Elbv2Target {
    /// The target that leads to an instance.
    #[must_use]
    pub fn target(&self, instance: &InstanceSpec) -> LbTarget {
        let own = LbTarget::Address { at: instance.address, outside: false };
        self.targets.get(&instance.name).cloned().unwrap_or(own)
    }
}

/// The ARN of a target group, such as
/// `arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/0123456789abcdef`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetGroupArn(String);

/// The text is no ARN of a target group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no ARN of a target group; write what `aws elbv2 describe-target-groups` shows, arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID"
)]
pub struct TargetGroupArnError(String);

impl TargetGroupArn {
    /// The ARN as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The region whose API has it.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }
}

impl TryFrom<String> for TargetGroupArn {
    type Error = TargetGroupArnError;
    fn try_from(text: String) -> Result<Self, TargetGroupArnError> {
        let fields: Vec<&str> = text.split(':').collect();
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let good = match fields.as_slice() {
            ["arn", partition, "elasticloadbalancing", region, account, resource] => {
                let names: Vec<&str> = resource.split('/').collect();
                [*partition, *region, *account].into_iter().all(word)
                    && matches!(names.as_slice(), ["targetgroup", name, id] if word(name) && word(id))
            }
            _ => false,
        };
        if good { Ok(Self(text)) } else { Err(TargetGroupArnError(text)) }
    }
}

impl From<TargetGroupArn> for String {
    fn from(arn: TargetGroupArn) -> Self {
        arn.0
    }
}

impl std::fmt::Display for TargetGroupArn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// What is registered for an instance: an EC2 instance by its id, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LbTarget {
    /// `i-0123456789abcdef0`, or with a port behind it; the instance's own port when left out.
    Ec2 {
        /// Its id.
        id: String,
        /// Its port.
        port: Option<u16>,
    },
    /// `IP:port`, or `IP:port@all` for an address outside the target group's VPC: Elastic Load Balancing wants to be told.
    Address {
        /// The address.
        at: SocketAddr,
        /// Whether it lies outside the VPC.
        outside: bool,
    },
}

/// The text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no target; write an EC2 instance's id such as i-0123456789abcdef0, or IP:port (IP:port@all outside the target group's VPC)"
)]
pub struct LbTargetError(String);

impl TryFrom<String> for LbTarget {
    type Error = LbTargetError;
    fn try_from(text: String) -> Result<Self, LbTargetError> {
        let refused = || LbTargetError(text.clone());
        if text.starts_with("i-") {
            let (id, port) = match text.split_once(':') {
                Some((id, port)) => (id, Some(port.parse().map_err(|_| refused())?)),
                None => (text.as_str(), None),
            };
            let digits = id[2..].bytes().all(|byte| byte.is_ascii_hexdigit());
            return if digits && id.len() > 2 && port != Some(0) {
                Ok(Self::Ec2 { id: id.to_owned(), port })
            } else {
                Err(refused())
            };
        }
        let (address, outside) = match text.strip_suffix("@all") {
            Some(address) => (address, true),
            None => (text.as_str(), false),
        };
        let at: SocketAddr = address.parse().map_err(|_| refused())?;
        if at.port() == 0 || at.ip().is_unspecified() {
            Err(refused())
        } else {
            Ok(Self::Address { at, outside })
        }
    }
}

impl From<LbTarget> for String {
    fn from(target: LbTarget) -> Self {
        target.to_string()
    }
}

impl std::fmt::Display for LbTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ec2 { id, port: None } => f.write_str(id),
            Self::Ec2 { id, port: Some(port) } => write!(f, "{id}:{port}"),
            Self::Address { at, outside: false } => write!(f, "{at}"),
            Self::Address { at, outside: true } => write!(f, "{at}@all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region_and_nothing_else_is_one() {
        let text = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef";
        let arn = TargetGroupArn::try_from(text.to_owned()).unwrap();
        assert_eq!((arn.region(), arn.as_str()), ("eu-west-1", text));
        for bad in [
            "",
            "orders",
            &text.replace("elasticloadbalancing", "ec2"),
            &text.replace("targetgroup/", "loadbalancer/"),
            &text.replace("/0123456789abcdef", ""),
            &format!("{text}/more"),
            &format!("{text}:more"),
            &text.replace("eu-west-1", ""),
        ] {
            assert!(TargetGroupArn::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn targets_are_ids_or_addresses_and_are_written_as_they_were_read() {
        for good in
            ["i-0123456789abcdef0", "i-01ab:5433", "10.1.0.1:5432", "10.1.0.1:5432@all", "[2001:db8::1]:5432"]
        {
            assert_eq!(LbTarget::try_from(good.to_owned()).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "i-",
            "i-xyz",
            "i-01:0",
            "i-01:x",
            "10.1.0.1",
            "10.1.0.1:0",
            "0.0.0.0:5432",
            "db:5432",
            "10.1.0.1@all",
        ] {
            assert!(LbTarget::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
