//! What a machine said, as text that may be shown anywhere. A machine may say anything: that it be taken for
//! colours, a window's title or the clipboard is for the terminal of somebody who attached to its console, and
//! for nobody who only looks at a list.

use anstyle_parse::{DefaultCharAccumulator, Parser, Perform};

/// One line without escape sequences and control characters, at most `most` characters of it. Of what overwrites
/// itself (a progress bar) the last is shown. Bytes that are no UTF-8 are shown as such.
///
/// A sequence ends with its line, whatever it says: noise on the wire must not hide what follows it.
pub fn line(bytes: &[u8], most: usize) -> String {
    let mut text = Text { said: String::new(), room: most, most, returned: false };
    let mut parser = Parser::<DefaultCharAccumulator>::new();
    // The parser would take the byte behind half a character for a part of it.
    let bytes = String::from_utf8_lossy(bytes);
    bytes.bytes().filter(|byte| *byte != b'\n').for_each(|byte| parser.advance(&mut text, byte));
    text.said
}

struct Text {
    said: String,
    /// How many characters more are taken.
    room: usize,
    most: usize,
    /// The carriage is at the beginning of the line.
    returned: bool,
}

impl Perform for Text {
    fn print(&mut self, c: char) {
        if std::mem::take(&mut self.returned) {
            self.said.clear();
            self.room = self.most;
        }
        // C1 controls arrive as characters.
        if self.room > 0 && !c.is_control() {
            self.said.push(c);
            self.room -= 1;
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\r' => self.returned = true,
            b'\t' => self.print(' '),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        line(text.as_bytes(), 200)
    }

    #[test]
    fn colours_titles_and_clipboards_are_gone_and_the_words_stay() {
        assert_eq!(
            shown("\x1b[0;32m  OK  \x1b[0m] Started \x1b]0;owned\x07sshd.\r"),
            "  OK  ] Started sshd."
        );
        assert_eq!(shown("\x1b]52;c;cm0gLXJmIC8=\x1b\\login:\x08\x00"), "login:");
        assert_eq!(shown("a\u{9b}31mb\tc"), "a31mb c");
        assert_eq!(line(b"caf\xe9 \xff\xfe", 200), "caf\u{fffd} \u{fffd}\u{fffd}");
    }

    #[test]
    fn what_overwrites_itself_is_shown_as_it_was_last() {
        assert_eq!(shown("10 %\r50 %\r100 %\r"), "100 %");
        assert_eq!(line("\r".repeat(9).as_bytes(), 4), "");
        assert_eq!(line(b"12345\r6789012", 4), "6789");
    }

    #[test]
    fn noise_that_begins_a_sequence_hides_no_other_line() {
        let said: Vec<_> = "\x1b]garbage\nKernel panic".split('\n').map(shown).collect();
        assert_eq!(said, ["", "Kernel panic"]);
    }

    proptest! {
        #[test]
        fn whatever_is_said_becomes_one_line_once(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"\x1b[]m;0\x07\r\x9b".to_vec())],
                0..60,
            ),
            most in 0_usize..40,
        ) {
            let text = line(&bytes, most);
            prop_assert!(!text.contains(char::is_control) && text.chars().count() <= most);
            prop_assert_eq!(line(text.as_bytes(), most), text);
        }
    }
}
