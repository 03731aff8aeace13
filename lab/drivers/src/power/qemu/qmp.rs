//! QEMU's monitor protocol, as much of it as power needs: a greeting, then
//! one JSON object per line (docs/interop/qmp-spec.rst of QEMU). Sans I/O:
//! bytes in, messages out.

use serde::Deserialize;
use serde_json::{Value, json};

/// Longest line accepted, in bytes.
const MAX_LINE: usize = 1 << 20;

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
}

impl Decoder {
    /// Bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, or `None` until more bytes arrive.
    pub fn next(&mut self) -> Result<Option<Said>, QmpError> {
        loop {
            let Some(end) = self.buffer.iter().position(|b| *b == b'\n') else {
                return if self.buffer.len() > MAX_LINE { Err(QmpError::TooLong) } else { Ok(None) };
            };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return read(&line).map(Some);
        }
    }
}

fn read(line: &[u8]) -> Result<Said, QmpError> {
    let odd = || QmpError::NotQmp(String::from_utf8_lossy(line).trim().chars().take(80).collect());
    match serde_json::from_slice(line).map_err(|_| odd())? {
        Wire { greeting: Some(_), .. } => Ok(Said::Greeting),
        Wire { answer: Some(value), .. } => Ok(Said::Answer(Ok(value))),
        Wire { error: Some(e), .. } => Ok(Said::Answer(Err(e.desc))),
        Wire { event: Some(event), .. } => Ok(Said::Event(event)),
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
}
