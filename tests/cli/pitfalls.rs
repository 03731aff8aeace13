//! docs/pitfalls.md names tests. A table of tests that are not there would be
//! worse than none.

use std::collections::BTreeMap;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Where things are that the document may name.
const FOLDERS: [&str; 5] = ["lab/", "src/", "tests/", "fuzz/", "benches/"];

/// What stands between backticks, where it is the path of a file.
fn named(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let spans = text.split('`').skip(1).step_by(2);
    let of_a_file = |span: &&str| FOLDERS.iter().any(|f| span.starts_with(f));
    spans.filter(of_a_file).map(|span| match span.split_once("::") {
        Some((path, name)) => (path, Some(name)),
        None => (span, None),
    })
}

/// Whether a file has something of this name: a function, or a word in quotes.
fn has(file: &str, name: &str) -> bool {
    [format!("fn {name}("), format!("def {name}("), format!("\"{name}\"")]
        .iter()
        .any(|form| file.contains(form))
}

fn missing(text: &str) -> Vec<String> {
    let mut files: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut missing = Vec::new();
    for (path, name) in named(text) {
        let read = || std::fs::read_to_string(Path::new(ROOT).join(path)).ok();
        match (files.entry(path).or_insert_with(read), name) {
            (None, _) => missing.push(path.to_owned()),
            (Some(file), Some(name)) if !has(file, name) => missing.push(format!("{path}::{name}")),
            _ => {}
        }
    }
    missing
}

#[test]
fn a_pitfall_names_a_test_that_is_not_there() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/pitfalls.md")).unwrap();
    assert!(named(&text).count() > 150, "hardly any tests are named: {}", named(&text).count());
    let missing = missing(&text);
    assert!(missing.is_empty(), "docs/pitfalls.md names what is not there:\n{}", missing.join("\n"));
    let rows = text.lines().filter(|l| l.starts_with("| "));
    let bare: Vec<_> =
        rows.filter(|l| l.split('|').rev().nth(1).is_none_or(|c| c.trim().is_empty())).collect();
    assert!(bare.is_empty(), "rows that show nothing:\n{}", bare.join("\n"));
}

#[test]
fn a_name_that_is_not_there_is_found_to_be_there() {
    let text = "`tests/cli/pitfalls.rs::has` `tests/cli/pitfalls.rs::ha` `tests/cli/gone.rs` `pitstop ls`";
    assert_eq!(missing(text), ["tests/cli/pitfalls.rs::ha", "tests/cli/gone.rs"]);
}
