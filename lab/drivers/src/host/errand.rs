//! Errands: programs that must not go on when nobody waits for them any more,
//! and that may be given files. A hook is one, and what writes a board's flash.
//!
//! On this host as on another, the same script runs the program and holds its
//! input for a line of life ([`script::errand`]): when the daemon dies, however,
//! the kernel lets go of that, and the script ends its process group. Files
//! travel over it before that, into a directory that belongs to this run alone
//! and goes with it.

use super::script;
use super::work::{Output, clock, wait};
use super::{Bench, Host, HostError};
use crate::child::{Program, Ran, RunError};
use rustix::process::{Pid, Signal, kill_process_group};
use ssh2::{Channel, Session};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Where files are put, on every host.
const FILES: &str = "/tmp";
/// Bytes of a file that are under way.
const PIECE: usize = 256 << 10;
/// Between two looks at a program that has said its last word.
const LOOK: Duration = Duration::from_millis(5);
/// How long the line is waited for where nothing happens on it.
const QUIET: Duration = Duration::from_secs(60);

/// Opens the bytes of a file.
pub type Open = Arc<dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A file that is brought along.
#[derive(Clone)]
pub struct Parcel {
    /// Its name in the errand's directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where they come from; on a thread that may block.
    pub open: Open,
}

/// Hears what a program prints to its standard output, all of it.
pub trait Hear: Send {
    /// The next bytes. It never refuses any: a program that nobody listens to
    /// must not be stopped by that.
    fn hear(&mut self, bytes: &[u8]);
}

/// A program to be run.
#[derive(Clone)]
pub struct Errand {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// How long it may take, with the way of its files.
    pub limit: Duration,
    /// The directory of its files: a name that no other run has.
    pub directory: String,
    /// Those files.
    pub files: Vec<Parcel>,
    /// Who listens; else the beginning of what it prints is kept.
    pub ear: Option<Arc<Mutex<dyn Hear>>>,
}

impl Errand {
    /// The path that a file will have, on whatever host.
    pub fn path(directory: &str, file: &str) -> String {
        format!("{FILES}/{directory}/{file}")
    }

    fn home(&self) -> PathBuf {
        Path::new(FILES).join(&self.directory)
    }

    /// What is run, and ends itself after so many seconds.
    fn command(&self, seconds: u64) -> Result<Vec<String>, String> {
        let files: Vec<(String, u64)> = self.files.iter().map(|f| (f.name.clone(), f.bytes)).collect();
        let home = self.home();
        let home = if files.is_empty() { "" } else { home.to_str().unwrap_or_default() };
        script::errand(seconds, home, &files, &self.argv)
    }
}

impl Bench {
    /// Runs an errand to its end. Dropped before that, it is killed with
    /// everything it started; also where this daemon dies of SIGKILL.
    ///
    /// # Errors
    /// It could not be started, or was over too late.
    pub async fn errand(&self, errand: &Errand) -> Result<Ran, RunError> {
        let running = async {
            match self {
                Self::Here => here(errand).await,
                Self::There(host) => host.errand(errand).await,
            }
        };
        match tokio::time::timeout(errand.limit, running).await {
            Ok(ran) => ran,
            Err(_) => Err(RunError::Late(errand.limit)),
        }
    }
}

/// What came of it, by the script's last word.
fn judge(
    bench: &Bench,
    argv: &[String],
    (out, err): (Output, Output),
    source: Option<std::io::Error>,
) -> Result<Ran, RunError> {
    if let Some(error) = source {
        return Err(RunError::Source(error));
    }
    if err.said(script::NONE) {
        let program = argv.first().map_or("", String::as_str);
        return Err(match bench {
            Bench::Here => RunError::Start(std::io::Error::new(
                ErrorKind::NotFound,
                format!("there is no program {program}"),
            )),
            Bench::There(host) => RunError::Host(host.no_program(program)),
        });
    }
    if err.said(script::FILE) {
        return Err(RunError::Store(format!("{bench}: {}", err.last_words())));
    }
    match (err.code(), bench) {
        (Some(code), _) => {
            Ok(Ran { status: ExitStatus::from_raw(code << 8), out: out.text(), err: err.words() })
        }
        (None, Bench::Here) => {
            Err(RunError::Wait(std::io::Error::other(format!("it was ended: {}", err.last_words()))))
        }
        (None, Bench::There(host)) => Err(RunError::Host(host.cut_off(&err))),
    }
}

