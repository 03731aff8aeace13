//! Databases and inventories that older programs left: today's opens them,
//! and the lab goes on.

use crate::harness::{Lab, kind};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

fn old(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old").join(name)
}

/// Every database there is, by name.
fn databases() -> Vec<String> {
    let entries = std::fs::read_dir(old("")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.ends_with(".db")).collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    names
}

/// A lab with this database in place, as if its daemon had been killed just
/// now: how long ago it was is not what is tested.
fn lab_on(database: &str) -> Lab {
    let lab = Lab::new(&std::fs::read_to_string(old("lab.toml")).unwrap());
    std::fs::create_dir(lab.data()).unwrap();
    let place = lab.data().join("lab.db");
    std::fs::copy(old(database), &place).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let changed =
        Connection::open(place).unwrap().execute("UPDATE meta SET wall = ?1", [i64::try_from(now).unwrap()]);
    assert_eq!(changed.unwrap(), 1);
    lab
}

/// Says that the parts of machines are what they are, where the database is
/// too old to know it and somebody had the machine until now.
fn enrol_new(lab: &Lab) {
    let new = lab.json(&["ls", "state=new"])["machines"].as_array().unwrap().len().to_string();
    if new != "0" {
        lab.ok(&["admin", "enrol", "state=new", "--count", &new]);
    }
}

#[test]
fn every_old_database_is_in_order_and_small() {
    let lab = Lab::new("format = 1");
    for name in databases() {
        let file = old(&name);
        assert!(std::fs::metadata(&file).unwrap().len() < 200 << 10, "{name}");
        let before = std::fs::read(&file).unwrap();
        let found = lab.json(&["admin", "fsck", "--db", file.to_str().unwrap()]);
        assert_eq!(found["ok"], true, "{name}: {found}");
        assert_eq!((&found["machines"], &found["reservations"]), (&8.into(), &8.into()), "{name}");
        assert!(std::fs::read(&file).unwrap() == before, "{name} was written to");
    }
}

#[test]
fn a_lab_goes_on_from_every_old_database() {
    for name in databases() {
        let mut lab = lab_on(&name);
        lab.start();
        let states = [
            ("rest", "free"),
            ("held-bare", "in-use"),
            ("held-agent", "in-use"),
            ("held-image", "in-use"),
            ("ready", "ready"),
            ("drained", "drained"),
            ("turning", "preparing"),
        ];
        // The oldest knew of no part what it is: what was not held then is new, and so are its machine's parts.
        let knows_parts = name != "2026-11-22.db";
        for (machine, state) in states {
            if knows_parts || state == "in-use" || state == "drained" {
                assert_eq!(lab.machine(machine)["state"], state, "{name}: {machine}");
            }
        }
        // It never said when it proves it again: at once.
        let bad = lab.machine("bad")["state"].as_str().unwrap().to_owned();
        assert!(!knows_parts || ["quarantined", "proving", "free"].contains(&&*bad), "{name}: {bad}");
        let reservations =
            [("R-1", "ended"), ("R-2", "active"), ("R-3", "active"), ("R-4", "active"), ("R-5", "waiting")];
        for (id, state) in reservations {
            assert_eq!(lab.reservation(id)["state"], state, "{name}: {id}");
        }
        let clean = &lab.machine("rest")["clean"];
        assert_eq!(*clean == "proven", knows_parts, "{name}: {clean}");
        // The whole history can still be told.
        let events = lab.events();
        assert!(events.iter().any(|e| kind(e) == "queued" && e["reservation"] == "R-1"), "{name}");
        assert_eq!(events.iter().filter(|e| kind(e) == "opened").count(), 2, "{name}");

        // It goes on: an old key is known, who waited is served, a machine is prepared and held.
        let again = lab.json(&[
            "reserve",
            "name=held-agent",
            "--want",
            "agent",
            "--for",
            "8h",
            "--reason",
            "a long look",
            "--no-wait",
            "--idempotency-key",
            "fixture-1",
        ]);
        assert_eq!(again["id"], "R-3", "{name}: {again}");
        lab.ok(&["release", "R-3"]);
        enrol_new(&lab);
        lab.until_reservation("R-5", "ready");
        let next = lab.queue(&["name=rest", "--want", "agent"]);
        assert_eq!(next, "R-9", "{name}");
        lab.until_reservation(&next, "ready");
        assert_eq!(lab.ok(&["run", "rest", "--", "echo", "on"]), "on\n");
        for id in ["R-2", "R-4", "R-5", "R-8", &next] {
            lab.cli(&["release", id]);
        }
        enrol_new(&lab);
        for machine in ["rest", "held-bare", "held-agent", "held-image"] {
            lab.until_state(machine, "free");
        }
        lab.stop();
        // The rows of today's program are the fold of records of both.
        let found: serde_json::Value =
            serde_json::from_str(&lab.cli(&["admin", "fsck", "--json"]).stdout).unwrap();
        let wrong = found["findings"].as_array().unwrap();
        // Its image was never in this lab's store; and the oldest rows do not
        // know when reservations began, which is nobody's to make up.
        let expected = |f: &&serde_json::Value| {
            f["about"] == "image old"
                || !knows_parts && f["text"].as_str().unwrap().starts_with("began is null")
        };
        assert_eq!(wrong.iter().find(|f| !expected(f)), None, "{name}");
    }
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_alone() {
    let lab = lab_on("2026-11-28-b.db");
    let file = lab.data().join("lab.db");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&file).unwrap();
    let inventory = lab.path("inventory.toml").display().to_string();
    let done = lab.cli(&["serve", "--simulated", "--inventory", &inventory]);
    assert_eq!(done.code, 1, "{done}");
    for words in ["schema 99", "run the newer pitstop that wrote it", "lab.db"] {
        assert!(done.stderr.contains(words), "{words}: {done}");
    }
    assert!(std::fs::read(&file).unwrap() == before, "it was written to");
}

#[test]
fn an_old_inventory_is_read() {
    let lab = Lab::new("format = 1");
    for name in ["inventory-2026-11-28.toml", "lab.toml"] {
        let said = lab.ok(&["admin", "check", old(name).to_str().unwrap()]);
        assert!(said.contains("no errors"), "{name}: {said}");
    }
}
