//! The daemon is killed while a machine is in use: its holder notices
//! nothing but a pause.

use crate::harness::{Lab, ONE_BOARD, kind};
use std::time::{Duration, Instant};

/// Says a line every hundredth of a second, `count` of them.
fn counting(count: usize) -> String {
    format!("i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 7")
}

#[test]
fn a_command_goes_on_while_the_daemon_is_dead_and_is_heard_once() {
    let mut lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let before = lab.sim_status("board");
    let from = lab.events().len();
    let run = lab.spawn(&["run", "board", "--", "sh", "-c", &counting(600)]);
    for kills in 1..=3 {
        // It runs, and is heard, before each kill.
        let wanted = format!("line {}", kills * 100);
        while run.line().expect("the command has not ended") != wanted {}
        lab.kill9();
        lab.start();
    }
    let done = run.finish();
    let expected: String = (0..600).map(|i| format!("line {i}\n")).collect();
    assert_eq!(done.stdout, expected, "complete, in order, once: {}", done.stderr);
    assert_eq!(done.code, 7, "{done}");

    let after = lab.sim_status("board");
    assert_eq!((after.boots, &after.boot_id), (before.boots, &before.boot_id), "the machine ran on");
    assert_eq!(lab.machine("board")["agent"]["boot_id"], before.boot_id.unwrap().as_str());
    assert_eq!(lab.machine("board")["state"], "in-use");
    let events = lab.events().split_off(from);
    assert_eq!(events.iter().filter(|e| kind(e) == "opened").count(), 3);
    assert_eq!(events.iter().filter(|e| kind(e) == "run-started").count(), 1, "started once: {events:?}");
    for event in &events {
        assert!(!kind(event).starts_with("power-"), "nobody touched its power: {event}");
    }
    lab.ok(&["release"]);
    lab.until_state("board", "free");
    lab.stop();
}

#[test]
fn a_command_that_ends_while_the_daemon_is_dead_is_not_forgotten() {
    let mut lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let run = lab.spawn(&[
        "run",
        "board",
        "--",
        "sh",
        "-c",
        "echo began; read -r x; echo $x; sleep 1; echo ended; exit 3",
    ]);
    assert_eq!(run.line().as_deref(), Some("began"));
    let mut run = run;
    run.type_in(b"go on\n");
    assert_eq!(run.line().as_deref(), Some("go on"));
    lab.kill9();
    // The command's own end is what must have passed, not a condition that
    // anybody could tell us of while the daemon is dead.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_500) {
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.start();
    let done = run.finish();
    assert_eq!((done.stdout.as_str(), done.code), ("began\ngo on\nended\n", 3), "{done}");
    lab.ok(&["release"]);
    lab.until_state("board", "free");
}
