//! A request said twice, and requests that make no sense.

use super::bench::{Bench, Reply, ask, caller, role};
use crate::event::{Caller, Request};
use crate::id::SecretHash;
use crate::inventory::model::{DriverSpec, MachineSpec};
use crate::reservation::{Ask, CleanLevel, Hold, Want};
use crate::step::ENDED_KEPT;
use pitstop_wire::Code;

use super::spec_with;

fn keyed(user: &str, key: &str, body: &str) -> Caller {
    Caller { key: Some((key.into(), SecretHash::of(body))), ..caller(user) }
}

fn reserve(select: &str) -> Request {
    Request::Reserve { ask: Box::new(ask(select, Want::Bare)), image: None }
}

fn code(reply: Reply) -> Code {
    reply.unwrap_err().code
}

#[test]
fn a_request_said_twice_is_done_twice() {
    let mut b = Bench::new(&["m0", "m1"]);
    let first = b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap();
    let records = b.records.len();
    assert_eq!(b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap(), first);
    b.restart();
    assert_eq!(
        b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap(),
        first,
        "forgotten by a restart"
    );
    assert_eq!(b.lab.reservations().len(), 1);
    assert!(b.records.len() > records);
}

#[test]
fn a_key_answers_another_request_or_another_person() {
    let mut b = Bench::new(&["m0", "m1"]);
    let first = b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap();
    assert_eq!(code(b.request_by(keyed("ada", "k", "else"), reserve("name=m1"))), Code::KeyReused);
    let other = b.request_by(keyed("bob", "k", "body"), reserve("")).unwrap();
    assert_ne!(first, other);
}

#[test]
fn a_refusal_is_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    let claim = || Request::Claim(id);
    assert_eq!(code(b.request_by(keyed("ada", "k", "claim"), claim())), Code::Conflict);
    b.obey();
    b.request_by(keyed("ada", "k", "claim"), claim()).unwrap();
}

#[test]
fn an_answer_from_before_a_release_is_given_out_as_news() {
    let mut b = Bench::new(&["m0"]);
    let first = b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap();
    let id = first["reservation"].as_str().unwrap().parse().unwrap();
    b.release("ada", id);
    b.live(60_000);
    assert_eq!(
        b.request_by(keyed("ada", "k", "body"), reserve("")).unwrap(),
        first,
        "it says what it did, not more"
    );
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn what_no_machine_can_ever_serve_waits_for_ever() {
    let mut b =
        Bench::of([spec_with("m0", |s| drop(s.tags.insert("soc".into(), "imx8".into()))), super::spec("m1")]);
    let none = b.request("ada", reserve("soc=imx9")).unwrap_err();
    assert_eq!(none.code, Code::NotFound);
    assert!(none.hint.unwrap().contains("m0 would do"));
    let many = Ask { roles: vec![role("machine", "", 3)], ..ask("", Want::Bare) };
    let reply = b.request("ada", Request::Reserve { ask: Box::new(many), image: None });
    assert!(reply.unwrap_err().message.contains("only 2 of 3"));
    // Each role alone could be served, both together cannot.
    let both = vec![role("dut", "soc=imx8", 1), role("peer", "soc=imx8", 1)];
    let both = Ask { roles: both, ..ask("", Want::Bare) };
    assert_eq!(b.refused("ada", Request::Reserve { ask: Box::new(both), image: None }), Code::NotFound);
    assert_eq!(b.lab.reservations().len(), 0);
}

#[test]
fn a_machine_that_is_used_now_is_taken_for_one_that_can_never_be_clean() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    for select in ["clean=proven", "state=free", "state!=in-use holder!=ada", "health=good clean=proven"] {
        let waits = b.reserve("bob", ask(select, Want::Bare));
        assert_eq!(b.status(waits), "waiting", "{select}");
        b.release("bob", waits);
    }
    let waits = b.reserve("bob", ask("clean=proven", Want::Bare));
    b.release("ada", id);
    b.obey();
    assert_eq!(b.status(waits), "ready");
}

