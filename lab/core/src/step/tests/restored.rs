//! A backup was put in the place of the database: what it says was true once.

use super::bench::{Bench, ask, image, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{BootAnswer, Event, Request};
use crate::inventory::model::{HealthCheck, Idle};
use crate::machine::{Content, Health, Reading, Stage, Switch};
use crate::record::Change;
use crate::reservation::{End, Want};
use pitstop_wire::agent::{AgentKind, Welcome};

/// What a tenant leaves on the disk.
const SECRET: &str = "b3:secret";

fn tenant_writes(b: &mut Bench, machine: &str) {
    b.board(&name(machine)).disks[0] = Some(Some(SECRET.to_owned()));
}

fn has_secret(b: &Bench, machine: &str) -> bool {
    b.boards[&name(machine)].disks[0] == Some(Some(SECRET.to_owned()))
}

/// Nobody has a machine or waits for one, and nothing is believed of any.
fn assert_doubted(b: &Bench) {
    for machine in b.lab.machines() {
        assert_eq!(machine.stage, Stage::Free, "{}", machine.name);
        assert!(machine.disks.iter().all(|d| d.content == Content::Unknown), "{:?}", machine.disks);
        assert!(machine.legs.iter().all(|l| l.seen.is_none()), "{:?}", machine.legs);
        assert!(machine.legs.is_empty() || !machine.settled(), "an earlier command may still land");
        assert!(machine.agent.is_none());
    }
    assert!(b.lab.reservations().all(|r| r.ended()));
}

/// Whoever gets the machine now gets it off, read so after the restore, and
/// with nothing of anybody else's on it.
fn assert_next_is_clean(b: &mut Bench, want: Want) {
    let began = b.now;
    let id = b.reserve("carol", ask("name=m0", want));
    b.live(600_000);
    assert_eq!(b.status(id), "ready", "{:?} {:?}", b.failures("m0"), b.machine("m0").stage);
    assert!(!has_secret(b, "m0"), "{want:?}");
    let off = b.records.iter().any(|r| {
        r.at.0 >= began
            && matches!(&r.change, Change::PowerSeen { machine, reading: Reading::Off, .. } if *machine == name("m0"))
    });
    assert!(off, "it was never seen off");
    assert!(b.machine("m0").settled(), "a command that nobody remembers may still land");
}

#[test]
fn a_machine_that_was_free_at_the_backup_is_handed_over_with_its_next_tenants_data() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        let mut b = Bench::new(&["m0"]);
        let id = b.reserve("ada", ask("", Want::Bare));
        b.live(60_000);
        b.release("ada", id);
        b.live(600_000);
        assert!(b.machine("m0").all_proven(), "a backup that says so");
        let backup = b.backup();
        b.hold("bob", ask("", Want::Image));
        tenant_writes(&mut b, "m0");
        b.restore(backup);
        assert_doubted(&b);
        assert_next_is_clean(&mut b, want);
    }
}

#[test]
fn who_held_a_machine_at_the_backup_gets_it_back_from_its_next_tenant() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        let mut b = Bench::new(&["m0"]);
        let ada = b.hold("ada", ask("", want));
        let backup = b.backup();
        b.release("ada", ada);
        b.live(600_000);
        b.hold("bob", ask("", Want::Image));
        tenant_writes(&mut b, "m0");
        b.restore(backup);
        assert_doubted(&b);
        assert_eq!(b.end(ada), End::Restored);
        b.refused("ada", Request::Claim(ada));
        b.refused("ada", Request::Run { machine: name("m0"), command: "true".into() });
        assert_next_is_clean(&mut b, want);
    }
}

/// At each moment of a machine's life, from the grant over the hand-over to
/// the end of its turnaround.
#[test]
fn a_backup_of_any_moment_hands_over_what_came_after_it() {
    for effects in 0..60 {
        let mut b = Bench::new(&["m0"]);
        let ada = b.reserve("ada", ask("", Want::Image));
        let mut obeyed = 0;
        while obeyed < effects && b.obey_next() {
            obeyed += 1;
        }
        if b.status(ada) == "ready" && obeyed < effects {
            b.ok("ada", Request::Claim(ada));
            b.release("ada", ada);
            while obeyed < effects && b.obey_next() {
                obeyed += 1;
            }
        }
        let backup = b.backup();
        b.live(600_000);
        if !b.row(ada).ended() {
            b.ok("ada", Request::Claim(ada));
            b.release("ada", ada);
            b.live(600_000);
        }
        b.hold("bob", ask("", Want::Image));
        tenant_writes(&mut b, "m0");
        b.restore(backup);
        assert_doubted(&b);
        assert!(b.power_waiting().is_empty(), "the start switches a machine that somebody may be on");
        assert_next_is_clean(&mut b, Want::Bare);
    }
}

#[test]
fn a_start_from_a_backup_switches_machines() {
    let mut b = Bench::of([
        spec_with("m0", |_| {}),
        spec_with("m1", |_| {}),
        spec_with("m2", |s| s.idle = Some(Idle::Warm { max_age_ms: 3_600_000 })),
    ]);
    b.hold("ada", ask("name=m0", Want::Image));
    b.reserve("bob", ask("name=m1", Want::Image));
    b.reserve("carol", ask("name=m1", Want::Image));
    let backup = b.backup();
    b.restore(backup);
    assert_doubted(&b);
    let power = b.effects.iter().filter(|(_, e)| matches!(e, Effect::Power { .. }));
    assert_eq!(power.count(), 0);
    let on: Vec<bool> = b.boards.values().flat_map(|board| board.legs.clone()).collect();
    b.live(3_600_000);
    let still: Vec<bool> = b.boards.values().flat_map(|board| board.legs.clone()).collect();
    assert_eq!(still, on, "and none later, as long as nobody asks for one");
}

