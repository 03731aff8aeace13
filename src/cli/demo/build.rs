//! The demo's builds: `pitstop reserve … -- pitstop run …`, started as a CI
//! system would start it, in a process of its own.

use super::lab::IMAGE;
use crate::cli::fail::Fail;
use crate::cli::{Result, fail};
use pitstop_agent::sandbox::STEP;
use rustix::process::{Pid, Signal};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

/// First argument of a process that ends with the one that started it.
const WITH_PARENT: &str = "demo-child";
/// This very program, even if its file was replaced meanwhile.
const SELF: &str = "/proc/self/exe";
/// What every mark begins with.
pub const MARK: &str = "pitstop-demo-mark/";
/// Sectors that a build dirties: in what the image maps, in a hole of it,
/// and behind its end.
pub const PLACES: [u64; 3] = [6_000, 12_001, 30_000];

/// If this process is to end with its parent, becomes the program it stands
/// for. `main` calls this before it starts any thread.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != WITH_PARENT {
        return None;
    }
    // Kept over exec (prctl(2), PR_SET_PDEATHSIG).
    let error = match rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => std::process::Command::new(SELF).args(args).exec(),
        Err(e) => e.into(),
    };
    eprintln!("{WITH_PARENT}: {error}");
    Some(ExitCode::from(fail::INTERRUPTED))
}

/// Something a build did.
#[derive(Debug)]
pub enum FromBuild {
    /// A line on its standard output.
    Said(String),
    /// A line on its standard error.
    Complained(String),
    /// It is over.
    Ended(ExitStatus),
}

/// A build that runs. Dropped, it is killed.
pub struct Build {
    pid: Option<Pid>,
    stdin: Option<ChildStdin>,
    task: JoinHandle<()>,
}

impl Drop for Build {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a build is started with.
pub struct Plan<'a> {
    /// Its name, which is the reservation's reason too.
    pub name: &'a str,
    /// Which machines will do.
    pub select: &'a str,
    /// What it leaves on the disk.
    pub mark: String,
    /// Silence after which its session is lost, such as `2s`.
    pub silence: &'a str,
    /// Whether this host lets commands have namespaces.
    pub sandbox: bool,
}

impl Plan<'_> {
    /// Starts it; what it does arrives in `told`. Must be called on the main
    /// thread: the process ends with the thread that started it.
    pub fn start(&self, socket: &Path, told: UnboundedSender<FromBuild>) -> Result<Build> {
        let mut command = Command::new(SELF);
        command
            .args([WITH_PARENT, "reserve", self.select, "--image", IMAGE, "--reason", self.name])
            .args(["--silence", self.silence, "--color", "never", "--", SELF, WITH_PARENT, "run", "--"])
            .args(self.on_the_machine())
            .env("PITSTOP_SOCKET", socket)
            // The one that is killed cannot take its temporary files with it.
            .env("TMPDIR", socket.parent().unwrap_or(Path::new("/tmp")))
            .env_remove("PITSTOP_MACHINE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A ctrl-C on the terminal is for the demo, which ends its builds.
            .process_group(0)
            .kill_on_drop(true);
        let failed = |e: std::io::Error| Fail::internal(format!("{} cannot be started: {e}", self.name));
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stdin = child.stdin.take();
        Ok(Build { pid, stdin, task: tokio::spawn(listen(child, told)) })
    }

    /// What runs on the machine: dirties its disk, says so, and ends with its
    /// input, so that the demo can say when.
    fn on_the_machine(&self) -> Vec<String> {
        let places = PLACES.map(|sector| sector.to_string());
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let mut argv = if self.sandbox { words(&["sh", "-c", SCRIPT, "sh"]) } else { words(&[STEP]) };
        argv.push(self.mark.clone());
        argv.extend(places);
        argv
    }
}

const SCRIPT: &str = r#"set -e
mark=$1; shift
for sector; do printf %s "$mark" | dd of="$PITSTOP_DISK" bs=512 seek="$sector" conv=notrunc 2>/dev/null; done
echo "$# marks left on the disk"
cat >/dev/null"#;

impl Build {
    /// Lets it come to its end.
    pub fn finish(&mut self) {
        self.stdin = None;
    }

    /// As `kill -9` does.
    pub fn kill(&self) -> Result {
        let gone = || Fail::internal("the build that was to be killed has ended already");
        let pid = self.pid.ok_or_else(gone)?;
        rustix::process::kill_process(pid, Signal::KILL).map_err(|_| gone())
    }
}

async fn listen(mut child: Child, told: UnboundedSender<FromBuild>) {
    let out = child.stdout.take().map(|out| lines(out, told.clone(), FromBuild::Said));
    let err = child.stderr.take().map(|err| lines(err, told.clone(), FromBuild::Complained));
    let read = async {
        tokio::join!(maybe(out), maybe(err));
    };
    // Its own child may hold the pipes for a moment longer than it lives.
    let (status, ()) = tokio::join!(child.wait(), read);
    // Nobody listens only when the demo itself ends.
    let _ = told.send(FromBuild::Ended(status.unwrap_or_else(|_| ExitStatus::from_raw(0x7f00))));
}

async fn maybe(work: Option<impl Future<Output = ()>>) {
    if let Some(work) = work {
        work.await;
    }
}

async fn lines(
    from: impl AsyncRead + Unpin,
    told: UnboundedSender<FromBuild>,
    what: fn(String) -> FromBuild,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if told.send(what(line)).is_err() {
            return;
        }
    }
}
