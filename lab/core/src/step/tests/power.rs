//! Power that fails, lies, and lands late.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{Event, Fact, PowerAction, Request};
use crate::inventory::model::DriverSpec;
use crate::machine::{Health, Phase, Reading, Switch};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, Want};
use crate::simulator::labs;
use crate::time::LabTime;
use pitstop_wire::Code;

/// The longest that a command may land late, with the bench's limits.
const LATEST: u64 = 20_000;

#[test]
fn a_controller_that_refuses_is_commanded_every_two_seconds() {
    for reading in [Reading::On, Reading::Unknown] {
        let mut b = Bench::new(&["m0"]);
        let id = b.hold("ada", ask("", Want::Agent));
        let offs = |b: &Bench| {
            b.count(|c| matches!(c, Change::PowerIntended { intent, .. } if intent.want == Switch::Off))
        };
        let before = offs(&b);
        b.release("ada", id);
        for _ in 0..118 {
            while let Some((epoch, effect)) = b.effects.pop_front() {
                let fact = match effect {
                    Effect::Power { machine, leg, intent, want, .. } => {
                        let result = Err("busy".to_owned());
                        Fact::Power { machine, leg, intent, want, result, witnessed: true }
                    }
                    Effect::Observe { machine, leg } => {
                        Fact::Read { machine, leg, asked: LabTime(b.now), reading }
                    }
                    _ => continue,
                };
                b.event(Event::Fact { epoch, fact });
            }
            b.pass(500);
        }
        let given = offs(&b) - before;
        assert!((3..=7).contains(&given), "{reading:?}: {given} times in a minute, one limit is 10 s");
    }
}

#[test]
fn a_machine_without_legs_waits_for_power_that_it_does_not_have() {
    let mut b = Bench::of([spec_with("m0", |s| {
        (s.legs, s.disks) = (Vec::new(), Vec::new());
        s.ready = DriverSpec::named("power");
    })]);
    let id = b.reserve("ada", Ask { clean: CleanLevel::Any, ..ask("", Want::Image) });
    assert_eq!(b.status(id), "ready");
}

#[test]
fn an_on_that_was_accepted_without_effect_is_waited_for_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let on = b.take_power();
    assert_eq!(on.want, Switch::On);
    b.answer_power(&on, Ok(Reading::Off), false);
    assert_eq!(b.failures("m0").len(), 1, "tried again, with a new attempt");
    b.live(120_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn an_off_that_was_accepted_without_effect_counts_as_off() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Ok(Reading::On), false);
    assert_eq!(b.phase("m0"), Phase::Off);
    b.pass(2_000);
    b.obey(); // looks, and commands it again
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
    assert!(b.failures("m0").is_empty(), "one lost command is no failure of the machine");
}

#[test]
fn a_command_that_was_answered_with_an_error_and_landed_all_the_same_is_undone() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Err("timeout"), false);
    assert!(!b.machine("m0").settled(), "an error was taken for `it did not happen`");
    b.board(&name("m0")).legs[0] = false;
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn unknown_counts_as_off() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Ok(Reading::Unknown), false);
    for _ in 0..5 {
        b.read("m0", 0, Reading::Unknown);
        b.pass(LATEST / 2);
        assert_eq!(b.state("m0"), "turnaround");
        b.effects.clear();
    }
    b.pass(600_000);
    b.effects.clear();
    b.pass(600_000);
    assert!(
        matches!(b.machine("m0").health, Health::Quarantined { .. }),
        "not quarantined: {}",
        b.state("m0")
    );
    assert_eq!(b.in_use_by("m0"), None);
}

#[test]
fn an_unreadable_leg_is_taken_for_what_the_other_one_says() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs.push(labs::leg("mains")))]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let first = b.take_power();
    b.answer_power(&first, Ok(Reading::Off), true);
    let second = b.take_power();
    b.answer_power(&second, Ok(Reading::Unknown), false);
    assert_eq!(b.phase("m0"), Phase::Off);
    b.effects.clear();
    b.pass(1_000);
    assert_eq!(b.phase("m0"), Phase::Off, "half of the machine was not seen to be off");
}

