//! The contract of a target group, and its bad days.

use std::time::{Duration, Instant};

use mesh_adapters::elbv2::{self, ElbError, Led, MARKER_KEY, Marker, Target, TargetGroup, Wanted};
use mesh_proto::Epoch;
use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::spec::{Drift, TargetGroupArn};

use super::balancer::{ARN, Balancer, Health, Spoil};
use super::contract::{self, Bench, Day, Side};
use super::moto::{Moto, element};
use super::strict::{GOOD_KEY, POOR_KEY};
use super::{SECRET, access, key_file, soon};

const EAST: &str = "10.0.0.1";
const DR: &str = "10.1.0.1";

fn target(id: &str) -> Target {
    Target { id: id.to_owned(), port: 5432 }
}

fn wanted(epoch: u64, id: &str) -> Wanted {
    Wanted {
        group: "orders".parse().unwrap(),
        epoch: Epoch(epoch),
        step: format!("{epoch}.1.1"),
        instance: if id == EAST { "pg-east" } else { "pg-dr" }.parse().unwrap(),
        target_group: TargetGroupArn::try_from(ARN.to_owned()).unwrap(),
        target: target(id),
        outside: id == DR,
        known: vec![target(EAST), target(DR)],
        drift: Drift::Report,
    }
}

struct Lab {
    api: Balancer,
    dir: tempfile::TempDir,
    group: TargetGroup,
}

impl Lab {
    async fn new() -> Self {
        let api = Balancer::start().await;
        let dir = tempfile::tempdir().unwrap();
        let group = at(&format!("http://{}", api.address), &dir, GOOD_KEY);
        api.put(EAST, Some(Health::Healthy));
        Self { api, dir, group }
    }

    fn epoch(&self) -> u64 {
        self.api.tagged(MARKER_KEY).map_or(0, |text| text.parse::<Marker>().unwrap().epoch.0)
    }

    async fn lead(&self, wanted: &Wanted) -> Result<Led, ElbError> {
        self.group.lead(wanted, soon()).await
    }
}

fn at(endpoint: &str, dir: &tempfile::TempDir, key: &str) -> TargetGroup {
    let arn = TargetGroupArn::try_from(ARN.to_owned()).unwrap();
    TargetGroup::new(arn, access(endpoint, key_file(dir.path(), key)))
}

impl Bench for Lab {
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome {
        let wanted = wanted(epoch, if to == Side::East { EAST } else { DR });
        self.api.spoil(match day {
            Day::AnswerLost => Some(Spoil::SwallowAt("RegisterTargets")),
            Day::Slow => Some(Spoil::Hang),
            Day::Good | Day::Down | Day::WrongCredentials => None,
        });
        let result = match day {
            Day::Down => {
                let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                at(&format!("http://{nobody}"), &self.dir, GOOD_KEY).lead(&wanted, deadline).await
            }
            Day::WrongCredentials => {
                at(&format!("http://{}", self.api.address), &self.dir, "AKIDWRONG")
                    .lead(&wanted, deadline)
                    .await
            }
            Day::Good | Day::AnswerLost | Day::Slow => self.group.lead(&wanted, deadline).await,
        };
        self.api.spoil(None);
        elbv2::outcome(result)
    }

    async fn verify(&self, to: Side, epoch: u64, deadline: Instant) -> Outcome {
        let wanted = wanted(epoch, if to == Side::East { EAST } else { DR });
        elbv2::outcome(self.group.verify(&wanted, deadline).await)
    }

