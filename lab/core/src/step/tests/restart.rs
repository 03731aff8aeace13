//! The daemon dies in every phase, and another one goes on from its rows.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{PowerAction, Request};
use crate::inventory::model::Idle;
use crate::machine::{Health, Phase, Reading, Switch};
use crate::record::Change;
use crate::reservation::{End, Hold, Want};
use crate::simulator::labs;
use pitstop_wire::agent::Welcome;

fn intents(b: &Bench) -> usize {
    b.count(|c| matches!(c, Change::PowerIntended { .. }))
}

#[test]
fn a_machine_in_use_is_switched_by_a_daemon_that_starts() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        let mut b = Bench::new(&["m0"]);
        let id = b.hold("ada", ask("", want));
        let before = intents(&b);
        b.restart();
        assert_eq!(b.in_use_by("m0"), Some(id));
        b.live(300_000);
        assert_eq!(intents(&b), before, "{want:?}");
        assert_eq!(b.in_use_by("m0"), Some(id));
        if want != Want::Bare {
            assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }), "{want:?}: its agent is locked out");
            b.ok("ada", Request::Run { machine: name("m0"), command: "true".into() });
        }
    }
}

#[test]
fn a_clock_that_was_set_ahead_lets_a_command_land_on_the_next_holder() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    // It left, and whether it will be obeyed nobody knows.
    let on = b.take_power();
    assert_eq!(on.want, Switch::On);
    let left = b.machine("m0").legs[0].unsettled[0].may_land_until.0 - b.now;
    // Half an hour, says the wall clock; a moment it was.
    b.effects.clear();
    b.now += 1_800_000;
    b.restart();
    b.live(left - 2_000);
    let legs = &b.machine("m0").legs;
    assert!(legs[0].unsettled.iter().any(|i| i.id == on.intent), "it may still land: {legs:?}");
    b.live(300_000);
    assert!(b.machine("m0").settled());
}

#[test]
fn a_machine_that_is_ready_is_forgotten() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey();
    let before = intents(&b);
    b.restart();
    assert_eq!(b.status(id), "ready");
    assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }));
    b.ok("ada", Request::Claim(id));
    assert_eq!(intents(&b), before);
}

/// Kills the daemon with the effects of `phase` unsent, and says whether the
/// machine gets ready all the same, with no failure written down.
fn killed_in(phase: fn(&Phase) -> bool) -> Bench {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", phase);
    for _ in 0..3 {
        b.restart();
        b.resume("m0");
        b.live(3_000);
        if b.status(id) != "ready" {
            b.obey_until("m0", phase);
        }
    }
    b.live(200_000);
    assert_eq!(b.status(id), "ready", "{:?} {:?}", b.failures("m0"), b.machine("m0").turn());
    b
}

#[test]
fn a_daemon_killed_before_its_commands_leave_blames_the_machine() {
    for phase in [
        (|p: &Phase| *p == Phase::Off) as fn(&Phase) -> bool,
        |p| *p == Phase::BootAgent,
        |p| matches!(p, Phase::Disk { .. }),
        |p| *p == Phase::Seed,
        |p| *p == Phase::HandOff,
        |p| *p == Phase::Evidence,
    ] {
        let b = killed_in(phase);
        assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    }
}

#[test]
fn an_attempt_that_was_given_out_is_begun_again() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.board(&name("m0")).dead = true;
    b.obey(); // on, and its firmware takes its time
    let attempts = b.machine("m0").attempts;
    b.restart();
    b.obey();
    assert_eq!(b.machine("m0").attempts, attempts, "it boots with parameters that must still open");
    let params = b.boards[&name("m0")].params.clone().unwrap();
    assert!(matches!(b.attach(pitstop_wire::agent::AgentKind::Boot, &params), Welcome::Accepted { .. }));
    b.obey();
    assert_eq!(b.status(id), "ready");
}

#[test]
fn an_attempt_that_was_not_given_out_is_waited_for() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    let attempts = b.machine("m0").attempts;
    b.restart();
    assert_eq!(b.phase("m0"), Phase::Off);
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.machine("m0").attempts, attempts + 1);
    assert!(b.failures("m0").is_empty());
}

#[test]
fn a_power_on_that_left_with_the_old_daemon_lands_on_the_next_holder() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.restart(); // the on may have left
    b.release("ada", id);
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    b.pass(15_000);
    b.obey();
    assert_ne!(b.status(next), "ready");
    b.board(&name("m0")).legs[0] = true;
    b.live(120_000);
    assert_eq!(b.status(next), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [false]);
}

