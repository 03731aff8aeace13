//! Who is blamed, and how machines and images come back without a person.

use super::bench::{Bench, ask, image, name, role};
use super::{spec, spec_with};
use crate::event::Request;
use crate::experience::{HOUR, MINUTE};
use crate::inventory::model::HealthCheck;
use crate::machine::{FailureClass, Health, ImageRef};
use crate::record::{Actor, Change};
use crate::reservation::{Ask, CleanLevel, End, Want};
use pitstop_wire::Code;

const DAY: u64 = 24 * HOUR;

/// So many machines of class `r640`.
fn class(machines: usize) -> Bench {
    Bench::of((0..machines).map(|n| spec_with(&format!("m{n:02}"), |s| s.class = Some("r640".into()))))
}

fn quarantined(b: &Bench) -> usize {
    b.lab.machines().filter(|m| matches!(m.health, Health::Quarantined { .. })).count()
}

/// The most machines that were in quarantine at once.
fn most_quarantined(b: &Bench) -> usize {
    let mut out = std::collections::BTreeSet::new();
    let mut most = 0;
    for change in b.changes() {
        if let Change::HealthSet { machine, health } = change {
            match health {
                Health::Quarantined { .. } => out.insert(machine.clone()),
                _ => out.remove(machine),
            };
            most = most.max(out.len());
        }
    }
    most
}

fn proofs(b: &Bench) -> usize {
    b.count(|c| matches!(c, Change::TurnStarted { purpose: crate::machine::Purpose::Prove, .. }))
}

fn replaced() -> ImageRef {
    ImageRef { digest: "b3:debian-2".into(), ..image("debian") }
}

// ── proving turns ──

#[test]
fn a_quarantined_machine_waits_for_a_person() {
    let mut b = Bench::new(&["m0"]);
    b.board(&name("m0")).dead = true;
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(3 * MINUTE + 30_000);
    assert_eq!(b.state("m0"), "quarantined");
    b.board(&name("m0")).dead = false;
    b.live(6 * MINUTE);
    assert_eq!(b.status(id), "ready");
    let by_itself = b.records.iter().filter(|r| r.actor == Actor::Time);
    assert!(by_itself.clone().any(|r| matches!(r.change, Change::ProofPassed { .. })) || proofs(&b) == 1);
    assert!(b.machine("m0").checked.is_some());
}

#[test]
fn a_broken_machine_is_proven_all_day() {
    let mut b = Bench::new(&["m0"]);
    b.board(&name("m0")).dead = true;
    b.reserve("ada", ask("", Want::Bare));
    b.live(7 * DAY);
    assert!((7..60).contains(&proofs(&b)), "{} proving turns in a week", proofs(&b));
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }));
}

#[test]
fn a_flickering_machine_is_back_after_five_minutes_each_time() {
    let mut b = Bench::new(&["m0"]);
    for round in 0..4 {
        let id = b.reserve("ada", ask("", Want::Image));
        b.quirks.no_boot = Some("b3:debian");
        let before = b.now;
        while !matches!(b.machine("m0").health, Health::Quarantined { .. }) {
            b.live(1_000);
            assert!(b.now - before < HOUR, "round {round}");
        }
        b.quirks.no_boot = None;
        let quarantined = b.now;
        b.release("ada", id);
        while b.machine("m0").health != Health::Good {
            b.live(1_000);
        }
        let away = b.now - quarantined;
        assert!(away >= ((5 * MINUTE) << round) - 1_000, "round {round}: back after {away} ms");
    }
}

#[test]
fn a_restart_forgets_when_a_machine_is_to_be_proven() {
    let mut b = Bench::new(&["m0"]);
    b.board(&name("m0")).dead = true;
    b.reserve("ada", ask("", Want::Bare));
    b.live(3 * MINUTE + 30_000);
    b.board(&name("m0")).dead = false;
    b.restart();
    b.live(6 * MINUTE);
    assert_eq!((b.machine("m0").health.clone(), proofs(&b)), (Health::Good, 1));
}

