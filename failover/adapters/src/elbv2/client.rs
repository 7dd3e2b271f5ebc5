//! The five requests that are made of Elastic Load Balancing, one at a time.

use std::time::Instant;

use aws_sdk_elasticloadbalancingv2 as sdk;
use mesh_proto::spec::TargetGroupArn;
use sdk::operation::add_tags::AddTagsError;
use sdk::operation::deregister_targets::DeregisterTargetsError;
use sdk::operation::describe_tags::DescribeTagsError;
use sdk::operation::describe_target_health::DescribeTargetHealthError;
use sdk::operation::register_targets::RegisterTargetsError;
use sdk::types::{Tag, TargetDescription, TargetHealthDescription, TargetHealthStateEnum};
use tokio::sync::OnceCell;

use super::decide::{Seen, Standing, State, Target};
use super::marker::MARKER_KEY;
use crate::aws::{Access, Account, Again, CallError, Rights, patiently, rights};

/// A target group at the API.
#[derive(Debug)]
pub(super) struct Client {
    arn: TargetGroupArn,
    account: Account,
    client: OnceCell<sdk::Client>,
}

impl Client {
    pub(super) fn new(arn: TargetGroupArn, access: Access) -> Self {
        Self { arn, account: Account::new(access), client: OnceCell::new() }
    }

    pub(super) const fn arn(&self) -> &TargetGroupArn {
        &self.arn
    }

    async fn client(&self) -> &sdk::Client {
        self.client.get_or_init(|| async { sdk::Client::new(self.account.config().await) }).await
    }

    /// Tag and targets.
    pub(super) async fn see(&self, deadline: Instant) -> Result<Seen, CallError> {
        let (marker, targets) = tokio::join!(self.marker(deadline), self.targets(deadline));
        Ok(Seen { marker: marker?, targets: targets? })
    }

    /// The tag.
    pub(super) async fn marker(&self, deadline: Instant) -> Result<Option<String>, CallError> {
        let client = self.client().await;
        let asked = patiently::<_, DescribeTagsError, _>(Again::Failed, deadline, || {
            client.describe_tags().resource_arns(self.arn.as_str()).send()
        });
        let answer = asked.await?;
        let mut tags = answer.tag_descriptions().iter().flat_map(sdk::types::TagDescription::tags);
        Ok(tags
            .find(|tag| tag.key() == Some(MARKER_KEY))
            .map(|tag| tag.value().unwrap_or_default().to_owned()))
    }

    async fn targets(&self, deadline: Instant) -> Result<Vec<Standing>, CallError> {
        let client = self.client().await;
        let asked = patiently::<_, DescribeTargetHealthError, _>(Again::Failed, deadline, || {
            client.describe_target_health().target_group_arn(self.arn.as_str()).send()
        });
        Ok(asked.await?.target_health_descriptions().iter().filter_map(standing).collect())
    }

    /// Writes the tag.
    pub(super) async fn mark(&self, text: &str, deadline: Instant) -> Result<(), CallError> {
        let client = self.client().await;
        let tag = Tag::builder().key(MARKER_KEY).value(text).build();
        let asked = patiently::<_, AddTagsError, _>(Again::NotDone, deadline, || {
            client.add_tags().resource_arns(self.arn.as_str()).tags(tag.clone()).send()
        });
        asked.await.map(drop)
    }

    pub(super) async fn deregister(&self, targets: &[Target], deadline: Instant) -> Result<(), CallError> {
        let client = self.client().await;
        let targets: Vec<_> = targets.iter().map(|target| description(target, false)).collect();
        // Doing it twice is the same, so what failed may be asked once more.
        let asked = patiently::<_, DeregisterTargetsError, _>(Again::Failed, deadline, || {
            client
                .deregister_targets()
                .target_group_arn(self.arn.as_str())
                .set_targets(Some(targets.clone()))
                .send()
        });
        asked.await.map(drop)
    }

    pub(super) async fn register(
        &self,
        target: &Target,
        outside: bool,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let client = self.client().await;
        let target = description(target, outside);
        let asked = patiently::<_, RegisterTargetsError, _>(Again::Failed, deadline, || {
            client.register_targets().target_group_arn(self.arn.as_str()).targets(target.clone()).send()
        });
        asked.await.map(drop)
    }
}

fn description(target: &Target, outside: bool) -> TargetDescription {
    let described = TargetDescription::builder().id(&target.id).port(i32::from(target.port));
    if outside { described.availability_zone("all") } else { described }.build()
}

/// A target that has a port; what has none (a function, another load balancer) cannot be ours.
fn standing(described: &TargetHealthDescription) -> Option<Standing> {
    let target = described.target()?;
    let port = target.port().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    let id = target.id().unwrap_or_default();
    // As an address is compared, whatever way it was written.
    let id = id.parse::<std::net::IpAddr>().map_or_else(|_| id.to_owned(), |ip| ip.to_string());
    let health = described.target_health()?;
    let state = health.state().map_or(State::Unhealthy, state);
    let mut why = health.state().map_or("without state", |state| state.as_str()).to_owned();
    for more in [health.reason().map(|reason| reason.as_str()), health.description()].into_iter().flatten() {
        why.push_str(", ");
        why.extend(more.chars().take(200));
    }
    Some(Standing { target: Target { id, port }, state, why })
}

/// A state that says that the target cannot be relied upon, or one that this version does not know, is unhealthy.
fn state(state: &TargetHealthStateEnum) -> State {
    let known = [
        (TargetHealthStateEnum::Healthy, State::Healthy),
        (TargetHealthStateEnum::Initial, State::Initial),
        (TargetHealthStateEnum::Draining, State::Draining),
        (TargetHealthStateEnum::Unused, State::Unused),
    ];
    known
        .into_iter()
        .find_map(|(theirs, ours)| (theirs == *state).then_some(ours))
        .unwrap_or(State::Unhealthy)
}

/// What to do about a refusal, and whether repeating it is useless.
pub(super) fn hint(code: &str) -> (&'static str, bool) {
    match rights(code) {
        Some(Rights::Signature) => (
            "check the credentials of the [[elbv2]] section, and that this host's clock is right to five minutes",
            true,
        ),
        Some(Rights::Action) => (
            "allow its credentials elasticloadbalancing: DescribeTargetHealth, DescribeTags, RegisterTargets, DeregisterTargets \
             and AddTags for the target group",
            true,
        ),
        None if code == "TargetGroupNotFound" => ("check `target_group`", true),
        None if code == "InvalidTarget" => (
            "check the route's `targets`: a target must fit the group's type and VPC, and one outside it is written IP:port@all",
            true,
        ),
        None => ("look at what it says, and at the service's health page", false),
    }
}
