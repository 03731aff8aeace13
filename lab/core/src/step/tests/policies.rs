//! When the proof is made, and what a clean machine does meanwhile.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::event::Request;
use crate::inventory::model::{AfterBuild, Idle, MachineSpec};
use crate::machine::{Phase, Stage};
use crate::reservation::{Ask, CleanLevel, Want};

fn lab(change: impl FnOnce(&mut MachineSpec)) -> Bench {
    Bench::of([spec_with("m0", change)])
}

fn warm_lab() -> Bench {
    let mut b = lab(|s| s.idle = Some(Idle::Warm { max_age_ms: 600_000 }));
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.obey();
    assert!(matches!(b.machine("m0").stage, Stage::Ready { reservation: None, .. }));
    b
}

fn any(want: Want) -> Ask {
    Ask { clean: CleanLevel::Any, ..ask("", want) }
}

fn keep(s: &mut MachineSpec) {
    (s.after_build, s.shared) = (Some(AfterBuild::Keep), true);
}

#[test]
fn power_off_reimages_at_once_or_never() {
    let mut b = lab(|s| s.after_build = Some(AfterBuild::PowerOff));
    let id = b.hold("ada", ask("", Want::Image));
    let attempts = b.machine("m0").attempts;
    b.release("ada", id);
    b.obey();
    assert_eq!(b.state("m0"), "free");
    assert_eq!(b.machine("m0").attempts, attempts, "nobody needs it now");
    assert_eq!(b.machine("m0").clean(), "used");
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.status(next), "ready");
    assert!(b.machine("m0").all_proven());
}

#[test]
fn keep_is_kept_from_one_who_takes_it_or_given_to_one_who_does_not() {
    let mut b = lab(keep);
    let first = b.hold("ada", any(Want::Image));
    b.board(&name("m0")).disks[0] = Some(Some("his bytes".into()));
    b.release("ada", first);
    b.obey();
    assert_eq!(b.state("m0"), "free");
    let second = b.hold("bob", any(Want::Image));
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("his bytes".to_owned()))], "it was to be kept");
    b.release("bob", second);
    let strict = b.reserve("eve", ask("", Want::Image));
    b.obey();
    assert_eq!(b.status(strict), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned()))]);
}

#[test]
fn keep_without_shared_is_obeyed() {
    let mut b = lab(|s| s.after_build = Some(AfterBuild::Keep));
    let id = b.hold("ada", any(Want::Image));
    b.release("ada", id);
    b.obey();
    assert!(b.machine("m0").all_proven());
}

#[test]
fn keep_boots_another_image_than_the_one_asked_for() {
    let mut b = lab(keep);
    let first = b.hold("ada", any(Want::Image));
    b.release("ada", first);
    b.obey();
    let next = b.reserve_image("bob", any(Want::Image), Some("yocto"));
    b.obey();
    assert_eq!(b.status(next), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:yocto".to_owned()))]);
}

#[test]
fn keep_boots_a_disk_that_never_held_an_image() {
    let mut b = lab(keep);
    let id = b.reserve("ada", any(Want::Image));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned()))]);
}

#[test]
fn keep_hands_over_a_disk_that_is_half_written() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        let mut b = lab(keep);
        let first = b.reserve("ada", ask("", Want::Image));
        b.obey_until("m0", |p| matches!(p, Phase::Disk { writing: true, .. }));
        b.release("ada", first); // in the middle of it
        b.live(60_000);
        assert_eq!(b.machine("m0").clean(), "writing");
        let next = b.reserve("bob", any(want));
        b.live(60_000);
        assert_eq!(b.status(next), "ready");
        assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned()))], "{want:?}");
    }
}

#[test]
fn keep_without_legs_waits_for_anything() {
    let mut b = lab(|s| {
        keep(s);
        s.legs.clear();
        s.disks.clear();
    });
    let id = b.reserve("ada", any(Want::Bare));
    assert_eq!(b.status(id), "ready");
    let next = b.reserve("bob", any(Want::Bare));
    b.ok("ada", Request::Claim(id));
    b.release("ada", id);
    assert_eq!(b.status(next), "ready", "handed on in the very step");
}

#[test]
fn a_warm_machine_is_booted_again() {
    let mut b = warm_lab();
    let boots = b.boards[&name("m0")].boots;
    let id = b.reserve("bob", ask("", Want::Image));
    assert_eq!(b.status(id), "ready", "taken at once");
    b.ok("bob", Request::Claim(id));
    assert_eq!(b.boards[&name("m0")].boots, boots);
    b.ok("bob", Request::Run { machine: name("m0"), command: "true".into() });
}

#[test]
fn a_warm_machine_is_handed_over_with_another_image() {
    let mut b = warm_lab();
    let id = b.reserve_image("bob", ask("", Want::Image), Some("yocto"));
    assert_eq!(b.status(id), "preparing");
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:yocto".to_owned()))]);
}

#[test]
fn a_warm_machine_is_handed_over_bare_and_on() {
    let mut b = warm_lab();
    let id = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [false]);
    assert!(b.machine("m0").all_proven());
}

#[test]
fn a_warm_machine_whose_agent_is_gone_is_handed_over() {
    let mut b = warm_lab();
    b.lost("m0");
    let id = b.reserve("bob", ask("", Want::Image));
    assert_eq!(b.status(id), "preparing");
    b.obey();
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_warm_machine_grows_old() {
    let mut b = warm_lab();
    let Stage::Ready { until: Some(until), .. } = b.machine("m0").stage else { panic!() };
    assert_eq!(until.0, b.now + 600_000);
    let attempts = b.machine("m0").attempts;
    b.pass(600_000);
    assert_eq!(b.state("m0"), "turnaround");
    b.live(60_000);
    assert_eq!(b.state("m0"), "ready");
    assert!(b.machine("m0").attempts > attempts, "it was not proven anew");
}

#[test]
fn a_cold_machine_is_booted_though_a_warm_one_waits() {
    let warm = |s: &mut MachineSpec| s.idle = Some(Idle::Warm { max_age_ms: 3_600_000 });
    let mut b = Bench::of([spec_with("m0", |_| ()), spec_with("m1", warm)]);
    let id = b.hold("ada", ask("name=m1", Want::Image));
    b.release("ada", id);
    b.obey();
    let other = b.reserve_image("bob", ask("", Want::Image), Some("yocto"));
    assert_eq!(b.members(other), ["m0"], "the warm one is no use to him, and to others it is");
    b.release("bob", other);
    b.live(60_000);
    let id = b.reserve("bob", ask("", Want::Image));
    assert_eq!((b.status(id), b.members(id)), ("ready", vec!["m1".to_owned()]));
}
