//! Circuits: what blows a fuse, and what keeps machines idle for nothing.

use super::bench::{Bench, ask, name, role};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{Act, Event, Fact, Nudge, PowerAction, Request};
use crate::inventory::Point;
use crate::inventory::model::{AfterBuild, Circuit, DriverSpec, Idle, Inventory, MachineSpec};
use crate::machine::{Health, Phase, Reading, Stage, Starting, Switch};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, Want};
use crate::saying::Saying;
use crate::simulator::labs;
use crate::wiring::SILENCE;
use pitstop_wire::Code;
use std::sync::Arc;

/// Waiting to boot our agent.
const AGENT: Phase = Phase::Start { then: Starting::Agent };

/// Machines on one circuit, and `free` ones on none.
fn lab_of(machines: &[&str], free: &[&str], limits: Circuit) -> Inventory {
    let on = |m: &&str| spec_with(m, |s| s.circuit = Some("c".into()));
    let specs = machines.iter().map(on).chain(free.iter().map(|m| super::spec(m)));
    let mut inventory = Inventory::default();
    inventory.machines.extend(specs.map(|s: MachineSpec| (s.name.clone(), s)));
    inventory.circuits.insert("c".into(), limits);
    inventory
}

fn bears(max_on: u32) -> Circuit {
    Circuit { max_on: Some(max_on), ..Circuit::default() }
}

fn starts(max_starting: u32) -> Circuit {
    Circuit { max_starting: Some(max_starting), ..Circuit::default() }
}

fn bench(machines: &[&str], limits: Circuit) -> Bench {
    Bench::with(lab_of(machines, &[], limits))
}

fn bare(select: &str) -> Ask {
    ask(select, Want::Bare)
}

fn agent(select: &str) -> Ask {
    ask(select, Want::Agent)
}

fn two(select: &str) -> Ask {
    Ask { roles: vec![role("machine", select, 2)], ..agent(select) }
}

/// Why a reservation waits, as one text.
fn why(b: &Bench, id: crate::id::ReservationId) -> String {
    let why = b.lab.why_reservation(id, b.lab.meta().now).unwrap();
    why.reasons.iter().map(|r| format!("{}\n", r.text)).collect()
}

/// Obeys all there is, and looks after each effect how many boards are on.
fn obey_below(b: &mut Bench, most: usize) {
    while b.obey_next() {
        let on = b.boards.values().filter(|board| board.legs.iter().all(|on| *on)).count();
        assert!(on <= most, "{on} machines are on");
    }
}

/// Time passes, and no more machines than that are ever on.
fn live_below(b: &mut Bench, ms: u64, most: usize) {
    let end = b.now + ms;
    obey_below(b, most);
    while b.now < end {
        let next = b.lab.next_deadline().map_or(end, |at| at.0.clamp(b.now, end));
        b.pass(next - b.now);
        obey_below(b, most);
    }
}

fn switched(b: &Bench, machine: &str, want: Switch) -> usize {
    b.count(|c| {
        matches!(c, Change::PowerIntended { machine: m, intent, .. }
            if m.as_str() == machine && intent.want == want)
    })
}

fn gave_way(b: &Bench) -> Vec<String> {
    let of = |c: &Change| match c {
        Change::GaveWay { machine, waits, .. } => Some(format!("{machine} for {waits}")),
        _ => None,
    };
    b.changes().filter_map(of).collect()
}

/// The plug of a machine was switched by hand.
fn by_hand(b: &mut Bench, machine: &str, on: bool) {
    b.board(&name(machine)).legs[0] = on;
}

// ── places ──

