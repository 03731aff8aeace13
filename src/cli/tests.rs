//! The command line as people type it, and what they see.

use super::out::{Format, Out};
use super::*;
use pitstop_wire::api::{
    Clean, CleanLevel, End, EndKind, Event, HealthState, Hold, Holder, LegState, Machine, Member,
    Reservation, ReservationState, Schema, Shown, State, Time, TurnState, Want,
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
        "extend",
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
        "power imx8-01",
        "power imx8-01 off --no-wait",
        "power imx8-01 off --timeout 30s",
        "console imx8-01:m7 --write --steal --since boot",
        "console --no-follow",
        "reimage imx8-01 --image debian --yes",
        "image ls",
        "image add debian disk.raw.zst --seed none",
        "image add debian disk.raw --replace",
        "image rm debian",
        "replay run.jsonl",
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
        ("console imx8-01 --write --no-follow", "cannot be used with"),
        ("power imx8-01 off --no-wait --timeout 3s", "cannot be used with"),
    ] {
        let error = parsed(line).expect_err(line);
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(text.contains(words), "`pitstop {line}`: `{words}` is not in {text}");
    }
}

/// A machine at rest, off.
pub(super) fn machine(name: &str, shown: Shown) -> Machine {
    Machine {
        schema: Schema::new("pitstop.machine/1"),
        name: MachineName::new(name).unwrap(),
        state: State::Free,
        shown,
        since: Time(Time::now().0 - 41 * 60_000),
        health: HealthState::Good,
        clean: Clean::Proven,
        tags: [("soc".to_owned(), "imx8".into()), ("ram".to_owned(), 8.into())].into(),
        found_tags: std::collections::BTreeMap::new(),
        found: None,
        differences: Vec::new(),
        checked_by: None,
        class: None,
        location: None,
        note: None,
        holder: None,
        turn: None,
        image: Some("debian".to_owned()),
        legs: vec![LegState {
            name: "power".into(),
            reading: "off".into(),
            at: None,
            unsettled: 0,
            aside: false,
        }],
        cut: None,
        circuit: None,
        disks: vec![],
        consoles: vec![],
        switches: std::collections::BTreeMap::new(),
        buttons: Vec::new(),
        boot: None,
        agent: None,
        turns: 0,
        pause: None,
        failures: 0,
    }
}

