//! The lab in one screen, and small answers.

use super::{Reservation, Schema};
use crate::name::{MachineName, UserName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /status`: the lab in one screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// `pitstop.status/1`
    pub schema: Schema,
    /// The lab's name.
    pub lab: String,
    /// Its time zone (IANA), for times shown to people.
    pub zone: String,
    /// Version of the daemon.
    pub version: String,
    /// How many times a daemon took this lab.
    pub epoch: u64,
    /// You.
    pub you: UserName,
    /// Machines by what they are doing.
    pub counts: Counts,
    /// Your reservations that are not over.
    pub mine: Vec<Reservation>,
    /// What needs a person.
    pub alerts: Vec<Alert>,
    /// The queue, in the order it is served.
    pub queue: Vec<Reservation>,
    /// Circuits with a limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub circuits: Vec<CircuitState>,
}

/// What a circuit bears, and what is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CircuitState {
    /// Its name.
    pub name: String,
    /// Machines on it that count as on: they were granted, are on a turn, or
    /// were not read off lately.
    pub on: usize,
    /// Most that may be on; absent if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_on: Option<u32>,
    /// Machines on it that are starting.
    pub starting: usize,
    /// Most that may start at once; absent if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_starting: Option<u32>,
    /// Machines that wait to start.
    pub waiting: usize,
}

/// Machines by what they are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// All.
    pub machines: usize,
    /// Free.
    pub free: usize,
    /// Held or ready for somebody.
    pub held: usize,
    /// Being prepared, cleaned or proven.
    pub busy: usize,
    /// Quarantined.
    pub failed: usize,
    /// Taken out by a person, or retired.
    pub drained: usize,
    /// Never enrolled.
    pub new: usize,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// About which machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// What is the case.
    pub text: String,
    /// The command to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Something was done, and there is nothing more to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// `pitstop.done/1`
    pub schema: Schema,
    /// What was done, and what happens next.
    pub text: String,
    /// What the lab answered.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}

/// `POST /enrol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// `pitstop.enrolled/1`
    pub schema: Schema,
    /// New machines that match, with the disks that will be erased.
    pub machines: Vec<NewMachine>,
    /// Whether they were enrolled, or would be.
    pub done: bool,
}

/// A machine that is or would be enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewMachine {
    /// Its name.
    pub name: MachineName,
    /// Disks that will be erased.
    pub disks: Vec<String>,
    /// The same with what the inventory says of each: `root: serial S3Z9, 100 GB to 200 GB`.
    #[serde(default)]
    pub erased: Vec<String>,
    /// What switches it: `power: qemu`.
    #[serde(default)]
    pub power: Vec<String>,
    /// It was enrolled before, and is not what it was: what differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// `POST /reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// `pitstop.reloaded/1`
    pub schema: Schema,
    /// Machines that came.
    pub added: Vec<String>,
    /// Machines that left.
    pub removed: Vec<String>,
    /// Machines that changed, and which of their keys.
    pub changed: Vec<String>,
    /// Whether it was done, or would be.
    pub done: bool,
}

/// `GET /whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// `pitstop.whoami/1`
    pub schema: Schema,
    /// You.
    pub user: UserName,
    /// Whether you may override others.
    pub admin: bool,
}
