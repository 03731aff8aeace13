//! A command's standard input: bytes arrive with positions, are trimmed of repeats, and are handed
//! to the task that writes the pipe.

use pitstop_wire::run::WINDOW;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The engine's side of one standard input.
#[derive(Debug)]
pub(crate) struct Input {
    /// Bytes accepted from the caller.
    received: u64,
    /// Bytes the pipe took (or that were dropped since the command closed it).
    taken: u64,
    /// Towards the pipe; gone after the end of the input.
    pipe: Option<UnboundedSender<Vec<u8>>>,
}

impl Input {
    pub(crate) fn new() -> (Self, UnboundedReceiver<Vec<u8>>) {
        let (pipe, writer) = unbounded_channel();
        (Self { received: 0, taken: 0, pipe: Some(pipe) }, writer)
    }

    /// Bytes the pipe took.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes what arrived. `false`: there is a gap before it, or more than [`WINDOW`] bytes would
    /// wait; the caller is told how far the input came and sends again from there.
    pub(crate) fn arrive(&mut self, offset: u64, bytes: &[u8], eof: bool) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        if offset > self.received {
            return false;
        }
        let repeated = usize::try_from(self.received - offset).unwrap_or(usize::MAX).min(bytes.len());
        let fresh = &bytes[repeated..];
        if (self.received - self.taken) as usize + fresh.len() > WINDOW {
            return false;
        }
        self.received += fresh.len() as u64;
        if !fresh.is_empty() && pipe.send(fresh.to_vec()).is_err() {
            // The writer is gone: the command closed its input. The rest counts as taken, so that the
            // caller does not wait for ever.
            self.taken = self.received;
        }
        if eof && offset + bytes.len() as u64 >= self.received {
            self.pipe = None;
        }
        true
    }

    /// The pipe took `bytes` more; `closed`: the command wants no more.
    pub(crate) fn wrote(&mut self, bytes: u64, closed: bool) {
        self.taken = if closed { self.received } else { self.taken + bytes };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(writer: &mut UnboundedReceiver<Vec<u8>>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(part) = writer.try_recv() {
            all.extend(part);
        }
        all
    }

    #[test]
    fn repeated_input_reaches_the_command_once() {
        let (mut input, mut writer) = Input::new();
        assert!(input.arrive(0, b"hello", false));
        assert!(input.arrive(0, b"hello", false));
        assert!(input.arrive(3, b"lo world", true));
        assert!(input.arrive(3, b"lo world", true), "a repeated end is no error");
        assert_eq!(drain(&mut writer), b"hello world");
        assert!(writer.try_recv().is_err_and(|e| e == tokio::sync::mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn a_gap_or_an_overfull_window_is_refused_and_loses_nothing() {
        let (mut input, mut writer) = Input::new();
        assert!(!input.arrive(5, b"late", false));
        assert!(input.arrive(0, &vec![b'a'; WINDOW], false));
        assert!(!input.arrive(WINDOW as u64, b"b", false));
        input.wrote(1, false);
        assert!(input.arrive(WINDOW as u64, b"b", false));
        assert_eq!(drain(&mut writer).len(), WINDOW + 1);
    }

    #[test]
    fn an_end_that_comes_with_a_gap_does_not_end_the_input() {
        let (mut input, mut writer) = Input::new();
        assert!(!input.arrive(3, b"", true));
        assert!(input.arrive(0, b"abc", true));
        assert_eq!(drain(&mut writer), b"abc");
    }
}
