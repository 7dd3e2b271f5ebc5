//! The sections about AWS.

use super::*;

const AWS: &str = r#"
[[route53]]
zone = "example.org."
hosted_zone = "Z0123456789ABC"
credentials_file = "/etc/mesh/aws"
[[elbv2]]
target_group = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
endpoint = "https://vpce-01.elasticloadbalancing.eu-west-1.vpce.amazonaws.com"
"#;

#[test]
#[cfg(feature = "aws")]
fn zones_and_target_groups_of_aws_are_accepted_and_their_mistakes_have_a_place() {
    let good = format!("{GOOD}{AWS}");
    let config = NodeConfig::parse(Path::new("x"), &good).unwrap();
    assert_eq!(config.hosted_zones[0].region, "us-east-1");
    assert_eq!(config.target_groups[0].target_group.region(), "eu-west-1");
    for (from, to, line_has, what_has) in [
        ("example.org.", "example.com.", "example.com.", "two sections"),
        ("Z0123456789ABC", "/hostedzone/Z1", "/hostedzone/Z1", "no id of a hosted zone"),
        ("\"/etc/mesh/aws\"", "\"aws\"", "\"aws\"", "not an absolute path"),
        ("https://vpce", "http://vpce", "http://vpce", "is no endpoint"),
        ("targetgroup/orders", "loadbalancer/orders", "loadbalancer", "no ARN of a target group"),
        ("[[elbv2]]", "[[elbv2]]\nsecret_key = \"x\"", "secret_key", "unknown field"),
        ("hosted_zone", "region = \"US East\"\nhosted_zone", "US East", "is no region"),
    ] {
        let found = problems(&good.replacen(from, to, 1));
        let hit = found.iter().find(|p| p.text.contains(line_has) && p.what.contains(what_has));
        assert!(hit.is_some_and(|p| p.line > 1), "{from} -> {to}: {found:#?}");
    }
    for (good, text) in [
        (true, "http://127.0.0.1:5000"),
        (true, "http://[::1]:5000"),
        (false, "http://10.0.0.1"),
        (false, "https://"),
        (false, "https://user:word@host"),
        (false, "ftp://host"),
    ] {
        assert_eq!(Endpoint::try_from(text.to_owned()).is_ok(), good, "{text}");
    }
}

#[test]
#[cfg(feature = "aws")]
fn a_credentials_file_is_tried_before_it_is_needed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let text = format!("{GOOD}{AWS}")
        .replace("/etc/mesh/ca.crt", &put("ca.crt", "x", 0o644))
        .replace("/etc/mesh/agent.crt", &put("agent.crt", "x", 0o644))
        .replace("/etc/mesh/agent.key", &put("agent.key", "x", 0o600))
        .replace("/etc/mesh/tsig.key", &put("tsig.key", "c2VjcmV0LXNlY3JldA==\n", 0o600))
        .replace("/etc/mesh/aws", &put("aws", "[default]\naws_access_key_id = AKID\n", 0o644));
    let file = dir.path().join("mesh.toml");
    std::fs::write(&file, &text).unwrap();
    let error = || NodeConfig::load(&file, Reader::Agent).unwrap_err().to_string();
    assert!(error().contains("credentials_file = ") && error().contains("chmod o="), "{}", error());
    put("aws", "[default]\naws_access_key_id = AKID\n", 0o640);
    assert!(error().contains("has no aws_secret_access_key in [default]"), "{}", error());
    put("aws", "[default]\naws_access_key_id = AKID\naws_secret_access_key = hush\n", 0o640);
    NodeConfig::load(&file, Reader::Agent).unwrap();
}

#[test]
#[cfg(not(feature = "aws"))]
fn a_mesh_without_aws_says_so() {
    let found = problems(&format!("{GOOD}{AWS}"));
    assert!(
        found.iter().all(|p| p.what.contains("built without AWS") && p.next.contains("`aws`")),
        "{found:#?}"
    );
    assert_eq!(found.len(), 2);
}
