//! Somebody waits for a machine to say something.

use super::plain;
use super::ring::Shared;
use regex::Regex;
use std::sync::Arc;

/// Characters of a line that are looked at.
const LINE: usize = 1_000;
/// Bytes of a line that has not ended that are kept.
const REST: usize = 8 << 10;

/// The first line that fits, of those that are said from this call on: what
/// was said before it, another boot has said. A prompt counts though no line
/// end follows it. `Err`: the console is over.
pub fn says(shared: Arc<Shared>, line: Regex) -> impl Future<Output = Result<String, String>> + Send {
    let mut changes = shared.changes();
    let mut heard = Heard { position: shared.ring().end(), rest: Vec::new(), line };
    async move {
        loop {
            changes.borrow_and_update();
            let (bytes, start, closed) = {
                let ring = shared.ring();
                let said = if ring.tenancy.repeats() {
                    // What was said in another boot shows nothing about this one.
                    (Vec::new(), ring.end())
                } else {
                    (ring.get(heard.position, usize::MAX), ring.start())
                };
                (said.0, said.1, ring.closed.clone())
            };
            if let Some(said) = heard.hear(&bytes, start) {
                return Ok(said);
            }
            if let Some(why) = closed {
                return Err(why);
            }
            changes.changed().await.map_err(|_| "the console is closed".to_owned())?;
        }
    }
}

struct Heard {
    position: u64,
    /// The line that has not ended yet.
    rest: Vec<u8>,
    line: Regex,
}

impl Heard {
    /// Takes the bytes from its position on; `start` is the oldest there was.
    fn hear(&mut self, bytes: &[u8], start: u64) -> Option<String> {
        if start > self.position {
            // What was skipped may have ended the line.
            self.rest.clear();
            self.position = start;
        }
        self.position += bytes.len() as u64;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            let text = plain::line(&self.rest, LINE);
            if self.line.is_match(&text) {
                return Some(text);
            }
            if piece.ends_with(b"\n") {
                self.rest.clear();
            }
        }
        let over = self.rest.len().saturating_sub(REST);
        self.rest.drain(..over);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(line: &str) -> Heard {
        Heard { position: 0, rest: Vec::new(), line: Regex::new(line).unwrap() }
    }

    #[test]
    fn a_line_is_found_whole_in_pieces_and_through_its_colours() {
        let mut h = heard(r"^READY v\d+$");
        assert_eq!(h.hear(b"boot\r\nNOT READY v3\r\n\x1b[32mREA", 0), None);
        assert_eq!(h.hear(b"DY v3\x1b[0m\r\n", 0).as_deref(), Some("READY v3"));
        assert_eq!(heard("login: $").hear(b"host login: ", 0).as_deref(), Some("host login: "), "a prompt");
    }

    #[test]
    fn a_line_of_which_a_part_was_skipped_is_none() {
        let mut h = heard("^READY");
        assert_eq!(h.hear(b"abc", 0), None);
        assert_eq!(h.hear(b"READY", 100).as_deref(), Some("READY"));
        let mut h = heard("^READY");
        assert_eq!(h.hear(&vec![b'x'; 3 * REST], 0), None);
        assert!(h.rest.len() <= REST, "noise without a line end piles up");
    }
}
