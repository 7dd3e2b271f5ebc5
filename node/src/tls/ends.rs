//! When certificates end, and how that is said. It never looks at a clock: now is an argument.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate that ends within so many days is said.
const SOON_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;

/// The end of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The file that it stands in.
    pub path: PathBuf,
    /// Seconds since 1970.
    pub at: i64,
}

/// How near an end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nearness {
    /// Nobody needs to do anything.
    Far,
    /// It is time to issue anew.
    Soon(String),
    /// It is over.
    Over(String),
}

impl End {
    /// The end of a certificate; `None` where it is none, which its loading reports.
    #[must_use]
    pub fn of(path: &Path, der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self { path: path.to_owned(), at: certificate.validity().not_after.timestamp() })
    }

    /// How near it is, `now` in seconds since 1970.
    #[must_use]
    pub fn nearness(&self, now: i64) -> Nearness {
        let (path, days) = (self.path.display(), self.at.saturating_sub(now).div_euclid(DAY_SECONDS));
        if days < 0 {
            return Nearness::Over(format!("{path} ended {} days ago", -days));
        }
        if days < SOON_DAYS {
            return Nearness::Soon(format!("{path} ends in {days} days"));
        }
        Nearness::Far
    }
}

/// Seconds since 1970, by this host's clock.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_said_a_month_before_they_come() {
        let end = End { path: "/etc/mesh/agent-a.crt".into(), at: 1_000 * DAY_SECONDS };
        let on = |day: i64| end.nearness(day * DAY_SECONDS);
        assert_eq!(on(900), Nearness::Far);
        assert_eq!(on(970), Nearness::Far);
        assert_eq!(on(971), Nearness::Soon("/etc/mesh/agent-a.crt ends in 29 days".into()));
        assert_eq!(on(1_000), Nearness::Soon("/etc/mesh/agent-a.crt ends in 0 days".into()));
        assert_eq!(on(1_002), Nearness::Over("/etc/mesh/agent-a.crt ended 2 days ago".into()));
    }
}
