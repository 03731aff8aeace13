//! `run`: a command on a machine, followed across lost connections.
//!
//! Positions count bytes from the start of each stream, and the machine's
//! agent keeps what we have not acknowledged. So when the daemon restarts in
//! the middle, we come back with our positions, and no byte is lost or seen
//! twice. Output counts as ours once it is written, not when it arrives.

use crate::frames::{FrameReader, LinkError, write_frame};
use crate::http::Call;
use crate::retry::{Retry, worth_another_try};
use crate::{Client, Result, new_key};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pitstop_wire::api::RunRequest;
use pitstop_wire::frame::Frame;
use pitstop_wire::run::{Command, End, FromRun, PIECE, Stream, ToRun, WINDOW};
use pitstop_wire::{ApiError, Code};
use std::collections::VecDeque;
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

/// Standard input of a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Some of it.
    Bytes(Vec<u8>),
    /// There is no more.
    Eof,
}

/// What the caller has for a running command. Two queues, since a signal
/// must arrive just when the command takes no input.
pub struct Feed {
    /// Standard input. A closed queue is no end of file; say [`Input::Eof`].
    pub input: mpsc::Receiver<Input>,
    /// Signals for its process group.
    pub signals: mpsc::Receiver<i32>,
}

impl Client {
    /// Runs a command on a machine until it ends: output goes to `stdout`
    /// and `stderr`, `feed` goes to the command.
    ///
    /// # Errors
    /// Where the daemon refuses, or stays away for longer than the client's
    /// patience, or output cannot be written.
    pub async fn run<O, E>(
        &self,
        machine: &str,
        command: Command,
        feed: Feed,
        stdout: &mut O,
        stderr: &mut E,
    ) -> Result<End>
    where
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let id = new_key()?;
        let ask = RunRequest { id: id.clone(), command, stdout: 0, stderr: 0 };
        let (input, signals) = (Some(feed.input), Some(feed.signals));
        let mut run = Run { id, ask, machine, input, signals, pending: Pending::default(), stdout, stderr };
        run.follow(self).await
    }
}

/// Standard input that the command has not taken yet, and signals that were
/// not sent yet.
#[derive(Default)]
struct Pending {
    /// Position of the first byte of `bytes`.
    start: u64,
    bytes: VecDeque<u8>,
    /// Bytes of `bytes` sent on this connection.
    sent: usize,
    eof: bool,
    eof_sent: bool,
    signals: Vec<i32>,
}

impl Pending {
    /// The command took everything before `position`.
    fn taken(&mut self, position: u64) {
        let n =
            usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.drain(..n);
        self.start += n as u64;
        self.sent = self.sent.saturating_sub(n);
    }

    /// A new connection: all that was not taken is to be sent again.
    fn rewind(&mut self) {
        self.sent = 0;
        self.eof_sent = false;
    }

    fn has_room(&self) -> bool {
        !self.eof && self.bytes.len() < WINDOW
    }

    fn add(&mut self, input: Input) {
        match input {
            Input::Bytes(bytes) => self.bytes.extend(bytes),
            Input::Eof => self.eof = true,
        }
    }

    /// The next message to send, if there is one.
    fn next(&mut self, id: &str) -> Option<(ToRun, Vec<u8>)> {
        let id = id.to_owned();
        if let Some(signal) = (!self.signals.is_empty()).then(|| self.signals.remove(0)) {
            return Some((ToRun::Signal { id, signal }, Vec::new()));
        }
        let unsent = self.bytes.len() - self.sent;
        if unsent > 0 {
            let n = unsent.min(PIECE);
            let body: Vec<u8> = self.bytes.range(self.sent..self.sent + n).copied().collect();
            let offset = self.start + self.sent as u64;
            self.sent += n;
            return Some((ToRun::Input { id, offset, eof: false }, body));
        }
        if self.eof && !self.eof_sent {
            self.eof_sent = true;
            let offset = self.start + self.bytes.len() as u64;
            return Some((ToRun::Input { id, offset, eof: true }, Vec::new()));
        }
        None
    }
}

struct Run<'a, O, E> {
    id: String,
    ask: RunRequest,
    machine: &'a str,
    input: Option<mpsc::Receiver<Input>>,
    signals: Option<mpsc::Receiver<i32>>,
    pending: Pending,
    stdout: &'a mut O,
    stderr: &'a mut E,
}

type Io = TokioIo<Upgraded>;

/// How one connection ended.
enum Over {
    Ended(End),
    Lost,
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Run<'_, O, E> {
    async fn follow(&mut self, client: &Client) -> Result<End> {
        loop {
            let io = self.attach(client).await?;
            self.pending.rewind();
            if let Over::Ended(end) = self.serve(io).await? {
                return Ok(end);
            }
        }
    }

    async fn attach(&self, client: &Client) -> Result<Io> {
        let mut retry = Retry::new(client.patience());
        let path = format!("/machines/{}/run", crate::calls::escaped(self.machine));
        // The same key each time: it is one command, however often we attach.
        let call = Call::post(path, &self.ask)?.key(Some(self.id.clone())).upgrade();
        loop {
            match client.open(&call).await {
                Ok(response) => {
                    let upgraded = hyper::upgrade::on(response).await;
                    return upgraded.map(TokioIo::new).map_err(|e| {
                        ApiError::new(Code::NotKnown, format!("the upgrade to frames failed: {e}"))
                    });
                }
                Err(error) => {
                    if !worth_another_try(&error) || !client.met() || !retry.pause(&error).await {
                        return Err(error.into_api(&call));
                    }
                }
            }
        }
    }

