//! Who may attach, who may come back, and who is refused with a reason.

use super::bench::{Bench, ask, hex_of, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{BootAnswer, Event, Report, Request};
use crate::machine::{Phase, Reading};
use crate::record::Change;
use crate::reservation::{End, Want};
use pitstop_wire::agent::{AgentKind, AgentParams, Hello, Outcome, Secret, Welcome};

/// A machine whose boot agent has its parameters and has not attached.
fn booting(b: &mut Bench) -> AgentParams {
    b.board(&name("m0")).dead = true;
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.obey();
    b.boards[&name("m0")].params.clone().unwrap()
}

fn with(hello: Hello, change: impl FnOnce(&mut String, &mut Secret, &mut String)) -> Hello {
    let Hello::Attach { protocol, version, kind, machine, mut nonce, mut boot_id, mut token, key_hash } =
        hello
    else {
        panic!("no attach")
    };
    change(&mut nonce, &mut token, &mut boot_id);
    Hello::Attach { protocol, version, kind, machine, nonce, boot_id, token, key_hash }
}

#[test]
fn an_agent_of_an_earlier_boot_attaches() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    let hello = with(b.hello_of(AgentKind::Boot, &params), |nonce, _, _| *nonce = "0".repeat(32));
    assert!(b.refusal(hello).contains("earlier boot"));
    assert!(b.machine("m0").agent.is_none());
}

#[test]
fn a_guessed_token_opens_the_attempt() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    let hello = with(b.hello_of(AgentKind::Boot, &params), |_, token, _| *token = Secret("guess".into()));
    assert!(b.refusal(hello).contains("does not open"));
    assert!(
        matches!(b.attach(AgentKind::Boot, &params), Welcome::Accepted { .. }),
        "a guess burned the real token"
    );
}

#[test]
fn a_token_is_used_twice() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    b.attach(AgentKind::Boot, &params);
    let hello = b.hello_of(AgentKind::Boot, &params);
    assert!(b.refusal(hello).contains("already used"));
    assert!(b.machine("m0").agent.is_some(), "the second attach threw the first agent out");
}

#[test]
fn another_machines_token_opens_this_one() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.board(&name("m1")).dead = true;
    b.reserve("ada", ask("name=m0", Want::Image));
    b.reserve("bob", ask("name=m1", Want::Image));
    let own = booting(&mut b);
    let other = b.boards[&name("m1")].params.clone().unwrap();
    let hello = with(b.hello_of(AgentKind::Boot, &own), |_, token, _| *token = other.token.clone());
    assert_eq!(b.refusal(hello), "the token belongs to another machine");
}

#[test]
fn a_token_of_an_earlier_attempt_opens_the_next() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let old = booting(&mut b);
    // The attempt runs into its deadline and the next one begins.
    b.pass(101_000);
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.obey();
    let new = b.boards[&name("m0")].params.clone().unwrap();
    assert_ne!(old.nonce, new.nonce, "two attempts share a nonce");
    let hello = b.hello_of(AgentKind::Boot, &old);
    assert!(b.refusal(hello).contains("earlier boot"));
    let mixed = with(b.hello_of(AgentKind::Boot, &new), |_, token, _| *token = old.token.clone());
    assert!(b.refusal(mixed).contains("does not open"));
}

#[test]
fn the_old_system_on_the_disk_comes_up_instead_of_the_boot_agent() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    let seed = b.boards[&name("m0")].seed.clone().unwrap();
    b.release("ada", id);
    booting(&mut b);
    let hello = b.hello_of(AgentKind::Host, &seed);
    assert!(b.refusal(hello).contains("earlier boot"));
    let mut b2 = b; // nor does the rejoin token of the last holder
    let rejoin = b2.boards[&name("m0")].rejoin.clone().unwrap();
    let hello = with(b2.hello_of(AgentKind::Host, &seed), |_, token, _| *token = rejoin);
    assert!(b2.refusal(hello).contains("earlier boot"));
}

#[test]
fn a_boot_token_lets_a_host_agent_in() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    let hello = b.hello_of(AgentKind::Host, &params);
    assert!(b.refusal(hello).contains("does not open"));
}

