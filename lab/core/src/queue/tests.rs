//! Who is served next.

use super::*;
use crate::event::Request;
use crate::reservation::Ask;
use crate::step::tests::bench::{Bench, ask, name, role};
use crate::step::tests::spec;
use pitstop_wire::selector::Facts;

fn bare(select: &str) -> Ask {
    ask(select, Want::Bare)
}

fn two(select: &str) -> Ask {
    Ask { roles: vec![role("machine", select, 2)], ..bare(select) }
}

fn hold_all(b: &mut Bench, machines: &[&str]) -> Vec<ReservationId> {
    machines.iter().map(|m| b.hold("holder", bare(&format!("name={m}")))).collect()
}

#[test]
fn the_later_one_is_served_first() {
    let mut b = Bench::new(&["m0"]);
    let held = hold_all(&mut b, &["m0"]);
    let elder = b.reserve("ada", bare(""));
    let younger = b.reserve("bob", bare(""));
    b.release("holder", held[0]);
    b.obey();
    assert_eq!((b.status(elder), b.status(younger)), ("ready", "waiting"));
}

#[test]
fn priority_does_not_count() {
    let mut b = Bench::new(&["m0"]);
    let held = hold_all(&mut b, &["m0"]);
    let elder = b.reserve("ada", bare(""));
    let urgent = b.reserve("bob", Ask { priority: 5, ..bare("") });
    b.release("holder", held[0]);
    b.obey();
    assert_eq!((b.status(elder), b.status(urgent)), ("waiting", "ready"));
}

#[test]
fn a_later_one_waits_for_a_machine_that_the_elder_can_do_without() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = hold_all(&mut b, &["m0", "m1"]);
    let elder = b.reserve("ada", bare("name=m0"));
    let younger = b.reserve("bob", bare(""));
    b.release("holder", held[1]);
    b.obey();
    assert_eq!((b.status(elder), b.status(younger)), ("waiting", "ready"));
}

#[test]
fn the_elder_takes_the_only_machine_that_the_younger_can_use() {
    let mut b = Bench::new(&["m9"]);
    b.reload(|i| i.machines.extend(["m0", "m1"].map(|m| (name(m), spec(m)))));
    let wide = b.reserve("ada", bare("name=m0,m1"));
    let narrow = b.reserve("bob", bare("name=m0"));
    // Both come free in one step.
    b.ok("admin", Request::Enrol { select: "".parse().unwrap(), listed: vec![name("m0"), name("m1")] });
    b.obey();
    assert_eq!((b.status(wide), b.status(narrow)), ("ready", "ready"));
    assert_eq!((b.members(wide), b.members(narrow)), (vec!["m1".to_owned()], vec!["m0".to_owned()]));
}

#[test]
fn half_of_a_pair_is_handed_over() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = hold_all(&mut b, &["m1"]);
    let pair = b.reserve("ada", two(""));
    b.obey();
    assert_eq!(b.status(pair), "waiting");
    assert!(b.members(pair).is_empty());
    b.release("holder", held[0]);
    b.obey();
    assert_eq!(b.status(pair), "ready");
    assert_eq!(b.members(pair), ["m0", "m1"]);
}

#[test]
fn a_pair_starves_behind_a_stream_of_single_ones() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = hold_all(&mut b, &["m0", "m1"]);
    let pair = b.reserve("ada", two(""));
    b.release("holder", held[0]);
    b.obey();
    for _ in 0..5 {
        let single = b.reserve("bob", bare(""));
        b.obey();
        assert_eq!(b.status(single), "waiting", "m0 is the elder's, who waits for m1");
    }
    b.release("holder", held[1]);
    b.obey();
    assert_eq!(b.status(pair), "ready");
}

#[test]
fn two_pairs_hold_one_machine_each() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = hold_all(&mut b, &["m0", "m1"]);
    let first = b.reserve("ada", two(""));
    let second = b.reserve("bob", two(""));
    for id in held {
        b.release("holder", id);
    }
    b.obey();
    assert_eq!((b.status(first), b.status(second)), ("ready", "waiting"));
    b.release("ada", first);
    b.obey();
    assert_eq!(b.status(second), "ready");
}

#[test]
fn a_pair_that_nobody_can_serve_now_keeps_the_rest_idle() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.ok("admin", Request::Drain { machine: name("m1"), reason: "fan".into() });
    let pair = b.reserve("ada", two(""));
    let single = b.reserve("bob", bare(""));
    b.obey();
    assert_eq!((b.status(pair), b.status(single)), ("waiting", "ready"));
    b.ok("admin", Request::Undrain(name("m1")));
    let late = b.reserve("eve", bare(""));
    b.obey();
    assert_eq!(b.status(late), "waiting", "from now on m1 is kept for the pair");
    b.release("bob", single);
    b.obey();
    assert_eq!(b.status(pair), "ready");
}

