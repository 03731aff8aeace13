//! What went wrong in other systems of this kind, tried here. docs/pitfalls.md
//! lists all of it; the stories that no other file tells are in this one.

use super::bench::{Bench, Command, ask, caller, name};
use super::{spec, spec_with};
use crate::effect::Effect;
use crate::event::{Caller, Event, Request};
use crate::experience::{HOUR, MINUTE};
use crate::id::{ReservationId, SecretHash};
use crate::inventory::Point;
use crate::inventory::model::{Circuit, DriverSpec, HealthCheck, Idle, Inventory, MachineSpec};
use crate::lab::Lab;
use crate::machine::{Health, Machine, Phase, Purpose, Reading, Stage, Switch};
use crate::record::{Change, Record};
use crate::reservation::{Ask, CleanLevel, Want};
use crate::simulator::labs;
use pitstop_wire::agent::{AgentKind, AgentParams, ToAgent, Welcome};
use std::collections::BTreeSet;

const DAY: u64 = 24 * HOUR;
const WANTS: [Want; 3] = [Want::Bare, Want::Agent, Want::Image];

fn commands(b: &Bench) -> usize {
    b.count(|c| matches!(c, Change::PowerIntended { .. }))
}

fn writes(b: &Bench) -> usize {
    b.count(|c| matches!(c, Change::PhaseEntered { phase: Phase::Disk { writing: true, .. }, .. }))
}

/// Something happens, or five seconds pass.
fn moment(b: &mut Bench) {
    if !b.obey_next() {
        b.pass(5_000);
    }
}

// ── the daemon is killed ──

/// The agent does what it was told and says so; the daemon hears it, and is
/// killed before it is stored.
fn result_lost(b: &mut Bench) {
    let (rows, records) = b.backup();
    b.obey_next();
    (b.lab, b.records) = (Lab::from_rows(rows), records);
    b.restart();
    assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }));
}

#[test]
fn a_result_is_lost_between_the_agents_word_and_its_commit() {
    for (want, steps) in [(Want::Bare, 2), (Want::Agent, 3), (Want::Image, 3)] {
        let mut b = Bench::new(&["m0"]);
        let id = b.reserve("ada", ask("", want));
        let mut lost = BTreeSet::new();
        for _ in 0..100 {
            let told =
                matches!(b.effects.front(), Some((_, Effect::Tell { message: ToAgent::Do { .. }, .. })));
            if told && lost.insert(format!("{:?}", b.phase("m0"))) {
                result_lost(&mut b);
            } else {
                moment(&mut b);
            }
        }
        assert_eq!(b.status(id), "ready", "{want:?}: {:?}", b.failures("m0"));
        assert_eq!(lost.len(), steps, "{want:?}: {lost:?}");
        assert!(b.failures("m0").is_empty(), "{want:?}: {:?}", b.failures("m0"));
        let once = (b.count(|c| matches!(c, Change::DiskProven { .. })), writes(&b));
        assert_eq!(once, (1, 1), "{want:?}: proven and written");
    }
}

/// The place of a machine, as fine as its ways out differ.
fn place(machine: &Machine) -> &'static str {
    let Some(turn) = machine.turn() else { return machine.state() };
    // A phase that is added here wants a story in which it is come through.
    match turn.phase {
        Phase::Off => "off",
        Phase::BootAgent => "boot agent",
        Phase::Disk { writing: false, .. } => "proving a disk",
        Phase::Disk { writing: true, .. } => "writing a disk",
        Phase::Flash { writing: true } => "writing a board",
        Phase::Flash { writing: false } => "reading a board",
        Phase::Hook { .. } => "hook",
        Phase::AfterHooks => "looking behind hooks",
        Phase::Seed => "seed",
        Phase::HandOff => "hand off",
        Phase::Serve => "serve",
        Phase::Evidence => "evidence",
        Phase::Check => "check",
        Phase::Settle => "settle",
        Phase::Rest => "rest",
        Phase::Start { .. } => "start",
    }
}

const PLACES: [&str; 22] = [
    "free",
    "new",
    "quarantined",
    "drained",
    "ready",
    "in-use",
    "off",
    "boot agent",
    "proving a disk",
    "writing a disk",
    "writing a board",
    "reading a board",
    "hook",
    "looking behind hooks",
    "seed",
    "hand off",
    "serve",
    "evidence",
    "check",
    "settle",
    "rest",
    "start",
];

/// A lab at the beginning of a story.
type Story = fn() -> Bench;

