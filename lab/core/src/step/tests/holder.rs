//! What a holder may do, and what others may not.

use super::bench::{Bench, ask, caller, image, name};
use super::spec_with;
use crate::event::{Act, Event, Fact, Nudge, PowerAction, Request};
use crate::inventory::model::DriverSpec;
use crate::machine::{Content, FailureClass, Health, ImageRef};
use crate::record::Change;
use crate::reservation::{CleanLevel, End, Want};
use pitstop_wire::Code;
use pitstop_wire::agent::Outcome;

fn power(action: PowerAction, force: Option<&str>) -> Request {
    Request::Power { machine: name("m0"), action, force: force.map(str::to_owned) }
}

fn reimage(image: Option<&str>) -> Request {
    Request::Reimage { machine: name("m0"), image: image.map(str::to_owned) }
}

#[test]
fn a_stranger_switches_runs_or_reimages() {
    let mut b = Bench::new(&["m0", "m1"]);
    b.hold("ada", ask("name=m0", Want::Image));
    let run = || Request::Run { machine: name("m0"), command: "true".into() };
    for user in ["eve", "admin"] {
        assert_eq!(b.refused(user, power(PowerAction::Off, None)), Code::Held);
        assert_eq!(b.refused(user, run()), Code::Held);
        assert_eq!(b.refused(user, reimage(None)), Code::Held);
    }
    assert_eq!(b.refused("eve", power(PowerAction::Off, Some("mine"))), Code::Held);
    b.ok("admin", power(PowerAction::Off, Some("smoke")));
    let free = Request::Power { machine: name("m1"), action: PowerAction::On, force: None };
    assert_eq!(b.refused("ada", free), Code::Conflict, "a machine that nobody holds");
    let absent = Request::Power { machine: name("m00"), action: PowerAction::On, force: None };
    let error = b.request("ada", absent).unwrap_err();
    assert_eq!((error.code, error.hint.as_deref()), (Code::NotFound, Some("did you mean m0?")));
}

#[test]
fn an_admin_switches_a_machine_out_of_use_and_it_still_counts_as_clean() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.obey();
    assert_eq!((b.state("m0"), b.machine("m0").clean()), ("free", "proven"));
    assert_eq!(b.refused("admin", power(PowerAction::On, None)), Code::Conflict, "people may get it");
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    assert_eq!(b.refused("ada", power(PowerAction::On, None)), Code::Conflict);
    assert_eq!(b.refused("admin", power(PowerAction::Cycle, None)), Code::Conflict);
    b.ok("admin", power(PowerAction::On, None));
    assert_eq!(b.machine("m0").clean(), "used", "before the command leaves");
    b.obey();
    b.ok("admin", Request::Undrain(name("m0")));
    let id = b.reserve("ada", ask("", Want::Image));
    b.obey();
    assert_eq!((b.status(id), b.machine("m0").clean()), ("ready", "used"), "its own, after a proof");
    assert_eq!(b.phases("m0").first(), Some(&"off"));
}

#[test]
fn a_switch_is_flipped_by_who_may_switch_power_and_by_nobody_else() {
    let mut spec = spec_with("m0", |s| {
        s.switches.insert("sd".into(), DriverSpec::named("command"));
    });
    spec.buttons.insert("reset".into(), DriverSpec::named("command"));
    let mut b = Bench::of([spec]);
    let flip = |switch: &str, force: Option<&str>| Request::Fixture {
        machine: name("m0"),
        act: Act::Flip { switch: switch.into(), position: "host".into() },
        force: force.map(str::to_owned),
    };
    assert_eq!(b.refused("ada", flip("sd", None)), Code::Conflict, "nobody holds it");
    assert_eq!(b.refused("admin", flip("sd", Some("x"))), Code::Conflict, "anybody may get it");
    b.hold("ada", ask("", Want::Image));
    assert_eq!(b.refused("eve", flip("sd", None)), Code::Held);
    assert_eq!(b.refused("ada", flip("mux", None)), Code::NotFound);
    b.ok("ada", flip("sd", None));
    b.ok("admin", flip("sd", Some("it hangs")));
    let press = Act::Press { button: "reset".into() };
    b.ok("ada", Request::Fixture { machine: name("m0"), act: press.clone(), force: None });
    b.obey();
    assert_eq!(b.count(|c| matches!(c, Change::ActDone { .. })), 3);
    b.event(Event::Fact {
        epoch: b.lab.meta().epoch,
        fact: Fact::Acted {
            machine: name("m0"),
            intent: 0,
            act: press,
            begun: true,
            result: Err("stuck".into()),
        },
    });
    assert_eq!(b.count(|c| matches!(c, Change::ActFailed { answer, .. } if answer == "stuck")), 1);
}

