//! Machines and images that fail, and who is blamed.

use super::bench::{Bench, ask, name, role};
use super::spec_with;
use crate::event::{Fact, Request};
use crate::inventory::model::{Idle, WatchConsoles};
use crate::machine::{Content, FailureClass, Health, Phase};
use crate::record::Change;
use crate::reservation::{Ask, End, Want};
use crate::saying::Saying;
use crate::watching::Whose;
use pitstop_wire::Code;
use pitstop_wire::agent::Outcome;

#[test]
fn one_failed_try_ends_the_turn() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.board(&name("m0")).dead = true;
    b.obey();
    b.pass(101_000);
    b.board(&name("m0")).dead = false;
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.failures("m0").len(), 1);
    assert_eq!(b.machine("m0").failures, 0, "a try is no failed turn");
}

#[test]
fn a_machine_that_never_boots_is_tried_for_ever() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.board(&name("m0")).dead = true;
    b.live(400_000);
    let Health::Quarantined { failure, .. } = b.machine("m0").health.clone() else {
        panic!("{}", b.state("m0"))
    };
    assert_eq!((failure.class, failure.phase.as_str()), (FailureClass::Boot, "boot agent"));
    assert_eq!(b.failures("m0").len(), 2);
    assert_eq!(b.status(id), "waiting", "it goes back to its place");
    assert_eq!(b.boards[&name("m0")].legs, [false], "it stays on");
}

#[test]
fn a_failed_machine_takes_its_reservation_with_it() {
    let mut b = Bench::new(&["m0", "m1"]);
    let id = b.reserve("ada", ask("", Want::Image));
    assert_eq!(b.members(id), ["m0"]);
    b.board(&name("m0")).dead = true;
    b.live(300_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.members(id), ["m1"]);
    assert_eq!(b.row(id).failed_on, [name("m0")]);
}

#[test]
fn one_reservation_eats_the_whole_lab() {
    let mut b = Bench::new(&["m0", "m1", "m2", "m3"]);
    for m in ["m0", "m1", "m2", "m3"] {
        b.board(&name(m)).dead = true;
    }
    let id = b.reserve("ada", ask("", Want::Image));
    b.live(3_600_000);
    assert!(matches!(b.end(id), End::Failed { class: FailureClass::Boot, .. }));
    assert_eq!(b.state("m3"), "free", "three machines are enough");
}

#[test]
fn a_bad_image_puts_machines_into_quarantine() {
    let mut b = Bench::new(&["m0", "m1"]);
    let bad = |w: &pitstop_wire::agent::ImageWork| match w.digest.as_deref() {
        Some("b3:yocto") => Outcome::Failed { reason: "chunk 7 does not match its hash".into(), image: true },
        _ => Outcome::Failed { reason: "stop here".into(), image: false },
    };
    b.quirks.image = Some(bad);
    let id = b.reserve_image("ada", ask("", Want::Image), Some("yocto"));
    while b.status(id) != "ended" {
        assert!(b.obey_next() || b.lab.next_deadline().is_some());
        b.pass(10);
    }
    assert!(matches!(b.end(id), End::Failed { class: FailureClass::Image, .. }));
    assert_eq!(b.machine("m0").health, Health::Good);
    assert_eq!(b.count(|c| matches!(c, Change::Granted { .. })), 1, "it was tried on the next one, too");
    b.quirks.image = None;
    b.live(120_000);
    assert_eq!(b.state("m0"), "free");
    assert!(b.machine("m0").all_proven());
}

#[test]
fn a_bad_default_image_puts_the_whole_lab_into_quarantine() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.quirks.image =
        Some(|_| Outcome::Failed { reason: "chunk 7 does not match its hash".into(), image: true });
    b.release("ada", id);
    b.live(300_000);
    assert_eq!(b.state("m0"), "free", "{:?}", b.machine("m0").health);
    assert!(!b.machine("m0").all_proven());
    b.quirks.image = None;
    let next = b.reserve("bob", ask("", Want::Bare));
    b.live(60_000);
    assert_eq!(b.status(next), "ready");
    assert!(b.machine("m0").all_proven(), "handed over as it was");
}

#[test]
fn a_machine_is_proven_by_an_image_that_fails() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.image =
        Some(|_| Outcome::Failed { reason: "chunk 7 does not match its hash".into(), image: true });
    b.ok("admin", Request::Prove(name("m0")));
    b.live(300_000);
    assert_eq!(b.state("m0"), "quarantined");
}

