//! The contract of a name in Route 53, and its bad days: throttled, changed meanwhile, answers lost, edited by hand, raced for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_adapters::dns::route53::HostedZone;
use mesh_adapters::dns::{self, DnsError, Led, Marker, Name, NotChanged, Wanted, Zone as _};
use mesh_proto::Epoch;
use mesh_proto::effect::{Outcome, Refusal};
use mesh_proto::spec::{DnsName, Drift, RecordKind};

use super::contract::{self, Bench, Day, Side};
use super::moto::{Moto, element};
use super::strict::{GOOD_KEY, POOR_KEY, Set, Spoil, Strict, ZONE, ZONE_ID};
use super::{SECRET, access, key_file, soon};

const EAST: &str = "10.0.0.1";
const DR: &str = "10.1.0.1";

fn name(label: &str, value: &str) -> Name {
    Name {
        name: DnsName::new(&format!("{label}.{ZONE}")).unwrap(),
        kind: RecordKind::A,
        ttl: 5,
        value: value.to_owned(),
        known: vec![EAST.to_owned(), DR.to_owned()],
    }
}

fn wanted(epoch: u64, value: &str) -> Wanted {
    Wanted {
        group: "orders".parse().unwrap(),
        epoch: Epoch(epoch),
        step: format!("{epoch}.1.1"),
        instance: if value == EAST { "pg-east" } else { "pg-dr" }.parse().unwrap(),
        site: if value == EAST { "east" } else { "dr" }.parse().unwrap(),
        zone: DnsName::new(ZONE).unwrap(),
        names: vec![name("db", value)],
        drift: Drift::Report,
    }
}

struct Lab {
    api: Strict,
    dir: tempfile::TempDir,
    zone: Arc<HostedZone>,
}

impl Lab {
    async fn new() -> Self {
        let api = Strict::start().await;
        for (label, kind, value) in
            [("", "SOA", "ns. root. 1 60 60 3600 5"), ("", "NS", "ns.ha.test."), ("mail.", "A", "192.0.2.25")]
        {
            let set = Set { ttl: 60, values: vec![value.to_owned()] };
            api.edit(&format!("{label}{ZONE}"), kind, Some(set));
        }
        let dir = tempfile::tempdir().unwrap();
        let zone = Arc::new(at(&format!("http://{}", api.address), &dir, GOOD_KEY));
        Self { api, dir, zone }
    }

    async fn lead(&self, wanted: &Wanted) -> Result<Led, DnsError> {
        dns::lead(&*self.zone, wanted, soon()).await
    }

    /// The value and the marker's epoch, as the API has them.
    fn stands(&self) -> (String, u64) {
        let value = self.api.get("db.ha.test.", "A").map_or_else(String::new, |set| set.values.join(","));
        let marker = self.api.get("_mesh-epoch.db.ha.test.", "TXT").map(|set| set.values[0].clone());
        let marker = marker.map(|text| text.trim_matches('"').parse::<Marker>().unwrap());
        (value, marker.map_or(0, |marker| marker.epoch.0))
    }
}

fn at(endpoint: &str, dir: &tempfile::TempDir, key: &str) -> HostedZone {
    let access = access(endpoint, key_file(dir.path(), key));
    HostedZone::new(DnsName::new(ZONE).unwrap(), ZONE_ID.to_owned(), access, Vec::new())
}

impl Bench for Lab {
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome {
        let wanted = wanted(epoch, if to == Side::East { EAST } else { DR });
        let spoiled = match day {
            Day::AnswerLost => Some(Spoil::Swallow),
            Day::Slow => Some(Spoil::Hang),
            Day::Good | Day::Down | Day::WrongCredentials => None,
        };
        self.api.spoil(spoiled);
        let outcome = match day {
            Day::Down => {
                let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                dns::lead(&at(&format!("http://{nobody}"), &self.dir, GOOD_KEY), &wanted, deadline).await
            }
            Day::WrongCredentials => {
                let zone = at(&format!("http://{}", self.api.address), &self.dir, "AKIDWRONG");
                dns::lead(&zone, &wanted, deadline).await
            }
            Day::Good | Day::AnswerLost | Day::Slow => dns::lead(&*self.zone, &wanted, deadline).await,
        };
        self.api.spoil(None);
        dns::outcome(outcome)
    }

