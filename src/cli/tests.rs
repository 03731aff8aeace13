//! The command line as people type it, and what they see.

use super::out::{Format, Out};
use super::*;
use pitstop_wire::api::{
    Clean, HealthState, Holder, LegState, Machine, Schema, Shown, State, Time, TurnState,
};
use pitstop_wire::{MachineName, UserName};

fn parsed(line: &str) -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("pitstop").chain(line.split_whitespace()))
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn what_people_type_is_taken() {
    for line in [
        "",
        "status",
        "--json status",
        "ls",
        "ls soc=imx8,imx9 ram=8.. rack!=B2 state=free -o wide",
        "ls -o jsonl",
        "show imx8-01",
        "show R-17",
        "reserve soc=imx8 -n 2 --for 1h --reason debug",
        "reserve --role server=soc=imx8 --role client=soc=imx9 --no-wait",
        "reserve imx8-01 --until 18:00 --on-interrupt keep --timeout 20m",
        "reserve soc=imx8 --image debian --want image -- make test",
        "reserve --resume R-17",
        "extend --for 30m",
        "extend R-17 --until 2026-11-22T18:00:00Z",
        "release",
        "release imx8-01 R-17",
        "release R-17 --force --reason stuck",
        "why",
        "why R-17",
        "events -f imx8-01",
        "events --since 2h -n 5 --all",
        "run -- uname -a",
        "run imx8-01 -e A=b -C /tmp -- sh -c exit",
        "power imx8-01 cycle",
        "power on",
        "console imx8-01:m7 --write --steal --since boot",
        "console --no-follow",
        "reimage imx8-01 --image debian --yes",
        "image ls",
        "image add debian disk.raw.zst --seed none",
        "image rm debian",
        "admin enrol state=new --count 3",
        "admin drain imx8-06 --reason fan",
        "admin undrain imx8-06",
        "admin prove imx8-06",
        "admin reload --dry-run",
        "admin check inventory.toml",
        "demo --stay",
        "completion bash",
    ] {
        if let Err(error) = parsed(line) {
            panic!("`pitstop {line}` was refused: {error}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2() {
    for (line, words) in [
        ("stauts", "similar subcommand"),
        ("reserve soc=imx8 --for 90", "needs a unit"),
        ("reserve soc=imx8 --for 1h --until 18:00", "cannot be used with"),
        ("reserve soc=imx8 -n 0", "0"),
        ("reserve soc=imx8 --until 25:00", "no moment"),
        ("reserve soc=imx8 --role a=b", "cannot be used with"),
        ("reserve soc=imx8 --no-wait -- make", "cannot be used with"),
        ("reserve --role server", "NAME=FILTER"),
        ("release R-1 --force", "--reason"),
        ("run imx8-01", "required"),
        ("run imx8-01 -e A -- x", "NAME=VALUE"),
        ("power", "required"),
        ("ls -o yaml", "possible values"),
        ("ls --json -o csv", "cannot be used with"),
        ("admin drain imx8-01", "--reason"),
        ("admin enrol", "required"),
    ] {
        let error = parsed(line).expect_err(line);
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(text.contains(words), "`pitstop {line}`: `{words}` is not in {text}");
    }
}

fn machine(name: &str, shown: Shown) -> Machine {
    Machine {
        schema: Schema::new("pitstop.machine/1"),
        name: MachineName::new(name).unwrap(),
        state: State::Free,
        shown,
        since: Time(Time::now().0 - 41 * 60_000),
        health: HealthState::Good,
        clean: Clean::Proven,
        tags: [("soc".to_owned(), "imx8".into()), ("ram".to_owned(), 8.into())].into(),
        class: None,
        location: None,
        note: None,
        holder: None,
        turn: None,
        image: Some("debian".to_owned()),
        legs: vec![LegState { name: "power".into(), reading: "off".into(), at: None, unsettled: 0 }],
        disks: vec![],
        consoles: vec![],
        boot: None,
        agent: None,
        turns: 0,
        failures: 0,
    }
}

fn some_machines() -> Vec<Machine> {
    let now = Time::now().0;
    let user = |name| UserName::new(name).unwrap();
    let held = Machine {
        holder: Some(Holder {
            user: user("anna"),
            reservation: "R-311".into(),
            reason: Some("debug u-boot".into()),
            // Half a minute more, so that the test may take its time.
            ends: Some(Time(now + 19 * 60_000 + 30_000)),
        }),
        ..machine("imx8-01", Shown::Held)
    };
    let booting = Machine {
        turn: Some(TurnState {
            number: 1,
            purpose: "prepare".into(),
            phase: "disk".into(),
            disk: Some("emmc".into()),
            writing: true,
            phase_since: Time(now - 120_500),
            deadline: Time(now + 60_000),
            started: Time(now - 180_000),
            attempt: Some(2),
            failed: 1,
        }),
        ..machine("imx8-02", Shown::Imaging)
    };
    let failed = Machine {
        health: HealthState::Quarantined {
            class: "boot".into(),
            phase: "boot agent".into(),
            evidence: "no agent in 300 s".into(),
            at: Time(now - 3 * 86_400_500),
        },
        ..machine("imx8-03", Shown::Failed)
    };
    vec![held, booting, failed, machine("imx8-04", Shown::Free)]
}

#[test]
fn the_table_of_machines_has_mark_and_word_and_no_borders() {
    let text = ls::MACHINES.text(&some_machines(), &Out::plain(Format::Table));
    let want = "\
MACHINE  STATE      HOLDER  HELD  LEFT  PHASE
imx8-01  ● held     anna    41m   19m   debug u-boot
imx8-02  ◒ imaging  —       —     —     emmc: writing 2m, try 2
imx8-03  ✗ FAILED   —       3d    —     boot: no agent in 300 s
imx8-04  ○ free     —       —     —     idle 41m
";
    assert_eq!(text, want);
}

#[test]
fn a_narrow_terminal_gets_one_line_per_machine_and_no_colour_unless_asked() {
    let out = Out { width: Some(50), ..Out::plain(Format::Table) };
    let text = ls::MACHINES.text(&some_machines(), &out);
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 50), "{text}");
    assert!(!text.contains('\u{1b}'));
    let out = Out { color: true, ..Out::plain(Format::Table) };
    assert!(ls::MACHINES.text(&some_machines(), &out).contains('\u{1b}'));
}

#[test]
fn ascii_has_a_mark_for_every_state_and_no_other_characters_in_it() {
    let out = Out { ascii: true, ..Out::plain(Format::Table) };
    for shown in [
        Shown::Free,
        Shown::Booting,
        Shown::Imaging,
        Shown::Ready,
        Shown::Held,
        Shown::Failed,
        Shown::Drained,
        Shown::New,
    ] {
        assert!(ls::state(shown, &out).is_ascii());
    }
}

#[test]
fn csv_quotes_what_a_spreadsheet_would_take_for_something_else() {
    let mut machines = some_machines();
    machines[0].holder.as_mut().unwrap().reason = Some("=1+1, \"x\"".into());
    let text = ls::MACHINES.csv(&machines[..1]);
    assert!(text.starts_with("machine,state,holder,held,left,phase,clean,power,image,tags\r\n"), "{text}");
    assert!(text.contains("\"'=1+1, \"\"x\"\"\""), "{text}");
}