#[test]
fn a_quarantined_machine_comes_back_by_itself_or_unproven() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.spoil = Some(|p| p.read_bytes = 0);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(7_200_000);
    assert_eq!((b.state("m0"), b.status(id)), ("quarantined", "waiting"));
    assert_eq!(b.refused("ada", Request::Prove(name("m0"))), Code::NotAllowed);
    b.ok("admin", Request::Prove(name("m0")));
    assert_eq!(b.refused("admin", Request::Prove(name("m0"))), Code::Conflict, "it is on its way");
    b.live(300_000);
    assert_eq!(b.state("m0"), "quarantined", "it failed again");
    b.quirks.spoil = None;
    b.ok("admin", Request::Prove(name("m0")));
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.machine("m0").failures, 0);
}

#[test]
fn a_drain_is_cleared_by_a_proving_turn() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.spoil = Some(|p| p.read_bytes = 0);
    b.reserve("ada", ask("", Want::Bare));
    b.live(300_000);
    b.quirks.spoil = None;
    b.ok("admin", Request::Prove(name("m0")));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.live(60_000);
    assert_eq!(b.state("m0"), "drained");
}

#[test]
fn a_drained_machine_is_taken_from_its_holder_or_offered_to_the_next() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    let drain = || Request::Drain { machine: name("m0"), reason: "fan".into() };
    assert_eq!(b.refused("ada", drain()), Code::NotAllowed);
    b.ok("admin", drain());
    assert_eq!(b.in_use_by("m0"), Some(id));
    let next = b.reserve("bob", ask("", Want::Image));
    b.release("ada", id);
    b.live(600_000);
    assert_eq!(b.state("m0"), "drained");
    assert!(b.machine("m0").all_proven(), "its turn was not finished");
    assert_eq!(b.status(next), "waiting");
    b.ok("admin", Request::Undrain(name("m0")));
    b.obey();
    assert_eq!(b.status(next), "ready");
    assert_eq!(b.refused("admin", Request::Undrain(name("m0"))), Code::Conflict);
}

#[test]
fn a_machine_drained_while_it_is_prepared_is_not_handed_over() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.obey();
    assert_eq!(b.status(id), "ready", "it was given before");
}

#[test]
fn a_drain_hides_that_the_machine_failed() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.spoil = Some(|p| p.read_bytes = 0);
    b.reserve("ada", ask("", Want::Bare));
    b.live(300_000);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "new disk".into() });
    b.ok("admin", Request::Undrain(name("m0")));
    assert_eq!(b.state("m0"), "proving", "a machine that was quarantined is offered without a proof");
    b.live(300_000);
    assert_eq!(b.state("m0"), "quarantined");
}

#[test]
fn a_warm_machine_stays_on_though_it_is_drained() {
    let warm = Idle::Warm { max_age_ms: 3_600_000 };
    let mut b = Bench::of([spec_with("m0", |s| s.idle = Some(warm))]);
    let drain = || Request::Drain { machine: name("m0"), reason: "fan".into() };
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.obey_until("m0", |p| matches!(p, Phase::Disk { .. }));
    b.ok("admin", drain());
    b.live(60_000);
    assert_eq!((b.state("m0"), &b.boards[&name("m0")].legs[..]), ("drained", &[false][..]));
}

#[test]
fn a_failed_member_is_replaced_and_the_others_are_kept() {
    let mut b = Bench::new(&["m0", "m1", "m2"]);
    b.board(&name("m1")).dead = true;
    let id = b.reserve("ada", Ask { roles: vec![role("machine", "", 2)], ..ask("", Want::Image) });
    assert_eq!(b.members(id), ["m0", "m1"]);
    b.live(300_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.members(id), ["m0", "m2"]);
    assert_eq!(b.machine("m0").turns, 1, "the good one was sent round again");
}

#[test]
fn the_members_of_a_failed_one_are_kept_by_a_reservation_that_waits() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.board(&name("m1")).dead = true;
    let id = b.reserve("ada", Ask { roles: vec![role("machine", "", 2)], ..ask("", Want::Bare) });
    let younger = b.reserve("bob", Ask { priority: -1, ..ask("", Want::Bare) });
    b.live(300_000);
    assert_eq!(b.status(id), "waiting");
    assert!(b.members(id).is_empty());
    assert_eq!(b.status(younger), "ready", "m0 stands idle for one that cannot be served without m1");
    b.board(&name("m1")).dead = false;
    b.release("bob", younger);
    b.ok("admin", Request::Prove(name("m1")));
    b.live(300_000);
    assert_eq!(b.status(id), "ready", "it returned to its place");
}

