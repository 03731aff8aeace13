//! What a machine says, as far as it may act on the terminal of whoever
//! watches. It may paint and move about; it may not name the window, fill the
//! clipboard, print, or have the terminal answer, since an answer would be
//! typed into the machine. `-o raw` takes all of it.

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use std::collections::BTreeSet;

/// How much is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What paints on a terminal.
    Paint,
    /// Words in lines.
    Words,
}

/// A filter for one stream, however it is cut.
pub struct Filter {
    parser: Parser<DefaultCharAccumulator>,
    /// Bytes of a character that is not complete.
    torn: Vec<u8>,
    screen: Screen,
}

struct Screen {
    keep: Keep,
    out: Vec<u8>,
    /// What puts back that which was changed.
    undo: BTreeSet<&'static str>,
    returned: bool,
}

impl Filter {
    pub fn new(keep: Keep) -> Self {
        let screen = Screen { keep, out: Vec::new(), undo: BTreeSet::new(), returned: false };
        Self { parser: Parser::<DefaultCharAccumulator>::new(), torn: Vec::new(), screen }
    }

    /// What may be shown of these bytes.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.torn);
        all.extend_from_slice(bytes);
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.feed(chunk.valid());
            match chunk.invalid() {
                [] => {}
                begun if chunks.peek().is_none() && is_begun(begun) => self.torn = begun.to_vec(),
                _ => self.feed("\u{fffd}"),
            }
        }
        std::mem::take(&mut self.screen.out)
    }

    fn feed(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                // Noise that begins a sequence hides no more than its line.
                self.parser = Parser::<DefaultCharAccumulator>::new();
            }
            self.parser.advance(&mut self.screen, byte);
        }
    }

    /// Puts the terminal back to where it writes words: colours, cursor,
    /// screen.
    pub fn sane(&mut self) -> Vec<u8> {
        self.parser = Parser::<DefaultCharAccumulator>::new();
        self.torn.clear();
        std::mem::take(&mut self.screen.undo).into_iter().collect::<String>().into_bytes()
    }
}

/// Whether these bytes may be the beginning of a character.
fn is_begun(bytes: &[u8]) -> bool {
    bytes.len() < 4 && std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// What takes a mode back that a machine may set; `None`: it may not. (Not:
/// reports of the mouse and of focus, which would be typed.)
fn mode_undo(mode: u16) -> Option<&'static str> {
    Some(match mode {
        1 => "\x1b[?1l",
        7 => "\x1b[?7h",
        25 => "\x1b[?25h",
        47 | 1047 | 1049 => "\x1b[?1049l",
        1048 => "",
        2004 => "\x1b[?2004l",
        _ => return None,
    })
}

impl Screen {
    /// Something follows: what would overwrite its line gets one of its own.
    fn begin(&mut self) {
        if std::mem::take(&mut self.returned) {
            self.out.push(b'\n');
        }
    }

    fn sequence(&mut self, private: &[u8], params: &Params, end: char) {
        self.out.extend_from_slice(b"\x1b[");
        self.out.extend_from_slice(private);
        let groups: Vec<String> = params
            .iter()
            .map(|group| group.iter().map(u16::to_string).collect::<Vec<_>>().join(":"))
            .collect();
        self.out.extend_from_slice(groups.join(";").as_bytes());
        self.out.push(end as u8);
    }
}

