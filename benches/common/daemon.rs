//! A daemon of our own, with as many machines as wanted, that may be killed.

use anyhow::{Context, Result, bail};
use pitstop_client::Client;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest a start may take.
const START: Duration = Duration::from_secs(60);
/// Clock ticks per second of the times in `/proc/PID/stat`: the kernel's
/// interface fixes it, whatever its own clock does.
const TICKS: f64 = 100.0;

/// A lab in a directory of its own.
pub struct Daemon {
    dir: TempDir,
    /// Elsewhere, since paths of sockets have 107 bytes at most.
    sockets: TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// A lab of `machines` machines that have nothing to switch and nothing
    /// to prove. Its data are under `scratch`; nothing runs yet.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new(scratch: &Path, machines: usize) -> Result<Self> {
        Self::of(scratch, &inventory(machines))
    }

    /// The lab of this inventory.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn of(scratch: &Path, inventory: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(scratch)?;
        let sockets = tempfile::Builder::new().prefix("pb").tempdir()?;
        std::fs::write(dir.path().join("inventory.toml"), inventory)?;
        Ok(Self { dir, sockets, child: None })
    }

    /// Starts the daemon and waits until it serves; the time that took.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let inventory = self.dir.path().join("inventory.toml");
        let mut child = self
            .command(&["serve", "--inventory"])
            .arg(inventory)
            .env("PITSTOP_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the daemon cannot be started")?;
        note_pid(child.id())?;
        let serves = self.keep_log(&mut child)?;
        self.child = Some(child);
        if serves.recv_timeout(START).is_err() {
            bail!("the daemon does not serve:\n{}", self.log());
        }
        Ok(began.elapsed())
    }

    /// Keeps what the daemon says; tells when it says that it serves.
    fn keep_log(&self, child: &mut Child) -> Result<Receiver<()>> {
        let stderr = child.stderr.take().context("the daemon has no standard error")?;
        let mut log = File::options().create(true).append(true).open(self.dir.path().join("log"))?;
        let (told, serves) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.starts_with("lab ") {
                    let _ = told.send(());
                }
                let _ = writeln!(log, "{line}");
            }
        });
        Ok(serves)
    }

    /// What daemons of this lab said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Accepts all its machines.
    ///
    /// # Errors
    /// What the daemon answered.
    pub async fn enrol(&self, machines: usize) -> Result<()> {
        let all = pitstop_client::api::Enrol { select: "kind=bench".to_owned(), count: Some(machines) };
        self.client().enrol(&all, None).await?;
        Ok(())
    }

    /// SIGKILL, as the kernel does it when memory is out.
    ///
    /// # Errors
    /// No daemon runs.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no daemon runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// `pitstop ARGS` towards this lab; `PITSTOP` names another program than
    /// the one that was built, to compare two.
    pub fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("PITSTOP").unwrap_or_else(|| env!("CARGO_BIN_EXE_pitstop").into());
        let mut command = Command::new(program);
        command.args(args).env("PITSTOP_SOCKET", self.socket()).env("PITSTOP_DATA", self.data());
        command
    }

    /// A client with connections of its own.
    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Where people's tools connect to.
    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("s")
    }

    /// Where the database is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its process.
    ///
    /// # Errors
    /// None runs.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).context("no daemon runs")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

fn inventory(machines: usize) -> String {
    let width = machines.to_string().len();
    format!(
        r#"format = 1
[lab]
name = "bench"
zone = "UTC"
[class.bench]
tags = {{ kind = "bench" }}
shared = true
after_build = "keep"
power.none = {{}}
console = {{}}
boot.power = {{}}
ready.agent = {{}}
[machine."m[{:0width$}-{machines}]"]
class = "bench"
"#,
        1
    )
}

/// Lets `run` end what we started if we cannot.
///
/// # Errors
/// The list cannot be written.
pub fn note_pid(pid: u32) -> Result<()> {
    let list = super::scratch()?.join("pids");
    writeln!(File::options().create(true).append(true).open(list)?, "{pid}")?;
    Ok(())
}

/// Processor seconds a process has used, all its threads together.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the name, which
    // is field 2, may contain anything, so we count from its end.
    let (_, after) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let mut times = after.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) else {
        bail!("/proc/{pid}/stat has no times");
    };
    Ok((user + system) as f64 / TICKS)
}

/// Memory of a process, now and at most so far, in MiB.
///
/// # Errors
/// It is gone.
pub fn memory(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no such field")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