#[test]
fn a_nonsensical_request_is_queued() {
    let mut b = Bench::new(&["m0"]);
    let usage =
        |b: &mut Bench, ask: Ask| b.refused("ada", Request::Reserve { ask: Box::new(ask), image: None });
    let none = Ask { roles: vec![], ..ask("", Want::Bare) };
    assert_eq!(usage(&mut b, none), Code::Usage);
    let zero = Ask { roles: vec![role("a", "", 1), role("b", "", 0)], ..ask("", Want::Bare) };
    assert_eq!(usage(&mut b, zero), Code::Usage);
    for silence in [0, 999, 3_600_001, u64::MAX] {
        let asked = Ask { hold: Hold::Session { silence }, ..ask("", Want::Bare) };
        assert_eq!(usage(&mut b, asked), Code::Usage, "{silence}");
    }
    let urgent = Ask { priority: 51, ..ask("", Want::Bare) };
    assert_eq!(usage(&mut b, urgent), Code::NotAllowed);
    let huge = Ask { roles: vec![role("a", "", u32::MAX), role("b", "", u32::MAX)], ..ask("", Want::Bare) };
    assert_eq!(usage(&mut b, huge), Code::Usage);
    assert_eq!(b.lab.reservations().len(), 0);
}

#[test]
fn want_agent_is_promised_where_no_agent_runs() {
    let mut b = Bench::of([spec_with("m0", |s| s.ready = DriverSpec::named("power"))]);
    let asked = Request::Reserve { ask: Box::new(ask("", Want::Agent)), image: None };
    assert_eq!(b.refused("ada", asked), Code::NotFound);
    let proven = Request::Reserve { ask: Box::new(ask("", Want::Bare)), image: None };
    assert_eq!(b.refused("ada", proven), Code::NotFound, "nobody can prove its disk");
}

#[test]
fn an_image_is_promised_where_nobody_can_write_it() {
    let bare = |m: &mut MachineSpec| {
        m.ready = DriverSpec::named("power");
        m.disks.clear();
    };
    let mut b = Bench::of([spec_with("m0", bare), spec_with("m1", |m| m.disks.clear())]);
    for want in [Want::Bare, Want::Agent, Want::Image] {
        let asked = Ask { clean: CleanLevel::Any, ..ask("", want) };
        let asked = Request::Reserve { ask: Box::new(asked), image: Some("debian".into()) };
        let error = b.request("ada", asked).unwrap_err();
        assert_eq!(error.code, Code::NotFound, "{want:?}");
        assert!(error.message.contains("can be given an image"), "{}", error.message);
    }
    b.ok("ada", reserve(""));
}

#[test]
fn ended_reservations_fill_the_memory() {
    let mut b = Bench::new(&["m0"]);
    let holder = b.hold("ada", ask("", Want::Bare));
    let moment = crate::event::Moment {
        now: crate::time::LabTime(b.now),
        wall: 0,
        entropy: crate::id::Entropy([1; 32]),
    };
    // Straight to the core: the bench compares all rows after each step.
    for n in 0..ENDED_KEPT as u64 + 10 {
        let asked = Box::new(ask("", Want::Bare));
        b.lab.step(
            &moment,
            crate::event::Event::Request(caller("bob"), Request::Reserve { ask: asked, image: None }),
        );
        let reservation = crate::id::ReservationId(holder.0 + n + 1);
        let release = Request::Release { reservation, force: None };
        b.lab.step(&moment, crate::event::Event::Request(caller("bob"), release));
    }
    assert_eq!(b.lab.reservations().len(), ENDED_KEPT + 1);
    assert_eq!(b.status(holder), "active", "one that has not ended was forgotten");
}

#[test]
fn who_asks_for_a_proven_machine_waits_for_a_proof_that_only_he_would_cause() {
    let mut b = Bench::new(&["m0"]);
    assert_eq!(b.machine("m0").clean(), "unknown");
    let id = b.reserve("ada", ask("clean=proven", Want::Bare));
    b.obey();
    assert_eq!(b.status(id), "ready");
    // And who accepts nothing less cannot ask for something else.
    assert_eq!(b.refused("ada", reserve("clean=used")), Code::NotFound);
}
