//! The records that `line source` says, found in what a server hands on.

/// Bytes of a record, its line's end included.
pub const LEN: usize = 64;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub console: u32,
    pub number: u32,
    /// When it was said, in ns.
    pub said: u64,
    /// Whether it answers a key.
    pub answer: bool,
}

impl Record {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line.get(..33)?).ok()?;
        let mut words = line.strip_prefix('@')?.split(' ');
        let console = u32::from_str_radix(words.next()?, 16).ok()?;
        let number = u32::from_str_radix(words.next()?, 16).ok()?;
        let said = u64::from_str_radix(words.next()?, 16).ok()?;
        Some(Self { console, number, said, answer: words.next()? == "e" })
    }
}

/// Finds records in a stream, however it is cut.
#[derive(Default)]
pub struct Scanner {
    line: Vec<u8>,
}

impl Scanner {
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Record)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                // A record that was torn by a loss begins in the middle of a line.
                let begin = self.line.iter().rposition(|byte| *byte == b'@').unwrap_or(0);
                if self.line.len() - begin == LEN {
                    Record::parse(&self.line[begin..]).into_iter().for_each(&mut found);
                }
                self.line.clear();
            }
        }
    }
}

/// What arrived of one console's stream.
#[derive(Debug, Default, Clone, Copy)]
pub struct Arrived {
    pub records: u64,
    next: u32,
    /// Records of another console, or of before: a server that confuses them.
    pub wrong: u64,
}

impl Arrived {
    /// Counts a record of the stream.
    pub fn count(&mut self, console: u32, record: &Record) {
        if record.console != console || record.number < self.next {
            self.wrong += 1;
        } else {
            self.records += 1;
            self.next = record.number + 1;
        }
    }

    /// Bytes that were said and did not arrive.
    pub fn lost(&self, sent: u32) -> u64 {
        u64::from(sent).saturating_sub(self.records) * LEN as u64
    }
}
