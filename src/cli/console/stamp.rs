//! When a machine said it, in front of each line.

use crate::cli::times::to_the_second;
use pitstop_wire::api::Time;

/// What stands where nobody knows the time.
const UNKNOWN: &str = "-------------------";

/// Puts times in front of lines of words.
#[derive(Default)]
pub struct Stamps {
    at: Option<Time>,
    /// The line has begun, and has its time.
    begun: bool,
}

impl Stamps {
    /// What comes from here on came then.
    pub fn now(&mut self, at: Time) {
        self.at = Some(at);
    }

    /// What stands in front of a line that begins here.
    pub fn prefix(&self) -> String {
        self.at.map_or_else(|| format!("{UNKNOWN} "), |at| format!("{} ", to_the_second(at)))
    }

    /// Words, with the time in front of the lines that begin with them.
    pub fn pass(&mut self, words: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(words.len() + 64);
        for piece in words.split_inclusive(|byte| *byte == b'\n') {
            if !std::mem::replace(&mut self.begun, !piece.ends_with(b"\n")) {
                out.extend_from_slice(self.prefix().as_bytes());
            }
            out.extend_from_slice(piece);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_of_its_first_byte_however_it_is_cut() {
        let (one, two) = (Time(1_700_000_000_000), Time(1_700_000_001_000));
        let (first, second) = (to_the_second(one), to_the_second(two));
        let mut stamps = Stamps::default();
        let mut out = stamps.pass(b"early\n");
        stamps.now(one);
        out.extend(stamps.pass(b"a\nlog"));
        stamps.now(two);
        out.extend(stamps.pass(b"in:\n\n"));
        out.extend(stamps.pass(b"b"));
        let wanted = format!("{UNKNOWN} early\n{first} a\n{first} login:\n{second} \n{second} b");
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
        assert_eq!(first.len(), UNKNOWN.len(), "they stand in a column");
    }
}
