//! What a machine is, and that nothing is written where it is something else.

use super::bench::{Bench, DISK, ask, name};
use super::{spec, spec_with};
use crate::event::Request;
use crate::inventory::model::{DiskMatch, HealthCheck};
use crate::machine::{Content, FailureClass, Health, Machine, Stage};
use crate::record::Change;
use crate::reservation::{End, Want};
use pitstop_wire::Code;
use pitstop_wire::agent::{Hardware, SeenDisk};

const DAY: u64 = 86_400_000;

fn found(serial: &str, disk: &str) -> Hardware {
    let disk = SeenDisk {
        path: "/dev/0".into(),
        bytes: DISK,
        serial: Some(disk.into()),
        bus: "sim".into(),
        ..SeenDisk::default()
    };
    Hardware {
        disks: vec![disk],
        macs: vec!["52:54:00:00:00:01".into()],
        memory: 8 << 30,
        cpus: 4,
        serial: Some(serial.into()),
        firmware: [("bios".to_owned(), "1.0".to_owned())].into(),
        ..Hardware::default()
    }
}

/// A machine that was used once, so that everything of it is known.
fn known() -> Bench {
    let mut b = Bench::new(&["m0"]);
    b.quirks.hardware = Some(found("M1", "D1"));
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "proven"));
    b
}

fn change(b: &mut Bench, change: impl FnOnce(&mut Hardware)) {
    change(b.quirks.hardware.as_mut().unwrap());
}

fn written(b: &Bench) -> usize {
    b.count(|c| matches!(c, Change::DiskWriting { .. }))
}

fn enrol(b: &mut Bench) {
    b.ok("admin", Request::Enrol { select: "name=m0".parse().unwrap(), listed: vec![name("m0")] });
}

fn failure(b: &Bench) -> (FailureClass, String) {
    match &b.machine("m0").health {
        Health::Quarantined { failure, .. } => (failure.class, failure.evidence.clone()),
        other => panic!("not quarantined: {other:?}"),
    }
}

/// The machine is wanted again, as it is now.
fn wanted(b: &mut Bench) -> crate::id::ReservationId {
    let id = b.reserve_image("bob", ask("", Want::Image), Some("yocto"));
    b.obey();
    id
}

#[test]
fn what_was_found_is_typed_all_the_same() {
    let b = known();
    let machine = b.machine("m0");
    let tags = &machine.baseline.as_ref().unwrap().tags;
    assert_eq!((tags["ram"].to_string(), tags["cores"].to_string()), ("8".into(), "4".into()));
    let matches = |select: &str| {
        let spec = b.lab.spec(&name("m0")).unwrap();
        select.parse::<pitstop_wire::Selector>().unwrap().matches(&b.lab.facts(&machine, spec))
    };
    assert!(matches("ram=8..") && matches("cores=4") && matches("serial=M1") && matches("M1"));
    assert!(!matches("ram=9.."));
}

#[test]
fn what_is_typed_counts_more_than_what_was_found() {
    let typed = |s: &mut crate::inventory::model::MachineSpec| {
        s.tags.insert("ram".into(), serde_json::from_str("4").unwrap());
    };
    let mut b = Bench::of([spec_with("m0", typed)]);
    b.quirks.hardware = Some(found("M1", "D1"));
    b.hold("ada", ask("", Want::Bare));
    assert_eq!(b.refused_ask(ask("ram=8..", Want::Bare)), Code::NotFound);
    b.reserve("bob", ask("ram=4 cores=4", Want::Bare));
}

#[test]
fn another_machine_on_the_outlet_is_written() {
    let mut b = known();
    change(&mut b, |h| h.serial = Some("M2".into()));
    let (before, boots) = (written(&b), b.boards[&name("m0")].boots);
    let id = wanted(&mut b);
    assert_eq!(written(&b), before, "it was written");
    let (class, evidence) = failure(&b);
    assert_eq!(class, FailureClass::Drift);
    assert!(evidence.contains("serial number is M2, was M1"), "{evidence}");
    assert_eq!(b.status(id), "waiting", "whoever waits gets another machine, and goes on waiting");
    assert_eq!(b.boards[&name("m0")].boots, boots + 1, "another's machine was switched on once more");
    assert!(b.boards[&name("m0")].legs.iter().all(|on| !on), "it was left on");
}