#[test]
fn a_late_on_lands_after_the_off() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let on = b.take_power(); // it left, and nothing was heard of it
    b.release("ada", id);
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey(); // the off is seen to be so at once
    b.pass(LATEST - 1_000);
    assert_ne!(b.status(next), "ready", "handed over while the on may still land");
    b.answer_power(&on, Ok(Reading::On), true); // nobody listens to that runner any more
    b.board(&name("m0")).legs[0] = true; // it lands
    b.live(120_000);
    assert_eq!(b.status(next), "ready");
    assert!(b.machine("m0").settled());
    assert_eq!(b.boards[&name("m0")].legs, [false], "it came on by itself and nobody looked");
}

#[test]
fn a_reading_that_was_asked_for_before_the_command_could_land_settles_it() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let off = b.take_power();
    b.board(&name("m0")).legs[0] = false;
    b.answer_power(&off, Ok(Reading::Off), false);
    let asked = LabTime(b.now);
    b.now += LATEST + 5_000;
    let epoch = b.lab.meta().epoch;
    b.fact(epoch, Fact::Read { machine: name("m0"), leg: 0, asked, reading: Reading::Off });
    assert!(!b.machine("m0").settled(), "the answer is late, the reading is old");
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn an_old_reading_overtakes_the_power_on() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    let asked = LabTime(b.now);
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.board(&name("m0")).dead = true; // its firmware takes a while
    b.now += 1_000;
    b.obey();
    let epoch = b.lab.meta().epoch;
    b.fact(epoch, Fact::Read { machine: name("m0"), leg: 0, asked, reading: Reading::Off });
    assert!(b.failures("m0").is_empty(), "an answer from before the power-on: {:?}", b.failures("m0"));
    let params = b.boards[&name("m0")].params.clone().unwrap();
    b.attach(pitstop_wire::agent::AgentKind::Boot, &params);
    b.obey();
    assert_eq!(b.status(id), "ready");
}

#[test]
fn of_two_commands_alike_the_second_one_settles_the_first() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::Off, force: None });
    let first = b.take_power();
    b.release("ada", id);
    let second = b.take_power();
    b.board(&name("m0")).legs[0] = false;
    b.answer_power(&second, Ok(Reading::Off), true);
    assert_eq!(first.want, second.want);
    assert!(!b.machine("m0").settled(), "which of the two was seen to land can not be told");
    assert_eq!(b.phase("m0"), Phase::Off);
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_driver_that_never_reports_is_waited_for_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    for _ in 0..8 {
        b.effects.clear();
        b.pass(120_000);
    }
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }));
    assert_eq!(b.status(id), "waiting");
    assert_eq!(b.failures("m0").len(), 2, "{:?}", b.failures("m0"));
}

#[test]
fn a_driver_that_never_reports_an_on_makes_the_turn_go_round_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.board(&name("m0")).mute = true;
    b.live(4 * LATEST);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{:?}", b.failures("m0"));
    assert_eq!(b.status(id), "waiting");
}

#[test]
fn facts_of_an_earlier_daemon_are_obeyed() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Agent));
    let off = b.take_power();
    let old = b.lab.meta().epoch;
    b.restart();
    let before = b.records.len();
    b.fact(old, off.done(Ok(Reading::Off), true));
    assert_eq!(b.records.len(), before);
}

#[test]
fn the_machine_comes_on_by_itself_before_it_is_handed_over() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m0", |p| *p == Phase::Rest);
    let off = b.take_power();
    b.answer_power(&off, Ok(Reading::Off), false); // not seen to be this one: settles by time
    b.board(&name("m0")).legs[0] = true;
    b.pass(LATEST - 1_000);
    assert_ne!(b.status(id), "ready");
    b.live(120_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [false], "what it was when the command left is not what it is");
}

#[test]
fn a_holders_cycle_comes_on_before_it_was_off() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    b.ok("ada", power(PowerAction::Cycle));
    assert_eq!(b.power_waiting(), [Switch::Off]);
    let on = b.request("ada", power(PowerAction::On)).unwrap_err();
    assert_eq!(on.code, Code::Conflict);
    assert!(on.retry_after.is_some(), "it does not say when");
    b.obey();
    assert_eq!(b.boards[&name("m0")].legs, [true]);
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert!(b.failures("m0").is_empty());
    assert_eq!(
        b.count(|c| matches!(c, Change::PowerIntended { intent, .. } if intent.want == Switch::On)),
        3
    );
}

