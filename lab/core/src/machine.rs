//! A machine as the store remembers it: its health, where it is in its turn,
//! its power legs, its disks and the agent that speaks for it.
//!
//! ```text
//!            grant                    all phases done          claim
//!   free ───────────▶ turn: prepare ───────────────▶ ready ───────────▶ in use
//!    ▲                     │ cancelled                 │ unclaimed        │ release, expiry,
//!    │   all phases done   ▼                           ▼                  ▼ lost session
//!    └──────────────── turn: turnaround ◀─────────────────────────────────┘
//!                          │ fails for good
//!                          ▼
//!                     quarantined ──▶ turn: prove ──▶ free
//! ```
//!
//! Health is apart from the stage: a drained machine finishes its turn, a
//! quarantined one rests until it is proven.

mod leg;
mod program;
mod turn;

pub use leg::{Intent, Leg, Reading, Seen, Switch};
pub use program::{CommandProof, Job, Running, Stalled};
pub use turn::{Attempt, DiskPlan, Expect, Goal, Phase, Purpose, Starting, Turn};

use crate::experience::{Pause, Quarantine, Usual};
use crate::facts::Baseline;
use crate::id::{AttemptNo, IntentId, ReservationId, SecretHash};
use crate::time::{LabTime, WallMs};
use crate::wiring::Wiring;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentKind, DiskProof, Hardware};
use serde::{Deserialize, Serialize};

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name in the inventory.
    pub name: MachineName,
    /// Whether it may be used.
    pub health: Health,
    /// Where it is.
    pub stage: Stage,
    /// Since when.
    pub since: LabTime,
    /// Its power legs, in the order they are switched on.
    pub legs: Vec<Leg>,
    /// Its disks, in the order they are written.
    pub disks: Vec<Disk>,
    /// The agent that last attached in this turn.
    pub agent: Option<Agent>,
    /// What the boot agent found last.
    pub hardware: Option<Hardware>,
    /// What it was found to be when it was enrolled; only a person accepts
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<std::sync::Arc<Baseline>>,
    /// An admin checks its wires: it is nobody else's meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wiring: Option<Wiring>,
    /// Attempts begun so far: the number of the newest.
    pub attempts: AttemptNo,
    /// Power intents stored so far.
    pub intents: IntentId,
    /// Turns begun so far.
    pub turns: u64,
    /// Turns that failed since the last good one.
    pub failures: u32,
    /// How long its phases usually take.
    #[serde(default)]
    pub usual: Usual,
    /// How often it was quarantined in the last day, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantines: Vec<Quarantine>,
    /// It is not given to anybody for a while: its class fails all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// When a turn of it last ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked: Option<LabTime>,
    /// When it last came through a proving turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<LabTime>,
    /// The circuit it hangs on. It stays in the row when the machine leaves
    /// the inventory: whoever holds it then still draws power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<String>,
    /// A person wants it proven as soon as its circuit has a place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proof_asked: bool,
    /// Its spare leg has cut its power, since the first one did not obey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The program of the lab's that runs for it: a hook, or what writes its flash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// A hook was begun since its disks were read, and may have booted it: no
    /// proof counts until somebody has looked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub meddled: bool,
}

/// Power was cut in front of a leg that did not obey. Until it is put back,
/// nothing that the first leg says is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Since when.
    pub since: LabTime,
    /// Which leg did not obey, and what it said.
    pub reason: String,
}

/// Whether a machine may be used, and who said no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "kebab-case")]
pub enum Health {
    /// Yes.
    Good,
    /// Never enrolled, or its legs or disks changed since: observed only.
    New,
    /// Pitstop found it wanting.
    Quarantined {
        /// What failed.
        failure: Failure,
        /// When.
        at: LabTime,
        /// When it is proven again by itself. A row of a version that did not
        /// know this is due at once.
        #[serde(default)]
        again: LabTime,
    },
    /// A person took it out.
    Drained {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: LabTime,
    },
    /// Gone from the inventory; kept while somebody holds it.
    Retired,
}

