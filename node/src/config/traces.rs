//! Where traces of runs go.

use serde::Deserialize;

/// Traces of runs, as OpenTelemetry has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesSection {
    /// A collector's address for OTLP over gRPC.
    pub otlp: Collector,
}

/// The address of a collector: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Collector(String);

/// The text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address of a collector; write http://HOST:PORT, such as http://127.0.0.1:4317 (OTLP over gRPC, in the \
     clear: let a collector on this host or in its network send them on)"
)]
pub struct CollectorError(String);

impl Collector {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Collector {
    type Error = CollectorError;
    fn try_from(text: String) -> Result<Self, CollectorError> {
        let good = text.parse::<http::Uri>().is_ok_and(|uri| {
            let bare = uri.path() == "/" && uri.query().is_none();
            let named = uri.authority().is_some_and(|it| it.port().is_some() && !it.as_str().contains('@'));
            bare && named && uri.scheme_str() == Some("http")
        });
        if good { Ok(Self(text)) } else { Err(CollectorError(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_address_with_a_port_is_a_collector() {
        for good in ["http://127.0.0.1:4317", "http://[::1]:4317", "http://collector.example.com:4317/"] {
            assert!(Collector::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:4317", "http://collector", "https://c:4317", "http://a:b@c:4317", "http://c:1/v1"]
        {
            let error = Collector::try_from(bad.to_owned()).unwrap_err().to_string();
            assert!(error.contains("such as http://127.0.0.1:4317"), "{error}");
        }
    }
}