#[test]
fn a_drained_or_changed_machine_is_proven_by_itself() {
    let mut b = Bench::new(&["m0", "m1"]);
    for m in ["m0", "m1"] {
        b.board(&name(m)).dead = true;
    }
    b.reserve("ada", ask("", Want::Bare));
    b.live(8 * MINUTE);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.reload(|i| i.machines.get_mut("m1").unwrap().disks.clear());
    let before = proofs(&b);
    b.live(DAY);
    assert_eq!(proofs(&b), before);
    assert_eq!((b.state("m0"), b.state("m1")), ("drained", "new"));
}

// ── images ──

#[test]
fn one_bad_image_takes_thirty_machines_out() {
    let mut b = class(30);
    b.quirks.no_boot = Some("b3:debian");
    let bad: Vec<_> = (0..10).map(|n| b.reserve(&format!("user{n}"), ask("", Want::Image))).collect();
    let good = b.reserve_image("eve", ask("", Want::Image), Some("yocto"));
    b.live(20 * MINUTE);
    assert_eq!(b.status(good), "ready", "the other image stands still, too");
    assert!(most_quarantined(&b) <= 6, "{} machines were in quarantine at once", most_quarantined(&b));
    let suspected = b.count(|c| matches!(c, Change::ImageSuspected { .. }));
    let failed = b.count(|c| matches!(c, Change::ImageFailed { .. }));
    assert_eq!(suspected, 1);
    assert!(failed <= 10, "{failed} machines tried it");
    b.live(HOUR / 4);
    assert_eq!(quarantined(&b), 0, "they did what they were told");
    // Whoever comes now waits, and is told why.
    let late = b.reserve("zoe", ask("", Want::Image));
    let named = b.reserve_image("bob", ask("", Want::Image), Some("debian"));
    assert_eq!((b.status(late), b.status(named)), ("waiting", "waiting"));
    let why = b.lab.why_reservation(late, crate::time::LabTime(b.now)).unwrap();
    assert!(why.reasons.iter().any(|r| r.text.contains("image debian is suspected")), "{why:?}");
    assert!(bad.iter().any(|id| b.row(*id).ended()), "nobody was told that the image failed");

    b.ok("admin", Request::NameImage { image: replaced(), bytes: 1 << 20 });
    b.live(10 * MINUTE);
    assert_eq!((b.status(late), b.status(named)), ("ready", "ready"));
    assert_eq!(b.row(named).ask.image.as_ref().map(|i| i.digest.as_str()), Some("b3:debian-2"));
    assert!(b.lab.images().all(|i| i.trouble.is_empty()));
}

#[test]
fn a_suspected_image_that_is_good_again_needs_a_person() {
    // A name server was down: two machines could not come up.
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    b.quirks.no_boot = Some("b3:debian");
    let id = b.reserve("ada", ask("", Want::Image));
    b.live(10 * MINUTE);
    assert!(matches!(b.end(id), End::Failed { class: FailureClass::Image, .. }));
    b.quirks.no_boot = None;
    let waiting: Vec<_> = (0..3).map(|_| b.reserve("bob", ask("", Want::Image))).collect();
    b.live(15 * MINUTE);
    assert!(waiting.iter().all(|id| b.status(*id) == "waiting"), "it is handed out all the same");
    b.live(20 * MINUTE);
    assert!(waiting.iter().all(|id| b.status(*id) == "ready"));
    assert_eq!(b.count(|c| matches!(c, Change::ImageTried { .. })), 1, "one is to try it, not all");
}

#[test]
fn a_trial_of_a_bad_image_takes_more_than_one_machine() {
    let mut b = class(6);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(10 * MINUTE);
    for _ in 0..4 {
        b.reserve("bob", ask("", Want::Image));
    }
    b.live(DAY);
    let tried = b.count(|c| matches!(c, Change::ImageTried { .. }));
    assert!((3..=6).contains(&tried), "{tried} trials in a day");
    assert!(most_quarantined(&b) <= 1);
}