#[test]
fn a_machine_is_granted_without_a_place() {
    let mut b = bench(&["m0", "m1"], bears(1));
    let held = b.hold("ada", bare("name=m0"));
    let waits = b.reserve("bob", agent("name=m1"));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "waiting", "a bare machine is its holder's to switch on");
    let said = why(&b, waits);
    assert!(said.contains("of 1 place on circuit c (`max_on`, set at no file), 1 is taken"), "{said}");
    assert!(said.contains(&format!("m0 is ada's ({held})")), "{said}");
    assert!(gave_way(&b).is_empty(), "a held machine gave way");
    b.release("ada", held);
    live_below(&mut b, 600_000, 1);
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn two_are_granted_in_one_step() {
    let mut b = Bench::with(lab_of(&["m9"], &[], bears(1)));
    b.reload(|i| {
        i.machines.extend(["m0", "m1"].map(|m| (name(m), spec_with(m, |s| s.circuit = Some("c".into())))));
    });
    for m in ["m0", "m1"] {
        b.read(m, 0, Reading::Off);
    }
    let first = b.reserve("ada", agent("name=m0"));
    let second = b.reserve("bob", agent("name=m1"));
    b.ok("admin", Request::Enrol { select: "".parse().unwrap(), listed: vec![name("m0"), name("m1")] });
    let granted = b.count(|c| matches!(c, Change::Granted { .. }));
    assert_eq!(granted, 1, "one place, one grant");
    live_below(&mut b, 60_000, 1);
    assert_eq!((b.status(first), b.status(second)), ("ready", "waiting"));
}

#[test]
fn a_pair_gets_two_machines_that_the_circuit_does_not_bear_together() {
    let mut b = Bench::with(lab_of(&["m0", "m1"], &["m2"], bears(1)));
    let pair = b.reserve("ada", two(""));
    live_below(&mut b, 60_000, 2);
    assert_eq!(b.status(pair), "ready");
    assert_eq!(b.members(pair), ["m0", "m2"]);
}

#[test]
fn an_elder_sits_on_the_place_that_the_younger_needs() {
    let mut b = Bench::with(lab_of(&["m0", "m1"], &["m2"], bears(1)));
    // All come free in one step: the elder can do without the circuit.
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", Request::Drain { machine: name("m2"), reason: "fan".into() });
    b.ok("admin", Request::Drain { machine: name("m1"), reason: "fan".into() });
    let roles = vec![role("wide", "name=m1,m2", 1), role("narrow", "name=m0", 1)];
    let id = b.reserve("ada", Ask { roles, ..agent("") });
    for m in ["m1", "m2", "m0"] {
        b.ok("admin", Request::Undrain(name(m)));
    }
    live_below(&mut b, 60_000, 2);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.members(id), ["m0", "m2"], "its first role moved off the circuit");
}

#[test]
fn what_no_circuit_ever_bears_waits_for_ever() {
    let mut b = Bench::with(lab_of(&["m0", "m1", "m2"], &["m3"], bears(2)));
    let three = |select: &str| Ask { roles: vec![role("machine", select, 3)], ..agent(select) };
    let ask = Request::Reserve { ask: Box::new(three("name=m0,m1,m2")), image: None };
    let error = b.request("ada", ask).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("circuit c bears 2 (`max_on`"), "{}", error.message);
    // With one of another circuit it fits; and no more once the limit is lower.
    b.hold("holder", agent("name=m3"));
    let waits = b.reserve("ada", three(""));
    assert_eq!(b.status(waits), "waiting");
    b.reload(|i| drop(i.circuits.insert("c".into(), bears(1))));
    let said = why(&b, waits);
    assert!(said.contains("it is never served: more machines than may ever be on"), "{said}");
    let single = b.reserve("bob", agent("name=m0"));
    b.live(60_000);
    assert_eq!(b.status(single), "ready", "one that is never served keeps the place from others");
}

#[test]
fn a_machine_that_left_the_inventory_is_off() {
    let mut b = bench(&["m0", "m1"], bears(1));
    let held = b.hold("ada", agent("name=m0"));
    b.reload(|i| drop(i.machines.remove(&name("m0"))));
    let waits = b.reserve("bob", agent("name=m1"));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "waiting", "its holder still draws power");
    b.release("ada", held);
    b.obey();
    assert_ne!(b.status(waits), "waiting", "it is not pitstop's any more");
}

