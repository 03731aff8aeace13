//! One daemon per data directory, one per inventory. The kernel lets go of
//! these locks when the process ends, however it ends.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// A lock that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon runs on the data directory.
    #[error("another pitstop{} runs on {}; stop it, or use --data with another directory", by(*.pid), .dir.display())]
    Data {
        /// The directory.
        dir: PathBuf,
        /// Who has it, if it can be told.
        pid: Option<u32>,
    },
    /// Another daemon runs the machines of this inventory.
    #[error("another pitstop{} runs the machines of {}; stop it, or use --inventory with another file", by(*.pid), .path.display())]
    Inventory {
        /// The file.
        path: PathBuf,
        /// Who has it, if it can be told.
        pid: Option<u32>,
    },
    /// The file cannot be locked at all.
    #[error("cannot lock {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// The data directory's, made if need be (for its owner alone).
    ///
    /// # Errors
    /// Another daemon has it, with its process id; or the directory cannot be used.
    pub fn data(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            let pid = read_pid(&mut file).or_else(|| kernel_says(&file));
            return Err(LockError::Data { dir: dir.to_owned(), pid });
        }
        write_pid(&mut file).map_err(failed)?;
        // Made by root for the daemon, whose directory it is: it must be able to take it.
        let (dir, own) = (std::fs::metadata(dir).map_err(failed)?, file.metadata().map_err(failed)?);
        if own.uid() == 0 && dir.uid() != 0 {
            fchown(&file, Some(dir.uid()), Some(dir.gid())).map_err(failed)?;
        }
        Ok(Self { file, path })
    }

    /// The data directory's, for somebody who only looks and leaves no trace;
    /// `None` where no daemon ever was.
    ///
    /// # Errors
    /// A daemon has it, or it cannot be read.
    pub fn looked_at(dir: &Path) -> Result<Option<Self>, LockError> {
        let path = dir.join("lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        if !try_lock(&file).map_err(failed)? {
            let pid = read_pid(&mut file).or_else(|| kernel_says(&file));
            return Err(LockError::Data { dir: dir.to_owned(), pid });
        }
        Ok(Some(Self { file, path }))
    }

    /// The inventory's. It is only read.
    ///
    /// # Errors
    /// Another daemon has it, or the file cannot be read.
    pub fn inventory(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            let pid = kernel_says(&file);
            return Err(LockError::Inventory { path: path.canonicalize().map_err(failed)?, pid });
        }
        // As it was given: a link may lead elsewhere at the next reload.
        Ok(Self { file, path: path.to_owned() })
    }

    /// Editors put a new file in the old one's place, and the lock stays
    /// with the old one. Called at every reload: locks the new file too.
    ///
    /// # Errors
    /// As [`Lock::inventory`]; the old lock is then kept.
    pub fn follow(&mut self) -> Result<(), LockError> {
        let failed = |source| LockError::File { path: self.path.clone(), source };
        let place = std::fs::metadata(&self.path).map_err(failed)?;
        let mine = self.file.metadata().map_err(failed)?;
        if (place.dev(), place.ino()) != (mine.dev(), mine.ino()) {
            *self = Self::inventory(&self.path)?;
        }
        Ok(())
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Who holds the lock according to /proc/locks; see proc(5).
fn kernel_says(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holder = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&inode)).then(|| pid.parse().ok())?
    });
    // 0: a process of another PID namespace.
    holder.filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_the_same_data_hears_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::data(dir.path()).unwrap();
        let words = Lock::data(dir.path()).unwrap_err().to_string();
        assert!(words.contains(&format!("(pid {})", std::process::id())), "{words}");
        assert!(words.contains("--data"), "{words}");
        drop(held);
        Lock::data(dir.path()).unwrap();
    }

    #[test]
    fn a_dead_daemons_longer_pid_leaves_no_digits_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "99999999999\n").unwrap();
        let _held = Lock::data(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("lock")).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
    }

    #[test]
    fn one_inventory_cannot_be_run_twice_by_two_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("inventory.toml");
        let link = dir.path().join("other.toml");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let held = Lock::inventory(&file).unwrap();
        let words = Lock::inventory(&link).unwrap_err().to_string();
        assert!(words.contains("inventory.toml") && words.contains("--inventory"), "{words}");
        drop(held);
        Lock::inventory(&link).unwrap();
    }

    #[test]
    fn a_replaced_inventory_is_locked_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("inventory.toml"), dir.path().join("new"));
        std::fs::write(&file, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        let mut held = Lock::inventory(&file).unwrap();
        std::fs::rename(&new, &file).unwrap();
        held.follow().unwrap();
        assert!(Lock::inventory(&file).is_err());
        held.follow().unwrap();
    }

    #[test]
    fn an_inventory_is_read_by_a_link_and_another_one_locked() {
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("v1.toml"), dir.path().join("v2.toml"));
        let (link, new) = (dir.path().join("inventory.toml"), dir.path().join("new"));
        std::fs::write(&v1, "1").unwrap();
        std::fs::write(&v2, "2").unwrap();
        std::os::unix::fs::symlink(&v1, &link).unwrap();
        let mut held = Lock::inventory(&link).unwrap();
        std::os::unix::fs::symlink(&v2, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        std::fs::remove_file(&v1).unwrap();
        held.follow().unwrap();
        assert!(Lock::inventory(&v2).is_err(), "the machines in it have two daemons");
    }

    #[test]
    fn a_missing_inventory_is_named() {
        let words = Lock::inventory(Path::new("/nonexistent/inv.toml")).unwrap_err().to_string();
        assert!(words.contains("/nonexistent/inv.toml"), "{words}");
    }
}
