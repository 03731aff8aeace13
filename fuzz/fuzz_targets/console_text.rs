//! Console filters: what a machine said as text for lists, and which keys are for us.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, cut, first, within};
use pitstop_wire::text::one_line;

#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/cli/console/escape.rs"]
mod escape;
#[allow(dead_code, reason = "taken in whole")]
#[path = "../../src/daemon/consoles/plain.rs"]
mod plain;

use escape::{Act, Escape};

const MOST: usize = 200;

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = first(data) else { return };
    for line in bytes.split(|b| *b == b'\n') {
        let text = within(line.len(), Room::default(), || plain::line(line, MOST));
        assert_one_line(&text);
        assert!(text.chars().count() <= MOST);
        assert_eq!(plain::line(text.as_bytes(), MOST), text, "filtering twice changes the text");
        let whole = one_line(&String::from_utf8_lossy(line));
        assert_one_line(&whole);
        assert_eq!(one_line(&whole), whole);
    }
    assert_eq!(typed([bytes].into_iter()), typed(cut(bytes, how)), "the cut changes what is typed");
});

/// What goes to the machine, up to the first thing that is for us.
fn typed<'s>(pieces: impl Iterator<Item = &'s [u8]>) -> (Vec<u8>, Option<Act>) {
    let (mut escape, mut typed) = (Escape::new(Some(b'~')), Vec::new());
    for piece in pieces {
        let (more, act) = escape.take(piece);
        typed.extend(more);
        if act.is_some() {
            return (typed, act);
        }
    }
    (typed, None)
}
