//! Hooks, and boards that a program of the lab's writes.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::effect::Effect;
use crate::event::{Event, Fact, PowerAction, ProgramTrouble, ReadBack, Request};
use crate::inventory::model::{AfterBuild, DriverSpec, MachineSpec};
use crate::inventory::{Hook, Point};
use crate::machine::{Content, FailureClass, Health, Phase, Reading, Switch};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, Want};
use crate::simulator::labs;
use pitstop_wire::Code;
use serde_json::json;
use std::sync::Arc;

/// A hook that only warns has `soft` in its name.
fn hook(name: &str, run: &[&str]) -> Hook {
    let on_error = if name.contains("soft") { "warn" } else { "quarantine" };
    let mut hook = labs::hook(name, on_error);
    let mut fields = (*hook.command.fields).clone();
    fields.insert("run".to_owned(), json!(run));
    hook.command.fields = Arc::new(fields);
    hook
}

fn with_hooks(hooks: &[(Point, &str)]) -> Bench {
    Bench::of([spec_with("m0", |s| {
        for (point, name) in hooks {
            s.hooks.entry(*point).or_default().push(hook(name, &["run", "{machine}"]));
        }
    })])
}

/// A board that its console shows to be up, written by a program.
fn board(s: &mut MachineSpec) {
    s.ready = DriverSpec::named("console");
    labs::flash(s);
}

fn boards(change: impl Fn(&mut MachineSpec)) -> Bench {
    Bench::of([spec_with("m0", |s| {
        board(s);
        change(s);
    })])
}

fn by_command(want: Want) -> Ask {
    Ask { clean: CleanLevel::ByCommand, ..ask("", want) }
}

fn ran(b: &Bench) -> Vec<String> {
    b.hooks.iter().map(|(point, hook, _)| format!("{point} {hook}")).collect()
}

fn is_hook(point: Point) -> impl Fn(&Phase) -> bool {
    move |phase| matches!(phase, Phase::Hook { point: p, .. } if *p == point)
}

/// The program that was begun last, which nobody obeys.
fn begun(b: &mut Bench) -> Effect {
    let is_program = |e: &Effect| matches!(e, Effect::Hook { .. } | Effect::Program { .. });
    let at = b.effects.iter().rposition(|(_, e)| is_program(e)).expect("no program was begun");
    b.effects.remove(at).unwrap().1
}

fn hook_says(b: &mut Bench, effect: &Effect, over: bool, result: Result<(), &str>) {
    let Effect::Hook { machine, intent, nonce, .. } = effect.clone() else { panic!("{effect:?}") };
    let result = result.map_err(|said| ProgramTrouble { lab: false, text: said.to_owned() });
    let epoch = b.lab.meta().epoch;
    b.event(Event::Fact { epoch, fact: Fact::Hooked { machine, intent, nonce, over, result } });
}

fn why(b: &Bench) -> String {
    let why = b.lab.why_machine(&name("m0"), crate::time::LabTime(b.now)).unwrap();
    why.reasons.iter().map(|r| format!("{}\n", r.text)).collect()
}

fn quarantined(b: &Bench) -> FailureClass {
    match &b.machine("m0").health {
        Health::Quarantined { failure, .. } => failure.class,
        other => panic!("it is not in quarantine: {other:?}"),
    }
}

// ── hooks ──

#[test]
fn hooks_run_in_another_order_than_their_points_have() {
    use Point::*;
    let all = [
        (BeforePower, "a"),
        (BeforePower, "b"),
        (AfterAttach, "c"),
        (AfterImage, "d"),
        (BeforeRelease, "e"),
        (OnFailure, "f"),
    ];
    let mut b = with_hooks(&all);
    let id = b.hold("ada", ask("", Want::Image));
    assert_eq!(ran(&b), ["before_power a", "before_power b", "after_attach c", "after_image d"]);
    assert!(b.hooks.iter().all(|(_, _, fill)| fill.words["machine"] == "m0"));
    let phases = ["off", "hook", "hook", "off", "boot agent", "hook", "disk", "hook", "hook", "hand-over"];
    assert_eq!(b.phases("m0")[..10], phases);
    b.hooks.clear();
    b.release("ada", id);
    b.obey();
    let turn = ["before_release e", "before_power a", "before_power b", "after_attach c", "after_image d"];
    assert_eq!(ran(&b), turn, "a turnaround");
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "proven"));
    b.hooks.clear();
    // Proven and off: nothing is switched on, and nobody had it.
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey();
    b.release("ada", id);
    b.obey();
    assert_eq!(ran(&b), [""; 0]);
}