fn stories() -> Vec<(&'static str, Story)> {
    vec![
        ("a bare machine", || asked(one_machine(), Want::Bare)),
        ("an agent", || asked(one_machine(), Want::Agent)),
        ("an image", || asked(one_machine(), Want::Image)),
        ("an image, and power that cannot be read", || {
            asked(Bench::of([spec_with("m0", |s| s.legs[0].readback = false)]), Want::Image)
        }),
        ("an agent, and the disk is proven", || {
            let mut b = one_machine();
            let id = b.reserve("ada", ask("", Want::Bare));
            b.obey();
            b.release("ada", id); // nobody came for it
            asked(b, Want::Agent)
        }),
        ("an agent, while another machine of its circuit starts", || {
            let mut inventory = Inventory::default();
            for m in ["m0", "m1"] {
                inventory.machines.insert(name(m), spec_with(m, |s| s.circuit = Some("c".into())));
            }
            let one = Circuit { max_starting: Some(1), ..Circuit::default() };
            inventory.circuits.insert("c".into(), one);
            let mut b = Bench::with(inventory);
            b.reserve("eve", ask("name=m1", Want::Agent));
            b.obey_until("m1", |p| *p == Phase::BootAgent);
            b.effects.clear(); // nobody hears what became of its power-on
            asked(b, Want::Agent)
        }),
        ("held", || held(one_machine())),
        ("held, and its holder writes it", || {
            let mut b = held(one_machine());
            b.ok("ada", Request::Reimage { machine: name("m0"), image: Some("yocto".into()) });
            b
        }),
        ("held, and it leaves the inventory", || {
            let mut b = held(one_machine());
            b.reload(|i| drop(i.machines.remove(&name("m0"))));
            b
        }),
        ("given back", || given_back(one_machine())),
        ("given back, and kept warm", || {
            let warm = Idle::Warm { max_age_ms: 10 * MINUTE };
            given_back(Bench::of([spec_with("m0", |s| s.idle = Some(warm))]))
        }),
        ("proven, with a health check", || {
            let check = HealthCheck { every_ms: 30 * DAY, run: vec!["true".into()], within_ms: MINUTE };
            let mut b = Bench::of([spec_with("m0", |s| s.health = Some(check.clone()))]);
            b.ok("admin", Request::Prove(name("m0")));
            b
        }),
        ("given back, with hooks", || given_back(Bench::of([spec_with("m0", hooked)]))),
        ("bare, with hooks", || asked(Bench::of([spec_with("m0", hooked)]), Want::Bare)),
        ("a board that a program writes", || {
            let mut b = Bench::of([spec_with("m0", |s| {
                s.ready = DriverSpec::named("console");
                labs::flash(s);
                hooked(s);
                s.hooks.remove(&Point::AfterAttach);
            })]);
            let ask = Ask { clean: CleanLevel::ByCommand, ..ask("name=m0", Want::Image) };
            let id = b.hold("ada", ask);
            b.release("ada", id);
            b
        }),
        ("broken", || {
            let mut b = asked(one_machine(), Want::Bare);
            b.board(&name("m0")).dead = true;
            b.live(4 * MINUTE);
            b.board(&name("m0")).dead = false;
            b
        }),
        ("drained", || {
            let mut b = one_machine();
            b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
            b
        }),
        ("new", || {
            let mut b = Bench::new(&["m1"]);
            b.reload(|i| drop(i.machines.insert(name("m0"), spec("m0"))));
            b
        }),
    ]
}

/// A hook at every point.
fn hooked(s: &mut MachineSpec) {
    s.hooks = Point::ALL.into_iter().map(|point| (point, vec![labs::hook("x", "quarantine")])).collect();
}

fn one_machine() -> Bench {
    Bench::new(&["m0"])
}

fn asked(mut b: Bench, want: Want) -> Bench {
    b.reserve("ada", ask("name=m0", want));
    b
}

fn held(mut b: Bench) -> Bench {
    b.hold("ada", ask("name=m0", Want::Image));
    b
}

fn given_back(mut b: Bench) -> Bench {
    let id = b.hold("ada", ask("name=m0", Want::Image));
    b.release("ada", id);
    b
}

/// What people do with a machine that rests until a person says otherwise.
fn by_a_person(b: &mut Bench) {
    if b.lab.machine(&name("m0")).is_none() {
        b.reload(|i| drop(i.machines.insert(name("m0"), spec("m0"))));
    }
    match b.state("m0") {
        "new" => {
            let all = Request::Enrol { select: "name=m0".parse().unwrap(), listed: vec![name("m0")] };
            drop(b.ok("admin", all));
        }
        "drained" => drop(b.ok("admin", Request::Undrain(name("m0")))),
        _ => {}
    }
}

