//! The contract of a DNS route, on a real BIND 9 with TSIG keys: execute twice, execute stale, verify after unknown,
//! server down, server slow, wrong credentials, edits by hand, races.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bind;
mod relay;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bind::{Bind, ZONE, free_port};
use mesh_adapters::dns::rfc2136::NameServer;
use mesh_adapters::dns::{self, DnsError, Led, Name, NotChanged, Wanted, Zone as _};
use mesh_proto::Epoch;
use mesh_proto::effect::{Finding, Outcome, Refusal};
use mesh_proto::spec::{DnsName, Drift, RecordKind};
use relay::{Relay, Spoil};

const EAST: &str = "10.0.0.1";
const DR: &str = "10.1.0.1";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

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

async fn lead(zone: &NameServer, wanted: &Wanted) -> Result<Led, DnsError> {
    dns::lead(zone, wanted, soon()).await
}

/// The value and the marker's epoch, as the server has them.
async fn stands(zone: &NameServer, wanted: &Wanted) -> (Vec<String>, u64) {
    let seen = zone.read(wanted, soon()).await.unwrap().remove(0);
    let epoch = seen.markers.first().map_or(0, |text| text.parse::<dns::Marker>().unwrap().epoch.0);
    (seen.values, epoch)
}

#[tokio::test]
async fn a_name_is_adopted_led_and_led_back_and_twice_is_once() {
    let bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    let (first, second, third) = (wanted(1, EAST), wanted(2, DR), wanted(3, EAST));
    assert!(matches!(dns::verify(&zone, &first, soon()).await, Err(DnsError::NotSo { .. })));
    for wanted in [&first, &second, &third] {
        assert!(lead(&zone, wanted).await.unwrap().changed);
        assert!(!lead(&zone, wanted).await.unwrap().changed, "twice is once");
        dns::verify(&zone, wanted, soon()).await.unwrap();
        assert_eq!(stands(&zone, wanted).await, (vec![wanted.names[0].value.clone()], wanted.epoch.0));
        assert_eq!(zone.address(&wanted.names[0], soon()).await.unwrap().to_string(), wanted.names[0].value);
    }
    // An order of an older epoch is refused, whether it is sent or only verified.
    let stale = lead(&zone, &second).await;
    assert!(matches!(stale, Err(DnsError::Stale { seen: Epoch(3), .. })), "{stale:?}");
    let refused = dns::outcome(dns::verify(&zone, &second, soon()).await);
    assert!(matches!(refused, Outcome::Refused { code: Refusal::StaleEpoch, .. }));
}

#[tokio::test]
async fn the_server_itself_refuses_what_was_decided_on_an_older_state() {
    let bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    let (first, second, third) = (wanted(1, EAST), wanted(2, DR), wanted(3, EAST));
    lead(&zone, &first).await.unwrap();
    // The agent of epoch 2 reads, and is paused; epoch 3 goes by; then it acts.
    let before = zone.read(&second, soon()).await.unwrap();
    lead(&zone, &third).await.unwrap();
    let late = zone.change(&second, &before, soon()).await;
    assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
    assert_eq!(stands(&zone, &third).await, (vec![EAST.to_owned()], 3));
    // The same although epoch 3 leads where epoch 1 did: the record alone would not have told.
    assert_eq!(before[0].values, [EAST]);
}