// ── who gives way ──

#[test]
fn a_machine_that_was_left_on_keeps_its_place_for_ever() {
    let mut b = bench(&["m0", "m1"], bears(1));
    by_hand(&mut b, "m0", true);
    b.read("m0", 0, Reading::On);
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting");
    assert_eq!(gave_way(&b), [format!("m0 for {waits}")]);
    assert!(why(&b, waits).contains("m0 was left on, and is being switched off"), "{}", why(&b, waits));
    b.obey_next();
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "ready");
    assert_eq!(b.machine("m0").stage, Stage::Free);
}

#[test]
fn what_reads_off_long_since_is_off_for_ever() {
    let mut b = bench(&["m0", "m1"], bears(1));
    assert_eq!(b.machine("m0").legs[0].seen.unwrap().reading, Reading::Off);
    b.pass(700_000);
    by_hand(&mut b, "m0", true); // and nobody saw it
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting", "m0 was read off eleven minutes ago");
    assert!(why(&b, waits).contains("m0 was read off 11m ago"), "{}", why(&b, waits));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [false]);
}

#[test]
fn machines_that_are_off_are_read_again_where_there_is_room() {
    let mut b = bench(&["m0", "m1"], bears(2));
    b.pass(700_000);
    let id = b.reserve("ada", agent("name=m1"));
    assert_ne!(b.status(id), "waiting");
    assert!(gave_way(&b).is_empty());
}

#[test]
fn a_machine_that_speaks_is_still_taken_to_be_off() {
    let mut b = bench(&["m0", "m1"], bears(1));
    by_hand(&mut b, "m0", true);
    let line = "login:".to_owned();
    let said = Fact::Said { machine: name("m0"), nonce: None, saying: Saying::Login, line };
    b.fact(b.lab.meta().epoch, said);
    b.obey();
    assert_eq!(b.machine("m0").legs[0].seen.unwrap().reading, Reading::On, "nobody looked");
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting");
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn a_device_that_was_never_read_blocks_its_circuit_for_ever() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.restart();
    b.effects.clear(); // nobody answers
    b.read("m0", 0, Reading::Unknown);
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting");
    assert!(why(&b, waits).contains("m0 cannot be read, so it may be on"), "{}", why(&b, waits));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "ready");
    assert_eq!(switched(&b, "m0", Switch::On), 0, "it was switched on to be read");
}

#[test]
fn one_that_does_not_go_off_is_waited_for_although_another_would() {
    let mut b = bench(&["m0", "m1", "m2"], bears(2));
    for m in ["m0", "m1"] {
        by_hand(&mut b, m, true);
        b.read(m, 0, Reading::On);
    }
    let waits = b.reserve("ada", agent("name=m2"));
    let off = b.take_power();
    let dead = off.machine.clone();
    b.answer_power(&off, Err("no answer"), false);
    assert_eq!(gave_way(&b).len(), 2, "the other one is asked");
    while b.status(waits) == "waiting" {
        let command = b.take_power();
        assert_ne!(command.machine, dead, "again and again");
        b.board(&command.machine).legs[0] = false;
        b.answer_power(&command, Ok(Reading::Off), true);
    }
}

#[test]
fn a_command_under_way_is_forgotten() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    let _on = b.take_power(); // it left, and nobody will say what became of it
    b.restart();
    b.effects.clear();
    b.read("m0", 0, Reading::Off);
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting", "it may still land");
    assert!(
        why(&b, waits).contains("m0 may still be switched on by an earlier command"),
        "{}",
        why(&b, waits)
    );
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(waits), "ready", "its time is over, and it reads off");
}