#[test]
fn one_whose_image_another_tries_is_passed_over() {
    let of = |m: &str, class: &str| (name(m), spec_with(m, |s| s.class = Some(class.into())));
    let mut b = Bench::of([of("m0", "a").1, of("m1", "a").1]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(30 * MINUTE);
    b.quirks.no_boot = None;
    b.reload(|i| i.machines.clear());
    b.reload(|i| i.machines.extend([of("m0", "a"), of("m1", "a"), of("m2", "b")]));
    let ids = ["ada", "bob", "cyd"].map(|user| b.reserve(user, ask("", Want::Image)));
    b.live(40 * MINUTE);
    let listed = ["m0", "m1", "m2"].map(name).to_vec();
    b.ok("admin", Request::Enrol { select: "".parse().unwrap(), listed });
    assert_eq!(ids.map(|id| b.status(id)), ["preparing", "preparing", "waiting"]);
    assert_eq!(b.members(ids[1]), ["m2"]);
}

#[test]
fn one_who_wants_a_tried_image_keeps_a_machine_from_one_who_does_not() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(30 * MINUTE);
    b.quirks.no_boot = None;
    b.reload(|i| i.machines.clear());
    b.reload(|i| i.machines.extend(["m0", "m1"].map(|m| (name(m), spec(m)))));
    let tries = b.reserve("ada", ask("", Want::Image));
    b.reserve("bob", Ask { roles: vec![role("machine", "", 2)], ..ask("", Want::Image) });
    let other = b.reserve_image("cyd", ask("", Want::Image), Some("yocto"));
    b.live(40 * MINUTE);
    b.ok("admin", Request::Enrol { select: "".parse().unwrap(), listed: vec![name("m0"), name("m1")] });
    assert_eq!((b.status(tries), b.status(other)), ("preparing", "preparing"));
}

#[test]
fn a_person_cannot_say_that_an_image_is_good() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(10 * MINUTE);
    let next = b.reserve("bob", ask("", Want::Image));
    b.live(MINUTE);
    assert_eq!(b.status(next), "waiting");
    b.quirks.no_boot = None;
    assert_eq!(b.refused("bob", Request::TrustImage("debian".into())), Code::NotAllowed);
    assert_eq!(b.refused("admin", Request::TrustImage("debain".into())), Code::NotFound);
    b.ok("admin", Request::TrustImage("debian".into()));
    b.live(MINUTE);
    assert_eq!(b.status(next), "ready");
}

#[test]
fn one_broken_machine_makes_its_image_suspect() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(3 * HOUR);
    assert_eq!(b.count(|c| matches!(c, Change::ImageSuspected { .. })), 0);
    assert!(b.count(|c| matches!(c, Change::ImageFailed { .. })) > 1);
}

#[test]
fn an_image_that_works_elsewhere_is_suspected() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.quirks.no_boot = Some("b3:debian");
    let id = b.reserve("ada", ask("name=m0", Want::Image));
    b.live(4 * MINUTE);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }));
    b.quirks.no_boot = None;
    b.release("ada", id);
    let works = b.hold("bob", ask("name=m1", Want::Image));
    b.release("bob", works);
    b.live(MINUTE);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("bob", ask("name=m1", Want::Image));
    b.live(4 * MINUTE);
    assert_eq!(b.count(|c| matches!(c, Change::ImageSuspected { .. })), 0, "it had worked in between");
}

#[test]
fn a_bare_machine_waits_for_an_image_that_nobody_boots() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(20 * MINUTE);
    let bare = b.hold("bob", ask("", Want::Bare));
    assert_eq!(b.status(bare), "active");
    b.release("bob", bare);
    b.live(10 * MINUTE);
    assert_eq!(quarantined(&b), 0);
}

#[test]
fn a_machine_is_blamed_for_an_image_that_was_replaced_meanwhile() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.no_boot = Some("b3:debian");
    let id = b.reserve_image("ada", ask("", Want::Image), Some("debian"));
    b.live(10_000);
    assert_eq!(b.status(id), "preparing");
    b.ok("admin", Request::NameImage { image: replaced(), bytes: 1 << 20 });
    b.live(5 * MINUTE);
    assert_eq!((b.status(id), quarantined(&b)), ("ready", 0), "{:?}", b.failures("m0"));
    assert_eq!(b.row(id).ask.image.as_ref().map(|i| i.digest.as_str()), Some("b3:debian-2"));
}

