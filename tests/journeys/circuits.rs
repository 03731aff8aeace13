//! A fuse, and a daemon that is killed while machines start: no more of them
//! start together than it bears, and no more are on.

use crate::harness::{Lab, block, kind};
use pitstop_drivers::sim::{self, Request};
use serde_json::Value;
use std::collections::BTreeSet;

const MACHINES: [&str; 3] = ["b1", "b2", "b3"];

const INVENTORY: &str = r#"
format = 1
[lab]
name = "fuse"
[circuit.rack]
max_starting = 1
max_on       = 2
[class.board]
circuit          = "rack"
power.sim        = { disk = "1M", boot = "100ms" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
# A command that a killed daemon gave may land for twice the power limit:
# short, since each is waited out.
timeout          = { power = "2s", firmware = "30s", attach = "30s", reimage = "60s" }
[machine."b[1-3]"]
class = "board"
"#;

/// How many machines are on, as they say themselves; one without a process
/// was never switched on.
fn on(lab: &Lab) -> usize {
    let is_on = |name: &str| {
        let dir = lab.data().join("machines").join(name);
        let status = block(sim::request(&dir, &Request::Status)).unwrap().and_then(|reply| reply.status);
        status.is_some_and(|s| s.legs.iter().all(|(_, on)| *on))
    };
    MACHINES.iter().filter(|name| is_on(name)).count()
}

fn switches_on(event: &Value) -> bool {
    kind(event) == "power-intended" && event["data"]["intent"]["want"] == "on"
}

/// No machine is told to come on before the one that was told so last reads
/// on, or its command can do nothing any more.
fn one_by_one(events: &[Value]) {
    let mut starting = BTreeSet::new();
    for event in events {
        let machine = event["machine"].as_str().unwrap_or_default();
        if switches_on(event) {
            starting.insert(machine);
            assert_eq!(starting.len(), 1, "two start at once: {event}");
        } else if kind(event) == "power-settled" || event["data"]["reading"] == "on" {
            starting.remove(machine);
        }
    }
}

#[test]
fn a_fuse_holds_although_the_daemon_is_killed_while_machines_start() {
    let mut lab = Lab::started(INVENTORY);
    let mut follow = lab.follow();
    let queue = |m: &&str| lab.queue(&[&format!("name={m}"), "--want", "agent"]);
    let ids: Vec<String> = MACHINES.iter().map(queue).collect();
    let (mut kills, mut ready) = (0, 0);
    while ready < 2 {
        let event = follow.next();
        if switches_on(&event) && kills < 3 {
            lab.kill9();
            lab.start();
            kills += 1;
            assert!(on(&lab) <= 2);
        }
        ready += usize::from(kind(&event) == "reservation-ready");
    }
    assert_eq!(kills, 3);
    assert_eq!(on(&lab), 2);
    let waiting: Vec<&String> = ids.iter().filter(|id| lab.reservation(id)["state"] == "waiting").collect();
    let [waits] = waiting[..] else { panic!("{waiting:?} wait for one place") };
    let why = lab.ok(&["why", waits]);
    for words in ["of 2 places on circuit rack (`max_on`, set at", "inventory.toml:7:1", "2 are taken"] {
        assert!(why.contains(words), "`{words}`: {why}");
    }
    let status = lab.ok(&["status"]);
    assert!(status.contains("circuit rack: 2 of 2 count as on"), "{status}");
    let held = ids.iter().find(|id| *id != waits).unwrap();
    lab.ok(&["release", held]);
    lab.until(&format!("{waits} has its place"), || {
        assert!(on(&lab) <= 2, "three are on");
        (lab.reservation(waits)["state"] == "ready").then_some(())
    });
    one_by_one(&lab.events());
    for machine in MACHINES {
        assert_eq!(lab.machine(machine)["failures"], 0, "{machine} was blamed for the kills");
    }
    lab.stop();
}
