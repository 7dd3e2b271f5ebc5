//! Whether what a guard or an observer says is another thing than it said before, ages and positions aside. While all is
//! well only that wakes the leader: it looks twice a second anyway, and what grows with time is judged then.

use mesh_proto::Millis;
use mesh_proto::evidence::{DiskSync, GuardStatus, Report, WriteProbe};

/// Whether a guard has news.
pub(super) fn of_guard(before: &GuardStatus, now: &GuardStatus) -> bool {
    ageless_guard(before) != ageless_guard(now)
}

/// Whether an observer has news.
pub(super) fn of_observer(before: &Report, now: &Report) -> bool {
    ageless_report(before) != ageless_report(now)
}

fn ageless_guard(status: &GuardStatus) -> GuardStatus {
    let mut plain = GuardStatus { seq: 0, position: None, ..status.clone() };
    if let Some(lease) = plain.lease.as_mut() {
        lease.remaining = Millis::ZERO;
    }
    if let Some(receiving) = plain.receiving.as_mut() {
        receiving.advanced = Millis::ZERO;
    }
    for disk in &mut plain.disks {
        disk.room = None;
        match &mut disk.sync {
            DiskSync::Ok { took, age } => (*took, *age) = (Millis::ZERO, Millis::ZERO),
            DiskSync::Waiting { waiting: time }
            | DiskSync::NoRoom { age: time }
            | DiskSync::Failed { age: time, .. } => *time = Millis::ZERO,
            DiskSync::NotYet => {}
        }
    }
    match &mut plain.write_probe {
        WriteProbe::Ok { age: time }
        | WriteProbe::Late { waiting: time }
        | WriteProbe::Failed { since: time, .. } => *time = Millis::ZERO,
        WriteProbe::NotApplicable | WriteProbe::WaitingForStandbys => {}
    }
    plain
}

fn ageless_report(report: &Report) -> Report {
    let mut plain = Report { generation: 0, ..report.clone() };
    let still = |time: &mut Option<Millis>| *time = time.map(|_| Millis::ZERO);
    still(&mut plain.starved);
    for sighting in &mut plain.sightings {
        sighting.age = Millis::ZERO;
        still(&mut sighting.lost_for);
    }
    for route in &mut plain.routes {
        route.age = Millis::ZERO;
        still(&mut route.astray_for);
    }
    plain
}

#[cfg(test)]
mod tests {
    use mesh_proto::evidence::{ProcessState, Seen};

    use super::*;
    use crate::cli::render::samples::healthy_status;

    #[test]
    fn time_alone_is_no_news_and_everything_else_is() {
        let view = healthy_status();
        let (before, _) = view.groups[0].instances[0].guard.clone().unwrap();
        let mut now = before.clone();
        now.seq += 1;
        now.lease.as_mut().unwrap().remaining = Millis(1);
        now.write_probe = WriteProbe::Ok { age: Millis(7) };
        now.position = None;
        assert!(!of_guard(&before, &now));
        let news: [fn(&mut GuardStatus); 4] = [
            |status| status.process = ProcessState::Died,
            |status| status.lease = None,
            |status| status.write_probe = WriteProbe::Late { waiting: Millis(1) },
            |status| status.trouble = Some("the disk is full".to_owned()),
        ];
        for change in news {
            let mut changed = now.clone();
            change(&mut changed);
            assert!(of_guard(&before, &changed));
        }
        let (agent, sighting) = view.groups[0].instances[0].seen[0].clone();
        let report = |seen, generation, lost_for| Report {
            agent: agent.clone(),
            boot: 1,
            generation,
            sightings: vec![mesh_proto::evidence::Sighting {
                seen,
                age: Millis(generation),
                lost_for,
                ..sighting.clone()
            }],
            reaches: Vec::new(),
            starved: None,
            routes: Vec::new(),
            electorate: 0,
            edition: 0,
        };
        let well = report(Seen::Writable { epoch: None }, 1, None);
        assert!(!of_observer(&well, &report(Seen::Writable { epoch: None }, 2, None)));
        assert!(of_observer(&well, &report(Seen::Refused, 2, Some(Millis(0)))));
        let lost = report(Seen::Refused, 2, Some(Millis(0)));
        assert!(
            !of_observer(&lost, &report(Seen::Refused, 3, Some(Millis(900)))),
            "how long is judged by the clock"
        );
    }
}