// ── this host ──

/// A process group that ends with this, and the files that it was given.
struct Held {
    group: Arc<Mutex<Option<Child>>>,
    home: Option<PathBuf>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is taken out when it was waited for: until then its number is its own.
        let Some(mut child) = lock(&self.group).take() else { return };
        if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // Its shell would have done that.
        if let Some(home) = &self.home {
            let _ = std::fs::remove_dir_all(home);
        }
        // Killed as it is, that takes no time worth a thread.
        let _ = child.wait();
    }
}

async fn here(errand: &Errand) -> Result<Ran, RunError> {
    let wrong = |e: String| RunError::Start(std::io::Error::new(ErrorKind::InvalidInput, e));
    let argv = errand.command(clock(Instant::now() + errand.limit)).map_err(wrong)?;
    let mut command = Program { argv: &argv, secret: None, limit: errand.limit }.plain();
    command.stdin(Stdio::piped());
    let child = command.spawn().map_err(RunError::Start)?;
    let home = (!errand.files.is_empty()).then(|| errand.home());
    let group = Arc::new(Mutex::new(Some(child)));
    let held = Held { group: group.clone(), home };
    let (done, answer) = oneshot::channel();
    let copy = errand.clone();
    std::thread::Builder::new()
        .name("errand".to_owned())
        // Whoever asked may have stopped waiting.
        .spawn(move || drop(done.send(attend(&copy, &group))))
        .map_err(RunError::Start)?;
    let gone = |_| RunError::Wait(std::io::Error::other("its thread ended too early"));
    let (outputs, source) = answer.await.map_err(gone)?;
    drop(held);
    judge(&Bench::Here, &errand.argv, outputs, source)
}

type Heard = ((Output, Output), Option<std::io::Error>);

/// Gives it its files, hears it out and waits for its end.
fn attend(errand: &Errand, group: &Mutex<Option<Child>>) -> Heard {
    let (stdin, stdout, stderr) = match lock(group).as_mut() {
        Some(child) => (child.stdin.take(), child.stdout.take(), child.stderr.take()),
        None => (None, None, None),
    };
    let (mut out, mut err) = (Output::default(), Output::default());
    let source = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let mut stdin = stdin;
            let fed = feed(errand, stdin.as_mut());
            // Its input stays open: that is what it lives by. Where a file
            // broke off, it must not wait for the rest.
            (fed.is_ok().then_some(stdin), fed.err())
        });
        let saying = scope.spawn(|| drain(stderr, |bytes| err.add(bytes)));
        drain(stdout, |bytes| hear(errand, &mut out, bytes));
        let _ = saying.join();
        // Both outputs are closed; it holds its input until it was waited for.
        loop {
            let mut child = lock(group);
            match child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => {}
                _ => {
                    child.take();
                    break;
                }
            }
            drop(child);
            std::thread::sleep(LOOK);
        }
        feeding.join().ok().and_then(|(_, error)| error)
    });
    ((out, err), source)
}

/// Writes all files. An error is one of reading them: a program that takes no
/// more has its own end to tell of.
fn feed(errand: &Errand, to: Option<&mut impl Write>) -> std::io::Result<()> {
    let Some(to) = to else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    for file in &errand.files {
        let mut from = (file.open)()?.take(file.bytes);
        let mut left = file.bytes;
        while left > 0 {
            let n = from.read(&mut piece)?;
            if n == 0 {
                return Err(short(file, left));
            }
            if to.write_all(piece.get(..n).unwrap_or_default()).is_err() {
                return Ok(());
            }
            left -= n as u64;
        }
    }
    let _ = to.flush();
    Ok(())
}

fn short(file: &Parcel, left: u64) -> std::io::Error {
    std::io::Error::new(ErrorKind::UnexpectedEof, format!("{} lacks {left} bytes", file.name))
}

