//! Routes through AWS Elastic Load Balancing: a target group that this agent's file names.

use std::net::SocketAddr;

use mesh_adapters::elbv2::{self, Target, TargetGroup, Wanted};
use mesh_proto::effect::{Outcome, Refusal};
use mesh_proto::spec::{Elbv2Target, InstanceSpec, LbTarget};

use super::{Asked, Kind, No, no};
use crate::config::Elbv2Section;

/// A target group, and who changes it.
#[derive(Debug)]
pub(super) struct Held {
    group: TargetGroup,
}

impl Held {
    pub(super) fn of(section: &Elbv2Section) -> Self {
        let region = section.target_group.region();
        let access = super::aws::access(region, section.endpoint.as_ref(), section.credentials_file.as_ref());
        Self { group: TargetGroup::new(section.target_group.clone(), access) }
    }
}

/// A target group of the spec, and the API that has it.
pub(super) struct Route<'a> {
    target: &'a Elbv2Target,
    group: &'a TargetGroup,
}

impl<'a> Route<'a> {
    pub(super) fn new(held: &'a [Held], target: &'a Elbv2Target) -> Result<Self, No> {
        let Some(held) = held.iter().find(|held| *held.group.arn() == target.target_group) else {
            let what = format!(
                "this agent's file has no [[elbv2]] section for target group {}",
                target.target_group
            );
            return Err(no(Refusal::NotConfigured, what));
        };
        Ok(Self { target, group: &held.group })
    }

    /// An instance's target, and whether it lies outside the VPC.
    fn target(&self, instance: &InstanceSpec) -> (Target, bool) {
        match self.target.target(instance) {
            LbTarget::Ec2 { id, port } => {
                (Target { id, port: port.unwrap_or(instance.address.port()) }, false)
            }
            LbTarget::Address { at, outside } => {
                (Target { id: at.ip().to_string(), port: at.port() }, outside)
            }
        }
    }

    fn wanted(&self, asked: &Asked<'_>) -> Wanted {
        let (target, outside) = self.target(asked.instance);
        let step = asked.order.step;
        Wanted {
            group: asked.group.group.clone(),
            epoch: asked.order.epoch,
            step: format!("{step}.{}", step.attempt),
            instance: asked.instance.name.clone(),
            target_group: self.target.target_group.clone(),
            target,
            outside,
            known: asked.group.instances.iter().map(|instance| self.target(instance).0).collect(),
            drift: self.target.drift,
        }
    }
}

impl Kind for Route<'_> {
    async fn lead(&self, asked: &Asked<'_>) -> Outcome {
        elbv2::outcome(self.group.lead(&self.wanted(asked), asked.deadline).await)
    }

    async fn verify(&self, asked: &Asked<'_>) -> Outcome {
        elbv2::outcome(self.group.verify(&self.wanted(asked), asked.deadline).await)
    }

    async fn entrance(&self, _: &Asked<'_>) -> Result<SocketAddr, No> {
        Ok(self.target.listen)
    }
}