#[test]
fn a_reset_of_a_machine_out_of_use_is_forgotten() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", Request::Fixture { machine: name("m0"), act: Act::Nudge(Nudge::Reset), force: None });
    let waits = b.reserve("ada", agent("name=m1"));
    assert_eq!(b.status(waits), "waiting");
    b.obey();
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn a_drained_machine_gives_way() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    b.live(30_000);
    let waits = b.reserve("ada", agent("name=m1"));
    b.live(60_000);
    assert_eq!(b.status(waits), "waiting");
    assert_eq!(b.boards[&name("m0")].legs, [true], "whoever repairs it had it switched off under his hands");
    let said = why(&b, waits);
    assert!(said.contains("m0 is drained and on"), "{said}");
    b.ok("admin", Request::Power { machine: name("m0"), action: PowerAction::Off, force: None });
    b.live(60_000);
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn a_warm_machine_keeps_its_place() {
    let mut inventory = lab_of(&["m0", "m1"], &[], bears(1));
    inventory.machines.get_mut(&name("m0")).unwrap().idle = Some(Idle::Warm { max_age_ms: 3_600_000 });
    let mut b = Bench::with(inventory);
    let id = b.hold("ada", ask("name=m0", Want::Image));
    b.release("ada", id);
    b.live(60_000);
    assert!(matches!(b.machine("m0").stage, Stage::Ready { reservation: None, .. }), "{}", b.state("m0"));
    let before = switched(&b, "m0", Switch::On);
    let waits = b.reserve("bob", agent("name=m1"));
    assert_eq!(gave_way(&b), [format!("m0 for {waits}")]);
    live_below(&mut b, 120_000, 1);
    assert_eq!(b.status(waits), "ready");
    assert_eq!(b.state("m0"), "free");
    assert_eq!(switched(&b, "m0", Switch::On), before, "it was switched on again for nothing");
    assert_eq!(b.machine("m0").clean(), "used", "it is proven when somebody gets it");
}

#[test]
fn a_warm_machine_gives_way_to_whoever_gets_it_anyway() {
    let mut inventory = lab_of(&["m0", "m1"], &[], bears(1));
    inventory.machines.get_mut(&name("m0")).unwrap().idle = Some(Idle::Warm { max_age_ms: 3_600_000 });
    let mut b = Bench::with(inventory);
    let id = b.hold("ada", ask("name=m0", Want::Image));
    b.release("ada", id);
    b.live(60_000);
    let next = b.reserve("bob", ask("", Want::Image));
    assert_eq!(b.status(next), "ready", "it waited booted with just that");
    assert!(gave_way(&b).is_empty());
}

// ── proofs ──

/// `m0` is quarantined, and only a person may prove it; `m1` is at rest.
fn only_by_a_person() -> Bench {
    let mut inventory = lab_of(&["m0", "m1"], &[], bears(1));
    let spec = inventory.machines.get_mut(&name("m0")).unwrap();
    (spec.shared, spec.after_build) = (true, Some(AfterBuild::Keep));
    let mut b = Bench::with(inventory);
    let id = b.hold("ada", ask("name=m0", Want::Image));
    b.board(&name("m0")).dead = true;
    b.release("ada", id);
    b.live(60_000);
    let asked = Ask { clean: CleanLevel::Any, ..ask("name=m0", Want::Image) };
    let id = b.reserve("ada", asked);
    b.live(600_000);
    b.release("ada", id);
    b.live(60_000);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{}", b.state("m0"));
    b.board(&name("m0")).dead = false;
    b
}

/// Seed 1808.
#[test]
fn one_that_only_a_person_proves_waits_for_one_at_rest() {
    let mut b = only_by_a_person();
    by_hand(&mut b, "m1", true);
    b.read("m1", 0, Reading::On);
    let answer = b.ok("admin", Request::Prove(name("m0")));
    assert!(answer["waits"].as_str().unwrap().contains("m1 was left on"), "{answer}");
    assert_eq!(gave_way(&b), ["m1 for m0"]);
    b.obey_next();
    live_below(&mut b, 120_000, 1);
    assert_eq!((b.machine("m0").health.clone(), b.state("m0")), (Health::Good, "free"));
}