#[test]
fn an_agent_attaches_to_a_machine_that_rests_or_does_not_exist() {
    let mut b = Bench::new(&["m0"]);
    let params = AgentParams {
        server: String::new(),
        ca: String::new(),
        machine: name("m0"),
        nonce: String::new(),
        token: Secret(String::new()),
    };
    let hello = b.hello_of(AgentKind::Boot, &params);
    assert_eq!(b.refusal(hello), "the machine waits for no agent");
    let before = b.records.len();
    let Hello::Attach { protocol, version, kind, nonce, boot_id, token, key_hash, .. } =
        b.hello_of(AgentKind::Boot, &params)
    else {
        unreachable!()
    };
    let machine = name("m99");
    let hello = Hello::Attach { protocol, version, kind, machine, nonce, boot_id, token, key_hash };
    assert!(matches!(b.hello(hello), Welcome::Refused { .. }));
    assert_eq!(
        b.records.len(),
        before,
        "anybody can fill the history with names of machines that do not exist"
    );
}

#[test]
fn an_agent_that_speaks_another_protocol_is_obeyed() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    let Hello::Attach { version, kind, machine, nonce, boot_id, token, key_hash, .. } =
        b.hello_of(AgentKind::Boot, &params)
    else {
        unreachable!()
    };
    let hello = Hello::Attach { protocol: (7, 9), version, kind, machine, nonce, boot_id, token, key_hash };
    assert!(b.refusal(hello).contains("protocol 7 to 9"));
}

#[test]
fn a_stranger_resumes_the_session() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    let Hello::Resume { protocol, version, machine, nonce, boot_id, key } = b.resume_of("m0") else {
        unreachable!()
    };
    let hello = |nonce: &str, boot_id: &str, key: &Secret| Hello::Resume {
        protocol,
        version: version.clone(),
        machine: machine.clone(),
        nonce: nonce.into(),
        boot_id: boot_id.into(),
        key: key.clone(),
    };
    for (hello, why) in [
        (hello(&nonce, &boot_id, &Secret("guess".into())), "the key does not open"),
        (hello(&nonce, &boot_id, &Secret(hex_of(&key.0))), "the key does not open"),
        (hello(&nonce, "m0-99", &key), "another boot"),
        (hello("0", &boot_id, &key), "earlier boot"),
    ] {
        let reason = b.refusal(hello);
        assert!(reason.contains(why), "{reason}");
    }
    assert!(matches!(b.hello(hello(&nonce, &boot_id, &key)), Welcome::Accepted { .. }));
}

#[test]
fn a_session_outlives_its_reservation() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    let resume = b.resume_of("m0");
    b.release("ada", id);
    assert!(b.refusal(resume).contains("it is over"));
}

#[test]
fn a_second_boot_request_burns_the_attempt() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    assert!(matches!(b.boot_request("m0", false), BootAnswer::Refused(_)));
    assert_eq!(b.count(|c| matches!(c, Change::AttemptBurned { .. })), 1);
    let hello = b.hello_of(AgentKind::Boot, &params);
    b.refusal(hello);
    b.board(&name("m0")).dead = false;
    b.live(60_000);
    assert_eq!(b.status(id), "ready", "one burned attempt is tried again: {:?}", b.failures("m0"));
}

#[test]
fn boot_parameters_are_given_out_when_nobody_is_to_boot() {
    let mut b = Bench::new(&["m0"]);
    assert!(matches!(b.boot_request("m0", false), BootAnswer::Refused(_)), "at rest");
    let id = b.reserve("ada", ask("", Want::Image));
    assert!(matches!(b.boot_request("m0", false), BootAnswer::Refused(_)), "while it is switched off");
    b.obey_until("m0", |p| *p == Phase::Evidence);
    assert_eq!(b.boot_request("m0", false), BootAnswer::Disk, "when its own system is to come up");
    b.obey();
    b.ok("ada", Request::Claim(id));
    assert_eq!(b.boot_request("m0", false), BootAnswer::Disk, "when its holder boots it");
    assert!(b.failures("m0").is_empty());
}

