//! The sections about AWS.

use super::{At, Finding, finding, secret};
use crate::config::NodeConfig;

/// Relations between values.
pub(super) fn values(config: &NodeConfig, found: &mut Vec<Finding>) {
    for (index, section) in config.hosted_zones.iter().enumerate() {
        let here = |field| at!["route53", index, field];
        let earlier = config.hosted_zones[..index].iter().any(|other| other.zone == section.zone);
        if earlier || config.zones.iter().any(|other| other.zone == section.zone) {
            let what = format!("zone {} has two sections", section.zone);
            found.push(finding(here("zone"), what, "name each zone once, in [[dns]] or in [[route53]]"));
        }
        let id = &section.hosted_zone;
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
            let next = "write what `aws route53 list-hosted-zones` shows after /hostedzone/";
            found.push(finding(here("hosted_zone"), format!("{id:?} is no id of a hosted zone"), next));
        }
        if !is_region(&section.region) {
            let what = format!("{:?} is no region", section.region);
            found.push(finding(here("region"), what, "leave it out, or write one such as us-east-1"));
        }
    }
    for (index, section) in config.target_groups.iter().enumerate() {
        let same = |other: &&crate::config::Elbv2Section| other.target_group == section.target_group;
        if config.target_groups[..index].iter().any(|other| same(&other)) {
            let what = "the target group has two sections";
            found.push(finding(at!["elbv2", index, "target_group"], what, "name each target group once"));
        }
    }
    if !cfg!(feature = "aws") {
        let sections =
            [("route53", config.hosted_zones.is_empty()), ("elbv2", config.target_groups.is_empty())];
        for (name, _) in sections.into_iter().filter(|(_, empty)| !empty) {
            found.push(finding(
                vec![At::from(name)],
                "this mesh was built without AWS",
                "install one that was built with the cargo feature `aws`, or take the section out",
            ));
        }
    }
}

fn is_region(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The credentials files are read again for each request; here only so that a wrong one is noticed before it is needed.
pub(super) fn files(config: &NodeConfig, found: &mut Vec<Finding>) {
    let zones = config.hosted_zones.iter().map(|section| ("route53", &section.credentials_file));
    let groups = config.target_groups.iter().map(|section| ("elbv2", &section.credentials_file));
    let numbered = zones.enumerate().chain(groups.enumerate());
    for (index, (name, file)) in numbered {
        let Some(file) = file else { continue };
        let at = || at![name, index, "credentials_file"];
        let before = found.len();
        secret(file, 0o007, at(), found);
        if found.len() > before {
            continue;
        }
        if let Err(what) = crate::agent::routes::aws_credentials(file) {
            let next = "write it as `aws configure` does: aws_access_key_id and aws_secret_access_key below [default]";
            found.push(finding(at(), what, next));
        }
    }
}
