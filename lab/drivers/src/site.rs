//! Where a driver works: one machine of one daemon.

use crate::error::DriverError;
use crate::host::Hosts;
use pitstop_core::inventory::{DriverSpec, MachineSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest path a Unix socket may have (`sun_path` of unix(7), less its NUL).
pub const MAX_SOCKET_PATH: usize = 107;

/// What a driver gets to know besides its own fields.
#[derive(Debug, Clone)]
pub struct Site {
    /// The machine as the inventory has it.
    pub spec: Arc<MachineSpec>,
    /// A directory of this machine's own, mode 0700, for sockets, disks and
    /// logs that outlive the daemon.
    pub state: PathBuf,
    /// The `pitstop` program, to start simulated machines with.
    pub program: PathBuf,
    /// Where the boot agent's `vmlinuz` and `initrd` are.
    pub agent: PathBuf,
    /// Port of the boot files' listener, where there is one.
    pub boot_port: Option<u16>,
    /// Address under which machines reach this daemon, without a port.
    pub address: String,
    /// The inventory's bench hosts.
    pub hosts: Arc<Hosts>,
    /// The inventory's controllers.
    pub controllers: Arc<BTreeMap<String, DriverSpec>>,
}

impl Site {
    /// The machine's name.
    pub fn name(&self) -> &str {
        self.spec.name.as_str()
    }

    /// Makes the machine's directory, for nobody but us.
    pub fn make_state(&self, driver: &'static str) -> Result<(), DriverError> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state).map_err(|e| {
            DriverError::new(driver, format!("make {}", self.state.display()), e)
                .next("the daemon's data directory must be writable")
        })
    }

    /// A socket in the machine's directory, if its path is not too long.
    pub fn socket(&self, driver: &'static str, name: &str) -> Result<PathBuf, DriverError> {
        socket_path(driver, &self.state, name)
    }
}

/// `directory/name`, if a socket can have that path.
pub fn socket_path(driver: &'static str, directory: &Path, name: &str) -> Result<PathBuf, DriverError> {
    let path = directory.join(name);
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH {
        return Err(DriverError::new(
            driver,
            format!("use the socket {}", path.display()),
            format!("its path has {len} bytes, a socket's may have {MAX_SOCKET_PATH}"),
        )
        .permanent()
        .next("give the daemon a data directory with a shorter path"));
    }
    Ok(path)
}
