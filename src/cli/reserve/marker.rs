//! How a session's command says that it gave the machines back itself, so
//! that their end is no loss to it.

use super::super::Result;
use super::super::fail::Fail;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The file that `release` makes.
pub const VARIABLE: &str = "PITSTOP_SESSION_RELEASED";

/// The session's side: a place that only this user can write to.
pub struct Marked {
    dir: tempfile::TempDir,
}

impl Marked {
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pitstop-session-").tempdir();
        let dir = dir.map_err(|e| Fail::internal(format!("no temporary directory can be made: {e}")))?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("released")
    }

    /// Whether the command said so.
    pub fn left(&self) -> bool {
        self.path().exists()
    }
}

/// The side of `release`: made before it is asked for, since the session
/// hears of the end at once.
pub struct Marker {
    path: Option<PathBuf>,
}

impl Marker {
    /// Says it, if it is this session's reservation.
    pub fn leave(id: &str) -> Self {
        let ours = std::env::var("PITSTOP_RESERVATION").is_ok_and(|ours| ours == id);
        let path = std::env::var_os(VARIABLE).filter(|_| ours).map(PathBuf::from);
        // Where it cannot be said, the session ends its command: as ever.
        Self { path: path.filter(|p| make(p)) }
    }

    /// It was not released after all.
    pub fn take_back(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn make(path: &Path) -> bool {
    OpenOptions::new().write(true).create_new(true).open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_heard_until_it_is_taken_back() {
        let marked = Marked::new().unwrap();
        assert!(!marked.left());
        assert!(make(&marked.path()) && marked.left());
        assert!(!make(&marked.path()), "it is said once");
        Marker { path: Some(marked.path()) }.take_back();
        assert!(!marked.left());
    }
}