#[test]
fn a_machine_that_fails_its_turnaround_is_free() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.board(&name("m0")).dead = true;
    b.release("ada", id);
    b.live(400_000);
    assert_eq!(b.state("m0"), "quarantined");
    assert_eq!(b.machine("m0").disks[0].content, Content::Used { by: Some(id) });
    assert!(matches!(b.end(id), End::Released { .. }), "he gave it back; what came then is not his");
}

impl Bench {
    fn nonce(&self, machine: &str) -> Option<String> {
        self.machine(machine).turn().and_then(|t| t.attempt.as_ref()).map(|a| a.nonce.clone())
    }

    fn says(&mut self, machine: &str, nonce: Option<String>, saying: Saying, line: &str) {
        let epoch = self.lab.meta().epoch;
        self.fact(epoch, Fact::Said { machine: name(machine), nonce, saying, line: line.into() });
    }
}

#[test]
fn a_kernel_that_panicked_is_waited_for_until_the_deadline() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    b.board(&name("m0")).dead = true;
    b.obey_until("m0", |phase| *phase == Phase::BootAgent);
    let nonce = b.nonce("m0");
    b.says("m0", nonce, Saying::KernelPanic, "Kernel panic - not syncing: VFS\u{1b}[2J");
    assert_eq!(b.failures("m0"), ["boot: kernel panic: Kernel panic - not syncing: VFS [2J"]);
    assert_eq!(b.phase("m0"), Phase::Off, "it is tried again at once");
    let said = |c: &Change| matches!(c, Change::ConsoleSaid { saying: Saying::KernelPanic, .. });
    assert_eq!(b.count(said), 1);
}

#[test]
fn what_an_earlier_attempt_said_or_a_phase_that_switches_off_fails_nothing() {
    let mut b = Bench::new(&["m0"]);
    b.reserve("ada", ask("", Want::Image));
    b.says("m0", b.nonce("m0"), Saying::KernelPanic, "of a machine that is being switched off");
    b.obey_until("m0", |phase| *phase == Phase::BootAgent);
    b.says("m0", Some("an earlier one".into()), Saying::KernelPanic, "late");
    b.says("m0", None, Saying::NoRoot, "of nobody's attempt");
    for saying in [Saying::Oops, Saying::SoftLockup, Saying::BootLoader, Saying::Login] {
        b.says("m0", b.nonce("m0"), saying, "it may live on");
    }
    assert_eq!(b.failures("m0"), [""; 0]);
    assert_eq!(b.phase("m0"), Phase::BootAgent);
    assert_eq!(b.count(|c| matches!(c, Change::ConsoleSaid { .. })), 7, "all of it is kept");
}

#[test]
fn a_panic_takes_a_machine_away_from_its_holder() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.says("m0", None, Saying::KernelPanic, "ada tests her kernel");
    assert_eq!(b.in_use_by("m0"), Some(id));
    b.says("nobody", None, Saying::KernelPanic, "a machine that left");
}

#[test]
fn whose_a_console_is_follows_who_has_the_machine_until_it_is_seen_off() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|inventory| inventory.lab.watch_consoles = WatchConsoles::Holder);
    b.live(1_000);
    assert_eq!(b.lab.whose_console(&name("m0")), Whose::Nobody);
    let id = b.hold("ada", ask("", Want::Image));
    let Whose::Held(audience) = b.lab.whose_console(&name("m0")) else { panic!("she has it") };
    assert_eq!(audience.reservation, id);
    assert!(audience.admits("ada") && !audience.admits("bob"));
    b.says("m0", None, Saying::KernelPanic, "her secret");
    assert_eq!(b.count(|c| matches!(c, Change::ConsoleSaid { line, .. } if line.is_empty())), 1);
    b.release("ada", id);
    assert_eq!((b.phase("m0"), b.lab.whose_console(&name("m0"))), (Phase::Off, Whose::Last));
    b.says("m0", None, Saying::Oops, "her last words");
    assert_eq!(b.count(|c| matches!(c, Change::ConsoleSaid { line, .. } if line.is_empty())), 2);
    b.live(600_000);
    assert_eq!(b.lab.whose_console(&name("m0")), Whose::Nobody);
    b.says("m0", None, Saying::Oops, "ours");
    assert_eq!(b.count(|c| matches!(c, Change::ConsoleSaid { line, .. } if line == "ours")), 1);
    // Everybody may watch: everybody may read it.
    b.reload(|inventory| inventory.lab.watch_consoles = WatchConsoles::All);
    b.hold("ada", ask("", Want::Image));
    b.says("m0", None, Saying::KernelPanic, "no secret");
    assert_eq!(b.count(|c| matches!(c, Change::ConsoleSaid { line, .. } if line == "no secret")), 1);
}
