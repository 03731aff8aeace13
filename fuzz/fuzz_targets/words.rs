//! Small texts with a grammar: names, numbers, moments, digests, values of tags.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_core::id::ReservationId;
use pitstop_core::inventory::template::render;
use pitstop_fuzz::{Room, assert_one_line, first, within};
use pitstop_image::Digest;
use pitstop_wire::api::Time;
use pitstop_wire::selector::{Number, TagValue};
use pitstop_wire::{ApiError, MachineName, UserName, nearest};
use std::fmt::{Debug, Display};
use std::str::FromStr;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = first(data) else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    within(bytes.len(), Room::default(), || match which % 9 {
        0 => name::<MachineName>(text),
        1 => name::<UserName>(text),
        2 => same::<Number>(text),
        3 => said::<Time>(text),
        4 => said::<Digest>(text),
        5 => said::<ReservationId>(text),
        6 => tag(text),
        7 => template(text),
        _ => error(text),
    });
});

/// What was read, printed and read again is the same.
fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let printed = value.to_string();
    assert_one_line(&printed);
    assert_eq!(printed.parse::<T>().ok(), Some(value), "{text:?} {printed:?}");
}

/// The same, and what is refused is refused in one short line.
fn said<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    same::<T>(text);
    if let Err(error) = text.parse::<T>() {
        let error = error.to_string();
        assert_one_line(&error);
        assert!(error.len() < 500);
    }
}

fn name<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    said::<T>(text);
    // It stands in paths, topics and log lines.
    if let Ok(name) = text.parse::<T>() {
        assert!(name.to_string() == text && !text.contains('/') && !text.starts_with(['.', '-']));
    }
}

fn tag(text: &str) {
    let Ok(tag) = serde_json::from_str::<TagValue>(text) else { return };
    let again = serde_json::to_string(&tag).expect("a tag is JSON");
    assert_eq!(serde_json::from_str::<TagValue>(&again).ok(), Some(tag.clone()), "{again}");
    assert!(tag.is(&tag.to_string()));
}

fn template(text: &str) {
    let known = |name: &str| (name == "name").then(|| "srv01".to_owned());
    if let Ok(rendered) = render(text, known) {
        assert!(rendered.len() <= 2 * text.len() + 8);
    }
}

fn error(text: &str) {
    if let Ok(error) = serde_json::from_str::<ApiError>(text) {
        let again = serde_json::to_string(&error).expect("an error is JSON");
        assert_eq!(serde_json::from_str::<ApiError>(&again).ok(), Some(error));
    }
    let words: Vec<&str> = text.split(' ').collect();
    if let Some(found) = nearest(words.first().copied().unwrap_or_default(), words.iter().copied().skip(1)) {
        assert!(words.contains(&found));
    }
}