#[test]
fn what_one_holder_pressed_acts_on_the_machine_of_the_next() {
    let mut b = Bench::of([spec_with("m0", |s| {
        s.buttons.insert("power".into(), DriverSpec::named("command"));
    })]);
    let id = b.hold("ada", ask("", Want::Bare));
    let press = Act::Press { button: "power".into() };
    b.ok("ada", Request::Fixture { machine: name("m0"), act: press, force: None });
    b.effects.retain(|(_, e)| !matches!(e, crate::effect::Effect::Act { .. }));
    assert!(!b.machine("m0").settled());
    b.release("ada", id);
    let next = b.reserve("bob", ask("", Want::Bare));
    b.obey();
    assert_ne!(b.status(next), "ready", "nobody knows whether it is over");
    b.restart();
    b.obey();
    assert_ne!(b.status(next), "ready", "nor after a restart");
    b.live(120_000);
    assert_eq!(b.status(next), "ready");
}

#[test]
fn what_was_never_begun_is_waited_for() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    let act = Act::Nudge(Nudge::Reset);
    b.ok("ada", Request::Fixture { machine: name("m0"), act: act.clone(), force: None });
    b.effects.retain(|(_, e)| !matches!(e, crate::effect::Effect::Act { .. }));
    let intent = b.machine("m0").intents;
    let epoch = b.lab.meta().epoch;
    let result = Err("it cannot".to_owned());
    b.event(Event::Fact {
        epoch,
        fact: Fact::Acted { machine: name("m0"), intent, act, begun: false, result },
    });
    assert!(b.machine("m0").settled());
    b.ok("ada", power(PowerAction::On, None));
}

#[test]
fn a_card_that_an_admin_took_from_a_machine_out_of_use_is_still_proven() {
    let mut b = Bench::of([spec_with("m0", |s| {
        s.switches.insert("sd".into(), DriverSpec::named("command"));
    })]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    b.obey();
    assert_eq!(b.machine("m0").clean(), "proven");
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "card".into() });
    let missing = Act::Flip { switch: "mux".into(), position: "host".into() };
    let request = Request::Fixture { machine: name("m0"), act: missing, force: None };
    assert_eq!(b.refused("admin", request), Code::NotFound);
    assert_eq!(b.machine("m0").clean(), "proven", "what was refused touched no card");
    let act = Act::Flip { switch: "sd".into(), position: "host".into() };
    b.ok("admin", Request::Fixture { machine: name("m0"), act, force: None });
    assert_eq!(b.machine("m0").clean(), "used", "before the switch moves");
}

#[test]
fn a_machine_that_is_switched_out_of_use_is_handed_over_while_that_may_land() {
    let mut b = Bench::new(&["m0"]);
    b.ok("admin", Request::Drain { machine: name("m0"), reason: "fan".into() });
    b.ok("admin", power(PowerAction::On, None));
    b.ok("admin", Request::Undrain(name("m0")));
    let id = b.reserve("ada", ask("", Want::Bare));
    assert!(!b.machine("m0").settled());
    b.obey();
    assert_ne!(b.status(id), "ready");
    b.live(600_000);
    assert!(b.machine("m0").settled());
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_new_machine_is_switched_without_a_reason() {
    let mut b = Bench::new(&["m0"]);
    b.reload(|i| i.machines.get_mut(&name("m0")).unwrap().disks[0].matching.serial = Some("other".into()));
    assert_eq!(b.state("m0"), "new");
    assert_eq!(b.refused("admin", power(PowerAction::On, None)), Code::Conflict);
    assert_eq!(b.refused("ada", power(PowerAction::On, Some("mine"))), Code::Conflict);
    b.ok("admin", power(PowerAction::On, Some("wiring")));
    b.obey();
    b.ok("admin", power(PowerAction::Off, Some("wiring")));
    b.obey();
    assert!(b.machine("m0").settled());
    assert_eq!(b.state("m0"), "new");
}

#[test]
fn the_former_holder_acts_after_his_release() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.release("ada", id);
    assert_eq!(b.refused("ada", power(PowerAction::On, None)), Code::Conflict);
    b.obey();
    b.hold("bob", ask("", Want::Image));
    assert_eq!(b.refused("ada", power(PowerAction::On, None)), Code::Held);
}

