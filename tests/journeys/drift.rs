//! A machine that is not what was enrolled: nothing is written there before a
//! person says so.

use crate::harness::{Lab, assert_exactly, of_kind};
use pitstop::sim::image::Options;
use pitstop_drivers::sim::Request;
use serde_json::Value;

/// `m1` and `m2` are simulated; nobody has enrolled them where `new` is said.
fn lab() -> Lab {
    let lab = Lab::started(&inventory("m1,m2"));
    lab.image("blue", &Options { content: 1 << 20, ..Options::default() });
    lab
}

fn inventory(names: &str) -> String {
    let machines: String = names.split(',').map(|n| format!("[machine.{n}]\nclass = \"board\"\n")).collect();
    format!(
        r#"
format = 1
[lab]
name = "drift"
[class.board]
tags             = {{ kind = "board" }}
image            = "blue"
console.main.sim = {{}}
boot.sim         = {{}}
disk.root        = {{}}
ready.agent      = {{}}
power.sim        = {{ disk = "4M", boot = "10ms" }}
timeout          = {{ power = "10s", firmware = "30s", attach = "30s", reimage = "60s", evidence = "30s" }}
{machines}"#
    )
}

fn fault(lab: &Lab, machine: &str, fault: &str) {
    lab.sim(machine, &Request::Fault { fault: fault.into() });
}

/// Somebody had it, and it is clean again.
fn used(lab: &Lab, machine: &str) {
    let id = lab.queue(&[&format!("name={machine}"), "--image", "blue"]);
    lab.until_reservation(&id, "ready");
    lab.ok(&["release", &id]);
    lab.until_state(machine, "free");
}

fn drifted(lab: &Lab, machine: &str, words: &str) -> Value {
    let m = lab.until_state(machine, "quarantined");
    assert_eq!(m["health"]["class"], "drift", "{}", m["health"]);
    let evidence = m["health"]["evidence"].as_str().unwrap();
    assert!(evidence.contains(words), "{evidence}");
    assert!(m["differences"].as_array().unwrap().iter().any(|d| d["grave"] == true), "{m}");
    m
}

#[test]
fn what_was_found_is_shown_apart_and_can_be_asked_for() {
    let lab = lab();
    // Nothing was found yet: nobody has such a tag.
    assert_eq!(lab.cli(&["ls", "ram=0.25.."]).code, 3);
    used(&lab, "m1");
    let m = lab.machine("m1");
    assert_eq!(m["found_tags"]["ram"], 0.5, "{m}");
    assert_eq!(
        (&m["found"]["serial"], &m["found"]["disks"][0]["serial"]),
        (&"SIM-m1".into(), &"root".into())
    );
    assert_eq!(m["found"]["disks"][0]["name"], "root");
    assert_eq!(m["tags"], serde_json::json!({ "kind": "board" }), "what was typed stays what was typed");
    assert!(lab.ok(&["ls", "ram=0.25..", "-o", "name"]).contains("m1"));
    assert!(lab.ok(&["show", "m1"]).contains("ram=0.5"));
    let id = lab.queue(&["ram=0.25..", "serial=SIM-m1", "--want", "agent"]);
    assert_eq!(lab.until_reservation(&id, "ready")["machines"][0]["machine"], "m1");
}

#[test]
fn another_disk_or_machine_is_not_written_until_somebody_accepts_it() {
    for (kind, words) in [("disk-swapped", "serial root-other"), ("machine-swapped", "SIM-m1-other")] {
        let lab = lab();
        used(&lab, "m1");
        let before = std::fs::read(lab.disk("m1", "root")).unwrap();
        fault(&lab, "m1", kind);
        // All of it is to be written anew.
        lab.ok(&["admin", "prove", "m1"]);
        drifted(&lab, "m1", words);
        assert_eq!(std::fs::read(lab.disk("m1", "root")).unwrap(), before, "{kind}: it was written");
        let events = lab.events();
        let last_turn = of_kind(&events, "m1", "turn-started").last().unwrap()["number"].as_u64().unwrap();
        let since = |k: &str| {
            of_kind(&events, "m1", k).iter().filter(|e| e["number"].as_u64().unwrap() > last_turn).count()
        };
        assert_eq!((since("disk-writing"), since("attempt-started")), (0, 1), "{kind}: it was tried again");
        let why = lab.ok(&["why", "m1"]);
        assert!(why.contains(words) && why.contains("pitstop admin enrol name=m1"), "{why}");
        // Who waits gets the other one.
        let id = lab.queue(&["kind=board", "--image", "blue"]);
        assert_eq!(lab.until_reservation(&id, "ready")["machines"][0]["machine"], "m2");
        // It is listed before it is accepted, and then what it is.
        let listed = lab.cli(&["admin", "enrol", "name=m1"]);
        assert!(listed.code == 2 && listed.stderr.contains(words), "{listed:?}");
        lab.ok(&["admin", "enrol", "name=m1", "--count", "1"]);
        let m = lab.machine("m1");
        assert_eq!((&m["health"]["is"], m["differences"].as_array()), (&"good".into(), None), "{m}");
        used(&lab, "m1");
        assert_exactly(&lab.disk("m1", "root"), Some(&lab.path("blue.img")));
    }
}

#[test]
fn what_comes_back_is_taken_back() {
    let lab = lab();
    used(&lab, "m1");
    fault(&lab, "m1", "disk-swapped");
    lab.ok(&["admin", "prove", "m1"]);
    drifted(&lab, "m1", "root-other");
    lab.sim("m1", &Request::Heal);
    lab.ok(&["admin", "prove", "m1"]);
    let m = lab.until_state("m1", "free");
    assert_eq!((&m["health"]["is"], &m["clean"]), (&"good".into(), &"proven".into()), "{m}");
}

