//! What the lab did, and what failures cost.

use super::{Schema, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a report's lines are about.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ReportBy {
    /// Machines.
    #[default]
    Machine,
    /// Classes of the inventory.
    Class,
    /// What failed: `power`, `boot`, …
    Cause,
    /// Users.
    User,
}

impl ReportBy {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Class => "class",
            Self::Cause => "cause",
            Self::User => "user",
        }
    }
}

/// `GET /report`: what the lab did since a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// `pitstop.report/1`
    pub schema: Schema,
    /// What its lines are about.
    pub by: ReportBy,
    /// From when on.
    pub since: Time,
    /// Until when.
    pub until: Time,
    /// Most time lost, or used, first.
    pub lines: Vec<ReportLine>,
}

/// One line. What does not apply to its kind is 0 or absent. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReportLine {
    /// The machine, class, cause or user.
    pub name: String,
    /// Machines that the line is about.
    pub machines: u64,
    /// Reservations asked for (users).
    pub reservations: u64,
    /// Times machines were handed over.
    pub hand_overs: u64,
    /// How long holders had machines.
    pub used: f64,
    /// Turns that ended.
    pub turns: u64,
    /// Tries of a turn that failed.
    pub failed_tries: u64,
    /// Turns that were given up, or reservations that the lab failed (users).
    pub failed: u64,
    /// Quarantines.
    pub quarantines: u64,
    /// Share of turns that ended well only after a failed try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flake_rate: Option<f64>,
    /// Mean time in service between two quarantines; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtbf: Option<f64>,
    /// Time lost: tries that failed, and machines out of use.
    pub lost: f64,
    /// Half of the waits for ready machines were no longer (users).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_p50: Option<f64>,
    /// 19 of 20 waits were no longer (users).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_p95: Option<f64>,
}
