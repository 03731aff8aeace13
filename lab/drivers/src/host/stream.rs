//! A program on a bench host that is talked to: a serial line there, most of
//! all.

use super::script::{self, BEGIN, OPEN};
use super::work::wait;
use super::{Bench, Host, HostError};
use crate::child::{Group, Program, RunError, first_line};
use pitstop_wire::agent::Secret;
use rustix::event::PollFlags;
use ssh2::{Channel, Session};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Between two signs of life on a line that is silent, seconds.
const BEAT: u32 = 15;
/// How long a program may take to be there, once we are logged in.
const OPENING: Duration = Duration::from_secs(15);
/// How long a break may take.
const BREAK: Duration = Duration::from_secs(15);

/// An open line. What is behind it ends with it.
pub struct Stream {
    line: tokio::net::UnixStream,
    /// The program, where it runs on this host.
    _group: Option<Group>,
    /// How a break is sent, where one can be.
    breaks: Option<(Arc<Host>, Vec<String>)>,
}

impl Bench {
    /// Starts a program and gives what it prints, both outputs in one, and
    /// what it is to read.
    ///
    /// # Errors
    /// `RunError`
    pub async fn talk(&self, argv: &[String]) -> Result<Stream, RunError> {
        let Self::There(host) = self else { return here(argv).map_err(RunError::Start) };
        let command = script::talk(argv).map_err(|e| RunError::Host(host.failed(e).permanent()))?;
        host.open(command).await.map_err(RunError::Host)
    }
}

fn here(argv: &[String]) -> io::Result<Stream> {
    let (ours, theirs) = UnixStream::pair()?;
    let stdio = |end: &UnixStream| end.try_clone().map(|end| Stdio::from(OwnedFd::from(end)));
    let mut command = Program { argv, secret: None::<(&str, &Secret)>, limit: Duration::ZERO }.command();
    command.stdin(stdio(&theirs)?).stdout(stdio(&theirs)?).stderr(stdio(&theirs)?);
    let child = command.spawn()?;
    Ok(Stream { line: to_async(ours)?, _group: Some(Group { child }), breaks: None })
}

fn to_async(end: UnixStream) -> io::Result<tokio::net::UnixStream> {
    end.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(end)
}

impl Host {
    /// Opens a serial port of the host.
    pub(crate) async fn serial(
        self: &Arc<Self>,
        device: &str,
        baud: u32,
        rtscts: bool,
    ) -> Result<Stream, HostError> {
        let command = script::serial(device, baud, rtscts).map_err(|e| self.failed(e).permanent())?;
        self.open(command).await
    }