#[test]
fn to_use_a_ready_machine_one_must_first_say_that_one_came() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve("ada", ask("", Want::Bare));
    assert_eq!(b.refused("ada", power(PowerAction::On, None)), Code::Conflict, "it is not ready");
    b.obey();
    b.ok("ada", power(PowerAction::On, None));
    assert_eq!(b.in_use_by("m0"), Some(id));
}

#[test]
fn a_holders_reimage_loses_him_the_machine() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.board(&name("m0")).disks[0] = Some(Some("his bytes".into()));
    b.ok("ada", reimage(Some("yocto")));
    assert_eq!(b.status(id), "active");
    assert_eq!(b.refused("ada", power(PowerAction::Off, None)), Code::Conflict, "while it is imaged");
    b.obey();
    assert_eq!(b.in_use_by("m0"), Some(id));
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:yocto".to_owned()))]);
    assert_eq!(b.machine("m0").disks[0].content, Content::Used { by: Some(id) });
    b.ok("ada", reimage(None));
    b.obey();
    assert_eq!(b.boards[&name("m0")].disks, [Some(Some("b3:yocto".to_owned()))], "the one it had");
    b.ok("ada", reimage(None));
    b.release("ada", id);
    b.live(60_000);
    assert_eq!(b.state("m0"), "free");
}

#[test]
fn a_reimage_that_cannot_work_ends_the_reservation() {
    let mut b = Bench::new(&["m0"]);
    let seedless = ImageRef { seed: None, ..image("raw") };
    b.ok("admin", Request::NameImage { image: seedless, bytes: 1 });
    let id = b.hold("ada", ask("", Want::Image));
    assert_eq!(b.refused("ada", reimage(Some("nonsense"))), Code::NotFound);
    assert_eq!(b.refused("ada", reimage(Some("raw"))), Code::Conflict, "no host agent can come up from it");
    assert_eq!(b.in_use_by("m0"), Some(id));
    let wanted = Request::Reserve { ask: Box::new(ask("", Want::Image)), image: Some("raw".into()) };
    assert_eq!(b.refused("bob", wanted), Code::Conflict);
}

#[test]
fn a_reimage_of_a_machine_that_runs_no_agent_says_it_was_done() {
    let mut b = Bench::of([spec_with("m0", |s| s.ready = DriverSpec::named("power"))]);
    let mut asked = ask("", Want::Image);
    asked.clean = CleanLevel::Any;
    b.hold("ada", asked);
    assert_eq!(b.refused("ada", reimage(None)), Code::Conflict, "nobody can write its disk");
}

#[test]
fn a_failed_reimage_leaves_him_with_half_a_disk() {
    let mut b = Bench::new(&["m0"]);
    let id = b.hold("ada", ask("", Want::Image));
    b.quirks.image = Some(|_| Outcome::Failed { reason: "input/output error".into(), image: false });
    b.ok("ada", reimage(None));
    b.live(120_000);
    assert!(matches!(b.end(id), End::Failed { class: FailureClass::Disk, .. }));
    assert!(matches!(b.machine("m0").health, Health::Quarantined { .. }));
}

#[test]
fn an_image_that_a_reservation_waits_for_is_removed() {
    let mut b = Bench::new(&["m0"]);
    let id = b.reserve_image("ada", ask("", Want::Image), Some("yocto"));
    assert_eq!(b.refused("admin", Request::ForgetImage("yocto".into())), Code::Conflict);
    assert_eq!(b.refused("ada", Request::ForgetImage("yocto".into())), Code::NotAllowed);
    b.release("ada", id);
    b.ok("admin", Request::ForgetImage("yocto".into()));
    let gone = Request::Reserve { ask: Box::new(ask("", Want::Image)), image: Some("yocto".into()) };
    assert_eq!(b.request_by(caller("ada"), gone).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_command_carries_line_breaks_into_the_audit() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Agent));
    b.ok("ada", Request::Run { machine: name("m0"), command: format!("a\nb\u{1b}{}", "x".repeat(500)) });
    let said = b.changes().find_map(|c| match c {
        crate::record::Change::RunStarted { command, .. } => Some(command.clone()),
        _ => None,
    });
    let said = said.unwrap();
    assert!(said.starts_with("abx") && said.len() == 200, "{said}");
}

#[test]
fn a_command_runs_where_no_agent_is() {
    let mut b = Bench::new(&["m0"]);
    b.hold("ada", ask("", Want::Bare));
    assert_eq!(
        b.refused("ada", Request::Run { machine: name("m0"), command: "true".into() }),
        Code::Conflict
    );
}
