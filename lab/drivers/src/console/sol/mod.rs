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
use crate::child::{Group, Program, shown};
use crate::error::{DriverError, Task};
use crate::site::Site;
use crate::watched;
use keys::{Keys, Notes};
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::time::timeout;

const DRIVER: &str = "console.sol";
/// What ipmitool says once the BMC has given it the line.
const READY: &[u8] = b"[SOL Session operational.";
/// How long that may take.
const OPEN: Duration = Duration::from_secs(15);
/// How long ipmitool's last words are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "sol",
    fields: &[
        FieldSchema::optional(
            "address",
            FieldKind::Text,
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
            "keepalive",
            FieldKind::OneOf(&["line", "session"]),
            "what is tried every 15 s: the `line`, unless said, or only the `session` where the BMC does not answer that",
        ),
    ],
    ..DriverSchema::EMPTY
};

struct Sol {
    bmc: Bmc,
    steal: bool,
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
    Ok(Arc::new(Sol { bmc, steal, activate }))
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
        let (argv, password) = self.bmc.program(what, self.activate)?;
        let program = Program { argv: &argv, secret: Some((bmc::PASSWORD, &password)), limit: OPEN };
        let mut line =
            self.spawn(&program).map_err(|e| self.bmc.not_run(what, &crate::child::RunError::Start(e)))?;
        match timeout(OPEN, line.until_ready()).await {
            Ok(Ok(())) => Ok(Box::new(line)),
            Ok(Err(e)) => Err(self.bmc.said(what, &format!("{}\n{e}", line.last_words().await))),
            Err(_) => Err(self.bmc.said(
                what,
                &format!("{}\nipmitool did not get it within {} s", line.last_words().await, OPEN.as_secs()),
            )),
        }
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
            stdin,
            stderr,
            keys: Keys::default(),
            typed: Vec::new(),
            notes: Notes::default(),
            read: Vec::new(),
            _group: Group { child },
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
    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(self.line())
    }
}

struct SolLine {
    bmc: Bmc,
    output: AsyncFd<File>,
    stdin: ChildStdin,
    stderr: ChildStderr,
    keys: Keys,
    /// Typed and translated, and not taken by ipmitool yet.
    typed: Vec<u8>,
    notes: Notes,
    /// Read, and not taken by our reader yet.
    read: Vec<u8>,
    /// Ends ipmitool when the line is dropped.
    _group: Group,
}

impl SolLine {
    /// Reads up to the sentence that the line is there. What came before it
    /// is ipmitool's own.
    async fn until_ready(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.read(&mut byte).await? == 1 {
            match byte {
                [b'\n'] if line.starts_with(READY) => return Ok(()),
                [b'\n'] => line.clear(),
                [byte] if line.len() < 1024 => line.push(byte),
                _ => {}
            }
        }
        Err(io::Error::other(shown(&String::from_utf8_lossy(&line))))
    }

    /// What ipmitool wrote to its standard error.
    async fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        // It may go on living, and say nothing more.
        let _ = timeout(LAST_WORDS, (&mut self.stderr).take(8192).read_to_end(&mut words)).await;
        String::from_utf8_lossy(&words).into_owned()
    }

    /// Reads into `self.read`; nothing there afterwards: the end.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; 4096];
        while self.read.is_empty() {
            let mut ready = ready!(self.output.poll_read_ready(cx))?;
            match ready.try_io(|file| file.get_ref().read(&mut chunk)) {
                Ok(Ok(0)) => break,
                Ok(Ok(n)) => self.read = self.notes.take_out(&chunk[..n]),
                // The other end is closed (pty(7)): ipmitool ended.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => break,
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The reason why it ended, which is worth more than an end without
    /// words.
    fn poll_reason(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut words = [0; 2048];
        let mut last = ReadBuf::new(&mut words);
        if let Poll::Ready(Err(e)) = Pin::new(&mut self.stderr).poll_read(cx, &mut last) {
            return Err(e);
        }
        match String::from_utf8_lossy(last.filled()).trim() {
            "" => Ok(()),
            words => Err(io::Error::other(self.bmc.said("keep the serial line of", words))),
        }
    }

    fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.typed.is_empty() {
            let n = ready!(Pin::new(&mut self.stdin).poll_write(cx, &self.typed))?;
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
        ready!(self.poll_output(cx))?;
        if self.read.is_empty() {
            return Poll::Ready(self.poll_reason(cx));
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
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