#[test]
fn an_on_that_was_lost_with_the_daemon_waits_for_its_deadline() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| *p == Phase::Evidence);
    b.restart(); // the on never left
    b.obey();
    assert!(
        b.failures("m0").is_empty(),
        "the daemon's death is the machine's failure: {:?}",
        b.failures("m0")
    );
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_holders_cycle_stays_half_done() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::Cycle, force: None });
    let off = b.take_power();
    b.board(&name("m0")).legs[0] = false; // it lands, and nobody is told
    assert_eq!(off.want, Switch::Off);
    b.restart();
    b.live(60_000);
    assert_eq!(b.boards[&name("m0")].legs, [true]);
}

#[test]
fn tries_are_forgotten_by_a_restart() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Agent));
    b.board(&name("m0")).dead = true;
    b.obey();
    b.pass(101_000);
    assert_eq!(b.failures("m0").len(), 1);
    b.restart();
    b.live(140_000);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{:?}", b.failures("m0"));
}

#[test]
fn a_quarantine_or_a_drain_is_forgotten_by_a_restart() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.quirks.spoil = Some(|p| p.read_bytes = 0);
    b.reserve("ada", ask("name=m1", Want::Bare));
    b.live(120_000);
    b.restart();
    assert_eq!((b.state("m0"), b.state("m1")), ("drained", "quarantined"));
}

#[test]
fn a_session_is_lost_because_the_daemon_was_away() {
    let mut b = Bench::new(&["m0"]);
    let mut asked = ask("", Want::Bare);
    asked.hold = Hold::Session { silence: 20_000 };
    let id = b.hold("ci", asked);
    b.now += 300_000; // down for five minutes
    b.restart();
    b.pass(19_000);
    b.ok("ci", Request::Beat(id));
    b.pass(19_000);
    assert_eq!(b.status(id), "active");
    b.pass(2_000);
    assert_eq!(b.status(id), "ended");
}

#[test]
fn a_turn_fails_because_the_daemon_was_away_for_longer_than_a_phase_may_last() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        for effects in 0..36 {
            let mut b = Bench::new(&["m0"]);
            let id = b.reserve("ada", ask("", want));
            for _ in 0..effects {
                b.obey_next();
            }
            b.now += 1_800_000; // down for half an hour
            b.restart();
            b.pass(1_000);
            if b.machine("m0").agent.is_some() {
                b.resume("m0");
            }
            b.live(200_000);
            assert_eq!(b.status(id), "ready", "{want:?}, {effects} effects: {:?}", b.failures("m0"));
            assert!(b.failures("m0").is_empty(), "{want:?}, {effects} effects: {:?}", b.failures("m0"));
        }
    }
}

#[test]
fn a_machine_that_was_ready_is_gone_because_nobody_could_claim_it() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey();
    assert_eq!(b.status(id), "ready");
    b.now += 900_000; // half of the time to claim it
    b.restart();
    b.pass(1_000_000);
    assert_eq!(b.status(id), "ready");
    b.pass(900_000);
    assert_eq!(b.end(id), End::Unclaimed);
}

#[test]
fn a_warm_machine_is_cold_after_a_restart() {
    let warm = Idle::Warm { max_age_ms: 600_000 };
    let mut b = Bench::of([spec_with("m0", |s| s.idle = Some(warm))]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.obey();
    b.restart();
    b.resume("m0");
    let next = b.reserve("bob", ask("", Want::Image));
    assert_eq!(b.status(next), "ready");
}

#[test]
fn the_power_of_a_resting_machine_is_not_looked_at() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs.push(labs::leg("mains")))]);
    b.restart();
    let asked = b.effects.iter().filter(|(_, e)| matches!(e, Effect::Observe { .. })).count();
    assert_eq!(asked, 2);
    assert!(b.power_waiting().is_empty(), "nothing is switched before somebody needs it");
    b.read("m0", 0, Reading::On);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn at_every_moment_a_killed_daemon_leaves_something_that_goes_on() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        for effects in 0..36 {
            let mut b = Bench::new(&["m0"]);
            let id = b.reserve("ada", ask("", want));
            for _ in 0..effects {
                b.obey_next();
            }
            b.restart();
            if b.machine("m0").agent.is_some() {
                b.resume("m0");
            }
            b.live(200_000);
            assert_eq!(
                b.status(id),
                "ready",
                "{want:?}, killed after {effects} effects: {:?}",
                b.failures("m0")
            );
            assert!(b.failures("m0").is_empty(), "{want:?}, killed after {effects}: {:?}", b.failures("m0"));
        }
    }
}