#[test]
fn a_hook_that_fails_is_passed_over() {
    for (point, phase) in
        [(Point::BeforePower, "hook"), (Point::AfterAttach, "hook"), (Point::AfterImage, "hook")]
    {
        let mut b = with_hooks(&[(point, "bad"), (Point::OnFailure, "tell")]);
        b.quirks.hooks = vec![("bad", "exit 3: no such relay")];
        let id = b.reserve("ada", ask("", Want::Image));
        b.live(120_000);
        assert_eq!((b.status(id), quarantined(&b)), ("waiting", FailureClass::Health), "{point}");
        let failed = b.failures("m0");
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert_eq!(failed[0], format!("health: hook {point} bad: exit 3: no such relay"));
        assert!(
            b.changes().any(|c| matches!(c, Change::PhaseFailed { failure, .. } if failure.phase == phase))
        );
        assert!(!b.machine("m0").all_proven(), "{point}");
        assert_eq!(ran(&b).last().unwrap(), "on_failure tell");
        assert!(why(&b).contains("no such relay"), "{}", why(&b));
    }
}

#[test]
fn a_bench_host_that_is_down_puts_machines_in_quarantine() {
    for point in [Point::BeforePower, Point::AfterImage, Point::BeforeRelease] {
        let mut b = with_hooks(&[(point, "far")]);
        let id = b.reserve("ada", ask("", Want::Image));
        if point == Point::BeforeRelease {
            b.live(60_000);
            b.ok("ada", Request::Claim(id));
            b.quirks.hooks = vec![("far", "lab: host bench1: no route")];
            b.release("ada", id);
        } else {
            b.quirks.hooks = vec![("far", "lab: host bench1: no route")];
        }
        b.live(30_000);
        assert!(b.failures("m0").iter().all(|f| f.starts_with("lab: ")), "{:?}", b.failures("m0"));
        assert_eq!((b.failures("m0").is_empty(), &b.machine("m0").health), (false, &Health::Good), "{point}");
        b.quirks.hooks.clear();
        let state = if point == Point::BeforeRelease { "free" } else { "ready" };
        let end = b.now + 3_600_000;
        while b.state("m0") != state || b.machine("m0").pause.is_some() {
            assert!(b.now < end, "{point}: it does not come back by itself: {}", b.state("m0"));
            b.live(10_000);
        }
    }
}

fn with_image_hook(place: &str) -> Bench {
    Bench::of([spec_with("m0", |s| {
        s.hooks.entry(Point::BeforePower).or_default().push(hook("load", &["load", place]));
    })])
}

#[test]
fn a_hook_that_names_an_image_puts_machines_in_quarantine_that_get_none() {
    let mut b = with_image_hook("{image.name}");
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().image = None);
    b.hold("ada", ask("", Want::Bare));
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    assert_eq!(ran(&b), [""; 0]);
    let told = |c: &Change| matches!(c, Change::ProgramEnded { trouble: Some(why), warned: true, .. } if why.contains("no image"));
    assert_eq!(b.count(told), 1, "nobody hears that it was not run");
}

#[test]
fn what_was_forgotten_beside_an_image_puts_machines_in_quarantine() {
    let mut b = with_image_hook("{image.bootloader}");
    let id = b.reserve("ada", ask("", Want::Image));
    b.live(120_000);
    assert!(b.failures("m0")[0].contains("there is no image `debian.bootloader`"), "{:?}", b.failures("m0"));
    assert_eq!(b.machine("m0").health, Health::Good, "{:?}", b.failures("m0"));
    assert_eq!(b.status(id), "ended", "it wants what cannot be given");
}