#[test]
fn a_machine_that_asks_for_its_boot_in_the_middle_of_imaging_has_rebooted() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { writing: true, .. }));
    assert!(matches!(b.boot_request("m0", false), BootAnswer::Refused(_)));
    assert_eq!(b.failures("m0").len(), 1);
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn the_machine_reboots_in_the_middle_of_imaging() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { writing: true, .. }));
    b.effects.clear(); // the work never ends
    b.lost("m0");
    b.board(&name("m0")).boots += 1;
    let params = b.boards[&name("m0")].params.clone().unwrap();
    let hello = b.hello_of(AgentKind::Boot, &params);
    assert!(b.refusal(hello).contains("already used"));
    assert_eq!(b.failures("m0"), ["agent: the machine booted again in the middle of its attempt"]);
    b.live(60_000);
    assert_eq!(b.status(id), "ready", "a second attempt writes it from the beginning");
}

#[test]
fn the_agent_goes_away_in_the_middle_of_imaging_for_good() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    b.effects.clear();
    b.lost("m0");
    b.pass(59_000);
    assert!(b.failures("m0").is_empty(), "it might have come back");
    b.pass(2_000);
    assert_eq!(b.failures("m0").len(), 1);
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
}

/// Its power is read, and nothing else is done.
fn is_looked_at(b: &Bench) -> bool {
    matches!(b.effects.iter().collect::<Vec<_>>()[..], [(_, Effect::Observe { .. })])
}

#[test]
fn a_cable_that_is_pulled_in_the_middle_of_imaging_is_the_agents_failure() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    b.effects.clear();
    b.lost("m0");
    assert!(is_looked_at(&b));
    b.read("m0", 0, Reading::Off);
    b.pass(61_000);
    assert_eq!(b.failures("m0"), ["power: the agent went away and did not come back; power reads off"]);
}

#[test]
fn a_tenants_cable_is_pulled_and_nobody_sees_it_or_somebody_acts() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.effects.clear();
    b.lost("m0");
    assert!(is_looked_at(&b));
    b.effects.clear();
    b.read("m0", 0, Reading::Off);
    assert_eq!(b.machine("m0").legs[0].seen.unwrap().reading, Reading::Off);
    b.pass(600_000);
    assert!(b.effects.is_empty(), "{:?}", b.effects);
    assert_eq!(b.status(id), "active");
}

#[test]
fn an_agent_that_comes_back_is_told_its_step_again_and_not_a_new_one() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    for phase in ["disk", "hand-over"] {
        b.obey_until("m0", |p| p.name() == phase && *p != Phase::HandOff);
        let step = b.machine("m0").turn().unwrap().attempt.as_ref().unwrap().step;
        b.effects.clear(); // it was told, and the connection broke first
        b.lost("m0");
        assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }));
        let again = b.machine("m0").turn().unwrap().attempt.as_ref().unwrap().step;
        // The seed's token was on its way: that step is said anew, with another.
        assert_eq!(again, if phase == "disk" { step } else { step + 1 });
    }
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert!(b.failures("m0").is_empty());
}

#[test]
fn a_result_that_arrives_twice_is_obeyed_twice() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    let seen = || Report::Done { step: 1, outcome: Outcome::Seen(Default::default()) };
    let before = b.records.len();
    b.report("m0", seen());
    b.report("m0", Report::Done { step: 9, outcome: Outcome::Seeded });
    assert_eq!(b.records.len(), before, "an old step, or one that was never told, moved the turn");
    b.obey();
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_late_result_of_an_earlier_attempt_is_obeyed() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    let agent = b.machine("m0").agent.clone().unwrap();
    b.boot_request("m0", false); // burned; the next attempt goes as far
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    let before = b.records.len();
    let report = Report::Done { step: 2, outcome: Outcome::Seeded };
    b.event(Event::Agent { machine: name("m0"), nonce: agent.nonce, boot_id: agent.boot_id, report });
    assert_eq!(b.records.len(), before);
}

