//! What must hold of the sections about Redis.

use std::path::Path;

use super::{At, Finding, finding, public, secret};
use crate::config::{NodeConfig, RedisSection, RedisTls};

pub(super) fn paths<'a>(config: &'a NodeConfig, paths: &mut Vec<(&'a Path, Vec<At>)>) {
    if let Some(probe) = &config.redis_probe {
        paths.extend(probe.password_file.as_deref().map(|file| (file, at!["redis_probe", "password_file"])));
    }
    for (index, redis) in config.redis.iter().enumerate() {
        let here = |field| at!["redis", index, field];
        paths.extend([
            (redis.data_dir.as_path(), here("data_dir")),
            (redis.program.as_path(), here("program")),
            (redis.state_dir.as_path(), here("state_dir")),
            (redis.log_file.as_path(), here("log_file")),
            (redis.cert.as_path(), here("cert")),
            (redis.key.as_path(), here("key")),
        ]);
        let optional = [
            ("config_file", &redis.config_file),
            ("password_file", &redis.password_file),
            ("replication_password_file", &redis.replication_password_file),
            ("keep_dir", &redis.keep_dir),
            ("cgroup", &redis.cgroup),
            ("watchdog", &redis.watchdog),
        ];
        paths.extend(optional.into_iter().filter_map(|(field, path)| Some((path.as_deref()?, here(field)))));
    }
}

pub(super) fn files(redis: &RedisSection, index: usize, found: &mut Vec<Finding>) {
    let secrets = [
        ("password_file", &redis.password_file),
        ("replication_password_file", &redis.replication_password_file),
    ];
    for (field, file) in secrets {
        if let Some(file) = file {
            secret(file, 0o077, at!["redis", index, field], found);
        }
    }
    tls(redis.tls.as_ref(), at!["redis", index, "tls"], found);
    if !redis.program.is_file() {
        found.push(finding(
            at!["redis", index, "program"],
            format!("there is no {}", redis.program.display()),
            "name the server program, such as /usr/bin/redis-server or /usr/bin/valkey-server, and install its package",
        ));
    }
    if let Some(file) = &redis.config_file {
        public(file, at!["redis", index, "config_file"], found);
    }
}

pub(super) fn tls(tls: Option<&RedisTls>, at: Vec<At>, found: &mut Vec<Finding>) {
    let Some(tls) = tls else { return };
    if let Err(error) = mesh_adapters::redis::Tls::load(&tls.files()) {
        found.push(finding(at, crate::cli::with_causes(&error), "correct the files, or leave `tls` out"));
    }
}
