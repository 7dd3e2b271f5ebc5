//! What the file says about AWS: hosted zones and target groups that this agent may change, and as whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_proto::spec::{DnsName, TargetGroupArn};
use serde::Deserialize;

/// One hosted zone of Route 53 that this agent may change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route53Section {
    /// The zone, as in the group's route.
    pub zone: DnsName,
    /// Its id, such as `Z0123456789ABC`: several zones may have one name.
    pub hosted_zone: String,
    /// The region that requests are signed for: that of Route 53's API.
    #[serde(default = "route53_region")]
    pub region: String,
    /// Another address of the API than AWS's own.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// File with the credentials, in the form of `~/.aws/credentials`; where every AWS tool looks when left out.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Servers that must show a change besides Route 53 saying so.
    #[serde(default)]
    pub authoritative: Vec<SocketAddr>,
}

fn route53_region() -> String {
    "us-east-1".to_owned()
}

/// One target group of Elastic Load Balancing that this agent may change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elbv2Section {
    /// Its ARN, as in the group's route; it names the region.
    pub target_group: TargetGroupArn,
    /// Another address of the API than AWS's own.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// File with the credentials, in the form of `~/.aws/credentials`; where every AWS tool looks when left out.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}

/// The address of an API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint(String);

/// The text is no address of an API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no endpoint; write its URL, such as https://vpce-0123.route53.us-east-1.vpce.amazonaws.com (http:// only to 127.0.0.1 or [::1]: requests carry session tokens)"
)]
pub struct EndpointError(String);

impl Endpoint {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;
    fn try_from(text: String) -> Result<Self, EndpointError> {
        let good = match text.parse::<http::Uri>() {
            Ok(uri) => {
                let local = || {
                    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
                };
                let asks =
                    uri.query().is_none() && uri.authority().is_some_and(|a| !a.as_str().contains('@'));
                asks && match uri.scheme_str() {
                    Some("https") => true,
                    Some("http") => local(),
                    Some(_) | None => false,
                }
            }
            Err(_) => false,
        };
        if good { Ok(Self(text)) } else { Err(EndpointError(text)) }
    }
}
