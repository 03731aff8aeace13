//! `console.sol`: the serial line that a BMC carries over the network (IPMI
//! 2.0, section 15), by an `ipmitool` that lives as long as the line.
//!
//! What the machine says comes through a terminal of our own, since ipmitool
//! keeps back what it writes into a pipe. What is typed goes through a pipe:
//! when this daemon dies, however it dies, its end ends ipmitool, which then
//! gives the BMC's session back.

mod keys;

use super::{Console, Line};
use crate::bmc::{self, Bmc};
use crate::child::{Group, Program, RunError, shown};
use crate::error::{DriverError, Task};
use crate::site::Site;
use crate::watched;
use keys::{Keys, Notes};
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::runtime::Handle;
use tokio::time::timeout;

const DRIVER: &str = "console.sol";
/// What ipmitool says once the BMC has given it the line.
const READY: &[u8] = b"[SOL Session operational.";
/// Bytes of a line before that, at most.
const MAX_LINE: usize = 4096;
/// What it always says, since its output is no terminal of a person's.
const TCGETATTR: &str = "tcgetattr: Inappropriate ioctl for device";
/// How long that may take.
const OPEN: Duration = Duration::from_secs(15);
/// How long ipmitool may take to give the session back.
const GIVE_BACK: Duration = Duration::from_secs(3);
/// Bytes of its standard error that are kept: its last.
const WORDS: usize = 2048;
/// How long ipmitool's last words are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "sol",
    fields: &[
        FieldSchema::optional(
            "address",
            bmc::ADDRESS_KIND,
            "the BMC; that of the machine's `power.ipmi` unless said, and then so are these",
        ),
        bmc::USER,
        bmc::PASSWORD_FIELD,
        bmc::CIPHER,
        bmc::PRIVILEGE,
        FieldSchema::optional(
            "steal",
            FieldKind::Bool,
            "end whatever session has the line when it is opened; true unless said: one that was cut off keeps it else",
        ),
        FieldSchema::optional(
            "while_on",
            FieldKind::Bool,
            "the BMC gives the line only while the machine is on; false unless said",
        ),
        FieldSchema::optional(
            "keepalive",
            FieldKind::OneOf(&["line", "session"]),
            "what is tried every 15 s: the `line`, unless said, or only the `session` where the BMC does not answer that",
        ),
    ],
    unique: &[Unique { what: "serial line", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

struct Sol {
    bmc: Bmc,
    steal: bool,
    while_on: bool,
    activate: &'static [&'static str],
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let spec = site.spec.consoles.get(console).cloned().unwrap_or_default();
    let steal = spec.flag("steal") != Some(false);
    // A session lives on when somebody else has taken its line, and looks as
    // well as a machine that says nothing.
    let activate: &[_] = match spec.text("keepalive") {
        Some("session") => &["sol", "activate"],
        _ => &["sol", "activate", "usesolkeepalive"],
    };
    let bmc = Bmc::of(DRIVER, site, &bmc_of(site, &spec, console)?)?;
    Ok(Arc::new(Sol { bmc, steal, while_on: spec.flag("while_on") == Some(true), activate }))
}

/// The BMC the console names, or else the one that switches the machine.
fn bmc_of(site: &Site, spec: &DriverSpec, console: &str) -> Result<DriverSpec, DriverError> {
    if spec.text("address").is_some() {
        return Ok(spec.clone());
    }
    let mut legs = site.spec.legs.iter().filter(|leg| leg.driver.driver == "ipmi");
    let Some(leg) = legs.next() else {
        return Err(DriverError::new(
            DRIVER,
            format!("use {console} of {}", site.name()),
            "nothing names its BMC",
        )
        .permanent()
        .next("give the console an `address`, or the machine `power.ipmi`"));
    };
    let mut fields = (*leg.driver.fields).clone();
    fields.extend((*spec.fields).clone());
    Ok(DriverSpec { fields: Arc::new(fields), ..leg.driver.clone() })
}

impl Sol {
    async fn line(&self) -> Result<Box<dyn Line>, DriverError> {
        if self.steal {
            // Whether there was one to end is all the same; what keeps the
            // line from being opened is said by the opening.
            let _ = self.bmc.ask("end the session on", &["sol", "deactivate"]).await;
        }
        let what = "open the serial line of";
        let (argv, password) = self.bmc.program(what, self.activate).await?;
        let program = Program { argv: &argv, secret: Some((bmc::PASSWORD, &password)), limit: OPEN };
        let mut line = self.spawn(&program).map_err(|e| self.bmc.not_run(what, &RunError::Start(e)))?;
        let said = match timeout(OPEN, line.until_ready()).await {
            Ok(Ok(())) => return Ok(Box::new(line)),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("ipmitool did not get it within {} s", OPEN.as_secs()),
        };
        Err(self.bmc.said(what, &format!("{}\n{said}", line.last_words().await)))
    }

    fn spawn(&self, program: &Program<'_>) -> io::Result<SolLine> {
        let (ours, theirs) = terminal()?;
        let mut child =
            program.command().stdin(Stdio::piped()).stdout(theirs).stderr(Stdio::piped()).spawn()?;
        let gone = || io::Error::other("it was started without its pipes");
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        Ok(SolLine {
            bmc: self.bmc.clone(),
            output: watched::file(ours)?,
            stdin: Some(stdin),
            stderr,
            keys: Keys::default(),
            typed: Vec::new(),
            notes: Notes::default(),
            read: Vec::new(),
            words: Vec::new(),
            group: Some(Group { child }),
        })
    }
}

/// A terminal that changes no byte: our end, and the other.
fn terminal() -> io::Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let path = ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(path.as_c_str(), flags, rustix::fs::Mode::empty())?;
    let mut modes = tcgetattr(&theirs)?;
    modes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((ours.into(), theirs.into()))
}

