//! Bodies of API requests, as the daemon reads them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, first, within};
use pitstop_wire::api::{
    Beat, ConsoleRequest, Drain, Enrol, PowerRequest, Reimage, Release, Reload, Reserve, RunRequest, Until,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/api/body.rs"]
mod body;

use body::read_body;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = first(data) else { return };
    match which % 11 {
        0 => check::<Reserve>(bytes),
        1 => check::<Until>(bytes),
        2 => check::<Release>(bytes),
        3 => check::<PowerRequest>(bytes),
        4 => check::<Reimage>(bytes),
        5 => check::<Drain>(bytes),
        6 => check::<Enrol>(bytes),
        7 => check::<Reload>(bytes),
        8 => check::<RunRequest>(bytes),
        9 => check::<ConsoleRequest>(bytes),
        _ => check::<Beat>(bytes),
    }
});

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    match within(bytes.len(), Room::default(), || read_body::<T>(bytes)) {
        Ok(body) => {
            let again = serde_json::to_vec(&body).expect("what was read can be written");
            assert_eq!(read_body::<T>(&again).expect("what was written can be read"), body);
        }
        Err(error) => {
            assert_one_line(&error.message);
            error.hint.iter().for_each(|hint| assert_one_line(hint));
            assert!(error.message.len() < 2_000, "an error must not be as long as what caused it");
            assert!(is_inside(&error.message, bytes), "{}", error.message);
        }
    }
}

/// Whether `line L, column C of the body` is a place in it, or just behind its end.
fn is_inside(message: &str, bytes: &[u8]) -> bool {
    let place = message.strip_prefix("line ").and_then(|rest| rest.split_once(" of the body"));
    let Some((line, column)) = place.and_then(|(place, _)| place.split_once(", column ")) else {
        return false;
    };
    let (Ok(line), Ok(column)) = (line.parse::<usize>(), column.parse::<usize>()) else { return false };
    let line = bytes.split(|b| *b == b'\n').nth(line.saturating_sub(1));
    line.is_some_and(|line| column <= line.len() + 1) || bytes.is_empty()
}
