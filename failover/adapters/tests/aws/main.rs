//! Routes through AWS: Route 53 on a strict server of our own, which refuses what the real one refuses, and on `moto`, which
//! judges the form of what is sent; target groups on both in the same way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod balancer;
#[path = "../contract/mod.rs"]
mod contract;
mod elbv2;
mod moto;
mod route53;
mod strict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_adapters::aws::{Access, CredentialsFrom};

/// A secret that must not be seen anywhere.
const SECRET: &str = "hush-hush-hush-hush";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A file with credentials, as `aws configure` writes it.
fn key_file(dir: &Path, id: &str) -> PathBuf {
    let path = dir.join(id);
    let text = format!(
        "[default]\naws_access_key_id = {id}\naws_secret_access_key = {SECRET}\naws_session_token = {SECRET}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn access(endpoint: &str, credentials: PathBuf) -> Access {
    Access {
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        credentials: CredentialsFrom::File(credentials),
    }
}
