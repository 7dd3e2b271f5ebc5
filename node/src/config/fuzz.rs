//! The node's file, written by anybody: what is wrong is shown at a place that there is.

use std::path::Path;

use super::{ConfigError, NodeConfig};

#[test]
fn fuzz_node() {
    mesh_fuzz::fuzz!("node", 4, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let problems = match NodeConfig::parse(Path::new("mesh.toml"), &text) {
            Err(ConfigError::Invalid { problems, .. }) => problems,
            Err(ConfigError::Read { .. }) => panic!("nothing was read"),
            Ok(config) => {
                assert!(config.guarded().all(|instance| config.instance(instance.name()).is_some()));
                return;
            }
        };
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(!problem.what.is_empty() && !problem.next.is_empty(), "{problem:?}");
            let line = problem.line.checked_sub(1).map(|line| text.split('\n').nth(line).unwrap_or("?"));
            assert!(line.is_none_or(|line| line.trim_end() == problem.text.trim_end()), "{problem:?}");
        }
    });
}