#[test]
fn one_who_waits_is_given_an_image_that_failed_and_was_replaced() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve_image("ada", ask("name=m0", Want::Image), Some("debian"));
    b.hold("eve", ask("name=m1", Want::Bare));
    let waits = b.reserve_image("bob", ask("name=m1", Want::Image), Some("debian"));
    b.live(4 * MINUTE);
    assert_eq!(b.count(|c| matches!(c, Change::ImageSuspected { .. })), 0);
    let seedless = ImageRef { seed: None, ..replaced() };
    b.ok("admin", Request::NameImage { image: seedless, bytes: 1 << 20 });
    let digest = |b: &Bench| b.row(waits).ask.image.clone().map(|i| i.digest);
    assert_eq!(digest(&b).as_deref(), Some("b3:debian"), "nobody could be handed that one");
}

#[test]
fn what_an_image_did_counts_against_its_machines() {
    let mut b = class(6);
    b.quirks.no_boot = Some("b3:debian");
    b.reserve("ada", ask("", Want::Image));
    b.live(10 * MINUTE);
    assert_eq!(b.count(|c| matches!(c, Change::ImageSuspected { .. })), 1);
    assert!(b.lab.machines().all(|m| m.quarantines.is_empty()), "it was not theirs");
    // Another failure that is a machine's own is no storm.
    b.quirks.no_boot = None;
    b.board(&name("m05")).dead = true;
    b.reserve("bob", ask("name=m05", Want::Bare));
    b.live(10 * MINUTE);
    assert_eq!(b.count(|c| matches!(c, Change::ClassPaused { .. })), 0);
}

// ── classes ──

#[test]
fn a_pause_outlasts_the_proof_that_all_is_well() {
    let mut b = class(5);
    for n in 0..5 {
        b.board(&name(&format!("m{n:02}"))).dead = true;
    }
    let id = b.reserve("ada", Ask { roles: vec![role("machine", "", 2)], ..ask("", Want::Bare) });
    b.live(5 * MINUTE);
    b.release("ada", id);
    assert!(b.lab.machines().all(|m| m.pause.is_some()), "{:?}", b.failures("m00"));
    for n in 0..5 {
        b.board(&name(&format!("m{n:02}"))).dead = false;
    }
    let good =
        b.lab.machines().find(|m| m.health == Health::Good).expect("all are in quarantine").name.clone();
    b.ok("admin", Request::Prove(good));
    b.live(2 * MINUTE);
    assert!(b.lab.machines().all(|m| m.pause.is_none()));
}

#[test]
fn what_was_only_switched_off_shows_that_its_class_works() {
    let off = |s: &mut crate::inventory::model::MachineSpec| {
        (s.class, s.after_build) = (Some("r640".into()), Some(crate::inventory::model::AfterBuild::PowerOff));
    };
    let mut b = Bench::of((0..6).map(|n| spec_with(&format!("m{n:02}"), off)));
    let held = b.hold("bob", ask("name=m05", Want::Image));
    for n in 0..5 {
        b.board(&name(&format!("m{n:02}"))).mute = true;
    }
    let ids: Vec<_> = (0..4).map(|_| b.reserve("ada", ask("", Want::Agent))).collect();
    b.live(MINUTE);
    b.release("bob", held);
    b.live(12 * MINUTE);
    let paused = b.lab.machines().filter(|m| m.pause.is_some()).count();
    assert!(
        paused >= 5,
        "{paused} paused: they go on failing one by one; {:?}",
        ids.iter().map(|id| b.status(*id)).collect::<Vec<_>>()
    );
}

#[test]
fn a_dead_pdu_puts_a_whole_class_into_quarantine() {
    let mut b = class(10);
    for n in 0..10 {
        b.board(&name(&format!("m{n:02}"))).dead = true;
    }
    let ids: Vec<_> = (0..10).map(|n| b.reserve(&format!("user{n}"), ask("", Want::Bare))).collect();
    b.live(10 * MINUTE);
    assert!(most_quarantined(&b) <= 2, "{} of 10", most_quarantined(&b));
    assert!(b.lab.machines().all(|m| m.pause.is_some()));
    let why = b.lab.why_reservation(ids[9], crate::time::LabTime(b.now)).unwrap();
    assert!(why.reasons.iter().any(|r| r.text.contains("paused")), "{why:?}");
    for n in 0..10 {
        b.board(&name(&format!("m{n:02}"))).dead = false;
    }
    b.live(30 * MINUTE);
    assert!(ids.iter().all(|id| ["ready", "ended"].contains(&b.status(*id))), "it needs a person");
    assert_eq!(quarantined(&b), 0);
    assert!(b.lab.machines().all(|m| m.pause.is_none()));
}

