//! An instance of this host, whatever it is: what all of them have.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use mesh_proto::spec::Engine;
use mesh_proto::{GroupName, InstanceName};

use super::{InstanceSection, RedisSection};

/// A section that names an instance and its guard.
#[derive(Debug, Clone, Copy)]
pub enum Guarded<'a> {
    /// `[[instance]]`
    Postgres(&'a InstanceSection),
    /// `[[redis]]`
    Redis(&'a RedisSection),
}

macro_rules! both {
    ($self:ident, $section:ident => $value:expr) => {
        match $self {
            Self::Postgres($section) => $value,
            Self::Redis($section) => $value,
        }
    };
}

impl<'a> Guarded<'a> {
    /// What it is.
    #[must_use]
    pub const fn engine(self) -> Engine {
        match self {
            Self::Postgres(_) => Engine::Postgres,
            Self::Redis(_) => Engine::Redis,
        }
    }
    /// Name of the table in the file.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Postgres(_) => "instance",
            Self::Redis(_) => "redis",
        }
    }
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'a InstanceName {
        both!(self, section => &section.name)
    }
    /// Its group.
    #[must_use]
    pub const fn group(self) -> &'a GroupName {
        both!(self, section => &section.group)
    }
    /// Where its guard listens.
    #[must_use]
    pub const fn guard_listen(self) -> SocketAddr {
        both!(self, section => section.guard_listen)
    }
    /// Where it listens.
    #[must_use]
    pub fn listen(self) -> IpAddr {
        both!(self, section => section.listen.unwrap_or(section.guard_listen.ip()))
    }
    /// Its port.
    #[must_use]
    pub const fn port(self) -> u16 {
        both!(self, section => section.port)
    }
    /// Its data directory.
    #[must_use]
    pub fn data_dir(self) -> &'a Path {
        both!(self, section => &section.data_dir)
    }
    /// Its guard's directory.
    #[must_use]
    pub fn state_dir(self) -> &'a Path {
        both!(self, section => &section.state_dir)
    }
    /// Where its output goes.
    #[must_use]
    pub fn log_file(self) -> &'a Path {
        both!(self, section => &section.log_file)
    }
    /// The watchdog device that its guard is to use.
    #[must_use]
    pub fn watchdog(self) -> Option<&'a Path> {
        both!(self, section => section.watchdog.as_deref())
    }
    /// Certificate of its guard.
    #[must_use]
    pub fn cert(self) -> &'a Path {
        both!(self, section => &section.cert)
    }
    /// The key to that.
    #[must_use]
    pub fn key(self) -> &'a Path {
        both!(self, section => &section.key)
    }
}