#[test]
fn another_disk_is_written() {
    let mut b = known();
    change(&mut b, |h| h.disks[0].serial = Some("D2".into()));
    let before = written(&b);
    wanted(&mut b);
    assert_eq!(written(&b), before);
    let (class, evidence) = failure(&b);
    assert!(class == FailureClass::Drift && evidence.contains("serial D2"), "{evidence}");
    // To prove it is to look again, not to accept it.
    b.ok("admin", Request::Prove(name("m0")));
    b.obey();
    assert_eq!((written(&b), failure(&b).0), (before, FailureClass::Drift));
    // The right one is back.
    change(&mut b, |h| h.disks[0].serial = Some("D1".into()));
    b.ok("admin", Request::Prove(name("m0")));
    b.obey();
    assert_eq!(b.machine("m0").health, Health::Good);
    assert!(written(&b) > before);
}

#[test]
fn a_strange_machine_is_switched_again_and_again_by_itself() {
    let mut b = known();
    change(&mut b, |h| h.serial = Some("M2".into()));
    wanted(&mut b);
    let boots = b.boards[&name("m0")].boots;
    b.live(3 * DAY);
    assert_eq!(b.boards[&name("m0")].boots, boots);
    let why = b.lab.why_machine(&name("m0"), crate::time::LabTime(b.now)).unwrap();
    let told: Vec<String> = why.reasons.iter().map(|r| r.text.clone()).collect();
    assert!(told.iter().any(|t| t.contains("not proven by itself")), "{told:?}");
    assert!(why.reasons.iter().any(|r| r.next.as_deref() == Some("pitstop admin enrol name=m0")), "{why:?}");
}

#[test]
fn what_was_accepted_is_believed_to_hold_what_the_other_held() {
    let mut b = known();
    change(&mut b, |h| h.disks[0].serial = Some("D2".into()));
    wanted(&mut b);
    enrol(&mut b);
    let machine = b.machine("m0");
    assert_eq!(machine.baseline.as_ref().unwrap().facts.disks[0].serial.as_deref(), Some("D2"));
    assert!(machine.disks.iter().all(|d| d.content == Content::Unknown), "{:?}", machine.disks);
    b.obey();
    assert_eq!(b.machine("m0").health, Health::Good);
    assert!(matches!(b.machine("m0").stage, Stage::Ready { .. }), "{:?}", b.machine("m0").stage);
    assert!(b.lab.differences(&b.machine("m0")).is_empty());
    let again = Request::Enrol { select: "name=m0".parse().unwrap(), listed: vec![name("m0")] };
    assert_eq!(b.refused("admin", again), Code::NotFound, "nothing differs any more");
}

#[test]
fn only_a_person_accepts_another_machine() {
    let mut b = known();
    change(&mut b, |h| h.serial = Some("M2".into()));
    wanted(&mut b);
    let select = || "name=m0".parse().unwrap();
    assert_eq!(
        b.refused("bob", Request::Enrol { select: select(), listed: vec![name("m0")] }),
        Code::NotAllowed
    );
    // He has not seen it listed.
    assert_eq!(b.refused("admin", Request::Enrol { select: select(), listed: vec![] }), Code::Conflict);
    b.restart_enrolling();
    b.obey();
    assert_eq!(failure(&b).0, FailureClass::Drift, "a start of the daemon accepted it");
}

#[test]
fn a_small_change_is_told_again_and_again() {
    let mut b = known();
    change(&mut b, |h| {
        h.macs = vec!["52:54:00:00:00:02".into()];
        h.firmware.insert("bios".into(), "2.0".into());
    });
    let told = |b: &Bench| b.count(|c| matches!(c, Change::FactsDiffer { .. }));
    for _ in 0..3 {
        let id = wanted(&mut b);
        assert_eq!(b.status(id), "ready", "it may be used: {:?}", b.failures("m0"));
        b.release("bob", id);
        b.obey();
    }
    assert_eq!(told(&b), 1);
    let difference = b.changes().find_map(|c| match c {
        Change::FactsDiffer { differences, .. } => Some(differences.join("; ")),
        _ => None,
    });
    let difference = difference.unwrap();
    assert!(
        difference.contains("52:54:00:00:00:02 is new") && difference.contains("bios is 2.0"),
        "{difference}"
    );
    // What it is now is accepted, and what it is later compared with that.
    enrol(&mut b);
    assert_eq!(b.machine("m0").clean(), "proven", "to accept a network card makes no disk unknown");
    assert!(b.lab.differences(&b.machine("m0")).is_empty());
    change(&mut b, |h| h.macs.clear());
    let id = wanted(&mut b);
    assert_eq!((b.status(id), told(&b)), ("ready", 2));
}

