//! Inventories, with a catalogue of invented drivers that has every kind of field.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use pitstop_core::inventory::{Inventory, InventoryErrors, MemoryFiles, diff, diff_lab};
use pitstop_fuzz::{Room, assert_one_line, within};
use std::path::Path;

#[path = "../../lab/core/tests/inventory/catalogue.rs"]
mod catalogue;

use catalogue::Invented;

const NAME: &str = "lab.toml";
/// A machine of a range costs what a machine costs, however short the range is written.
const ROOM: Room = Room { base: 32 << 20, per_byte: 8 << 10 };

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    if has_long_range(text) {
        return Corpus::Reject;
    }
    match within(text.len(), ROOM, || read(text)) {
        Ok(inventory) => is_sound(text, &inventory),
        Err(errors) => says_where(text, &errors),
    }
    Corpus::Keep
});

/// The file, and one that it may include.
fn read(text: &str) -> Result<Inventory, InventoryErrors> {
    let files = MemoryFiles::default().with(NAME, text).with("lab.d/more.toml", "format = 1\n[circuit.c]\n");
    Inventory::load_from(&files, Path::new(NAME), &Invented)
}

/// `m[1-99999]` is right and takes its time; here it would only take others' turns.
fn has_long_range(text: &str) -> bool {
    let digits = |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_digit());
    text.split('[')
        .skip(1)
        .filter_map(|part| part.split(']').next()?.split_once('-'))
        .any(|(_, to)| digits(to))
        || text.matches('[').count() > 300
}

fn is_sound(text: &str, inventory: &Inventory) {
    let again = read(text).expect("the same text means the same");
    assert_eq!(*inventory, again);
    assert_eq!(json(inventory), json(&again));
    assert!(diff(inventory, &again).is_empty() && diff_lab(inventory, &again).is_empty());
    for (name, machine) in &inventory.machines {
        assert_eq!(*name, machine.name);
        assert_one_line(name);
    }
}

fn json(inventory: &Inventory) -> String {
    serde_json::to_string(inventory).expect("an inventory is JSON")
}

fn says_where(text: &str, errors: &InventoryErrors) {
    assert!(!errors.errors.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for error in &errors.errors {
        if &*error.place.file == NAME {
            let line = lines.get(error.place.line as usize - 1).expect("a line of the file");
            assert!(
                (1..=line.chars().count() + 1).contains(&(error.place.col as usize)),
                "{error:?} in {line:?}"
            );
        }
        assert!(
            error.line.chars().count() <= LONGEST_LINE
                && error.underline.0 + error.underline.1 <= LONGEST_LINE
        );
        let texts = [&error.what, &error.line].into_iter().chain(&error.expected).chain(&error.nearest);
        texts.chain(error.also.iter().map(|(_, how)| how)).for_each(|text| assert_one_line(text));
    }
    if secret_is_a_password(text) {
        assert!(!errors.to_string().contains(SECRET), "{errors}");
    }
}

/// Characters of a line that is quoted.
const LONGEST_LINE: usize = 160;
const SECRET: &str = "hunter2";

/// Whether every `hunter2` in the text is a password in quotes.
fn secret_is_a_password(text: &str) -> bool {
    let parts: Vec<&str> = text.split(SECRET).collect();
    parts.windows(2).all(|pair| {
        let key = pair[0].strip_suffix("password = \"");
        let apart = key.is_some_and(|before| before.is_empty() || before.ends_with([' ', '\n', '{', ',']));
        apart && pair[1].starts_with('"')
    })
}
