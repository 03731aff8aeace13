//! What a command printed and nobody has acknowledged yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitstop_wire::run::{PIECE, WINDOW};
use tokio::sync::Notify;

/// Room for unacknowledged output, shared between the task that reads the pipe and the engine that
/// hands the bytes out. When it is used up the pipe is not read, and the command blocks in `write`:
/// that is the back-pressure.
#[derive(Debug, Default)]
pub(crate) struct Room {
    held: AtomicUsize,
    freed: Notify,
}

impl Room {
    /// Waits for room and says how many bytes may be read now: from 1 to [`PIECE`].
    pub(crate) async fn wait(&self) -> usize {
        loop {
            // Registered before the look, or a release between the two would be slept through.
            let freed = self.freed.notified();
            let held = self.held.load(Ordering::Acquire);
            if held < WINDOW {
                return (WINDOW - held).min(PIECE);
            }
            freed.await;
        }
    }

    /// `bytes` were read.
    pub(crate) fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

/// One stream's unacknowledged bytes, with positions counted from the stream's start.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Position of the first byte kept.
    base: u64,
    bytes: VecDeque<u8>,
    /// Position up to which the present caller was sent bytes.
    sent: u64,
    ended: bool,
    room: Arc<Room>,
}

impl Kept {
    pub(crate) fn room(&self) -> Arc<Room> {
        Arc::clone(&self.room)
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The pipe is closed: nothing follows.
    pub(crate) fn finish(&mut self) {
        self.ended = true;
    }

    /// A caller comes (back) that has everything before `position`.
    pub(crate) fn rewind(&mut self, position: u64) {
        self.sent = position.clamp(self.base, self.end());
    }

    /// The caller has everything before `position`: it need not be kept. A position beyond the end is
    /// the caller's mistake and costs no byte that it cannot have.
    pub(crate) fn seen(&mut self, position: u64) {
        let drop = position.min(self.end()).saturating_sub(self.base);
        self.bytes.drain(..drop as usize);
        self.base += drop;
        self.sent = self.sent.max(self.base);
        self.room.give(drop as usize);
    }

    /// The next bytes for the caller and their position.
    pub(crate) fn next_piece(&mut self) -> Option<(u64, Vec<u8>)> {
        let offset = self.sent;
        let skip = (offset - self.base) as usize;
        let len = (self.bytes.len() - skip).min(PIECE);
        if len == 0 {
            return None;
        }
        let piece = self.bytes.range(skip..skip + len).copied().collect();
        self.sent += len as u64;
        Some((offset, piece))
    }

    /// Whether the stream is over and the caller was sent all of it.
    pub(crate) fn delivered(&self) -> bool {
        self.ended && self.sent == self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_comes_back_gets_exactly_what_it_lacks() {
        let mut kept = Kept::default();
        kept.room().take(10);
        kept.push(b"0123456789");
        assert_eq!(kept.next_piece(), Some((0, b"0123456789".to_vec())));
        kept.seen(4);
        kept.rewind(6);
        assert_eq!(kept.next_piece(), Some((6, b"6789".to_vec())));
        kept.rewind(0);
        assert_eq!(kept.next_piece(), Some((4, b"456789".to_vec())), "what was acknowledged is gone");
    }

    #[test]
    fn positions_beyond_the_end_do_not_lose_later_bytes() {
        let mut kept = Kept::default();
        kept.room().take(6);
        kept.push(b"abc");
        kept.seen(99);
        kept.rewind(99);
        kept.push(b"def");
        assert_eq!(kept.next_piece(), Some((3, b"def".to_vec())));
        assert!(!kept.delivered());
        kept.finish();
        assert!(kept.delivered());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_window_stops_the_reader_until_bytes_are_acknowledged() {
        let mut kept = Kept::default();
        let room = kept.room();
        room.take(WINDOW - 3);
        kept.push(&vec![b'x'; WINDOW - 3]);
        assert_eq!(room.wait().await, 3);
        room.take(3);
        kept.push(b"end");
        let waiting = tokio::spawn(async move { room.wait().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        kept.seen(10);
        assert_eq!(waiting.await.unwrap(), 10);
    }
}
