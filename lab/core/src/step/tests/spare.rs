//! The spare leg: a first one that is dead, refuses or lies.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{PowerAction, Request};
use crate::inventory::model::{DriverSpec, MachineSpec};
use crate::machine::{Health, Phase, Reading, Switch};
use crate::record::Change;
use crate::reservation::Want;
use crate::simulator::labs;

const POWER: usize = 0;
const MAINS: usize = 1;
/// The shortest time off of the spare leg.
const MIN_OFF: u64 = 7_000;

/// A machine whose plug is left on.
fn bench() -> Bench {
    bench_of(|_| {})
}

fn bench_of(change: impl Fn(&mut MachineSpec)) -> Bench {
    let spec = spec_with("m0", |s| {
        s.legs.push(labs::leg("mains"));
        (s.legs[MAINS].usage, s.legs[MAINS].min_off_ms) = (Some("spare".into()), MIN_OFF);
        change(s);
    });
    let mut b = Bench::of([spec]);
    b.board(&name("m0")).legs[MAINS] = true;
    b.read("m0", MAINS, Reading::On);
    b
}

/// A board that a program writes.
fn board(s: &mut MachineSpec) {
    s.ready = DriverSpec::named("console");
    labs::flash(s);
}

fn held() -> (Bench, crate::id::ReservationId) {
    let mut b = bench();
    let id = b.hold("ada", ask("", Want::Agent));
    (b, id)
}

/// Commands so far, by leg.
fn commands(b: &Bench) -> Vec<(usize, Switch)> {
    let of = |c: &Change| match c {
        Change::PowerIntended { leg, intent, .. } => Some((*leg, intent.want)),
        _ => None,
    };
    b.changes().filter_map(of).collect()
}

fn why(b: &Bench) -> String {
    let why = b.lab.why_machine(&name("m0"), b.lab.meta().now).unwrap();
    why.reasons.iter().map(|r| format!("{}\n", r.text)).collect()
}

/// The first leg neither obeys nor answers, until the spare one is switched.
fn until_cut(b: &mut Bench) {
    for _ in 0..200 {
        while let Some((epoch, effect)) = b.effects.pop_front() {
            match effect {
                Effect::Power { leg: MAINS, .. } => return b.effects.push_front((epoch, effect)),
                Effect::Power { machine, leg, intent, want, boot, .. } => {
                    let command = super::bench::Command { machine, leg, intent, want, boot };
                    b.answer_power(&command, Err("no answer from bmc"), false);
                }
                Effect::Observe { leg, .. } => {
                    b.read("m0", leg, if leg == MAINS { Reading::On } else { Reading::Unknown })
                }
                _ => {}
            }
        }
        b.pass(500);
    }
    panic!("the spare leg was never used: {:?}", b.machine("m0").legs);
}

#[test]
fn a_leg_that_obeys_has_its_plug_pulled() {
    let (mut b, id) = held();
    b.release("ada", id);
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
    assert!(commands(&b).iter().all(|(leg, _)| *leg == POWER), "{:?}", commands(&b));
    assert_eq!(b.boards[&name("m0")].legs, [false, true]);
}

#[test]
fn a_dead_leg_is_told_off_until_the_machine_is_given_up() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    let cut = b.machine("m0").cut.clone().expect("it is not recorded");
    assert_eq!(cut.reason, "power (sim) was told off 2 times in vain; it said: no answer from bmc");
    assert!(why(&b).contains("mains was switched off"), "{}", why(&b));
    b.obey_next(); // mains goes off, and reads off
    assert_eq!(b.phase("m0"), Phase::Off, "it was not off long enough");
    b.pass(MIN_OFF - 1);
    b.effects.clear();
    b.read("m0", MAINS, Reading::Off);
    assert_eq!(b.phase("m0"), Phase::Off, "it was not off long enough");
    b.board(&name("m0")).legs[POWER] = false; // what has no power loses its state
    b.live(120_000);
    assert_eq!(b.state("m0"), "free");
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    assert_eq!(b.machine("m0").health, Health::Good);
}

#[test]
fn the_first_leg_is_used_while_it_has_no_power() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    let before = commands(&b).len();
    b.obey_next();
    b.board(&name("m0")).legs[POWER] = false;
    b.live(120_000);
    let after = &commands(&b)[before..];
    assert_eq!(after[..2], [(MAINS, Switch::On), (POWER, Switch::On)], "{after:?}");
    assert_eq!(b.machine("m0").cut, None);
    assert!(
        b.changes()
            .any(|c| matches!(c, Change::CutOver { reason, .. } if reason == "mains (sim) is on again"))
    );
    assert_eq!(b.state("m0"), "free");
    assert_eq!(b.boards[&name("m0")].legs, [false, true]);
}

