//! The permissions that mesh needs, as rules for `ACL SETUSER` or a `user` line of the configuration. A test runs all of it
//! under these rules and nothing else.

/// The user of guards.
pub const RULES: &[&str] = &[
    "resetkeys",
    "resetchannels",
    "-@all",
    "~mesh:*",
    "+ping",
    "+info",
    "+hset",
    "+hgetall",
    "+set",
    "+replicaof",
    "+config|get",
    "+config|set",
    "+client|kill",
    "+client|pause",
    "+client|unpause",
    "+pubsub|numsub",
    "+bgsave",
    "+shutdown",
];

/// The user of the agents that only observe, and prove a route by a write.
pub const OBSERVER_RULES: &[&str] = &[
    "resetkeys",
    "resetchannels",
    "-@all",
    "~mesh:*",
    "+ping",
    "+info",
    "+hgetall",
    "+set",
    "+get",
    "+exists",
];

/// The user under which replicas stream.
pub const REPLICA_RULES: &[&str] = &["resetkeys", "resetchannels", "-@all", "+ping", "+psync", "+replconf"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_gives_these_rules() {
        let example = include_str!("../../../../deploy/config/redis-users.acl");
        for (user, rules) in
            [("mesh", RULES), ("mesh-observer", OBSERVER_RULES), ("mesh-replica", REPLICA_RULES)]
        {
            let line = example.lines().find(|line| line.starts_with(&format!("user {user} ")));
            let line = line.unwrap_or_else(|| panic!("no user {user}"));
            assert!(line.ends_with(&rules.join(" ")), "{line}");
        }
    }
}