#[test]
fn a_hook_that_only_warns_ends_a_turn_or_leaves_no_trace() {
    let mut b = with_hooks(&[(Point::AfterImage, "soft"), (Point::AfterImage, "next")]);
    b.quirks.hooks = vec![("soft", "exit 3")];
    let id = b.hold("ada", ask("", Want::Image));
    assert_eq!(b.status(id), "active");
    assert_eq!(ran(&b), ["after_image soft", "after_image next"]);
    let warned = |c: &Change| matches!(c, Change::ProgramEnded { trouble: Some(said), warned: true, .. } if said == "exit 3");
    assert_eq!(b.count(warned), 1);
}

#[test]
fn a_hook_that_hangs_is_waited_for_for_ever_and_nobody_says_why() {
    let mut b = with_hooks(&[(Point::BeforePower, "slow")]);
    b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", is_hook(Point::BeforePower));
    let first = begun(&mut b);
    let text = why(&b);
    assert!(text.contains("hook before_power slow runs: run on the daemon's host"), "{text}");
    assert!(text.contains("the limit is `timeout` of the hook"), "{text}");
    b.pass(41_000);
    assert_eq!(b.failures("m0"), ["health: hook before_power slow did not end in 40 s; power reads off"]);
    // Nobody waits for it any more.
    assert!(b.effects.iter().any(|(_, e)| matches!(e, Effect::Stop { .. })));
    // A word of it that comes now is of another run.
    b.obey_until("m0", is_hook(Point::BeforePower));
    hook_says(&mut b, &first, true, Ok(()));
    assert!(is_hook(Point::BeforePower)(&b.phase("m0")), "the first run's word ended the second");
}

#[test]
fn a_machine_is_switched_on_while_a_hook_may_still_act_on_it() {
    let mut b = with_hooks(&[(Point::BeforePower, "soft")]);
    b.reserve("ada", ask("", Want::Image));
    b.obey_until("m0", is_hook(Point::BeforePower));
    let slow = begun(&mut b);
    let may_land = b.machine("m0").legs[0].unsettled.last().unwrap().may_land_until;
    // It did not end in time; whether it is gone nobody knows.
    hook_says(&mut b, &slow, false, Err("not done in time"));
    b.obey();
    assert_eq!(b.phase("m0"), Phase::Off, "off is read once more behind the hook");
    b.board(&name("m0")).legs[0] = true; // late, it switches the machine on
    while b.now < may_land.0 {
        assert_eq!(b.boards[&name("m0")].boots, 0, "switched on too early");
        assert_eq!(b.phase("m0"), Phase::Off);
        b.live(1_000);
    }
    b.live(60_000);
    assert_eq!(b.state("m0"), "ready", "{:?}", b.failures("m0"));
}

#[test]
fn a_hook_resets_a_machine_and_its_proof_of_before_counts() {
    for soft in [false, true] {
        let called = if soft { "soft" } else { "hard" };
        let mut b = with_hooks(&[(Point::AfterImage, called)]);
        let id = b.reserve("ada", ask("", Want::Bare));
        b.obey_until("m0", is_hook(Point::AfterImage));
        assert!(matches!(b.machine("m0").disks[0].content, Content::Proven(_)));
        assert!(!b.machine("m0").all_proven(), "it counts while a hook may boot the machine");
        let run = begun(&mut b);
        // It resets the board, which boots its own disk: our agent is gone.
        b.lost("m0");
        b.board(&name("m0")).boots += 1;
        hook_says(&mut b, &run, true, Ok(()));
        while b.effects.iter().any(|(_, e)| matches!(e, Effect::Observe { .. })) {
            b.obey_next();
        }
        // Power is on, as it was; and nobody is there to hear what is asked.
        b.effects.retain(|(_, e)| !matches!(e, Effect::Tell { .. }));
        assert_eq!(b.phase("m0"), Phase::AfterHooks);
        assert_ne!(b.status(id), "ready");
        b.pass(61_000);
        assert!(b.failures("m0")[0].starts_with("agent: "), "{:?}", b.failures("m0"));
        let before = b.count(|c| matches!(c, Change::DiskProven { .. }));
        b.live(120_000);
        assert_eq!(b.status(id), "ready");
        assert_eq!(
            b.count(|c| matches!(c, Change::DiskProven { .. })),
            before + 1,
            "nobody read its disk since"
        );
    }
}

