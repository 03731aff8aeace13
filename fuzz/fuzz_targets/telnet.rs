//! Console servers: what they say between the bytes of a serial line, and the
//! answers we give.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, cut, first, within};

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/drivers/src/console/telnet/codec.rs"]
mod codec;

use codec::{Codec, ComPort};

fuzz_target!(|data: &[u8]| {
    let Some((how, stream)) = first(data) else { return };
    let port = (how % 2 == 0).then_some(ComPort { baud: 115_200, rtscts: how % 4 == 0 });
    let whole = within(stream.len(), Room::default(), || read(port, [stream].into_iter()));
    assert_eq!(whole, read(port, cut(stream, how)), "the cut changes what is understood");
    // Nobody can make it say more than a few bytes for each it was sent.
    assert!(whole.1.len() <= 64 + 64 * stream.len());
    assert!(whole.0.len() <= stream.len());
});

/// The data, and what was answered.
fn read<'s>(port: Option<ComPort>, pieces: impl Iterator<Item = &'s [u8]>) -> (Vec<u8>, Vec<u8>) {
    let mut codec = Codec::new(port);
    let (mut data, mut said) = (Vec::new(), codec.take_output());
    for piece in pieces {
        data.extend(codec.receive(piece));
        said.extend(codec.take_output());
    }
    (data, said)
}