/// What kind of thing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// Power could not be switched, or not be read back.
    Power,
    /// The console cannot be opened.
    Console,
    /// The machine did not boot.
    Boot,
    /// The machine could not reach us.
    Network,
    /// The agent misbehaved or went away.
    Agent,
    /// The image is at fault.
    Image,
    /// A disk could not be written or proven.
    Disk,
    /// The tenant's own build.
    Build,
    /// What the lab itself asks of a machine: its health check, a hook.
    Health,
    /// It is not what was enrolled: another machine, or another disk.
    Drift,
    /// The lab's own: the daemon's disk, a bench host. No machine is to blame.
    Lab,
}

impl FailureClass {
    /// The class in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Console => "console",
            Self::Boot => "boot",
            Self::Network => "network",
            Self::Agent => "agent",
            Self::Image => "image",
            Self::Disk => "disk",
            Self::Build => "build",
            Self::Health => "health",
            Self::Drift => "drift",
            Self::Lab => "lab",
        }
    }
}

/// A failure with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub class: FailureClass,
    /// In which phase.
    pub phase: String,
    /// What was attempted, what came back.
    pub evidence: String,
}

/// Where a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// At rest; nobody holds it.
    Free,
    /// Going through phases, each with a deadline.
    Turn(Box<Turn>),
    /// Prepared: for a reservation, or warm for whoever comes.
    Ready {
        /// The reservation it was prepared for; `None`: warm.
        reservation: Option<ReservationId>,
        /// Until when a warm machine stays so.
        until: Option<LabTime>,
        /// The image it runs, by name; `None`: bare or agent.
        image: Option<ImageRef>,
    },
    /// In the hands of its holder.
    InUse {
        /// The reservation.
        reservation: ReservationId,
        /// The image it was handed over with.
        image: Option<ImageRef>,
        /// The holder's power cycle waits for its `off` to be seen.
        cycling: bool,
    },
}

/// An image as a reservation or turn names it: resolved once, when asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageRef {
    /// Its name when it was resolved.
    pub name: String,
    /// Digest of its block map.
    pub digest: String,
    /// Where the seed of the host agent goes: offset and length in bytes.
    pub seed: Option<(u64, u64)>,
}

/// The agent that speaks for the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Boot or host.
    pub kind: AgentKind,
    /// Its program's version.
    pub version: String,
    /// The attempt's nonce.
    pub nonce: String,
    /// The boot it lives in.
    pub boot_id: String,
    /// Hash of its session key.
    pub key: SecretHash,
    /// Hashes of the tokens with which the tenant's next boots may rejoin,
    /// newest last. More than one, since the machine may go down before it
    /// has stored the newest.
    pub rejoin: Vec<SecretHash>,
    /// When its connection was lost; `None` while connected.
    pub lost: Option<LabTime>,
    /// Its machine's holder switched power since it was heard of: that it is
    /// silent is his own doing.
    #[serde(default)]
    pub excused: bool,
}

/// A disk and what is known of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name in the inventory.
    pub name: String,
    /// What the inventory means by that name, as a digest.
    #[serde(default)]
    pub identity: String,
    /// Its content.
    pub content: Content,
}

/// What is known of a disk's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "kebab-case")]
pub enum Content {
    /// Nothing.
    Unknown,
    /// An attempt may have written some of it.
    Writing {
        /// The attempt.
        attempt: AttemptNo,
    },
    /// Read back and found to be exactly this.
    Proven(Box<Certificate>),
    /// A command wrote it, and what another read back agreed. No proof of ours.
    ByCommand(Box<CommandProof>),
    /// Handed over since.
    Used {
        /// To whom; `None`: booted warm, no tenant yet.
        by: Option<ReservationId>,
    },
}

/// What was proven, when and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Digest of the image; `None`: all zero.
    pub digest: Option<String>,
    /// The attempt that proved it.
    pub attempt: AttemptNo,
    /// Its nonce.
    pub nonce: String,
    /// The boot path pitstop chose for the agent.
    pub boot: String,
    /// Lab time of the commit.
    pub at: LabTime,
    /// Wall time of the commit.
    pub wall: WallMs,
    /// The itemised proof.
    pub proof: DiskProof,
}

