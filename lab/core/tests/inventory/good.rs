//! What good inventories mean.

use std::fs;

use pitstop_core::inventory::{
    AfterBuild, Change, DiskContent, Extend, Idle, Inventory, Limits, MachineChange, NewBecause, OnAgentLost,
    Point, SecretRef, WatchConsoles, diff, diff_lab,
};
use pitstop_wire::selector::{Number, TagValue};

use super::catalogue::Invented;
use super::{folder, good, machine};

fn example() -> Inventory {
    Inventory::load(&folder("good/example.toml"), &Invented).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn all_good_inventories_are_taken() {
    let paths = fs::read_dir(folder("good")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = paths.filter(|path| path.is_file()).collect();
    assert!(files.len() >= 3);
    for path in files {
        Inventory::load(&path, &Invented).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn a_rack_of_equal_servers() {
    let lab = example();
    assert_eq!(lab.machines.len(), 32);
    let srv = machine(&lab, "srv03");
    assert_eq!((srv.n, srv.class.as_deref()), (Some(3), Some("r640")));
    assert_eq!(srv.location.as_deref(), Some("rack A, unit 3"));
    assert_eq!(srv.tags["rack"], TagValue::Text("A3".to_owned()));
    let [power, mains] = &srv.legs[..] else { panic!("{:?}", srv.legs) };
    assert_eq!((power.name.as_str(), power.driver.text("address")), ("power", Some("srv03-bmc.lab")));
    assert_eq!(power.driver.secret("password"), Some(SecretRef::File("/etc/pitstop/bmc".to_owned())));
    assert_eq!((mains.name.as_str(), mains.driver.controller.as_deref()), ("mains", Some("pdu-a")));
    assert_eq!(
        (mains.driver.text("outlet"), mains.usage.as_deref()),
        (Some("3"), Some("when the BMC is dead"))
    );
    assert_eq!((srv.spare_leg(), mains.is_spare()), (Some(1), true));
    let circuit = &lab.circuits[srv.circuit.as_deref().unwrap()];
    assert_eq!((circuit.max_starting, circuit.max_on), (Some(4), Some(28)));
    assert!(circuit.said_on.to_string().ends_with("example.toml:15:1"), "{}", circuit.said_on);
    assert_eq!(srv.consoles["main"].text("path"), Some("/dev/ser/srv03"));
    assert_eq!(srv.disks.len(), 2);
    assert_eq!(srv.disks[0].matching.min, Some(400_000_000_000));
    assert_eq!(srv.disks[1].content, DiskContent::Zero);
    assert_eq!(srv.reimage.driver, "agent");
    let limits = Limits {
        power_ms: 30_000,
        firmware_ms: 480_000,
        attach_ms: 120_000,
        reimage_ms: 1_200_000,
        ..Limits::default()
    };
    assert_eq!(srv.limits, limits);
}

#[test]
fn a_machine_adds_to_its_range() {
    let lab = example();
    let srv = machine(&lab, "srv17");
    assert_eq!(srv.tags["gpu"], TagValue::Text("t4".to_owned()));
    assert_eq!(srv.tags["arch"], TagValue::Text("x86_64".to_owned()));
    assert_eq!(srv.legs[0].driver.int("cipher"), Some(17));
    assert_eq!(srv.legs[0].driver.text("address"), Some("srv17-bmc.lab"), "fields of the same driver merge");
    assert_eq!((srv.limits.reimage_ms, srv.limits.power_ms), (2_400_000, 30_000));
}

#[test]
fn another_driver_replaces_the_class_driver_whole() {
    let lab = example();
    let srv = machine(&lab, "srv18");
    assert_eq!(srv.legs[0].driver.driver, "command");
    assert_eq!(srv.legs[0].driver.list("on"), Some(vec!["relay", "srv18", "1"]));
    assert_eq!((srv.legs[0].min_off_ms, srv.legs[0].readback), (15_000, false));
    assert!(srv.consoles.is_empty(), "`console = {{}}` says that there is none");
}

#[test]
fn facts_of_another_file_are_added() {
    let lab = example();
    let srv = machine(&lab, "srv01");
    assert_eq!(srv.boot.text("mac"), Some("3c:52:82:6a:10:03"));
    assert_eq!(srv.boot.text("firmware"), Some("uefi"));
    assert_eq!(srv.disks[0].matching.serial.as_deref(), Some("S3Z8NB0K512345"));
    assert_eq!(srv.disks[0].matching.bus.as_deref(), Some("nvme"));
}

#[test]
fn the_rest_of_the_lab() {
    let lab = example();
    assert_eq!((lab.lab.name.as_str(), lab.lab.zone.as_str()), ("berlin", "Europe/Berlin"));
    assert_eq!(lab.controllers["pdu-a"].int("at_once"), Some(2));
    let person = &lab.policies["person"];
    let lease = person.lease.as_ref().unwrap();
    assert_eq!(
        (lease.default_ms, lease.max_ms, lease.extend),
        (7_200_000, 43_200_000, Extend::WhileNobodyWaits)
    );
    let board = machine(&lab, "imx8-01");
    assert_eq!(board.tags["ram"], TagValue::Number(Number::from_int(4).unwrap()));
    assert_eq!((board.consoles.len(), board.n), (2, Some(1)));
}

#[test]
fn how_much_of_consoles_is_kept_and_who_may_watch() {
    let lab = example();
    assert_eq!((lab.lab.console_quota, lab.lab.watch_consoles), (Some(64 << 30), WatchConsoles::Holder));
    let quota = |name: &str| machine(&lab, name).console_quota;
    assert_eq!((quota("srv01"), quota("srv17"), quota("imx8-01")), (Some(1 << 30), Some(2 << 30), None));
    let firmware = &lab.groups["firmware"];
    assert_eq!(firmware.members, ["anna", "tom"]);
    assert_eq!(firmware.watch_consoles, Some(WatchConsoles::Group));
    assert!(lab.private_consoles() && !Inventory::default().private_consoles());
}

#[test]
fn whose_word_counts() {
    let lab = example();
    let (vm, srv) = (machine(&lab, "vm-1"), machine(&lab, "srv01"));
    assert_eq!(lab.after_build(vm, "ci"), AfterBuild::Keep, "the machine's own word comes first");
    assert_eq!(lab.after_build(srv, "ci"), AfterBuild::Reimage);
    assert_eq!(lab.idle(srv, "ci"), Idle::Warm { max_age_ms: 7_200_000 });
    assert_eq!(lab.idle(srv, "person"), Idle::Off);
    assert_eq!(lab.on_agent_lost(srv, "person"), OnAgentLost::Ignore);
    assert_eq!(lab.on_agent_lost(srv, "ci"), OnAgentLost::FailAfter { ms: 15_000 });
    let mut keep = lab.clone();
    keep.policies.get_mut("ci").unwrap().after_build = Some(AfterBuild::Keep);
    assert_eq!(keep.after_build(machine(&keep, "srv01"), "ci"), AfterBuild::Reimage, "it is not shared");
}

#[test]
fn it_is_known_where_a_limit_is_set() {
    let lab = example();
    let place =
        |name: &str, key: &str| machine(&lab, name).sources.of(key).map(|place| (place.line, place.col));
    let text = fs::read_to_string(folder("good/example.toml")).unwrap();
    let line = |part: &str| {
        1 + u32::try_from(text.lines().position(|line| line.starts_with(part)).unwrap()).unwrap()
    };
    assert_eq!(place("srv17", "timeout.reimage").unwrap().0, line("timeout.reimage"));
    assert_eq!(place("srv17", "timeout.power").unwrap().0, line("timeout          "));
    assert_eq!(
        place("srv16", "timeout.evidence").unwrap(),
        (line("timeout          "), 1),
        "a default: the table around it"
    );
    assert_eq!(place("vm-1", "timeout.reimage"), None);
    let sources = &machine(&lab, "srv16").sources;
    assert_eq!(sources.machine.line, line("[machine.\"srv["));
    assert_eq!(sources.class.as_ref().unwrap().line, line("[class.r640]"));
}

#[test]
fn a_driver_reads_its_fields_as_plain_data() {
    #[derive(serde::Deserialize)]
    struct Pxe {
        mac: String,
        #[serde(rename = "match")]
        line: String,
        wait: u64,
        quiet: bool,
    }
    let lab = good(
        "format = 1\n[machine.a]\npower.sim = {}\nconsole = {}\nready.agent = {}\n\
         boot.pxe = { mac = \"3C-52-82-6A-10-03\", match = '^x{3}$', wait = \"1m30s\", quiet = true }",
    );
    let fields = serde_json::Value::Object((*machine(&lab, "a").boot.fields).clone());
    let pxe: Pxe = serde_json::from_value(fields).unwrap();
    assert_eq!(
        (pxe.mac.as_str(), pxe.line.as_str(), pxe.wait, pxe.quiet),
        ("3c:52:82:6a:10:03", "^x{3}$", 90_000, true)
    );
}

const LAB: &str = "format = 1\n[class.b]\npower.sim = {}\nconsole.main.sim = {}\nboot.sim = {}\nready.agent = {}\n\
    disk.root = { match = { serial = \"S1\" } }\n[machine.\"b[1-3]\"]\nclass = \"b\"\n";

fn shown(changes: &[MachineChange]) -> Vec<(String, Change, bool, Vec<String>)> {
    let keys = |change: &MachineChange| change.keys.iter().map(ToString::to_string).collect();
    changes.iter().map(|c| (c.name.to_string(), c.change, c.is_new(), keys(c))).collect()
}

#[test]
fn a_reload_says_what_it_changes() {
    let old = good(LAB);
    assert_eq!(diff(&old, &old), []);
    let moved = good(&LAB.replace("[class.b]", "\n# a comment\n[class.b]"));
    assert_eq!(diff(&old, &moved), [], "a moved line is no change");

    let text = LAB.replace("b[1-3]", "b[2-4]").replace("S1", "S2");
    let new =
        good(&format!("{text}[machine.b3]\nnote = \"x\"\ntimeout.power = \"1s\"\npower.sim.disk = \"8M\"\n"));
    let changes = diff(&old, &new);
    let serial = "disk.root.match.serial: S1 → S2".to_owned();
    let more = ["note: not set → x", "power.sim.disk: not set → 8M", "timeout.power: not set → 1s"];
    let b3 = std::iter::once(serial.clone()).chain(more.map(str::to_owned)).collect();
    assert_eq!(
        shown(&changes),
        [
            ("b1".to_owned(), Change::Removed, false, vec![]),
            ("b2".to_owned(), Change::Changed, true, vec![serial]),
            ("b3".to_owned(), Change::Changed, true, b3),
            ("b4".to_owned(), Change::Added, true, vec![]),
        ]
    );
    assert_eq!(changes[2].new_because, [NewBecause::Legs, NewBecause::Disks]);
}

#[test]
fn what_changes_is_told_in_the_words_of_the_file() {
    let keys = |before: &str, after: &str| -> Vec<String> {
        let (old, new) = (good(&format!("{LAB}{before}")), good(&format!("{LAB}{after}")));
        let mut all: Vec<String> = diff_lab(&old, &new).iter().map(ToString::to_string).collect();
        let changes = diff(&old, &new);
        all.extend(changes.first().iter().flat_map(|change| &change.keys).map(ToString::to_string));
        all
    };
    let image = "image = \"i\"\n";
    for (before, after, told) in [
        ("timeout.power = \"60s\"", "timeout.power = \"90s\"", &["timeout.power: 60s → 90s"][..]),
        ("timeout.power = \"60s\"", "timeout.power = \"1m\"", &[]),
        ("idle = \"off\"", "idle = { warm = \"4h\" }", &["idle: off → { warm = 4h }"]),
        ("idle = { warm = \"3h\" }", "idle = { warm = \"4h\" }", &["idle.warm: 3h → 4h"]),
        ("tags.a = 1", "tags = { a = 2, b = \"x, y\" }", &["tags.a: 1 → 2", "tags.b: not set → \"x, y\""]),
        ("power.sim.faults = []", "power.sim.faults = [\"panic\"]", &["power.sim.faults: [] → [panic]"]),
        ("console.main.sim = {}", "console = {}", &["console.main.sim: {} → not set"]),
        ("", "note = \"a\\u001b[2Jb\"", &["note: not set → \"a\\u{1b}[2Jb\""]),
        (
            "[lab]\nzone = \"UTC\"\n[policy.ci]\nafter_build = \"reimage\"",
            "[lab]\nzone = \"Europe/Berlin\"\n[policy.ci]\nafter_build = \"power-off\"",
            &["lab.zone: UTC → Europe/Berlin", "policy.ci.after_build: reimage → power-off"],
        ),
    ] {
        let own = |text: &str| if text.starts_with('[') { text.to_owned() } else { format!("{image}{text}") };
        assert_eq!(keys(&own(before), &own(after)), told, "{before}  ~>  {after}");
    }
}

/// What the core asks of a machine's row, and what a reload says before, are one question.
#[test]
fn a_reload_calls_new_what_the_core_will_take_for_new() {
    const TWO: &str = "format = 1\n[class.b]\npower.outlet = { controller = \"p\", outlet = 1 }\n\
        mains.command = { on = [\"a\"], off = [\"b\"] }\nconsole = {}\nboot.pxe = {}\nready.agent = {}\n\
        disk.a = { match = { serial = \"S1\" } }\ndisk.b = { match = { serial = \"S2\" } }\n\
        [machine.m1]\nclass = \"b\"\n[controller.p]\nqueue = {}\n[controller.q]\nqueue = {}\n";
    let parts = |lab: &Inventory| {
        let spec = machine(lab, "m1");
        let legs = spec.legs.iter().map(|leg| (leg.name.clone(), leg.driver.identity()));
        let disks = spec.disks.iter().map(|disk| (disk.name.clone(), disk.matching.identity()));
        (legs.collect::<Vec<_>>(), disks.collect::<Vec<_>>())
    };
    let old = good(TWO);
    for (from, to, new) in [
        ("controller = \"p\"", "controller = \"q\"", true),
        ("outlet = 1", "outlet = 2", true),
        ("off = [\"b\"]", "off = [\"b\", \"-f\"]", true),
        ("mains.command", "power.command", true),
        ("serial = \"S1\"", "serial = \"S1\", min = \"1G\"", true),
        ("S1", "S2x", true),
        ("disk.a", "disk.c", true),
        ("outlet = 1 }", "outlet = 1, min_off = \"5s\", readback = \"none\", use = \"x\" }", false),
        ("[class.b]\n", "[class.b]\nreimage.agent = {}\nimage = \"x\"\nother_disks = \"unproven\"\n", false),
        ("serial = \"S1\" }", "serial = \"S1\" }, content = \"zero\"", false),
    ] {
        let text = TWO.replacen(
            "power.outlet = { controller = \"p\", outlet = 1 }\nmains",
            "mains",
            usize::from(from == "mains.command"),
        );
        let text = text.replacen(from, to, 1);
        let changed = good(&text);
        let changes = diff(&old, &changed);
        assert_eq!(changes.len(), 1, "{from} ~> {to}");
        assert_eq!(changes[0].is_new(), new, "{from} ~> {to}");
        assert_eq!(parts(&old) != parts(&changed), new, "{from} ~> {to}");
    }
}

#[test]
fn a_new_note_needs_no_enrolment() {
    let changed = good(&format!("{LAB}note = \"x\"\ntags = {{ a = 1 }}\ndisk.root.content = \"zero\""));
    let changes = diff(&good(LAB), &changed);
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| !change.is_new()), "{changes:?}");
    let keys: Vec<&str> = changes[0].keys.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["disk.root.content", "note", "tags.a"]);
}

#[test]
fn the_lab_out_of_the_box() {
    let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../inventory.toml"));
    let lab = Inventory::load(path, &Invented).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(lab.machines.len(), 12);
    for spec in lab.machines.values() {
        assert_eq!(
            (spec.legs[0].driver.driver.as_str(), spec.consoles.len(), spec.disks.len()),
            ("sim", 1, 1)
        );
    }
    // The commented machines are shown to newcomers: uncommenting them must give the lab they promise.
    let text = fs::read_to_string(path).unwrap();
    let (_, real) = text.split_once("# ── real:").unwrap();
    // The servers need the real drivers, whose own tests try them.
    let (real, _) = real.split_once("# ── servers:").unwrap();
    let uncommented = |text: &str| {
        text.lines().skip(1).map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect::<String>()
    };
    let real =
        format!("{text}{}", uncommented(real).replace("── real:", "# ").replace("boot.http ", "boot.pxe "));
    assert_eq!(good(&real).machines.len(), 14);
}

#[test]
fn hooks_are_run_in_another_order_than_they_stand_in() {
    let text = r#"
        format = 1
        [host.bench1]
        local = {}
        [class.board]
        power.sim = {}
        console.main.sim = {}
        boot.sim = {}
        ready.agent = {}
        [[class.board.hook.before_power]]
        z = { run = ["z", "{name}"], host = "bench1", timeout = "5s", on_error = "warn" }
        a = { run = ["a", "{image.boot}", "{{{machine}}}"] }
        [[class.board.hook.before_power]]
        m = { run = ["m"] }
        [machine."b[1-2]"]
        class = "board"
        [machine.b2]
        hook.before_power = []
    "#;
    let inventory = good(text);
    let hooks =
        |name: &str| machine(&inventory, name).hooks.get(&Point::BeforePower).cloned().unwrap_or_default();
    let names: Vec<String> = hooks("b1").iter().map(|h| h.name.clone()).collect();
    assert_eq!(names, ["z", "a", "m"]);
    let (z, a) = (&hooks("b1")[0], &hooks("b1")[1]);
    assert_eq!((z.run(), z.timeout_ms(), z.only_warns()), (vec!["z", "b1"], 5_000, true));
    assert_eq!(z.command.host.as_deref(), Some("bench1"));
    // What is known later stays as it is, for when it is run.
    assert_eq!(
        (a.run(), a.timeout_ms(), a.only_warns()),
        (vec!["a", "{image.boot}", "{{{machine}}}"], 60_000, false)
    );
    assert!(hooks("b2").is_empty(), "a machine cannot do without its class's hooks");
}

#[test]
fn a_boards_flash_is_no_disk_of_its_own() {
    let board = |reimage: &str| {
        let text = format!(
            "format = 1\n[machine.b]\npower.sim = {{}}\nconsole = {{}}\nboot.sim = {{}}\nready.power = {{}}\n{reimage}"
        );
        machine(&good(&text), "b").clone()
    };
    assert!(board("").disks.is_empty());
    let one = board("reimage.command = { run = [\"write\", \"1\", \"{image}\"] }");
    let two = board("reimage.command = { run = [\"write\", \"2\", \"{image}\"], read_back = [\"read\"] }");
    assert_eq!((one.disks.len(), one.disks[0].name.as_str()), (1, "flash"));
    assert!(!one.reads_back() && two.reads_back());
    // Another programmer is another flash: nobody has accepted that it is erased.
    assert_ne!(one.disks[0].matching.identity(), two.disks[0].matching.identity());
    let agents = board("disk.root = {}").disks[0].matching.identity();
    assert_ne!(one.disks[0].matching.identity(), agents);
}
