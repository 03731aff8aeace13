//! The one framing that every long-lived pitstop connection uses: agent to
//! daemon, and `run` and `console` streams between CLI and daemon.
//!
//! A frame is `u32 total` · `u32 head` · head bytes (JSON) · body bytes, all
//! integers big-endian; `total` counts everything after itself. The head is
//! the message, the body carries bytes that JSON would bloat (output of a
//! command, a chunk of an image). Both ends refuse a frame over the limit
//! before reading it: the peer may be a machine under a tenant's control.

use crate::text::brief;
use serde::{Serialize, de::DeserializeOwned};

/// The largest frame either side accepts, in bytes: one compressed image
/// chunk (16 MiB at most) and its head.
pub const MAX_FRAME: usize = 17 << 20;

/// The largest head, in bytes: a command line with its environment fits.
pub const MAX_HEAD: usize = 1 << 20;

/// Why bytes are no frame, or a message could not be framed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a frame that is longer than we accept.
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The head's length does not fit into the frame.
    #[error("the frame's head of {head} bytes does not fit its {total} bytes")]
    BadHead {
        /// Announced length of the head.
        head: usize,
        /// Announced length of the frame.
        total: usize,
    },
    /// The head is no message of the expected kind. serde quotes what it does not know, and that may be anything.
    #[error("the frame's head is not understood: {}", brief(&.0.to_string(), 300))]
    BadMessage(#[from] serde_json::Error),
}

/// One frame: a message and the bytes that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<M> {
    /// The message.
    pub message: M,
    /// Bytes that belong to the message; empty for most.
    pub body: Vec<u8>,
}

/// Encodes a message and its body.
pub fn encode<M: Serialize>(message: &M, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let head = serde_json::to_vec(message)?;
    let total = 4 + head.len() + body.len();
    if head.len() > MAX_HEAD {
        return Err(FrameError::BadHead { head: head.len(), total });
    }
    if total > MAX_FRAME {
        return Err(FrameError::TooLong(total));
    }
    let mut out = Vec::with_capacity(4 + total);
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&(head.len() as u32).to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
    Ok(out)
}

/// Collects bytes as they arrive and gives out whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > (1 << 20) {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes arrive. After an
    /// error the stream has no meaning any more: close it.
    #[allow(clippy::should_implement_trait, reason = "fallible and generic over the message")]
    pub fn next<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, FrameError> {
        let data = &self.buffer[self.start..];
        let Some((prefix, rest)) = data.split_first_chunk::<4>() else { return Ok(None) };
        let total = u32::from_be_bytes(*prefix) as usize;
        if total > MAX_FRAME {
            return Err(FrameError::TooLong(total));
        }
        if total < 4 {
            return Err(FrameError::BadHead { head: 4, total });
        }
        let Some((prefix, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let (head, left) = (u32::from_be_bytes(*prefix) as usize, total - 4);
        if head > left || head > MAX_HEAD {
            return Err(FrameError::BadHead { head, total });
        }
        if rest.len() < left {
            return Ok(None);
        }
        let message = serde_json::from_slice(&rest[..head])?;
        let body = rest[head..left].to_vec();
        self.start += 4 + total;
        Ok(Some(Frame { message, body }))
    }

    /// Bytes that arrived and are not yet part of a frame given out.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let mut stream = encode(&"one", b"body").unwrap();
        stream.extend(encode(&"two", b"").unwrap());
        for cut in 0..stream.len() {
            let mut d = Decoder::default();
            let mut got = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                d.push(part);
                while let Some(f) = d.next::<String>().unwrap() {
                    got.push((f.message, f.body));
                }
            }
            assert_eq!(got, [("one".into(), b"body".to_vec()), ("two".into(), vec![])]);
            assert_eq!(d.pending(), 0);
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let mut d = Decoder::default();
        d.push(&u32::MAX.to_be_bytes());
        assert!(matches!(d.next::<String>(), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_peer_cannot_steer_the_terminal_of_who_reads_the_error_nor_fill_the_log() {
        #[derive(Debug, serde::Deserialize)]
        enum Known {}
        let mut d = Decoder::default();
        d.push(&encode(&format!("\u{1b}[2J{}", "x".repeat(1 << 19)), b"").unwrap());
        let text = d.next::<Known>().unwrap_err().to_string();
        assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
    }

    #[test]
    fn a_head_longer_than_its_frame_is_refused() {
        let mut d = Decoder::default();
        d.push(&[0, 0, 0, 5, 0, 0, 0, 9, b'x']);
        assert!(matches!(d.next::<String>(), Err(FrameError::BadHead { .. })));
    }

    /// Frames, and the error after which there are no more.
    fn read(pieces: &[&[u8]]) -> (Vec<Frame<serde_json::Value>>, Option<String>) {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error.to_string())),
                }
            }
        }
        (frames, None)
    }

    proptest! {
        #[test]
        fn any_stream_means_the_same_however_it_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            len in 1_usize..40,
        ) {
            let mut stream: Vec<u8> = bodies.iter().flat_map(|body| encode(&"message", body).unwrap()).collect();
            if let (Some((at, byte)), false) = (damage, stream.is_empty()) {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            let whole = read(&[&stream]);
            prop_assert_eq!(&whole, &read(&stream.chunks(len).collect::<Vec<_>>()));
            if damage.is_none() {
                prop_assert_eq!(whole.0.into_iter().map(|frame| frame.body).collect::<Vec<_>>(), bodies);
            }
        }
    }
}