#[test]
fn whoever_leaves_during_a_hook_leaves_a_machine_that_is_called_proven() {
    let mut b = with_hooks(&[(Point::AfterImage, "x")]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m0", is_hook(Point::AfterImage));
    begun(&mut b);
    b.release("ada", id);
    let stopped = b.effects.iter().any(|(_, e)| matches!(e, Effect::Stop { .. }));
    assert!(stopped, "its hook goes on");
    assert!(!b.machine("m0").all_proven());
    let before = b.count(|c| matches!(c, Change::DiskProven { .. }));
    b.live(120_000);
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "proven"));
    assert_eq!(b.count(|c| matches!(c, Change::DiskProven { .. })), before + 1);
}

#[test]
fn a_machine_is_free_while_a_stopped_hook_may_still_act() {
    let mut b = with_hooks(&[(Point::AfterImage, "x")]);
    let id = b.reserve("ada", ask("", Want::Bare));
    b.obey_until("m0", is_hook(Point::AfterImage));
    begun(&mut b);
    let may_land = b.machine("m0").legs[0].unsettled.last().unwrap().may_land_until;
    b.release("ada", id);
    // Whether it is gone nobody says.
    b.effects.retain(|(_, e)| !matches!(e, Effect::Stop { .. }));
    while b.now < may_land.0 {
        assert_eq!(b.phase("m0"), Phase::Off);
        b.live(1_000);
    }
    b.live(60_000);
    assert_eq!(b.state("m0"), "free", "{:?}", b.failures("m0"));
}

#[test]
fn a_daemon_that_died_during_a_hook_forgets_it() {
    let points = [Point::BeforePower, Point::AfterAttach, Point::AfterImage, Point::BeforeRelease];
    for point in points {
        let mut b = with_hooks(&[(point, "x")]);
        let id = if point == Point::BeforeRelease {
            let id = b.hold("ada", ask("", Want::Image));
            b.release("ada", id);
            id
        } else {
            b.reserve("ada", ask("", Want::Image))
        };
        b.obey_until("m0", is_hook(point));
        let first = begun(&mut b);
        b.restart();
        let Effect::Hook { nonce, .. } = &first else { panic!() };
        let second = begun(&mut b);
        assert!(
            matches!(&second, Effect::Hook { nonce: n, .. } if n != nonce),
            "{point}: the same run again"
        );
        let lost = |c: &Change| matches!(c, Change::ProgramEnded { trouble: Some(said), .. } if said.contains("restarted"));
        assert_eq!(b.count(lost), 1, "{point}: what became of the first is not written down");
        if point.has_agent() {
            b.resume("m0");
        }
        hook_says(&mut b, &second, true, Ok(()));
        b.live(300_000);
        let ended = matches!(point, Point::BeforeRelease);
        assert_eq!(b.status(id), if ended { "ended" } else { "ready" }, "{point}: {:?}", b.failures("m0"));
        assert!(b.failures("m0").is_empty(), "{point}: it is blamed for our death: {:?}", b.failures("m0"));
    }
}