#[test]
fn a_proof_takes_a_place_that_there_is_not() {
    let mut b = only_by_a_person();
    let held = b.hold("bob", bare("name=m1"));
    let before = b.records.len();
    let error = b.request("admin", Request::Prove(name("m0"))).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains(&format!("m1 is bob's ({held})")), "{}", error.message);
    assert_eq!(b.records.len(), before, "something was recorded of what was refused");
    b.release("bob", held);
    b.live(60_000);
    b.ok("admin", Request::Prove(name("m0")));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.machine("m0").health, Health::Good);
}

#[test]
fn a_proof_by_itself_goes_before_who_waits() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.board(&name("m0")).dead = true;
    let id = b.reserve("ada", agent("name=m0"));
    b.live(300_000);
    b.release("ada", id);
    b.live(60_000);
    let Health::Quarantined { again, .. } = b.machine("m0").health else { panic!("{}", b.state("m0")) };
    b.board(&name("m0")).dead = false;
    let held = b.hold("bob", agent("name=m1"));
    let while_it_is_due = again.0 - b.now + 600_000;
    live_below(&mut b, while_it_is_due, 1);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "there is no place");
    let waits = b.reserve("eve", agent("name=m1"));
    b.release("bob", held);
    live_below(&mut b, 120_000, 1);
    assert_eq!(b.status(waits), "ready", "the queue goes before a proof that nobody asked for");
    b.release("eve", waits);
    live_below(&mut b, 900_000, 1);
    assert_eq!(b.machine("m0").health, Health::Good);
}

#[test]
fn two_that_are_on_and_to_be_proven_wait_for_each_other() {
    let mut b = bench(&["m0", "m1"], bears(1));
    for machine in ["m0", "m1"] {
        b.board(&name(machine)).dead = true;
        let id = b.reserve("ada", agent(&format!("name={machine}")));
        b.live(300_000);
        b.release("ada", id);
        b.live(60_000);
        b.ok("admin", Request::Drain { machine: name(machine), reason: "fan".into() });
        b.board(&name(machine)).dead = false;
    }
    for machine in ["m0", "m1"] {
        by_hand(&mut b, machine, true);
        b.read(machine, 0, Reading::On);
    }
    for machine in ["m0", "m1"] {
        b.ok("admin", Request::Undrain(name(machine)));
        assert!(b.machine(machine).proof_asked, "{}", b.state(machine));
    }
    b.live(600_000);
    for machine in ["m0", "m1"] {
        assert_eq!(b.machine(machine).health, Health::Good, "{}", b.state(machine));
        assert!(!b.machine(machine).proof_asked, "{machine} still waits");
    }
    assert_eq!(gave_way(&b), ["m1 for m0"]);
}

#[test]
fn an_admin_switches_on_what_the_circuit_does_not_bear() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.hold("ada", bare("name=m1"));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    let before = b.records.len();
    let on = Request::Power { machine: name("m0"), action: PowerAction::On, force: None };
    let error = b.request("admin", on).unwrap_err();
    assert!(error.message.contains("m1 is ada's"), "{}", error.message);
    assert_eq!(b.records.len(), before);
}

// ── starting ──

