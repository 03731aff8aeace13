//! A turn: one trip of a machine through its phases, and its tries.

use super::{ImageRef, Stalled};
use crate::id::{AttemptNo, ReservationId, SecretHash};
use crate::inventory::Point;
use crate::time::LabTime;
use pitstop_wire::agent::AgentKind;
use serde::{Deserialize, Serialize};

/// Why a machine goes through a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// To be handed over.
    Prepare,
    /// To be clean and at rest again.
    Turnaround,
    /// To come back from quarantine.
    Prove,
    /// To be looked at: our agent boots and reports, and writes nothing.
    Look,
}

/// What must be true when the turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Off.
    Off,
    /// The agent serves from RAM.
    Agent,
    /// The image runs from disk and its host agent attached.
    Image,
}

/// One trip of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Number within the machine.
    pub number: u64,
    /// Why.
    pub purpose: Purpose,
    /// Whose end.
    pub goal: Goal,
    /// For whom, in `Prepare`.
    pub reservation: Option<ReservationId>,
    /// What the disks with `content = image` are to hold.
    pub image: Option<ImageRef>,
    /// Whether disks are proven at all in this turn, or left as they are.
    pub disks: DiskPlan,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub phase_since: LabTime,
    /// Until when this phase may last.
    pub deadline: LabTime,
    /// The attempt under way, from the boot agent's start on.
    pub attempt: Option<Attempt>,
    /// Tries so far that failed.
    pub failed: u32,
    /// When the turn began.
    pub started: LabTime,
    /// Its `before_power` hooks have run in this try.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
    /// Why its programmer waits: for something that is not the board's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
}

/// What a turn does about disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskPlan {
    /// Leave them (`keep`, or all are proven already and stay unbooted).
    Leave,
    /// Prove each; write those that need it.
    Prove,
    /// Write each, whatever is known of it.
    Write,
}

/// A phase of a turn. Each has a deadline and a named exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// All legs off, read back, nothing in flight.
    Off,
    /// Power on; wait for the boot agent of this attempt.
    BootAgent,
    /// The agent proves or writes disk number `disk`.
    Disk {
        /// Index into the machine's disks.
        disk: usize,
        /// Whether it is being written or only proven.
        writing: bool,
    },
    /// A program on a bench host writes the flash of a board, or reads it back.
    Flash {
        /// Whether it is written, or only read back and compared.
        writing: bool,
    },
    /// A hook of the machine's runs.
    Hook {
        /// At which point.
        point: Point,
        /// Index into the hooks there.
        hook: usize,
    },
    /// Hooks ran since the disks were proven: wait until none of them can act
    /// any more, and hear of the agent that it is still the same.
    AfterHooks,
    /// The boot agent leaves the seed for the host agent.
    Seed,
    /// Off; wait until the circuit bears one more that starts.
    Start {
        /// What it is switched on for then.
        then: Starting,
    },
    /// Off again, so that the next boot is from disk.
    HandOff,
    /// The agent turns to serving from RAM.
    Serve,
    /// Power on from disk; wait for the host agent (or other evidence).
    Evidence,
    /// The image runs; wait for its health check to end well.
    Check,
    /// Everything is shown; wait until no power effect may land any more.
    Settle,
    /// Off at the end of the turn.
    Rest,
}

impl Phase {
    /// The phase in the words that people see.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Start { .. } => "start",
            Self::BootAgent => "boot agent",
            Self::Disk { .. } | Self::Flash { .. } => "disk",
            Self::Hook { .. } | Self::AfterHooks => "hook",
            Self::Seed | Self::HandOff | Self::Serve => "hand-over",
            Self::Evidence => "evidence",
            Self::Check => "check",
            Self::Settle => "settle",
            Self::Rest => "rest",
        }
    }

    /// Whether the phase's job is to have every leg off.
    pub fn wants_off(&self) -> bool {
        matches!(self, Self::Off | Self::HandOff | Self::Rest)
    }

    /// Whether the phase waits for something that the machine does while it
    /// is on.
    pub fn runs(&self) -> bool {
        match self {
            Self::BootAgent
            | Self::Disk { .. }
            | Self::AfterHooks
            | Self::Seed
            | Self::Serve
            | Self::Evidence
            | Self::Check => true,
            Self::Hook { point, .. } => point.has_agent(),
            // Of a board that is written runs what its last holder left.
            Self::Flash { .. }
            | Self::Off
            | Self::Start { .. }
            | Self::HandOff
            | Self::Rest
            | Self::Settle => false,
        }
    }

    /// Whether the phase waits for an agent to attach.
    pub fn awaits_attach(&self) -> bool {
        matches!(self, Self::BootAgent | Self::Evidence)
    }
}

/// What a machine is switched on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Starting {
    /// To boot our agent.
    Agent,
    /// To be written by a programmer.
    Flash,
    /// To boot from its own disk.
    Disk,
}

/// One try, fenced by its nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Number within the machine.
    pub number: AttemptNo,
    /// What every message of this attempt carries.
    pub nonce: String,
    /// The token that may attach now.
    pub expect: Option<Expect>,
    /// Hashes of tokens already spent, so that a replay is called one.
    pub spent: Vec<SecretHash>,
    /// Whether boot parameters were given out.
    pub given: bool,
    /// Newest step told to the agent.
    pub step: u64,
    /// Newest step whose result is committed.
    pub done: u64,
}

/// Which agent may attach, with which token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// Boot or host.
    pub kind: AgentKind,
    /// Hash of the single-use token.
    pub token: SecretHash,
}
