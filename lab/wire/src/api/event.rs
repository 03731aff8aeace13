//! The history.

use super::{Schema, Time};
use crate::name::MachineName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that became true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// `pitstop.event/1`
    pub schema: Schema,
    /// Number of the record: ascending, not dense (some records are about
    /// secrets and are not shown).
    pub number: u64,
    /// When.
    pub time: Time,
    /// Who or what caused it: `anna`, `machine imx8-01`, `driver`, `time`,
    /// `lab`.
    pub actor: String,
    /// What kind of change, such as `phase-entered`.
    pub kind: String,
    /// The machine it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// The reservation it is about, `R-17`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<String>,
    /// In words, on one line.
    pub text: String,
    /// Whether it belongs to the story, or is a detail of it (a power
    /// reading, a step of an agent).
    pub detail: bool,
    /// Everything the record says, without secrets. Its shape follows the
    /// daemon's version.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// `GET /events` without `follow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// `pitstop.events/1`
    pub schema: Schema,
    /// Oldest first.
    pub events: Vec<Event>,
}