#[test]
fn memory_that_is_gone_takes_a_machine_out() {
    let lab = lab();
    used(&lab, "m1");
    fault(&lab, "m1", "memory-lost");
    lab.ok(&["admin", "prove", "m1"]);
    drifted(&lab, "m1", "256 MiB of memory, had 512");
}

#[test]
fn what_was_enrolled_survives_a_kill() {
    let mut lab = lab();
    used(&lab, "m1");
    lab.kill9();
    fault(&lab, "m1", "machine-swapped");
    lab.start();
    lab.ok(&["admin", "prove", "m1"]);
    drifted(&lab, "m1", "SIM-m1-other");
    lab.kill9();
    lab.start();
    drifted(&lab, "m1", "SIM-m1-other");
}

#[test]
fn what_a_new_machine_is_can_be_written_into_the_inventory() {
    let lab = lab();
    std::fs::write(lab.path("inventory.toml"), inventory("m1,m2,m3")).unwrap();
    lab.ok(&["admin", "reload"]);
    assert_eq!(lab.machine("m3")["state"], "new");
    let nothing = lab.cli(&["admin", "enrol", "name=m3", "--write", lab.path("none.toml").to_str().unwrap()]);
    assert!(nothing.code != 0 && !lab.path("none.toml").exists(), "{nothing:?}");
    lab.ok(&["admin", "check", "--wiring", "m3"]);
    assert_eq!(lab.machine("m3")["state"], "new", "to check its wires is not to enrol it");
    lab.ok(&["admin", "enrol", "name=m3", "--count", "1"]);
    assert_eq!(lab.machine("m3")["found"]["serial"], "SIM-m3");
    assert_eq!(of_kind(&lab.events(), "m3", "disk-writing").len(), 0, "to look is not to write");
    let file = lab.path("facts.toml");
    lab.ok(&["admin", "enrol", "name=m3", "--write", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("serial SIM-m3") && text.contains("match.serial = \"root\""), "{text}");
    // The inventory takes it, and the machine is enrolled anew with it.
    let with = inventory("m1,m2,m3").replace("format = 1", "format = 1\ninclude = [\"facts.toml\"]");
    std::fs::write(lab.path("inventory.toml"), with).unwrap();
    lab.ok(&["admin", "reload"]);
    assert_eq!(lab.machine("m3")["state"], "new");
    lab.ok(&["admin", "enrol", "name=m3", "--count", "1"]);
    used(&lab, "m3");
    let again = lab.cli(&["admin", "enrol", "name=m3", "--write", file.to_str().unwrap()]);
    assert!(again.code != 0, "a file that is there was written over");
}

/// A wiring check that is interrupted, asked to end, or killed: the machine is
/// put back each time.
#[test]
fn a_check_that_ends_early_puts_the_machine_back() {
    use rustix::process::Signal;
    let lab = lab();
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::KILL, None)] {
        let check = lab.spawn(&["admin", "check", "--wiring", "m1", "--within", "120s"]);
        lab.until("the machine is checked", || (lab.machine("m1")["state"] == "checking").then_some(()));
        lab.until("it is on", || (lab.machine("m1")["legs"][0]["reading"] == "on").then_some(()));
        let id = lab.queue(&["name=m1", "--want", "agent"]);
        assert_eq!(lab.reservation(&id)["state"], "waiting", "it was given away in the middle of a check");
        check.signal(signal);
        let done = check.finish();
        if let Some(code) = code {
            assert_eq!(done.code, code, "{done:?}");
            assert!(done.stderr.contains("put back"), "{done:?}");
        }
        // Whoever waits gets it as ever: off first, then proven.
        lab.until_reservation(&id, "ready");
        lab.ok(&["release", &id]);
        let m = lab.until_state("m1", "free");
        assert_eq!((m["checked_by"].as_str(), &m["legs"][0]["reading"]), (None, &"off".into()), "{m}");
    }
    let ended = of_kind(&lab.events(), "m1", "wiring-ended").len();
    assert_eq!(ended, 3);
}

#[test]
fn a_check_compares_what_the_agent_reports_with_what_was_enrolled() {
    let lab = lab();
    let agent = |code: i32| {
        let done = lab.cli(&["admin", "check", "--wiring", "m1", "-o", "json"]);
        assert_eq!(done.code, code, "{done:?}");
        let parts: Value = serde_json::from_str(&done.stdout).unwrap();
        let parts = parts[0]["parts"].as_array().unwrap().clone();
        parts.into_iter().find(|p| p["part"] == "agent").unwrap_or_else(|| panic!("{done:?}"))
    };
    let first = agent(0);
    assert!(first["says"].as_str().unwrap().contains("SIM-m1"), "{first}");
    assert!(first["says"].as_str().unwrap().contains("recorded"), "{first}");
    assert!(agent(0)["says"].as_str().unwrap().contains("as it was enrolled"));
    let m = lab.until_state("m1", "free");
    assert_eq!(m["legs"][0]["reading"], "off", "{m}");
    assert_eq!(of_kind(&lab.events(), "m1", "disk-writing").len(), 0, "to check wires is not to write");
    fault(&lab, "m1", "machine-swapped");
    let swapped = agent(1);
    assert_eq!(swapped["ok"], false);
    assert!(swapped["says"].as_str().unwrap().contains("SIM-m1-other, was SIM-m1"), "{swapped}");
    drifted(&lab, "m1", "SIM-m1-other");
}
