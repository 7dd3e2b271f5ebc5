//! The PgBouncer adapter against a real PgBouncer, with two servers that speak just enough of PostgreSQL's protocol.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contract;
#[path = "support/pgbouncer.rs"]
mod lab;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use contract::way::Cut;
use contract::{Bench, Day, Side};
use lab::{Lab, soon};
use mesh_adapters::pgbouncer::{ConsoleAt, OnStuck, PgBouncer, PgbouncerError, outcome};
use mesh_proto::effect::{Outcome, Refusal};

#[tokio::test]
async fn leads_and_changes_nothing_the_second_time() {
    let lab = Lab::start("transaction").await;
    assert_eq!(lab.reached().await.as_deref(), Some("east"));
    let bouncer = PgBouncer::new(lab.settings());
    let began = Instant::now();
    let led = bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap();
    println!("FIGURE lead PgBouncer: {:?}", began.elapsed());
    assert!(led.changed && !led.killed && led.ended == 1 && led.stragglers == 0, "{led:?}");
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
    let again = bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap();
    assert!(!again.changed && again.ended == 0, "{again:?}");
    // A later epoch of the same primary: only the mark in the file.
    assert!(!bouncer.lead(&lab.to("dr", 3), soon()).await.unwrap().changed);
    assert!(lab.file().contains("epoch=3") && lab.file().contains("pool_size=7"), "{}", lab.file());
    assert!(bouncer.verify(&lab.to("dr", 3), soon()).await.is_ok());
    // What it led to survives a restart.
    let mut lab = lab;
    lab.restart().await;
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
}