#[test]
fn machines_start_together() {
    let mut b = bench(&["m0", "m1", "m2"], starts(1));
    let ids: Vec<_> = ["m0", "m1", "m2"].map(|m| b.reserve("ada", agent(&format!("name={m}")))).into();
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    // m0's power-on is taken and not answered yet.
    let on = loop {
        let command = b.take_power();
        if command.want == Switch::On {
            break command;
        }
        b.answer_power(&command, Ok(Reading::Off), true);
    };
    assert_eq!(on.machine, name("m0"));
    b.obey();
    assert_eq!([b.phase("m1"), b.phase("m2")], [AGENT, AGENT]);
    let said = why_machine(&b, "m2");
    assert!(said.contains("circuit c bears 1 at once that start (`max_starting`"), "{said}");
    assert!(said.contains("m0 is starting") && said.contains("m1 waits before it"), "{said}");
    b.board(&name("m0")).legs[0] = true;
    b.answer_power(&on, Ok(Reading::On), true);
    assert_eq!(b.phase("m1"), AGENT, "what a fuse feels is the first second");
    b.pass(1_000);
    assert_eq!([b.phase("m1"), b.phase("m2")], [Phase::BootAgent, AGENT]);
    let params = b.boot_request("m0", true);
    let crate::event::BootAnswer::Agent(params) = params else { panic!("{params:?}") };
    b.attach(pitstop_wire::agent::AgentKind::Boot, &params);
    b.live(60_000);
    assert!(
        ids.iter().all(|id| b.status(*id) == "ready"),
        "{:?}",
        ids.iter().map(|i| b.status(*i)).collect::<Vec<_>>()
    );
    assert!(["m0", "m1", "m2"].iter().all(|m| b.failures(m).is_empty()));
}

fn why_machine(b: &Bench, machine: &str) -> String {
    let why = b.lab.why_machine(&name(machine), b.lab.meta().now).unwrap();
    why.reasons.iter().map(|r| format!("{}\n", r.text)).collect()
}

#[test]
fn a_daemon_that_is_killed_forgets_who_is_starting() {
    let mut b = bench(&["m0", "m1"], starts(1));
    let first = b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let on = b.take_power();
    assert_eq!((on.machine.as_str(), on.want), ("m0", Switch::On));
    let second = b.reserve("bob", agent("name=m1"));
    b.obey_until("m1", |p| *p == AGENT);
    b.restart();
    b.effects.retain(|(_, e)| !matches!(e, Effect::Power { machine, .. } if machine.as_str() == "m0"));
    b.obey();
    assert_eq!(b.phase("m1"), AGENT, "that command may land any time");
    b.live(120_000);
    assert_eq!((b.status(first), b.status(second)), ("ready", "ready"));
}

#[test]
fn a_machine_that_does_not_come_on_keeps_others_from_starting() {
    let mut b = bench(&["m0", "m1"], starts(1));
    b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.board(&name("m0")).mute = true;
    let second = b.reserve("bob", agent("name=m1"));
    b.live(60_000);
    assert_eq!(b.status(second), "ready", "after the longest that its command may take");
}

#[test]
fn a_holder_switches_on_while_another_starts() {
    let mut b = bench(&["m0", "m1"], starts(1));
    b.hold("ada", bare("name=m0"));
    b.reserve("bob", agent("name=m1"));
    b.obey_until("m1", |p| *p == Phase::BootAgent);
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    let error = b.request("ada", power(PowerAction::On)).unwrap_err();
    assert!(error.message.contains("m1 is starting"), "{}", error.message);
    assert!(error.retry_after.is_some(), "it does not say when");
    // A cycle goes off at once, and on when it may.
    b.ok("ada", power(PowerAction::Cycle));
    b.effects.retain(|(_, e)| matches!(e, Effect::Power { machine, .. } if machine.as_str() == "m0"));
    b.obey();
    assert_eq!(b.boards[&name("m0")].legs, [false], "m1 is starting");
    assert!(why_machine(&b, "m0").contains("it waits to start"), "{}", why_machine(&b, "m0"));
    b.board(&name("m1")).mute = true;
    b.live(60_000);
    assert_eq!(b.boards[&name("m0")].legs, [true]);
}

#[test]
fn what_was_waited_for_comes_by_itself_and_no_later() {
    let mut b =
        bench(&["m0", "m1"], Circuit { max_starting: Some(1), max_on: Some(2), ..Circuit::default() });
    let pair = b.reserve("ada", two(""));
    live_below(&mut b, 10_000, 2);
    assert_eq!(b.status(pair), "ready");
    b.event(Event::Gap(5_000));
    b.release("ada", pair);
    live_below(&mut b, 60_000, 2);
    assert_eq!([b.state("m0"), b.state("m1")], ["free", "free"]);
}