#[test]
fn who_asked_for_memory_gets_a_machine_that_lost_it() {
    let mut b = known();
    change(&mut b, |h| h.memory = 4 << 30);
    let id = b.reserve("bob", ask("ram=8", Want::Agent));
    b.obey();
    assert_eq!(b.status(id), "waiting");
    assert_eq!(failure(&b).0, FailureClass::Drift);
    enrol(&mut b);
    b.obey();
    assert_eq!(b.status(id), "waiting", "it is a machine of 4 GiB now");
    let id = b.reserve("bob", ask("ram=4", Want::Agent));
    b.obey();
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_disk_that_is_swapped_behind_the_report_is_written() {
    let mut b = known();
    b.obey_until_work();
    let find = |b: &Bench| {
        b.effects.iter().find_map(|(_, e)| match e {
            crate::effect::Effect::Tell {
                message:
                    pitstop_wire::agent::ToAgent::Do { work: pitstop_wire::agent::Work::Image(image), .. },
                ..
            } => Some(image.find.clone()),
            _ => None,
        })
    };
    assert_eq!(
        find(&b).unwrap().serial.as_deref(),
        Some("D1"),
        "the agent must find the enrolled disk alone"
    );
    // Somebody pulls it under the running machine: an honest agent refuses.
    change(&mut b, |h| h.disks[0].serial = Some("D2".into()));
    b.obey();
    assert!(b.failures("m0")[0].contains("no disk fits"), "{:?}", b.failures("m0"));
    // One that proves the other one is not believed.
    let mut b = known();
    b.quirks.spoil = Some(|proof| proof.serial = Some("D2".into()));
    wanted(&mut b);
    assert!(b.failures("m0")[0].contains("serial number that was enrolled"), "{:?}", b.failures("m0"));
}

impl Bench {
    /// Wants the machine, until its agent is told to look at or write a disk.
    fn obey_until_work(&mut self) {
        self.reserve_image("bob", ask("", Want::Image), Some("yocto"));
        self.obey_until("m0", |p| matches!(p, crate::machine::Phase::Disk { .. }));
    }
}

#[test]
fn a_report_that_is_none_is_kept() {
    for bad in [
        (|h: &mut Hardware| h.disks[0].bytes = u64::MAX) as fn(&mut Hardware),
        |h| h.memory = u64::MAX,
        |h| h.disks = vec![SeenDisk::default(); 10_000],
    ] {
        let mut b = known();
        let (before, row) = (written(&b), b.machine("m0"));
        change(&mut b, bad);
        wanted(&mut b);
        assert_eq!(written(&b), before);
        assert!(b.failures("m0")[0].starts_with("agent: its report is none"), "{:?}", b.failures("m0"));
        assert_eq!((&b.machine("m0").hardware, &b.machine("m0").baseline), (&row.hardware, &row.baseline));
    }
}

#[test]
fn words_of_a_report_carry_control_characters_into_the_rows() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.hardware = Some(found("\u{1b}[2JM1\u{7}", "D1"));
    b.hold("ada", ask("", Want::Bare));
    assert_eq!(b.machine("m0").baseline.as_ref().unwrap().facts.serial.as_deref(), Some("[2JM1"));
    let rows = serde_json::to_string(&*b.machine("m0")).unwrap();
    assert!(!rows.contains("\\u001b") && !rows.contains("\\u0007"), "{rows}");
}

