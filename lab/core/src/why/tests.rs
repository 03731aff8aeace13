//! What people are told.

use super::*;
use crate::event::{Event, PowerAction, Report, Request};
use crate::reservation::{Ask, Want};
use crate::step::tests::bench::{Bench, ask, name, role};
use pitstop_wire::Code;

fn lines(why: &Why) -> Vec<String> {
    let next = |r: &Reason| r.next.as_ref().map(|n| format!(" -> {n}")).unwrap_or_default();
    why.reasons.iter().map(|r| format!("{}{}", r.text, next(r))).collect()
}

fn of_machine(b: &Bench, machine: &str) -> Vec<String> {
    lines(&b.lab.why_machine(&name(machine), LabTime(b.now)).unwrap())
}

fn of(b: &Bench, id: ReservationId) -> Why {
    b.lab.why_reservation(id, LabTime(b.now)).unwrap()
}

/// The holder's agent loses its connection.
fn lose(b: &mut Bench, machine: &str) {
    let agent = b.machine(machine).agent.clone().expect("no agent attached");
    let (nonce, boot_id) = (agent.nonce, agent.boot_id);
    b.event(Event::Agent { machine: name(machine), nonce, boot_id, report: Report::Lost });
}

#[test]
fn a_silent_agent_is_not_mentioned_or_nothing_helps() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("m0", Want::Agent));
    assert!(!of_machine(&b, "m0").iter().any(|l| l.contains("agent")), "it is connected");
    lose(&mut b, "m0");
    b.pass(90_000);
    let said = of_machine(&b, "m0");
    let want = "its boot agent is not connected since 90s ago; a fresh start gives it back, and erases the disks \
                -> pitstop reimage m0";
    assert!(said.iter().any(|l| l == want), "{said:#?}");
}

#[test]
fn an_agent_is_missed_whose_machine_the_holder_switched_off() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", Ask { image: None, ..ask("m0", Want::Agent) });
    lose(&mut b, "m0");
    b.ok("ada", Request::Power { machine: name("m0"), action: PowerAction::Off, force: None });
    b.live(1);
    let said = of_machine(&b, "m0");
    assert!(said.iter().any(|l| l.contains("power is off") && l.contains("reimage m0")), "{said:#?}");
    assert!(said.iter().any(|l| l.starts_with("power: off ")), "not `power leg power:`: {said:#?}");
}

#[test]
fn what_keeps_a_reservation_waiting_is_not_said_first() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.hold("ada", ask("m2", Want::Bare));
    let two = b.reserve("bob", Ask { roles: vec![role("machine", "name=m1,m2", 2)], ..ask("", Want::Bare) });
    let said = lines(&of(&b, two));
    assert_eq!(said[0], "2 of 3 machines match `name=m1,m2`");
    assert!(said[1].starts_with("m2 is held by ada (R-1"), "m1 is free, and no reason to wait: {said:#?}");
    let all = b.reserve("bob", Ask { roles: vec![role("machine", "", 3)], ..ask("", Want::Bare) });
    let said = lines(&of(&b, all));
    assert!(said[1].starts_with("m0 was drained by admin"), "held ones come back by themselves: {said:#?}");
    let one = b.reserve("bob", ask("m2", Want::Bare));
    assert_eq!(lines(&of(&b, one))[0], "1 of 3 machines matches `m2`");
}

#[test]
fn a_reservation_given_up_is_told_as_released() {
    let mut b = Bench::new(&["m0"]);
    let held = b.hold("ada", ask("m0", Want::Bare));
    let waits = b.reserve("bob", ask("m0", Want::Bare));
    b.release("bob", waits);
    b.release("ada", held);
    assert!(of(&b, waits).summary.ends_with("cancelled by bob"), "{}", of(&b, waits).summary);
    assert!(of(&b, held).summary.ends_with("released by ada"), "{}", of(&b, held).summary);
}

