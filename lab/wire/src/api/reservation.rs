//! Reservations.

use super::{Schema, Time};
use crate::name::{MachineName, UserName};
use crate::selector::Selector;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    /// `pitstop.reservation/1`
    pub schema: Schema,
    /// `R-17`
    pub id: String,
    /// Whose it is.
    pub owner: UserName,
    /// Where it is.
    pub state: ReservationState,
    /// What is asked for.
    pub roles: Vec<Role>,
    /// The machines it has.
    pub machines: Vec<Member>,
    /// The image; absent: each machine's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// In which condition machines are handed over.
    pub want: Want,
    /// What keeps it alive.
    pub hold: Hold,
    /// How clean disks must be.
    pub clean: CleanLevel,
    /// Higher goes first.
    pub priority: i32,
    /// Why, in the owner's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for.
    pub created: Time,
    /// For how many seconds once it holds machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Time>,
    /// Until when a ready one is kept if nobody claims it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed_until: Option<Time>,
    /// Place in the queue, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// Machines that failed it.
    pub failed_on: Vec<MachineName>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// Several reservations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reservations {
    /// `pitstop.reservations/1`
    pub schema: Schema,
    /// Oldest first.
    pub reservations: Vec<Reservation>,
}

/// Where a reservation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReservationState {
    /// In the queue.
    Waiting,
    /// It has machines; they are being prepared.
    Preparing,
    /// All are ready; nobody has come for them yet.
    Ready,
    /// In use.
    Active,
    /// Over.
    Ended,
}

impl ReservationState {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Active => "active",
            Self::Ended => "ended",
        }
    }
}

/// So many machines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// Its name, `machine` where there is but one.
    pub name: String,
    /// Which machines will do.
    pub select: Selector,
    /// How many.
    pub count: u32,
}

/// A machine a reservation has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The role it plays.
    pub role: String,
    /// The machine.
    pub machine: MachineName,
    /// Whether it is prepared.
    pub ready: bool,
}

/// In which condition a machine is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
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
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Agent => "agent",
            Self::Image => "image",
        }
    }
}

/// What keeps a reservation alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Hold {
    /// Beats.
    Session {
        /// Seconds of silence after which it is lost.
        silence: u64,
    },
    /// Only its limit.
    Time,
}

/// What kind of hold is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HoldKind {
    /// It must beat.
    Session,
    /// It lasts until its limit.
    Time,
}

/// How clean a machine must be to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CleanLevel {
    /// A used disk will do.
    Any,
    /// A command said so and its read-back agreed.
    ByCommand,
    /// A proof newer than the last use.
    Proven,
}

/// How a reservation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// Why.
    pub kind: EndKind,
    /// When.
    pub at: Time,
    /// In words.
    pub text: String,
}

/// Why a reservation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// Given back, or given up waiting.
    Released,
    /// Its time was over.
    Expired,
    /// Its session stopped beating.
    Lost,
    /// It was ready and nobody came.
    Unclaimed,
    /// It waited as long as it was told to.
    TimedOut,
    /// The lab was restored from a backup that knows nothing of its machines.
    Restored,
    /// Machines failed it.
    Failed,
}

impl EndKind {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Unclaimed => "unclaimed",
            Self::TimedOut => "timed-out",
            Self::Restored => "restored",
            Self::Failed => "failed",
        }
    }
}