#[test]
fn roles_get_each_others_machines() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    let roles = vec![role("any", "", 2), role("one", "name=m0", 1)];
    let id = b.reserve("ada", Ask { roles, ..bare("") });
    b.obey();
    assert_eq!(b.status(id), "ready");
    let row = b.row(id);
    let one = row.members.iter().find(|m| m.role == 1).unwrap();
    assert_eq!(one.machine, name("m0"));
}

#[test]
fn a_pair_is_ready_when_its_first_machine_is() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.board(&name("m1")).dead = true;
    let id = b.reserve("ada", two(""));
    b.obey();
    assert_eq!(b.state("m0"), "ready");
    assert_eq!(b.status(id), "preparing");
    assert!(b.request("ada", Request::Claim(id)).is_err());
    let power = Request::Power { machine: name("m0"), action: crate::event::PowerAction::On, force: None };
    assert!(b.request("ada", power).is_err(), "half of it was taken");
}

#[test]
fn the_place_of_a_failed_member_is_kept_for_a_younger_one() {
    let mut b = Bench::new(&["m0", "m1", "m2", "m3"]);
    let held = hold_all(&mut b, &["m2", "m3"]);
    b.board(&name("m1")).dead = true;
    let elder = b.reserve("ada", two(""));
    assert_eq!(b.members(elder), ["m0", "m1"]);
    let younger = b.reserve("bob", two("name=m2,m3"));
    b.release("holder", held[0]);
    b.live(300_000);
    assert_eq!(b.members(elder), ["m0", "m2"], "a younger one that waits for m3 kept m2");
    assert_eq!((b.status(elder), b.status(younger)), ("ready", "waiting"));
}

#[test]
fn the_place_of_a_failed_member_is_taken_from_an_elder() {
    let mut b = Bench::new(&["m0", "m1", "m2", "m3"]);
    let held = hold_all(&mut b, &["m2", "m3"]);
    b.board(&name("m1")).dead = true;
    let elder = b.reserve("ada", two("name=m2,m3"));
    let younger = b.reserve("bob", two(""));
    assert_eq!(b.members(younger), ["m0", "m1"]);
    b.release("holder", held[0]);
    b.live(300_000);
    assert_eq!(b.status(younger), "waiting", "m2 is kept for the elder");
    assert_eq!(b.status(elder), "waiting");
    b.release("holder", held[1]);
    b.obey();
    assert_eq!(b.status(elder), "ready");
}

#[test]
fn kept_machines_are_not_explained() {
    let mut b = Bench::new(&["m0", "m1"]);
    hold_all(&mut b, &["m1"]);
    let pair = b.reserve("ada", two(""));
    let single = b.reserve("bob", bare(""));
    assert_eq!(b.lab.kept_for_elders(single), [(name("m0"), pair)].into());
    let why = b.lab.why_reservation(single, b.lab.meta().now).unwrap();
    assert!(
        why.reasons.iter().any(|r| r.text == format!("m0 is kept for {pair}, which is before")),
        "{why:?}"
    );
}

#[test]
fn a_selector_sees_something_else_than_people() {
    let mut b = Bench::new(&["m0", "m1"]);
    hold_all(&mut b, &["m0"]);
    let (machine, spec) = (b.machine("m0"), &b.inventory.machines[&name("m0")]);
    let facts = b.lab.facts(&machine, spec);
    let special = |key| facts.special(key).map(Cow::into_owned);
    assert_eq!(special("state").as_deref(), Some("in-use"));
    assert_eq!(special("holder").as_deref(), Some("holder"));
    assert_eq!(special("clean").as_deref(), Some("used"));
    assert_eq!(special("health").as_deref(), Some("good"));
    assert_eq!(special("nonsense"), None);
}

#[test]
fn everybody_is_served_in_the_end_and_in_order() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    let asks = |n: u64| match n % 3 {
        0 => bare(""),
        1 => two(""),
        _ => bare("name=m1"),
    };
    let mut open: Vec<ReservationId> = (0..18).map(|n| b.reserve("ada", asks(n))).collect();
    for _ in 0..60 {
        b.obey();
        let Some(done) = open.iter().position(|id| b.status(*id) == "ready") else { break };
        let id = open.remove(done);
        b.release("ada", id);
    }
    b.obey();
    assert!(open.is_empty(), "{} are never served", open.len());
}

#[test]
fn an_elder_that_gives_up_still_keeps_the_machine_it_waited_with() {
    let mut b = Bench::new(&["m0", "m1"]);
    let held = b.hold("holder", bare("name=m1"));
    let elder = b.reserve("ada", two(""));
    let younger = b.reserve("bob", bare("name=m0"));
    assert_eq!(b.status(younger), "waiting", "the elder keeps it");
    b.release("ada", elder);
    b.obey();
    assert_eq!(b.status(younger), "ready");
    let _ = held;
}
