//! A proof with anything missing is no proof.

use super::bench::{Bench, DISK, ask, name};
use super::spec_with;
use crate::inventory::model::{DiskContent, DiskMatch, OtherDisks};
use crate::machine::{Content, Health, Phase};
use crate::record::Change;
use crate::reservation::{CleanLevel, Want};
use crate::simulator::labs;
use pitstop_wire::agent::{DiskProof, Hardware, Outcome, SeenDisk};

/// A lab whose every proof is spoilt in the same way.
fn spoilt(b: &mut Bench, spoil: fn(&mut DiskProof), what: &str) {
    b.quirks.spoil = Some(spoil);
    let id = b.reserve("ada", ask("", Want::Image));
    b.live(600_000);
    assert_eq!(b.status(id), "waiting", "{what}: handed over");
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }), "{what}: not quarantined");
    assert_eq!(b.count(|c| matches!(c, Change::DiskProven { .. })), 0, "{what}: called proven");
    assert!(matches!(b.machine("m0").disks[0].content, Content::Writing { .. }), "{what}");
    // Nothing helps but a turn that proves it.
    b.quirks.spoil = None;
    b.ok("admin", crate::event::Request::Prove(name("m0")));
    b.obey();
    assert_eq!(b.status(id), "ready", "{what}: proven since, and it still waits");
}

#[test]
fn a_proof_lacks_an_item() {
    type Spoil = fn(&mut DiskProof);
    let spoils: [(Spoil, &str); 9] = [
        (|p| p.digest = None, "no digest"),
        (|p| p.digest = Some("b3:else".into()), "another image"),
        (|p| p.read_bytes -= 512, "one block was not read back"),
        (|p| p.read_bytes = 0, "nothing was read back"),
        (|p| p.device_bytes = 0, "a device without a size"),
        (|p| p.zero_bytes -= 1, "a byte that is neither image nor zero"),
        (|p| (p.image_bytes, p.zero_bytes) = (u64::MAX, DISK + 1), "sums that wrap around"),
        (
            |p| (p.device_bytes, p.read_bytes, p.zero_bytes) = (DISK / 2, DISK / 2, 0),
            "a smaller device than was seen",
        ),
        (|p| p.path = String::new(), "no device"),
    ];
    for (spoil, what) in spoils {
        spoilt(&mut Bench::new(&["m0"]), spoil, what);
    }
}

#[test]
fn a_disk_with_another_serial_number_is_proven_instead() {
    let with_serial = |s: &mut crate::inventory::model::MachineSpec| {
        s.disks[0].matching = DiskMatch { serial: Some("S1".into()), ..DiskMatch::default() };
    };
    let mut b = Bench::of([spec_with("m0", with_serial)]);
    b.quirks.spoil = Some(|p| p.serial = Some("S2".into()));
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_eq!(b.status(id), "waiting");
    assert!(b.failures("m0")[0].contains("serial"), "{:?}", b.failures("m0"));
}

#[test]
fn one_disk_is_proven_twice_and_the_other_never() {
    let mut b = Bench::of([spec_with("m0", |s| s.disks.push(labs::disk("data", DiskContent::Image)))]);
    b.quirks.spoil = Some(|p| p.path = "/dev/0".into());
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_eq!(b.status(id), "waiting");
    assert!(!b.machine("m0").all_proven());
}

#[test]
fn an_empty_disk_with_a_byte_of_image_is_called_empty() {
    let mut b = Bench::of([spec_with("m0", |s| s.disks[0] = labs::disk("root", DiskContent::Zero))]);
    b.quirks.spoil = Some(|p| (p.image_bytes, p.zero_bytes) = (1, DISK - 1));
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_eq!(b.status(id), "waiting");
}

fn two_disks() -> Hardware {
    let disk = |n| SeenDisk {
        path: format!("/dev/{n}"),
        bytes: DISK,
        serial: None,
        bus: "sim".into(),
        ..SeenDisk::default()
    };
    Hardware { disks: vec![disk(0), disk(1)], ..Hardware::default() }
}

#[test]
fn a_disk_that_nobody_declared_is_covered_by_the_proof() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.hardware = Some(two_disks());
    let id = b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_eq!(b.status(id), "waiting");
    assert!(b.failures("m0")[0].contains("does not declare"));
}

#[test]
fn a_machine_with_an_unproven_disk_is_offered_as_proven() {
    let mut b = Bench::of([spec_with("m0", |s| s.other_disks = OtherDisks::Unproven)]);
    b.quirks.hardware = Some(two_disks());
    let strict = b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_ne!(b.status(strict), "ready");
    b.ok("admin", crate::event::Request::Prove(name("m0")));
    b.live(600_000);
    assert_ne!(b.status(strict), "ready");
    let mut lax = ask("", Want::Bare);
    lax.clean = CleanLevel::Any;
    let lax = b.reserve("bob", lax);
    b.live(600_000);
    assert_eq!(b.status(lax), "ready", "one who takes it as it is does not get it: {:?}", b.failures("m0"));
}

#[test]
fn the_agent_answers_a_write_with_something_else() {
    for answer in [
        (|_: &_| Outcome::Seeded) as fn(&pitstop_wire::agent::ImageWork) -> Outcome,
        |_: &_| Outcome::Serving,
        |_: &_| Outcome::Differs { at: "byte 7".into() },
        |_: &_| Outcome::Seen(Box::default()),
    ] {
        let mut b = Bench::new(&["m0"]);
        b.quirks.image = Some(answer);
        let id = b.reserve("ada", ask("", Want::Bare));
        b.live(600_000);
        assert_eq!(b.status(id), "waiting");
        assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }));
    }
}

#[test]
fn words_from_a_machine_carry_control_characters_into_the_history() {
    let mut b = Bench::new(&["m0"]);
    b.quirks.image = Some(|_| Outcome::Failed { reason: "\u{1b}[2Jno\u{7}".into(), image: false });
    b.reserve("ada", ask("", Want::Bare));
    b.live(600_000);
    assert_eq!(b.failures("m0")[0], "disk: [2Jno");
}

#[test]
fn a_machine_that_was_switched_on_since_its_proof_is_called_proven() {
    let mut b = Bench::new(&["m0"]);
    b.ok("admin", crate::event::Request::Prove(name("m0")));
    b.obey();
    assert_eq!(b.machine("m0").clean(), "proven");
    // It is switched on for another image. No agent of ours comes: whatever
    // it boots instead, its own disk perhaps, may write.
    b.board(&name("m0")).dead = true;
    let id = b.reserve_image("ada", ask("", Want::Image), Some("yocto"));
    b.obey();
    assert_eq!(b.phase("m0"), Phase::BootAgent);
    assert_ne!(b.machine("m0").clean(), "proven");
    b.board(&name("m0")).dead = false;
    let proofs = |b: &Bench| b.count(|c| matches!(c, Change::DiskProven { .. }));
    let before = proofs(&b);
    b.release("ada", id);
    b.obey();
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "proven"));
    assert_eq!(proofs(&b), before + 1, "it is offered as proven, and nobody has read its disk since");
}