#[test]
fn a_leg_that_lies_is_believed_behind_its_back() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    b.read("m0", POWER, Reading::Off); // says who never obeyed
    b.pass(60_000);
    assert_eq!(b.phase("m0"), Phase::Off, "the plug was not read off");
    assert_eq!(b.machine("m0").legs[POWER].seen, None);
}

#[test]
fn a_plug_that_is_another_machines_counts_as_this_ones() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    for _ in 0..40 {
        b.obey(); // mains reads off, and power still reads on: it never went out
        b.pass(2_000);
    }
    b.live(600_000);
    assert!(!matches!(b.machine("m0").health, Health::Good), "{}", b.state("m0"));
    assert!(b.boards[&name("m0")].legs[POWER]);
}

#[test]
fn one_refusal_is_enough_to_pull_the_plug() {
    let (mut b, id) = held();
    b.release("ada", id);
    let off = b.take_power();
    b.answer_power(&off, Err("busy"), false);
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
    assert!(commands(&b).iter().all(|(leg, _)| *leg == POWER), "{:?}", commands(&b));
}

#[test]
fn a_daemon_that_is_killed_forgets_that_power_is_cut() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    b.restart();
    assert!(b.machine("m0").cut.is_some());
    assert_eq!(b.power_waiting(), [Switch::Off]);
    let off = b.take_power();
    assert_eq!(off.leg, MAINS, "the dead one is asked again from the beginning");
    b.board(&name("m0")).legs = vec![false, false];
    b.answer_power(&off, Ok(Reading::Off), true);
    b.live(120_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_holder_cannot_get_his_machine_off() {
    let (mut b, _) = held();
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    for _ in 0..2 {
        b.ok("ada", power(PowerAction::Off));
        let off = b.take_power();
        assert_eq!(off.leg, POWER);
        b.answer_power(&off, Err("no answer"), false);
    }
    b.ok("ada", power(PowerAction::Off));
    let off = b.take_power();
    assert_eq!(off.leg, MAINS);
    b.board(&name("m0")).legs = vec![false, false];
    b.answer_power(&off, Ok(Reading::Off), true);
    b.live(60_000);
    b.ok("ada", power(PowerAction::On));
    b.obey();
    assert_eq!(b.boards[&name("m0")].legs, [true, true]);
    assert_eq!(b.machine("m0").cut, None);
}

#[test]
fn a_plug_that_is_dead_too_keeps_the_first_leg_from_being_used_again() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    for _ in 0..400 {
        if b.machine("m0").cut.is_none() {
            break;
        }
        while let Some((_, effect)) = b.effects.pop_front() {
            if let Effect::Power { machine, leg, intent, want, boot, .. } = effect {
                let command = super::bench::Command { machine, leg, intent, want, boot };
                b.answer_power(&command, Err("no answer from pdu"), false);
            }
        }
        b.read("m0", MAINS, Reading::Unknown);
        b.pass(500);
    }
    assert_eq!(b.machine("m0").cut, None);
    assert!(
        b.changes()
            .any(|c| matches!(c, Change::CutOver { reason, .. } if reason.contains("does not obey either")))
    );
}

#[test]
fn a_plug_that_somebody_pulled_is_not_put_back() {
    let mut b = bench();
    b.board(&name("m0")).legs = vec![false, false];
    b.read("m0", MAINS, Reading::Off);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [true, true]);
}

#[test]
fn legs_that_are_switched_together_wait_for_one_to_fail() {
    let mut b = Bench::of([spec_with("m0", |s| {
        s.legs.push(labs::leg("mains"));
        s.legs[MAINS].usage = Some("together".into());
    })]);
    let id = b.hold("ada", ask("", Want::Agent));
    b.release("ada", id);
    assert_eq!(b.power_waiting(), [Switch::Off, Switch::Off]);
    b.obey();
    assert_eq!(b.boards[&name("m0")].legs, [false, false]);
}

#[test]
fn a_leg_that_is_spare_no_more_stays_cut() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    b.obey_next();
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().legs[MAINS].usage = None);
    assert_eq!(b.machine("m0").cut, None);
}

#[test]
fn a_board_stays_dark_behind_its_spare_leg_when_it_is_to_be_written() {
    let mut b = bench_of(board);
    let by_command = crate::reservation::CleanLevel::ByCommand;
    let ask = crate::reservation::Ask { clean: by_command, ..ask("", Want::Bare) };
    let id = b.hold("ada", ask.clone());
    b.release("ada", id);
    until_cut(&mut b);
    b.obey_next();
    b.board(&name("m0")).legs[POWER] = false;
    b.live(120_000);
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "by-command"), "{:?}", b.failures("m0"));
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    b.hold("bob", ask);
}

