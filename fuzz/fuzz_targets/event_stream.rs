//! The event stream as clients read it, and the bodies in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, cut, first, within};
use pitstop_wire::api::Update;

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../lab/client/src/sse.rs"]
mod sse;

use sse::{Message, Parser};

fuzz_target!(|data: &[u8]| {
    let Some((how, stream)) = first(data) else { return };
    let whole = within(stream.len(), Room::default(), || read([stream].into_iter()));
    assert_eq!(whole, read(cut(stream, how)), "the cut changes what is understood");
    for message in whole {
        assert!(!message.name.is_empty());
        if let Ok(Some(update)) = Update::read(&message.name, &message.data) {
            let data = update.data().expect("what was read can be written");
            assert_eq!(
                Update::read(update.name(), &data).expect("what was written can be read"),
                Some(update)
            );
        }
    }
});

fn read<'s>(pieces: impl Iterator<Item = &'s [u8]>) -> Vec<Message> {
    let mut parser = Parser::default();
    pieces.for_each(|piece| parser.push(piece).expect("no line here is too long"));
    std::iter::from_fn(|| parser.next()).collect()
}
