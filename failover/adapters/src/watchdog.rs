//! A watchdog device of Linux (`/dev/watchdog`): whoever opens it must write to it again and again, or the host is reset.
//!
//! It never decides when the device may be written to: whoever holds it does. What it opens has a timeout that fits what was
//! asked for, as the driver itself states it afterwards, or it is closed again and nothing is armed. A device that cannot be
//! closed again is opened only when its shortest timeout is known to fit. Source: the kernel's
//! `Documentation/watchdog/watchdog-api.rst`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::ioctl::{Getter, Updater, ioctl, opcode};

/// `WDIOC_GETSUPPORT`, `_IOR('W', 0, struct watchdog_info)`.
const GET_SUPPORT: rustix::ioctl::Opcode = opcode::read::<Support>(b'W', 0);
/// `WDIOC_SETTIMEOUT`, `_IOWR('W', 6, int)`.
const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);
/// `WDIOC_GETTIMEOUT`, `_IOR('W', 7, int)`.
const GET_TIMEOUT: rustix::ioctl::Opcode = opcode::read::<i32>(b'W', 7);
/// `WDIOF_MAGICCLOSE`: writing `V` right before the close disarms it.
const MAGIC_CLOSE: u32 = 0x0100;

/// `struct watchdog_info`.
#[repr(C)]
struct Support {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// Why a device is not used.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// It cannot be opened.
    #[error("{} cannot be opened; is it there, and may this user write to it", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not answer as a watchdog does.
    #[error("{} does not answer as a watchdog does", path.display())]
    Foreign {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its shortest timeout is too long: the host would be reset too late.
    #[error("{}: its timeout of {} s is longer than what is left after a lease, {} s", path.display(), timeout.as_secs(), fits.as_secs_f64())]
    TooLong {
        /// The device.
        path: PathBuf,
        /// After how long it would reset the host.
        timeout: Duration,
        /// Longest that was asked for.
        fits: Duration,
    },
    /// Once opened it cannot be closed, and it is not known to fit.
    #[error("{} cannot be closed once it is open (nowayout), and its shortest timeout is not known to fit", path.display())]
    NoWayOut {
        /// The device.
        path: PathBuf,
    },
    /// It was not written to.
    #[error("{} cannot be written to", path.display())]
    Write {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open, armed device.
#[derive(Debug)]
pub struct Watchdog {
    path: PathBuf,
    file: File,
    identity: String,
    closes: bool,
    stages: u32,
    timeout: Duration,
}

impl Watchdog {
    /// Opens and arms it with the longest timeout that fits: after that long without a write the host is reset.
    ///
    /// # Errors
    /// [`WatchdogError`]; the device is not armed then, unless its driver does not let go of it, which is said.
    pub fn open(path: &Path, fits: Duration) -> Result<Self, WatchdogError> {
        look_before(path, fits)?;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(rustix::fs::OFlags::CLOEXEC.bits() as i32)
            .open(path)
            .map_err(|source| WatchdogError::Open { path: path.to_owned(), source })?;
        let mut device = Self {
            path: path.to_owned(),
            file,
            identity: String::new(),
            closes: true,
            stages: 1,
            timeout: Duration::ZERO,
        };
        match device.learn().and_then(|()| device.fit(fits)) {
            Ok(()) => Ok(device),
            Err(error) => match device.close() {
                Ok(()) => Err(error),
                Err(armed) => Err(armed),
            },
        }
    }

    fn learn(&mut self) -> Result<(), WatchdogError> {
        let support = get_support(&self.file).map_err(|source| self.foreign(source))?;
        let name = support.identity.split(|byte| *byte == 0).next().unwrap_or_default();
        self.identity = String::from_utf8_lossy(name).into_owned();
        self.closes = support.options & MAGIC_CLOSE != 0;
        // Intel's TCO resets the host when its timer has run out a second time.
        self.stages = if self.identity.starts_with("iTCO_wdt") { 2 } else { 1 };
        Ok(())
    }

    /// Sets the longest timeout that fits.
    ///
    /// # Errors
    /// [`WatchdogError::TooLong`] when the driver does not take one; it is armed with what it has then.
    pub fn fit(&mut self, fits: Duration) -> Result<(), WatchdogError> {
        let wanted = i32::try_from(fits.as_secs() / u64::from(self.stages)).unwrap_or(i32::MAX).max(1);
        // A driver that sets none has a fixed one, which is read back like any other.
        let _ = set_timeout(&self.file, wanted);
        let real = get_timeout(&self.file).map_err(|source| self.foreign(source))?;
        self.timeout = Duration::from_secs(u64::try_from(real).unwrap_or(u64::MAX)) * self.stages;
        if real < 1 || self.timeout > fits {
            return Err(WatchdogError::TooLong { path: self.path.clone(), timeout: self.timeout, fits });
        }
        Ok(())
    }

    fn foreign(&self, source: io::Error) -> WatchdogError {
        WatchdogError::Foreign { path: self.path.clone(), source }
    }

    /// After how long without a write the host is reset, at the latest.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the driver calls itself.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Puts the reset off for another timeout.
    ///
    /// # Errors
    /// [`WatchdogError::Write`].
    pub fn kick(&mut self) -> Result<(), WatchdogError> {
        self.write(b"\0")
    }

    /// Disarms and closes it.
    ///
    /// # Errors
    /// [`WatchdogError::NoWayOut`] when its driver goes on: the host is reset unless it is opened again in time.
    pub fn close(mut self) -> Result<(), WatchdogError> {
        self.write(b"V")?;
        let stays = !self.closes || state_of(&self.path, "nowayout").is_some_and(|text| text == "1");
        if stays { Err(WatchdogError::NoWayOut { path: self.path.clone() }) } else { Ok(()) }
    }

    fn write(&mut self, what: &[u8]) -> Result<(), WatchdogError> {
        self.file.write_all(what).map_err(|source| WatchdogError::Write { path: self.path.clone(), source })
    }
}

/// What the kernel says of a device without opening it, which would arm it.
fn look_before(path: &Path, fits: Duration) -> Result<(), WatchdogError> {
    let seconds = |name| state_of(path, name).and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let shortest = seconds("min_timeout").filter(|least| !least.is_zero());
    if let Some(timeout) = shortest.filter(|least| *least > fits) {
        return Err(WatchdogError::TooLong { path: path.to_owned(), timeout, fits });
    }
    let stays = state_of(path, "nowayout").is_some_and(|text| text == "1");
    let set = seconds("timeout");
    if stays && shortest.is_none() && set.is_none_or(|set| set > fits) {
        return Err(WatchdogError::NoWayOut { path: path.to_owned() });
    }
    Ok(())
}

/// A value that the kernel shows of a device (`CONFIG_WATCHDOG_SYSFS`).
fn state_of(path: &Path, name: &str) -> Option<String> {
    let device = path.file_name()?.to_str()?;
    // `/dev/watchdog` is the first one's old name.
    let device = if device == "watchdog" { "watchdog0" } else { device };
    let text = std::fs::read_to_string(Path::new("/sys/class/watchdog").join(device).join(name)).ok()?;
    Some(text.trim().to_owned())
}

#[allow(unsafe_code)]
fn get_support(file: impl AsFd) -> io::Result<Support> {
    // SAFETY: the kernel writes one `struct watchdog_info`, of which `Support` is the layout.
    Ok(unsafe { ioctl(file, Getter::<GET_SUPPORT, Support>::new()) }?)
}

#[allow(unsafe_code)]
fn get_timeout(file: impl AsFd) -> io::Result<i32> {
    // SAFETY: the kernel writes one `int`.
    Ok(unsafe { ioctl(file, Getter::<GET_TIMEOUT, i32>::new()) }?)
}

#[allow(unsafe_code)]
fn set_timeout(file: impl AsFd, mut seconds: i32) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `int`, which lives as long as the call.
    unsafe { ioctl(file, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        // As `printf("%#lx", WDIOC_GETSUPPORT)` of <linux/watchdog.h> prints them.
        assert_eq!(GET_SUPPORT, 0x8028_5700);
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
        assert_eq!(GET_TIMEOUT, 0x8004_5707);
        assert_eq!(size_of::<Support>(), 40);
    }

    #[test]
    fn what_is_no_watchdog_is_refused_and_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog9");
        let absent = Watchdog::open(&path, Duration::from_secs(3)).unwrap_err();
        assert!(matches!(absent, WatchdogError::Open { .. }), "{absent}");
        std::fs::write(&path, "").unwrap();
        let file = Watchdog::open(&path, Duration::from_secs(3)).unwrap_err();
        assert!(matches!(file, WatchdogError::Foreign { .. }), "{file}");
    }
}