#[test]
fn a_hook_before_the_release_runs_for_the_next_holder_or_blocks_the_release() {
    let mut b = with_hooks(&[(Point::BeforeRelease, "fetch")]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    assert_eq!(b.status(id), "ended");
    assert!(b.machine("m0").agent.is_none(), "his commands run on");
    assert_eq!(b.boards[&name("m0")].legs, [true], "it is still as he left it");
    b.quirks.hooks = vec![("fetch", "exit 1")];
    b.live(60_000);
    assert_eq!(ran(&b), ["before_release fetch", "before_release fetch"], "once for each try");
    assert_eq!(quarantined(&b), FailureClass::Health);
    b.live(60_000);
    assert_eq!(b.boards[&name("m0")].legs, [false], "it stays on in quarantine");
}

#[test]
fn a_quarantine_waits_for_the_hooks_of_a_failure() {
    let mut b =
        with_hooks(&[(Point::OnFailure, "tell"), (Point::OnFailure, "log"), (Point::AfterAttach, "bad")]);
    b.quirks.hooks = vec![("bad", "no")];
    b.reserve("ada", ask("", Want::Image));
    while b.state("m0") != "quarantined" {
        assert!(b.obey_next(), "it is never given up");
    }
    let run = begun(&mut b);
    assert!(why(&b).contains("hook on_failure tell runs"), "{}", why(&b));
    // An admin does not wait either; but power is not touched while it runs.
    b.ok("admin", Request::Prove(name("m0")));
    b.quirks.hooks.clear();
    b.live(10_000);
    assert_eq!(b.phase("m0"), Phase::Off);
    hook_says(&mut b, &run, true, Err("no mail"));
    b.live(60_000);
    assert_eq!(b.state("m0"), "ready", "{:?}", b.failures("m0"));
    assert!(!ran(&b).contains(&"on_failure log".to_owned()), "it runs into the next turn");
}

#[test]
fn a_file_of_another_image_is_given_to_a_hook() {
    let mut b = Bench::of([spec_with("m0", |s| {
        let run = ["flash", "{machine}", "{image.name}", "--file={image.boot}", "{image}"];
        s.hooks.insert(Point::AfterImage, vec![hook("x", &run)]);
    })]);
    b.reserve("ada", ask("", Want::Bare));
    b.live(60_000);
    assert!(b.failures("m0")[0].contains("there is no image `debian.boot`"), "{:?}", b.failures("m0"));
    let boot = crate::machine::ImageRef { name: "debian.boot".into(), digest: "b3:boot".into(), seed: None };
    b.ok("admin", Request::NameImage { image: boot, bytes: 4096 });
    b.ok("admin", Request::TrustImage("debian".into()));
    let id = b.reserve("ada", ask("", Want::Image));
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    let (_, _, fill) = b.hooks.last().unwrap();
    assert_eq!((fill.words["machine"].as_str(), fill.words["image.name"].as_str()), ("m0", "debian"));
    assert_eq!((fill.files["image.boot"].as_str(), fill.files["image"].as_str()), ("b3:boot", "b3:debian"));
}

// ── boards ──

#[test]
fn a_board_is_handed_on_with_its_last_holders_bytes() {
    for after_build in [AfterBuild::Reimage, AfterBuild::PowerOff] {
        let mut b = boards(|s| s.after_build = Some(after_build));
        assert_eq!(b.refused_ask(ask("", Want::Image)), Code::NotFound, "a command's word is called proven");
        let id = b.hold("ada", by_command(Want::Image));
        assert_eq!(b.phases("m0"), ["off", "disk", "hand-over", "evidence", "settle"]);
        b.board(&name("m0")).disks[0] = Some(Some("b3:adas".into()));
        b.release("ada", id);
        b.obey();
        assert_eq!(b.state("m0"), "free");
        let clean = if after_build == AfterBuild::Reimage { "by-command" } else { "used" };
        assert_eq!(b.machine("m0").clean(), clean);
        let id = b.hold("bob", by_command(Want::Bare));
        assert_eq!(b.boards[&name("m0")].disks[0], Some(Some("b3:debian".into())), "{after_build:?}");
        assert_eq!(b.boards[&name("m0")].legs, [false]);
        assert_eq!(b.machine("m0").clean(), "used", "it is his now");
        b.release("bob", id);
        b.obey();
    }
}

#[test]
fn a_board_is_clean_by_command_without_anything_that_read_it_back() {
    let mut b = boards(|s| {
        let mut fields = (*s.reimage.fields).clone();
        fields.remove("read_back");
        s.reimage.fields = Arc::new(fields);
    });
    assert_eq!(b.refused_ask(by_command(Want::Bare)), Code::NotFound);
    let id = b.hold("ada", Ask { clean: CleanLevel::Any, ..ask("", Want::Image) });
    assert_eq!(b.boards[&name("m0")].disks[0], Some(Some("b3:debian".into())));
    b.release("ada", id);
    b.obey();
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "used"));
}