/// Why an ask is refused, and the hint.
fn refused(b: &mut Bench, ask: Ask) -> (String, String) {
    let error = b.request("ada", Request::Reserve { ask: Box::new(ask), image: None }).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    (error.message, error.hint.unwrap_or_default())
}

#[test]
fn a_missing_image_is_told_as_a_missing_machine() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.reload(|i| i.machines.values_mut().for_each(|m| m.image = None));
    let (what, hint) = refused(&mut b, ask("name=m0,m1", Want::Image));
    assert_eq!(what, "2 machines match `name=m0,m1`, but none of them has an image of its own");
    assert!(hint.contains("--image NAME"), "{hint}");
}

#[test]
fn one_machine_is_offered_where_several_are_missing() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    let ask = |select, n| Ask { roles: vec![role("machine", select, n)], ..ask("", Want::Bare) };
    let (what, hint) = refused(&mut b, ask("name=m0,m1", 3));
    assert_eq!(
        (what.as_str(), hint.as_str()),
        ("only 2 of 3 machines match `name=m0,m1`", "without name=m0,m1: 1 more would do")
    );
    let (what, hint) = refused(&mut b, ask("name=m0,m1", 500));
    assert_eq!(
        (what.as_str(), hint.as_str()),
        ("only 2 of 500 machines match `name=m0,m1`", "ask for at most 2")
    );
}

/// Each line is one of what is said.
fn says(said: &[String], lines: &[&str]) {
    for line in lines {
        assert!(said.iter().any(|s| s.starts_with(line)), "not `{line}`, but {said:#?}");
    }
}

#[test]
fn a_wait_is_told_without_its_limit_or_what_to_do() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("m0", Want::Agent));
    b.pass(7_000);
    let phase = "m0 is being prepared: off for 7s, limit in 53s";
    says(
        &of_machine(&b, "m0"),
        &[phase, "the limit timeout.power is the default", "held by ada (R-1) -> pitstop show R-1"],
    );
    says(&lines(&of(&b, id)), &["m0 is being prepared: off for 7s, limit in 53s -> pitstop why m0"]);
    let waits = b.reserve("bob", ask("m0", Want::Bare));
    says(
        &lines(&of(&b, waits)),
        &["m0 is held by ada (R-1) -> pitstop show R-1", "place 1 of 1 in the queue"],
    );
    b.live(60_000);
    assert!(of(&b, id).summary.starts_with("R-1 is ready for ada, and kept "), "{}", of(&b, id).summary);
    says(&lines(&of(&b, id)), &["its holder takes it by using it -> pitstop reserve --resume R-1"]);
    b.ok("ada", Request::Claim(id));
    assert!(of(&b, id).summary.starts_with("R-1 is in use by ada, "), "{}", of(&b, id).summary);
    b.release("ada", id);
    says(&of_machine(&b, "m0"), &["m0 is being cleaned: off for 0s (usually 7s), limit in 60s"]);
    says(&lines(&of(&b, waits)), &["m0 is being cleaned: off for 0s (usually 7s), limit in 60s"]);
}

#[test]
fn a_machine_out_of_use_is_told_as_one_that_is_busy() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.ok("admin", Request::Drain { machine: name("m1"), reason: "fan".into() });
    b.boards.get_mut(&name("m0")).unwrap().dead = true;
    let id = b.reserve("ada", ask("name=m0,m1", Want::Agent));
    b.live(3_600_000);
    assert_eq!(b.state("m0"), "quarantined");
    says(&of_machine(&b, "m0"), &["quarantined ", "it is proven by itself in "]);
    says(&of_machine(&b, "m1"), &["drained by admin 60m ago: \"fan\" -> pitstop admin undrain m1"]);
    says(&lines(&of(&b, id)), &["m0 is quarantined: ", "m1 was drained by admin "]);
    b.reload(|i| drop(i.machines.insert(name("m2"), crate::step::tests::spec("m2"))));
    says(&of_machine(&b, "m2"), &["new: nobody has enrolled it -> pitstop admin enrol name=m2"]);
}
