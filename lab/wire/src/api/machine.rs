//! Machines.

use super::{Schema, Time};
use crate::name::{MachineName, UserName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// `pitstop.machine/1`
    pub schema: Schema,
    /// Its name.
    pub name: MachineName,
    /// Where it is, exactly.
    pub state: State,
    /// The same as people see it.
    pub shown: Shown,
    /// Since when it is in this state.
    pub since: Time,
    /// Whether it may be used, and who said no.
    pub health: HealthState,
    /// How clean its disks are.
    pub clean: Clean,
    /// What selectors see.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub tags: BTreeMap<String, serde_json::Value>,
    /// The same, as they were found and not typed. A typed one of the same
    /// name counts instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub found_tags: BTreeMap<String, serde_json::Value>,
    /// What its boot agent found last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// How that differs from what it was enrolled as.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Differs>,
    /// Who checks its wires: nobody gets it meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_by: Option<UserName>,
    /// Its class in the inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Anything else, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whose reservation has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// The turn under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnState>,
    /// The image it has or is to get, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its power legs.
    pub legs: Vec<LegState>,
    /// Its power is cut by its spare leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutState>,
    /// The circuit it hangs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<String>,
    /// Its disks.
    pub disks: Vec<DiskState>,
    /// Names of its consoles.
    pub consoles: Vec<String>,
    /// Its switches, with the positions each has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switches: BTreeMap<String, Vec<String>>,
    /// Its buttons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<String>,
    /// How pitstop chooses what boots: the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The agent that speaks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentState>,
    /// It is not given to anybody for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseState>,
    /// Turns begun so far.
    pub turns: u64,
    /// Turns that failed since the last good one.
    pub failures: u32,
}

/// Several machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machines {
    /// `pitstop.machines/1`
    pub schema: Schema,
    /// By name.
    pub machines: Vec<Machine>,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// At rest, nobody holds it.
    Free,
    /// Brought into the condition a reservation wants.
    Preparing,
    /// Prepared, for a reservation or warm.
    Ready,
    /// In the hands of its holder.
    InUse,
    /// Cleaned after a holder.
    Turnaround,
    /// On the way back from quarantine.
    Proving,
    /// Pitstop found it wanting.
    Quarantined,
    /// A person took it out.
    Drained,
    /// Gone from the inventory.
    Retired,
    /// Never enrolled.
    New,
    /// Free, but that an admin checks its wires.
    Checking,
}

/// A machine's state in the word people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Free.
    Free,
    /// On its way to an agent or an image.
    Booting,
    /// A disk is written or proven.
    Imaging,
    /// Prepared.
    Ready,
    /// In use.
    Held,
    /// Quarantined.
    Failed,
    /// On the way back from quarantine.
    Proving,
    /// Taken out by a person.
    Drained,
    /// Gone from the inventory.
    Retired,
    /// Never enrolled.
    New,
    /// Its wires are checked.
    Checking,
}

impl State {
    /// The word on the wire and in selectors.
    pub fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::InUse => "in-use",
            Self::Turnaround => "turnaround",
            Self::Proving => "proving",
            Self::Quarantined => "quarantined",
            Self::Drained => "drained",
            Self::Retired => "retired",
            Self::New => "new",
            Self::Checking => "checking",
        }
    }

    /// The state of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Free,
        Self::Preparing,
        Self::Ready,
        Self::InUse,
        Self::Turnaround,
        Self::Proving,
        Self::Quarantined,
        Self::Drained,
        Self::Retired,
        Self::New,
        Self::Checking,
    ];
}

impl Shown {
    /// The word people see. A failed machine shouts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Booting => "booting",
            Self::Imaging => "imaging",
            Self::Ready => "ready",
            Self::Held => "held",
            Self::Failed => "FAILED",
            Self::Proving => "proving",
            Self::Drained => "drained",
            Self::Retired => "retired",
            Self::New => "new",
            Self::Checking => "checking",
        }
    }

    /// A mark of width one that goes with the word, never instead of it.
    pub fn glyph(self) -> char {
        match self {
            Self::Free => '○',
            Self::Booting => '◐',
            Self::Imaging | Self::Proving | Self::Checking => '◒',
            Self::Ready => '✓',
            Self::Held => '●',
            Self::Failed => '✗',
            Self::Drained | Self::Retired => '‖',
            Self::New => '▲',
        }
    }

    /// The mark for terminals that know only ASCII.
    pub fn ascii(self) -> char {
        match self {
            Self::Free => '.',
            Self::Booting => '>',
            Self::Imaging | Self::Proving | Self::Checking => '~',
            Self::Ready => '+',
            Self::Held => '*',
            Self::Failed => 'X',
            Self::Drained | Self::Retired => '=',
            Self::New => '!',
        }
    }
}