#[test]
fn a_board_that_is_written_while_off_waits_for_its_spare_leg_to_go_off() {
    let mut b = bench_of(|s| {
        board(s);
        let flash = &mut s.reimage;
        let mut fields = (*flash.fields).clone();
        fields.insert("power".to_owned(), "off".into());
        flash.fields = std::sync::Arc::new(fields);
    });
    let by_command = crate::reservation::CleanLevel::ByCommand;
    b.hold("ada", crate::reservation::Ask { clean: by_command, ..ask("", Want::Bare) });
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
}

#[test]
fn a_command_stays_open_for_ever_where_somebody_pulled_the_plug() {
    let mut b = bench();
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", Request::Power { machine: name("m0"), action: PowerAction::Off, force: None });
    let off = b.take_power(); // nobody will say what became of it
    assert_eq!((off.leg, off.want), (POWER, Switch::Off));
    b.restart();
    b.effects.clear();
    b.pass(60_000);
    b.effects.clear();
    assert!(!b.machine("m0").settled());
    b.read("m0", POWER, Reading::Unknown);
    assert!(!b.machine("m0").settled(), "nobody knows what became of it");
    b.read("m0", MAINS, Reading::Off);
    assert!(b.machine("m0").settled(), "{:?}", b.machine("m0").legs);
}

/// The spare leg refuses so often, and then obeys or keeps refusing.
fn refuse_off(b: &mut Bench, mut times: usize) -> usize {
    let mut refused = 0;
    for _ in 0..200 {
        while let Some((epoch, effect)) = b.effects.pop_front() {
            match effect {
                Effect::Power { machine, leg: MAINS, intent, want, boot, .. } => {
                    let command = super::bench::Command { machine, leg: MAINS, intent, want, boot };
                    if times == 0 {
                        b.obey_power(epoch, &command);
                        return refused;
                    }
                    (times, refused) = (times - 1, refused + 1);
                    b.answer_power(&command, Err("try later"), true);
                }
                Effect::Observe { leg, .. } => {
                    b.read("m0", leg, if leg == MAINS { Reading::On } else { Reading::Unknown })
                }
                _ => {}
            }
        }
        b.pass(500);
    }
    refused
}

#[test]
fn what_was_on_while_mains_flapped_is_on_for_ever() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    b.obey_next();
    b.effects.clear();
    b.pass(MIN_OFF + 1);
    b.effects.clear();
    // Somebody puts the plug in, and pulls it; after that the first leg is silent.
    b.read("m0", POWER, Reading::On);
    b.read("m0", MAINS, Reading::On);
    while b.effects.pop_front().is_some() {}
    b.board(&name("m0")).legs = vec![false, false];
    for _ in 0..30 {
        b.read("m0", POWER, Reading::Unknown);
        b.read("m0", MAINS, Reading::Off);
        b.effects.retain(|(_, effect)| !matches!(effect, Effect::Observe { .. }));
        b.obey();
        b.pass(2_000);
    }
    b.live(120_000);
    assert!(b.failures("m0").iter().all(|f| !f.contains("reads on")), "{:?}", b.failures("m0"));
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_spare_leg_that_refuses_once_is_never_told_again() {
    let (mut b, id) = held();
    b.release("ada", id);
    until_cut(&mut b);
    assert_eq!(refuse_off(&mut b, 1), 1);
    b.board(&name("m0")).legs[POWER] = false;
    b.live(120_000);
    assert_eq!(b.state("m0"), "free");
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
}

#[test]
fn nothing_is_believed_for_ever_of_a_machine_whose_power_was_not_cut() {
    let mut b = bench();
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.read("m0", POWER, Reading::On); // somebody pressed its button
    for _ in 0..3 {
        let off = Request::Power { machine: name("m0"), action: PowerAction::Off, force: None };
        b.ok("admin", off);
        while let Some((_, effect)) = b.effects.pop_front() {
            if let Effect::Power { machine, leg, intent, want, boot, .. } = effect {
                let command = super::bench::Command { machine, leg, intent, want, boot };
                b.answer_power(&command, Err("no answer"), false);
            }
        }
    }
    assert!(b.machine("m0").cut.is_some());
    b.pass(60_000);
    b.effects.clear();
    b.read("m0", MAINS, Reading::On);
    b.read("m0", POWER, Reading::On);
    assert_eq!(b.machine("m0").cut, None, "mains is on");
    assert!(b.machine("m0").settled() && b.machine("m0").all_legs(Switch::On), "{:?}", b.machine("m0").legs);
}
