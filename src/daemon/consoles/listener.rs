//! Listens to what a machine says, line by line, for what means something.

use super::plain;
use pitstop_core::saying::{Rules, Saying};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a line that are listened to: what follows is noise, or a picture.
const LONGEST: usize = 512;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What it means.
    pub saying: Saying,
    /// The line, as text that may be shown.
    pub line: String,
}

/// The ears of one console.
pub struct Listener {
    rules: Arc<Rules>,
    line: Vec<u8>,
    /// Each is heard once per boot.
    heard: BTreeSet<Saying>,
    boot: u64,
}

impl Listener {
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules, line: Vec::new(), heard: BTreeSet::new(), boot: 0 }
    }

    /// Takes in what the machine said in its boot number `boot`.
    pub fn hear(&mut self, boot: u64, bytes: &[u8]) -> Vec<Heard> {
        if self.boot != boot {
            self.boot = boot;
            self.heard.clear();
        }
        let mut found = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = piece.ends_with(b"\n");
            self.take(piece);
            // A prompt has no end: who waits for input has said all there is.
            if ends || self.line.ends_with(b" ") {
                self.judge(&mut found);
            }
            if ends {
                self.line.clear();
            }
        }
        found
    }

    fn take(&mut self, piece: &[u8]) {
        let room = LONGEST - self.line.len();
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn judge(&mut self, found: &mut Vec<Heard>) {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let painted = line.contains(&0x1b) || line.contains(&b'\r');
        let text;
        let line = if painted {
            text = plain::line(line, LONGEST);
            text.as_bytes()
        } else {
            line
        };
        for saying in self.rules.heard(line) {
            if self.heard.insert(saying) {
                found.push(Heard { saying, line: plain::line(line, LONGEST) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Listener {
        Listener::new(Arc::new(Rules::builtin().unwrap()))
    }

    fn sayings(listener: &mut Listener, boot: u64, pieces: &[&[u8]]) -> Vec<Saying> {
        pieces.iter().flat_map(|piece| listener.hear(boot, piece)).map(|heard| heard.saying).collect()
    }

    #[test]
    fn a_panic_is_heard_once_per_boot_however_its_line_is_cut() {
        let line = b"[    1.0] Kernel panic - not syncing: no init\r\n";
        for cut in 0..line.len() {
            let mut ears = listener();
            let (one, two) = line.split_at(cut);
            assert_eq!(
                sayings(&mut ears, 1, &[b"noise\r\n", one, two, line]),
                [Saying::KernelPanic],
                "{cut}"
            );
            assert_eq!(
                sayings(&mut ears, 2, &[line]),
                [Saying::KernelPanic],
                "after the next power-on again"
            );
        }
    }

    #[test]
    fn a_prompt_is_heard_although_its_line_does_not_end() {
        let mut ears = listener();
        assert_eq!(sayings(&mut ears, 1, &[b"\r\n\x1b[0mimx8-01 login:", b" "]), [Saying::Login]);
        assert_eq!(sayings(&mut ears, 1, &[b"\r\n=", b"> "]), [Saying::BootLoader]);
    }

    #[test]
    fn what_is_quoted_is_text_and_a_line_without_end_takes_no_memory() {
        let mut ears = listener();
        let heard = ears.hear(1, b"Kernel panic - not syncing: \x1b]52;c;AAAA\x07x\xff\n");
        assert_eq!(heard[0].line, "Kernel panic - not syncing: x\u{fffd}");
        for _ in 0..1_000 {
            assert!(ears.hear(1, &[b'x'; 4096]).is_empty());
        }
        assert!(ears.line.capacity() <= 2 * LONGEST);
        assert_eq!(sayings(&mut ears, 1, &[b"\nOops: 0002 [#1]\n"]), [Saying::Oops]);
    }
}
