//! What is typed, in the form that ipmitool passes on.
//!
//! ipmitool takes `~` for a command where it is the first character of a
//! line: `~.` would end the session, so that whoever has the keyboard, or
//! pastes a file, could cut the console off. Doubled it stands for itself.

/// Knows whether ipmitool is at the beginning of a line.
#[derive(Debug)]
pub struct Keys {
    at_start: bool,
}

impl Default for Keys {
    /// A session begins as a line does.
    fn default() -> Self {
        Self { at_start: true }
    }
}

impl Keys {
    /// The bytes that make ipmitool send `bytes`.
    pub fn type_in(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 8);
        for byte in bytes {
            if *byte == b'~' && self.at_start {
                out.push(b'~');
            }
            out.push(*byte);
            self.at_start = matches!(byte, b'\r' | b'\n');
        }
        out
    }

    /// The bytes that make it send a break. In the middle of a line it must
    /// be brought to the beginning of one, by a return that the machine gets
    /// too.
    pub fn send_break(&mut self) -> Vec<u8> {
        let out = if self.at_start { b"~B".to_vec() } else { b"\r~B".to_vec() };
        self.at_start = true;
        out
    }
}

/// What ipmitool prints when it sends a break; a line end follows.
const BREAK: &[u8] = b"~B [send break]";

/// Takes out what ipmitool says itself, between what the machine says.
#[derive(Debug, Default)]
pub struct Notes {
    expected: usize,
    /// The beginning of a note, perhaps.
    held: Vec<u8>,
}

impl Notes {
    /// A break was ordered.
    pub fn expect(&mut self) {
        self.expected += 1;
    }

    /// The machine's part of what was read.
    pub fn take_out(&mut self, read: &[u8]) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.held);
        rest.extend_from_slice(read);
        let mut out = Vec::with_capacity(rest.len());
        while self.expected > 0 {
            let Some(at) = (0..rest.len()).find(|at| begins(&rest[*at..])) else { break };
            out.extend(rest.drain(..at));
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.held = rest;
                return out;
            };
            rest.drain(..=end);
            self.expected -= 1;
        }
        out.extend(rest);
        out
    }
}

/// Whether this is a note, or may become one.
fn begins(text: &[u8]) -> bool {
    match text.get(BREAK.len()..) {
        Some(behind) => {
            let end = |end: &[u8]| behind.starts_with(end) || end.starts_with(behind);
            text.starts_with(BREAK) && (end(b"\n") || end(b"\r\n"))
        }
        None => BREAK.starts_with(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_typed_is_a_command_of_ipmitool() {
        let mut keys = Keys::default();
        assert_eq!(keys.type_in(b"~.a~.\n"), b"~~.a~.\n");
        assert_eq!(keys.type_in(b"~"), b"~~");
        assert_eq!(keys.type_in(b"~\r~~"), b"~\r~~~");
        assert_eq!(keys.send_break(), b"\r~B");
        assert_eq!(keys.send_break(), b"~B");
        assert_eq!(keys.type_in(b"~x"), b"~~x");
    }

    #[test]
    fn what_ipmitool_says_of_a_break_is_not_the_machines() {
        let whole = b"abc~B [send break]\r\ndef~B [send break]\n";
        for cut in 0..whole.len() {
            let mut notes = Notes::default();
            notes.expect();
            let (first, second) = whole.split_at(cut);
            let mut seen = notes.take_out(first);
            seen.extend(notes.take_out(second));
            assert_eq!(seen, b"abcdef~B [send break]\n", "cut at {cut}");
        }
        let mut notes = Notes::default();
        assert_eq!(notes.take_out(b"~B [send break]\n~"), b"~B [send break]\n~", "the machine's own");
    }
}
