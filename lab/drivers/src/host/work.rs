//! A program on a bench host, from its start to its end.
//!
//! libssh2 blocks, and one session is for one thread. So each program has a
//! thread and a session of its own, as many as the host's slots. Whoever waits
//! for it on our side may stop waiting at any time: the connection is then cut,
//! which brings the thread back at once.

use super::login::{Cut, KINDS, Refused, Words};
use super::script::{self, BEGIN, END, NONE};
use super::{Host, HostError};
use crate::child::{MAX_OUTPUT, Ran, RunError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use ssh2::{BlockDirections, Channel, Session};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{SemaphorePermit, oneshot};

/// What a thread does with a session. It gets the connection too, to wait for it.
type Work<T> = dyn Fn(&Host, &Session, &TcpStream) -> Result<T, HostError> + Send + Sync;

/// The seconds after which what begins there now ends itself, where nobody is
/// left to end it: no more than what the wait for a place and the login left,
/// so that it is over when its time is by our clock.
pub(super) fn clock(end: Instant) -> u64 {
    end.saturating_duration_since(Instant::now()).as_secs() + 2
}

impl Host {
    /// Runs a program there; [`Bench::run`](super::Bench::run).
    pub(super) async fn run(self: &Arc<Self>, argv: &[String], limit: Duration) -> Result<Ran, RunError> {
        let end = Instant::now() + limit;
        let _slot = self.place(limit).await?;
        let copy: Vec<String> = argv.to_vec();
        let work = move |host: &Self, session: &Session, socket: &TcpStream| {
            let command = script::run(&copy, clock(end)).map_err(|e| host.failed(e).permanent())?;
            let mut channel = host.begin(session, &command)?;
            host.collect(session, &mut channel, socket)
        };
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.with_session(Arc::new(work))).await {
            Ok(ran) => ran.map_err(RunError::Host).and_then(|ran| self.judge(argv, ran)),
            Err(_) => Err(RunError::Late(limit)),
        }
    }

    /// One of the host's places, if there is one in time.
    pub(super) async fn place(&self, limit: Duration) -> Result<SemaphorePermit<'_>, RunError> {
        match tokio::time::timeout(limit, self.slots.acquire()).await {
            // Never closed, so there is always one to be had.
            Ok(place) => place.map_err(|e| RunError::Host(self.failed(e))),
            Err(_) => Err(RunError::Busy(limit)),
        }
    }

    fn judge(&self, argv: &[String], ran: Option<Ran>) -> Result<Ran, RunError> {
        ran.ok_or_else(|| RunError::Host(self.no_program(argv.first().map_or("", String::as_str))))
    }

    pub(super) fn no_program(&self, program: &str) -> HostError {
        let what = format!("there is no program {program}");
        self.failed(what).permanent().next(format!("is it installed on {}?", self.name))
    }

    /// A command that did not say how it ended.
    pub(super) fn cut_off(&self, err: &Output) -> HostError {
        self.failed(format!("the command did not come to its end: {}", err.last_words()))
    }

    /// Logs in, with one kind of host key after the other until one is known,
    /// and lets a thread work with the session.
    pub(super) async fn with_session<T: Send + 'static>(
        self: &Arc<Self>,
        work: Arc<Work<T>>,
    ) -> Result<T, HostError> {
        let words = Arc::new(self.words().await?);
        let liked = *self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        let others = (0..KINDS.len()).filter(|kind| Some(*kind) != liked);
        let mut first = None;
        for kind in liked.into_iter().chain(others) {
            match self.in_thread(kind, words.clone(), work.clone()).await? {
                Ok(done) => return Ok(done),
                Err(Refused::Other(error)) => return Err(error),
                // The one it likes best tells most.
                Err(Refused::Key(error)) => drop(first.get_or_insert(error)),
            }
        }
        Err(first.unwrap_or_else(|| self.failed("it has no key")))
    }

    async fn in_thread<T: Send + 'static>(
        self: &Arc<Self>,
        kind: usize,
        words: Arc<Words>,
        work: Arc<Work<T>>,
    ) -> Result<Result<T, Refused>, HostError> {
        let (stream, cut) = self.connect().await?;
        let (answer, answered) = oneshot::channel();
        let host = self.clone();
        let body = move || {
            let done = host.with(stream, &words, kind, work.as_ref());
            // Whoever asked may have stopped waiting.
            let _ = answer.send(done);
        };
        let thread = std::thread::Builder::new().name(format!("ssh {}", self.name));
        thread.spawn(body).map_err(|e| self.failed(format!("no thread: {e}")))?;
        let done = answered.await.map_err(|_| self.failed("its thread ended too early"));
        drop::<Cut>(cut);
        done
    }

    fn with<T>(&self, stream: TcpStream, words: &Words, kind: usize, work: &Work<T>) -> Result<T, Refused> {
        let io = |e: std::io::Error| Refused::Other(self.failed(e));
        let socket = stream.try_clone().map_err(io)?;
        // Ends it before the session is let go, which would say goodbye and
        // wait for the answer.
        let end = Cut::of(&socket).map_err(io)?;
        let session = self.log_in(stream, words, kind)?;
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
        let done = work(self, &session, &socket).map_err(Refused::Other);
        drop(end);
        done
    }

    /// Starts a command; from here on the session blocks no more.
    pub(super) fn begin(&self, session: &Session, command: &str) -> Result<Channel, HostError> {
        let failed = |what: &str, e: ssh2::Error| self.failed(format!("{what}: {}", e.message()));
        let mut channel = session
            .channel_session()
            .map_err(|e| failed("it opens no more sessions", e).next("`MaxSessions` of its ssh server"))?;
        channel.exec(command).map_err(|e| failed("it runs no command", e))?;
        session.set_blocking(false);
        Ok(channel)
    }

    fn collect(
        &self,
        session: &Session,
        channel: &mut Channel,
        socket: &TcpStream,
    ) -> Result<Option<Ran>, HostError> {
        let (mut out, mut err) = (Output::default(), Output::default());
        while !channel.eof() {
            let some = self.read(channel, 0, |bytes| out.add(bytes))?
                | self.read(channel, 1, |bytes| err.add(bytes))?;
            if !some && !channel.eof() {
                // Whoever has a deadline cuts the connection, which ends this.
                wait(session, socket, None, PAUSE).map_err(|e| self.failed(e))?;
            }
        }
        if err.said(NONE) {
            return Ok(None);
        }
        let code = err.code().ok_or_else(|| self.cut_off(&err))?;
        Ok(Some(Ran { status: ExitStatus::from_raw(code << 8), out: out.text(), err: err.words() }))
    }

    /// Reads what there is of one of a command's outputs. Whether there was something.
    pub(super) fn read(
        &self,
        channel: &Channel,
        stream: i32,
        mut into: impl FnMut(&[u8]),
    ) -> Result<bool, HostError> {
        let mut some = false;
        let mut buffer = [0; 16 << 10];
        loop {
            match channel.stream(stream).read(&mut buffer) {
                Ok(0) => return Ok(some),
                Ok(n) => into(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(some),
                Err(e) => return Err(self.failed(format!("the connection was lost: {e}"))),
            }
            some = true;
        }
    }
}