impl Perform for Screen {
    fn print(&mut self, c: char) {
        self.begin();
        // C1 controls arrive as characters.
        if !c.is_control() {
            self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        match (self.keep, byte) {
            (Keep::Paint, b'\n' | b'\r' | b'\t' | 0x08 | 0x07) => self.out.push(byte),
            (Keep::Words, b'\r') => self.returned = true,
            (Keep::Words, b'\n') => {
                self.returned = false;
                self.out.push(b'\n');
            }
            (Keep::Words, b'\t') => {
                self.begin();
                self.out.push(b'\t');
            }
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        if ignore || self.keep == Keep::Words {
            return;
        }
        let action = char::from(action);
        match (intermediates, action) {
            ([], 'm') => {
                self.undo.insert("\x1b[0m");
            }
            ([], 'r') => {
                self.undo.insert("\x1b[r");
            }
            (
                [],
                'A'..='H' | 'J' | 'K' | 'L' | 'M' | 'P' | 'S' | 'T' | 'X' | '@' | 'd' | 'e' | 'f' | 's' | 'u',
            ) => {}
            ([b'?'], 'h' | 'l') => {
                let undo = params.iter().flatten().map(|mode| mode_undo(*mode));
                let Some(undo) = undo.collect::<Option<Vec<_>>>() else { return };
                self.undo.extend(undo);
            }
            _ => return,
        }
        self.sequence(intermediates, params, action);
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        if ignore || self.keep == Keep::Words {
            return;
        }
        match (intermediates, byte) {
            ([], b'7' | b'8' | b'D' | b'E' | b'M') => {}
            ([], b'=') => {
                self.undo.insert("\x1b>");
            }
            ([], b'>') => {}
            ([b'('], b'0') => {
                self.undo.insert("\x1b(B");
            }
            ([b'('], b'B') => {}
            _ => return,
        }
        self.out.push(0x1b);
        self.out.extend_from_slice(intermediates);
        self.out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(keep: Keep, bytes: &[u8]) -> String {
        String::from_utf8(Filter::new(keep).pass(bytes)).unwrap()
    }

    #[test]
    fn a_machine_fills_the_clipboard_names_the_window_or_has_the_terminal_answer() {
        let hostile = b"a\x1b]52;c;cm0gLXJmIC8=\x07b\x1b]0;owned\x1b\\c\x1b[6n\x1b[c\x1b[21t\x1b[5id\x1bP+q544e\x1b\\e\x1b[?1000h\x1bcf\xc2\x9b31mg";
        assert_eq!(shown(Keep::Paint, hostile), "abcdef31mg");
        assert_eq!(shown(Keep::Words, hostile), "abcdef31mg");
    }

    #[test]
    fn a_menu_is_painted_and_its_colours_end_with_it() {
        let mut filter = Filter::new(Keep::Paint);
        let menu = "\x1b[?1049h\x1b[?25l\x1b[2J\x1b[1;1H\x1b[38;5;9mBoot\x1b(0q\r\n";
        assert_eq!(filter.pass(menu.as_bytes()), menu.as_bytes());
        let sane = String::from_utf8(filter.sane()).unwrap();
        for undo in ["\x1b[0m", "\x1b[?25h", "\x1b[?1049l", "\x1b(B"] {
            assert!(sane.contains(undo), "{sane:?}");
        }
        assert!(filter.sane().is_empty(), "once");
    }

    #[test]
    fn words_are_lines_without_colours() {
        assert_eq!(
            shown(Keep::Words, b"\x1b[1mone\x1b[0m\r\n\ttwo\r10 %\r20 %\r\n"),
            "one\n\ttwo\n10 %\n20 %\n"
        );
    }

    #[test]
    fn noise_that_begins_a_sequence_hides_no_other_line() {
        assert_eq!(shown(Keep::Paint, b"\x1b]garbage\nKernel panic"), "\nKernel panic");
        assert_eq!(shown(Keep::Paint, b"caf\xe9 \xff"), "caf\u{fffd} \u{fffd}");
    }

    proptest! {
        #[test]
        fn what_is_shown_does_not_depend_on_how_it_is_cut(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select("\x1b[]m;0\x07\r\n?hé".as_bytes().to_vec())],
                0..60,
            ),
            len in 1_usize..8,
        ) {
            for keep in [Keep::Paint, Keep::Words] {
                let (mut whole, mut cut) = (Filter::new(keep), Filter::new(keep));
                let pieces: Vec<u8> = bytes.chunks(len).flat_map(|piece| cut.pass(piece)).collect();
                prop_assert_eq!(whole.pass(&bytes), pieces);
            }
        }
    }
}
