//! A whole turn, for each thing that may be wanted.

use super::bench::{Bench, ask, image, name};
use super::{spec, spec_with};
use crate::event::Request;
use crate::inventory::model::DiskContent;
use crate::machine::{Content, Stage};
use crate::record::Change;
use crate::reservation::Want;
use crate::simulator::labs;

#[test]
fn a_bare_machine_is_handed_over_off_and_proven() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.phases("m0"), ["off", "boot agent", "disk", "rest", "settle"]);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].legs, [false]);
    assert!(b.machine("m0").all_proven());
    assert!(b.machine("m0").agent.is_none(), "an agent still speaks for a machine that is off");

    b.ok("ada", Request::Claim(id));
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert_eq!(
        b.machine("m0").disks[0].content,
        Content::Used { by: Some(id) },
        "its holder may boot it as he likes"
    );

    b.release("ada", id);
    b.obey();
    assert_eq!(b.state("m0"), "free");
    assert!(b.machine("m0").all_proven(), "it was offered again without a proof");
}

#[test]
fn the_agent_serves_from_ram_and_the_disk_counts_as_used() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey();
    assert_eq!(b.phases("m0"), ["off", "boot agent", "disk", "hand-over", "settle"]);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.machine("m0").disks[0].content, Content::Used { by: Some(id) });
    b.ok("ada", Request::Claim(id));
    b.ok("ada", Request::Run { machine: name("m0"), command: "uname -a".into() });
    b.release("ada", id);
    b.obey();
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn the_image_runs_from_disk_and_its_own_agent_attached() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve_image("ada", ask("", Want::Image), Some("yocto"));
    b.obey();
    assert_eq!(b.phases("m0"), ["off", "boot agent", "disk", "hand-over", "hand-over", "evidence", "settle"]);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:yocto".to_owned()))]);
    assert_eq!(
        b.machine("m0").stage,
        Stage::Ready { reservation: Some(id), until: None, image: Some(image("yocto")) }
    );
    b.ok("ada", Request::Claim(id));
    b.release("ada", id);
    b.obey();
    let default = Some(Some("b3:debian".to_owned()));
    assert_eq!(b.boards[&name("m0")].disks, [default], "the turnaround writes the machine's own image");
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_second_disk_is_not_forgotten() {
    let mut b = Bench::of([spec_with("m0", |s| s.disks.push(labs::disk("scratch", DiskContent::Zero)))]);
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned())), Some(None)]);
    let used = Content::Used { by: Some(id) };
    assert!(b.machine("m0").disks.iter().all(|d| d.content == used), "a disk he may write to is not marked");
}

#[test]
fn a_machine_without_an_image_in_the_store_is_wiped_to_zeroes() {
    let mut b = Bench::of([spec_with("m0", |s| s.image = None)]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(None)]);
}

#[test]
fn both_legs_are_switched_and_the_last_one_boots_the_agent() {
    let mut b = Bench::of([spec_with("m0", |s| s.legs.insert(0, labs::leg("mains")))]);
    let id = b.hold("ada", ask("", Want::Image));
    assert_eq!(b.boards[&name("m0")].legs, [true, true]);
    b.release("ada", id);
    b.obey();
    assert_eq!(b.boards[&name("m0")].legs, [false, false]);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_proven_disk_is_read_back_again_and_not_written_again() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    let writes = b.count(|c| matches!(c, Change::DiskWriting { .. }));
    let id = b.reserve("bob", ask("", Want::Image));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.count(|c| matches!(c, Change::DiskWriting { .. })), writes, "it held the image already");
}

#[test]
fn a_disk_that_differs_from_its_certificate_is_written() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    b.board(&name("m0")).disks[0] = Some(Some("b3:else".into()));
    let id = b.reserve("bob", ask("", Want::Image));
    b.obey();
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned()))]);
}

#[test]
fn an_untouched_bare_machine_is_not_booted_for_the_next_holder() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    let boots = b.boards[&name("m0")].boots;
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    assert_eq!(b.status(next), "ready");
    assert_eq!(b.boards[&name("m0")].boots, boots);
}

#[test]
fn a_bare_machine_with_an_image_asked_for_holds_that_image() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Bare));
    b.release("ada", id);
    b.obey();
    let next = b.reserve_image("bob", ask("", Want::Bare), Some("yocto"));
    b.obey();
    assert_eq!(b.status(next), "ready");
    let yocto = Some(Some("b3:yocto".to_owned()));
    assert_eq!(b.boards[&name("m0")].disks, [yocto], "proven, but with another image than the one asked for");
}

#[test]
fn a_used_disk_is_never_handed_to_one_who_did_not_accept_it() {
    for want in [Want::Bare, Want::Agent, Want::Image] {
        for power_off in [false, true] {
            let after = power_off.then_some(crate::inventory::model::AfterBuild::PowerOff);
            let mut b = Bench::of([spec_with("m0", |s| s.after_build = after)]);
            let first = b.hold("ada", ask("", Want::Image));
            b.board(&name("m0")).disks[0] = Some(Some("the bytes of ada".into()));
            b.release("ada", first);
            let second = b.reserve("bob", ask("", want));
            b.obey();
            assert_eq!(b.status(second), "ready");
            assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:debian".to_owned()))], "{want:?}");
        }
    }
}

#[test]
fn release_at_any_moment_leads_back_to_rest() {
    // One obeyed effect more each time, until the machine is in use.
    for want in [Want::Bare, Want::Agent, Want::Image] {
        for effects in 0..40 {
            let mut b = Bench::of([spec("m0")]);
            let id = b.reserve("ada", ask("", want));
            for _ in 0..effects {
                b.obey_next();
            }
            b.release("ada", id);
            b.live(120_000);
            assert_eq!(b.state("m0"), "free", "{want:?}, released after {effects} effects");
            assert!(b.machine("m0").settled() && !b.boards[&name("m0")].legs[0]);
            let next = b.reserve("bob", ask("", Want::Image));
            b.obey();
            assert_eq!(b.status(next), "ready", "{want:?}, released after {effects} effects");
        }
    }
}