#[test]
fn a_row_of_a_version_that_knew_no_baseline_is_not_read() {
    let b = known();
    let mut row = serde_json::to_value(&*b.machine("m0")).unwrap();
    assert!(row.as_object_mut().unwrap().remove("baseline").is_some());
    let hardware = serde_json::json!({
        "disks": [{ "path": "/dev/0", "bytes": DISK, "serial": null, "bus": "sim" }],
        "macs": [], "memory": 0, "cpus": 1,
    });
    row["hardware"] = hardware;
    let old: Machine = serde_json::from_value(row).unwrap();
    assert_eq!((old.baseline.clone(), old.wiring.clone()), (None, None));
    assert_eq!(old.hardware.unwrap().disks.len(), 1);
}

#[test]
fn a_class_whose_machines_were_all_swapped_is_only_paused() {
    let names = ["m0", "m1", "m2", "m3", "m4"];
    let mut b = Bench::of(names.map(|n| spec_with(n, |s| s.class = Some("board".into()))));
    b.quirks.hardware = Some(found("M1", "D1"));
    for machine in names {
        b.ok("admin", Request::Prove(name(machine)));
    }
    b.obey();
    change(&mut b, |h| h.serial = Some("M2".into()));
    for machine in names {
        b.ok("admin", Request::Prove(name(machine)));
    }
    b.obey();
    let drifted = |n: &&&str| matches!(&b.machine(n).health, Health::Quarantined { failure, .. } if failure.class == FailureClass::Drift);
    assert_eq!(names.iter().filter(drifted).count(), 5);
}

#[test]
fn a_holder_who_has_his_machine_written_again_gets_another_disk_written() {
    let mut b = known();
    let id = b.hold("ada", ask("", Want::Image));
    let before = written(&b);
    change(&mut b, |h| h.disks[0].serial = Some("D2".into()));
    b.ok("ada", Request::Reimage { machine: name("m0"), image: None });
    b.obey();
    assert_eq!(written(&b), before);
    assert!(matches!(b.end(id), End::Failed { class: FailureClass::Drift, .. }), "{:?}", b.end(id));
}

#[test]
fn a_machine_that_was_enrolled_is_written_before_it_reported() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| drop(i.machines.insert(name("m1"), spec("m1"))));
    b.quirks.hardware = Some(found("M1", "D1"));
    b.ok("admin", Request::Enrol { select: "name=m1".parse().unwrap(), listed: vec![name("m1")] });
    assert_eq!(b.machine("m1").baseline, None, "nobody saw it yet");
    b.ok("admin", Request::Prove(name("m1")));
    b.obey();
    let place = |wanted: fn(&Change) -> bool| b.changes().position(wanted).unwrap();
    let known = place(|c| matches!(c, Change::BaselineSet { .. }));
    assert!(known < place(|c| matches!(c, Change::DiskWriting { .. })));
    b.reserve("ada", ask("ram=8", Want::Bare));
}

#[test]
fn a_machine_with_other_parts_is_compared_with_what_it_was() {
    let mut b = known();
    b.reload(|i| {
        let disk = &mut i.machines.get_mut(&name("m0")).unwrap().disks[0];
        disk.matching = DiskMatch { serial: Some("D2".into()), ..DiskMatch::default() };
    });
    assert_eq!((b.state("m0"), b.machine("m0").baseline.clone()), ("new", None));
    change(&mut b, |h| h.disks[0].serial = Some("D2".into()));
    enrol(&mut b);
    b.obey();
    assert_eq!(b.machine("m0").health, Health::Good, "{:?}", b.failures("m0"));
}

#[test]
fn a_check_that_is_due_finds_the_swap_and_writes_nothing() {
    let checked = |s: &mut crate::inventory::model::MachineSpec| {
        s.health = Some(HealthCheck { every_ms: 3_600_000, run: Vec::new(), within_ms: 60_000 });
    };
    let mut b = Bench::of([spec_with("m0", checked)]);
    b.quirks.hardware = Some(found("M1", "D1"));
    b.live(2 * 3_600_000);
    let before = written(&b);
    assert!(before > 0);
    change(&mut b, |h| h.serial = Some("M2".into()));
    b.live(2 * 3_600_000);
    assert_eq!((written(&b), failure(&b).0), (before, FailureClass::Drift));
}
