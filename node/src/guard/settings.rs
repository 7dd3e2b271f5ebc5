//! From the node-local file to what the PostgreSQL adapter wants to know.

use mesh_adapters::postgres::{Credentials, Instance, OpenError, Settings};

use crate::config::{InstanceSection, NodeConfig};

/// The observers' role where the file does not name one.
const PROBE_USER: &str = "mesh_probe";

/// Opens the instance of a section. Reads nothing but the paths.
pub(super) fn open(config: &NodeConfig, section: &InstanceSection) -> Result<Instance, OpenError> {
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