#[test]
fn the_tenants_reboot_is_a_failure() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    let commands = b.count(|c| matches!(c, Change::PowerIntended { .. }));
    for _ in 0..6 {
        let before = b.boot_id("m0");
        b.tenant_reboots("m0");
        let agent = b.machine("m0").agent.clone().unwrap();
        assert!(agent.lost.is_none() && agent.boot_id != before, "the new boot was not let in");
    }
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert_eq!(
        b.count(|c| matches!(c, Change::PowerIntended { .. })),
        commands,
        "somebody else switched his power"
    );
    assert!(b.failures("m0").is_empty());
}

#[test]
fn the_same_boot_attaches_twice_with_its_rejoin_token() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    let mut params = b.boards[&name("m0")].seed.clone().unwrap();
    let spent = b.hello_of(AgentKind::Host, &params);
    assert!(b.refusal(spent).contains("already used"), "the seed's token opens the machine a second time");
    params.token = b.boards[&name("m0")].rejoin.clone().unwrap();
    let twice = b.hello_of(AgentKind::Host, &params);
    assert!(b.refusal(twice).contains("attached already"));
    let boot = with(b.hello_of(AgentKind::Boot, &params), |_, _, id| *id = "m0-77".into());
    assert!(b.refusal(boot).contains("not this hand-over's"));
}

#[test]
fn silence_in_use_ends_a_persons_reservation() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.lost("m0");
    b.pass(3_000_000);
    assert_eq!(b.status(id), "active");
}

#[test]
fn silence_in_use_is_borne_for_ever_where_it_was_asked_to_be_a_failure() {
    let mut b = Bench::new(&["m0"]);
    let mut asked = ask("", Want::Image);
    asked.agent_lost = Some(15_000);
    let id = b.hold("ci", asked);
    b.lost("m0");
    b.pass(14_000);
    assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }));
    b.pass(60_000);
    assert_eq!(b.status(id), "active", "it had come back");
    b.lost("m0");
    b.pass(15_000);
    assert!(matches!(b.end(id), End::Failed { .. }));
}

#[test]
fn an_image_that_reboots_while_power_settles_is_a_failure() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs[0].readback = false)]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| *p == Phase::Settle);
    b.tenant_reboots("m0");
    assert!(b.machine("m0").agent.as_ref().is_some_and(|a| a.lost.is_none()), "it was not let in again");
    b.live(120_000);
    assert_eq!(b.status(id), "ready");
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
}

#[test]
fn a_link_that_flaps_holds_a_machine_in_its_hand_over_for_ever() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", |p| *p == Phase::Seed);
    for _ in 0..200 {
        b.effects.clear(); // what it is told never arrives whole
        b.pass(1_000);
        if b.phase("m0") != Phase::Seed {
            return assert_eq!(b.failures("m0").len(), 1);
        }
        b.lost("m0");
        b.resume("m0");
    }
    panic!("still in its hand-over after 200 s");
}

#[test]
fn whoever_knows_a_machines_name_fills_the_history_or_keeps_its_agent_out() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    let params = booting(&mut b);
    let guess = with(b.hello_of(AgentKind::Boot, &params), |_, token, _| *token = Secret("guess".into()));
    let before = b.records.len();
    for _ in 0..500 {
        assert!(b.refusal(guess.clone()).contains("does not open"));
    }
    assert!(b.records.len() - before < 100, "{} records", b.records.len() - before);
    let welcome = b.attach(AgentKind::Boot, &params);
    assert!(matches!(welcome, Welcome::Accepted { .. }), "the real one is sent away: {welcome:?}");
}

#[test]
fn an_agent_that_comes_back_all_the_time_fills_the_history() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Image));
    let before = b.records.len();
    for _ in 0..500 {
        b.resume("m0");
    }
    assert!(b.records.len() - before < 100, "{} records", b.records.len() - before);
    let welcome = b.resume("m0");
    assert!(matches!(welcome, Welcome::Refused { retry: true, .. }), "{welcome:?}");
    b.pass(60_000);
    assert!(matches!(b.resume("m0"), Welcome::Accepted { .. }), "and for good");
}
