//! The fencers that come as examples keep their contract: each is run, with a stand-in for the tool that it calls, against a host
//! that is on, that is off, that is stubborn, and against a controller that does not answer.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::root;

/// A tool that knows how the host stands, from a file, and changes it. What it is called with tells the three apart.
const TOOL: &str = r#"#!/bin/sh
test -e "$HOST/dead" && { echo "no answer"; exit 1; }
echo "$*" >>"$HOST/calls"
case "$*" in
    *"power status") test -e "$HOST/off" && echo "Chassis Power is off" || echo "Chassis Power is on" ;;
    *domstate*) test -e "$HOST/off" && echo "shut off" || echo running ;;
    *describe-instances*) test -e "$HOST/off" && echo stopped || echo running ;;
    *"power off" | *destroy* | *stop-instances*) test -e "$HOST/stubborn" || touch "$HOST/off" ;;
esac
"#;

/// What the fencer says when it is asked for this, and its exit code.
fn fence(dir: &Path, name: &str, args: &[&str], action: &str) -> (i32, String) {
    let path = format!("{}:/usr/bin:/bin", dir.display());
    let mut child = Command::new(root().join("deploy/fencers").join(name))
        .args(args)
        .env_clear()
        .env("PATH", path)
        .env("HOST", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let call = format!("{{\"action\":\"{action}\",\"instance\":\"pg-east\",\"address\":\"10.0.0.1\"}}\n");
    child.stdin.take().unwrap().write_all(call.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn the_example_fencers_keep_their_contract() {
    let secrets = tempfile::tempdir().unwrap();
    let secret = secrets.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let secret = secret.display().to_string();
    for (name, tool, args, off) in [
        ("ipmi", "ipmitool", vec!["10.0.9.1", &secret, &secret], "10.0.9.1: Chassis Power is off"),
        ("libvirt", "virsh", vec!["qemu+ssh://hypervisor/system", "pg-east"], "pg-east: shut off"),
        ("ec2", "aws", vec!["us-east-1", "i-0123456789abcdef0", &secret], "i-0123456789abcdef0: stopped"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let program = dir.join(tool);
        std::fs::write(&program, TOOL).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str| dir.join(name);
        assert_eq!(fence(dir, name, &args, "status").0, 1, "{name}: it is on");
        assert!(!file("off").exists(), "{name}: a question turned it off");
        std::fs::write(file("stubborn"), "").unwrap();
        assert_eq!(fence(dir, name, &args, "off").0, 75, "{name}: told, and still on");
        std::fs::remove_file(file("stubborn")).unwrap();
        let (mut code, mut said) = fence(dir, name, &args, "off");
        if code == 75 {
            (code, said) = fence(dir, name, &args, "off");
        }
        assert_eq!((code, said.as_str()), (0, off), "{name}");
        assert_eq!(fence(dir, name, &args, "status"), (0, off.to_owned()), "{name}");
        assert_eq!(fence(dir, name, &args, "off").0, 0, "{name}: off is off");
        std::fs::write(file("dead"), "").unwrap();
        assert_ne!(fence(dir, name, &args, "status").0, 0, "{name}: nobody knows");
        assert_ne!(fence(dir, name, &args, "off").0, 0, "{name}: nobody knows");
        std::fs::remove_file(file("dead")).unwrap();
        assert_ne!(fence(dir, name, &args, "cycle").0, 0, "{name}: an action that it does not know");
        let calls = std::fs::read_to_string(file("calls")).unwrap();
        let own = args.iter().filter(|arg| **arg != secret);
        assert!(own.clone().count() > 0 && own.into_iter().all(|arg| calls.contains(arg)), "{name}: {calls}");
        assert!(!calls.contains("cycle") && !calls.contains("reset"), "{name}: {calls}");
    }
}