/// Nobody does anything: leases end, deadlines pass, proofs are made. Then the
/// next one gets the machine.
fn comes_to_rest(b: &mut Bench, told: &str) {
    b.live(3 * HOUR);
    let rests = match b.lab.machine(&name("m0")) {
        Some(m) if matches!(m.stage, Stage::Ready { reservation: None, .. }) => "warm",
        other => other.map_or("gone", |m| m.state()),
    };
    assert!(["free", "warm", "new", "drained", "gone"].contains(&rests), "{told}: {rests} for ever");
    by_a_person(b);
    let board = b.inventory.machines[&name("m0")].programmer().is_some();
    let clean = if board { CleanLevel::ByCommand } else { CleanLevel::Proven };
    let next = b.reserve("bob", Ask { clean, ..ask("name=m0", Want::Image) });
    b.live(5 * MINUTE);
    assert_eq!(b.status(next), "ready", "{told}: {:?}", b.failures("m0"));
}

#[test]
fn a_crash_in_some_state_leaves_it_without_a_way_out() {
    let mut seen = BTreeSet::new();
    for (what, story) in stories() {
        let mut rested = false;
        for moments in 0..60 {
            let mut b = story();
            (0..moments).for_each(|_| moment(&mut b));
            let Some(machine) = b.lab.machine(&name("m0")).cloned() else { break };
            seen.insert(place(&machine));
            for agent_returns in [true, false] {
                let mut b = story();
                (0..moments).for_each(|_| moment(&mut b));
                b.restart();
                if agent_returns && b.machine("m0").agent.is_some() {
                    b.resume("m0");
                }
                comes_to_rest(&mut b, &format!("{what}, killed after {moments} in `{}`", place(&machine)));
            }
            if rested && machine.turn().is_none() {
                break; // nothing more happens in this story
            }
            rested = machine.turn().is_none();
        }
    }
    let missed: Vec<_> = PLACES.iter().filter(|p| !seen.contains(*p)).collect();
    assert!(missed.is_empty(), "no daemon was killed in {missed:?}");
}

// ── old rows ──

#[test]
fn finished_reservations_stand_in_the_way_of_the_thousandth() {
    let mut b = one_machine();
    b.sparing = true;
    for n in 0..1_000_u64 {
        let request = Request::Reserve {
            ask: Box::new(ask("", WANTS[n as usize % 3])),
            image: (n % 5 == 0).then(|| "yocto".to_owned()),
        };
        let key = Some((format!("k{n}"), SecretHash::of("body")));
        let reply = b.request_by(Caller { key, ..caller("ada") }, request).unwrap();
        let id: ReservationId = reply["reservation"].as_str().unwrap().parse().unwrap();
        b.obey();
        assert_eq!(b.status(id), "ready", "the {n}th: {:?}", b.failures("m0"));
        b.ok("ada", Request::Claim(id));
        if n % 100 == 50 {
            b.restart();
            assert_eq!(b.in_use_by("m0"), Some(id), "the {n}th");
        }
        b.release("ada", id);
        b.live(30_000);
    }
    assert_eq!((b.lab.reservations().len(), b.failures("m0").len()), (1_000, 0), "old rows, failures");
    b.compare_with_fold("the thousandth");
}

// ── reboots ──

/// The machine falls over and comes up again by itself: from its disk, or with
/// the boot agent that it was given last. What it was told is lost.
fn reboots(b: &mut Bench, from_disk: bool) {
    b.effects.retain(|(_, e)| !matches!(e, Effect::Tell { .. } | Effect::Check { .. }));
    if from_disk {
        return b.tenant_reboots("m0");
    }
    b.lost("m0");
    b.board(&name("m0")).boots += 1;
    if let Some(params) = b.boards[&name("m0")].params.clone() {
        let welcome = b.attach(AgentKind::Boot, &params);
        assert!(matches!(welcome, Welcome::Refused { .. }), "its token opens a second time");
    }
}

#[test]
fn a_machine_that_reboots_at_some_moment_is_stuck_or_goes_on_with_what_it_left() {
    for want in WANTS {
        for (effects, from_disk) in (0..36).flat_map(|n| [(n, false), (n, true)]) {
            let mut b = one_machine();
            let id = b.reserve("ada", ask("", want));
            for _ in 0..effects {
                b.obey_next();
            }
            if b.status(id) == "ready" || !b.boards[&name("m0")].legs[0] {
                continue;
            }
            let told = format!("{want:?}, {effects} effects, from disk: {from_disk}");
            let at = place(&b.machine("m0"));
            reboots(&mut b, from_disk);
            b.live(5 * MINUTE);
            assert_eq!(b.status(id), "ready", "{told}, in {at}: {:?}", b.failures("m0"));
            assert!(b.failures("m0").len() <= 1, "{told}, in {at}: {:?}", b.failures("m0"));
        }
    }
}