/// Reads to the end, whatever becomes of it.
fn drain(from: Option<impl Read>, mut each: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => each(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// What a program prints, behind the host's greeting, goes to who listens.
fn hear(errand: &Errand, out: &mut Output, bytes: &[u8]) {
    match &errand.ear {
        None => out.add(bytes),
        Some(ear) => {
            if let Some(said) = out.behind_greeting(bytes) {
                lock(ear).hear(&said);
            }
        }
    }
}

// ── another host ──

impl Host {
    async fn errand(self: &Arc<Self>, errand: &Errand) -> Result<Ran, RunError> {
        let end = Instant::now() + errand.limit;
        let _slot = self.place(errand.limit).await?;
        let copy = errand.clone();
        let work = move |host: &Self, session: &Session, socket: &TcpStream| {
            let line = copy.command(clock(end)).and_then(|argv| script::line(&argv));
            let line = line.map_err(|e| host.failed(e).permanent())?;
            let mut channel = host.begin(session, &line)?;
            host.attend(&copy, session, &mut channel, socket)
        };
        let (outputs, source) = self.with_session(Arc::new(work)).await.map_err(RunError::Host)?;
        judge(&Bench::There(self.clone()), &errand.argv, outputs, source)
    }

    fn attend(
        &self,
        errand: &Errand,
        session: &Session,
        channel: &mut Channel,
        socket: &TcpStream,
    ) -> Result<Heard, HostError> {
        let (mut out, mut err) = (Output::default(), Output::default());
        let mut mail = Mail::of(errand);
        while !channel.eof() {
            let mut some = self.read(channel, 0, |bytes| hear(errand, &mut out, bytes))?
                | self.read(channel, 1, |bytes| err.add(bytes))?;
            match mail.send(channel) {
                Ok(sent) => some |= sent,
                // Let go of the line, and it ends there by itself.
                Err(Undelivered::Source(error)) => return Ok(((out, err), Some(error))),
                Err(Undelivered::Line(error)) => {
                    return Err(self.failed(format!("the connection was lost: {error}")));
                }
            }
            if !some && !channel.eof() {
                wait(session, socket, None, QUIET).map_err(|e| self.failed(e))?;
            }
        }
        Ok(((out, err), None))
    }
}

enum Undelivered {
    Source(std::io::Error),
    Line(std::io::Error),
}

/// Files on their way, as much as the line takes at a time.
struct Mail<'e> {
    files: std::slice::Iter<'e, Parcel>,
    open: Option<(&'e Parcel, Box<dyn Read + Send>, u64)>,
    piece: Vec<u8>,
    sent: usize,
}

impl<'e> Mail<'e> {
    fn of(errand: &'e Errand) -> Self {
        Self { files: errand.files.iter(), open: None, piece: Vec::new(), sent: 0 }
    }

    /// Sends what the line takes now. Whether it took something.
    fn send(&mut self, channel: &mut Channel) -> Result<bool, Undelivered> {
        let mut some = false;
        loop {
            if self.sent == self.piece.len() && !self.next_piece().map_err(Undelivered::Source)? {
                return Ok(some);
            }
            match channel.write(self.piece.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Ok(some),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(some),
                // It takes no more, and will say why.
                Err(_) if channel.eof() => return Ok(some),
                Err(e) => return Err(Undelivered::Line(e)),
            }
            some = true;
        }
    }

    /// Reads on; whether there is more to send.
    fn next_piece(&mut self) -> std::io::Result<bool> {
        loop {
            let Some((file, from, left)) = &mut self.open else {
                let Some(file) = self.files.next() else { return Ok(false) };
                self.open = Some((file, (file.open)()?, file.bytes));
                continue;
            };
            if *left == 0 {
                self.open = None;
                continue;
            }
            self.piece.resize(PIECE.min(usize::try_from(*left).unwrap_or(PIECE)), 0);
            let n = from.read(&mut self.piece)?;
            if n == 0 {
                return Err(short(file, *left));
            }
            self.piece.truncate(n);
            (self.sent, *left) = (0, *left - n as u64);
            return Ok(true);
        }
    }
}
