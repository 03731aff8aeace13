//! Every `bad/NAME.toml` is refused with exactly the text of `bad/NAME.err`. After a wanted change of the words,
//! `PITSTOP_BLESS=1 cargo test -p pitstop-core --test inventory` writes the texts anew; read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pitstop_core::inventory::{Inventory, MemoryFiles};

use super::catalogue::Invented;
use super::{folder, parse};

fn files() -> MemoryFiles {
    let mut files = MemoryFiles::default();
    for part in ["", "lab.d"] {
        for entry in fs::read_dir(folder("bad").join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = Path::new(part).join(path.file_name().unwrap());
                files = files.with(name.to_str().unwrap(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn names(extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder("bad")).unwrap().map(|entry| entry.unwrap().path());
    let fitting = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
    fitting.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn each_bad_inventory_is_refused_in_its_own_words() {
    let bless = std::env::var_os("PITSTOP_BLESS").is_some();
    let files = files();
    let mut different = Vec::new();
    for name in names("toml") {
        let result = Inventory::load_from(&files, Path::new(&format!("{name}.toml")), &Invented);
        let text = format!("{}\n", result.expect_err(&format!("{name}.toml was taken")));
        let path = folder("bad").join(format!("{name}.err"));
        if bless {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            different.push(format!("── {name}\n{text}"));
        }
    }
    assert!(different.is_empty(), "other words than expected:\n{}", different.join("\n"));
    if !bless {
        assert_eq!(names("toml"), names("err"), "a text without its inventory, or the other way round");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    let files = files();
    for name in ["literal-secret", "unquoted-secret"] {
        let errors = Inventory::load_from(&files, Path::new(&format!("{name}.toml")), &Invented).unwrap_err();
        let json = serde_json::to_string(&errors).unwrap();
        for text in [errors.to_string(), format!("{errors:?}"), json] {
            assert!(!text.contains("hunter2"), "{name}: {text}");
        }
    }
}

#[test]
fn no_error_repeats_a_secret_of_several_lines() {
    for quote in ["\"\"\"", "'''"] {
        for end in ["", quote, "\\q", "\u{7f}"] {
            let text = format!("format = 1\n[machine.a]\npower.bmc.password = {quote}\nhunter2 {end}");
            let errors = parse(&text).unwrap_err().to_string();
            assert!(!errors.contains("hunter2"), "{text:?}\n{errors}");
        }
    }
}

#[test]
fn errors_are_data_too() {
    let errors = parse("format = 1\n[lab]\n  nmae = \"x\"\n").unwrap_err();
    let error = &errors.errors[0];
    assert_eq!((error.place.line, error.place.col), (3, 3));
    assert_eq!(error.nearest.as_deref(), Some("name"));
    assert_eq!(error.underline, (2, 4));
    assert_eq!(serde_json::to_value(error).unwrap()["place"]["file"], "lab.toml");
}

#[test]
fn columns_count_characters() {
    let errors = parse("format = 1\n[lab]\nname = \"Ä\"\n[machine.\"ä\"]\n").unwrap_err();
    assert_eq!(errors.errors[0].place.to_string(), "lab.toml:4:10");
}

#[test]
fn a_missing_file_is_an_error_with_its_name() {
    let path = folder("bad").join("there-is-none.toml");
    let text = Inventory::load(&path, &Invented).unwrap_err().to_string();
    assert!(text.contains("there-is-none.toml") && text.contains("cannot read"), "{text}");
}

#[test]
fn a_flood_of_errors_is_counted_not_printed() {
    let lines: String = (0..1000).map(|n| format!("x{n} = 1\n")).collect();
    let errors = parse(&format!("format = 1\n{lines}")).unwrap_err();
    assert_eq!(errors.errors.len() + errors.more, 1000);
    assert!(
        errors
            .to_string()
            .ends_with("1000 errors in the inventory, the first 100 of them above; nothing was changed")
    );
}
