//! The store's way with files: locked, synced, bounded.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Manifest, Result, StoreError, io_at};

/// No manifest is longer; a longer file is damage or mischief.
const MAX_MANIFEST: u64 = 64 << 10;

/// An advisory lock on a directory, given back by dropping it or by dying.
pub(super) struct Lock {
    _dir: File,
}

impl Lock {
    pub(super) fn exclusive(dir: &Path) -> Result<Self> {
        Self::take(dir, FlockOperation::LockExclusive)
    }

    pub(super) fn shared(dir: &Path) -> Result<Self> {
        Self::take(dir, FlockOperation::LockShared)
    }

    /// `None` when someone else holds it.
    pub(super) fn try_exclusive(dir: &Path) -> Result<Option<Self>> {
        match Self::take(dir, FlockOperation::NonBlockingLockExclusive) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    fn take(dir: &Path, how: FlockOperation) -> Result<Self> {
        let file = File::open(dir).map_err(io_at("open", dir))?;
        loop {
            match rustix::fs::flock(&file, how) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(io_at("lock", dir)(e.into())),
                Ok(()) => return Ok(Self { _dir: file }),
            }
        }
    }
}

/// A directory of its own under `tmp`, gone when dropped. While it exists no
/// other process clears `tmp`.
pub(super) struct TempDir {
    path: PathBuf,
    _lock: Lock,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl TempDir {
    pub(super) fn new(tmp: &Path) -> Result<Self> {
        let lock = Lock::shared(tmp)?;
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{}-{n}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                // Left by a dead process that had our number.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_at("make", &path)(e)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // It is not there after a successful publication. Where removing fails,
        // the next open of the store does it and reports what stands in the way.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// Makes a rename or removal in `dir` outlive a power loss.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at("sync", dir))
}

/// A new file with this content, on stable storage.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(io_at("write", path))
}

/// The names in a directory; such that are not UTF-8 are none of ours.
pub(super) fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_at("list", dir))? {
        let entry = entry.map_err(io_at("list", dir))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Reads a file of at most `limit` bytes; `None` when there is none.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_at("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_at("read", path))?;
    if bytes.len() as u64 > limit {
        let why = format!("it is longer than {limit} bytes");
        return Err(StoreError::Damaged { path: path.to_owned(), why });
    }
    Ok(Some(bytes))
}

pub(super) fn read_manifest(path: &Path) -> Result<Option<Manifest>> {
    let Some(bytes) = read_bounded(path, MAX_MANIFEST)? else { return Ok(None) };
    let damaged = |why| StoreError::Damaged { path: path.to_owned(), why };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if manifest.version != 1 {
        return Err(damaged(format!("record version {} is not known", manifest.version)));
    }
    Ok(Some(manifest))
}