#[tokio::test]
async fn queries_wait_for_the_new_primary_and_transactions_end_on_the_old_one() {
    let lab = Lab::start("transaction").await;
    let mut settings = lab.settings();
    settings.pause = Duration::from_secs(10);
    let open = lab.client().await;
    open.simple_query("BEGIN").await.unwrap();
    let bouncer = PgBouncer::new(settings);
    let wanted = lab.to("dr", 2);
    let leading = tokio::spawn(async move { bouncer.lead(&wanted, soon()).await });
    lab.until_paused().await;
    let other = lab.client().await;
    let waiting = tokio::spawn(async move { lab::ask(&other).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished() && !leading.is_finished());
    assert_eq!(lab::ask(&open).await.as_deref(), Some("east"), "the transaction goes on where it began");
    open.simple_query("COMMIT").await.unwrap();
    let led = leading.await.unwrap().unwrap();
    assert!(led.changed && !led.killed, "{led:?}");
    assert_eq!(waiting.await.unwrap().as_deref(), Some("dr"));
    assert_eq!(lab::ask(&open).await.as_deref(), Some("dr"), "the same session");
}

#[tokio::test]
async fn a_pause_that_never_returns_is_ended_by_kill() {
    // In session pooling PAUSE waits for the clients themselves.
    let lab = Lab::start("session").await;
    let idle = lab.client().await;
    assert_eq!(lab::ask(&idle).await.as_deref(), Some("east"));
    let led = PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await.unwrap();
    assert!(led.killed && led.ended == 1 && led.stragglers == 0, "{led:?}");
    assert_eq!(lab::ask(&idle).await, None, "its session was dropped");
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
}

#[tokio::test]
async fn a_pause_that_never_returns_is_taken_back_where_the_policy_says_so() {
    let lab = Lab::start("transaction").await;
    let mut settings = lab.settings();
    settings.on_stuck = OnStuck::Refuse;
    let open = lab.client().await;
    open.simple_query("BEGIN").await.unwrap();
    let bouncer = PgBouncer::new(settings);
    let error = bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap_err();
    assert!(matches!(error, PgbouncerError::Stuck { connections: 1, .. }), "{error}");
    assert_eq!(lab::ask(&open).await.as_deref(), Some("east"));
    assert_eq!(lab.reached().await.as_deref(), Some("east"), "it is not left paused");
    drop(open);
    bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap();
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
}

#[tokio::test]
async fn a_dead_primary_that_clients_tried_does_not_delay_the_new_one() {
    let lab = Lab::with("transaction", lab::free_port()).await;
    assert_eq!(lab.reached().await, None);
    PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await.unwrap();
    let led = Instant::now();
    while lab.reached().await.as_deref() != Some("dr") {
        assert!(led.elapsed() < Duration::from_secs(8), "server_login_retry is 0.2 s here");
    }
    println!("FIGURE first session at the new primary, after the dead one was tried: {:?}", led.elapsed());
}

#[tokio::test]
async fn one_that_was_down_comes_back_led_to_the_new_primary() {
    let mut lab = Lab::start("transaction").await;
    lab.stop().await;
    let result = PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await;
    assert!(matches!(result, Err(PgbouncerError::NotReached { .. })), "{result:?}");
    lab.restart().await;
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
    assert!(!PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await.unwrap().changed);
}

#[tokio::test]
async fn dying_at_any_step_and_repeating_comes_right() {
    let steps = ["PAUSE", "RELOAD", "RESUME", "SHOW DATABASES"];
    for cut in steps.into_iter().flat_map(|step| [Cut::Before(step), Cut::After(step)]) {
        let lab = Lab::start("transaction").await;
        assert_eq!(lab.reached().await.as_deref(), Some("east"));
        let broken = PgBouncer::new(lab.through(cut).await);
        let result = outcome(broken.lead(&lab.to("dr", 2), soon()).await);
        let sure = matches!(cut, Cut::Before("SHOW DATABASES" | "PAUSE") | Cut::After("SHOW DATABASES"));
        match &result {
            Outcome::Refused { .. } if sure => {}
            Outcome::Unknown { .. } => {}
            other @ (Outcome::Done(_) | Outcome::Refused { .. }) => panic!("{cut:?}: {other:?}"),
        }
        let bouncer = PgBouncer::new(lab.settings());
        let seen = outcome(bouncer.verify(&lab.to("dr", 2), soon()).await);
        let led = bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap();
        let whole = matches!(cut, Cut::After("RESUME"));
        assert_eq!(matches!(seen, Outcome::Done(_)), whole, "{cut:?}: {seen:?}");
        assert_eq!(led.changed, !whole, "{cut:?}: {led:?}");
        assert_eq!(lab.reached().await.as_deref(), Some("dr"), "{cut:?}");
    }
}

#[tokio::test]
async fn an_unwritable_file_leaves_it_paused_and_says_how_to_get_out() {
    let lab = Lab::start("transaction").await;
    // Not a file that can be replaced: the fresh one is in the way.
    let fresh = lab.file_path().with_extension("ini.mesh-new");
    std::fs::create_dir(&fresh).unwrap();
    let bouncer = PgBouncer::new(lab.settings());
    let result = outcome(bouncer.lead(&lab.to("dr", 2), soon()).await);
    let Outcome::Refused { code: Refusal::Failed, detail } = &result else { panic!("{result:?}") };
    assert!(detail.contains("RESUME app") && detail.contains("stands paused"), "{detail}");
    assert_eq!(lab.reached().await, None);
    std::fs::remove_dir(&fresh).unwrap();
    assert!(bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap().changed);
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
}

#[tokio::test]
async fn a_file_that_pgbouncer_does_not_take_is_found_out() {
    let lab = Lab::start("transaction").await;
    let mut settings = lab.settings();
    settings.file = lab.file_path().with_extension("elsewhere");
    let result = outcome(PgBouncer::new(settings).lead(&lab.to("dr", 2), soon()).await);
    let Outcome::Refused { code: Refusal::Failed, detail } = &result else { panic!("{result:?}") };
    assert!(detail.contains("cannot read the include file"), "{detail}");
    // By RELOAD it answers as if all were well; unreadable is the same to it.
    std::fs::set_permissions(lab.file_path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let result = outcome(PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await);
    assert!(matches!(&result, Outcome::Refused { code: Refusal::Failed, .. }), "{result:?}");
    std::fs::set_permissions(lab.file_path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    PgBouncer::new(lab.settings()).lead(&lab.to("dr", 2), soon()).await.unwrap();
    assert_eq!(lab.reached().await.as_deref(), Some("dr"));
}

#[tokio::test]
async fn what_an_operator_did_by_hand_is_seen() {
    let lab = Lab::start("transaction").await;
    let bouncer = PgBouncer::new(lab.settings());
    lab.console("DISABLE app").await;
    let result = outcome(bouncer.lead(&lab.to("dr", 2), soon()).await);
    let Outcome::Refused { code: Refusal::Failed, detail } = &result else { panic!("{result:?}") };
    assert!(detail.contains("say `ENABLE app`"), "{detail}");
    lab.console("ENABLE app").await;
    assert!(bouncer.verify(&lab.to("dr", 2), soon()).await.is_ok());
    // The file is edited and not yet reloaded.
    std::fs::write(lab.file_path(), lab.file().replace("host=127.0.0.1", "host=127.0.0.9")).unwrap();
    let result = bouncer.verify(&lab.to("dr", 2), soon()).await;
    assert!(
        matches!(&result, Err(PgbouncerError::NotSo { findings, .. }) if findings[0].contains("says otherwise"))
    );
    bouncer.lead(&lab.to("dr", 2), soon()).await.unwrap();
    assert!(bouncer.verify(&lab.to("dr", 2), soon()).await.is_ok());
    // A file with somebody else's lines is never replaced.
    let theirs = "[databases]\napp = host=127.0.0.1\nother = host=127.0.0.2\n";
    std::fs::write(lab.file_path(), theirs).unwrap();
    let result = outcome(bouncer.lead(&lab.to("dr", 2), soon()).await);
    assert!(
        matches!(&result, Outcome::Refused { code: Refusal::NotConfigured, detail } if detail.contains("other"))
    );
    assert_eq!(lab.file(), theirs);
    for name in ["", "pgbouncer", "app; KILL other", "a\nb"] {
        let mut wanted = lab.to("dr", 2);
        wanted.database = name.to_owned();
        let result = bouncer.lead(&wanted, soon()).await;
        assert!(matches!(result, Err(PgbouncerError::BadName { .. })), "{name}");
    }
}

#[tokio::test]
async fn one_that_may_only_look_changes_nothing() {
    let lab = Lab::start("transaction").await;
    let mut settings = lab.settings();
    settings.user = "looker".to_owned();
    let error = PgBouncer::new(settings).lead(&lab.to("dr", 2), soon()).await.unwrap_err();
    assert!(matches!(&error, PgbouncerError::Denied { user, .. } if user == "looker"), "{error}");
    assert_eq!(lab.reached().await.as_deref(), Some("east"));
}

struct Pooler(Lab);

impl Bench for Pooler {
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome {
        let mut settings = self.0.settings();
        match day {
            Day::Good => {}
            Day::AnswerLost => settings = self.0.through(Cut::After("RELOAD")).await,
            Day::Down => settings.console = ConsoleAt::Tcp(lab::free_port()),
            Day::Slow => settings = self.0.through(Cut::Hold).await,
            Day::WrongCredentials => settings.passfile = Some(self.0.passfile("wrong")),
        }
        outcome(PgBouncer::new(settings).lead(&self.0.to(name(to), epoch), deadline).await)
    }
    async fn verify(&self, to: Side, epoch: u64, deadline: Instant) -> Outcome {
        outcome(PgBouncer::new(self.0.settings()).verify(&self.0.to(name(to), epoch), deadline).await)
    }
    async fn really(&self) -> Option<Side> {
        match self.0.reached().await.as_deref() {
            Some("east") => Some(Side::East),
            Some("dr") => Some(Side::Dr),
            Some(_) | None => None,
        }
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::East => "east",
        Side::Dr => "dr",
    }
}

#[tokio::test]
async fn passes_the_contract() {
    contract::passes(&Pooler(Lab::start("transaction").await)).await;
}
