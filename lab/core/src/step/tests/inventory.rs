//! Machines come, change and go.

use super::bench::{Bench, DISK, ask, name, role};
use super::{spec, spec_with};
use crate::effect::Effect;
use crate::event::{Event, PowerAction, Request};
use crate::inventory::model::{DiskContent, Inventory, MachineSpec};
use crate::machine::{Health, Phase, Reading};
use crate::record::Change;
use crate::reservation::{Ask, Want};
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
    let enrol = || Request::Enrol { select: "name=m1".parse().unwrap(), listed: vec![name("m1")] };
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

/// What the new name's power reads while the old one still switches it would
/// be believed after.
#[test]
fn a_machine_under_a_new_name_is_off_because_it_was_once() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.reload(|i| {
        let spec = i.machines.remove(&name("m0")).unwrap();
        i.machines.insert(name("m1"), MachineSpec { name: name("m1"), ..spec });
    });
    b.read("m1", 0, Reading::Off);
    assert_eq!(b.machine("m1").legs[0].seen, None, "ada may switch it on");
    b.release("ada", id);
    b.live(60_000);
    assert!(b.lab.machine(&name("m0")).is_none());
    assert_eq!(b.machine("m1").legs[0].seen.map(|s| s.reading), Some(Reading::Off), "nobody read it since");
}

#[test]
fn a_machine_that_is_new_since_a_reload_is_never_read() {
    let mut b = Bench::new(&["m0"]);
    b.effects.clear();
    b.reload(|i| {
        let fields = Arc::new([("outlet".to_owned(), 7.into())].into_iter().collect());
        i.machines.get_mut(&name("m0")).unwrap().legs[0].driver.fields = fields;
    });
    assert_eq!((b.state("m0"), b.machine("m0").legs[0].seen), ("new", None));
    b.live(1_000);
    assert!(b.machine("m0").legs[0].seen.is_some(), "others on its circuit wait for somebody to enrol it");
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
            .map(|n| SeenDisk {
                path: format!("/dev/{n}"),
                bytes: DISK,
                serial: None,
                bus: "sim".into(),
                ..SeenDisk::default()
            })
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
    let disk = SeenDisk {
        path: "/dev/1".into(),
        bytes: DISK,
        serial: None,
        bus: "sim".into(),
        ..SeenDisk::default()
    };
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

fn other_outlet(inventory: &mut Inventory) {
    let spec = inventory.machines.get_mut(&name("m0")).unwrap();
    let fields = serde_json::from_value(serde_json::json!({ "outlet": 7 })).unwrap();
    spec.legs[0].driver.fields = Arc::new(fields);
}

#[test]
fn another_outlet_under_the_old_name_is_switched_without_being_enrolled() {
    let mut b = Bench::new(&["m0"]);
    b.reload(other_outlet);
    assert_eq!(b.state("m0"), "new");
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().disks[0].matching.serial = Some("other".into()));
    assert_eq!(b.state("m0"), "new", "another disk would be erased");
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().note = Some("fan".into()));
    assert_eq!(b.state("m0"), "free", "a note is no part");
}

#[test]
fn a_tenant_switches_an_outlet_that_nobody_enrolled() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.reload(other_outlet);
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    assert_eq!(b.refused("ada", power(PowerAction::Cycle)), Code::Conflict);
    assert_eq!(b.refused("ada", Request::Reimage { machine: name("m0"), image: None }), Code::Conflict);
    b.restart();
    assert_eq!(b.in_use_by("m0"), Some(id));
    b.release("ada", id);
    assert_eq!(b.power_waiting(), [], "the release switches it");
    b.live(60_000);
    assert_eq!(b.state("m0"), "new");
}

#[test]
fn parts_change_in_the_middle_of_a_turn() {
    for phase in [Phase::Off, Phase::BootAgent, Phase::Seed, Phase::Evidence] {
        let mut b = Bench::new(&["m0", "m1"]);
        let id = b.reserve("ada", ask("", Want::Image));
        b.obey_until("m0", |p| *p == phase);
        b.effects.clear();
        b.reload(other_outlet);
        let touched = |e: &Effect| matches!(e, Effect::Power { machine, .. } if machine.as_str() == "m0");
        assert!(!b.effects.iter().any(|(_, e)| touched(e)), "switched in {phase:?}");
        b.live(600_000);
        assert_eq!(b.state("m0"), "new", "changed in {phase:?}");
        assert_eq!((b.status(id), b.members(id)), ("ready", vec!["m1".to_owned()]));
    }
}

#[test]
fn parts_of_one_of_two_change_when_both_are_ready() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    let asked = Ask { roles: vec![role("machine", "", 2)], ..ask("", Want::Agent) };
    let id = b.reserve("ada", asked);
    b.obey();
    assert_eq!(b.status(id), "ready");
    b.reload(other_outlet);
    b.live(600_000);
    assert_eq!((b.status(id), b.members(id)), ("ready", vec!["m1".to_owned(), "m2".to_owned()]));
}

#[test]
fn an_undrain_forgets_a_command_that_may_still_land() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.take_power();
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.release("ada", id);
    b.reload(other_outlet);
    assert_eq!(b.refused("admin", Request::Undrain(name("m0"))), Code::Conflict);
    b.live(120_000);
    b.ok("admin", Request::Undrain(name("m0")));
    assert_eq!(b.state("m0"), "new");
}

#[test]
fn a_machine_that_came_after_the_list_is_enrolled_with_it() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| i.machines.extend(["m1", "m2"].map(|m| (name(m), spec(m)))));
    let enrol = |listed: &[&str]| Request::Enrol {
        select: "".parse().unwrap(),
        listed: listed.iter().map(|m| name(m)).collect(),
    };
    assert_eq!(b.refused("admin", enrol(&["m1"])), Code::Conflict);
    assert_eq!(b.state("m1"), "new");
    b.ok("admin", enrol(&["m1", "m2"]));
}

#[test]
fn a_machine_that_is_held_is_given_away_under_a_new_name() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.reload(|i| {
        for (n, spec) in i.machines.values_mut().enumerate() {
            spec.legs[0].driver.fields = Arc::new([("outlet".to_owned(), n.into())].into_iter().collect());
        }
    });
    b.ok("admin", Request::Enrol { select: "".parse().unwrap(), listed: vec![name("m0"), name("m1")] });
    let id = b.hold("ada", ask("name=m0", Want::Bare));
    b.reload(|i| {
        let old = i.machines.remove(&name("m0")).unwrap();
        drop(i.machines.insert(name("x0"), MachineSpec { name: name("x0"), ..old }));
    });
    let enrol = || Request::Enrol { select: "".parse().unwrap(), listed: vec![name("x0")] };
    assert_eq!(b.refused("admin", enrol()), Code::Conflict, "two holders of one board");
    b.restart_enrolling();
    assert_eq!(b.state("x0"), "new", "a start gives it away");
    b.release("ada", id);
    b.live(60_000);
    b.ok("admin", enrol());
    assert_eq!(b.state("x0"), "free");
}

#[test]
fn a_machine_that_left_and_came_back_rewired_while_held_is_lost() {
    let mut b = Bench::new(&["m0", "m1"]);
    let id = b.hold("ada", ask("name=m0", Want::Bare));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    b.reload(|i| {
        let mut spec = spec("m0");
        spec.legs[0].driver.fields = Arc::new([("outlet".to_owned(), 7.into())].into_iter().collect());
        drop(i.machines.insert(name("m0"), spec));
    });
    b.release("ada", id);
    b.live(60_000);
    assert_eq!(b.state("m0"), "new", "the inventory lists it");
}
