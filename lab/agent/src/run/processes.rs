//! Child processes, each leader of a process group of its own.
//!
//! The table and the reaping share one lock. A process id may be used again by the kernel as soon as it
//! is reaped, so a signal must never be sent to an id that somebody reaps at the same moment.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pitstop_wire::run::{Command, End};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

/// The environment and directory that commands start in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Replaces the agent's own environment; `None` inherits it.
    pub(crate) env: Option<Vec<(String, String)>>,
    /// Where a command without a directory of its own starts.
    pub(crate) home: Option<String>,
}

/// The commands that run, by the engine's number.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    table: Mutex<HashMap<u64, Pid>>,
    changed: Condvar,
}

impl Processes {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Pid>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command. The error is for the person who asked for it.
    pub(crate) fn spawn(
        &self,
        key: u64,
        command: &Command,
        around: &Surroundings,
        [stdin, stdout, stderr]: [OwnedFd; 3],
    ) -> Result<Pid, String> {
        let [program, args @ ..] = command.argv.as_slice() else {
            return Err("the command has no program name".into());
        };
        let mut child = std::process::Command::new(program);
        child.args(args).process_group(0);
        if let Some(env) = &around.env {
            child.env_clear().envs(env.iter().map(|(k, v)| (k, v)));
        }
        child.envs(command.env.iter().map(|(k, v)| (k, v)));
        child.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        let dir = command.cwd.as_ref().or(around.home.as_ref());
        if let Some(dir) = dir {
            // Else a missing directory reads like a missing program.
            if !Path::new(dir).is_dir() {
                return Err(format!("cannot run {program:?}: there is no directory {dir:?}"));
            }
            child.current_dir(dir);
        }
        // Held over the fork: whoever reaps must find the process in the table.
        let mut table = self.table();
        let child = child.spawn().map_err(|e| format!("cannot run {program:?}: {e}"))?;
        let pid = Pid::from_child(&child);
        table.insert(key, pid);
        self.changed.notify_all();
        Ok(pid)
    }

    /// Signals a command's process group. Nothing happens if it has ended.
    pub(crate) fn signal(&self, key: u64, signal: i32) -> Result<(), String> {
        let named = Signal::from_named_raw(signal).ok_or_else(|| format!("there is no signal {signal}"))?;
        match self.table().get(&key) {
            None => Ok(()),
            Some(&pid) => rustix::process::kill_process_group(pid, named)
                .map_err(|e| format!("signal {signal} to process group {pid}: {e}")),
        }
    }

    /// Waits until the command with this number ends.
    pub(crate) fn wait(&self, key: u64, pid: Pid) -> End {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match rustix::process::waitid(WaitId::Pid(pid), peek) {
                Err(Errno::INTR) => continue,
                Err(e) => return self.lost(key, e),
                Ok(_) => {}
            }
            let mut table = self.table();
            match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => {
                    table.remove(&key);
                    self.changed.notify_all();
                    return end_of(status);
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(e) => {
                    drop(table);
                    return self.lost(key, e);
                }
            }
        }
    }

    fn lost(&self, key: u64, error: Errno) -> End {
        self.table().remove(&key);
        self.changed.notify_all();
        End::Failed { reason: format!("nobody can say how it ended (waitid: {error})") }
    }

    /// For the first process of a system: reaps children, also those it inherited, until there are none,
    /// and reports each command's end.
    pub(crate) fn reap_all(&self, mut ended: impl FnMut(u64, End)) {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match rustix::process::waitid(WaitId::All, peek) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            let mut table = self.table();
            let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else { continue };
            let key = table.iter().find_map(|(&key, &p)| (p == pid).then_some(key));
            if let Some(key) = key {
                table.remove(&key);
                drop(table);
                self.changed.notify_all();
                ended(key, end_of(status));
            }
        }
    }

    /// Waits until a command runs.
    pub(crate) fn wait_for_one(&self) {
        let mut table = self.table();
        while table.is_empty() {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends every command: SIGTERM, and SIGKILL for those that are left after `grace`.
    pub(crate) fn end_all(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut table = self.table();
        signal_each(&table, Signal::TERM);
        while !table.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                signal_each(&table, Signal::KILL);
                return;
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn signal_each(table: &HashMap<u64, Pid>, signal: Signal) {
    for &pid in table.values() {
        // ESRCH means that it just ended, which is what is wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

fn end_of(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Exit { code },
        (None, Some(signal)) => End::Signal { signal },
        (None, None) => End::Failed { reason: format!("ended with unknown status {}", status.as_raw()) },
    }
}
