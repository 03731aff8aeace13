//! What keeps a reservation alive, and how it ends.

use super::bench::{Bench, ask, caller, name};
use super::spec_with;
use crate::event::{Event, Request};
use crate::id::ReservationId;
use crate::inventory::model::{Extend, Inventory, Lease, Policy};
use crate::machine::Phase;
use crate::reservation::{Ask, End, Hold, Want};
use pitstop_wire::Code;

const SILENCE: u64 = 20_000;

fn session(want: Want) -> Ask {
    Ask { hold: Hold::Session { silence: SILENCE }, limit: None, ..ask("", want) }
}

#[test]
fn a_session_is_held_by_a_client_that_died() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ci", session(Want::Bare));
    b.pass(SILENCE - 1);
    assert_eq!(b.status(id), "active");
    b.pass(1);
    assert_eq!(b.end(id), End::Lost);
    b.obey();
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_session_that_beats_is_lost() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ci", session(Want::Bare));
    let before = b.records.len();
    for _ in 0..50 {
        b.pass(SILENCE - 1);
        b.ok("ci", Request::Beat(id));
    }
    assert_eq!(b.status(id), "active");
    assert_eq!(b.records.len(), before, "beats fill the history");
    assert_eq!(b.refused("eve", Request::Beat(id)), Code::Held, "anybody can keep it alive");
}

#[test]
fn a_beat_that_arrived_with_the_deadline_is_judged_after_it() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ci", session(Want::Bare));
    b.now += SILENCE; // both are due: the beat is taken first
    b.ok("ci", Request::Beat(id));
    b.event(Event::Tick);
    assert_eq!(b.status(id), "active");
}

#[test]
fn a_session_waits_in_the_queue_without_a_client() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    let id = b.reserve("ci", session(Want::Bare));
    b.pass(SILENCE);
    assert_eq!(b.end(id), End::Lost);
}

#[test]
fn silence_while_the_loop_stood_still_counts() {
    let mut b = Bench::new(&["m0", "m1"]);
    let id = b.hold("ci", session(Want::Bare));
    let turn = b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m1", |p| *p == Phase::BootAgent);
    b.obey_until("m1", |p| matches!(p, Phase::Disk { .. }));
    let deadline = b.machine("m1").turn().unwrap().deadline;
    b.now += 400_000;
    b.event(Event::Gap(400_000));
    b.event(Event::Tick);
    assert_eq!(b.status(id), "active");
    assert_eq!(b.machine("m1").turn().unwrap().deadline, deadline + 400_000);
    assert!(b.failures("m1").is_empty());
    b.obey();
    assert_eq!(b.status(turn), "ready");
    b.pass(SILENCE);
    assert_eq!(b.end(id), End::Lost, "after the gap silence is silence again");
}

#[test]
fn an_agents_silence_while_the_loop_stood_still_counts() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ci", Ask { agent_lost: Some(15_000), ..ask("", Want::Image) });
    b.lost("m0");
    b.pass(5_000);
    b.now += 60_000;
    b.event(Event::Gap(60_000));
    b.event(Event::Tick);
    assert_eq!(b.status(id), "active", "nobody could have heard it come back");
    b.pass(16_000);
    assert_eq!(b.status(id), "ended");
}

#[test]
fn a_time_reservation_is_held_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.pass(9_000);
    b.obey();
    let ends = b.row(id).ends.unwrap();
    assert_eq!(ends.0, b.now + 3_600_000, "its time began before it had a machine");
    b.ok("ada", Request::Claim(id));
    b.pass(3_599_999);
    assert_eq!(b.status(id), "active");
    b.pass(1);
    assert_eq!(b.end(id), End::Expired);
    assert_eq!(b.refused("ada", Request::Beat(id)), Code::Conflict);
}

#[test]
fn an_extension_does_not_extend() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    let extend = |more| Request::Extend { reservation: id, more: Some(more) };
    b.pass(3_000_000);
    b.ok("ada", extend(3_600_000));
    b.pass(3_500_000);
    assert_eq!(b.status(id), "active");
    assert_eq!(b.refused("ada", extend(1_000)), Code::Conflict, "an extension that shortens");
    b.pass(100_000);
    assert_eq!(b.end(id), End::Expired);
    assert_eq!(b.refused("ada", extend(1)), Code::Conflict, "what has ended comes back");
    let waiting = b.reserve("ada", ask("", Want::Bare));
    assert_eq!(b.refused("ada", Request::Extend { reservation: waiting, more: Some(1) }), Code::Conflict);
    assert_eq!(b.refused("eve", Request::Extend { reservation: waiting, more: Some(1) }), Code::Held);
}

fn leased(extend: Extend) -> Bench {
    let mut inventory = Inventory::default();
    for machine in ["m0", "m1"] {
        let spec = spec_with(machine, |_| ());
        inventory.machines.insert(spec.name.clone(), spec);
    }
    let lease = Lease { default_ms: 3_600_000, max_ms: 7_200_000, extend };
    inventory.policies.insert("person".into(), Policy { lease: Some(lease), ..Policy::default() });
    Bench::with(inventory)
}

#[test]
fn an_extension_is_given_while_somebody_waits() {
    let mut b = leased(Extend::WhileNobodyWaits);
    let id = b.hold("ada", ask("name=m0", Want::Bare));
    let extend = |more| Request::Extend { reservation: id, more: Some(more) };
    b.ok("ada", extend(7_000_000));
    b.reserve("bob", ask("name=m0", Want::Bare));
    b.pass(1);
    assert_eq!(b.refused("ada", extend(7_000_000)), Code::NotAllowed);
}

