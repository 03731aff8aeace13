//! Machines come, change and go.

use super::bench::{Bench, DISK, ask, name};
use super::{spec, spec_with};
use crate::event::{Event, Request};
use crate::inventory::model::{DiskContent, Inventory};
use crate::machine::{Health, Phase};
use crate::record::Change;
use crate::reservation::Want;
use crate::simulator::labs;
use crate::{Lab, invariant};
use pitstop_wire::Code;
use pitstop_wire::agent::{Hardware, SeenDisk};
use std::sync::Arc;

#[test]
fn a_machine_that_nobody_enrolled_is_written() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| drop(i.machines.insert(name("m1"), spec("m1"))));
    assert_eq!(b.state("m1"), "new");
    let id = b.reserve("ada", ask("name=m1", Want::Bare));
    b.live(60_000);
    assert_eq!(b.status(id), "waiting");
    assert_eq!(
        b.count(|c| matches!(c, Change::PowerIntended { machine, .. } if machine.as_str() == "m1")),
        0
    );
    let enrol = || Request::Enrol("name=m1".parse().unwrap());
    assert_eq!(b.refused("ada", enrol()), Code::NotAllowed);
    b.ok("admin", enrol());
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.refused("admin", enrol()), Code::NotFound, "enrolled twice");
}

#[test]
fn a_drain_enrols_a_machine() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| drop(i.machines.insert(name("m1"), spec("m1"))));
    let drained = b.request("admin", Request::Drain { machine: name("m1"), reason: "fan".into() });
    if drained.is_ok() {
        b.ok("admin", Request::Undrain(name("m1")));
    }
    assert_eq!(b.state("m1"), "new", "nobody said that its disks may be erased");
}

#[test]
fn a_machine_leaves_while_somebody_holds_it() {
    let mut b = Bench::new(&["m0", "m1"]);
    let id = b.hold("ada", ask("name=m0", Want::Image));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert_eq!(b.machine("m0").health, Health::Retired);
    assert_eq!(
        b.refused("bob", Request::Reserve { ask: Box::new(ask("name=m0", Want::Bare)), image: None }),
        Code::NotFound
    );
    b.release("ada", id);
    b.obey();
    assert!(b.lab.machine(&name("m0")).is_none(), "it stays for ever");
    b.reload(|i| drop(i.machines.insert(name("m0"), spec("m0"))));
    assert_eq!(b.state("m0"), "new");
}

#[test]
fn a_machine_that_leaves_at_rest_stays_in_the_rows() {
    let mut b = Bench::new(&["m0", "m1"]);
    let id = b.hold("ada", ask("name=m1", Want::Bare));
    let waits = b.reserve("bob", ask("name=m1", Want::Bare));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    assert!(b.lab.machine(&name("m0")).is_none());
    b.release("ada", id);
    b.obey();
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn a_machine_that_left_and_came_back_while_held_is_used_without_enrolment() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    b.reload(|i| drop(i.machines.insert(name("m0"), spec("m0"))));
    b.release("ada", id);
    b.obey();
    assert_eq!(b.state("m0"), "new");
}

fn with_scratch(i: &mut Inventory) {
    // Before the one it had: what was disk 0 is disk 1 from now on.
    i.machines.get_mut(&name("m0")).unwrap().disks.insert(0, labs::disk("scratch", DiskContent::Zero));
}

#[test]
fn a_new_disk_of_a_resting_machine_is_erased_without_a_word() {
    let mut b = Bench::new(&["m0"]);
    let intents = b.machine("m0").intents;
    b.reload(with_scratch);
    assert_eq!(b.state("m0"), "new");
    assert_eq!(b.machine("m0").disks.len(), 2);
    assert!(b.machine("m0").intents >= intents, "numbers of commands are used again");
}

#[test]
fn a_disk_that_came_while_the_machine_was_held_is_offered_unproven() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.reload(with_scratch);
    b.board(&name("m0")).disks.insert(0, None);
    b.quirks.hardware = Some(Hardware {
        disks: (0..1)
            .map(|n| SeenDisk { path: format!("/dev/{n}"), bytes: DISK, serial: None, bus: "sim".into() })
            .collect(),
        ..Hardware::default()
    });
    b.release("ada", id);
    b.quirks.hardware = None;
    b.live(600_000);
    assert_eq!(b.state("m0"), "new", "its disks are not those it was enrolled with");
    assert_eq!(b.machine("m0").disks.len(), 2);
}

#[test]
fn a_disk_that_moved_in_the_inventory_is_written_in_the_place_of_another() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.reload(with_scratch);
    b.board(&name("m0")).disks.insert(0, None);
    // The new disk is not plugged in yet.
    let disk = SeenDisk { path: "/dev/1".into(), bytes: DISK, serial: None, bus: "sim".into() };
    b.quirks.hardware = Some(Hardware { disks: vec![disk], ..Hardware::default() });
    b.release("ada", id);
    b.live(600_000);
    assert_eq!(b.boards[&name("m0")].disks, [None, Some(Some("b3:debian".to_owned()))]);
    assert_eq!(b.state("m0"), "new");
}

#[test]
fn a_changed_leg_is_switched_before_anybody_looked() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().legs.push(labs::leg("mains")));
    assert_eq!(b.state("m0"), "new");
    assert_eq!(b.machine("m0").legs.len(), 2);
}

#[test]
fn numbers_of_power_commands_are_used_again_by_a_changed_machine() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    let (intents, attempts) = (b.machine("m0").intents, b.machine("m0").attempts);
    b.reload(with_scratch);
    assert_eq!((b.machine("m0").intents, b.machine("m0").attempts), (intents, attempts));
}

#[test]
fn a_machine_that_leaves_in_the_middle_of_its_turn_is_stuck() {
    for phase in [
        (|p: &Phase| *p == Phase::Off) as fn(&Phase) -> bool,
        |p| *p == Phase::BootAgent,
        |p| matches!(p, Phase::Disk { .. }),
        |p| *p == Phase::Seed,
        |p| *p == Phase::Evidence,
    ] {
        let mut b = Bench::new(&["m0", "m1"]);
        let id = b.reserve("ada", ask("name=m0", Want::Image));
        b.obey_until("m0", phase);
        b.reload(|i| drop(i.machines.remove(&name("m0"))));
        b.release("ada", id);
        b.live(3_600_000);
        assert!(b.lab.machine(&name("m0")).is_none(), "{:?}", b.machine("m0").turn().map(|t| &t.phase));
    }
}

#[test]
fn a_reload_is_for_everybody() {
    let mut b = Bench::new(&["m0"]);
    let inventory = b.inventory.clone();
    assert_eq!(b.refused("ada", Request::Reload(inventory)), Code::NotAllowed);
}

#[test]
fn an_empty_lab_does_not_start() {
    let mut lab = Lab::default();
    let moment =
        crate::event::Moment { now: crate::time::LabTime(0), wall: 0, entropy: crate::id::Entropy([0; 32]) };
    lab.step(&moment, Event::Start { inventory: Arc::new(Inventory::default()), enrol: false });
    invariant::check(&lab).unwrap();
    assert_eq!(lab.next_deadline(), None);
}

#[test]
fn a_proving_turn_outlives_the_machines_place_in_the_inventory() {
    let mut b = Bench::of([spec("m0"), spec_with("m1", |_| ())]);
    b.ok("admin", Request::Prove(name("m0")));
    b.obey_until("m0", |p| matches!(p, Phase::Rest));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    b.live(600_000);
    assert!(b.lab.machine(&name("m0")).is_none(), "a machine outside the inventory is {}", b.state("m0"));
}
