//! What good inventories mean.

use std::fs;

use pitstop_core::inventory::{
    AfterBuild, Change, DiskContent, Extend, Idle, Inventory, Limits, NewBecause, OnAgentLost, SecretRef,
    diff,
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
    let shown: Vec<_> =
        changes.iter().map(|c| (c.name.as_str(), c.change, c.keys.join(" "), c.is_new())).collect();
    assert_eq!(
        shown,
        [
            ("b1", Change::Removed, String::new(), false),
            ("b2", Change::Changed, "disk.root.match.serial".to_owned(), true),
            ("b3", Change::Changed, "disk.root.match.serial note power.disk timeout.power".to_owned(), true),
            ("b4", Change::Added, String::new(), true),
        ]
    );
    assert_eq!(changes[2].new_because, [NewBecause::Legs, NewBecause::Disks]);
}

#[test]
fn a_new_note_needs_no_enrolment() {
    let changed = good(&format!("{LAB}note = \"x\"\ntags = {{ a = 1 }}\ndisk.root.content = \"zero\""));
    let changes = diff(&good(LAB), &changed);
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| !change.is_new()), "{changes:?}");
    assert_eq!(changes[0].keys, ["disk.root.content", "note", "tags.a"]);
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
    let (real, coming) = real.split_once("# ── coming:").unwrap();
    let uncommented = |text: &str| {
        text.lines().skip(1).map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect::<String>()
    };
    let real =
        format!("{text}{}", uncommented(real).replace("── real:", "# ").replace("boot.http ", "boot.pxe "));
    assert_eq!(good(&real).machines.len(), 14);
    let coming = super::parse(&format!("{text}{}", uncommented(coming))).unwrap_err().to_string();
    assert!(coming.contains("driver `ipmi` is not in this release"), "{coming}");
}
