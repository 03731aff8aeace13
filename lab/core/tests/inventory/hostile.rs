//! Inventories nobody would write: the parser answers, whatever it reads.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pitstop_core::inventory::{Inventory, MAX_FILE, MAX_MACHINES, MemoryFiles};
use proptest::prelude::*;

use super::catalogue::Invented;
use super::{folder, good, parse};

const BODY: &str =
    "power.sim = {}\nconsole.main.sim = {}\nboot.sim = {}\nready.agent = {}\nlocation = \"shelf {n}\"\n";

#[test]
fn ten_thousand_machines_are_read_at_once() {
    let start = Instant::now();
    let lab = good(&format!("format = 1\n[class.c]\n{BODY}[machine.\"m[00001-10000]\"]\nclass = \"c\"\n"));
    assert_eq!(lab.machines.len(), 10_000);
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

#[test]
fn there_is_a_bound_on_machines() {
    let most = MAX_MACHINES / 2;
    let text = format!("format = 1\n[machine.\"a[1-{most}]\"]\n{BODY}[machine.\"b[0-{most}]\"]\n{BODY}");
    let errors = parse(&text).unwrap_err();
    assert!(errors.to_string().contains("above 100000 machines"), "{errors}");
}

#[test]
fn there_is_a_bound_on_a_file() {
    let size = usize::try_from(MAX_FILE).unwrap() + 1;
    let errors = parse(&"#".repeat(size)).unwrap_err();
    assert!(errors.to_string().contains("larger than 8 MiB"), "{errors}");
}

#[test]
fn there_is_a_bound_on_includes() {
    let mut files = MemoryFiles::default();
    for n in 0..40 {
        files = files.with(&format!("{n}.toml"), format!("format = 1\ninclude = [\"{}.toml\"]\n", n + 1));
    }
    let errors = Inventory::load_from(&files, Path::new("0.toml"), &Invented).unwrap_err();
    assert!(errors.to_string().contains("too many includes"), "{errors}");
}

#[test]
fn nesting_cannot_exhaust_the_stack() {
    let dots = |n: usize| vec!["a"; n].join(".");
    let deepest = dots(25);
    let inline = format!("{}1{}", format!("{{ {deepest} = ").repeat(79), " }".repeat(79));
    for text in [
        format!("{} = 1", dots(100_000)),
        format!("[{}]", dots(100_000)),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("[{deepest}]\n{deepest} = {inline}"),
    ] {
        parse(&format!("format = 1\n{text}\n")).unwrap_err();
    }
}

#[test]
fn prose_with_many_dots_is_no_deep_key() {
    let lab = good(&format!(
        "format = 1 # ................................................................\n[machine.a]\n{BODY2}note = \"{}\"\n",
        "10.0.0.1 10.0.0.2 10.0.0.3 ".repeat(20)
    ));
    assert_eq!(lab.machines.len(), 1);
}

const BODY2: &str = "power.sim = {}\nconsole = {}\nboot.sim = {}\nready.agent = {}\n";

/// Every text of the test data, good and bad.
fn corpus() -> Vec<String> {
    let folders = ["good", "bad", "good/lab.d", "bad/lab.d"].map(folder);
    let paths =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == "toml")).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[derive(Debug, Clone)]
enum Edit {
    Remove { at: usize, len: usize },
    Insert { at: usize, text: String },
    Copy { from: usize, len: usize, at: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = 0_usize..4096;
    let text = prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            "'",
            "=",
            ".",
            ",",
            "\n",
            "\\",
            "{n}",
            "{{",
            "[[",
            "]]",
            "#",
            "\u{0}",
            "\u{feff}",
            "ä",
            "\r\n",
            "-1",
            "1e999",
            "99999999999999999999",
            "0x",
            "nan",
            "1979-05-27",
            "true",
            "\"\"\"",
            "machine",
            "[1-9]",
            "power.sim",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    prop_oneof![
        (place.clone(), 0_usize..40).prop_map(|(at, len)| Edit::Remove { at, len }),
        (place.clone(), text).prop_map(|(at, text)| Edit::Insert { at, text }),
        (place.clone(), 0_usize..200, place).prop_map(|(from, len, at)| Edit::Copy { from, len, at }),
    ]
}

fn apply(chars: &mut Vec<char>, edit: Edit) {
    let within = |at: usize, chars: &Vec<char>| at % (chars.len() + 1);
    match edit {
        Edit::Remove { at, len } => {
            let at = within(at, chars);
            let end = (at + len).min(chars.len());
            chars.drain(at..end);
        }
        Edit::Insert { at, text } => {
            let at = within(at, chars);
            chars.splice(at..at, text.chars());
        }
        Edit::Copy { from, len, at } => {
            let (from, at) = (within(from, chars), within(at, chars));
            let part = chars[from..(from + len).min(chars.len())].to_vec();
            chars.splice(at..at, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_inventories_are_answered(which in any::<prop::sample::Index>(), edits in prop::collection::vec(edit(), 1..6)) {
        let corpus = corpus();
        let mut chars: Vec<char> = corpus[which.index(corpus.len())].chars().collect();
        edits.into_iter().for_each(|edit| apply(&mut chars, edit));
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse(&text) {
            let mut shown = String::new();
            write!(shown, "{errors}").unwrap();
            prop_assert!(!errors.errors.is_empty());
            for error in &errors.errors {
                prop_assert!(error.place.line >= 1 && error.place.col >= 1);
                prop_assert!(!error.line.contains(char::is_control));
            }
        }
    }
}
