//! What is said on a simulated machine's control socket: one request as a
//! line of JSON, one reply as a line of JSON, then the connection is closed.

use pitstop_wire::agent::AgentParams;
use serde::{Deserialize, Serialize};

/// Name of the control socket in the machine's directory.
pub const SOCKET: &str = "control";
/// Name of the machine's description in its directory.
pub const CONFIG: &str = "machine.json";
/// Longest line either side accepts, in bytes.
pub const MAX_LINE: u64 = 64 << 10;

/// How a simulated machine is built; written once, before its process starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// Its power legs; it runs while all of them are on.
    pub legs: Vec<String>,
    /// Its serial lines; the first one is the system's console.
    pub consoles: Vec<String>,
    /// Its disks, the one it boots from first.
    pub disks: Vec<DiskConfig>,
    /// How long firmware and kernel take each, in milliseconds.
    pub boot_ms: u64,
    /// Faults from the start, as the inventory writes them.
    pub faults: Vec<String>,
}

/// A disk of a simulated machine: a file in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Its name, which is also its serial number.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl DiskConfig {
    /// Name of its file in the machine's directory.
    pub fn file(&self) -> String {
        format!("disk-{}.img", self.name)
    }
}

/// Name of a serial line's device in the machine's directory.
pub fn console_file(console: &str) -> String {
    format!("console-{console}")
}

/// What the machine is to boot when it is switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Boot {
    /// Its first disk.
    Disk,
    /// The boot agent, with these parameters.
    Agent {
        /// What the agent gets to know.
        params: AgentParams,
    },
    /// Whatever this address says.
    Network {
        /// An iPXE script by plain HTTP.
        url: String,
    },
}

/// Towards the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Switch a leg on.
    On {
        /// The leg.
        leg: String,
        /// What to boot.
        boot: Boot,
    },
    /// Switch a leg off.
    Off {
        /// The leg.
        leg: String,
    },
    /// Read a leg.
    Read {
        /// The leg.
        leg: String,
    },
    /// What the machine is doing.
    Status,
    /// What a tenant's `reboot` does: the power stays on.
    Reboot,
    /// From now on this goes wrong.
    Fault {
        /// The fault, as the inventory writes it.
        fault: String,
    },
    /// Nothing goes wrong any more.
    Heal,
    /// The machine is taken away: it switches off and its process ends.
    Stop,
}

/// From the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Answer to `read`: whether the leg is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What a simulated machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Number of its process.
    pub pid: u32,
    /// Its legs and whether they are on.
    pub legs: Vec<(String, bool)>,
    /// `off`, `firmware`, `agent`, `disk`, `hung`.
    pub doing: String,
    /// How often it was started so far; a tenant's reboot counts too.
    pub boots: u64,
    /// The boot it is in.
    pub boot_id: Option<String>,
    /// What goes wrong.
    pub faults: Vec<String>,
}