#[test]
fn an_extension_is_refused_because_somebody_waits_for_another_machine() {
    let mut b = leased(Extend::WhileNobodyWaits);
    let id = b.hold("ada", ask("name=m0", Want::Bare));
    b.hold("bob", ask("name=m1", Want::Bare));
    b.reserve("eve", ask("name=m1", Want::Bare));
    b.ok("ada", Request::Extend { reservation: id, more: Some(7_000_000) });
}

#[test]
fn many_extensions_last_longer_than_the_policy_allows_in_all() {
    let mut b = leased(Extend::Always);
    let id = b.hold("ada", ask("name=m0", Want::Bare));
    let extend = |more| Request::Extend { reservation: id, more: Some(more) };
    assert_eq!(b.refused("ada", extend(7_200_001)), Code::NotAllowed);
    b.pass(3_500_000);
    b.ok("ada", extend(3_600_000));
    assert_eq!(b.refused("ada", extend(3_800_000)), Code::NotAllowed, "7,300 s in all");
    b.pass(3_500_000);
    b.ok("ada", extend(150_000));
    assert_eq!(b.refused("ada", extend(600_000)), Code::NotAllowed);
    assert_eq!(b.refused("ada", Request::Extend { reservation: id, more: None }), Code::NotAllowed);
}

#[test]
fn the_policy_is_asked_only_at_an_extension() {
    let mut b = leased(Extend::Always);
    let unsaid = b.hold("ada", Ask { limit: None, ..ask("name=m0", Want::Bare) });
    assert_eq!(b.lab.reservations[&unsaid].ask.limit, Some(3_600_000), "the policy's default");
    let long = Ask { limit: Some(7_200_001), ..ask("", Want::Bare) };
    let request = Request::Reserve { ask: Box::new(long), image: None };
    assert_eq!(b.refused("ada", request), Code::NotAllowed, "longer than the policy says");
    let mut free = Bench::new(&["m0"]);
    let unsaid = free.hold("ada", Ask { limit: None, ..ask("", Want::Bare) });
    assert_eq!(free.lab.reservations[&unsaid].ask.limit, Some(Lease::DEFAULT_MS), "held for ever");
}

#[test]
fn an_extension_is_given_where_the_policy_says_never() {
    let mut b = leased(Extend::Never);
    let id = b.hold("ada", ask("", Want::Bare));
    assert_eq!(
        b.refused("ada", Request::Extend { reservation: id, more: Some(7_200_000) }),
        Code::NotAllowed
    );
}

#[test]
fn a_ready_machine_is_kept_for_one_who_never_comes() {
    let mut b = Bench::of([spec_with("m0", |s| s.limits.claim_ms = 60_000)]);
    let id = b.reserve("ada", ask("", Want::Image));
    let next = b.reserve("bob", ask("", Want::Image));
    b.obey();
    assert_eq!(b.status(id), "ready");
    b.pass(60_000);
    assert_eq!(b.end(id), End::Unclaimed);
    b.obey();
    assert_eq!(b.status(next), "ready");
    assert_eq!(b.refused("ada", Request::Claim(id)), Code::Conflict);
}

#[test]
fn patience_is_endless() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    let waits = b.reserve("bob", Ask { patience: Some(60_000), ..ask("", Want::Bare) });
    b.pass(60_000);
    assert_eq!(b.end(waits), End::TimedOut);

    let mut b = Bench::new(&["m0"]);
    let prepares = b.reserve("bob", Ask { patience: Some(60_000), ..ask("", Want::Bare) });
    b.board(&name("m0")).dead = true;
    b.obey();
    b.pass(60_000);
    assert_eq!(b.end(prepares), End::TimedOut);

    let mut b = Bench::new(&["m0"]);
    let served = b.reserve("bob", Ask { patience: Some(60_000), ..ask("", Want::Bare) });
    b.obey();
    b.pass(120_000);
    assert_eq!(b.status(served), "ready", "it had what it waited for");
}

fn release(id: ReservationId, force: Option<&str>) -> Request {
    Request::Release { reservation: id, force: force.map(str::to_owned) }
}

#[test]
fn a_second_release_is_an_error_or_ends_somebody_elses() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    let first = b.ok("ada", release(id, None));
    b.obey();
    let next = b.hold("bob", ask("", Want::Bare));
    let records = b.records.len();
    assert_eq!(b.ok("ada", release(id, None)), first, "the answer may have been lost");
    assert_eq!(b.records.len(), records);
    assert_eq!(b.in_use_by("m0"), Some(next));
}

#[test]
fn a_stranger_releases() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    assert_eq!(b.refused("eve", release(id, None)), Code::Held);
    assert_eq!(b.refused("eve", release(id, Some("I want it"))), Code::Held);
    assert_eq!(b.refused("admin", release(id, None)), Code::Held, "an admin needs a reason");
    assert_eq!(b.refused("admin", release(id, Some("  "))), Code::Held);
    b.ok("admin", release(id, Some("fire drill")));
    assert_eq!(b.end(id), End::Released { by: "admin (fire drill)".into() });
    assert_eq!(
        b.request_by(caller("ada"), release(ReservationId(99), None)).unwrap_err().code,
        Code::NotFound
    );
}

#[test]
fn a_waiting_reservation_cannot_be_released() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    let id = b.reserve("bob", ask("", Want::Bare));
    b.release("bob", id);
    assert_eq!(b.lab.queue().count(), 0);
    assert!(matches!(b.end(id), End::Released { .. }));
}

#[test]
fn a_claim_before_it_is_ready_is_a_claim() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    assert_eq!(b.refused("ada", Request::Claim(id)), Code::Conflict);
    b.obey();
    assert_eq!(b.refused("eve", Request::Claim(id)), Code::Held);
    b.ok("ada", Request::Claim(id));
    b.ok("ada", Request::Claim(id)); // the first answer may have been lost
    assert_eq!(b.in_use_by("m0"), Some(id));
}
