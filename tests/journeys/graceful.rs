//! A daemon is asked to stop, as `systemctl restart` does: to everybody that
//! is a short pause.

use crate::harness::{Lab, ONE_BOARD, kind, numbers};
use rustix::process::Signal;

const BOARD_AND_SPARE: &str = r#"
format = 1
[lab]
name = "graceful"
[class.board]
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
power.sim        = { disk = "1M", boot = "10ms" }
timeout          = { power = "10s", firmware = "30s", attach = "30s", reimage = "60s" }
[machine.board]
class = "board"
[machine.slow]
class = "board"
power.sim.faults = ["power-late:2500"]
[machine.spare]
class = "board"
"#;

#[test]
fn a_restart_is_a_short_pause_for_holders_watchers_and_the_queue() {
    let mut lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let before = lab.sim_status("board");
    let from = lab.events().len();
    let mut follow = lab.follow();
    let mut console = lab.spawn(&["console", "board"]);
    let waits = lab.queue(&["name=board", "--want", "agent"]);
    let counting = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 7";
    let run = lab.spawn(&["run", "board", "--", "sh", "-c", counting]);
    for stops in 1..=2 {
        let wanted = format!("line {}", stops * 100);
        while run.line().expect("the command has not ended") != wanted {}
        lab.stop(); // demands exit code 0
        assert!(!lab.path("sock").exists(), "whoever comes now is told that nobody is there");
        lab.start();
    }
    let done = run.finish();
    let expected: String = (0..400).map(|i| format!("line {i}\n")).collect();
    assert_eq!(done.stdout, expected, "complete, in order, once: {}", done.stderr);
    assert_eq!(done.code, 7, "{done}");

    let after = lab.sim_status("board");
    assert_eq!((after.boots, &after.boot_id), (before.boots, &before.boot_id), "the machine ran on");
    assert_eq!(lab.machine("board")["state"], "in-use");
    assert_eq!(lab.reservation(&waits)["state"], "waiting");
    let events = lab.events().split_off(from);
    assert_eq!(events.iter().filter(|e| kind(e) == "opened").count(), 2);
    for event in &events {
        assert!(!kind(event).starts_with("power-"), "nobody touched its power: {event}");
    }
    assert!(console.is_running(), "a watcher comes back by himself: {}", console.stderr());
    console.signal(Signal::INT);

    lab.ok(&["release", "R-1"]);
    lab.until_reservation(&waits, "ready");
    lab.ok(&["release", &waits]);
    lab.until_state("board", "free");
    // Who follows the history has missed nothing and seen nothing twice.
    let all = numbers(&lab.events());
    let mut followed = Vec::new();
    while followed.last() != all.last() {
        followed.extend(follow.next()["number"].as_u64());
    }
    assert_eq!(followed, all);
    lab.stop();
}

#[test]
fn nothing_is_granted_while_a_power_command_is_waited_for() {
    let mut lab = Lab::started(BOARD_AND_SPARE);
    // What the daemon waits for: a command that lands late.
    lab.ok(&["reserve", "name=slow"]);
    let on = lab.spawn(&["power", "slow", "on"]);
    lab.until("the command is under way", || {
        lab.events()
            .iter()
            .any(|e| {
                kind(e) == "power-intended" && e["machine"] == "slow" && e["data"]["intent"]["want"] == "on"
            })
            .then_some(())
    });
    lab.signal(Signal::TERM);
    let asked = ["reserve", "name=spare", "--want", "agent", "--no-wait", "--idempotency-key", "k1"];
    let first = lab.cli(&asked);
    lab.until_stopped();
    // Slow as this test may be, it then found nobody and may ask again.
    assert!(first.code == 0 || first.code == 8, "{first}");
    lab.start();
    assert_eq!(lab.cli(&asked).code, 0, "the same request: once accepted, or asked for again");
    let events = lab.events();
    let at = |wanted: &str| events.iter().position(|e| kind(e) == wanted && e["reservation"] == "R-2");
    let opened = events.iter().rposition(|e| kind(e) == "opened").unwrap();
    assert!(at("granted").unwrap() > opened, "granted by the next daemon");
    assert_eq!(first.code == 0, at("queued").unwrap() < opened, "accepted by the one that was ending");
    lab.until_reservation("R-2", "ready");
    // The command was waited for, or its end is found out: either way it is on.
    drop(on);
    lab.until("it is on, and nothing more is to come", || {
        let slow = lab.machine("slow");
        (slow["legs"][0]["reading"] == "on").then_some(())
    });
    assert_eq!(lab.machine("slow")["state"], "in-use");
    lab.ok(&["release", "R-1", "R-2"]);
    lab.stop();
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let mut lab = Lab::started(BOARD_AND_SPARE);
    lab.ok(&["reserve", "name=slow"]);
    let on = lab.spawn(&["power", "slow", "on"]);
    lab.until("the command is under way", || {
        lab.events().iter().any(|e| kind(e) == "power-by-holder").then_some(())
    });
    lab.signal(Signal::INT);
    lab.until_logged("asked to stop");
    lab.signal(Signal::TERM);
    let code = lab.until_stopped();
    // If it was quick, it had ended in order before the second one.
    assert!(code == 128 + 15 || code == 0, "{code}: {}", lab.log());
    drop(on);
    lab.start();
    assert_eq!(lab.machine("slow")["state"], "in-use");
    assert_eq!(lab.reservation("R-1")["state"], "active");
}

#[test]
fn a_database_that_takes_nothing_does_not_keep_a_daemon_from_ending() {
    let mut lab = Lab::started(ONE_BOARD);
    let other = rusqlite::Connection::open(lab.data().join("lab.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let asked = ["reserve", "name=board", "--no-wait", "--idempotency-key", "k1"];
    let asking = lab.spawn(&asked);
    lab.until_logged("another process has the database locked");
    lab.signal(Signal::TERM);
    // Well before the 30 s that a commit is tried for.
    let began = std::time::Instant::now();
    let code = lab.until_stopped();
    assert!(began.elapsed().as_secs() < 28, "it waited for the database to its end");
    assert_eq!(code, 1, "{}", lab.log());
    assert!(lab.log().contains("did not come to an end within 10 s"), "{}", lab.log());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(asking.finish().code, 8, "whoever asked knows that he must ask again");
    lab.start();
    lab.ok(&asked);
    assert_eq!(lab.events().iter().filter(|e| kind(e) == "queued").count(), 1);
}