#[test]
fn a_holders_own_power_command_fails_his_reservation() {
    let mut b = Bench::new(&["m0"]);
    let mut asked = ask("", Want::Image);
    asked.agent_lost = Some(15_000);
    let id = b.hold("ci", asked);
    b.ok("ci", Request::Power { machine: name("m0"), action: PowerAction::Off, force: None });
    b.live(600_000);
    assert_eq!(b.status(id), "active", "he switched it off himself");
    b.ok("ci", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    b.live(1_000);
    assert!(b.machine("m0").agent.as_ref().unwrap().lost.is_none());
    b.lost("m0");
    b.live(16_000);
    assert_eq!(b.status(id), "ended", "once its agent was back, silence is what it was before");
}

#[test]
fn a_machine_that_runs_no_agent_is_ready_when_power_reads_on() {
    let runs_none = |s: &mut crate::inventory::model::MachineSpec| {
        s.ready = crate::inventory::model::DriverSpec::named("power");
        s.disks.clear();
    };
    let mut b = Bench::of([spec_with("m0", runs_none)]);
    assert_eq!(b.refused_ask(ask("", Want::Image)), Code::NotFound, "nobody can prove it clean");
    let id = b.reserve("ada", any());
    b.obey_until("m0", |p| *p == Phase::Evidence);
    assert_ne!(b.status(id), "ready");
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [true]);
}

fn any() -> Ask {
    Ask { clean: CleanLevel::Any, ..ask("", Want::Image) }
}

/// A board that says that it is up, within a minute.
fn speaks() -> Bench {
    Bench::of([spec_with("m0", |s| {
        let within = serde_json::json!({ "within": 60_000 });
        s.ready = DriverSpec::named("console");
        s.ready.fields = std::sync::Arc::new(within.as_object().unwrap().clone());
        s.disks.clear();
    })])
}

/// The turn and try that somebody is to watch for.
fn watched(b: &Bench) -> Vec<(u64, u32)> {
    let turn = |(_, e): &(_, Effect)| match e {
        Effect::Witness { turn, .. } => Some(*turn),
        _ => None,
    };
    b.effects.iter().filter_map(turn).collect()
}

#[test]
fn a_board_without_an_agent_is_ready_when_it_only_has_power() {
    let mut b = speaks();
    let id = b.reserve("ada", any());
    b.obey_until("m0", |p| *p == Phase::Evidence);
    let turn = watched(&b)[0];
    b.effects.retain(|(_, e)| !matches!(e, Effect::Witness { .. }));
    b.obey();
    assert_eq!(b.phase("m0"), Phase::Evidence, "it has power and said nothing");
    let says = |turn| Fact::Witnessed { machine: name("m0"), turn, result: Ok("READY v1".into()) };
    let epoch = b.lab.meta().epoch;
    b.event(Event::Fact { epoch, fact: says((turn.0, turn.1 + 1)) });
    b.event(Event::Fact { epoch, fact: says((turn.0 - 1, turn.1)) });
    assert_eq!(b.phase("m0"), Phase::Evidence, "another boot said it");
    b.event(Event::Fact { epoch, fact: says(turn) });
    b.obey();
    assert_eq!(b.status(id), "ready");
    b.event(Event::Fact { epoch, fact: says(turn) });
    assert_eq!(b.status(id), "ready", "said twice");
}

#[test]
fn a_board_that_never_speaks_is_waited_for_longer_than_the_inventory_says() {
    let mut b = speaks();
    b.reserve("ada", any());
    b.obey_until("m0", |p| *p == Phase::Evidence);
    b.effects.retain(|(_, e)| !matches!(e, Effect::Witness { .. }));
    b.obey();
    b.live(60_000 + 2 * LATEST);
    assert!(b.failures("m0")[0].contains("ready.console"), "{:?}", b.failures("m0"));
}

