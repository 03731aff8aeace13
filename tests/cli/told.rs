//! What people are told while they wait, and afterwards.

use super::{Lab, until};

/// One machine that comes up and one whose system panics, with short limits.
const WITH_A_BAD_ONE: &str = r#"format = 1
[lab]
name = "told"
zone = "UTC"
[machine.sim1]
power.sim = { disk = "2M", boot = "20ms" }
console.main.sim = {}
boot.sim = {}
disk.root = {}
ready.agent = {}
[machine.sim2]
power.sim = { disk = "2M", boot = "20ms", faults = ["panic"] }
console.main.sim = {}
boot.sim = {}
disk.root = {}
ready.agent = {}
timeout = { power = "3s", firmware = "1s", attach = "1s" }
"#;

#[test]
fn who_waits_in_vain_is_told_why_then_and_later() {
    let lab = Lab::start();
    assert_eq!(lab.run(&["reserve", "sim1"]).code, 0);
    let waited = lab.run(&["reserve", "sim1", "--timeout", "1s"]);
    assert_eq!(waited.code, 6, "{}", waited.err);
    assert_eq!(waited.err.matches("R-2 waits: sim1 is held by").count(), 1, "once: {}", waited.err);
    let last = waited.err.lines().find(|l| l.starts_with("pitstop: ")).unwrap();
    assert!(last.contains("as long as it was told to; sim1 is held by"), "{last}");
    assert_eq!(lab.run(&["release", "R-1"]).code, 0);
    let why = lab.run(&["why", "R-2"]).out;
    assert!(why.contains("sim1 was held by") && why.contains("(R-1) then"), "{why}");
    let again = lab.run(&["release", "R-1"]).out;
    assert!(again.starts_with("R-1 had ended already: released by "), "{again}");
    assert!(!lab.run(&["show", "R-1"]).out.contains("left)"), "nothing is left of it");
}

#[test]
fn failures_are_told_as_they_happen_with_what_helps() {
    let lab = Lab::with(WITH_A_BAD_ONE);
    let ran = lab.run(&["reserve", "sim2", "--timeout", "15s"]);
    assert!(ran.code == 6 || ran.code == 7, "{}: {}", ran.code, ran.err);
    let lines: Vec<&str> = ran.err.lines().collect();
    let failed = lines.iter().position(|l| l.starts_with("sim2  ✗ boot: ")).expect(&ran.err);
    assert!(lines[failed].ends_with("→ pitstop why sim2"), "{}", ran.err);
    let again = lines.iter().position(|l| l.contains("(try 2)")).expect(&ran.err);
    assert!(failed < again, "why before what: {}", ran.err);
    let why = lab.run(&["why", "R-1"]).out;
    assert!(why.contains("sim2 failed a try after"), "{why}");
}

#[test]
fn power_is_read_back_before_it_is_said_to_be_so() {
    let lab = Lab::start();
    assert_eq!(lab.run(&["reserve", "sim1", "--want", "agent"]).code, 0);
    // Each would be refused if the one before could still act.
    for (action, said) in [
        ("off", "sim1  power off, read back\n"),
        ("on", "sim1  power on, read back\n"),
        ("cycle", "sim1  off and on again; power on, read back\n"),
        ("off", "sim1  power off, read back\n"),
        ("off", "sim1  power off, read back\n"),
    ] {
        let ran = lab.run(&["power", action]);
        assert_eq!((ran.code, ran.out.as_str()), (0, said), "{action}: {}", ran.err);
    }
    assert!(lab.run(&["power", "sim1"]).out.starts_with("sim1 power off"));
    until("the agent is missed", || lab.run(&["why", "sim1"]).out.contains("boot agent is not connected"));
    let why = lab.run(&["why", "sim1"]).out;
    assert!(why.contains("pitstop reimage sim1"), "{why}");
}

#[test]
fn a_session_that_ends_its_own_reservation_keeps_its_command_and_its_code() {
    let lab = Lab::start();
    let pitstop = env!("CARGO_BIN_EXE_pitstop");
    let script = format!("{pitstop} extend --for 1h >&2; {pitstop} release && {pitstop} show R-1 && exit 9");
    let ran = lab.run(&["reserve", "sim1", "--for", "10m", "--", "sh", "-c", &script]);
    assert_eq!(ran.code, 9, "{}", ran.err);
    assert!(ran.out.contains("R-1 released") && ran.out.contains("ended"), "{}", ran.out);
    assert!(!ran.err.contains("the command is ended"), "{}", ran.err);
}

#[test]
fn a_command_that_is_not_there_costs_no_machine() {
    let lab = Lab::start();
    let ran = lab.run(&["reserve", "sim1", "--", "no-such-command-here"]);
    assert_eq!(ran.code, 127, "{}", ran.err);
    assert!(ran.err.contains("no-such-command-here"), "{}", ran.err);
    let ran = lab.run(&["reserve", "sim1", "--", "/etc/passwd"]);
    assert_eq!(ran.code, 126, "{}", ran.err);
    assert_eq!(lab.run(&["show", "R-1"]).code, 3, "nothing was asked for");
}

#[test]
fn events_and_tables_are_what_was_asked_for() {
    let lab = Lab::start();
    assert_eq!(lab.run(&["reserve", "sim1", "--want", "agent"]).code, 0);
    for n in ["1", "4"] {
        let told = lab.run(&["events", "-n", n]).out;
        assert_eq!(told.lines().count().to_string(), n, "{told}");
    }
    let csv = lab.run(&["events", "-n", "2", "-o", "csv"]).out;
    assert!(csv.starts_with("number,time,actor,kind,") && csv.lines().count() == 3, "{csv}");
    assert_eq!(lab.run(&["status", "-o", "csv"]).code, 2);
    let nothing = lab.run(&["ls", "sim1", "sim2"]);
    assert_eq!(nothing.code, 0);
    assert!(nothing.err.contains("several names: name=sim1,sim2"), "{}", nothing.err);
    assert!(lab.run(&["ls", "state=held", "-o", "name"]).out == "sim1\n");
    let console = lab.run(&["console", "sim1", "--write"]);
    assert_eq!(console.code, 0, "the end of what is typed is the end: {}", console.err);
    assert!(console.out.contains("BIOS") || console.out.contains("Linux"), "{}", console.out);
}