/// What a program printed: the beginning, and where that is not all, the end.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: Vec<u8>,
    tail: Vec<u8>,
    /// What was printed so far belongs to the program.
    greeted: bool,
}

/// The longest wait for a connection that says nothing.
const PAUSE: Duration = Duration::from_secs(60);
/// Long enough for [`END`] and a code.
const TAIL: usize = 64;

impl Output {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let free = usize::try_from(MAX_OUTPUT).unwrap_or(usize::MAX).saturating_sub(self.kept.len());
        self.kept.extend(bytes.iter().take(free));
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// Whether the script's last word was this.
    pub(super) fn said(&self, word: &str) -> bool {
        String::from_utf8_lossy(&self.tail).ends_with(&format!("{END}{word}\n"))
    }

    /// The exit code that the script wrote last.
    pub(super) fn code(&self) -> Option<i32> {
        let tail = String::from_utf8_lossy(&self.tail);
        let (_, code) = tail.rsplit_once(END)?;
        code.strip_suffix('\n')?.parse().ok().filter(|code| (0..=255).contains(code))
    }
}

impl Output {
    /// What stands behind the greeting.
    pub(super) fn text(&self) -> String {
        let all = String::from_utf8_lossy(&self.kept);
        all.split_once(BEGIN).map_or_else(String::new, |(_, said)| said.to_owned())
    }

    /// The same, without the script's last word.
    pub(super) fn words(&self) -> String {
        let said = self.text();
        said.rsplit_once(END).map_or(said.as_str(), |(before, _)| before).trim_end_matches('\n').to_owned()
    }

    /// The first line of that, for a command that did not come to its end.
    pub(super) fn last_words(&self) -> String {
        crate::child::first_line(&format!("{}\nthe connection was lost", self.words()))
    }

    /// Passes over the greeting; what is behind it is given back.
    pub(super) fn behind_greeting(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.greeted {
            return Some(bytes.to_vec());
        }
        self.kept.extend_from_slice(bytes);
        let begin = BEGIN.as_bytes();
        let Some(at) = self.kept.windows(begin.len()).position(|window| window == begin) else {
            // It may have begun; what is before that nobody wants.
            self.kept.drain(..self.kept.len().saturating_sub(begin.len()));
            return None;
        };
        self.greeted = true;
        let said = self.kept.split_off(at + begin.len());
        Some(said)
    }
}

/// Waits until the connection has something for the session, or `other` has
/// something to read.
pub(super) fn wait(
    session: &Session,
    socket: &TcpStream,
    other: Option<(BorrowedFd<'_>, PollFlags)>,
    limit: Duration,
) -> std::io::Result<()> {
    let wants = match session.block_directions() {
        BlockDirections::Outbound | BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
        BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
    };
    let mut all = vec![PollFd::from_borrowed_fd(socket.as_fd(), wants)];
    all.extend(other.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut all, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_found_behind_any_amount_of_output_and_never_made_up() {
        let mut output = Output::default();
        assert_eq!(output.code(), None);
        output.add(b"pitstop-exit:0");
        assert_eq!(output.code(), None, "cut off");
        output.add(b"\n");
        assert_eq!(output.code(), Some(0));
        output.add(&vec![b'x'; 1 << 20]);
        assert_eq!(output.code(), None);
        output.add(b"\npitstop-exit:7\n");
        assert_eq!(output.code(), Some(7));
        assert!(output.kept.len() <= 64 << 10);
    }
}
