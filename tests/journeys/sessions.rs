//! What keeps a reservation alive: a session lives with its client, time
//! needs nobody.

use crate::harness::{Lab, ONE_BOARD, kind, of_kind, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

const SILENCE_S: u64 = 5;

/// Milliseconds since 1970 of an event.
fn wall(event: &Value) -> u128 {
    let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    u128::try_from(time.as_millisecond()).unwrap()
}

#[test]
fn a_session_ends_with_its_client_and_the_next_one_gets_the_machine_clean() {
    let lab = Lab::started(ONE_BOARD);
    let child = lab.path("child");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", child.display());
    let silence = format!("{SILENCE_S}s");
    let mut holder = lab.spawn(&[
        "reserve",
        "name=board",
        "--want",
        "agent",
        "--silence",
        &silence,
        "--",
        "sh",
        "-c",
        &script,
    ]);
    lab.until("the command of the session runs", || child.exists().then_some(()));
    assert_eq!(lab.reservation("R-1")["state"], "active");
    lab.ok(&[
        "run",
        "board",
        "--",
        "sh",
        "-c",
        "printf dirt-of-the-first | dd of=$PITSTOP_DISK bs=1 seek=4096 conv=notrunc",
    ]);
    let next = lab.queue(&["name=board", "--want", "agent"]);
    let waits = lab.reservation(&next);
    assert_eq!((&waits["state"], &waits["position"]), (&"waiting".into(), &1.into()));

    holder.kill9();
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    holder.wait_alone();

    lab.until_reservation(&next, "ready");
    let events = lab.events();
    let ended = events.iter().find(|e| kind(e) == "ended" && e["reservation"] == "R-1").unwrap();
    assert_eq!(ended["data"]["why"]["end"], "lost", "{ended}");
    let took = wall(ended).saturating_sub(killed);
    println!("a killed session of {SILENCE_S} s silence ended after {took} ms");
    assert!(took < u128::from(SILENCE_S) * 1_000 + 20_000, "{took} ms");
    // Not before its silence was over either, counted from its last beat.
    assert!(took > u128::from(SILENCE_S) * 1_000 / 3, "it ended {took} ms after the kill: nobody was silent");

    let after = |e: &&&Value| e["number"].as_u64() > ended["number"].as_u64();
    let turns = of_kind(&events, "board", "turn-started");
    let first = turns.iter().find(after).expect("a turn begins");
    assert_eq!(first["data"]["purpose"], "turnaround");
    let proofs = of_kind(&events, "board", "disk-proven");
    assert!(proofs.iter().any(|e| after(&e)), "the next holder gets a fresh proof");
    lab.ok(&["reserve", "--resume", &next]);
    let found =
        lab.ok(&["run", "board", "--", "sh", "-c", "grep -c dirt-of-the-first $PITSTOP_DISK || true"]);
    assert_eq!(found, "0\n");

    // The command is the client's, not ours: it lives on.
    let child = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    let gone = || test_kill_process(Pid::from_raw(child).unwrap()).is_err().then_some(());
    assert!(until(&mut { gone }).is_some());
    lab.ok(&["release", &next]);
    lab.until_state("board", "free");
}

#[test]
fn a_session_ends_with_its_command() {
    let lab = Lab::started(ONE_BOARD);
    let script = "echo $PITSTOP_RESERVATION $PITSTOP_MACHINE; exit 9";
    let done = lab.cli(&["reserve", "name=board", "--want", "agent", "--", "sh", "-c", script]);
    assert_eq!((done.stdout.as_str(), done.code), ("R-1 board\n", 9), "{done}");
    assert_eq!(lab.reservation("R-1")["end"]["kind"], "released");
    lab.until_state("board", "free");
}

#[test]
fn a_reservation_by_time_outlives_its_client_and_a_restart() {
    let mut lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--for", "1h", "--reason", "a long look"]);
    let before = lab.reservation("R-1");
    assert_eq!((&before["state"], &before["hold"]["kind"]), (&"active".into(), &"time".into()));
    lab.kill9();
    lab.start();
    let after = lab.reservation("R-1");
    assert_eq!(after["state"], "active");
    assert_eq!(lab.machine("board")["holder"]["reservation"], "R-1");
    // Lab time goes on by the wall's: the end stays where it was said to be.
    let ends = |r: &Value| r["ends"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert!((ends(&before) - ends(&after)).abs() < 5_000, "{before} {after}");
    for words in [lab.ok(&["show", "R-1"]), lab.ok(&["show", "board"]), lab.ok(&["status"])] {
        assert!(words.contains("59m") || words.contains("1h"), "says until when: {words}");
    }
    lab.ok(&["release"]);
    lab.until_state("board", "free");
}
