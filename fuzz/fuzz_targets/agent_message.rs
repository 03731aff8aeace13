//! Messages of agents, of commands and of consoles, without the frames around them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, first, within};
use pitstop_wire::agent::{FromAgent, Hello, Secret, ToAgent, Welcome, Work};
use pitstop_wire::console::{FromConsole, ToConsole};
use pitstop_wire::run::{FromRun, ToRun};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Stands in for every secret; no message holds it by chance.
const CANARY: &str = "canary-4f1d9c";

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = first(data) else { return };
    match which % 8 {
        0 => check::<Hello>(bytes, |hello| {
            let (Hello::Attach { token: secret, .. } | Hello::Resume { key: secret, .. }) = hello;
            replace(secret)
        }),
        1 => check::<Welcome>(bytes, |welcome| match welcome {
            Welcome::Accepted { rejoin: Some(secret), .. } => replace(secret),
            _ => false,
        }),
        2 => check::<ToAgent>(bytes, |message| match message {
            ToAgent::Do { work: Work::Seed { params, .. }, .. } => replace(&mut params.token),
            _ => false,
        }),
        3 => check::<FromAgent>(bytes, |_| false),
        4 => check::<ToConsole>(bytes, |_| false),
        5 => check::<FromConsole>(bytes, |_| false),
        6 => check::<ToRun>(bytes, |_| false),
        _ => check::<FromRun>(bytes, |_| false),
    }
});

fn replace(secret: &mut Secret) -> bool {
    CANARY.clone_into(&mut secret.0);
    true
}

/// `secret` puts the canary where the message has a secret.
fn check<M>(bytes: &[u8], secret: impl Fn(&mut M) -> bool)
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let Ok(mut message) = within(bytes.len(), Room::default(), || serde_json::from_slice::<M>(bytes)) else {
        return;
    };
    let again = serde_json::to_vec(&message).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<M>(&again).expect("what was written can be read"), message);
    if secret(&mut message) {
        assert!(!format!("{message:?}").contains(CANARY), "a secret is printed");
        assert!(String::from_utf8_lossy(&serde_json::to_vec(&message).expect("JSON")).contains(CANARY));
    }
}
