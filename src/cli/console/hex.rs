//! Bytes as `hexdump -C` shows them: offset, bytes, characters. Offsets are
//! positions in the console's journal.

use std::fmt::Write as _;

/// Bytes of a row.
const ROW: usize = 16;

/// Puts bytes into rows, however they come.
#[derive(Default)]
pub struct Hex {
    from: u64,
    row: Vec<u8>,
    /// What stands before the row: when its first byte came.
    before: String,
}

impl Hex {
    /// Takes bytes from `position` on; `before` stands before the rows that
    /// begin with them. The rows that are full.
    pub fn take(&mut self, position: u64, bytes: &[u8], before: &str) -> String {
        let mut out = String::new();
        if position != self.from + self.row.len() as u64 {
            out += &self.flush();
        }
        let mut position = position;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.row.is_empty() {
                self.from = position;
                before.clone_into(&mut self.before);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(ROW - self.row.len()));
            self.row.extend_from_slice(now);
            (position, bytes) = (position + now.len() as u64, rest);
            if self.row.len() == ROW {
                out += &self.flush();
            }
        }
        out
    }

    /// Whether a row waits for more bytes.
    pub fn waits(&self) -> bool {
        !self.row.is_empty()
    }

    /// The row that is not full: nothing may come for long. The next one goes
    /// on behind it.
    pub fn flush(&mut self) -> String {
        let row = std::mem::take(&mut self.row);
        if row.is_empty() {
            return String::new();
        }
        let mut out = format!("{}{:08x} ", self.before, self.from);
        for at in 0..ROW {
            if at % 8 == 0 {
                out.push(' ');
            }
            // Writing to a string does not fail.
            let _ = match row.get(at) {
                Some(byte) => write!(out, "{byte:02x} "),
                None => write!(out, "   "),
            };
        }
        let shown = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        let text: String = row.iter().map(shown).collect();
        let _ = writeln!(out, " |{text}|");
        self.from += row.len() as u64;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] = b"U-Boot 2026.01\r\n\x1b[0m=> \xff";

    #[test]
    fn rows_are_those_of_hexdump_however_they_come() {
        let wanted = "0000000a  55 2d 42 6f 6f 74 20 32  30 32 36 2e 30 31 0d 0a  |U-Boot 2026.01..|\n\
                      0000001a  1b 5b 30 6d 3d 3e 20 ff                           |.[0m=> .|\n";
        for cut in 0..SAID.len() {
            let mut hex = Hex::default();
            let mut out = hex.take(10, &SAID[..cut], "");
            out += &hex.take(10 + cut as u64, &SAID[cut..], "");
            out += &hex.flush();
            assert_eq!(out, wanted, "{cut}");
            assert!(!hex.waits() && hex.flush().is_empty());
        }
    }

    #[test]
    fn bytes_that_are_missing_end_a_row_and_a_row_has_the_time_of_its_first_byte() {
        let mut hex = Hex::default();
        assert_eq!(hex.take(0, b"ab", "12:00 "), "");
        let out = hex.take(100, b"c", "12:01 ");
        assert!(out.starts_with("12:00 00000000  61 62 ") && out.ends_with("|ab|\n"), "{out}");
        assert_eq!(hex.take(101, b"d", "12:02 "), "");
        let out = hex.flush();
        assert!(out.starts_with("12:01 00000064  63 64 "), "{out}");
        // It went out short: what follows begins where it ended.
        hex.take(102, b"e", "");
        assert!(hex.flush().starts_with("00000066  65 "));
    }
}
