//! A USB hub: a script that says and prints what uhubctl 2.5 does, with ports
//! that are files. No hub can be simulated where there is no USB.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What is at `tests/lab/uhubctl`, copied beside the files that its ports are.
const SCRIPT: &str = include_str!("../../../../tests/lab/uhubctl");

/// The hub's files.
pub struct Hub {
    dir: PathBuf,
}

impl Hub {
    /// One whose ports are off, with its files in `dir`.
    pub fn new(dir: &Path) -> Self {
        let hub = Self { dir: dir.join("hub") };
        std::fs::create_dir_all(&hub.dir).unwrap();
        std::fs::write(hub.command(), SCRIPT).unwrap();
        std::fs::set_permissions(hub.command(), std::fs::Permissions::from_mode(0o700)).unwrap();
        hub
    }

    /// The script.
    pub fn command(&self) -> PathBuf {
        self.file("uhubctl")
    }

    /// A file of the hub.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The arguments of each call so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}
