//! Newer certificates, keys and authorities without a restart: the files are looked at every few seconds, and at once when
//! told to (SIGHUP).
//!
//! New files are taken as a whole or refused as a whole, and what is in use stays in use: a file that is half written, or a
//! certificate without its key, never takes a process down. A thread of its own reads them, so that a disk that hangs delays
//! nobody. What is taken counts for the handshakes that follow; a connection that stands ends only when its peer is revoked,
//! or its authority trusted no more ([`super::tethered`]).

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::MeshId;
use tokio::sync::watch;

use super::ends::{self, Nearness};
use super::material::{Files, MaterialError, Texts};
use super::{Identity, Material};

/// How often the files are looked at. A change counts when two looks in a row show the same, so that a file that is being
/// written is left alone: it is taken within twice this long.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often refused files are tried again, and said again: what was wrong may have been the clock.
const REFUSED_AGAIN: Duration = Duration::from_secs(300);
/// How often an end that is near is said.
const END_AGAIN: Duration = Duration::from_secs(86_400);

/// What this process proves its identity with now. Clones share it.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    material: watch::Sender<Material>,
    /// Why the newest files are not in use.
    refused: Mutex<Option<String>>,
}

impl From<Material> for Credentials {
    fn from(material: Material) -> Self {
        let material = watch::Sender::new(material);
        Self(Arc::new(Shared { material, refused: Mutex::new(None) }))
    }
}

impl Credentials {
    /// What is in use now, for the next handshake.
    #[must_use]
    pub fn current(&self) -> Material {
        self.0.material.borrow().clone()
    }

    /// Told of every newer material from now on; what is current is known.
    pub(super) fn subscribe(&self) -> watch::Receiver<Material> {
        self.0.material.subscribe()
    }

    /// What is wrong with them, for people: newer files that were refused, certificates that end soon. `now` in seconds
    /// since 1970.
    #[must_use]
    pub fn troubles(&self, now: i64) -> Vec<String> {
        let mut troubles = near(&self.current(), now);
        troubles.extend(self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).clone());
        troubles
    }

    fn replace(&self, material: Material) {
        self.0.material.send_replace(material);
        self.say(None);
    }

    fn say(&self, refused: Option<String>) {
        *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
}

fn near(material: &Material, now: i64) -> Vec<String> {
    let say = |end: &ends::End| match end.nearness(now) {
        Nearness::Far => None,
        Nearness::Soon(said) | Nearness::Over(said) => Some(format!(
            "{said}: issue it anew (`mesh ca issue`, `mesh ca crl`) and put it there; no restart is needed"
        )),
    };
    material.ends().iter().filter_map(say).collect()
}

/// Where a process's material comes from, and whose it must be.
#[derive(Debug, Clone)]
pub struct Source {
    /// Certificates of the authorities.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Our key.
    pub key: PathBuf,
    /// Lists of revoked certificates, where there are any.
    pub crl: Option<PathBuf>,
    /// Our mesh.
    pub mesh: MeshId,
    /// Who we are.
    pub identity: Identity,
}

impl Source {
    fn files(&self) -> Files<'_> {
        Files { ca: &self.ca, cert: &self.cert, key: &self.key, crl: self.crl.as_deref() }
    }

    fn look(&self) -> (Seen, Result<Texts, MaterialError>) {
        let texts = Texts::read(self.files());
        let seen = match &texts {
            Ok(texts) => Seen::Texts(texts.digest().as_ref().to_vec()),
            Err(error) => Seen::Unreadable(crate::cli::with_causes(error)),
        };
        (seen, texts)
    }

    fn check(&self, texts: &Texts) -> Result<Material, MaterialError> {
        // The first ones were looked at with the rest of the configuration; newer ones are, here.
        if std::fs::metadata(&self.key).is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
            return Err(MaterialError::Exposed { path: self.key.clone() });
        }
        Material::of(texts, self.files(), &self.mesh, &self.identity)
    }
}

/// What one look at the files showed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// The digest of what stands in them.
    Texts(Vec<u8>),
    /// Why they cannot be read.
    Unreadable(String),
}