#[test]
fn what_differs_from_the_image_is_called_clean() {
    let mut b = boards(|_| {});
    b.quirks.programmer = Some((false, "byte 12 is not the image's"));
    let id = b.reserve("ada", by_command(Want::Bare));
    b.live(120_000);
    assert_eq!((b.status(id), quarantined(&b)), ("waiting", FailureClass::Disk));
    assert_eq!(b.machine("m0").clean(), "writing");
    assert_eq!(b.count(|c| matches!(c, Change::DiskByCommand { .. })), 0);
    assert!(b.failures("m0")[0].contains("byte 12"), "{:?}", b.failures("m0"));
}

#[test]
fn a_part_of_the_image_is_taken_for_all_of_it() {
    let mut b = boards(|_| {});
    b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    b.obey_next();
    let Effect::Program { machine, intent, nonce, .. } = begun(&mut b) else { panic!() };
    let epoch = b.lab.meta().epoch;
    let result = Ok(Some(ReadBack { by: "x".into(), image_bytes: 100, read_bytes: 99 }));
    b.event(Event::Fact { epoch, fact: Fact::Programmed { machine, intent, nonce, over: true, result } });
    assert!(b.failures("m0")[0].starts_with("disk: 99 bytes"), "{:?}", b.failures("m0"));
}

#[test]
fn a_board_is_blamed_for_the_labs_own_disk() {
    let mut b = boards(|s| s.limits.reimage_ms = 60_000);
    b.quirks.programmer = Some((true, "no space left on the daemon's disk"));
    let id = b.reserve("ada", by_command(Want::Bare));
    b.live(30_000);
    assert!(matches!(b.phase("m0"), Phase::Flash { writing: true }));
    assert!(why(&b).contains("not its fault: no space left"), "{}", why(&b));
    assert_eq!(b.failures("m0").len(), 0);
    let tries = b.count(|c| matches!(c, Change::ProgramBegun { .. }));
    assert!((3..=8).contains(&tries), "{tries} tries in half a minute");
    // It is mended in time.
    b.quirks.programmer = None;
    b.live(10_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_board_that_the_lab_cannot_write_is_put_into_quarantine() {
    let mut b = boards(|s| s.limits.reimage_ms = 60_000);
    b.quirks.programmer = Some((true, "host bench1: no route"));
    let id = b.reserve("ada", by_command(Want::Bare));
    b.live(600_000);
    let m = b.machine("m0");
    assert_eq!((b.state("m0"), &m.health), ("free", &Health::Good));
    assert_eq!(m.pause.map(|p| p.cause), Some(FailureClass::Lab));
    assert!(b.failures("m0").iter().all(|f| f.starts_with("lab: ")), "{:?}", b.failures("m0"));
    assert!(why(&b).contains("the lab could not do its part"), "{}", why(&b));
    assert_eq!(b.status(id), "waiting");
    b.quirks.programmer = None;
    b.live(1_200_000);
    assert_eq!(b.status(id), "ready", "it never gets the board, which was well all the time");
}

#[test]
fn two_programmers_write_a_board_at_once() {
    let mut b = boards(|_| {});
    let id = b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    b.obey_next();
    let Effect::Program { nonce: first, .. } = begun(&mut b) else { panic!() };
    let may_land = b.machine("m0").legs[0].unsettled.last().unwrap().may_land_until;
    assert_eq!(b.machine("m0").clean(), "writing", "in the commit before the program is begun");
    b.restart();
    while b.now + 1_000 < may_land.0 {
        assert_eq!(b.phase("m0"), Phase::Off, "the last one may still write");
        b.live(1_000);
    }
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    assert!(b.now >= may_land.0, "too early");
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    let wrote = |c: &Change| matches!(c, Change::ProgramBegun { nonce, .. } if *nonce == first);
    assert_eq!(b.count(wrote), 1);
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_board_is_written_with_nothing() {
    let mut b = boards(|s| s.image = None);
    assert_eq!(b.refused_ask(by_command(Want::Bare)), Code::NotFound);
    let id = b.reserve_image("ada", by_command(Want::Bare), Some("yocto"));
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].disks[0], Some(Some("b3:yocto".into())));
    b.ok("ada", Request::Claim(id));
    b.release("ada", id);
    b.live(60_000);
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "used"), "there is no image to write");
}

