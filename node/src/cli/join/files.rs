//! The files of a host that joins: where they are, what of them is there already, and writing each as a whole.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mesh_proto::join::Issued;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::exit::{Exit, Failure};
use crate::ca::token::Token;
use crate::config::NodeConfig;
use crate::tls::material::Files;
use crate::tls::{Identity, Material};

/// Where each file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The list of revoked certificates, where this host's file names one or nothing says otherwise.
    pub list: Option<PathBuf>,
    pub members: PathBuf,
}

/// An account of this host.
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// The account of this name.
pub(super) fn account(name: &str) -> Result<Account, Failure> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let own = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        own.then_some(Account { uid, gid })
    });
    found.ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("this host has no account {name}"),
            "install the package first, or name another; nothing was sent",
        )
    })
}

/// Gives files to an account.
pub(super) fn given_to<'a>(
    account: &Account,
    paths: impl Iterator<Item = &'a PathBuf>,
) -> Result<(), Failure> {
    for path in paths {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).map_err(|error| {
            let what = format!("cannot give {} away: {error}", path.display());
            Failure::new(
                Exit::Error,
                what,
                "run this as root, or give the files to that account by hand (chown)",
            )
        })?;
    }
    Ok(())
}

impl Places {
    /// As the host's own file says, or in one directory.
    pub fn of(
        identity: &Identity,
        config: Option<&NodeConfig>,
        path: &Path,
        out: Option<&Path>,
    ) -> Result<Self, Failure> {
        let other = |this: String| {
            let what = format!("the token is for {identity}, and {this}");
            Failure::new(
                Exit::Invalid,
                what,
                "take the token of this very host; nothing was sent, and the token is as good as before",
            )
        };
        let told = match (identity, config) {
            (Identity::Operator(..) | Identity::Authority, _) | (_, None) => None,
            (Identity::Agent(name), Some(config)) => {
                if config.agent.name != *name {
                    return Err(other(format!("{} is of agent {}", path.display(), config.agent.name)));
                }
                Some((config, config.tls.cert.as_path(), config.tls.key.as_path()))
            }
            (Identity::Guard(name), Some(config)) => {
                let instance = config.instance(name);
                let instance =
                    instance.ok_or_else(|| other(format!("{} names no instance {name}", path.display())))?;
                Some((config, instance.cert(), instance.key()))
            }
        };
        if let (Some((config, cert, key)), None) = (told, out) {
            let members = super::beside(&config.tls.ca).join("members.toml");
            let (ca, list) = (config.tls.ca.clone(), config.tls.crl.clone());
            return Ok(Self { ca, cert: cert.to_owned(), key: key.to_owned(), list, members });
        }
        let dir = out.map_or_else(|| super::beside(path), Path::to_owned);
        std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
        let stem = crate::ca::stem(identity);
        let file = |name: &str| dir.join(name);
        Ok(Self {
            ca: file("ca.crt"),
            cert: file(&format!("{stem}.crt")),
            key: file(&format!("{stem}.key")),
            list: Some(file("crl.pem")),
            members: file("members.toml"),
        })
    }

    /// An authority that is there already must be the token's: it may be another mesh's host.
    pub fn check_authority(&self, fingerprint: [u8; 32]) -> Result<(), Failure> {
        if !self.ca.exists() {
            return Ok(());
        }
        let known = std::fs::read(&self.ca).map_err(|error| failed(&self.ca, &error))?;
        let mut known = CertificateDer::pem_slice_iter(&known).filter_map(Result::ok);
        if known.any(|one| ring::digest::digest(&ring::digest::SHA256, &one).as_ref() == fingerprint) {
            return Ok(());
        }
        let what = format!("{} holds another authority than that of the token", self.ca.display());
        let next = "take a token of that authority; if this host is to leave its old mesh, move its files away first; nothing was sent";
        Err(Failure::new(Exit::Conflict, what, next))
    }

