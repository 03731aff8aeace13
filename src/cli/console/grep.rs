//! Search: the lines of a journal that match.

use super::filter::{Filter, Keep};
use crate::cli::fail::Fail;
use crate::cli::out::Format;
use crate::cli::times::clock_seconds;
use crate::cli::{Context, Result};
use pitstop_wire::MachineName;
use pitstop_wire::api::ConsoleRequest;
use pitstop_wire::console::FromConsole;
use regex::bytes::Regex;
use std::io::Write as _;

/// Bytes of a line that are searched: a line without end takes no memory.
const LONGEST: usize = 64 << 10;
/// As `grep` says that nothing matched.
const NOTHING: u8 = 1;

/// Prints what matches, marks too.
pub async fn run(cx: &Context, machine: &MachineName, ask: ConsoleRequest, pattern: &Regex) -> Result {
    let mut link = cx.client.console(machine, ask).await?;
    let mut lines = Lines::default();
    let mut any = false;
    while let Some(frame) = link.next().await? {
        match frame.message {
            FromConsole::Output { position } => {
                for (at, line) in lines.take(position, &frame.body) {
                    any |= line_matches(cx, pattern, at, &line)?;
                }
            }
            FromConsole::Mark { position, at, text } if pattern.is_match(text.as_bytes()) => {
                any = true;
                print(cx, position, format!("-- {} {text} --", clock_seconds(at)).as_bytes())?;
            }
            FromConsole::Skipped { bytes, .. } => {
                cx.out.say(&format!("-- {bytes} bytes are missing here --"))
            }
            FromConsole::Closed { reason } => return Err(Fail::internal(format!("closed: {reason}"))),
            _ => {}
        }
    }
    if let Some((at, line)) = lines.rest() {
        any |= line_matches(cx, pattern, at, &line)?;
    }
    if any { Ok(()) } else { Err(Fail::Exit(NOTHING)) }
}

/// Looks for the pattern in what people would see of the line.
fn line_matches(cx: &Context, pattern: &Regex, at: u64, line: &[u8]) -> Result<bool> {
    let words = Filter::new(Keep::Words).pass(line);
    let matches = pattern.is_match(&words);
    if matches {
        print(cx, at, if cx.out.format == Format::Raw { line } else { &words })?;
    }
    Ok(matches)
}

fn print(cx: &Context, position: u64, line: &[u8]) -> Result {
    match cx.out.format {
        Format::Json | Format::Jsonl => {
            let line = String::from_utf8_lossy(line);
            cx.out.line(&serde_json::json!({ "position": position, "line": line }).to_string())
        }
        _ => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(line)?;
            Ok(stdout.write_all(b"\n")?)
        }
    }
}

/// Cuts pieces into lines, each with the position of its first byte.
#[derive(Default)]
struct Lines {
    begun: Option<(u64, Vec<u8>)>,
}

impl Lines {
    fn take(&mut self, mut position: u64, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (_, line) = self.begun.get_or_insert_with(|| (position, Vec::new()));
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            line.extend_from_slice(&text[..text.len().min(LONGEST.saturating_sub(line.len()))]);
            if piece.ends_with(b"\n") {
                whole.extend(self.begun.take());
            }
            position += piece.len() as u64;
        }
        whole.iter_mut().for_each(|(_, line)| {
            if line.ends_with(b"\r") {
                line.pop();
            }
        });
        whole
    }

    fn rest(self) -> Option<(u64, Vec<u8>)> {
        self.begun.filter(|(_, line)| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_whole_however_the_journal_is_cut() {
        let said = b"one\r\ntwo\r\nthree";
        for cut in 0..said.len() {
            let mut lines = Lines::default();
            let mut found = lines.take(7, &said[..cut]);
            found.extend(lines.take(7 + cut as u64, &said[cut..]));
            found.extend(lines.rest());
            let wanted = [(7, b"one".to_vec()), (12, b"two".to_vec()), (17, b"three".to_vec())];
            assert_eq!(found, wanted, "{cut}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut lines = Lines::default();
        for n in 0..100 {
            assert!(lines.take(n * 4096, &[b'x'; 4096]).is_empty());
        }
        assert_eq!(lines.rest().unwrap().1.len(), LONGEST);
    }
}