// ── deadlines and tokens ──

/// A machine whose boot agent has its parameters and has not attached.
fn booting(b: &mut Bench) -> AgentParams {
    b.board(&name("m0")).dead = true;
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.obey();
    b.boards[&name("m0")].params.clone().unwrap()
}

#[test]
fn an_agent_that_attaches_as_its_deadline_falls_due_is_rebooted_or_shut_out() {
    for tick in [1_u64, 0] {
        for late in [-1_i64, 0, 1] {
            let mut b = one_machine();
            let id = b.reserve("ada", ask("", Want::Agent));
            let params = booting(&mut b);
            let before = commands(&b);
            let due = b.machine("m0").turn().unwrap().deadline.0;
            b.now = due.checked_add_signed(late).unwrap();
            if tick == 1 {
                b.event(Event::Tick); // the deadline is judged before the agent is heard
            }
            let in_time = matches!(b.attach(AgentKind::Boot, &params), Welcome::Accepted { .. });
            b.board(&name("m0")).dead = false;
            if in_time {
                b.obey(); // it looks round and goes on
            }
            b.event(Event::Tick);
            let told = format!("{late} ms after its deadline, judged first: {tick}");
            assert_eq!(in_time, late < 0 || tick == 0, "{told}");
            assert_eq!(b.failures("m0").len(), usize::from(!in_time), "{told}: {:?}", b.failures("m0"));
            if in_time {
                assert_eq!(commands(&b), before, "{told}: it is let in, and rebooted");
            }
            b.live(2 * MINUTE);
            assert_eq!(b.status(id), "ready", "{told}: {:?}", b.failures("m0"));
        }
    }
}

/// A way in which an attempt ends before its machine is ready.
type Exit = fn(&mut Bench, ReservationId);

const EXITS: [(&str, Exit); 5] = [
    ("its deadline passes", |b, _| b.pass(101_000)),
    ("its parameters are asked for again", |b, _| drop(b.boot_request("m0", false))),
    ("its reservation ends", |b, id| drop(b.release("ada", id))),
    ("its turn is given up", |b, _| b.live(4 * MINUTE)),
    ("a backup is put in the place of its database", |b, _| {
        let backup = b.backup();
        b.restore(backup);
    }),
];

#[test]
fn a_token_outlives_its_attempt_or_keeps_the_next_agent_out() {
    for (exit, leave) in EXITS {
        for spent in [false, true] {
            let mut b = one_machine();
            let id = b.reserve("ada", ask("", Want::Agent));
            let params = booting(&mut b);
            if spent {
                assert!(matches!(b.attach(AgentKind::Boot, &params), Welcome::Accepted { .. }));
                b.effects.clear();
            }
            leave(&mut b, id);
            let told = format!("{exit}, its token spent: {spent}");
            let hello = b.hello_of(AgentKind::Boot, &params);
            b.refusal(hello);
            b.board(&name("m0")).dead = false;
            b.live(10 * MINUTE);
            let last = if b.row(id).ended() { b.reserve("bob", ask("", Want::Agent)) } else { id };
            b.live(5 * MINUTE);
            assert_eq!(b.status(last), "ready", "{told}: {:?}", b.failures("m0"));
            let hello = b.hello_of(AgentKind::Boot, &params);
            b.refusal(hello);
            assert!(b.machine("m0").agent.is_some(), "{told}: the old token threw the agent out");
        }
    }
}

// ── how often ──

/// What power answers to a command that would change it; `None`: it obeys.
type Fault = fn(Switch) -> Option<Result<Reading, &'static str>>;

const FAULTS: [(&str, Fault); 6] = [
    ("it never boots", |_| None),
    ("every on is refused", |want| (want == Switch::On).then_some(Err("HTTP 400: precondition"))),
    ("no on has an effect", |want| (want == Switch::On).then_some(Ok(Reading::Off))),
    ("every off is refused", |want| (want == Switch::Off).then_some(Err("HTTP 400: precondition"))),
    ("no off has an effect", |want| (want == Switch::Off).then_some(Ok(Reading::On))),
    ("what it was switched to is not known", |_| Some(Ok(Reading::Unknown))),
];