#[test]
fn what_a_board_said_while_no_daemon_listened_is_waited_for() {
    let mut b = speaks();
    let id = b.reserve("ada", any());
    b.obey_until("m0", |p| *p == Phase::Evidence);
    let before = watched(&b)[0];
    b.effects.retain(|(_, e)| !matches!(e, Effect::Witness { .. }));
    b.obey();
    b.restart();
    assert_eq!(b.phase("m0"), Phase::Off, "it is started again");
    b.obey();
    b.live(2 * LATEST);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.machine("m0").failures, 0, "which is nobody's fault; before: {before:?}");
}

#[test]
fn a_cycle_whose_off_failed_waits_for_a_later_off_to_switch_on_again() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    b.ok("ada", power(PowerAction::Cycle));
    let off = b.take_power();
    b.answer_power(&off, Err("refused"), false);
    b.live(2 * LATEST);
    assert_eq!(b.boards[&name("m0")].legs, [true]);
    b.ok("ada", power(PowerAction::Off));
    b.live(2 * LATEST);
    assert_eq!(b.boards[&name("m0")].legs, [false], "the old cycle goes on");
}

fn blind() -> Bench {
    Bench::of([spec_with("m0", |s| s.legs[0].readback = false)])
}

#[test]
fn a_leg_without_read_back_never_gets_ready_when_the_daemon_restarts() {
    for phase in [Phase::Settle, Phase::Off, Phase::Evidence, Phase::BootAgent] {
        let mut b = blind();
        let id = b.reserve("ada", ask("", Want::Image));
        b.obey_until("m0", |p| *p == phase);
        b.restart();
        b.live(400_000);
        assert_eq!(b.status(id), "ready", "killed in {phase:?}: {:?}", b.failures("m0"));
        assert!(b.failures("m0").is_empty(), "killed in {phase:?}: {:?}", b.failures("m0"));
    }
}

#[test]
fn an_off_is_assumed_although_an_older_on_may_have_landed_after_it() {
    let mut b = blind();
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let _late = b.take_power();
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Ok(Reading::Assumed(Switch::Off)), false);
    b.pass(LATEST - 1_000);
    b.board(&name("m0")).legs[0] = true; // the old one lands, and nothing shows it
    b.live(120_000);
    assert_eq!(b.state("m0"), "free");
    assert_eq!(b.boards[&name("m0")].legs, [false]);
}

#[test]
fn a_dead_controller_is_asked_as_fast_as_its_neighbour_answers() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs.insert(0, labs::leg("mains")))]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    for leg in 0..2 {
        let on = b.take_power();
        let answer = if leg == 0 { Ok(Reading::On) } else { Err("no answer") };
        b.answer_power(&on, answer, leg == 0);
    }
    b.pass(3 * LATEST);
    b.effects.clear();
    let mut asked = 0;
    for _ in 0..300 {
        b.read("m0", 0, Reading::On); // one answers at once, the other never
        asked += b.effects.drain(..).filter(|(_, e)| matches!(e, Effect::Observe { leg: 1, .. })).count();
        b.pass(100);
    }
    assert!((1..=4).contains(&asked), "asked {asked} times in 30 s");
    assert_eq!(b.status(id), "active");
}

#[test]
fn a_leg_that_answers_nothing_after_an_off_is_never_switched_off_again() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Ok(Reading::Unknown), false);
    b.pass(2_000);
    b.effects.retain(|(_, e)| !matches!(e, Effect::Observe { .. }));
    assert_eq!(b.power_waiting(), [Switch::Off]);
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn the_time_of_a_second_leg_counts_from_its_own_start() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs.insert(0, labs::leg("mains")))]);
    b.hold("ada", ask("", Want::Bare));
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    let landings: Vec<u64> = b.machine("m0").legs.iter().map(|l| l.unsettled[0].may_land_until.0).collect();
    assert_eq!(
        landings[1] - landings[0],
        LATEST / 2,
        "it is sent when the first may have taken all its time"
    );
}

#[test]
fn a_stopped_loop_shortens_the_time_of_commands_under_way() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::On, force: None });
    let landing = |b: &Bench| b.machine("m0").legs[0].unsettled[0].may_land_until;
    let before = landing(&b);
    b.event(Event::Gap(30_000));
    assert_eq!(landing(&b), before + 30_000);
}
