//! The machine's serial lines.

use pitstop_drivers::sim::protocol::console_file;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

/// Bytes that wait for a reader; then the oldest are lost, as on a wire.
const BACKLOG: usize = 256 << 10;

/// The writing end of a serial line, for whatever the machine runs.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Mutex<VecDeque<u8>>,
    more: Notify,
    mute: AtomicBool,
}

impl Line {
    /// Makes the pty and its name `console-NAME` in `dir`; what is typed goes
    /// to `typed`. Both ends stay open here, so that bytes from before the
    /// daemon attached wait for it.
    pub fn open(dir: &Path, console: &str, typed: mpsc::Sender<Vec<u8>>) -> std::io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&name, flags, Mode::empty())?;
        let mut mode = tcgetattr(&slave)?;
        mode.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &mode)?;
        let link = dir.join(console_file(console));
        match std::fs::remove_file(&link) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::os::unix::fs::symlink(name.to_string_lossy().as_ref(), &link)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let master = pitstop_drivers::watched::file(File::from(master))?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(VecDeque::new()),
            more: Notify::new(),
            mute: AtomicBool::new(false),
        });
        tokio::spawn(serve(master, slave, shared.clone(), typed));
        Ok(Self { shared })
    }

    /// Prints one line.
    pub fn say(&self, text: &str) {
        self.put(text.as_bytes());
        self.put(b"\r\n");
    }

    /// Prints bytes.
    pub fn put(&self, bytes: &[u8]) {
        if self.shared.mute.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.shared.waiting();
        waiting.extend(bytes);
        let over = waiting.len().saturating_sub(BACKLOG);
        waiting.drain(..over);
        drop(waiting);
        self.shared.more.notify_one();
    }

    /// Whether nothing comes out any more.
    pub fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::Relaxed);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn some(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        let n = waiting.len().min(4096);
        waiting.drain(..n).collect()
    }
}

async fn serve(
    master: AsyncFd<File>,
    slave: std::os::fd::OwnedFd,
    shared: Arc<Shared>,
    typed: mpsc::Sender<Vec<u8>>,
) {
    let mut pending: Vec<u8> = Vec::new();
    let mut buf = [0; 1024];
    loop {
        if pending.is_empty() {
            pending = shared.some();
        }
        tokio::select! {
            got = master.async_io(Interest::READABLE, |mut m| m.read(&mut buf)) => match got {
                Ok(n) if n > 0 => drop(typed.try_send(buf[..n].to_vec())),
                // The other end is held open by ourselves, so this is the end of the terminal.
                _ => break,
            },
            done = master.async_io(Interest::WRITABLE, |mut m| m.write(&pending)), if !pending.is_empty() => match done {
                Ok(n) => drop(pending.drain(..n)),
                Err(_) => break,
            },
            () = shared.more.notified(), if pending.is_empty() => {}
        }
    }
    drop(slave);
}
