//! From the node-local file to what the adapter of an engine wants to know.

use mesh_adapters::postgres::{Credentials, Instance, Settings};
use mesh_adapters::{postgres, redis};

use super::engine::Engine;
use crate::config::{Guarded, InstanceSection, NodeConfig, RedisSection};

/// The observers' role where the file does not name one.
const PROBE_USER: &str = "mesh_probe";

/// Why a section describes nothing that can be guarded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
    /// Redis.
    #[error(transparent)]
    Redis(#[from] redis::OpenError),
}

/// Opens the instance of a section. Reads nothing but the paths, and the files of TLS.
pub(super) fn open(config: &NodeConfig, section: Guarded<'_>) -> Result<Engine, OpenError> {
    Ok(match section {
        Guarded::Postgres(section) => Engine::Postgres(postgres(config, section)?),
        Guarded::Redis(section) => Engine::Redis(redis(section)?),
    })
}

pub(crate) fn redis(section: &RedisSection) -> Result<redis::Instance, redis::OpenError> {
    let beside = section.data_dir.with_extension("diverged");
    // Without a password nobody is named: the server trusts whoever reaches it.
    let named = |user: &str, file: &Option<std::path::PathBuf>| {
        file.is_some().then(|| redis::Credentials { user: user.to_owned(), password_file: file.clone() })
    };
    redis::Instance::open(redis::Settings {
        name: section.name.to_string(),
        data_dir: section.data_dir.clone(),
        program: section.program.clone(),
        config_file: section.config_file.clone(),
        state_dir: section.state_dir.clone(),
        keep_dir: section.keep_dir.clone().unwrap_or(beside),
        listen: Guarded::Redis(section).listen(),
        port: section.port,
        credentials: named(&section.user, &section.password_file),
        replication: section
            .replication_user
            .as_deref()
            .and_then(|user| named(user, &section.replication_password_file)),
        tls: section.tls.as_ref().map(crate::config::RedisTls::files),
        min_replicas: section.min_replicas_to_write,
        log_file: section.log_file.clone(),
        options: Vec::new(),
        cgroup: section.cgroup.clone(),
    })
}

pub(crate) fn postgres(
    config: &NodeConfig,
    section: &InstanceSection,
) -> Result<Instance, postgres::OpenError> {
    let beside = section.data_dir.with_extension("diverged");
    Instance::open(Settings {
        name: section.name.to_string(),
        data_dir: section.data_dir.clone(),
        bin_dir: section.bin_dir.clone(),
        config_file: section.config_file.clone(),
        operator_hba: section.hba_file.clone(),
        state_dir: section.state_dir.clone(),
        keep_dir: section.keep_dir.clone().unwrap_or(beside),
        listen: section.listen.unwrap_or(section.guard_listen.ip()),
        port: section.port,
        socket_dir: section.socket_dir.clone(),
        superuser: section.superuser.clone(),
        database: section.database.clone(),
        run_as: None,
        log_file: section.log_file.clone(),
        options: Vec::new(),
        replication: Credentials {
            user: section.replication_user.clone(),
            passfile: section.replication_passfile.clone(),
        },
        probe: Credentials {
            user: config.probe.as_ref().map_or_else(|| PROBE_USER.to_owned(), |probe| probe.user.clone()),
            // The boot gate needs only its name. The password is of use where the role is to be made, and may be out of
            // this user's reach.
            passfile: config
                .probe
                .as_ref()
                .and_then(|probe| probe.password_file.clone())
                .filter(|file| std::fs::File::open(file).is_ok()),
        },
        mesh_hba: Vec::new(),
        cgroup: section.cgroup.clone(),
    })
}
