//! The computer that figures belong to.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Filesystems that keep nothing when the power goes: figures about
/// durability would mean nothing on them.
const MEMORY_ONLY: [&str; 2] = ["tmpfs", "ramfs"];

/// What is to be said beside every figure.
#[derive(Debug, Clone)]
pub struct Place {
    cores: usize,
    memory_gib: f64,
    filesystem: String,
    device: String,
}

impl Place {
    /// The computer, and the disk that `dir` is on.
    ///
    /// # Errors
    /// The directory is not on a disk.
    pub fn of(dir: &Path) -> Result<Self> {
        let (filesystem, device) = mount(dir)?;
        if MEMORY_ONLY.contains(&filesystem.as_str()) {
            bail!("{} is on {filesystem}, which is no disk", dir.display());
        }
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self { cores, memory_gib: memory_kib()? / f64::from(1 << 20), filesystem, device })
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores, "memory_gib": (self.memory_gib * 10.0).round() / 10.0,
            "filesystem": self.filesystem, "device": self.device,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, memory_gib, filesystem, device } = self;
        write!(f, "{cores} cores, {memory_gib:.0} GiB, {filesystem} on {device}")
    }
}

/// The filesystem of `dir` and what it is on, as proc_pid_mountinfo(5) has it:
/// `36 35 98:0 /root /mount/point options - ext4 /dev/vda options`.
fn mount(dir: &Path) -> Result<(String, String)> {
    let dir = dir.canonicalize()?;
    let device = std::fs::metadata(&dir)?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let found = table.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        (mount.split(' ').nth(2)? == number).then_some((kind.next()?.to_owned(), kind.next()?.to_owned()))
    });
    found.with_context(|| format!("no mount has {}", dir.display()))
}

fn memory_kib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

/// Processes that ran or wanted to run, on average of the last minute.
///
/// # Errors
/// `/proc` is not there.
pub fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
