//! A check of wires, and that the machine is put back however it ends.

use super::bench::{Bench, ask, name};
use super::{spec, spec_with};
use crate::event::{Event, PowerAction, Request};
use crate::inventory::model::DriverSpec;
use crate::machine::{Health, Phase, Purpose};
use crate::record::Change;
use crate::reservation::Want;
use crate::wiring::SILENCE;
use pitstop_wire::Code;

fn begin() -> Request {
    Request::WiringBegin(name("m0"))
}

fn beat() -> Request {
    Request::WiringBeat(name("m0"))
}

fn look() -> Request {
    Request::WiringLook(name("m0"))
}

fn end() -> Request {
    Request::WiringEnd(name("m0"))
}

fn power(action: PowerAction) -> Request {
    Request::Power { machine: name("m0"), action, force: None }
}

fn checking() -> Bench {
    let mut b = Bench::new(&["m0"]);
    b.ok("admin", begin());
    b
}

fn is_on(b: &Bench) -> bool {
    b.boards[&name("m0")].legs.iter().any(|on| *on)
}

#[test]
fn somebody_gets_a_machine_whose_wires_are_checked() {
    let mut b = checking();
    assert_eq!(b.state("m0"), "checking");
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.status(id), "waiting");
    let why = b.lab.why_reservation(id, crate::time::LabTime(b.now)).unwrap();
    assert!(why.reasons.iter().any(|r| r.text.contains("admin checks the wires of m0")), "{why:?}");
    b.ok("admin", power(PowerAction::On));
    b.obey();
    assert!(is_on(&b), "its wires cannot be checked");
    b.ok("admin", end());
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert!(!is_on(&b));
    assert_eq!(b.phases("m0").first(), Some(&"off"), "whoever gets it gets it as ever");
}

#[test]
fn a_check_that_was_killed_keeps_the_machine_on_and_to_itself() {
    for with_look in [false, true] {
        let mut b = checking();
        let id = b.reserve("ada", ask("", Want::Bare));
        if with_look {
            b.ok("admin", look());
            b.obey_until("m0", |p| *p == Phase::BootAgent);
        } else {
            b.ok("admin", power(PowerAction::On));
            b.obey();
        }
        b.live(SILENCE - 1_000);
        assert_eq!(b.status(id), "waiting", "it may yet be heard of");
        b.live(60_000);
        assert_eq!(b.status(id), "ready", "look: {with_look}; {:?}", b.machine("m0").stage);
        assert!(!is_on(&b));
        assert_eq!(b.count(|c| matches!(c, Change::WiringEnded { .. })), 1);
    }
}

#[test]
fn a_check_that_beats_is_ended() {
    let mut b = checking();
    for _ in 0..20 {
        b.live(SILENCE / 3);
        b.ok("admin", beat());
    }
    assert_eq!(b.state("m0"), "checking");
    assert_eq!(b.count(|c| matches!(c, Change::WiringEnded { .. })), 0);
    // Who speaks for nobody keeps nothing.
    assert_eq!(b.refused("ada", beat()), Code::Held);
    assert_eq!(b.refused("ada", begin()), Code::NotAllowed);
    let error = b.request("admin", begin()).unwrap_err();
    assert_eq!((error.code, error.retry_after), (Code::Conflict, Some(SILENCE / 1_000)), "two at once");
}

#[test]
fn the_session_of_a_check_ends_while_no_daemon_could_hear_it() {
    let mut b = checking();
    b.pass(SILENCE / 2);
    b.now += 600_000;
    b.restart();
    b.obey();
    assert_eq!(b.state("m0"), "checking", "it counts as just heard");
    b.ok("admin", beat());
    b.now += 600_000;
    b.event(Event::Gap(600_000));
    b.obey();
    assert_eq!(b.state("m0"), "checking");
    b.live(2 * SILENCE);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_new_machine_that_was_checked_is_enrolled_or_forgets_what_it_is() {
    let mut b = Bench::new(&["m1"]);
    b.reload(|i| drop(i.machines.insert(name("m0"), spec("m0"))));
    b.ok("admin", begin());
    assert_eq!(b.state("m0"), "new");
    assert_eq!(b.refused("admin", power(PowerAction::On)), Code::Conflict, "without a word why");
    b.ok("admin", look());
    assert!(b.machine("m0").turn().is_some_and(|t| t.purpose == Purpose::Look));
    b.obey();
    assert_eq!(b.count(|c| matches!(c, Change::DiskWriting { .. })), 0, "nobody said that it may be erased");
    b.ok("admin", end());
    b.obey();
    assert_eq!(b.machine("m0").health, Health::New);
    let baseline = b.machine("m0").baseline.clone().expect("nobody knows what was seen");
    b.ok("admin", Request::Enrol { select: "name=m0".parse().unwrap(), listed: vec![name("m0")] });
    b.obey();
    assert_eq!(b.machine("m0").baseline.as_ref(), Some(&baseline));
}

#[test]
fn a_drained_machine_is_put_back_by_a_check() {
    let mut b = Bench::new(&["m0"]);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", begin());
    b.ok("admin", look());
    b.obey();
    b.ok("admin", end());
    b.obey();
    assert_eq!(b.state("m0"), "drained");
}

#[test]
fn a_machine_in_use_is_checked() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    assert_eq!(b.refused("admin", begin()), Code::Conflict);
    b.release("ada", id);
    assert_eq!(b.refused("admin", begin()), Code::Conflict, "on its turn");
    b.obey();
    b.ok("admin", begin());
    assert_eq!(
        b.refused("admin", Request::Prove(name("m0"))),
        Code::Conflict,
        "it would be written meanwhile"
    );
}

#[test]
fn a_look_mends_or_breaks_what_it_only_looks_at() {
    let mut b = checking();
    b.ok("admin", look());
    assert_eq!(b.refused("admin", look()), Code::Conflict);
    b.board(&name("m0")).dead = true;
    b.ok("admin", end());
    b.live(60_000);
    assert_eq!((b.state("m0"), b.machine("m0").failures), ("free", 0), "it was ended, and did not fail");
    b.ok("admin", end());
    assert_eq!(b.refused("admin", look()), Code::Conflict, "the check is over");
    // One that runs no agent has none to report.
    let mut b = Bench::of([spec_with("m0", |s| s.ready = DriverSpec::named("power"))]);
    b.ok("admin", begin());
    assert_eq!(b.refused("admin", look()), Code::Conflict);
}

#[test]
fn a_machine_that_leaves_while_it_is_checked_stays_for_ever() {
    let mut b = checking();
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    b.live(600_000);
    assert!(b.lab.machine(&name("m0")).is_none());
    // A daemon that starts from rows of the past believes in no check.
    let mut b = checking();
    let backup = b.backup();
    b.restore(backup);
    assert_eq!(b.machine("m0").wiring, None);
}
