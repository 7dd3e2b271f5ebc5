//! What observers and the guard see of a server that is not well, and who else decides.

use std::time::Duration;

use mesh_adapters::process::Signal;
use mesh_adapters::redis::{
    Fault, Glance, ProbeOutcome, Prober, Target, WriteOutcome, WriteProbe, WriteStop, attach, close,
    sentinels,
};

use crate::lab::{Node, SYSTEM, Ways, cli, free_port, soon};

const QUICK: Duration = Duration::from_millis(300);

async fn seen(prober: &mut Prober) -> ProbeOutcome {
    prober.probe(QUICK).await.outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_tells_apart_what_can_be_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut east = Node::start(dir.path(), "east", &Ways::default()).await;
    let mut prober = Prober::new(east.instance.target(), Some(SYSTEM));
    assert_eq!(seen(&mut prober).await, ProbeOutcome::Replica, "held");
    east.lead(3).await;
    let ProbeOutcome::Primary { stamp: Some(stamp) } = seen(&mut prober).await else { panic!() };
    assert_eq!((stamp.epoch, stamp.instance.as_str(), stamp.history), (3, "east", 1));
    let mut stranger = Prober::new(east.instance.target(), Some(7));
    assert_eq!(seen(&mut stranger).await, ProbeOutcome::WrongSystem { found: Some(SYSTEM) });
    east.signal(Signal::STOP);
    assert_eq!(seen(&mut prober).await, ProbeOutcome::Fault(Fault::TimedOut));
    east.signal(Signal::CONT);
    assert!(matches!(seen(&mut prober).await, ProbeOutcome::Primary { .. }));
    // A script that never ends.
    let address = east.address();
    east.cli(&["CONFIG", "SET", "busy-reply-threshold", "1"]).await;
    let script = tokio::spawn(async move { cli(address, &["EVAL", "while true do end", "0"]).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(seen(&mut prober).await, ProbeOutcome::Fault(Fault::Busy));
    east.cli(&["SCRIPT", "KILL"]).await;
    script.await.unwrap();
    east.kill().await;
    assert_eq!(seen(&mut prober).await, ProbeOutcome::Fault(Fault::Refused));
    // It loads its data, slowly.
    east.again().await;
    let nowhere =
        Target { address: format!("127.0.0.1:{}", free_port()).parse().unwrap(), ..east.instance.target() };
    assert_eq!(seen(&mut Prober::new(nowhere, None)).await, ProbeOutcome::Fault(Fault::Refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_data_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = vec![
        ("enable-debug-command".into(), "yes".into()),
        ("key-load-delay".into(), "2000".into()),
        ("loading-process-events-interval-bytes".into(), "1024".into()),
    ];
    let ways = Ways { options, ..Ways::default() };
    let mut east = Node::start(dir.path(), "east", &ways).await;
    east.lead(1).await;
    east.cli(&["DEBUG", "POPULATE", "1500", "key", "1000"]).await;
    assert_eq!(east.cli(&["SAVE"]).await, "OK");
    east.kill().await;
    let target = east.instance.target();
    let starting = tokio::spawn(async move {
        east.again().await;
        east
    });
    let mut prober = Prober::new(target, None);
    let mut loading = 0;
    while !starting.is_finished() {
        if seen(&mut prober).await == ProbeOutcome::Fault(Fault::Loading) {
            loading += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(loading > 0, "it was never seen loading");
    let mut east = starting.await.unwrap();
    assert_eq!(east.cli(&["DBSIZE"]).await, "1501", "the start waited for it");
    east.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_probe_names_why_writes_stop_and_measures_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let east = Node::start(dir.path(), "east", &Ways::default()).await;
    let mut probe = WriteProbe::new(&east.instance);
    let run = async |probe: &mut WriteProbe| probe.run(std::time::Instant::now() + QUICK).await;
    let fault = async |probe: &mut WriteProbe| match run(probe).await {
        WriteOutcome::Failed { fault } => fault,
        other @ (WriteOutcome::Ok { .. } | WriteOutcome::Late { .. }) => panic!("{other:?}"),
    };
    assert_eq!(fault(&mut probe).await, Fault::ReadOnly);
    east.lead(1).await;
    assert!(matches!(run(&mut probe).await, WriteOutcome::Ok { .. }));
    close(&east.instance, soon()).await.unwrap();
    assert_eq!(fault(&mut probe).await, Fault::WriteStopped(WriteStop::Replicas));
    mesh_adapters::redis::open(&east.instance, soon()).await.unwrap();
    east.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(fault(&mut probe).await, Fault::WriteStopped(WriteStop::Memory));
    east.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    // A snapshot that cannot be saved stops writes.
    std::fs::create_dir(east.instance.data_dir().join("dump.rdb")).unwrap();
    east.cli(&["CONFIG", "SET", "save", "1 1"]).await;
    east.cli(&["BGSAVE"]).await;
    let end = soon();
    while !matches!(
        run(&mut probe).await,
        WriteOutcome::Failed { fault: Fault::WriteStopped(WriteStop::Disk) }
    ) {
        assert!(std::time::Instant::now() < end, "it never said MISCONF");
    }
    std::fs::remove_dir(east.instance.data_dir().join("dump.rdb")).unwrap();
    east.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    east.signal(Signal::STOP);
    assert!(matches!(run(&mut probe).await, WriteOutcome::Late { .. }));
    let WriteOutcome::Late { since } = run(&mut probe).await else { panic!() };
    assert!(since > QUICK, "one write, not two: {since:?}");
    east.signal(Signal::CONT);
    assert!(matches!(run(&mut probe).await, WriteOutcome::Ok { .. }), "the one that was under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_serves_nothing_stale_is_a_replica_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let east = Node::start(dir.path(), "east", &Ways::default()).await;
    east.cli(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).await;
    assert_eq!(seen(&mut Prober::new(east.instance.target(), None)).await, ProbeOutcome::Replica);
    let error = Glance::default().look(&east.instance, soon()).await.unwrap_err();
    assert_eq!(error.fault, Fault::MasterDown);
    assert!(error.to_string().contains("replica-serve-stale-data"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_watches_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let east = Node::start(dir.path(), "east", &Ways::default()).await;
    east.lead(1).await;
    assert_eq!(sentinels(&east.instance, soon()).await.unwrap().refusal(), None);
    let port = free_port();
    let file = dir.path().join("sentinel.conf");
    let text = format!(
        "port {port}\ndir {}\nsentinel monitor orders 127.0.0.1 {} 1\n",
        dir.path().display(),
        east.address().port()
    );
    std::fs::write(&file, text).unwrap();
    let _sentinel = tokio::process::Command::new("redis-sentinel")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("these tests need Sentinel: apt-get install redis-sentinel");
    let end = soon();
    let refusal = loop {
        if let Some(refusal) = sentinels(&east.instance, soon()).await.unwrap().refusal() {
            break refusal;
        }
        assert!(std::time::Instant::now() < end, "the Sentinel is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(refusal.starts_with("1 Sentinel watches") && refusal.contains("; "), "{refusal}");
    let look = Glance::default().look(&east.instance, soon()).await.unwrap();
    assert_eq!(look.sentinels.watching, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_else_starts_it_it_comes_up_held_and_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut east = Node::start(dir.path(), "east", &Ways::default()).await;
    east.lead(1).await;
    east.kill().await;
    assert!(attach(&east.instance).unwrap().is_none());
    let theirs = dir.path().join("redis.conf");
    let data = east.instance.data_dir().to_path_buf();
    let text = format!(
        "port {}\nbind 127.0.0.1\ndir {}\ninclude {}\n",
        east.address().port(),
        data.display(),
        east.instance.held_file().display()
    );
    std::fs::write(&theirs, text).unwrap();
    let mut child = tokio::process::Command::new("redis-server")
        .arg(&theirs)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let end = soon();
    while !east.cli(&["SET", "x", "1"]).await.contains("READONLY") {
        assert!(std::time::Instant::now() < end, "it does not come up held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Promoted by hand it acknowledges nothing either.
    east.cli(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(east.cli(&["SET", "x", "1"]).await.contains("NOREPLICAS"));
    let found = attach(&east.instance).unwrap().expect("it is found");
    assert_eq!(found.process().pid(), i32::try_from(child.id().unwrap()).unwrap());
    assert!(found.adopted());
    child.kill().await.unwrap();
}