#[test]
fn an_outage_of_a_day_eats_the_class_machine_by_machine() {
    let mut b = class(10);
    for n in 0..10 {
        b.board(&name(&format!("m{n:02}"))).dead = true;
    }
    for n in 0..20 {
        b.reserve(&format!("user{n}"), ask("", Want::Bare));
    }
    b.live(40 * MINUTE);
    let hour = b.records.iter().filter(|r| match &r.change {
        Change::HealthSet { health: Health::Quarantined { at, .. }, .. } => *at == r.at && r.at.0 < HOUR,
        _ => false,
    });
    let machines: std::collections::BTreeSet<_> = hour.filter_map(|r| r.change.machine()).collect();
    assert!(machines.len() <= 2, "{machines:?} within an hour");
}

#[test]
fn two_broken_boards_keep_four_good_ones_idle() {
    let mut b = class(6);
    b.board(&name("m00")).dead = true;
    b.board(&name("m01")).dead = true;
    let ids: Vec<_> = (0..2).map(|_| b.reserve("ada", ask("", Want::Bare))).collect();
    let good = b.hold("bob", ask("name=m02", Want::Bare));
    b.live(2 * MINUTE);
    b.release("bob", good);
    b.live(8 * MINUTE);
    assert_eq!(quarantined(&b), 1, "a fifth of six");
    let paused: Vec<_> = b.lab.machines().filter(|m| m.pause.is_some()).map(|m| m.name.as_str()).collect();
    assert_eq!(paused.len(), 1, "{paused:?}");
    assert!(ids.iter().all(|id| b.status(*id) == "ready"), "others of the class work, and nobody gets them");
}

#[test]
fn a_small_class_is_paused_by_its_first_failure() {
    let mut b = class(4);
    b.board(&name("m00")).dead = true;
    b.board(&name("m01")).dead = true;
    b.reserve("ada", ask("", Want::Bare));
    b.live(10 * MINUTE);
    assert!(b.lab.machines().all(|m| m.pause.is_none()));
    assert!(b.count(|c| matches!(c, Change::ClassPaused { .. })) == 0);
}

// ── health checks ──

fn checked(run: &[&str]) -> Bench {
    let run: Vec<String> = run.iter().map(|s| (*s).to_owned()).collect();
    Bench::of([spec_with("m0", |s| {
        s.health = Some(HealthCheck { every_ms: DAY, run, within_ms: 10 * MINUTE });
    })])
}

