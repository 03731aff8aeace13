//! QEMU's monitor protocol, as much of it as power needs: a greeting, then
//! one JSON object per line (docs/interop/qmp-spec.rst of QEMU). Sans I/O:
//! bytes in, messages out.

use pitstop_wire::text::brief;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest line accepted, in bytes.
const MAX_LINE: usize = 1 << 20;
/// Characters of its words that are repeated.
const LONGEST_WORDS: usize = 300;

/// What the monitor said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It is there.
    Greeting,
    /// The answer to the oldest command without one.
    Answer(Result<Value, String>),
    /// Something happened.
    Event(String),
}

/// The monitor does not speak the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// A line is too long.
    #[error("the monitor sent a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// A line is no message.
    #[error("the monitor sent `{0}`, which is no QMP")]
    NotQmp(String),
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<WireError>,
    event: Option<String>,
}

#[derive(Deserialize)]
struct WireError {
    desc: String,
}

/// Takes bytes as they come and gives messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// So many bytes of it are known to hold no end.
    searched: usize,
}

impl Decoder {
    /// Bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.start));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, or `None` until more bytes arrive.
    pub fn next(&mut self) -> Result<Option<Said>, QmpError> {
        loop {
            let line = &self.buffer[self.start..];
            let end = line[self.searched..].iter().position(|b| *b == b'\n').map(|at| self.searched + at);
            if end.unwrap_or(line.len()) > MAX_LINE {
                return Err(QmpError::TooLong);
            }
            let Some(end) = end else {
                self.searched = line.len();
                return Ok(None);
            };
            let line = &line[..end];
            let said = if line.iter().all(u8::is_ascii_whitespace) { None } else { Some(read(line)) };
            self.start += end + 1;
            self.searched = 0;
            if let Some(said) = said {
                return said.map(Some);
            }
        }
    }
}

fn read(line: &[u8]) -> Result<Said, QmpError> {
    let odd = || QmpError::NotQmp(brief(String::from_utf8_lossy(line).trim(), 80));
    match serde_json::from_slice(line).map_err(|_| odd())? {
        Wire { greeting: Some(_), .. } => Ok(Said::Greeting),
        Wire { answer: Some(value), .. } => Ok(Said::Answer(Ok(value))),
        Wire { error: Some(e), .. } => Ok(Said::Answer(Err(brief(&e.desc, LONGEST_WORDS)))),
        Wire { event: Some(event), .. } => Ok(Said::Event(brief(&event, LONGEST_WORDS))),
        _ => Err(odd()),
    }
}

/// A command without arguments, as a line.
pub fn command(name: &str) -> Vec<u8> {
    let mut line = json!({ "execute": name }).to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_conversation_is_understood_however_it_is_cut() {
        let text = concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#,
            "\r\n{\"return\": {}}\r\n",
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#,
            "\r\n",
            r#"{"error": {"class": "CommandNotFound", "desc": "The command query-stat has not been found"}}"#,
            "\r\n{\"return\": {\"status\": \"running\"}}\r\n"
        );
        let expected = [
            Said::Greeting,
            Said::Answer(Ok(json!({}))),
            Said::Event("RESUME".into()),
            Said::Answer(Err("The command query-stat has not been found".into())),
            Said::Answer(Ok(json!({"status": "running"}))),
        ];
        for cut in 0..text.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                decoder.push(part.as_bytes());
                while let Some(said) = decoder.next().unwrap() {
                    got.push(said);
                }
            }
            assert_eq!(got, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_monitor_is_an_error_and_takes_no_memory() {
        let mut decoder = Decoder::default();
        decoder.push(b"SSH-2.0-OpenSSH_9.2\r\n");
        assert!(matches!(decoder.next(), Err(QmpError::NotQmp(_))));
        let mut decoder = Decoder::default();
        decoder.push(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(decoder.next(), Err(QmpError::TooLong));
    }

    #[test]
    fn a_monitor_cannot_steer_the_terminal_of_who_reads_the_error() {
        for line in [&b"\x1b[2J\n"[..], br#"{"error": {"desc": "\u001b[2J"}}"#, br#"{"event": "\u001b[2J"}"#]
        {
            let mut decoder = Decoder::default();
            decoder.push(line);
            decoder.push(b"\n");
            let text = match decoder.next() {
                Ok(Some(Said::Answer(Err(text)) | Said::Event(text))) => text,
                Err(error) => error.to_string(),
                other => panic!("{other:?}"),
            };
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn a_line_is_too_long_however_it_arrives() {
        let long = [&vec![b' '; MAX_LINE + 1][..], b"\n"].concat();
        let mut at_once = Decoder::default();
        at_once.push(&long);
        assert_eq!(at_once.next(), Err(QmpError::TooLong));
        let mut in_parts = Decoder::default();
        let parts = long.chunks(4096).map(|part| {
            in_parts.push(part);
            in_parts.next()
        });
        assert_eq!(parts.last(), Some(Err(QmpError::TooLong)));
    }

    #[test]
    fn many_messages_at_once_are_read_as_fast_as_one_by_one() {
        // Moving the rest of the buffer for each of them would be 100 GB.
        let mut decoder = Decoder::default();
        decoder.push(&b"{\"return\": {}}\n".repeat(1 << 17));
        let mut count = 0;
        while let Some(Said::Answer(_)) = decoder.next().unwrap() {
            count += 1;
        }
        assert_eq!(count, 1 << 17);
    }

    /// What was said, and the error after which nothing is.
    fn heard(pieces: &[&[u8]]) -> (Vec<Said>, Option<QmpError>) {
        let (mut decoder, mut said) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(more)) => said.push(more),
                    Ok(None) => break,
                    Err(error) => return (said, Some(error)),
                }
            }
        }
        (said, None)
    }

    proptest! {
        #[test]
        fn anything_means_the_same_however_it_is_cut(
            lines in prop::collection::vec(prop::sample::select(vec![
                "{\"return\": {\"status\": \"running\"}}\r\n",
                "{\"event\": \"STOP\"}\n",
                " \r\n",
                "{\n",
                "{\"error\": {\"desc\": \"\\u001b[2J\"}}\n",
            ]), 0..8),
            tail in prop::collection::vec(any::<u8>(), 0..20),
            len in 1_usize..40,
        ) {
            let stream = [lines.concat().as_bytes(), &tail].concat();
            let whole = heard(&[&stream]);
            prop_assert_eq!(&whole, &heard(&stream.chunks(len).collect::<Vec<_>>()));
            prop_assert!(whole.1.is_none_or(|error| !error.to_string().contains(char::is_control)));
        }
    }
}
