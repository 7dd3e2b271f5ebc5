//! What a test needs of the host: a free port, PostgreSQL, its user.

use std::net::TcpListener as StdListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 50) as u16 * 20;
    loop {
        let port = 24000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 1000;
        // Taken until this process ends, by its UDP side: another test may look for a port at the same moment.
        let Ok(taken) = std::net::UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if StdListener::bind(("127.0.0.1", port)).is_ok() {
            std::mem::forget(taken);
            return port;
        }
    }
}

pub fn bin_dir() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: apt install postgresql");
    let mut dirs: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    dirs.sort();
    dirs.into_iter().rfind(|dir| dir.join("postgres").exists()).expect("no PostgreSQL server")
}

/// As root, everything of the database runs as its user.
pub fn as_database_user(command: &mut Command) -> &mut Command {
    if let Some((uid, gid)) = database_user() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/")
}

pub fn database_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
