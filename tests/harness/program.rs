//! The program in processes of its own.

use super::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code, 128 and the signal's number, or -1 if it had to be killed.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

/// A process that runs, killed when dropped. What it prints is read all the
/// time, so that it never waits for us.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let (seen, stderr) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (keep_out, keep_err) = (Arc::clone(&seen), Arc::clone(&stderr));
        let readers = vec![
            read(out, move |line| {
                keep_out.lock().unwrap().push_str(line);
                // Whoever does not listen is not told.
                let _ = send.send(line.trim_end().to_owned());
            }),
            read(err, move |line| keep_err.lock().unwrap().push_str(line)),
        ];
        Self { child, lines, seen, stderr, readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output; `None`: there is none any more.
    pub fn line(&self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "it printed nothing for {} s; before: {}{}",
                    PATIENCE.as_secs(),
                    self.stdout(),
                    self.stderr()
                )
            }
        }
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits for a line of standard error; `None` if the process ends first,
    /// or is too slow.
    pub fn until_stderr(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        until(&mut || {
            // Looked at in this order: what was said before the end counts.
            let ended = self.child.try_wait().unwrap().is_some();
            let line = self.stderr().lines().find(|l| wanted(l)).map(str::to_owned);
            if line.is_none() && ended { Some(None) } else { line.map(Some) }
        })
        .flatten()
    }

    /// Types bytes into its standard input.
    pub fn type_in(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: its code, or `None` if it had to be killed.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        let ended = until(&mut || self.child.try_wait().unwrap());
        if ended.is_none() {
            assert!(Instant::now() > deadline);
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        ended.map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Waits for its end, not for those of its children that still print.
    pub fn wait_alone(&mut self) {
        assert!(until(&mut || self.child.try_wait().unwrap()).is_some(), "it does not end");
    }

    /// Ends its input and waits for its end.
    pub fn finish(mut self) -> Done {
        drop(self.child.stdin.take());
        let code = self.wait().unwrap_or(-1);
        Done { code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(from: impl Read + Send + 'static, mut take: impl FnMut(&str) + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            take(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// SIGKILL for a process that was left over.
pub fn kill(id: u32) {
    // Gone already is what we want.
    let _ = kill_process(pid(id), Signal::KILL);
}

/// Living processes with their command lines.
pub fn processes() -> impl Iterator<Item = (u32, String)> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        // Empty for zombies and threads of the kernel.
        let command = std::fs::read(entry.path().join("cmdline")).ok().filter(|c| !c.is_empty())?;
        Some((id, String::from_utf8_lossy(&command).replace('\0', " ")))
    })
}