fn obey_badly(b: &mut Bench, fault: Fault) {
    while let Some((_, effect)) = b.effects.front() {
        let changes = match effect {
            Effect::Power { machine, leg, want, .. } => b.boards[machine].legs[*leg] != (*want == Switch::On),
            _ => false,
        };
        if !changes {
            b.obey_next();
            continue;
        }
        let command: Command = b.take_power();
        match fault(command.want) {
            Some(answer) => b.answer_power(&command, answer, false),
            None => b.obey_power(b.lab.meta().epoch, &command),
        }
    }
}

/// A day of a machine with this fault, and somebody who waits for it.
fn a_day_of(fault: Fault) -> Bench {
    let mut b = one_machine();
    let id = b.hold("ada", ask("", Want::Image));
    b.board(&name("m0")).dead = true;
    b.reserve("bob", ask("", Want::Image));
    b.release("ada", id);
    let end = b.now + DAY;
    while b.now < end {
        obey_badly(&mut b, fault);
        let next = b.lab.next_deadline().map_or(end, |at| at.0.clamp(b.now, end));
        b.pass(next - b.now);
    }
    b
}

/// The most of these records that fell into one hour.
fn most_in_an_hour(b: &Bench, wanted: fn(&Change) -> bool) -> usize {
    let at: Vec<u64> = b.records.iter().filter(|r: &&Record| wanted(&r.change)).map(|r| r.at.0).collect();
    let within = |(n, first): (usize, &u64)| at[n..].iter().take_while(|t| **t < first + HOUR).count();
    at.iter().enumerate().map(within).max().unwrap_or_default()
}

#[test]
fn a_machine_that_fails_for_ever_is_switched_for_ever() {
    for (what, fault) in FAULTS {
        let b = a_day_of(fault);
        let power = most_in_an_hour(&b, |c| matches!(c, Change::PowerIntended { .. }));
        let records = most_in_an_hour(&b, |_| true);
        assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{what}: {}", b.state("m0"));
        assert!(commands(&b) > 2, "{what}: nobody tried");
        assert!(power <= 60, "{what}: {power} power commands in an hour");
        assert!(commands(&b) <= 150, "{what}: {} power commands in a day", commands(&b));
        assert!(records <= 500, "{what}: {records} records in an hour");
    }
}

#[test]
fn a_reading_that_says_nothing_switches_a_machine_in_use() {
    for want in WANTS {
        let mut b = one_machine();
        let id = b.hold("ada", ask("", want));
        let before = commands(&b);
        for n in 0..100 {
            b.read("m0", 0, Reading::Unknown);
            b.pass(10_000);
            if n == 50 {
                b.restart();
                b.effects.clear();
            }
        }
        assert_eq!((b.in_use_by("m0"), commands(&b)), (Some(id), before), "{want:?}");
    }
}

#[test]
fn a_disk_that_is_never_proven_is_written_all_night() {
    let mut b = one_machine();
    let id = b.hold("ada", ask("", Want::Image));
    b.quirks.spoil = Some(|p| p.read_bytes -= 512);
    let before = writes(&b);
    b.release("ada", id);
    b.live(2 * MINUTE);
    assert_eq!(b.state("m0"), "quarantined");
    assert_eq!(writes(&b) - before, 2, "for one release");
    b.live(DAY);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{}", b.state("m0"));
    let all = writes(&b) - before;
    assert!((4..=24).contains(&all), "{all} times in a day");
}

#[test]
fn a_machine_that_always_fails_eats_builds() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.sparing = true;
    let (mut builds, mut eaten) = (0, 0);
    let mut build: Option<ReservationId> = None;
    let end = b.now + DAY;
    while b.now < end {
        // It comes through whatever proof is made of it, and fails every build.
        let proving = b.machine("m0").turn().is_some_and(|t| t.purpose == Purpose::Prove);
        b.board(&name("m0")).dead = !proving;
        let id = *build.get_or_insert_with(|| b.reserve("ci", ask("", Want::Agent)));
        b.live(10_000);
        if b.status(id) == "ready" {
            b.ok("ci", Request::Claim(id));
            b.live(5 * MINUTE);
            b.release("ci", id);
            (builds, build) = (builds + 1, None);
            eaten += usize::from(b.row(id).failed_on.contains(&name("m0")));
        }
    }
    assert!(builds > 200, "{builds} builds in a day");
    assert!((2..=10).contains(&eaten), "{eaten} of {builds} builds had to try another machine");
}