#[test]
fn a_board_under_another_name_is_written_by_two_programmers() {
    let mut b = boards(|_| {});
    b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    b.obey_next();
    let run = begun(&mut b);
    b.reload(|inventory| {
        let spec = inventory.machines.remove(&name("m0")).unwrap();
        inventory.machines.insert(name("m1"), MachineSpec { name: name("m1"), ..spec });
    });
    let enrol = Request::Enrol { select: Default::default(), listed: vec![name("m1")] };
    assert_eq!(b.refused("admin", enrol.clone()), Code::Conflict, "the old name's programmer still runs");
    // The hand ends it, and says so.
    let Effect::Program { machine, intent, nonce, .. } = run else { panic!() };
    let result = Err(ProgramTrouble { lab: false, text: "the inventory says otherwise".into() });
    let epoch = b.lab.meta().epoch;
    b.event(Event::Fact { epoch, fact: Fact::Programmed { machine, intent, nonce, over: true, result } });
    b.effects.clear();
    b.pass(900_000);
    assert!(b.lab.machine(&name("m0")).is_none(), "the old name is never forgotten");
    b.ok("admin", enrol);
}

#[test]
fn a_board_that_left_the_inventory_while_it_was_written_is_handed_over_unread() {
    let mut b = boards(|_| {});
    let id = b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { writing: true }));
    b.obey_next();
    let run = begun(&mut b);
    b.reload(|inventory| drop(inventory.machines.remove(&name("m0"))));
    let Effect::Program { machine, intent, nonce, .. } = run else { panic!("{run:?}") };
    let read = ReadBack { by: "sim".into(), image_bytes: 4096, read_bytes: 4096 };
    let epoch = b.lab.meta().epoch;
    b.event(Event::Fact {
        epoch,
        fact: Fact::Programmed { machine, intent, nonce, over: true, result: Ok(Some(read)) },
    });
    b.obey();
    assert_ne!(b.status(id), "ready", "{:?}", b.lab.machine(&name("m0")));
}

#[test]
fn a_hook_behind_the_programmer_leaves_a_flash_that_nobody_has_read_since() {
    let mut b = boards(|s| {
        s.hooks.insert(Point::AfterImage, vec![hook("x", &["fuse", "{machine}"])]);
    });
    let id = b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", is_hook(Point::AfterImage));
    assert_eq!(b.machine("m0").clean(), "unknown", "it counts while a hook may change it");
    let run = begun(&mut b);
    b.board(&name("m0")).disks[0] = Some(Some("b3:else".into()));
    hook_says(&mut b, &run, true, Ok(()));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { writing: false } | Phase::Off));
    while b.failures("m0").is_empty() {
        assert!(b.obey_next() || b.now < 300_000, "{:?}", b.machine("m0"));
        b.live(1_000);
    }
    assert!(b.failures("m0")[0].contains("differs"), "{:?}", b.failures("m0"));
    b.live(120_000);
    assert_eq!(
        (b.status(id), b.boards[&name("m0")].disks[0].clone()),
        ("ready", Some(Some("b3:debian".into())))
    );
}

#[test]
fn a_board_without_power_is_written() {
    let mut b = boards(|_| {});
    b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    assert_eq!(b.power_waiting(), [Switch::On]);
    let on = b.take_power();
    b.answer_power(&on, Ok(Reading::Off), true);
    assert!(b.failures("m0")[0].starts_with("power"), "{:?}", b.failures("m0"));
    assert_eq!(b.count(|c| matches!(c, Change::ProgramBegun { .. })), 0);
}

