//! Programs that a driver runs and waits for.
//!
//! No shell looks at the arguments. A program has a deadline and runs in a
//! process group of its own, which is killed as a whole: a script's `sleep`
//! must not outlive the script.

use crate::error::DriverError;
use crate::host::HostError;
use pitstop_wire::agent::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long output is waited for once the program itself has ended.
const LEFTOVERS: Duration = Duration::from_millis(200);
/// Bytes of a program's output that are looked at.
pub(crate) const MAX_OUTPUT: u64 = 64 << 10;
/// What a program gets of our environment.
const KEPT: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "LANG",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "PITSTOP_TESTS_RUN",
];
/// Characters of a line that is shown to people.
const MAX_LINE: usize = 200;

/// A program to be run.
pub struct Program<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// A variable more in its environment, for a secret: arguments are
    /// everybody's to see.
    pub secret: Option<(&'a str, &'a Secret)>,
    /// How long it may take.
    pub limit: Duration,
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Why there is no end to tell of.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("{0}")]
    Start(io::Error),
    /// It did not end; it was killed, with everything it started.
    #[error("not done within {} s; it was killed", .0.as_secs_f32())]
    Late(Duration),
    /// The bench host has had no place for it until then.
    #[error("every place of the bench host was taken for {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// It could not be waited for.
    #[error("{0}")]
    Wait(io::Error),
    /// The bench host it was to run on.
    #[error("{0}")]
    Host(HostError),
    /// A file that it was to be given could not be read: ours.
    #[error("a file for it could not be read: {0}")]
    Source(io::Error),
    /// A file that it was to be given could not be stored where it runs.
    #[error("a file for it could not be stored on {0}")]
    Store(String),
}

impl Program<'_> {
    /// Runs it to its end. Dropped before that, it is killed.
    ///
    /// # Errors
    /// [`RunError`]
    pub async fn run(&self) -> Result<Ran, RunError> {
        let mut group = Group { child: self.command().spawn().map_err(RunError::Start)? };
        match timeout(self.limit, group.finish()).await {
            Ok(ran) => ran.map_err(RunError::Wait),
            Err(_) => Err(RunError::Late(self.limit)),
        }
    }

    /// The command, with its output to be read and no input.
    pub fn command(&self) -> Command {
        self.plain().into()
    }

    /// The same, for who waits for it on a thread.
    pub fn plain(&self) -> std::process::Command {
        let (program, args) = self.argv.split_first().map_or(("", &[][..]), |(p, args)| (p.as_str(), args));
        let mut command = std::process::Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // Secrets of other devices may be in our own environment. Messages
        // are read, so they are wanted in one language.
        command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("LC_ALL", "C");
        if let Some((name, Secret(value))) = self.secret {
            command.env(name, value);
        }
        command
    }
}

impl RunError {
    /// The same, as what a driver could not do.
    pub fn into_driver(self, driver: &'static str, attempted: impl Into<String>) -> DriverError {
        let failed = |answer: &dyn std::fmt::Display| DriverError::new(driver, attempted, answer);
        match self {
            Self::Start(e) if never_starts(&e) => {
                failed(&e).permanent().over().next("is it installed, and executable?")
            }
            Self::Start(e) => failed(&e).over(),
            Self::Host(HostError { host, what, permanent, next }) => {
                DriverError { permanent, next, ..failed(&format_args!("host {host}: {what}")) }
            }
            e => failed(&e),
        }
    }
}

/// Whether a program that could not be started cannot be tomorrow either: it
/// is not there, or may not be run. Anything else, too many open files say,
/// passes.
pub fn never_starts(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// The first line that says something, short enough to be shown.
pub fn first_line(output: &str) -> String {
    let said = output.lines().map(str::trim).find(|line| !line.is_empty());
    shown(said.unwrap_or("it printed nothing"))
}

/// What a program or a device said, fit for an error: one line, without
/// control characters.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect()
}

/// A program with everything it started; all of it ends with this.
pub struct Group {
    /// The program itself.
    pub child: Child,
}

impl Group {
    async fn finish(&mut self) -> io::Result<Ran> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        // Only the program itself is waited for: something it left in the
        // background may hold its output open for ever.
        let status = {
            let reading = async { tokio::join!(read(stdout, &mut out), read(stderr, &mut err)) };
            tokio::pin!(reading);
            let (status, read) = tokio::select! {
                status = self.child.wait() => (status?, false),
                _ = &mut reading => (self.child.wait().await?, true),
            };
            if !read {
                let _ = timeout(LEFTOVERS, reading).await;
            }
            status
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { status, out: text(out), err: text(err) })
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(from) = from {
        // What can be read of it is looked at; that is all there is to do.
        let mut from = from.take(MAX_OUTPUT);
        let _ = from.read_to_end(into).await;
        // The rest is nobody's; but a program whose output nobody takes is
        // stopped by that.
        let _ = tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is there until the program was waited for, so the number is
        // still its own; what it left behind in its group is not ours to find
        // after that.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn both_outputs_and_the_end_are_told() {
        let argv = sh("echo out; echo err >&2; exit 3");
        let ran = Program { argv: &argv, secret: None, limit: Duration::from_secs(20) }.run().await.unwrap();
        assert_eq!((ran.status.code(), ran.out.trim(), ran.err.trim()), (Some(3), "out", "err"));
    }

    #[tokio::test]
    async fn a_secret_is_in_the_environment_and_in_no_argument() {
        let argv = sh("tr '\\0' ' ' </proc/$$/cmdline; printf '%s' \"$WORD\"");
        let word = Secret("hunter2".into());
        let program = Program { argv: &argv, secret: Some(("WORD", &word)), limit: Duration::from_secs(20) };
        let ran = program.run().await.unwrap();
        assert_eq!(ran.out.matches("hunter2").count(), 1, "{}", ran.out);
        assert!(ran.out.ends_with("hunter2"));
    }

    #[tokio::test]
    async fn a_program_that_prints_more_than_is_kept_comes_to_its_end() {
        let argv = sh("yes out | head -c 3000000; yes err | head -c 3000000 >&2; exit 4");
        let ran = Program { argv: &argv, secret: None, limit: Duration::from_secs(60) }.run().await.unwrap();
        let kept = usize::try_from(MAX_OUTPUT).unwrap();
        assert_eq!((ran.status.code(), ran.out.len(), ran.err.len()), (Some(4), kept, kept));
    }

    #[test]
    fn what_is_shown_is_one_short_line_without_control_characters() {
        assert_eq!(first_line("\n  \n  a\u{1b}]52;c\u{7}b \nc"), "a]52;cb");
        assert_eq!(first_line(" \n"), "it printed nothing");
        assert_eq!(first_line(&"x".repeat(5000)).len(), MAX_LINE);
    }
}