    async fn verify(&self, to: Side, epoch: u64, deadline: Instant) -> Outcome {
        let wanted = wanted(epoch, if to == Side::East { EAST } else { DR });
        dns::outcome(dns::verify(&*self.zone, &wanted, deadline).await)
    }

    async fn really(&self) -> Option<Side> {
        match self.stands().0.as_str() {
            EAST => Some(Side::East),
            DR => Some(Side::Dr),
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_name_in_route_53_passes_the_contract() {
    let lab = Lab::new().await;
    lab.api.edit("db.ha.test.", "A", Some(Set { ttl: 60, values: vec![EAST.to_owned()] }));
    contract::passes(&lab).await;
}

#[tokio::test]
async fn a_name_in_route_53_is_adopted_led_and_led_back_and_twice_is_once() {
    let lab = Lab::new().await;
    let (first, second, third) = (wanted(1, EAST), wanted(2, DR), wanted(3, EAST));
    assert!(matches!(dns::verify(&*lab.zone, &first, soon()).await, Err(DnsError::NotSo { .. })));
    for (count, wanted) in [&first, &second, &third].into_iter().enumerate() {
        assert!(lab.lead(wanted).await.unwrap().changed);
        assert!(!lab.lead(wanted).await.unwrap().changed, "twice is once");
        assert_eq!(lab.api.applied(), (u32::try_from(count).unwrap() + 1, u32::try_from(count).unwrap() + 1));
        assert_eq!(lab.stands(), (wanted.names[0].value.clone(), wanted.epoch.0));
        let address = lab.zone.address(&wanted.names[0], soon()).await.unwrap();
        assert_eq!(address.to_string(), wanted.names[0].value);
    }
    let stale = lab.lead(&second).await;
    assert!(matches!(stale, Err(DnsError::Stale { seen: Epoch(3), .. })), "{stale:?}");
    assert!(lab.api.get("mail.ha.test.", "A").is_some(), "what is not ours stays");
}

#[tokio::test]
async fn route_53_itself_refuses_what_was_decided_on_an_older_state() {
    for bare in [false, true] {
        let lab = Lab::new().await;
        lab.api.bare(bare);
        let (first, second, third) = (wanted(1, EAST), wanted(2, DR), wanted(3, EAST));
        lab.lead(&first).await.unwrap();
        // The agent of epoch 2 reads, and is paused; epoch 3 goes by and leads where epoch 1 did; then it acts.
        let before = lab.zone.read(&second, soon()).await.unwrap();
        lab.lead(&third).await.unwrap();
        let late = lab.zone.change(&second, &before, soon()).await;
        assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
        assert_eq!(lab.stands(), (EAST.to_owned(), 3));
        // The same for a name that did not stand yet.
        let new = Wanted { names: vec![name("ro", DR)], ..wanted(4, DR) };
        let before = lab.zone.read(&new, soon()).await.unwrap();
        lab.lead(&Wanted { names: vec![name("ro", EAST)], ..wanted(4, EAST) }).await.unwrap();
        let late = lab.zone.change(&new, &before, soon()).await;
        assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
    }
}

#[tokio::test]
async fn of_many_agents_that_race_for_a_name_in_route_53_one_wins() {
    let lab = Lab::new().await;
    let mut start = wanted(1, EAST);
    start.names[0].known = (0..10).map(|at| format!("10.9.0.{at}")).collect();
    lab.lead(&start).await.unwrap();
    let racers = (0..10).map(|at| {
        let zone = Arc::clone(&lab.zone);
        let mut wanted = wanted(2, EAST);
        wanted.instance = format!("pg-{}", char::from(b'a' + at)).parse().unwrap();
        wanted.names[0].value = format!("10.9.0.{at}");
        async move { (dns::lead(&*zone, &wanted, soon()).await, wanted) }
    });
    let ended = futures_util::future::join_all(racers).await;
    let winners: Vec<_> = ended.iter().filter(|(result, _)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{ended:?}");
    let lost = |result: &Result<Led, DnsError>| matches!(result, Ok(_) | Err(DnsError::Conflict { .. }));
    assert!(ended.iter().all(|(result, _)| lost(result)), "{ended:?}");
    assert_eq!(lab.stands(), (winners[0].1.names[0].value.clone(), 2));
    assert_eq!(lab.api.applied().0, 2);
}

#[tokio::test]
async fn an_answer_of_route_53_that_nobody_learns_is_read_back() {
    for spoil in [Spoil::FailAfter, Spoil::FailBefore, Spoil::Late(Duration::from_millis(3_500))] {
        let lab = Lab::new().await;
        lab.api.spoil(Some(spoil));
        let led = lab.lead(&wanted(1, EAST)).await.unwrap();
        assert!(led.changed, "{spoil:?}");
        assert_eq!(lab.stands(), (EAST.to_owned(), 1), "{spoil:?}");
        assert_eq!(lab.api.applied().0, 1, "{spoil:?}: applied once");
    }
}

#[tokio::test]
async fn a_busy_route_53_is_asked_again_until_the_deadline_and_was_certainly_not_told() {
    for code in ["Throttling", "PriorRequestNotComplete"] {
        let lab = Lab::new().await;
        lab.api.spoil(Some(Spoil::PutOff(code, 3)));
        assert!(lab.lead(&wanted(1, EAST)).await.unwrap().changed, "{code}");
        assert_eq!(lab.api.applied(), (1, 4), "{code}");
        lab.api.spoil(Some(Spoil::PutOff(code, u32::MAX)));
        let deadline = Instant::now() + Duration::from_millis(600);
        let busy = dns::outcome(dns::lead(&*lab.zone, &wanted(2, DR), deadline).await);
        let Outcome::Refused { code: Refusal::NotDelivered, detail } = busy else { panic!("{busy:?}") };
        assert!(detail.contains(code) && Instant::now() < deadline + Duration::from_millis(300), "{detail}");
        assert_eq!(lab.stands(), (EAST.to_owned(), 1));
        assert!(lab.api.applied().1 < 10, "the pauses grow: {:?}", lab.api.applied());
    }
}

#[tokio::test]
async fn a_name_in_route_53_that_people_changed_is_reported_and_stays() {
    let lab = Lab::new().await;
    lab.lead(&wanted(1, EAST)).await.unwrap();
    let by_hand = |value: &str, ttl| Some(Set { ttl, values: vec![value.to_owned()] });
    lab.api.edit("db.ha.test.", "A", by_hand("192.0.2.9", 5));
    let drift = dns::outcome(lab.lead(&wanted(2, DR)).await);
    let Outcome::Refused { code: Refusal::Drift, detail } = drift else { panic!("{drift:?}") };
    assert!(detail.contains("192.0.2.9") && detail.contains("overwrite"), "{detail}");
    assert_eq!(lab.stands(), ("192.0.2.9".to_owned(), 1));
    // Between reading and changing, be it only the TTL.
    lab.api.edit("db.ha.test.", "A", by_hand(EAST, 5));
    let before = lab.zone.read(&wanted(2, DR), soon()).await.unwrap();
    lab.api.edit("db.ha.test.", "A", by_hand(EAST, 300));
    let late = lab.zone.change(&wanted(2, DR), &before, soon()).await;
    assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
    // A marker that was edited is no marker any more; the policy that overwrites records does not extend to it.
    let force = |epoch, value| Wanted { drift: Drift::Overwrite, ..wanted(epoch, value) };
    lab.api.edit("db.ha.test.", "A", by_hand("192.0.2.9", 5));
    assert!(lab.lead(&force(2, DR)).await.unwrap().changed);
    assert_eq!(lab.stands(), (DR.to_owned(), 2));
    lab.api.edit("_mesh-epoch.db.ha.test.", "TXT", by_hand("\"do not\" \" touch\"", 60));
    for wanted in [wanted(3, EAST), force(3, EAST)] {
        let edited = dns::outcome(lab.lead(&wanted).await);
        let Outcome::Refused { code: Refusal::Drift, detail } = edited else { panic!("{edited:?}") };
        assert!(detail.contains("do not touch") && detail.contains("remove the TXT record"), "{detail}");
    }
    // Removed, as the message says, the name is led again; also one whose marker is written in another way.
    lab.api.edit("_mesh-epoch.db.ha.test.", "TXT", None);
    assert!(lab.lead(&wanted(3, EAST)).await.unwrap().changed);
    let marker =
        lab.api.get("_mesh-epoch.db.ha.test.", "TXT").unwrap().values[0].replace(";site", ";\" \"site");
    lab.api.edit("_mesh-epoch.db.ha.test.", "TXT", by_hand(&marker, 77));
    assert!(lab.lead(&wanted(4, DR)).await.unwrap().changed);
    assert_eq!(lab.stands(), (DR.to_owned(), 4));
}

#[tokio::test]
async fn several_names_in_route_53_change_in_one_batch_or_not_at_all() {
    let lab = Lab::new().await;
    // So many neighbours that a name and its marker are not on one page.
    for at in 0..130 {
        let set = Set { ttl: 60, values: vec!["192.0.2.1".to_owned()] };
        lab.api.edit(&format!("0-{at:03}.db.{ZONE}"), "A", Some(set));
    }
    let all = |epoch, value| {
        let to = if value == EAST { "east" } else { "dr" };
        let alias = Name {
            kind: RecordKind::Cname,
            value: format!("{to}.example.net."),
            known: vec!["east.example.net.".to_owned(), "dr.example.net.".to_owned()],
            ..name("alias", value)
        };
        Wanted { names: vec![name("db", value), name("ro", value), alias], ..wanted(epoch, value) }
    };
    lab.lead(&all(1, EAST)).await.unwrap();
    lab.lead(&all(2, DR)).await.unwrap();
    assert_eq!(lab.api.applied().0, 2, "one batch each");
    assert_eq!(lab.api.get("alias.ha.test.", "CNAME").unwrap().values, ["dr.example.net."]);
    let before = lab.zone.read(&all(3, EAST), soon()).await.unwrap();
    let by_hand = Set { ttl: 5, values: vec!["192.0.2.9".to_owned()] };
    lab.api.edit("ro.ha.test.", "A", Some(by_hand.clone()));
    let late = lab.zone.change(&all(3, EAST), &before, soon()).await;
    assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
    assert_eq!(lab.stands(), (DR.to_owned(), 2), "one edited by hand keeps all of them back");
    assert!(matches!(lab.lead(&all(3, EAST)).await, Err(DnsError::Drift { .. })));
    // Another type, before which Route 53 would refuse an alias without saying more.
    lab.api.edit("alias.ha.test.", "CNAME", None);
    lab.api.edit("alias.ha.test.", "MX", Some(by_hand));
    let alias = Wanted { names: vec![all(3, EAST).names.remove(2)], ..wanted(3, EAST) };
    let shut_out = lab.lead(&alias).await;
    assert!(matches!(&shut_out, Err(DnsError::OtherType { found, .. }) if found == "MX"), "{shut_out:?}");
}

#[tokio::test]
async fn what_route_53_would_never_accept_is_not_tried_again_and_again() {
    let lab = Lab::new().await;
    let mut foreign = wanted(1, EAST);
    foreign.names[0].name = DnsName::new("db.example.com.").unwrap();
    let refused = lab.lead(&foreign).await;
    let Err(DnsError::NotInForce { what, .. }) = &refused else { panic!("{refused:?}") };
    assert!(what.contains("is not permitted in zone ha.test."), "{what}");
    assert_eq!(lab.api.applied(), (0, 1));
}

#[tokio::test]
async fn how_far_a_change_has_spread_is_shown_and_holds_nothing_up() {
    let lab = Lab::new().await;
    lab.lead(&wanted(1, EAST)).await.unwrap();
    lab.api.pending(1);
    let led = lab.zone.shown(&wanted(1, EAST), soon()).await;
    assert_eq!((led.servers, led.lagging), (1, Vec::new()));
    // Known by now: nobody is asked, and without a change by this agent neither.
    lab.api.spoil(Some(Spoil::Hang));
    assert_eq!(lab.zone.shown(&wanted(1, EAST), soon()).await.servers, 0);
    lab.api.spoil(None);
    lab.lead(&wanted(2, DR)).await.unwrap();
    lab.api.pending(u32::MAX);
    let until = Instant::now() + Duration::from_millis(500);
    let led = lab.zone.shown(&wanted(2, DR), until).await;
    assert!(led.lagging[0].starts_with("Route 53: change C2 has not spread"), "{led:?}");
    assert!(Instant::now() < until + Duration::from_millis(100));
    // Servers that the file names are asked, too.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let access = access(&format!("http://{}", lab.api.address), key_file(lab.dir.path(), GOOD_KEY));
    let zone = HostedZone::new(DnsName::new(ZONE).unwrap(), ZONE_ID.to_owned(), access, vec![nobody]);
    let led = zone.shown(&wanted(2, DR), Instant::now() + Duration::from_millis(200)).await;
    assert_eq!((led.servers, led.lagging.len()), (1, 1), "{led:?}");
}

#[tokio::test]
async fn credentials_and_rights_are_told_apart_and_no_secret_is_shown() {
    let lab = Lab::new().await;
    lab.lead(&wanted(1, EAST)).await.unwrap();
    let endpoint = format!("http://{}", lab.api.address);
    for (key, said) in [
        ("AKIDWRONG", "SignatureDoesNotMatch when asked to show what stands there; check the credentials"),
        (POOR_KEY, "AccessDenied (User: "),
    ] {
        let result = dns::lead(&at(&endpoint, &lab.dir, key), &wanted(2, DR), soon()).await;
        let shown = format!("{result:?}");
        let Outcome::Refused { code: Refusal::NotConfigured, detail } = dns::outcome(result) else {
            panic!("{shown}")
        };
        assert!(detail.contains(said), "{detail}");
        assert!(!detail.contains(SECRET), "{detail}");
    }
    let missing = lab.dir.path().join("nowhere");
    let zone = HostedZone::new(
        DnsName::new(ZONE).unwrap(),
        ZONE_ID.to_owned(),
        access(&endpoint, missing),
        Vec::new(),
    );
    let refused = dns::outcome(dns::lead(&zone, &wanted(2, DR), soon()).await);
    let Outcome::Refused { code: Refusal::NotConfigured, detail } = refused else { panic!("{refused:?}") };
    assert!(detail.contains("nowhere") && detail.contains("credentials_file"), "{detail}");
    let access = access(&endpoint, key_file(lab.dir.path(), GOOD_KEY));
    let zone = HostedZone::new(DnsName::new(ZONE).unwrap(), "ZOTHER".to_owned(), access, Vec::new());
    let refused = dns::outcome(dns::lead(&zone, &wanted(2, DR), soon()).await);
    let Outcome::Refused { code: Refusal::NotConfigured, detail } = refused else { panic!("{refused:?}") };
    assert!(detail.contains("NoSuchHostedZone") && detail.contains("check `hosted_zone`"), "{detail}");
    assert_eq!(lab.stands(), (EAST.to_owned(), 1));
    // A secret that was changed is taken without a restart.
    let file = key_file(lab.dir.path(), "AKIDCHANGES");
    let zone = at(&endpoint, &lab.dir, "AKIDCHANGES");
    assert!(dns::lead(&zone, &wanted(2, DR), soon()).await.is_err());
    std::fs::copy(key_file(lab.dir.path(), GOOD_KEY), file).unwrap();
    assert!(dns::lead(&zone, &wanted(2, DR), soon()).await.unwrap().changed);
}

#[tokio::test]
async fn what_is_said_to_route_53_is_understood_by_moto() {
    let moto = Moto::start().await;
    let body = format!(
        "<CreateHostedZoneRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Name>{ZONE}</Name>\
         <CallerReference>1</CallerReference></CreateHostedZoneRequest>"
    );
    let answer = moto.ask("route53", "POST /2013-04-01/hostedzone", &body).await;
    let id = element(&answer, "Id").trim_start_matches("/hostedzone/").to_owned();
    let dir = tempfile::tempdir().unwrap();
    let access = access(&moto.endpoint(), key_file(dir.path(), GOOD_KEY));
    let zone = HostedZone::new(DnsName::new(ZONE).unwrap(), id.clone(), access, Vec::new());
    // Not back to where it was: moto refuses what it created once before, even if the same batch deletes what stands.
    for (epoch, value) in [(1, EAST), (2, DR)] {
        let wanted = wanted(epoch, value);
        assert!(dns::lead(&zone, &wanted, soon()).await.unwrap().changed);
        assert!(!dns::lead(&zone, &wanted, soon()).await.unwrap().changed, "twice is once");
        dns::verify(&zone, &wanted, soon()).await.unwrap();
        let led = zone.shown(&wanted, soon()).await;
        assert_eq!((led.servers, led.lagging), (1, Vec::new()));
    }
    let listed = moto.ask("route53", &format!("GET /2013-04-01/hostedzone/{id}/rrset"), "").await;
    assert!(listed.contains(&format!("<Value>{DR}</Value>")) && !listed.contains(EAST), "{listed}");
    assert!(listed.contains("v=mesh1;group=orders;epoch=2;"), "{listed}");
}
