//! Search: the lines of a journal that match.

use super::Look;
use super::filter::{Filter, Keep};
use super::hex::Hex;
use super::stamp::Stamps;
use crate::cli::fail::Fail;
use crate::cli::out::Format;
use crate::cli::times::clock_seconds;
use crate::cli::{Context, Result};
use pitstop_wire::MachineName;
use pitstop_wire::api::{ConsoleRequest, Time};
use pitstop_wire::console::FromConsole;
use regex::bytes::Regex;
use std::io::Write as _;

/// Bytes of a line that are searched: a line without end takes no memory.
const LONGEST: usize = 64 << 10;
/// As `grep` says that nothing matched.
const NOTHING: u8 = 1;

/// Prints what matches, marks too.
pub async fn run(
    cx: &Context,
    machine: &MachineName,
    ask: ConsoleRequest,
    pattern: &Regex,
    look: Look,
) -> Result {
    let mut link = cx.client.console(machine, ask).await?;
    let found = Found { cx, pattern, look };
    let mut lines = Lines::default();
    let mut any = false;
    while let Some(frame) = link.next().await? {
        match frame.message {
            FromConsole::Output { position } => {
                for line in lines.take(position, &frame.body) {
                    any |= found.look_at(&line)?;
                }
            }
            FromConsole::Time { at, .. } => lines.at = Some(at),
            FromConsole::Mark { position, at, text } if pattern.is_match(text.as_bytes()) => {
                any = true;
                let text = format!("-- {} {text} --", clock_seconds(at)).into_bytes();
                found.print(&Line { position, at: None, text })?;
            }
            FromConsole::Skipped { bytes, .. } => {
                cx.out.say(&format!("-- {bytes} bytes are missing here --"))
            }
            FromConsole::Closed { reason } => return Err(Fail::internal(format!("closed: {reason}"))),
            _ => {}
        }
    }
    if let Some(line) = lines.rest() {
        any |= found.look_at(&line)?;
    }
    if any { Ok(()) } else { Err(Fail::Exit(NOTHING)) }
}

/// What is looked for, and how it is shown.
struct Found<'a> {
    cx: &'a Context,
    pattern: &'a Regex,
    look: Look,
}

impl Found<'_> {
    /// Looks for the pattern in what people would see of the line.
    fn look_at(&self, line: &Line) -> Result<bool> {
        let words = Filter::new(Keep::Words).pass(&line.text);
        let matches = self.pattern.is_match(&words);
        if matches && self.look.hex {
            self.print_hex(line)?;
        } else if matches && self.cx.out.format == Format::Raw {
            self.print(line)?;
        } else if matches {
            self.print(&Line { text: words, ..*line })?;
        }
        Ok(matches)
    }

    fn before(&self, line: &Line) -> String {
        let mut stamps = Stamps::default();
        line.at.into_iter().for_each(|at| stamps.now(at));
        if self.look.timestamps { stamps.prefix() } else { String::new() }
    }

    fn print_hex(&self, line: &Line) -> Result {
        let mut hex = Hex::default();
        let mut rows = hex.take(line.position, &line.text, &self.before(line));
        rows += &hex.flush();
        Ok(std::io::stdout().lock().write_all(rows.as_bytes())?)
    }

    fn print(&self, line: &Line) -> Result {
        match self.cx.out.format {
            Format::Json | Format::Jsonl => {
                let text = String::from_utf8_lossy(&line.text);
                let mut object = serde_json::json!({ "position": line.position, "line": text });
                if let (true, Some(at)) = (self.look.timestamps, line.at) {
                    object["at"] = serde_json::json!(at);
                }
                self.cx.out.line(&object.to_string())
            }
            _ => {
                let mut stdout = std::io::stdout().lock();
                // Marks say their own time.
                if line.at.is_some() {
                    stdout.write_all(self.before(line).as_bytes())?;
                }
                stdout.write_all(&line.text)?;
                Ok(stdout.write_all(b"\n")?)
            }
        }
    }
}

/// A line, and where and when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    position: u64,
    at: Option<Time>,
    text: Vec<u8>,
}

/// Cuts pieces into lines.
#[derive(Default)]
struct Lines {
    begun: Option<Line>,
    /// When what comes now came.
    at: Option<Time>,
}

impl Lines {
    fn take(&mut self, mut position: u64, bytes: &[u8]) -> Vec<Line> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Self { begun, at } = self;
            let line = begun.get_or_insert_with(|| Line { position, at: *at, text: Vec::new() });
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            line.text.extend_from_slice(&text[..text.len().min(LONGEST.saturating_sub(line.text.len()))]);
            if piece.ends_with(b"\n") {
                whole.extend(begun.take());
            }
            position += piece.len() as u64;
        }
        whole.iter_mut().for_each(|line| {
            if line.text.ends_with(b"\r") {
                line.text.pop();
            }
        });
        whole
    }

    fn rest(self) -> Option<Line> {
        self.begun.filter(|line| !line.text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_whole_however_the_journal_is_cut() {
        let said = b"one\r\ntwo\r\nthree";
        for cut in 0..said.len() {
            let mut lines = Lines { at: Some(Time(1)), ..Lines::default() };
            let mut found = lines.take(7, &said[..cut]);
            lines.at = Some(Time(2));
            found.extend(lines.take(7 + cut as u64, &said[cut..]));
            found.extend(lines.rest());
            let line = |position: u64, text: &[u8]| {
                let at = Some(Time(if position - 7 < cut as u64 { 1 } else { 2 }));
                Line { position, at, text: text.to_vec() }
            };
            assert_eq!(found, [line(7, b"one"), line(12, b"two"), line(17, b"three")], "{cut}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut lines = Lines::default();
        for n in 0..100 {
            assert!(lines.take(n * 4096, &[b'x'; 4096]).is_empty());
        }
        assert_eq!(lines.rest().unwrap().text.len(), LONGEST);
    }
}