impl Machine {
    /// The turn under way.
    pub fn turn(&self) -> Option<&Turn> {
        match &self.stage {
            Stage::Turn(turn) => Some(turn),
            _ => None,
        }
    }

    /// Whose reservation has the machine: being prepared, ready or in use.
    pub fn reservation(&self) -> Option<ReservationId> {
        match &self.stage {
            Stage::Free => None,
            Stage::Turn(turn) => turn.reservation,
            Stage::Ready { reservation, .. } => *reservation,
            Stage::InUse { reservation, .. } => Some(*reservation),
        }
    }

    /// Whether nobody can get it, and nothing is done with it: only then is it
    /// an admin's to switch.
    pub fn is_out_of_use(&self) -> bool {
        let nobody_gets_it = matches!(self.health, Health::New | Health::Drained { .. });
        self.stage == Stage::Free && (nobody_gets_it || self.wiring.is_some())
    }

    /// Whether every leg's newest reading shows `want`.
    pub fn all_legs(&self, want: Switch) -> bool {
        self.legs.iter().all(|leg| leg.seen.is_some_and(|s| s.reading.shows(want)))
    }

    /// Whether no power effect may land on the machine any more.
    pub fn settled(&self) -> bool {
        self.legs.iter().all(|leg| leg.unsettled.is_empty())
    }

    /// Whether a runner works on a command for one of its legs.
    pub fn is_commanded(&self) -> bool {
        self.legs.iter().flat_map(|leg| &leg.unsettled).any(|intent| intent.open)
    }

    /// Whether every disk is proven, whatever with.
    pub fn all_proven(&self) -> bool {
        self.disks.iter().all(|d| self.is_proven(d))
    }

    /// Whether the proof is as new as the newest attempt. With every attempt
    /// the machine is switched on for our agent; until that has read the disk,
    /// the disk's own system may have come up instead and have written.
    fn is_proven(&self, disk: &Disk) -> bool {
        matches!(&disk.content, Content::Proven(c) if c.attempt == self.attempts && !self.meddled)
    }

    /// The same of what a command wrote and read back.
    fn is_by_command(&self, disk: &Disk) -> bool {
        matches!(&disk.content, Content::ByCommand(c) if c.attempt == self.attempts && !self.meddled)
    }

    /// Whether a disk may hold half of something.
    pub fn is_half_written(&self) -> bool {
        self.disks.iter().any(|d| matches!(d.content, Content::Writing { .. }))
    }

    /// Whether every disk is proven, or at least clean by a command's word.
    pub fn all_clean(&self) -> bool {
        self.disks.iter().all(|d| self.is_proven(d) || self.is_by_command(d))
    }

    /// `proven`, `by-command`, `used`, `writing` or `unknown`: the least of the
    /// disks.
    pub fn clean(&self) -> &'static str {
        let rank = |d: &Disk| match d.content {
            Content::Writing { .. } => 1,
            Content::Used { .. } => 2,
            Content::ByCommand(_) if self.is_by_command(d) => 3,
            Content::Proven(_) if self.is_proven(d) => 4,
            Content::Unknown | Content::ByCommand(_) | Content::Proven(_) => 0,
        };
        match self.disks.iter().map(rank).min() {
            Some(0) => "unknown",
            Some(1) => "writing",
            Some(2) => "used",
            Some(3) => "by-command",
            _ => "proven",
        }
    }

    /// The state in one word, as people see it.
    pub fn state(&self) -> &'static str {
        match (&self.stage, &self.health) {
            (Stage::InUse { .. }, _) => "in-use",
            (Stage::Ready { .. }, _) => "ready",
            (Stage::Turn(t), _) => match t.purpose {
                Purpose::Prepare => "preparing",
                Purpose::Turnaround => "turnaround",
                Purpose::Prove | Purpose::Look => "proving",
            },
            (Stage::Free, Health::Good) if self.wiring.is_some() => "checking",
            (Stage::Free, Health::Good) => "free",
            (Stage::Free, Health::New) => "new",
            (Stage::Free, Health::Quarantined { .. }) => "quarantined",
            (Stage::Free, Health::Drained { .. }) => "drained",
            (Stage::Free, Health::Retired) => "retired",
        }
    }
}