    async fn really(&self) -> Option<Side> {
        match self.api.registered().as_slice() {
            [one] if one == EAST => Some(Side::East),
            [one] if one == DR => Some(Side::Dr),
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_target_group_passes_the_contract() {
    contract::passes(&Lab::new().await).await;
}

#[tokio::test]
async fn at_no_moment_two_targets_are_in_and_the_tag_comes_first() {
    let lab = Lab::new().await;
    lab.api.checks(2);
    let led = lab.lead(&wanted(2, DR)).await.unwrap();
    assert_eq!(led, Led { changed: true, draining: 1 });
    let done = lab.api.done();
    let actions: Vec<_> = done.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["AddTags", "DeregisterTargets", "RegisterTargets"]);
    assert!(done.iter().all(|(_, now)| now.len() < 2), "{done:?}");
    let outcome = elbv2::outcome(lab.lead(&wanted(2, DR)).await);
    assert_eq!(outcome, Outcome::Done(Finding::Routed { ended: 0, stragglers: 1 }));
    assert!(lab.api.done().is_empty(), "twice is once");
    // Back, while the first still drains; and what has drained is a straggler no more.
    lab.api.put(EAST, Some(Health::Draining));
    assert!(lab.lead(&wanted(3, EAST)).await.unwrap().changed);
    assert_eq!((lab.api.registered(), lab.epoch()), (vec![EAST.to_owned()], 3));
    lab.api.put(DR, None);
    assert_eq!(lab.group.verify(&wanted(3, EAST), soon()).await.unwrap().draining, 0);
    let stale = lab.lead(&wanted(2, DR)).await;
    assert!(matches!(stale, Err(ElbError::Stale { seen: Epoch(3), .. })), "{stale:?}");
    assert_eq!(lab.api.registered(), [EAST]);
}

#[tokio::test]
async fn a_target_that_is_not_healthy_in_time_is_not_called_done() {
    let lab = Lab::new().await;
    lab.api.checks(u32::MAX);
    let deadline = Instant::now() + Duration::from_millis(900);
    let waiting = elbv2::outcome(lab.group.lead(&wanted(2, DR), deadline).await);
    let Outcome::Unknown { detail } = waiting else { panic!("{waiting:?}") };
    assert!(detail.contains("Elb.RegistrationInProgress"), "{detail}");
    assert_eq!(lab.api.registered(), [DR], "the old one is out nevertheless");
    let not_so = lab.group.verify(&wanted(2, DR), soon()).await;
    assert!(matches!(&not_so, Err(ElbError::NotSo { .. })), "{not_so:?}");
    lab.api.put(DR, Some(Health::Unhealthy));
    let deadline = Instant::now() + Duration::from_millis(900);
    let sick = elbv2::outcome(lab.group.lead(&wanted(2, DR), deadline).await);
    let Outcome::Refused { code: Refusal::Failed, detail } = sick else { panic!("{sick:?}") };
    assert!(
        detail.contains("Target.FailedHealthChecks") && detail.contains("look at its health check"),
        "{detail}"
    );
    lab.api.put(DR, Some(Health::Healthy));
    assert!(!lab.lead(&wanted(2, DR)).await.unwrap().changed);
}

#[tokio::test]
async fn whatever_answer_is_lost_it_is_finished_by_doing_it_again() {
    for action in ["AddTags", "DeregisterTargets", "RegisterTargets"] {
        let lab = Lab::new().await;
        lab.api.spoil(Some(Spoil::SwallowAt(action)));
        let deadline = Instant::now() + Duration::from_millis(500);
        let lost = elbv2::outcome(lab.group.lead(&wanted(2, DR), deadline).await);
        assert!(matches!(lost, Outcome::Unknown { .. }), "{action}: {lost:?}");
        lab.api.spoil(None);
        let so = lab.group.verify(&wanted(2, DR), soon()).await;
        assert_eq!(so.is_ok(), action == "RegisterTargets", "{action}: {so:?}");
        lab.lead(&wanted(2, DR)).await.unwrap();
        assert_eq!((lab.api.registered(), lab.epoch()), (vec![DR.to_owned()], 2), "{action}");
        assert!(lab.api.done().iter().all(|(_, now)| now.len() < 2), "{action}");
    }
    // What failed after it was done is simply done again.
    for action in ["DeregisterTargets", "RegisterTargets"] {
        let lab = Lab::new().await;
        lab.api.spoil(Some(Spoil::FailAfter(action)));
        assert!(lab.lead(&wanted(2, DR)).await.unwrap().changed, "{action}");
        assert_eq!(lab.api.registered(), [DR], "{action}");
    }
}

#[tokio::test]
async fn a_busy_api_was_certainly_not_told_until_something_was_sent() {
    let lab = Lab::new().await;
    lab.api.spoil(Some(Spoil::PutOff("Throttling", 2)));
    assert!(lab.lead(&wanted(2, DR)).await.unwrap().changed);
    lab.api.spoil(Some(Spoil::PutOff("Throttling", u32::MAX)));
    let busy =
        elbv2::outcome(lab.group.lead(&wanted(3, EAST), Instant::now() + Duration::from_millis(400)).await);
    let Outcome::Refused { code: Refusal::NotDelivered, detail } = busy else { panic!("{busy:?}") };
    assert!(detail.contains("Throttling"), "{detail}");
    assert_eq!((lab.api.registered(), lab.epoch()), (vec![DR.to_owned()], 2));
}

#[tokio::test]
async fn a_stale_agent_between_two_looks_is_seen_and_mended() {
    let lab = Lab::new().await;
    lab.lead(&wanted(3, DR)).await.unwrap();
    // What an agent of epoch 2 did that was paused between its look and its change: the API compares nothing.
    lab.api.tag(MARKER_KEY, "v=mesh1/group=orders/epoch=2/step=2.1.1/instance=pg-east");
    lab.api.put(DR, Some(Health::Draining));
    lab.api.put(EAST, Some(Health::Healthy));
    let astray = elbv2::outcome(lab.group.verify(&wanted(3, DR), soon()).await);
    let Outcome::Refused { code: Refusal::NotSo, detail } = astray else { panic!("{astray:?}") };
    assert!(detail.contains("epoch=2") && detail.contains("10.0.0.1:5432 is registered, too"), "{detail}");
    assert!(lab.lead(&wanted(3, DR)).await.unwrap().changed);
    assert_eq!((lab.api.registered(), lab.epoch()), (vec![DR.to_owned()], 3));
    // Two of one epoch: the second is told.
    let conflict = lab.lead(&wanted(3, EAST)).await;
    assert!(matches!(conflict, Err(ElbError::Conflict { .. })), "{conflict:?}");
}

#[tokio::test]
async fn what_people_registered_or_tagged_is_reported_and_stays() {
    let lab = Lab::new().await;
    lab.api.put("10.0.9.9", Some(Health::Healthy));
    let drift = elbv2::outcome(lab.lead(&wanted(2, DR)).await);
    let Outcome::Refused { code: Refusal::Drift, detail } = drift else { panic!("{drift:?}") };
    assert!(detail.contains("10.0.9.9:5432") && detail.contains("overwrite"), "{detail}");
    // No route stays on a fenced primary for somebody else's sake.
    assert_eq!(lab.api.registered(), ["10.0.9.9", DR]);
    let force = |epoch, id| Wanted { drift: Drift::Overwrite, ..wanted(epoch, id) };
    assert!(lab.lead(&force(2, DR)).await.unwrap().changed);
    assert_eq!(lab.api.registered(), [DR]);
    lab.api.tag(MARKER_KEY, "do not touch");
    let drift = elbv2::outcome(lab.lead(&wanted(3, EAST)).await);
    let Outcome::Refused { code: Refusal::Drift, detail } = drift else { panic!("{drift:?}") };
    assert!(detail.contains("do not touch") && detail.contains("remove it"), "{detail}");
    assert_eq!(lab.api.registered(), [DR]);
    lab.lead(&force(3, EAST)).await.unwrap();
    assert_eq!((lab.api.registered(), lab.epoch()), (vec![EAST.to_owned()], 3));
}

#[tokio::test]
async fn rights_credentials_and_unfit_targets_are_told_apart() {
    let lab = Lab::new().await;
    let endpoint = format!("http://{}", lab.api.address);
    for (key, said) in [("AKIDWRONG", "InvalidClientTokenId"), (POOR_KEY, "AccessDenied (User: ")] {
        let refused = elbv2::outcome(at(&endpoint, &lab.dir, key).lead(&wanted(2, DR), soon()).await);
        let Outcome::Refused { code: Refusal::NotConfigured, detail } = refused else {
            panic!("{refused:?}")
        };
        assert!(detail.contains(said) && detail.contains("; ") && !detail.contains(SECRET), "{detail}");
    }
    let inside = Wanted { outside: false, ..wanted(2, DR) };
    let unfit = elbv2::outcome(lab.lead(&inside).await);
    let Outcome::Refused { code: Refusal::NotConfigured, detail } = unfit else { panic!("{unfit:?}") };
    assert!(detail.contains("InvalidTarget") && detail.contains("@all"), "{detail}");
    // No route stays on a fenced primary because the new one cannot be registered.
    assert!(lab.api.registered().is_empty());
    lab.lead(&wanted(2, DR)).await.unwrap();
}

#[tokio::test]
async fn what_is_said_to_a_load_balancer_is_understood_by_moto() {
    let moto = Moto::start().await;
    let ask = async |words: &str| {
        let service = if words.starts_with("Action=CreateVpc") { "ec2" } else { "elasticloadbalancing" };
        moto.ask(service, "POST /", words).await
    };
    let vpc = element(&ask("Action=CreateVpc&Version=2016-11-15&CidrBlock=10.0.0.0/16").await, "vpcId");
    let words = format!(
        "Action=CreateTargetGroup&Version=2015-12-01&Name=orders&Protocol=TCP&Port=5432&TargetType=ip&VpcId={vpc}"
    );
    let arn = TargetGroupArn::try_from(element(&ask(&words).await, "TargetGroupArn")).unwrap();
    assert_eq!(arn.region(), "us-east-1");
    let dir = tempfile::tempdir().unwrap();
    let group = TargetGroup::new(arn.clone(), access(&moto.endpoint(), key_file(dir.path(), GOOD_KEY)));
    for (epoch, id) in [(1, EAST), (2, DR)] {
        let wanted = Wanted { target_group: arn.clone(), ..wanted(epoch, id) };
        let led = group.lead(&wanted, soon()).await;
        assert!(led.as_ref().is_ok_and(|led| led.changed), "{led:?}");
        assert!(!group.lead(&wanted, soon()).await.unwrap().changed, "twice is once");
        group.verify(&wanted, soon()).await.unwrap();
    }
    let arn = arn.as_str().replace(':', "%3A").replace('/', "%2F");
    let health = ask(&format!("Action=DescribeTargetHealth&Version=2015-12-01&TargetGroupArn={arn}")).await;
    assert_eq!(element(&health, "Id"), DR, "{health}");
    let tags = ask(&format!("Action=DescribeTags&Version=2015-12-01&ResourceArns.member.1={arn}")).await;
    assert!(tags.contains("<Value>v=mesh1/group=orders/epoch=2/step=2.1.1/instance=pg-dr</Value>"), "{tags}");
}