impl Console for Sol {
    fn repeats(&self) -> bool {
        true
    }

    fn only_while_on(&self) -> bool {
        self.while_on
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(self.line())
    }
}

struct SolLine {
    bmc: Bmc,
    output: AsyncFd<File>,
    stdin: Option<ChildStdin>,
    stderr: ChildStderr,
    keys: Keys,
    /// Typed and translated, and not taken by ipmitool yet.
    typed: Vec<u8>,
    notes: Notes,
    /// Read, and not taken by our reader yet.
    read: Vec<u8>,
    /// The last of what ipmitool wrote to its standard error.
    words: Vec<u8>,
    group: Option<Group>,
}

impl Drop for SolLine {
    /// ipmitool gives the BMC's session back when its input ends; one that is
    /// killed leaves it taken. It has a moment for that.
    fn drop(&mut self) {
        self.stdin = None;
        let (Some(mut group), Ok(runtime)) = (self.group.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            // Whatever comes of it: what is left is killed when this ends.
            let _ = timeout(GIVE_BACK, group.child.wait()).await;
        });
    }
}

impl SolLine {
    /// Reads up to the sentence that the line is there. What came before it
    /// is ipmitool's own.
    async fn until_ready(&mut self) -> io::Result<()> {
        loop {
            poll_fn(|cx| self.poll_output(cx)).await?;
            let Some(end) = self.read.iter().position(|byte| *byte == b'\n') else {
                let said = shown(&String::from_utf8_lossy(&self.read));
                let before = self.read.len();
                poll_fn(|cx| self.poll_more(cx)).await?;
                if self.read.len() == before || before > MAX_LINE {
                    return Err(io::Error::other(said));
                }
                continue;
            };
            let line: Vec<u8> = self.read.drain(..=end).collect();
            if line.starts_with(READY) {
                return Ok(());
            }
        }
    }

    /// What ipmitool wrote to its standard error.
    async fn last_words(&mut self) -> String {
        let drained = async {
            let mut chunk = [0; 1024];
            while let Ok(n @ 1..) = self.stderr.read(&mut chunk).await {
                keep(&mut self.words, &chunk[..n]);
            }
        };
        // It may go on living, and say nothing more.
        let _ = timeout(LAST_WORDS, drained).await;
        String::from_utf8_lossy(&self.words).into_owned()
    }

    /// Something in `self.read`, or the end.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() { self.poll_more(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Reads once more; nothing new afterwards: the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; 4096];
        let before = self.read.len();
        while self.read.len() == before {
            let mut space = ReadBuf::new(&mut chunk);
            ready!(watched::poll_read(&self.output, cx, &mut space))?;
            if space.filled().is_empty() {
                break;
            }
            let said = self.notes.take_out(space.filled());
            self.read.extend(said);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what ipmitool writes to its standard error: a pipe that is full
    /// would stop it, and the console with it.
    fn drain_words(&mut self, cx: &mut Context<'_>) {
        let mut chunk = [0; 1024];
        loop {
            let mut space = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.stderr).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() => keep(&mut self.words, space.filled()),
                _ => return,
            }
        }
    }

    /// The reason why it ended, which is worth more than an end without
    /// words.
    fn reason(&self) -> io::Result<()> {
        match String::from_utf8_lossy(&self.words).trim() {
            "" | TCGETATTR => Ok(()),
            words => Err(io::Error::other(self.bmc.said("keep the serial line of", words))),
        }
    }

    fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.typed.is_empty() {
            let Some(stdin) = &mut self.stdin else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            let n = ready!(Pin::new(stdin).poll_write(cx, &self.typed))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.typed.drain(..n);
        }
        Poll::Ready(Ok(()))
    }
}

impl Line for SolLine {
    fn send_break(&mut self) -> Result<(), DriverError> {
        self.typed.extend(self.keys.send_break());
        self.notes.expect();
        Ok(())
    }
}

impl AsyncRead for SolLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.drain_words(cx);
        ready!(self.poll_output(cx))?;
        if self.read.is_empty() {
            self.drain_words(cx);
            return Poll::Ready(self.reason());
        }
        let n = buf.remaining().min(self.read.len());
        buf.put_slice(&self.read[..n]);
        self.read.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SolLine {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_typed(cx))?;
        let typed = self.keys.type_in(bytes);
        self.typed = typed;
        // Taken: what ipmitool does not take now it takes with the next call.
        if let Poll::Ready(Err(e)) = self.poll_typed(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_typed(cx))?;
        self.stdin.as_mut().map_or(Poll::Ready(Ok(())), |stdin| Pin::new(stdin).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

/// Keeps the last of what is said.
fn keep(words: &mut Vec<u8>, more: &[u8]) {
    words.extend_from_slice(more);
    words.drain(..words.len().saturating_sub(WORDS));
}