/// What the boot agent found of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its architecture; empty where it was not told.
    pub arch: String,
    /// Processor cores; 0: not told.
    pub cores: u32,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in bytes, as the kernel counts it.
    pub memory: u64,
    /// Hardware addresses of its network cards.
    pub macs: Vec<String>,
    /// Versions of its firmware: `bios`, `ec`, `u-boot`.
    pub firmware: BTreeMap<String, String>,
    /// Its disks.
    pub disks: Vec<FoundDisk>,
}

/// A disk that the boot agent found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundDisk {
    /// The disk of the inventory that this is, by its name, where one fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its device.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How it is attached, in the inventory's words.
    pub bus: String,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its world-wide name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version of its firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
}

/// One thing of a machine that is not as it was when it was enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Differs {
    /// What, how it was, how it is.
    pub text: String,
    /// Another machine or disk, or memory gone: nothing is written there until
    /// somebody accepts it.
    pub grave: bool,
}

/// How clean a machine's disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// Every disk was read back since its last use.
    Proven,
    /// A command wrote it, and what another read back agreed: no proof.
    ByCommand,
    /// Handed over since.
    Used,
    /// An attempt may have written some of it.
    Writing,
    /// Nothing is known.
    Unknown,
}

impl Clean {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::ByCommand => "by-command",
            Self::Used => "used",
            Self::Writing => "writing",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether a machine may be used, and who said no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum HealthState {
    /// It may.
    Good,
    /// Never enrolled: observed only.
    New,
    /// Pitstop found it wanting.
    Quarantined {
        /// What kind of thing failed: `power`, `console`, `boot`, `network`,
        /// `agent`, `image`, `disk`, `build`, `health`, `drift`.
        class: String,
        /// In which phase.
        phase: String,
        /// What was attempted, what came back.
        evidence: String,
        /// When.
        at: Time,
        /// When it is proven again by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<Time>,
    },
    /// A person took it out.
    Drained {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Time,
    },
    /// Gone from the inventory.
    Retired,
}

/// A machine is not given to anybody for a while, since much of its class
/// failed at the same thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PauseState {
    /// What failed, in the words of [`HealthState::Quarantined`].
    pub cause: String,
    /// Until when.
    pub until: Time,
}

/// Whose a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    /// Who.
    pub user: UserName,
    /// The reservation, `R-17`.
    pub reservation: String,
    /// Why, in the holder's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Time>,
}

/// Where a turn is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnState {
    /// Number within the machine.
    pub number: u64,
    /// `prepare`, `turnaround`, `prove` or `look`.
    pub purpose: String,
    /// The phase: `off`, `start`, `boot agent`, `disk`, `hook`, `hand-over`,
    /// `evidence`, `check`, `settle`, `rest`.
    pub phase: String,
    /// The disk at work, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Whether that disk is being written, or only proven.
    pub writing: bool,
    /// Since when it is in this phase.
    pub phase_since: Time,
    /// Until when this phase may last.
    pub deadline: Time,
    /// When the turn began.
    pub started: Time,
    /// Number of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// Tries that failed so far.
    pub failed: u32,
}

/// A power leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LegState {
    /// `power`, `mains`.
    pub name: String,
    /// `on`, `off`, `unknown`, `assumed-on` or `assumed-off`.
    pub reading: String,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Commands that may still take effect.
    pub unsettled: usize,
    /// What it reads does not tell whether the machine is on: it is a spare
    /// leg that is not needed, or one whose power a spare leg has cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

/// A spare leg has cut a machine's power, since its first leg did not obey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CutState {
    /// Since when.
    pub since: Time,
    /// Which leg did not obey, and what it said.
    pub reason: String,
}

/// A disk and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskState {
    /// Its name.
    pub name: String,
    /// `unknown`, `writing`, `proven`, `by-command` or `used`.
    pub content: String,
    /// Digest of what was proven, or written by command; absent when it was proven zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<Time>,
    /// By which boot path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// When a command wrote it and another read it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_command: Option<Time>,
    /// The program that read it back, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Length of the image that was read back equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_bytes: Option<u64>,
    /// Bytes read back, for the proof or by the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes written before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
    /// Size of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// Which reservation used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// The agent that speaks for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentState {
    /// `boot` or `host`.
    pub kind: String,
    /// Version of its program.
    pub version: String,
    /// The boot it lives in.
    pub boot_id: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Time>,
}
