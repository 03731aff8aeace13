use super::*;
use crate::inventory::model::DiskMatch;
use crate::simulator::labs;

fn disk(path: &str, bytes: u64, serial: Option<&str>) -> SeenDisk {
    SeenDisk {
        path: path.into(),
        bytes,
        serial: serial.map(str::to_owned),
        bus: "nvme".into(),
        ..SeenDisk::default()
    }
}

fn machine(disks: Vec<SeenDisk>) -> Hardware {
    Hardware {
        disks,
        macs: vec!["52:54:00:00:00:01".into()],
        memory: 16 << 30,
        cpus: 8,
        cores: 4,
        arch: "x86_64".into(),
        serial: Some("M1".into()),
        uuid: Some("u1".into()),
        model: Some("R640".into()),
        firmware: [("bios".to_owned(), "1.0".to_owned())].into(),
    }
}

fn usual() -> Hardware {
    machine(vec![disk("/dev/a", 100, Some("A")), disk("/dev/b", 200, Some("B"))])
}

/// A change of the usual machine, and what is said of it: `!` where it is grave.
type Case = (&'static str, fn(&mut Hardware), &'static [&'static str]);

const CASES: &[Case] = &[
    ("nothing", |_| (), &[]),
    ("disks in another order", |h| h.disks.reverse(), &[]),
    ("a disk under another path", |h| h.disks[0].path = "/dev/c".into(), &[]),
    ("another machine", |h| h.serial = Some("M2".into()), &["!serial number is M2, was M1"]),
    ("a machine without numbers", |h| (h.serial, h.uuid) = (None, None), &["!serial number is none"]),
    ("firmware that forgot its number", |h| h.serial = None, &["serial number is not told any more"]),
    ("another UUID alone", |h| h.uuid = Some("u2".into()), &[]),
    ("another architecture", |h| h.arch = "aarch64".into(), &["!architecture is aarch64"]),
    ("a product that is called otherwise", |h| h.model = Some("R640 v2".into()), &["called R640 v2"]),
    ("another disk", |h| h.disks[0].serial = Some("C".into()), &["!serial C", "/dev/a (serial A, 100"]),
    ("one disk more", |h| h.disks.push(disk("/dev/c", 1, None)), &["!/dev/c (without a number"]),
    ("a disk that lost its number", |h| h.disks[0].serial = None, &["!/dev/a (without", "serial A"]),
    ("a disk gone", |h| drop(h.disks.remove(0)), &["serial A, 100 bytes) is gone"]),
    ("a disk that grew", |h| h.disks[0].bytes = 150, &["has 150 bytes, had 100"]),
    ("other firmware of a disk", |h| h.disks[0].firmware = Some("2".into()), &[]),
    ("an eighth of the memory gone", |h| h.memory -= 2 << 30, &["!14336 MiB of memory, had 16384"]),
    ("a kernel that keeps some", |h| h.memory -= 100 << 20, &[]),
    ("a little less memory", |h| h.memory -= 512 << 20, &["15872 MiB"]),
    ("more memory", |h| h.memory *= 2, &["32768 MiB of memory, had 16384"]),
    ("fewer cores", |h| (h.cores, h.cpus) = (2, 4), &["2 processor cores, had 4", "4 processors, had 8"]),
    (
        "another network card",
        |h| h.macs = vec!["52:54:00:00:00:02".into()],
        &["52:54:00:00:00:02 is new", "52:54:00:00:00:01 is gone"],
    ),
    ("other firmware", |h| drop(h.firmware.insert("bios".into(), "2.0".into())), &["bios is 2.0, was 1.0"]),
    ("firmware that nobody asked for", |h| drop(h.firmware.insert("ec".into(), "9".into())), &[]),
    (
        "an agent that reports less",
        |h| {
            (h.cores, h.arch, h.uuid, h.model) = (0, String::new(), None, None);
            h.firmware.clear();
        },
        &[],
    ),
];

#[test]
fn what_differs_is_told_and_what_matters_is_grave() {
    for (what, change, told) in CASES {
        let mut is = usual();
        change(&mut is);
        let found = differences(&[], &usual(), &is);
        assert_eq!(found.len(), told.len(), "{what}: {found:?}");
        for (found, told) in found.iter().zip(*told) {
            let words = told.strip_prefix('!');
            assert_eq!(found.grave, words.is_some(), "{what}: {found:?}");
            assert!(found.text.contains(words.unwrap_or(told)), "{what}: {found:?}, and not {told}");
        }
    }
}

/// One of several disks is pulled: what is left must not be taken for it.
#[test]
fn the_only_disk_that_is_left_is_not_the_one_that_was_enrolled() {
    let fits = |matching: DiskMatch| {
        let mut spec = labs::disk("root", Default::default());
        spec.matching = matching;
        [spec]
    };
    let rule =
        |min: u64, max: u64| fits(DiskMatch { min: Some(min), max: Some(max), ..DiskMatch::default() });
    let mut is = usual();
    is.disks[1].bytes = 100;
    is.disks.remove(0);
    // By its size B is now what A was.
    let found = differences(&rule(50, 150), &usual(), &is);
    assert!(found.iter().any(|d| d.grave && d.text.contains("root of the inventory is /dev/b")), "{found:?}");
    // Where two fitted, none was enrolled as this one.
    let found = differences(&fits(DiskMatch::default()), &usual(), &is);
    assert!(found.iter().all(|d| !d.grave), "{found:?}");
}

#[test]
fn disks_without_numbers_are_counted_and_not_taken_for_one_another() {
    let was = machine(vec![disk("/dev/a", 100, None), disk("/dev/b", 100, None)]);
    let same = machine(vec![disk("/dev/b", 100, None), disk("/dev/a", 100, None)]);
    assert!(differences(&[], &was, &same).is_empty());
    let third = machine(vec![disk("/dev/a", 100, None); 3]);
    assert!(differences(&[], &was, &third).iter().any(|d| d.grave));
    let larger = machine(vec![disk("/dev/a", 100, None), disk("/dev/b", 101, None)]);
    assert!(differences(&[], &was, &larger).iter().any(|d| d.grave));
}

#[test]
fn a_newer_agent_adds_what_the_older_one_did_not_report() {
    let old = Hardware {
        disks: vec![disk("/dev/a", 100, None), disk("/dev/b", 200, Some("B"))],
        macs: vec!["52:54:00:00:00:01".into()],
        memory: 16 << 30,
        cpus: 8,
        ..Hardware::default()
    };
    let mut new = usual();
    new.disks[1].wwn = Some("eui.1".into());
    assert!(differences(&[], &old, &new).is_empty(), "{:?}", differences(&[], &old, &new));
    let both = filled(&old, &new);
    assert_eq!(both.serial.as_deref(), Some("M1"));
    assert_eq!(both.disks[0].serial.as_deref(), Some("A"), "known by all else there is of it");
    assert_eq!(both.disks[1].wwn.as_deref(), Some("eui.1"));
    // What was known stays, whatever is reported.
    let mut other = usual();
    (other.serial, other.memory) = (Some("M2".into()), 1 << 30);
    assert_eq!(filled(&usual(), &other), usual());
}

#[test]
fn a_report_is_bounded_and_obeyed_by_no_terminal() {
    let mut report = usual();
    report.serial = Some(format!("\u{1b}[31mM1\u{202e}{}", "x".repeat(10_000)));
    report.uuid = Some("00000000-0000-0000-0000-000000000000".into());
    report.model = Some("\u{7}\0".into());
    report.macs = vec![
        "52-54-00-00-00-01".into(),
        "52:54:00:00:00:01".into(),
        "x".repeat(9_000),
        "00:00:00:00:00:00".into(),
    ];
    report.firmware = (0..1_000).map(|n| (format!("f{n}\n"), "v\r".to_owned())).collect();
    report.disks[0].serial = Some("To Be Filled By O.E.M.".into());
    let clean = cleaned(report).unwrap();
    assert!(clean.serial.as_ref().unwrap().starts_with("[31mM1x"));
    assert_eq!(clean.serial.as_ref().unwrap().chars().count(), LONGEST);
    assert_eq!((clean.uuid, clean.model), (None, None));
    assert_eq!(clean.macs, ["52:54:00:00:00:01"]);
    assert_eq!(clean.firmware.len(), MOST_FIRMWARE);
    assert!(clean.firmware.iter().all(|(k, v)| !k.contains('\n') && v == "v"));
    assert_eq!(clean.disks[0].serial, None);
}

#[test]
fn a_report_that_cannot_be_is_none() {
    type Case = (&'static str, fn(&mut Hardware));
    let cases: [Case; 6] = [
        ("more disks than can be looked at", |h| h.disks = vec![disk("/dev/a", 1, None); MOST_DISKS + 1]),
        ("a disk of many exbibytes", |h| h.disks[0].bytes = u64::MAX),
        ("more memory than there is", |h| h.memory = u64::MAX),
        ("a million processors", |h| h.cpus = 1_000_000),
        ("a path that is none", |h| h.disks[0].path = "/dev/a\nb".into()),
        ("a path without end", |h| h.disks[0].path = "/".repeat(LONGEST_PATH + 1)),
    ];
    for (what, change) in cases {
        let mut report = usual();
        change(&mut report);
        assert!(cleaned(report).is_err(), "{what}");
    }
    // The largest numbers that are taken make no sum run over.
    let mut report = usual();
    (report.memory, report.disks[0].bytes) = (MOST_MEMORY, LARGEST_DISK);
    let most = cleaned(report).unwrap();
    assert!(!Baseline::of(most.clone()).tags.is_empty());
    assert!(differences(&[], &most, &usual()).iter().any(|d| d.grave));
}

#[test]
fn memory_is_a_tag_as_it_is_sold() {
    // What Linux says there is, in MiB, of machines with so many GiB.
    for (mib, gib) in [
        (63_975, "64"),
        (15_876, "16"),
        (7_812, "8"),
        (3_789, "4"),
        (1_844, "2"),
        (470, "0.5"),
        (95_000, "96"),
        (23_900, "24"),
        (11_800, "12"),
        (192_900, "192"),
        (16_384, "16"),
    ] {
        let tags = Baseline::of(Hardware { memory: mib << 20, ..Hardware::default() }).tags;
        assert_eq!(tags["ram"].to_string(), gib, "{mib} MiB");
    }
    let tags = Baseline::of(Hardware::default()).tags;
    assert!(tags.is_empty(), "what nobody knows is no tag: {tags:?}");
    let tags = Baseline::of(usual()).tags;
    let words: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(words, ["arch=x86_64", "bios=1.0", "cores=4", "model=R640", "nics=1", "ram=16", "serial=M1"]);
}