#[tokio::test]
async fn of_many_agents_that_race_for_a_name_one_wins_and_record_and_marker_are_its_own() {
    let bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    let mut start = wanted(1, EAST);
    start.names[0].known = (0..10).map(|at| format!("10.9.0.{at}")).collect();
    lead(&zone, &start).await.unwrap();
    let racers = (0..10).map(|at| {
        let zone = zone.clone();
        let mut wanted = wanted(2, EAST);
        wanted.instance = format!("pg-{}", char::from(b'a' + at)).parse().unwrap();
        wanted.names[0].value = format!("10.9.0.{at}");
        async move { (lead(&zone, &wanted).await, wanted) }
    });
    let ended = futures_util::future::join_all(racers).await;
    let winners: Vec<_> = ended.iter().filter(|(result, _)| result.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{ended:?}");
    assert!(
        ended.iter().all(|(result, _)| matches!(result, Ok(_) | Err(DnsError::Conflict { .. }))),
        "{ended:?}"
    );
    assert_eq!(stands(&zone, &winners[0].1).await, (vec![winners[0].1.names[0].value.clone()], 2));
}

#[tokio::test]
async fn an_answer_that_nobody_learns_is_read_back() {
    for spoil in [Spoil::Break, Spoil::ServFail] {
        let bind = Bind::primary(None).await;
        let relay = Relay::start(bind.address, spoil, 1).await;
        let zone = bind.zone(relay.address);
        let led = lead(&zone, &wanted(1, EAST)).await.unwrap();
        assert!(led.changed && relay.left() == 0, "{spoil:?}");
        assert_eq!(stands(&zone, &wanted(1, EAST)).await, (vec![EAST.to_owned()], 1));
        let journal = bind.log().matches("adding an RR at 'db.ha.test' A").count();
        assert_eq!(journal, 1, "{spoil:?}: applied once");
    }
}

#[tokio::test]
async fn a_silent_server_leaves_it_unknown_and_verifying_settles_it() {
    for (spoil, done) in [(Spoil::Swallow, true), (Spoil::Hang, false)] {
        let bind = Bind::primary(None).await;
        let relay = Relay::start(bind.address, spoil, usize::MAX).await;
        let zone = bind.zone(relay.address);
        let deadline = Instant::now() + Duration::from_millis(400);
        let late = dns::outcome(dns::lead(&zone, &wanted(1, EAST), deadline).await);
        assert!(matches!(late, Outcome::Unknown { .. }), "{late:?}");
        assert!(Instant::now() < deadline + Duration::from_millis(600), "it must end by its deadline");
        let verified = dns::verify(&zone, &wanted(1, EAST), soon()).await;
        assert_eq!(verified.is_ok(), done, "{spoil:?}: {verified:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_was_certainly_not_told() {
    let mut bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    lead(&zone, &wanted(1, EAST)).await.unwrap();
    bind.kill().await;
    let down = dns::outcome(lead(&zone, &wanted(2, DR)).await);
    assert!(matches!(down, Outcome::Refused { code: Refusal::NotDelivered, .. }), "{down:?}");
    // One that takes the connection and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let zone = bind.zone(listener.local_addr().unwrap());
    let deadline = Instant::now() + Duration::from_millis(300);
    let slow = dns::outcome(dns::lead(&zone, &wanted(2, DR), deadline).await);
    assert!(matches!(slow, Outcome::Refused { code: Refusal::NotDelivered, .. }), "{slow:?}");
}

#[tokio::test]
async fn wrong_credentials_and_missing_rights_are_told_apart_and_change_nothing() {
    let bind = Bind::primary(None).await;
    let good = bind.zone(bind.address);
    lead(&good, &wanted(1, EAST)).await.unwrap();
    let other = bind.dir.path().join("other");
    std::fs::write(&other, "b3RoZXItc2VjcmV0LW90aGVyLXNlY3JldC1vdGhlciE=").unwrap();
    for (key, secret, code) in [("mesh.", "other", "BADSIG"), ("nobody.", "secret", "BADKEY")] {
        let zone = bind::zone(bind.address, key, &bind.dir.path().join(secret));
        let refused = dns::outcome(lead(&zone, &wanted(2, DR)).await);
        let Outcome::Refused { code: Refusal::NotConfigured, detail } = refused else {
            panic!("{refused:?}")
        };
        assert!(detail.contains(code) && !detail.contains("b3RoZXI"), "{detail}");
    }
    let missing = bind::zone(bind.address, "mesh.", &bind.dir.path().join("nowhere"));
    assert!(matches!(lead(&missing, &wanted(2, DR)).await, Err(DnsError::Key { .. })));
    // A name that the key may not change.
    let mut foreign = wanted(2, DR);
    foreign.names = vec![name("db", DR), name("mail", DR)];
    let refused = lead(&good, &foreign).await;
    assert!(matches!(&refused, Err(DnsError::Refused { code, .. }) if code == "REFUSED"), "{refused:?}");
    assert_eq!(stands(&good, &wanted(1, EAST)).await, (vec![EAST.to_owned()], 1), "all or nothing");
}

#[tokio::test]
async fn what_people_changed_by_hand_is_reported_and_stays() {
    let bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    lead(&zone, &wanted(1, EAST)).await.unwrap();
    let edit = |to: &str| format!("zone {ZONE}\nupdate delete db.{ZONE} A\nupdate add db.{ZONE} 5 A {to}");
    bind.nsupdate(&edit("192.0.2.9")).await;
    let drift = dns::outcome(lead(&zone, &wanted(2, DR)).await);
    let Outcome::Refused { code: Refusal::Drift, detail } = drift else { panic!("{drift:?}") };
    assert!(
        detail.contains("192.0.2.9") && detail.contains(EAST) && detail.contains("overwrite"),
        "{detail}"
    );
    assert_eq!(stands(&zone, &wanted(1, EAST)).await, (vec!["192.0.2.9".to_owned()], 1));
    // Also between reading and changing: the server compares the record, too.
    bind.nsupdate(&edit(EAST)).await;
    let before = zone.read(&wanted(2, DR), soon()).await.unwrap();
    bind.nsupdate(&edit("192.0.2.9")).await;
    let late = zone.change(&wanted(2, DR), &before, soon()).await;
    assert!(matches!(late, Err(NotChanged::Differs)), "{late:?}");
    let force = Wanted { drift: Drift::Overwrite, ..wanted(2, DR) };
    assert!(lead(&zone, &force).await.unwrap().changed);
    assert_eq!(stands(&zone, &force).await, (vec![DR.to_owned()], 2));
    bind.nsupdate(&format!("zone {ZONE}\nupdate add _mesh-epoch.db.{ZONE} 5 TXT hello")).await;
    assert!(matches!(lead(&zone, &wanted(3, EAST)).await, Err(DnsError::Markers { count: 2, .. })));
}

#[tokio::test]
async fn several_names_change_together_and_aliases_never_stand_beside_addresses() {
    let bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    let both = |epoch, value| {
        let alias = Name { kind: RecordKind::Cname, ..name("alias", "east.example.net.") };
        let known = vec!["east.example.net.".to_owned(), "dr.example.net.".to_owned()];
        let to = if value == EAST { "east" } else { "dr" };
        let alias = Name { value: format!("{to}.example.net."), known, ..alias };
        Wanted { names: vec![name("db", value), name("ro", value), alias], ..wanted(epoch, value) }
    };
    lead(&zone, &both(1, EAST)).await.unwrap();
    lead(&zone, &both(2, DR)).await.unwrap();
    let seen = zone.read(&both(2, DR), soon()).await.unwrap();
    assert_eq!(seen[2].values, ["dr.example.net."]);
    assert_eq!((&seen[0].values, &seen[1].values), (&vec![DR.to_owned()], &vec![DR.to_owned()]));
    // One edited by hand keeps all of them back.
    bind.nsupdate(&format!("zone {ZONE}\nupdate delete ro.{ZONE} A\nupdate add ro.{ZONE} 5 A 192.0.2.9"))
        .await;
    assert!(matches!(lead(&zone, &both(3, EAST)).await, Err(DnsError::Drift { .. })));
    assert_eq!(stands(&zone, &wanted(2, DR)).await, (vec![DR.to_owned()], 2));
    // BIND answers NOERROR to a CNAME beside an address, and ignores it.
    bind.nsupdate(&format!(
        "zone {ZONE}\nupdate delete alias.{ZONE} CNAME\nupdate add alias.{ZONE} 5 A 192.0.2.9"
    ))
    .await;
    let alias =
        Wanted { names: vec![both(3, EAST).names.remove(2)], drift: Drift::Overwrite, ..wanted(3, EAST) };
    let shut_out = lead(&zone, &alias).await;
    assert!(matches!(&shut_out, Err(DnsError::OtherType { found, .. }) if found == "A"), "{shut_out:?}");
}

#[tokio::test]
async fn servers_that_do_not_show_it_in_time_are_named() {
    let at = free_port();
    let bind = Bind::primary(Some(at)).await;
    let secondary = Bind::secondary(at, bind.address).await;
    let dead: SocketAddr = free_port();
    let mut zone = bind.zone(bind.address);
    zone.authoritative = vec![bind.address, secondary.address, dead];
    lead(&zone, &wanted(1, EAST)).await.unwrap();
    // Generous: the first transfer may find the secondary still loading, and then it asks again a second later.
    let led = zone.shown(&wanted(1, EAST), Instant::now() + Duration::from_secs(3)).await;
    assert_eq!((led.servers, led.lagging.len()), (3, 1), "{led:?}\n{}", secondary.log());
    assert!(led.lagging[0].starts_with(&dead.to_string()), "{led:?}");
    // Without a list, the zone's NS records say whom to ask.
    zone.authoritative.clear();
    let led = zone.shown(&wanted(1, EAST), Instant::now() + Duration::from_millis(200)).await;
    assert_eq!((led.servers, led.lagging.len()), (1, 1), "{led:?}");
    assert!(led.lagging[0].starts_with("ns.ha.test.: "), "{led:?}");
    let outcome = dns::outcome(Ok(led));
    assert!(matches!(outcome, Outcome::Done(Finding::Named { servers: 1, .. })));
}

#[tokio::test]
async fn a_change_that_the_server_confirmed_survives_its_death() {
    let mut bind = Bind::primary(None).await;
    let zone = bind.zone(bind.address);
    lead(&zone, &wanted(1, EAST)).await.unwrap();
    bind.kill().await;
    bind.restart().await;
    assert_eq!(stands(&zone, &wanted(1, EAST)).await, (vec![EAST.to_owned()], 1));
    assert!(!lead(&zone, &wanted(1, EAST)).await.unwrap().changed);
}
