//! A backup is put in the place of the database, and the machines have gone
//! on without it.

use crate::harness::{Lab, ONE_BOARD, assert_exactly, kind};
use pitstop::sim::image::Options;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const TWO: &str = r#"
format = 1
[lab]
name = "restored"
[class.board]
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
power.sim        = { disk = "4M", boot = "10ms" }
timeout          = { power = "3s", firmware = "30s", attach = "30s", reimage = "60s" }
[machine.board]
class = "board"
[machine.other]
class = "board"
"#;

/// Takes a backup; its file, and what was said of it.
fn backup(lab: &Lab, name: &str) -> (PathBuf, serde_json::Value) {
    let file = lab.path(name);
    let told = lab.json(&["admin", "backup", file.to_str().unwrap()]);
    (file, told)
}

#[test]
fn a_backup_is_taken_while_machines_are_held_and_is_never_written_over() {
    let lab = Lab::started(TWO);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let run = lab.spawn(&["run", "board", "--", "sh", "-c", "echo began; read -r x; exit 3"]);
    assert_eq!(run.line().as_deref(), Some("began"));
    let (file, told) = backup(&lab, "b.db");
    assert_eq!((&told["machines"], &told["reservations"], &told["epoch"]), (&2.into(), &1.into(), &1.into()));
    assert!(
        told["records"].as_u64() > Some(20) && told["bytes"].as_u64() == Some(file.metadata().unwrap().len())
    );
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let checked = lab.json(&["admin", "fsck", "--db", file.to_str().unwrap()]);
    assert_eq!((&checked["ok"], &checked["copy"]), (&true.into(), &true.into()), "{checked}");

    let before = std::fs::read(&file).unwrap();
    let refused = lab.cli(&["admin", "backup", file.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("is there already") && refused.stderr.contains("--force"), "{refused}");
    assert!(std::fs::read(&file).unwrap() == before);
    lab.ok(&["admin", "drain", "other", "--reason", "fan"]);
    lab.ok(&["admin", "backup", "--force", file.to_str().unwrap()]);
    assert!(std::fs::read(&file).unwrap() != before);
    let entries =
        std::fs::read_dir(lab.path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = entries.filter(|n| n.contains(".new")).collect();
    assert!(left.is_empty(), "{left:?}");
    let half = std::fs::read_dir(lab.data()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let half: Vec<_> = half.filter(|n| n.starts_with("backup")).collect();
    assert!(half.is_empty(), "{half:?}");
    // A running daemon's database is nobody else's to check or replace.
    for args in [&["admin", "fsck"][..], &["admin", "restore", file.to_str().unwrap()]] {
        let refused = lab.cli(args);
        assert_eq!(refused.code, 1, "{refused}");
        assert!(refused.stderr.contains("another pitstop"), "{refused}");
    }
    let mut run = run;
    run.type_in(b"go\n");
    assert_eq!(run.finish().code, 3, "whoever holds a machine noticed nothing");
}

#[test]
fn after_a_restore_nobody_gets_the_machine_of_a_tenant_that_the_backup_does_not_know() {
    let mut lab = Lab::started(TWO);
    lab.image("blue", &Options::default());
    // Once used and proven: the backup says that it is clean.
    let first = lab.queue(&["name=board", "--image", "blue"]);
    lab.until_reservation(&first, "ready");
    lab.ok(&["release", &first]);
    lab.until_state("board", "free");
    assert_eq!(lab.machine("board")["clean"], "proven");
    let ada = lab.queue(&["name=other", "--want", "agent"]);
    lab.until_reservation(&ada, "ready");
    lab.ok(&["run", "other", "--", "true"]);
    let (file, _) = backup(&lab, "b.db");

    // Now comes a tenant, and leaves something on the disk.
    let tenant = lab.queue(&["name=board", "--image", "blue"]);
    lab.until_reservation(&tenant, "ready");
    lab.ok(&["run", "board", "--", "true"]);
    let mut waits = lab.spawn(&["reserve", "name=board"]);
    assert!(waits.until_stderr(|line| line.contains("waiting")).is_some());
    let disk = lab.disk("board", "root");
    use std::os::unix::fs::FileExt as _;
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().write_all_at(b"a secret", 3 << 20).unwrap();
    let (tenants, other) = (lab.sim_status("board"), lab.sim_status("other"));
    lab.kill9();
    lab.start();
    let epoch = lab.json(&["status"])["epoch"].as_u64().unwrap();
    // Its last commits are in the log only, which must not meet the backup.
    lab.kill9();

    let said = lab.ok(&["admin", "restore", file.to_str().unwrap()]);
    assert!(said.contains("every reservation has ended") && said.contains("is kept as"), "{said}");
    lab.start();
    assert!(lab.json(&["status"])["epoch"].as_u64().unwrap() > epoch, "epochs do not go back");
    // Nobody holds anything, nothing is believed, nothing was switched.
    for machine in ["board", "other"] {
        let m = lab.machine(machine);
        assert_eq!((&m["state"], &m["clean"]), (&"free".into(), &"unknown".into()), "{m}");
    }
    let ended = lab.reservation(&ada);
    assert_eq!((&ended["state"], &ended["end"]["kind"]), (&"ended".into(), &"restored".into()), "{ended}");
    assert_eq!(lab.cli(&["show", &tenant]).code, 3, "the backup does not know him");
    // Nor the one who waited. On a slow machine he has given up before.
    let waited = waits.finish();
    assert!(waited.code == 7 || waited.stderr.contains("no daemon answers"), "{waited}");
    let refused = lab.cli(&["run", "other", "--", "true"]);
    assert_eq!(refused.code, 125, "{refused}");
    assert_eq!(
        lab.sim_status("board").boot_id,
        tenants.boot_id,
        "whoever is there stays until it is granted"
    );
    assert_eq!(lab.sim_status("other").boot_id, other.boot_id);
    assert!(lab.log().contains("the database is a backup's"));

    // Whoever gets it now gets it off, with nothing of the tenant's.
    let next = lab.queue(&["name=board"]);
    assert_ne!(next, tenant, "numbers are not given out twice");
    lab.until_reservation(&next, "ready");
    assert_exactly(&disk, None);
    assert!(lab.sim_status("board").legs.iter().all(|(_, on)| !on), "it is off");
    let events = lab.events();
    let restored = events.iter().position(|e| kind(e) == "restored").unwrap();
    let after: Vec<&str> = events[restored..].iter().filter(|e| e["machine"] == "board").map(kind).collect();
    let at = |wanted: &str| after.iter().position(|k| *k == wanted);
    assert!(at("power-seen") < at("disk-proven") && at("disk-proven") < at("machine-ready"), "{after:?}");
    lab.ok(&["release", &next]);
    lab.stop();
    assert_eq!(lab.json(&["admin", "fsck"])["ok"], true);
}

#[test]
fn a_database_copied_by_hand_is_found_out() {
    let mut lab = Lab::started(ONE_BOARD);
    lab.stop();
    let by_hand = std::fs::read(lab.data().join("lab.db")).unwrap();
    lab.start();
    let id = lab.queue(&["name=board", "--want", "agent"]);
    lab.until_reservation(&id, "ready");
    lab.ok(&["run", "board", "--", "true"]);
    lab.stop();
    std::fs::write(lab.data().join("lab.db"), by_hand).unwrap();
    lab.start();
    assert_eq!(lab.machine("board")["clean"], "unknown", "although the copy says that it is free");
    assert!(lab.events().iter().any(|e| kind(e) == "restored"));
    // Once is enough: from here on it is the lab's own.
    lab.stop();
    lab.start();
    assert_eq!(lab.events().iter().filter(|e| kind(e) == "restored").count(), 1);
}

#[test]
fn a_damaged_database_is_found_by_fsck_and_not_put_in_place() {
    let mut lab = Lab::started(ONE_BOARD);
    let (file, _) = backup(&lab, "b.db");
    lab.stop();
    rusqlite::Connection::open(&file).unwrap().execute_batch("DELETE FROM record WHERE number = 2").unwrap();
    let found = lab.cli(&["admin", "fsck", "--db", file.to_str().unwrap()]);
    assert_eq!(found.code, 1, "{found}");
    assert!(found.stdout.contains("record 2: not there"), "{found}");
    let before = std::fs::read(lab.data().join("lab.db")).unwrap();
    let refused = lab.cli(&["admin", "restore", file.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("nothing was changed") && refused.stderr.contains("fsck"), "{refused}");
    assert!(std::fs::read(lab.data().join("lab.db")).unwrap() == before);
    assert_eq!(lab.cli(&["admin", "fsck"]).code, 0, "the lab's own is in order");
    // If it is all there is: a lab without a part of its history is a lab.
    let forced = lab.cli(&["admin", "restore", "--force", file.to_str().unwrap()]);
    assert_eq!(forced.code, 0, "{forced}");
    assert!(forced.stderr.contains("record 2: not there"), "{forced}");
    lab.start();
    lab.until_state("board", "free");
    let id = lab.queue(&["name=board", "--want", "agent"]);
    lab.until_reservation(&id, "ready");
}
