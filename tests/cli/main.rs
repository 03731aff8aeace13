//! The program as people run it: a daemon with simulated machines, and the
//! command line against it. Every wait has a condition and a deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod demo;
mod pitfalls;
mod told;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const INVENTORY: &str = r#"format = 1
[lab]
name = "cli"
zone = "UTC"
[machine."sim[1-2]"]
tags = { kind = "sim", ram = 8 }
power.sim = { disk = "2M", boot = "20ms" }
console.main.sim = {}
boot.sim = {}
disk.root = {}
ready.agent = {}
"#;

/// Far longer than anything here takes; only a hang gets there.
const DEADLINE: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Lab {
    fn start() -> Self {
        Self::with(INVENTORY)
    }

    fn with(inventory: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ps-").tempdir().unwrap();
        std::fs::write(dir.path().join("inventory.toml"), inventory).unwrap();
        let mut lab = Self { dir, daemon: None };
        lab.serve();
        lab
    }

    fn serve(&mut self) {
        let mut command = self.command(&["serve", "--simulated"]);
        command.arg("--data").arg(self.dir.path().join("data"));
        command.arg("--inventory").arg(self.dir.path().join("inventory.toml"));
        self.daemon = Some(command.stderr(Stdio::null()).spawn().unwrap());
        until("the daemon answers", || self.run(&["status"]).code == 0);
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pitstop"));
        command.args(args).stdin(Stdio::null()).env("PITSTOP_SOCKET", self.dir.path().join("sock"));
        command.env_remove("PITSTOP_FORCE_TTY").env("NO_COLOR", "1");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.run(&[args, &["--json"]].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }

    fn machine(&self, name: &str) -> PathBuf {
        self.dir.path().join("data/machines").join(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Simulated machines live outside the daemon's life, like real ones.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for name in ["sim1", "sim2"] {
            let _ = runtime.block_on(pitstop_drivers::sim::stop(&self.machine(name)));
        }
    }
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a killed session starts must not stay behind.
const WHILE_ITS_PARENT_LIVES: &str = "parent=$PPID; while kill -0 $parent 2>/dev/null; do sleep 0.1; done";

/// Whether commands can have namespaces of their own on this computer.
fn can_run(lab: &Lab, machine: &str) -> bool {
    let ran = lab.run(&["run", machine, "--", "true"]);
    if ran.code == 0 {
        return true;
    }
    assert_eq!(ran.code, 125, "{}", ran.err);
    assert!(ran.err.contains("namespace") || ran.err.contains("sandbox"), "a refusal says why: {}", ran.err);
    false
}

#[test]
fn a_person_gets_a_machine_uses_it_and_gives_it_back_clean() {
    let lab = Lab::start();
    let reserved = lab.run(&["reserve", "kind=sim", "--want", "agent", "--reason", "look"]);
    assert_eq!((reserved.code, reserved.out.as_str()), (0, "R-1 sim1 ready\n"), "{}", reserved.err);
    assert!(
        reserved.err.contains("yours till") && reserved.err.contains("pitstop run sim1"),
        "{}",
        reserved.err
    );
    assert!(!reserved.err.contains('\u{1b}'), "no terminal, no redrawing: {}", reserved.err);
    let shown = lab.json(&["show", "sim1"]);
    assert_eq!(shown["schema"], "pitstop.machine/1");
    assert_eq!((&shown["shown"], &shown["holder"]["reservation"]), (&"held".into(), &"R-1".into()));
    if can_run(&lab, "sim1") {
        streams_and_codes(&lab);
    }
    let why = lab.run(&["why", "sim1"]);
    assert!(why.out.contains("R-1"), "{}", why.out);
    assert_eq!(lab.run(&["release"]).code, 0);
    until("sim1 is free and proven", || {
        let m = lab.json(&["show", "sim1"]);
        m["shown"] == "free" && m["clean"] == "proven"
    });
    let events = lab.run(&["events", "R-1", "-o", "jsonl"]);
    let kinds: Vec<String> = (events.out.lines())
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["kind"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["queued", "granted", "reservation-ready", "claimed", "ended"] {
        assert!(kinds.iter().any(|k| k == kind), "{kind} is not in {kinds:?}");
    }
}

fn streams_and_codes(lab: &Lab) {
    let ran = lab.run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    let ran = lab.run(&["run", "sim1", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(ran.code, 137, "{}", ran.err);
    let ran = lab.run(&["run", "sim1", "--", "/no/such/program"]);
    assert_eq!(ran.code, 125, "{}", ran.err);
    let mut child = (lab.command(&["run", "sim1", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()))
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let mut stdin = child.stdin.take().unwrap();
    let feed = sent.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&feed).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(
        output.status.success() && output.stdout == sent,
        "{} of {} bytes",
        output.stdout.len(),
        sent.len()
    );
}

#[test]
fn a_command_goes_on_while_the_daemon_is_killed_and_no_byte_is_lost() {
    let mut lab = Lab::start();
    assert_eq!(lab.run(&["reserve", "sim1", "--want", "agent"]).code, 0);
    if !can_run(&lab, "sim1") {
        return;
    }
    let boot = lab.json(&["show", "sim1"])["agent"]["boot_id"].clone();
    let script = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 9";
    let out = lab.dir.path().join("out");
    let file = std::fs::File::create(&out).unwrap();
    let mut run = lab.command(&["run", "sim1", "--", "sh", "-c", script]).stdout(file).spawn().unwrap();
    let lines = || std::fs::read_to_string(&out).unwrap().lines().count();
    for after in [20, 120] {
        until("output arrives", || lines() > after);
        lab.kill();
        lab.serve();
    }
    assert_eq!(run.wait().unwrap().code(), Some(9));
    let want: String = (0..300).map(|n| format!("{n}\n")).collect();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), want);
    let now = lab.json(&["show", "sim1"]);
    assert_eq!(now["agent"]["boot_id"], boot, "the machine was not touched");
}

#[test]
fn a_session_runs_its_command_here_and_ends_with_it() {
    let lab = Lab::start();
    let script = "echo $PITSTOP_MACHINE $PITSTOP_RESERVATION; exit 5";
    let ran = lab.run(&["reserve", "sim2", "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.out.as_str()), (5, "sim2 R-1\n"), "{}", ran.err);
    assert_eq!(lab.json(&["show", "R-1"])["end"]["kind"], "released");
}

#[test]
fn a_session_that_is_killed_loses_its_machine_and_one_that_is_released_its_command() {
    let lab = Lab::start();
    let mut killed = lab
        .command(&["reserve", "sim1", "--silence", "2s", "--", "sh", "-c", WHILE_ITS_PARENT_LIVES])
        .spawn()
        .unwrap();
    until("R-1 is active", || lab.run(&["show", "R-1", "--json"]).out.contains("\"state\":\"active\""));
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("R-1 is lost", || lab.json(&["show", "R-1"])["end"]["kind"] == "lost");
    until("sim1 is free", || lab.json(&["show", "sim1"])["shown"] == "free");
    let mut held =
        lab.command(&["reserve", "sim1", "--", "sleep", "600"]).stderr(Stdio::null()).spawn().unwrap();
    until("R-2 is active", || lab.run(&["show", "R-2", "--json"]).out.contains("\"state\":\"active\""));
    assert_eq!(lab.run(&["release", "R-2"]).code, 0);
    assert_eq!(held.wait().unwrap().code(), Some(7));
}

#[test]
fn failures_have_their_exit_codes_with_and_without_json_and_change_nothing() {
    let lab = Lab::start();
    assert_eq!(lab.run(&["reserve", "sim1"]).code, 0);
    let before = lab.run(&["events", "--all", "-o", "name"]).out;
    let table: &[(i32, &[&str], &str)] = &[
        (2, &["ls", "soc="], "FILTER"),
        (2, &["power", "sim1", "explode"], "explode"),
        (2, &["show", "a/b"], "not allowed in a machine name"),
        (2, &["reimage", "sim1"], "--yes"),
        (2, &["reserve", "sim1", "--priority", "50", "--until", "1999-01-01T00:00:00Z"], "future"),
        (3, &["show", "sim9"], "did you mean sim"),
        (3, &["show", "R-77"], "R-77"),
        (3, &["ls", "kind=simm"], "did you mean `sim`"),
        (3, &["reserve", "sim9"], "did you mean `sim"),
        (3, &["reserve", "sim1", "--image", "nope"], "no image"),
        (1, &["power", "sim2", "on"], "nobody holds it"),
        (1, &["run", "sim2", "--", "true"], "nobody holds it"),
        (1, &["admin", "undrain", "sim1"], "not drained"),
        (3, &["reserve", "kind=sim", "-n", "3"], "only 2 of 3"),
        (3, &["reserve", "kind=sim", "--want", "image"], "--image"),
        (3, &["admin", "enrol", "sim1", "--count", "1"], "no new machine"),
        (2, &["admin", "drain", "state=free", "--reason", "x"], "no FILTER"),
        (2, &["events", "--since", "soon"], "yesterday"),
        (2, &["admin", "check", "/nonexistent/lab.toml"], "No such file"),
    ];
    for (code, args, words) in table {
        let code = if args[0] == "run" { 125 } else { *code };
        let plain = lab.run(args);
        assert_eq!(plain.code, code, "{args:?}: {}", plain.err);
        assert!(plain.err.contains(words) && plain.out.is_empty(), "{args:?}: {}", plain.err);
        let json = lab.run(&[&["--json"], *args].concat());
        assert_eq!((json.code, json.out.as_str()), (code, ""), "{args:?}");
        let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
        assert!(error["code"].is_string() && error["message"].is_string(), "{}", json.err);
    }
    assert_eq!(lab.run(&["events", "--all", "-o", "name"]).out, before, "something was changed");
    let waited = lab.run(&["reserve", "sim1", "--timeout", "1s"]);
    assert_eq!(waited.code, 6, "{}", waited.err);
    let nobody = lab.run(&["status", "--socket", "/nonexistent/sock"]);
    assert_eq!(nobody.code, 8, "{}", nobody.err);
}

#[test]
fn a_second_daemon_is_told_who_is_there() {
    let lab = Lab::start();
    let mut second = lab.command(&["serve", "--simulated", "--data"]);
    second.arg(lab.dir.path().join("data")).arg("--inventory").arg(lab.dir.path().join("inventory.toml"));
    let ran = Ran::of(second.output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("pid"), "{}", ran.err);
    assert_eq!(lab.run(&["status"]).code, 0, "the first one goes on");
}