// ── with what else switches machines on ──

#[test]
fn a_machine_whose_wires_are_checked_gives_way() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::WiringBegin(name("m0")));
    let id = b.reserve("ada", agent("name=m1"));
    live_below(&mut b, SILENCE / 3, 1);
    assert_eq!(b.status(id), "waiting", "it may be switched on at any time");
    assert!(why(&b, id).contains("admin checks the wires of m0"), "{}", why(&b, id));
    b.ok("admin", Request::WiringBeat(name("m0")));
    b.ok("admin", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    live_below(&mut b, SILENCE / 3, 1);
    assert_eq!((b.status(id), switched(&b, "m0", Switch::Off)), ("waiting", 0));
    b.ok("admin", Request::WiringEnd(name("m0")));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn wires_are_checked_on_a_circuit_that_does_not_bear_it() {
    let mut b = bench(&["m0", "m1"], bears(1));
    let held = b.hold("bob", bare("name=m1"));
    let before = b.records.len();
    let error = b.request("admin", Request::WiringBegin(name("m0"))).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains(&format!("m1 is bob's ({held})")), "{}", error.message);
    assert_eq!(b.records.len(), before, "something was recorded of what was refused");
}

#[test]
fn a_board_is_switched_on_to_be_written_while_another_starts() {
    let mut lab = lab_of(&["m0", "m1"], &[], starts(1));
    let board = spec_with("m1", |s| {
        (s.circuit, s.ready) = (Some("c".into()), DriverSpec::named("console"));
        labs::flash(s);
    });
    lab.machines.insert(name("m1"), board);
    let mut b = Bench::with(lab);
    let first = b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let on = b.take_power();
    let written = Ask { clean: CleanLevel::ByCommand, ..bare("name=m1") };
    let second = b.reserve("bob", written);
    b.obey();
    assert_eq!(b.phase("m1"), Phase::Start { then: Starting::Flash });
    assert_eq!(switched(&b, "m1", Switch::On), 0);
    b.board(&name("m0")).legs[0] = true;
    b.answer_power(&on, Ok(Reading::On), true);
    b.live(120_000);
    assert_eq!((b.status(first), b.status(second)), ("ready", "ready"), "{:?}", b.failures("m1"));
    assert!(b.failures("m1").is_empty());
}

#[test]
fn a_circuit_waits_less_long_than_the_hooks_of_its_machines_take() {
    let mut lab = lab_of(&["m0", "m1"], &[], starts(1));
    let slow = lab.machines.get_mut(&name("m0")).unwrap();
    let hours = 3 * 3_600_000;
    let mut hook = labs::hook("strap", "quarantine");
    let mut fields = (*hook.command.fields).clone();
    fields.insert("timeout".to_owned(), hours.into());
    hook.command.fields = Arc::new(fields);
    slow.hooks.insert(Point::BeforePower, vec![hook]);
    let mut b = Bench::with(lab);
    b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| matches!(p, Phase::Hook { .. }));
    let is_hook = |e: &Effect| matches!(e, Effect::Hook { .. });
    b.effects.retain(|(_, e)| !is_hook(e));
    let second = b.reserve("bob", agent("name=m1"));
    b.live(hours - 60_000);
    assert_eq!(b.status(second), "preparing", "it is a hook that may switch m0 on");
    b.live(600_000);
    assert_eq!(b.status(second), "ready");
    assert!(b.failures("m1").is_empty(), "{:?}", b.failures("m1"));
}

