//! Processes that outlive the daemon, and the care it takes to end only those.

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// A process that was looked at and found to be the one meant. The handle
/// stays with that process, so a recycled number can never be signalled.
#[derive(Debug)]
pub struct Verified {
    fd: OwnedFd,
    /// Its number, for people.
    pub pid: i32,
}

impl Verified {
    /// The process `pid`, if its command line satisfies `is`. `None` if there
    /// is no such process or it is another one.
    pub fn find(pid: i32, is: impl FnOnce(&[String]) -> bool) -> Option<Self> {
        let handle = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Opened before the command line is read: if the number was recycled
        // in between, the command line read is the newcomer's or the handle is.
        let line = command_line(pid)?;
        (is(&line) && alive(&handle)).then_some(Self { fd: handle, pid })
    }

    /// Sends a signal. That it is gone already is fine.
    pub fn signal(&self, signal: Signal) -> Result<(), std::io::Error> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has ended; false if it still lives after `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        let Ok(fd) = self.fd.as_fd().try_clone_to_owned() else { return !alive(&self.fd) };
        let Ok(fd) = crate::watched::readable(fd) else { return !alive(&self.fd) };
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        tokio::time::timeout(limit, fd.readable()).await.is_ok() || !alive(&self.fd)
    }
}

fn alive(handle: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// The arguments a process was started with.
pub fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let parts = bytes.split(|b| *b == 0).map(|p| String::from_utf8_lossy(p).into_owned());
    Some(parts.filter(|p| !p.is_empty()).collect())
}

/// Whether some process holds an exclusive `flock` on the file. A file that
/// is not there is held by nobody.
pub fn flocked(path: &Path) -> Result<bool, std::io::Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn a_stranger_under_the_same_number_is_never_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(Verified::find(pid, |line| line.iter().any(|a| a == "qemu")).is_none());
        // exec may not have happened yet: ask until the name is there.
        let found = loop {
            if let Some(v) = Verified::find(pid, |line| line.first().is_some_and(|a| a == "sleep")) {
                break v;
            }
            tokio::task::yield_now().await;
        };
        assert!(!found.ended(Duration::from_millis(1)).await);
        found.signal(Signal::KILL).unwrap();
        assert!(found.ended(Duration::from_secs(20)).await);
        child.wait().unwrap();
        found.signal(Signal::KILL).unwrap();
        assert!(Verified::find(pid, |_| true).is_none());
    }

    #[test]
    fn a_lock_is_seen_only_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        assert!(!flocked(&path).unwrap());
        let file = File::create(&path).unwrap();
        assert!(!flocked(&path).unwrap());
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(flocked(&path).unwrap());
        drop(file);
        assert!(!flocked(&path).unwrap());
    }
}