    /// The key: that of an earlier try that did not come to its end, or a new one, which is on disk when this returns. Whether it
    /// was there.
    pub fn key(&self) -> Result<(KeyPair, bool), Failure> {
        let there = [(&self.cert, self.cert.exists()), (&self.key, self.key.exists())];
        match there {
            [(cert, true), (_, true)] => Err(Failure::new(
                Exit::Conflict,
                format!("this host has its certificate already, in {}", cert.display()),
                "it need not join again; to replace it, see the page `certificates` of the runbooks; nothing was sent",
            )),
            [(cert, true), (key, false)] => Err(Failure::new(
                Exit::Conflict,
                format!("{} is there, and its key {} is not", cert.display(), key.display()),
                "move the certificate away, then join with a new token; nothing was sent",
            )),
            [(_, false), (path, true)] => {
                super::remote::exposed(path)?;
                let text = std::fs::read_to_string(path).map_err(|error| failed(path, &error))?;
                let key = KeyPair::from_pem(&text).map_err(|error| {
                    let what = format!("{} is no key that can be used: {error}", path.display());
                    Failure::new(
                        Exit::Invalid,
                        what,
                        "move it away, and run this again: it makes another; nothing was sent",
                    )
                })?;
                Ok((key, true))
            }
            [(_, false), (path, false)] => {
                let key = KeyPair::generate().map_err(|error| {
                    Failure::new(Exit::Error, format!("no key could be made: {error}"), "nothing was sent")
                })?;
                whole(path, &key.serialize_pem(), 0o600, false)?;
                Ok((key, false))
            }
        }
    }

    /// Checks what the authority sent, and writes it; the certificate last, so that it is there only when everything is. What was
    /// written.
    pub fn write(&self, issued: &Issued, key: &KeyPair, token: &Token) -> Result<Vec<PathBuf>, Failure> {
        let unusable = |why: String| {
            Failure::new(
                Exit::Error,
                format!("what the authority sent cannot be used: {why}"),
                "no certificate was written; please report this as a bug",
            )
        };
        let authority = CertificateDer::from_pem_slice(issued.authority.as_bytes());
        let authority = authority.map_err(|error| unusable(error.to_string()))?;
        if ring::digest::digest(&ring::digest::SHA256, &authority).as_ref() != token.fingerprint {
            return Err(unusable("it is another authority's".to_owned()));
        }
        let key = key.serialize_pem();
        let texts = (issued.authority.as_str(), issued.cert.as_str(), key.as_str());
        let files = Files { ca: &self.ca, cert: &self.cert, key: &self.key, crl: None };
        Material::check(texts, files, &issued.mesh, &token.identity)
            .map_err(|error| unusable(crate::cli::with_causes(&error)))?;
        let mut written = Vec::new();
        if !self.ca.exists() {
            whole(&self.ca, &issued.authority, 0o644, false)?;
            written.push(self.ca.clone());
        }
        if let (Some(path), Some(list)) = (&self.list, &issued.list)
            && !path.exists()
        {
            whole(path, list, 0o644, false)?;
            written.push(path.clone());
        }
        if !issued.members.is_empty() {
            whole(&self.members, &members(issued), 0o644, true)?;
            written.push(self.members.clone());
        }
        whole(&self.cert, &issued.cert, 0o644, false)?;
        written.push(self.cert.clone());
        Ok(written)
    }
}

/// The members as this host's file has its voters, to be copied from.
fn members(issued: &Issued) -> String {
    let mut text = format!(
        "# The members of mesh {} when this host joined. Copy the voters into its mesh.toml.\n\n[mesh]\nid = \"{}\"\n",
        issued.mesh, issued.mesh
    );
    for member in &issued.members {
        let (mark, word) = if member.voter { ("", "") } else { ("# ", "# a member without a vote\n") };
        text.push_str(&format!(
            "\n{word}{mark}[[mesh.voter]]\n{mark}id = {}\n{mark}agent = \"{}\"\n{mark}site = \"{}\"\n{mark}address = \"{}\"\n",
            member.id, member.agent, member.site, member.address
        ));
    }
    text
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot read or write {}: {error}", path.display());
    Failure::new(
        Exit::Error,
        what,
        "make its directory, and run this as a user that may write there; the same command goes on where this stopped",
    )
}

/// Writes a file as a whole or not at all; one that is there is replaced only where that is meant.
fn whole(path: &Path, text: &str, mode: u32, replace: bool) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = || -> io::Result<()> {
        // Left behind by a try that was interrupted: never read, and may have another mode.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if replace {
            std::fs::rename(&part, path)?;
        } else {
            // Unlike a rename it takes nothing away that somebody put there meanwhile.
            std::fs::hard_link(&part, path)?;
            std::fs::remove_file(&part)?;
        }
        std::fs::File::open(super::beside(path))?.sync_all()
    };
    written().map_err(|error| failed(path, &error))
}