#[test]
fn a_drained_machine_that_is_off_keeps_its_place_for_ever() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.live(24 * 3_600_000);
    let id = b.reserve("ada", agent("name=m1"));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(id), "ready", "{}", why(&b, id));
    assert_eq!(switched(&b, "m0", Switch::Off), 0, "what a person took out is only read");
    b.release("ada", id);
    // A person's word finds it off as well, when it is said again.
    b.live(24 * 3_600_000);
    b.ok("admin", Request::Drain { machine: name("m1"), reason: "fan".into() });
    let on = Request::Power { machine: name("m1"), action: PowerAction::On, force: None };
    let error = b.request("admin", on.clone()).unwrap_err();
    assert!(error.message.contains("m0 was read off"), "{}", error.message);
    b.obey();
    b.ok("admin", on);
}

#[test]
fn a_drained_machine_whose_button_was_pressed_is_taken_to_be_off() {
    let mut b = bench(&["m0", "m1"], bears(1));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.live(3_600_000);
    b.board(&name("m0")).legs[0] = true;
    let id = b.reserve("ada", agent("name=m1"));
    live_below(&mut b, 60_000, 1);
    assert_eq!(b.status(id), "waiting");
    assert!(why(&b, id).contains("m0 is drained and on"), "{}", why(&b, id));
    assert_eq!(switched(&b, "m0", Switch::Off), 0);
}

#[test]
fn a_machine_that_came_on_as_it_was_forgotten_is_not_starting() {
    let mut b = bench(&["m0", "m1"], starts(1));
    b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let on = b.take_power();
    assert_eq!(on.want, Switch::On);
    let id = b.reserve("eve", agent("name=m1"));
    b.obey();
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().disks.clear());
    b.answer_power(&on, Ok(Reading::On), true);
    assert_eq!(b.state("m0"), "new");
    assert_eq!(b.phase("m1"), AGENT, "m0 came on this very moment");
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_machine_that_goes_off_and_may_come_on_again_is_not_starting() {
    let mut b = bench(&["m0", "m1"], starts(1));
    b.read("m0", 0, Reading::On);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    b.ok("admin", power(PowerAction::On));
    let _on = b.take_power(); // it may land late
    b.ok("admin", power(PowerAction::Off));
    let off = b.take_power();
    let id = b.reserve("ada", agent("name=m1"));
    b.obey();
    assert_eq!(b.phase("m1"), AGENT, "m0 goes off, and comes on once more");
    b.answer_power(&off, Ok(Reading::Off), true);
    b.live(120_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_machine_waits_less_long_than_anothers_medium_may_take_to_be_fetched() {
    let mut lab = lab_of(&["m0", "m1"], &[], starts(1));
    let boot = &mut lab.machines.get_mut(&name("m0")).unwrap().boot;
    *boot = DriverSpec::named("virtual-media");
    let mut fields = (*boot.fields).clone();
    fields.insert("fetch".to_owned(), 600_000.into());
    boot.fields = Arc::new(fields);
    let mut b = Bench::with(lab);
    b.reserve("ada", agent("name=m0"));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let _fetches = b.take_power();
    b.reserve("eve", agent("name=m1"));
    b.obey_until("m1", |p| *p == AGENT);
    b.effects.clear();
    b.pass(600_000);
    assert_eq!(b.failures("m1"), [""; 0], "m0 may start until then");
}

#[test]
fn what_cannot_be_read_is_on_because_it_was_told_to() {
    let mut lab = lab_of(&["m0", "m1"], &[], starts(1));
    lab.machines.get_mut(&name("m0")).unwrap().legs[0].readback = false;
    let mut b = Bench::with(lab);
    let id = b.reserve("ada", bare("name=m0"));
    b.live(240_000);
    b.ok("ada", Request::Claim(id));
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    b.ok("ada", power(PowerAction::On));
    b.live(120_000);
    b.board(&name("m0")).legs[0] = false; // nobody sees that it lost its power
    b.reserve("eve", agent("name=m1"));
    b.obey_until("m1", |p| *p == Phase::BootAgent);
    let error = b.request("ada", power(PowerAction::On)).unwrap_err();
    assert!(error.message.contains("m1 is starting"), "{}", error.message);
}
