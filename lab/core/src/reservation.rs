//! Reservations: requests that wait, then hold machines, until their end.

use crate::id::ReservationId;
use crate::machine::{FailureClass, ImageRef};
use crate::time::{LabTime, WallMs};
use pitstop_wire::{MachineName, Selector, UserName};
use serde::{Deserialize, Serialize};

/// A reservation as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its number.
    pub id: ReservationId,
    /// Whose it is.
    pub owner: UserName,
    /// What was asked for.
    pub ask: Ask,
    /// When it was asked for.
    pub created: LabTime,
    /// The same by the wall.
    pub created_wall: WallMs,
    /// Where it is.
    pub status: Status,
    /// The machines it has, one for each wanted.
    pub members: Vec<Member>,
    /// Machines that failed it.
    pub failed_on: Vec<MachineName>,
    /// When all its machines were ready: its time counts from here.
    #[serde(default)]
    pub began: Option<LabTime>,
    /// When it ends, once it holds machines.
    pub ends: Option<LabTime>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The machines, by role. At least one role, all or nothing.
    pub roles: Vec<Role>,
    /// The image, resolved when asked for; `None`: each machine's default.
    pub image: Option<ImageRef>,
    /// In which condition.
    pub want: Want,
    /// What keeps it alive.
    pub hold: Hold,
    /// For how long once it holds machines, in milliseconds.
    pub limit: Option<u64>,
    /// How clean the disks must be.
    pub clean: CleanLevel,
    /// Higher goes first; equal ones by age.
    pub priority: i32,
    /// For people and the audit.
    pub reason: Option<String>,
    /// Give up if nothing is ready after so many milliseconds.
    pub patience: Option<u64>,
    /// Milliseconds of silence of the host agent in use after which the
    /// reservation ends as failed; `None`: silence is no failure.
    pub agent_lost: Option<u64>,
}

/// So many machines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name, `machine` where there is but one.
    pub name: String,
    /// Which machines will do.
    pub select: Selector,
    /// How many.
    pub count: u32,
}

/// In which condition a machine is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// Power and console, machine off.
    Bare,
    /// The agent serves from RAM.
    Agent,
    /// The image runs.
    Image,
}

impl Want {
    /// Whether an image can be handed over so: one that is to be booted needs
    /// a place for the host agent's parameters.
    pub(crate) fn can_have(self, image: &ImageRef) -> bool {
        self != Self::Image || image.seed.is_some()
    }
}

/// What keeps a reservation alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "lowercase")]
pub enum Hold {
    /// Beats: the reservation ends when they stop for this long (ms).
    Session {
        /// Silence after which it is lost, in milliseconds.
        silence: u64,
    },
    /// Only its limit.
    Time,
}

impl Hold {
    /// All roles that policies are named by.
    pub const ROLES: [&str; 2] = ["ci", "person"];

    /// Whose policy applies: `ci` for what must beat, `person` otherwise.
    pub fn role(self) -> &'static str {
        match self {
            Self::Session { .. } => "ci",
            Self::Time => "person",
        }
    }
}

/// How clean a machine must be to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CleanLevel {
    /// A used disk will do.
    Any,
    /// A command said so and its read-back agreed.
    ByCommand,
    /// A proof newer than the last use.
    Proven,
}

/// A machine a reservation has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Index into the ask's roles.
    pub role: usize,
    /// The machine.
    pub machine: MachineName,
    /// Whether it is prepared.
    pub ready: bool,
}

/// Where a reservation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Status {
    /// In the queue.
    Waiting,
    /// It has machines; they are being prepared.
    Preparing,
    /// All are ready; nobody has come for them yet.
    Ready {
        /// Until when they are kept for it.
        unclaimed_until: LabTime,
    },
    /// In use.
    Active,
    /// Over.
    Ended {
        /// When.
        at: LabTime,
        /// Why.
        why: End,
    },
}

/// Why a reservation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// The owner gave it back (or gave up waiting).
    Released {
        /// By whom.
        by: String,
    },
    /// Its time was over.
    Expired,
    /// Its session stopped beating.
    Lost,
    /// It was ready and nobody came.
    Unclaimed,
    /// It waited as long as it was told to.
    TimedOut,
    /// The lab was restored from a backup, which knows nothing of what has
    /// become of its machines.
    Restored,
    /// Machines failed it.
    Failed {
        /// What kind of failure the last one was.
        class: FailureClass,
        /// In words.
        reason: String,
    },
}

impl Reservation {
    /// Machines wanted in all.
    pub fn wanted(&self) -> usize {
        self.ask.roles.iter().map(|r| r.count as usize).sum()
    }

    /// Whether it is over.
    pub fn ended(&self) -> bool {
        matches!(self.status, Status::Ended { .. })
    }

    /// Whether it holds or prepares this machine.
    pub fn has(&self, machine: &MachineName) -> bool {
        self.members.iter().any(|m| m.machine == *machine)
    }

    /// The status in one word.
    pub fn state(&self) -> &'static str {
        match self.status {
            Status::Waiting => "waiting",
            Status::Preparing => "preparing",
            Status::Ready { .. } => "ready",
            Status::Active => "active",
            Status::Ended { .. } => "ended",
        }
    }
}
