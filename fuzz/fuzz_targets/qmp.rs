//! QEMU's monitor: a program that a tenant may have got out into speaks it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, cut, first, within};

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/drivers/src/power/qemu/qmp.rs"]
mod qmp;

use qmp::{Decoder, QmpError, Said};

fuzz_target!(|data: &[u8]| {
    let Some((how, stream)) = first(data) else { return };
    let whole = within(stream.len(), Room::default(), || read([stream].into_iter()));
    assert_eq!(whole, read(cut(stream, how)), "the cut changes what is understood");
    if let Some(error) = &whole.1 {
        assert_one_line(&error.to_string());
    }
    for said in &whole.0 {
        if let Said::Answer(Err(words)) | Said::Event(words) = said {
            assert_one_line(words);
        }
    }
});

/// What was said up to the first error, which ends a conversation.
fn read<'s>(pieces: impl Iterator<Item = &'s [u8]>) -> (Vec<Said>, Option<QmpError>) {
    let (mut decoder, mut said) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(more)) => said.push(more),
                Ok(None) => break,
                Err(error) => return (said, Some(error)),
            }
        }
    }
    (said, None)
}