#[test]
fn agents_of_before_are_let_in() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    let resume = b.resume_of("m0");
    let params = b.boards[&name("m0")].seed.clone().unwrap();
    let backup = b.backup();
    b.restore(backup);
    assert!(matches!(b.hello(resume), Welcome::Refused { retry: false, .. }));
    assert!(matches!(b.attach(AgentKind::Host, &params), Welcome::Refused { retry: false, .. }));
    assert!(matches!(b.boot_request("m0", false), BootAnswer::Refused(_) | BootAnswer::Disk));
}

#[test]
fn epochs_and_reservations_are_numbered_again() {
    let mut b = Bench::new(&["m0"]);
    let backup = b.backup();
    for _ in 0..3 {
        b.restart();
    }
    let lost = b.reserve("ada", ask("", Want::Bare));
    let epoch = b.lab.meta().epoch;
    b.restore(backup);
    assert!(b.lab.meta().epoch > epoch, "{:?} after {epoch:?}", b.lab.meta().epoch);
    let next = b.reserve("bob", ask("", Want::Bare));
    assert!(next > lost, "{next} after {lost}");
}

#[test]
fn a_command_of_before_that_lands_late_is_taken_for_one_of_ours() {
    let mut b = Bench::new(&["m0"]);
    let backup = b.backup();
    // A reservation's turn sends an on that hangs in the controller.
    b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == crate::machine::Phase::BootAgent);
    let late = b.take_power();
    assert_eq!(late.want, Switch::On);
    b.restore(backup);
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    b.pass(b.inventory.machines[&name("m0")].limits.power_ms / 2);
    b.obey();
    assert_ne!(b.status(next), "ready", "while that command may still land");
    b.board(&name("m0")).legs[0] = true;
    b.live(600_000);
    assert_eq!(b.status(next), "ready", "{:?}", b.failures("m0"));
    assert_eq!(b.boards[&name("m0")].legs, [false]);
}

#[test]
fn a_persons_word_about_a_machine_is_lost() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    let backup = b.backup();
    b.restore(backup);
    assert!(matches!(b.machine("m0").health, Health::Drained { .. }));
    b.reload(|i| drop(i.machines.remove(&name("m1"))));
    b.live(600_000);
    assert!(b.lab.machine(&name("m1")).is_none(), "a machine that leaves is forgotten all the same");
}

#[test]
fn images_are_forgotten() {
    let mut b = Bench::new(&["m0"]);
    let backup = b.backup();
    b.restore(backup);
    assert!(b.lab.images().any(|i| i.image == image(crate::simulator::labs::IMAGES[0])));
}

#[test]
fn a_daemon_that_is_about_to_end_grants_machines() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = b.hold("ada", ask("name=m0", Want::Bare));
    b.event(Event::Drain);
    let waits = b.reserve("bob", ask("", Want::Bare));
    assert_eq!(b.status(waits), "waiting", "although m1 is free");
    b.release("ada", held);
    b.live(600_000);
    assert_eq!((b.status(waits), b.state("m0")), ("waiting", "free"), "what was begun goes on");
    b.restart();
    assert_eq!(b.status(waits), "preparing", "the next daemon grants it at once");
}

#[test]
fn what_was_granted_is_taken_away_by_the_end_of_the_daemon() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.event(Event::Drain);
    b.live(600_000);
    assert_eq!(b.status(id), "ready");
    b.ok("ada", Request::Claim(id));
    assert_eq!(b.in_use_by("m0"), Some(id));
}

#[test]
fn a_disk_that_nobody_enrolled_is_erased_after_a_restore() {
    let mut b = Bench::new(&["m0"]);
    let backup = b.backup();
    let mut inventory = (*b.inventory).clone();
    let matching =
        crate::inventory::model::DiskMatch { serial: Some("another".into()), ..Default::default() };
    inventory.machines.get_mut("m0").unwrap().disks[0].matching = matching;
    b.inventory = std::sync::Arc::new(inventory);
    b.restore(backup);
    let asked = Request::Reserve { ask: Box::new(ask("", Want::Bare)), image: None };
    b.ok("carol", asked);
    assert!(b.refused("admin", Request::Prove(name("m0"))) == pitstop_wire::Code::Conflict);
    b.live(600_000);
    assert_eq!(b.state("m0"), "new", "{:?}", b.phases("m0"));
    assert_eq!(b.count(|c| matches!(c, Change::TurnStarted { .. })), 0);
}

#[test]
fn a_machine_is_proven_by_itself_before_people_could_look_who_has_it() {
    let check = HealthCheck { every_ms: 24 * 3_600_000, run: Vec::new(), within_ms: 60_000 };
    let mut b = Bench::of([spec_with("m0", |s| s.health = Some(check)), super::spec("m1")]);
    b.board(&name("m1")).dead = true;
    b.reserve("ada", ask("name=m1", Want::Bare));
    b.live(4 * 60_000);
    assert!(matches!(b.machine("m1").health, Health::Quarantined { .. }));
    b.board(&name("m1")).dead = false;
    let backup = b.backup();
    b.live(3 * 24 * 3_600_000);
    b.restore(backup);
    let before = b.records.len();
    b.live(23 * 3_600_000);
    let turns = b.records[before..].iter().filter(|r| matches!(r.change, Change::TurnStarted { .. }));
    assert_eq!(turns.count(), 0);
    b.live(2 * 3_600_000);
    let turns = b.records[before..].iter().filter(|r| matches!(r.change, Change::TurnStarted { .. }));
    assert_eq!(turns.count(), 2, "for ever is too long");
}
