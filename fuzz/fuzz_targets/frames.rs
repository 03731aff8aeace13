//! The framing of every long-lived connection, with the messages of each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, cut, first, within};
use pitstop_wire::agent::{FromAgent, Hello, ToAgent, Welcome};
use pitstop_wire::console::{FromConsole, ToConsole};
use pitstop_wire::frame::{Decoder, Frame, FrameError, encode};
use pitstop_wire::run::{FromRun, ToRun};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fuzz_target!(|data: &[u8]| {
    let Some((how, stream)) = first(data) else { return };
    match how % 8 {
        0 => check::<Hello>(stream, how),
        1 => check::<Welcome>(stream, how),
        2 => check::<ToAgent>(stream, how),
        3 => check::<FromAgent>(stream, how),
        4 => check::<ToConsole>(stream, how),
        5 => check::<FromConsole>(stream, how),
        6 => check::<ToRun>(stream, how),
        _ => check::<FromRun>(stream, how),
    }
});

fn check<M: Serialize + DeserializeOwned + PartialEq + Debug>(stream: &[u8], how: u8) {
    let whole = within(stream.len(), Room::default(), || read::<M>([stream].into_iter()));
    let pieces = within(stream.len(), Room::default(), || read::<M>(cut(stream, how / 8)));
    assert_eq!(whole.0, pieces.0, "the cut changes what is understood");
    let texts = |error: &Option<FrameError>| error.as_ref().map(FrameError::to_string);
    assert_eq!(texts(&whole.1), texts(&pieces.1));
    if let Some(text) = texts(&whole.1) {
        assert_one_line(&text);
        assert!(text.len() < 1_000, "an error must not be as long as what caused it");
    }
    for frame in whole.0 {
        let again = encode(&frame.message, &frame.body).expect("what was read can be written");
        assert_eq!(read::<M>([&again[..]].into_iter()).0, [frame]);
    }
}

/// Frames up to the first error, which ends a connection.
fn read<'s, M: DeserializeOwned>(
    pieces: impl Iterator<Item = &'s [u8]>,
) -> (Vec<Frame<M>>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}
