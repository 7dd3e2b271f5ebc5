//! The short form of `make chaos`: some rounds of real faults on hosts as network namespaces, so these need root.

use mesh_tests::chaos::{Asked, Fault, Round, Until, play};

/// The same faults in each run; `make chaos` draws others, for as long as wanted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn rounds_of_real_faults_lose_nothing_and_never_make_two_writers() {
    let asked =
        Asked { seed: 20_261_127, until: Until::Rounds(6), faults: Fault::ALL.to_vec(), spec: String::new() };
    let mut out = std::io::stderr();
    let rounds = play(&asked, &mut out, |_| {}).await.unwrap();
    assert_eq!(rounds.len(), 6, "{rounds:#?}");
    assert!(rounds.iter().all(Round::kept), "{rounds:#?}");
    assert!(rounds.iter().all(|round| round.acknowledged > 0 && round.prepared > 0), "{rounds:#?}");
}