#[test]
fn a_board_is_written_while_it_has_power_that_must_not_have_it() {
    let mut b = boards(|s| {
        let mut fields = (*s.reimage.fields).clone();
        fields.insert("power".into(), json!("off"));
        s.reimage.fields = Arc::new(fields);
    });
    let id = b.reserve("ada", by_command(Want::Bare));
    b.live(60_000);
    assert_eq!(b.status(id), "ready");
    assert_eq!(b.boards[&name("m0")].boots, 0, "it was switched on");
}

#[test]
fn a_holder_cannot_have_his_board_written_again() {
    let mut b = boards(|_| {});
    let id = b.hold("ada", by_command(Want::Image));
    b.board(&name("m0")).disks[0] = Some(Some("b3:mine".into()));
    b.ok("ada", Request::Reimage { machine: name("m0"), image: Some("yocto".into()) });
    b.live(120_000);
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert_eq!(b.boards[&name("m0")].disks[0], Some(Some("b3:yocto".into())));
}

#[test]
fn a_backup_forgets_that_a_program_runs() {
    let mut b = boards(|_| {});
    let backup = b.backup();
    b.reserve("ada", by_command(Want::Bare));
    b.obey_until("m0", |p| matches!(p, Phase::Flash { .. }));
    b.obey_next();
    begun(&mut b);
    let may_land = b.machine("m0").legs[0].unsettled.last().unwrap().may_land_until;
    b.restore(backup);
    let after = b.machine("m0").legs[0].unsettled.iter().map(|i| i.may_land_until).max().unwrap();
    assert!(after >= may_land, "{after:?} is before {may_land:?}");
}

#[test]
fn a_board_that_an_admin_switched_on_counts_as_just_written() {
    let mut b = boards(|_| {});
    let id = b.hold("ada", by_command(Want::Bare));
    b.release("ada", id);
    b.live(60_000);
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "by-command"));
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    let power = |action| Request::Power { machine: name("m0"), action, force: None };
    b.ok("admin", power(PowerAction::On));
    b.live(10_000);
    b.ok("admin", power(PowerAction::Off));
    b.live(60_000);
    b.ok("admin", Request::Undrain(name("m0")));
    assert_eq!(b.machine("m0").clean(), "used", "its flash ran, and may have written to itself");
    let written = b.count(|c| matches!(c, Change::DiskByCommand { .. }));
    b.hold("bob", by_command(Want::Bare));
    assert_eq!(b.count(|c| matches!(c, Change::DiskByCommand { .. })), written + 1);
}

#[test]
fn a_board_says_what_its_last_holder_left_on_it_to_everybody() {
    use crate::inventory::model::WatchConsoles;
    use crate::watching::Whose;
    let mut b = boards(|s| s.hooks.entry(Point::BeforeRelease).or_default().push(hook("fetch", &["fetch"])));
    b.reload(|inventory| inventory.lab.watch_consoles = WatchConsoles::Holder);
    let id = b.hold("ada", by_command(Want::Image));
    let whose = |b: &Bench| b.lab.whose_console(&name("m0"));
    assert!(matches!(whose(&b), Whose::Held(_)));
    b.release("ada", id);
    b.obey_until("m0", is_hook(Point::BeforeRelease));
    assert_eq!(whose(&b), Whose::Last, "it is on, as she left it");
    assert!(!b.lab.may_quote_console(&name("m0")));
    b.obey_until("m0", |p| *p == Phase::Off);
    assert_eq!(whose(&b), Whose::Last);
    b.obey_until("m0", |p| matches!(p, Phase::Flash { writing: true }));
    assert_eq!(whose(&b), Whose::Left, "it is switched on to be written, and runs what she left");
    assert!(!b.lab.may_quote_console(&name("m0")));
    b.live(120_000);
    assert_eq!((b.state("m0"), whose(&b)), ("free", Whose::Nobody));
    // Also of who is to get it next: until it is off and written, it is not his.
    b.read("m0", 0, Reading::On);
    b.reserve("bob", by_command(Want::Image));
    assert_eq!((b.phase("m0"), whose(&b)), (Phase::Off, Whose::Last));
}