    async fn open(self: &Arc<Self>, command: String) -> Result<Stream, HostError> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| self.failed(e))?;
        theirs.set_nonblocking(true).map_err(|e| self.failed(e))?;
        let (opened, is_open) = oneshot::channel();
        // The line is one, even if several kinds of host key are tried.
        let once = Mutex::new(Some((theirs, opened)));
        let work = move |host: &Self, session: &Session, socket: &TcpStream| {
            let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((theirs, opened)) = taken else { return Ok(()) };
            let mut opened = Some(opened);
            let channel = host.begin(session, &command)?;
            let ended = host.shuttle(session, channel, socket, theirs, &mut opened);
            match (ended, opened) {
                // Nobody was told that it is open, so somebody waits to hear why.
                (Err(e), Some(opened)) => drop(opened.send(Err(e))),
                // The end of the line is what its reader sees.
                (Err(e), None) => tracing::debug!("{e}"),
                (Ok(()), _) => {}
            }
            Ok(())
        };
        let host = self.clone();
        let work = tokio::spawn(async move { host.with_session(Arc::new(work)).await });
        let said = async {
            match is_open.await {
                Ok(said) => said,
                // The thread did not get so far: the reason is the session's.
                Err(_) => match work.await {
                    Ok(Err(e)) => Err(e),
                    _ => Err(self.failed("the line ended before it was open")),
                },
            }
        };
        // Dropping our end of the line, as this does when it is late, ends the thread.
        let word = tokio::time::timeout(self.limit + OPENING, said)
            .await
            .map_err(|_| self.failed("the line is not open in time"))??;
        let (interpreter, device) = word.split_once(' ').unwrap_or_default();
        let breaks =
            (!interpreter.is_empty()).then(|| (self.clone(), script::send_break(interpreter, device)));
        Ok(Stream { line: to_async(ours).map_err(|e| self.failed(e))?, _group: None, breaks })
    }

    /// Carries bytes both ways until one side ends. Each direction holds one
    /// buffer: whoever is slow slows down the other end, and nothing piles up.
    fn shuttle(
        &self,
        session: &Session,
        channel: Channel,
        socket: &TcpStream,
        mut line: UnixStream,
        opened: &mut Option<oneshot::Sender<Result<String, HostError>>>,
    ) -> Result<(), HostError> {
        let lost = |e: io::Error| self.failed(format!("the connection was lost: {e}"));
        session.set_keepalive(true, BEAT);
        let (mut from, mut to) = (Buffer::default(), Buffer::default());
        let (mut heard, mut said) = (Vec::new(), Vec::new());
        let end = Instant::now() + OPENING;
        loop {
            match session.keepalive_send() {
                // -37: there is no room for it, so there is something under way.
                Err(e) if e.code() != ssh2::ErrorCode::Session(-37) => return Err(self.failed(e.message())),
                _ => {}
            }
            let mut some = false;
            if opened.as_ref().is_some_and(oneshot::Sender::is_closed) {
                return Ok(());
            }
            if opened.is_some() {
                // What it prints before it is open is why it is not.
                some |= self.listen(&channel, 0, &mut heard)? | self.listen(&channel, 1, &mut said)?;
                if let (Some((word, more)), Some(first)) = (is_open(&said), after(&heard, BEGIN)) {
                    // What came along with the words is the line's first bytes.
                    from.bytes.extend_from_slice(first);
                    from.bytes.extend_from_slice(more);
                    if opened.take().is_none_or(|opened| opened.send(Ok(word)).is_err()) {
                        return Ok(());
                    }
                }
                if opened.is_some() && (channel.eof() || Instant::now() > end) {
                    let end = if channel.eof() { "it ended at once" } else { "it is not open in time" };
                    let said = after(&said, BEGIN).map_or_else(Default::default, String::from_utf8_lossy);
                    return Err(self.failed(first_line(&format!("{said}\n{end}"))));
                }
            } else {
                some |= from.fill(&mut channel.stream(0)).map_err(lost)?;
                some |= from.fill(&mut channel.stderr()).map_err(lost)?;
                some |= from.drain(&mut line).map_err(lost)?;
                if channel.eof() && from.is_empty() {
                    return Ok(());
                }
                some |= to.fill(&mut line).map_err(lost)?;
                if to.ended {
                    return Ok(());
                }
                some |= to.drain(&mut channel.stream(0)).map_err(lost)?;
            }
            if !some {
                let mut wants = PollFlags::empty();
                wants.set(PollFlags::IN, to.is_empty());
                wants.set(PollFlags::OUT, !from.is_empty());
                wait(session, socket, Some((line.as_fd(), wants)), Duration::from_secs(BEAT.into()) / 3)
                    .map_err(lost)?;
            }
        }
    }

    fn listen(&self, channel: &Channel, stream: i32, said: &mut Vec<u8>) -> Result<bool, HostError> {
        let mut buffer = [0; 512];
        match channel.stream(stream).read(&mut buffer) {
            Ok(0) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(self.failed(format!("the connection was lost: {e}"))),
            Ok(_) if said.len() > GREETING => Err(self.failed("it says too much before the line is open")),
            Ok(n) => {
                said.extend_from_slice(buffer.get(..n).unwrap_or_default());
                Ok(true)
            }
        }
    }
}

/// Bytes of a host's greeting, and of a line that is heard before it is known
/// to be open.
const GREETING: usize = 64 << 10;

/// What stands behind a word, if it was said.
fn after<'s>(said: &'s [u8], word: &str) -> Option<&'s [u8]> {
    let at = said.windows(word.len()).position(|window| window == word.as_bytes())?;
    said.get(at + word.len()..)
}

/// What is said of the line, once it is open, and what was said after that.
fn is_open(said: &[u8]) -> Option<(String, &[u8])> {
    let rest = after(said, OPEN)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some((String::from_utf8_lossy(rest.get(..end)?).into_owned(), rest.get(end + 1..)?))
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    ended: bool,
}

/// Bytes under way in each direction.
const UNDER_WAY: usize = 16 << 10;

impl Buffer {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads what there is, unless what was read before is still here.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        if !self.bytes.is_empty() {
            return Ok(false);
        }
        let mut buffer = [0; UNDER_WAY];
        match from.read(&mut buffer) {
            Ok(0) => {
                self.ended = true;
                Ok(false)
            }
            Ok(n) => {
                self.bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn drain(&mut self, into: &mut impl Write) -> io::Result<bool> {
        if self.bytes.is_empty() {
            return Ok(false);
        }
        match into.write(&self.bytes) {
            Ok(n) => {
                self.bytes.drain(..n);
                Ok(n > 0)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Stream {
    /// Sends a break, where the line has one.
    ///
    /// # Errors
    /// It has none; why.
    pub fn send_break(&mut self) -> Result<(), String> {
        let Some((host, argv)) = self.breaks.clone() else {
            return Err("a program's line has none; a serial port of a bench host has one if python3 or perl is there".to_owned());
        };
        // It takes its own session, and nobody can be held up for that.
        tokio::spawn(async move {
            let sent = match host.run(&argv, BREAK).await {
                Ok(ran) if ran.status.success() => return,
                Ok(ran) => first_line(&ran.err),
                Err(e) => e.to_string(),
            };
            tracing::warn!("host {}: no break was sent: {sent}", host.name);
        });
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}