/// Decides when to try what was seen. Knows no clock and no file.
#[derive(Debug)]
struct Looks {
    /// What was tried last, be it in use or refused.
    tried: Seen,
    /// When it was refused.
    refused: Option<Instant>,
    /// What the look before showed.
    before: Seen,
    /// When a near end was said.
    said: Option<Instant>,
}

impl Looks {
    const fn new(in_use: Seen, before: Seen) -> Self {
        Self { tried: in_use, refused: None, before, said: None }
    }

    /// Whether to try it: because somebody asked, because it is new and nobody is writing it any more, or because it was
    /// refused a while ago.
    fn shall_try(&mut self, seen: &Seen, asked: bool, now: Instant) -> bool {
        let settled = std::mem::replace(&mut self.before, seen.clone()) == *seen;
        let changed = *seen != self.tried;
        let again = self.refused.is_some_and(|at| now.saturating_duration_since(at) >= REFUSED_AGAIN);
        asked || settled && (changed || again)
    }

    fn tried(&mut self, seen: Seen, refused: Option<Instant>) {
        (self.tried, self.refused) = (seen, refused);
    }

    /// Whether to say that an end is near.
    fn shall_say(&mut self, now: Instant) -> bool {
        let due = self.said.is_none_or(|at| now.saturating_duration_since(at) >= END_AGAIN);
        if due {
            self.said = Some(now);
        }
        due
    }
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The files that a process starts with.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The thread.
    #[error("the thread that looks at the certificates could not be started")]
    Thread(#[source] std::io::Error),
}

/// Looks at the files until it is dropped.
#[derive(Debug)]
pub struct Renewal {
    nudge: Sender<()>,
}

impl Renewal {
    /// Loads what a process starts with, and begins to look for newer files.
    ///
    /// # Errors
    /// [`RenewalError`]: a process without an identity does not start.
    pub fn start(source: Source) -> Result<(Credentials, Self), RenewalError> {
        let (mut watched, credentials) = Watched::open(source)?;
        let (nudge, nudges) = channel();
        std::thread::Builder::new()
            .name("certificates".to_owned())
            .spawn(move || watched.run(&nudges))
            .map_err(RenewalError::Thread)?;
        Ok((credentials, Self { nudge }))
    }

    /// Looks now: the files are as they shall be.
    pub fn now(&self) {
        // The thread lives as long as this.
        let _ = self.nudge.send(());
    }
}

/// The files, and whom they are for.
struct Watched {
    source: Source,
    looks: Looks,
    credentials: Credentials,
}

impl Watched {
    fn open(source: Source) -> Result<(Self, Credentials), MaterialError> {
        let (seen, texts) = source.look();
        let credentials = Credentials::from(source.check(&texts?)?);
        let looks = Looks::new(seen.clone(), seen);
        Ok((Self { source, looks, credentials: credentials.clone() }, credentials))
    }

    fn run(&mut self, nudges: &Receiver<()>) {
        loop {
            let asked = match nudges.recv_timeout(LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.look(asked, Instant::now());
        }
    }

    fn look(&mut self, asked: bool, now: Instant) {
        let (seen, texts) = self.source.look();
        if self.looks.shall_try(&seen, asked, now) {
            match texts.and_then(|texts| self.source.check(&texts)) {
                Ok(material) => {
                    self.looks.tried(seen, None);
                    self.credentials.replace(material);
                    tracing::info!(cert = %self.source.cert.display(), ca = %self.source.ca.display(), "certificate, key, authorities and revocations were read again; new connections use them");
                }
                Err(error) => {
                    self.looks.tried(seen, Some(now));
                    let why = crate::cli::with_causes(&error);
                    tracing::error!(%why, "newer certificate files were refused; what was read before stays in use");
                    self.credentials.say(Some(format!(
                        "newer certificate files were refused, and those from before stay in use: {why}"
                    )));
                }
            }
        }
        let near = near(&self.credentials.current(), ends::now());
        if !near.is_empty() && self.looks.shall_say(now) {
            for said in near {
                tracing::warn!("{said}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
