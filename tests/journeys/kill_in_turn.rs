//! The daemon is killed at every phase of a turn: nothing acknowledged is
//! lost, the turn ends as it would have, and nothing is quarantined for it.

use crate::harness::{Lab, assert_exactly, kind, numbers, of_kind, phase};
use pitstop::sim::image::Options;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const INVENTORY: &str = r#"
format = 1
[lab]
name = "killed"
[machine.board]
power.sim        = { disk = "8M", boot = "100ms" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
image            = "blue"
# A command that a killed daemon gave may land for twice the power limit:
# short, since each is waited out.
timeout          = { power = "3s", firmware = "30s", attach = "30s", reimage = "60s", evidence = "30s" }
[policy.person]
after_build = "reimage"
"#;

/// Kills the daemon and starts it again, once for each thing that `what`
/// names in an event, until an event of kind `end`. `pause` is how long after
/// the event was seen: a kill at once meets the effects on their way out, a
/// later one meets them on their way back.
fn kill_at_each(
    lab: &mut Lab,
    id: &str,
    pause: Duration,
    what: impl Fn(&Value) -> Option<String>,
    end: &str,
    from: u64,
) -> BTreeSet<String> {
    let mut killed = BTreeSet::new();
    let mut follow = lab.follow();
    loop {
        let event = follow.next();
        if event["number"].as_u64().unwrap() <= from {
            continue;
        }
        if kind(&event) == end {
            return killed;
        }
        let Some(at) = what(&event).filter(|at| !killed.contains(at)) else { continue };
        killed.insert(at.clone());
        std::thread::sleep(pause);
        lab.kill9();
        lab.start();
        let r = lab.reservation(id);
        assert_eq!(r["id"], id, "killed at {at}");
        assert_eq!(r["machines"][0]["machine"], "board", "killed at {at}: {r}");
    }
}

fn newest(lab: &Lab) -> u64 {
    *numbers(&lab.events()).last().unwrap()
}

/// A whole turn with the daemon killed at each thing that `what` names, in
/// the preparation and in the turnaround. What was named in each.
fn turn_with_kills(pause: Duration, what: impl Fn(&Value) -> Option<String>) -> [BTreeSet<String>; 2] {
    let mut lab = Lab::started(INVENTORY);
    let image = lab.image("blue", &Options { content: 1 << 20, ..Options::default() });
    let id = lab.queue(&["name=board", "--image", "blue"]);
    let prepare = kill_at_each(&mut lab, &id, pause, &what, "reservation-ready", 0);
    let held = lab.json(&["reserve", "--resume", &id]);
    assert_eq!(held["state"], "active");
    assert_eq!(lab.ok(&["run", "board", "--", "echo", "still mine"]), "still mine\n");
    let at_hand_over = newest(&lab);
    check_prepared(&lab, &id);

    lab.ok(&["release", &id]);
    let back = kill_at_each(&mut lab, &id, pause, &what, "freed", at_hand_over);
    let machine = lab.until_state("board", "free");
    check_clean(&lab, &machine);
    assert_exactly(&lab.disk("board", "root"), Some(&image));
    check_history(&lab);
    lab.stop();
    [prepare, back]
}

/// The disk was proven by the last attempt before it was handed over.
fn check_prepared(lab: &Lab, id: &str) {
    let events = lab.events();
    let image = lab.json(&["image", "show", "blue"]);
    let proven = of_kind(&events, "board", "disk-proven");
    let last = *proven.last().expect("the disk was proven");
    let certificate = &last["data"]["certificate"];
    assert_eq!(certificate["digest"], image["digest"]);
    assert_eq!(certificate["proof"]["read_bytes"], 8 << 20);
    let attempt = of_kind(&events, "board", "attempt-started").last().unwrap()["data"]["attempt"].clone();
    assert_eq!(certificate["attempt"], attempt, "an attempt that proved nothing handed over");
    // Nothing may come between a proof and the hand-over of what it proves.
    let (proof, used) = (number(last), number(of_kind(&events, "board", "disk-used").last().unwrap()));
    assert!(proof < used);
    assert!(of_kind(&events, "board", "disk-writing").iter().all(|e| number(e) < proof));
    assert_eq!(lab.machine("board")["disks"][0]["used_by"], id);
}

fn check_clean(lab: &Lab, machine: &Value) {
    assert_eq!(machine["health"]["is"], "good");
    assert_eq!(machine["clean"], "proven", "{machine}");
    let disk = &machine["disks"][0];
    let image = lab.json(&["image", "show", "blue"]);
    assert_eq!((&disk["content"], &disk["digest"]), (&"proven".into(), &image["digest"]));
    assert_eq!((&disk["read_bytes"], &disk["device_bytes"]), (&(8 << 20).into(), &(8 << 20).into()));
    let events = lab.events();
    let proof = number(of_kind(&events, "board", "disk-proven").last().unwrap());
    assert!(of_kind(&events, "board", "disk-writing").iter().all(|e| number(e) < proof));
    assert!(of_kind(&events, "board", "disk-used").iter().all(|e| number(e) < proof));
}

/// No number is missing or there twice, and nobody was blamed for the kills.
fn check_history(lab: &Lab) {
    let db = lab.database();
    let mut query = db.prepare("SELECT number FROM record ORDER BY number").unwrap();
    let stored: Vec<i64> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(stored, (1..=stored.len() as i64).collect::<Vec<_>>());
    for event in lab.events() {
        assert!(!event["text"].as_str().unwrap().contains("quarantined"), "{event}");
        assert_ne!(kind(&event), "phase-failed", "a daemon that died is nobody's failure: {event}");
    }
}

fn number(event: &Value) -> u64 {
    event["number"].as_u64().unwrap()
}

fn at_each_phase(pause: Duration) {
    let [prepare, back] = turn_with_kills(pause, phase);
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    let all = ["off", "boot-agent", "disk writing", "seed", "hand-off", "evidence", "settle"];
    assert!(prepare.is_superset(&set(&all)), "{prepare:?}");
    assert!(back.is_superset(&set(&["off", "boot-agent", "disk writing", "rest", "settle"])), "{back:?}");
}

#[test]
fn killed_at_each_phase_at_once() {
    at_each_phase(Duration::ZERO);
}

#[test]
fn killed_at_each_phase_with_effects_under_way() {
    at_each_phase(Duration::from_millis(10));
}

#[test]
fn killed_at_each_phase_with_effects_mostly_done() {
    at_each_phase(Duration::from_millis(60));
}

#[test]
fn killed_at_each_kind_of_record() {
    let what = |event: &Value| Some(kind(event).to_owned()).filter(|k| k != "opened");
    let [prepare, back] = turn_with_kills(Duration::ZERO, what);
    for kind in
        ["granted", "power-intended", "attempt-started", "agent-attached", "step-told", "disk-writing"]
    {
        assert!(prepare.contains(kind), "{kind}: {prepare:?}");
    }
    for kind in ["ended", "agent-attached", "disk-proven", "step-done"] {
        assert!(back.contains(kind), "{kind}: {back:?}");
    }
}