    /// One connection. Our messages go out from here, one at a time, between
    /// what arrives: at most a window of either direction is under way, so
    /// neither side can fill the other up for ever.
    async fn serve(&mut self, io: Io) -> Result<Over> {
        let (reader, writer) = split(io);
        let mut reader: FrameReader<ReadHalf<Io>> = FrameReader::new(reader);
        let (out, sending) = spawn_writer(writer);
        let mut started = false;
        let over = loop {
            while started && let Some(message) = self.pending.next(&self.id) {
                if out.send(message).is_err() {
                    break;
                }
            }
            let hears = self.pending.has_room();
            tokio::select! {
                frame = reader.next::<FromRun>() => match frame {
                    Ok(Some(frame)) => {
                        started |= matches!(frame.message, FromRun::Started { .. });
                        if let Some(end) = self.take(frame, &out).await? {
                            break Over::Ended(end);
                        }
                    }
                    Ok(None) | Err(LinkError::Lost(_)) => break Over::Lost,
                    Err(LinkError::Frame(e)) => {
                        return Err(ApiError::new(Code::Internal, format!("the daemon's stream makes no sense: {e}")));
                    }
                },
                input = recv(&mut self.input), if hears => match input {
                    Some(input) => self.pending.add(input),
                    None => self.input = None,
                },
                signal = recv(&mut self.signals) => match signal {
                    Some(signal) => self.pending.signals.push(signal),
                    None => self.signals = None,
                },
            }
        };
        // Dropping the sender lets the writer finish: the last `Seen` is what
        // allows the agent to forget the command.
        drop(out);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), sending).await;
        Ok(over)
    }

    async fn take(&mut self, frame: Frame<FromRun>, out: &Outbox) -> Result<Option<End>> {
        if frame.message.id() != self.id {
            return Ok(None);
        }
        match frame.message {
            FromRun::Started { input, .. } | FromRun::Taken { input, .. } => self.pending.taken(input),
            FromRun::Output { stream, offset, .. } => {
                self.output(stream, offset, &frame.body).await?;
                let _ = out.send((self.seen(false), Vec::new()));
            }
            FromRun::Ended { end, .. } => {
                let _ = out.send((self.seen(true), Vec::new()));
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn seen(&self, end: bool) -> ToRun {
        ToRun::Seen { id: self.id.clone(), stdout: self.ask.stdout, stderr: self.ask.stderr, end }
    }

    /// Writes what is new of a piece: after a lost connection the first one
    /// may begin before our position.
    async fn output(&mut self, stream: Stream, offset: u64, body: &[u8]) -> Result<()> {
        let have = match stream {
            Stream::Stdout => &mut self.ask.stdout,
            Stream::Stderr => &mut self.ask.stderr,
        };
        let Some(skip) = have.checked_sub(offset) else {
            let message = format!("output from byte {have} to {offset} of the command is missing");
            return Err(ApiError::new(Code::MachineFailed, message));
        };
        let new = usize::try_from(skip).ok().and_then(|skip| body.get(skip..)).unwrap_or_default();
        let written = match stream {
            Stream::Stdout => write_all(self.stdout, new).await,
            Stream::Stderr => write_all(self.stderr, new).await,
        };
        written.map_err(|e| ApiError::new(Code::Internal, format!("output could not be written: {e}")))?;
        *have += new.len() as u64;
        Ok(())
    }
}

type Outbox = mpsc::UnboundedSender<(ToRun, Vec<u8>)>;

/// Sends in a task of its own, so that a daemon that is slow to read never
/// keeps us from reading. Unbounded, yet bounded by the window of input and
/// by one acknowledgement per piece of output.
fn spawn_writer(mut writer: WriteHalf<Io>) -> (Outbox, tokio::task::JoinHandle<()>) {
    let (out, mut queue) = mpsc::unbounded_channel::<(ToRun, Vec<u8>)>();
    let task = tokio::spawn(async move {
        while let Some((message, body)) = queue.recv().await {
            // The reader notices the loss and reconnects.
            if write_frame(&mut writer, &message, &body).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    (out, task)
}

async fn write_all<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn recv<T>(queue: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match queue {
        Some(queue) => queue.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pending: &mut Pending) -> Vec<(ToRun, Vec<u8>)> {
        std::iter::from_fn(|| pending.next("r")).collect()
    }

    #[test]
    fn input_that_was_not_taken_is_sent_again_from_where_the_command_is() {
        let mut p = Pending::default();
        p.add(Input::Bytes(b"hello".to_vec()));
        p.add(Input::Eof);
        assert_eq!(drain(&mut p).len(), 2);
        p.rewind();
        p.taken(3);
        let again = drain(&mut p);
        assert_eq!(again[0], (ToRun::Input { id: "r".into(), offset: 3, eof: false }, b"lo".to_vec()));
        assert_eq!(again[1], (ToRun::Input { id: "r".into(), offset: 5, eof: true }, vec![]));
        assert!(drain(&mut p).is_empty());
    }

    #[test]
    fn a_signal_overtakes_input() {
        let mut p = Pending::default();
        p.add(Input::Bytes(vec![0; 3 * PIECE]));
        p.signals.push(2);
        let messages = drain(&mut p);
        assert!(matches!(messages[0].0, ToRun::Signal { signal: 2, .. }));
        assert_eq!(messages.len(), 4);
    }

    #[test]
    fn a_window_of_input_that_nobody_takes_stops_the_reading() {
        let mut p = Pending::default();
        p.add(Input::Bytes(vec![0; WINDOW]));
        assert!(!p.has_room());
        drain(&mut p);
        p.taken(10);
        assert!(p.has_room());
        p.taken(5);
        assert_eq!(p.start, 10, "an old position takes nothing back");
    }
}