/// A record about `m0`, as the stream tells it.
pub(super) fn event(kind: &str, text: &str) -> Event {
    Event {
        schema: Schema::new("pitstop.event/1"),
        number: 1,
        time: Time(0),
        actor: "driver".into(),
        kind: kind.into(),
        machine: Some(MachineName::new("m0").unwrap()),
        reservation: None,
        text: text.into(),
        detail: true,
        data: serde_json::Value::Null,
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
            again: None,
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
fn csv_is_for_programs_and_quotes_what_a_spreadsheet_would_take_for_something_else() {
    let mut machines = some_machines();
    machines[0].holder.as_mut().unwrap().reason = Some("=1+1, \"x\"".into());
    let text = ls::MACHINES.csv(&machines);
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(
        lines[0].starts_with("machine,state,shown,since,holder,reservation,reason,ends,phase,"),
        "{text}"
    );
    assert!(lines[1].contains("\"'=1+1, \"\"x\"\"\""), "{text}");
    assert!(!text.contains(['●', '—', '✗', '○', '◒']), "no marks: {text}");
    let since = lines[4].split(',').nth(3).unwrap();
    assert!(since.parse::<Time>().is_ok(), "a program reads this: {since}");
    let titles = lines[0].split(',').count();
    assert!(lines[2].split(',').count() == titles && lines[4].split(',').count() == titles, "{text}");
}

#[test]
fn a_format_that_a_verb_does_not_have_is_refused_before_anything_is_done() {
    for line in
        ["status", "show x", "release R-1", "reserve x", "why x", "power x on", "image show x", "demo"]
    {
        let verb = parsed(line).unwrap().verb.unwrap();
        let Err(fail) = has(&verb, Format::Csv) else { panic!("`{line} -o csv` was taken") };
        assert_eq!(fail.code(false), 2, "{line}");
    }
    assert!(has(&parsed("ls").unwrap().verb.unwrap(), Format::Raw).is_err());
    assert!(has(&parsed("console x").unwrap().verb.unwrap(), Format::Raw).is_ok());
    for line in ["ls", "events", "image ls"] {
        assert!(has(&parsed(line).unwrap().verb.unwrap(), Format::Csv).is_ok(), "{line}");
    }
    let demo = parsed("demo").unwrap().verb.unwrap();
    assert!(has(&demo, Format::Json).is_err() && has(&demo, Format::Table).is_ok());
}

#[test]
fn phase_is_no_number_of_a_reservation_and_a_long_failure_is_cut() {
    let mut machines = some_machines();
    machines[0].holder.as_mut().unwrap().reason = None;
    machines[2].health = HealthState::Quarantined {
        class: "boot".into(),
        phase: "boot agent".into(),
        evidence: "no agent ".repeat(40),
        at: Time::now(),
        again: None,
    };
    machines[3].shown = Shown::Drained;
    machines[3].health = HealthState::Drained { by: "kim".into(), reason: "fan".into(), at: Time::now() };
    let text = ls::MACHINES.text(&machines, &Out::plain(Format::Table));
    assert!(!text.contains("R-311"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() < 110) && text.contains('…'), "{text}");
    let drained = text.lines().last().unwrap();
    assert!(drained.contains("drained  —") && drained.ends_with("drained by kim: \"fan\""), "{drained}");
    let wide = ls::MACHINES.text(&machines, &Out::plain(Format::Wide));
    assert!(wide.contains(&"no agent ".repeat(40)), "{wide}");
}

/// A reservation that is over for three minutes, or ready.
fn reservation(state: ReservationState, hold: Hold) -> Reservation {
    let now = Time::now().0;
    let end = End { kind: EndKind::Released, at: Time(now - 180_500), text: "released by anna".into() };
    Reservation {
        schema: Schema::new("pitstop.reservation/1"),
        id: "R-1".into(),
        owner: UserName::new("anna").unwrap(),
        state,
        roles: vec![],
        machines: vec![Member {
            role: "machine".into(),
            machine: MachineName::new("board01").unwrap(),
            ready: true,
        }],
        image: None,
        want: Want::Bare,
        hold,
        clean: CleanLevel::Proven,
        priority: 50,
        reason: None,
        created: Time(now - 3_600_000),
        limit: None,
        ends: Some(Time(now + 3_540_000)),
        unclaimed_until: (state == ReservationState::Ready).then_some(Time(now + 600_000)),
        position: None,
        failed_on: vec![],
        end: (state == ReservationState::Ended).then_some(end),
    }
}

#[test]
fn releasing_what_is_over_long_ago_does_not_say_that_a_machine_is_cleaned() {
    let said = |state| release::said(&reservation(state, Hold::Time));
    assert_eq!(said(ReservationState::Ended), "R-1 had ended already: released by anna, 3m ago");
    assert_eq!(said(ReservationState::Active), "R-1 released; board01 cleaned before anybody else gets it");
    assert_eq!(said(ReservationState::Waiting), "R-1 cancelled");
}

#[test]
fn what_cannot_be_extended_has_no_hint_to_extend_it() {
    let session = reservation(ReservationState::Active, Hold::Session { silence: 30 });
    assert!(!status::extendable(&session));
    let mut person = reservation(ReservationState::Active, Hold::Time);
    assert!(status::extendable(&person));
    person.ends = None;
    assert!(!status::extendable(&person));
}

#[test]
fn who_does_not_wait_is_told_how_long_it_is_kept_and_what_takes_it() {
    let ready = reserve::kept(&reservation(ReservationState::Ready, Hold::Time));
    assert!(ready.contains("kept for you till") && ready.contains("10m left"), "{ready}");
    let waiting = reserve::kept(&reservation(ReservationState::Waiting, Hold::Time));
    assert!(waiting.contains("timeout.claim") && waiting.contains("--resume R-1"), "{waiting}");
}

#[test]
fn several_names_that_cannot_all_hold_are_explained() {
    let filter = |words: &[&str]| pick::filter(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    let nothing = ls::nothing(&filter(&["board01", "board02"]).unwrap());
    assert_eq!(nothing, "nothing matches; several names: name=board01,board02");
    let Err(Fail::Said(error)) = filter(&["board01,board02"]) else { panic!("was taken") };
    assert!(error.hint.unwrap().contains("name=board01,board02"));
    assert!(error.message.contains("FILTER"), "{}", error.message);
    let Err(Fail::Said(error)) = pick::machine_name("state=free") else { panic!("was taken") };
    assert!(error.hint.unwrap().contains("no FILTER"));
}

#[test]
fn the_list_before_an_enrolment_says_what_is_erased_and_switched() {
    let new = pitstop_wire::api::NewMachine {
        name: MachineName::new("b1").unwrap(),
        disks: vec!["root".into()],
        erased: vec!["root: serial S3Z9, 100 GB to 200 GB".into()],
        power: vec!["power: qemu".into()],
        differences: vec![],
    };
    let text = admin::listed(&new).join("\n");
    assert_eq!(
        text,
        "b1: will be erased: root: serial S3Z9, 100 GB to 200 GB\nb1: will be switched: power: qemu"
    );
}

#[test]
fn help_has_global_options_last_and_an_example_for_each_verb() {
    use clap::CommandFactory;
    let mut cli = Cli::command();
    cli.build();
    for verb in cli.get_subcommands_mut() {
        let name = verb.get_name().to_owned();
        let text = verb.render_help().to_string();
        if name == "help" {
            continue;
        }
        assert!(text.contains(&format!("  pitstop {name}")), "no example: {text}");
        let (own, global) = text.split_once("Global options:").expect(&name);
        assert!(global.contains("--socket") && !own.contains("--socket"), "{text}");
    }
    let error = parsed("power").unwrap_err().to_string();
    assert!(!error.contains("--socket <PATH>"), "{error}");
}
