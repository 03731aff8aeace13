//! What a simulated machine is told: on its control socket, by the inventory, by the disk it boots from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, first, within};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/sim/faults.rs"]
mod faults;
#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/sim/header.rs"]
mod header;
#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/drivers/src/sim/protocol.rs"]
mod protocol;

use faults::Fault;
use header::Header;
use protocol::{Config, Reply, Request};

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = first(data) else { return };
    within(bytes.len(), Room::default(), || match which % 5 {
        0 => message::<Request>(bytes),
        1 => message::<Reply>(bytes),
        2 => message::<Config>(bytes),
        3 => fault(bytes),
        _ => disk(bytes),
    });
});

fn message<M: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<M>(bytes) else { return };
    let again = serde_json::to_vec(&message).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<M>(&again).expect("what was written can be read"), message);
    assert!(!again.contains(&b'\n'), "a message is a line");
}

fn fault(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Fault>() {
        Ok(fault) => assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault)),
        Err(error) => assert_one_line(&error.to_string()),
    }
}

fn disk(bytes: &[u8]) {
    let Some(header) = Header::parse(bytes) else { return };
    assert_one_line(&header.hostname);
    assert_eq!(Header::parse(header.text().as_bytes()), Some(header));
}