#[test]
fn an_idle_machine_is_never_looked_at() {
    let mut b = checked(&[]);
    b.live(3 * DAY + HOUR);
    assert_eq!(proofs(&b), 3);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_health_check_is_not_run_or_leaves_the_disk_used() {
    let mut b = checked(&["stress-ng", "--timeout", "60s"]);
    b.live(DAY + HOUR);
    assert!(b.phases("m0").contains(&"check"), "{:?}", b.phases("m0"));
    assert_eq!(b.state("m0"), "free");
    assert!(b.machine("m0").all_proven(), "its image ran, and nobody wiped it");
    b.quirks.sick = Some("exit 1: 3 of 4 fans");
    b.live(DAY);
    let Health::Quarantined { failure, .. } = b.machine("m0").health.clone() else {
        panic!("{}", b.state("m0"))
    };
    assert_eq!((failure.class, failure.phase.as_str()), (FailureClass::Health, "check"));
    assert!(failure.evidence.contains("3 of 4 fans"));
    b.quirks.sick = None;
    b.live(DAY);
    assert_eq!(b.machine("m0").health, Health::Good);
}

#[test]
fn a_check_takes_the_machine_from_one_who_waits() {
    let mut b = checked(&[]);
    let id = b.hold("ada", ask("", Want::Bare));
    let next = b.reserve("bob", ask("", Want::Bare));
    b.live(HOUR / 2);
    b.release("ada", id);
    b.live(MINUTE);
    assert_eq!((b.status(next), proofs(&b)), ("ready", 0));
}

#[test]
fn a_lab_checks_all_its_machines_at_once() {
    let check = || Some(HealthCheck { every_ms: DAY, run: Vec::new(), within_ms: MINUTE });
    let mut b = Bench::of(
        (0..10)
            .map(|n| spec_with(&format!("m{n}"), |s| (s.class, s.health) = (Some("r640".into()), check()))),
    );
    b.pass(DAY + 1_000);
    let proving = b.lab.machines().filter(|m| m.state() == "proving").count();
    assert!((1..=2).contains(&proving), "{proving} of 10 at once");
    b.live(2 * HOUR);
    assert!(b.lab.machines().all(|m| m.checked.is_some()), "and then no more");
}

#[test]
fn machines_without_a_class_are_all_checked_at_once() {
    let check = || Some(HealthCheck { every_ms: DAY, run: Vec::new(), within_ms: MINUTE });
    let mut b = Bench::of((0..10).map(|n| spec_with(&format!("m{n}"), |s| s.health = check())));
    b.pass(DAY + 1_000);
    let proving = b.lab.machines().filter(|m| m.state() == "proving").count();
    assert!((1..=2).contains(&proving), "{proving} of 10 at once");
}

#[test]
fn a_check_that_fails_with_its_class_is_begun_again_at_once() {
    let check = || Some(HealthCheck { every_ms: DAY, run: vec!["fans".into()], within_ms: MINUTE });
    let of = |n| spec_with(&format!("m{n}"), |s| (s.class, s.health) = (Some("r640".into()), check()));
    let mut b = Bench::of((0..10).map(of));
    b.quirks.sick = Some("no such command");
    b.live(DAY + 12 * HOUR);
    assert!(b.count(|c| matches!(c, Change::ProofInVain { .. })) > 0, "the class was not seen to fail");
    // Ten at first, and the two in quarantine as often as their rests allow.
    assert!(proofs(&b) <= 40, "{} proving turns in twelve hours", proofs(&b));
}

#[test]
fn disks_that_are_kept_are_erased_by_a_proof_that_nobody_asked_for() {
    let keep = |s: &mut crate::inventory::model::MachineSpec| {
        (s.shared, s.after_build) = (true, Some(crate::inventory::model::AfterBuild::Keep));
        s.health = Some(HealthCheck { every_ms: DAY, run: Vec::new(), within_ms: MINUTE });
    };
    let mut b = Bench::of([spec_with("m0", keep)]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.live(MINUTE);
    b.quirks.no_boot = Some("b3:debian");
    let id = b.reserve("bob", Ask { clean: CleanLevel::Any, ..ask("", Want::Image) });
    b.live(4 * MINUTE);
    b.release("bob", id);
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{}", b.state("m0"));
    b.quirks.no_boot = None;
    b.live(3 * DAY);
    assert_eq!(proofs(&b), 0);
    let why = b.lab.why_machine(&name("m0"), crate::time::LabTime(b.now)).unwrap();
    assert!(why.reasons.iter().any(|r| r.text.contains("would erase what is kept")), "{why:?}");
    b.ok("admin", Request::Prove(name("m0")));
    b.live(5 * MINUTE);
    assert_eq!((b.machine("m0").health.clone(), proofs(&b)), (Health::Good, 1), "a person's word");
    b.live(2 * DAY);
    assert_eq!(proofs(&b), 3, "nothing is kept on it now");
}

#[test]
fn a_daemon_that_dies_during_a_check_blames_the_machine() {
    let mut b = checked(&["true"]);
    b.pass(DAY);
    b.obey_until("m0", |p| *p == crate::machine::Phase::Check);
    b.restart();
    b.resume("m0");
    b.live(HOUR);
    assert_eq!((b.state("m0"), b.failures("m0").len()), ("free", 0), "{:?}", b.failures("m0"));
}
