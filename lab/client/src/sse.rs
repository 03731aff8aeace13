//! Cuts a stream of server-sent events into messages.

use pitstop_wire::{ApiError, Code};

/// Longest line taken, in bytes: a snapshot of a large lab is one line.
const MAX_LINE: usize = 256 << 20;

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its id, where it has one.
    pub id: Option<String>,
    /// The event's name.
    pub name: String,
    /// Its data, lines joined.
    pub data: String,
}

/// Cuts the stream into messages (HTML standard, "Server-sent events").
#[derive(Default)]
pub struct Parser {
    line: Vec<u8>,
    current: Message,
    ready: std::collections::VecDeque<Message>,
}

impl Parser {
    /// Bytes that arrived.
    ///
    /// # Errors
    /// A line without an end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            if self.line.len() + part.len() > MAX_LINE {
                return Err(ApiError::new(
                    Code::Internal,
                    "the daemon's event stream has a line without an end",
                ));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let message = std::mem::take(&mut self.current);
            if !message.name.is_empty() {
                self.ready.push_back(message);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.current.name),
            "id" => self.current.id = Some(value.to_owned()),
            "data" => {
                if !self.current.data.is_empty() {
                    self.current.data.push('\n');
                }
                self.current.data.push_str(value);
            }
            _ => {}
        }
    }

    /// The next whole message, or `None` until more bytes arrive.
    pub fn next(&mut self) -> Option<Message> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let text = ": beat\n\nid: s-7\nevent: gone\ndata: \"R-1\"\n\nevent: reset\r\ndata: null\r\n\r\n";
        for cut in 0..text.len() {
            let mut parser = Parser::default();
            parser.push(&text.as_bytes()[..cut]).unwrap();
            parser.push(&text.as_bytes()[cut..]).unwrap();
            let got: Vec<_> = std::iter::from_fn(|| parser.next()).map(|m| (m.id, m.name, m.data)).collect();
            let want = [
                (Some("s-7".to_owned()), "gone".to_owned(), "\"R-1\"".to_owned()),
                (None, "reset".to_owned(), "null".to_owned()),
            ];
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    fn heard(pieces: &[&[u8]]) -> Vec<Message> {
        let mut parser = Parser::default();
        pieces.iter().for_each(|piece| parser.push(piece).unwrap());
        std::iter::from_fn(|| parser.next()).collect()
    }

    proptest! {
        #[test]
        fn anything_means_the_same_however_it_is_cut(
            text in "(event: |data: ?|id: |: |[a-z\r\n\n\nä]){0,30}",
            len in 1_usize..20,
        ) {
            let whole = heard(&[text.as_bytes()]);
            prop_assert_eq!(&whole, &heard(&text.as_bytes().chunks(len).collect::<Vec<_>>()));
            prop_assert!(whole.iter().all(|message| !message.name.is_empty()));
        }
    }
}
