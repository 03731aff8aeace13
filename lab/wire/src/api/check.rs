//! A look at the parts of a machine.

use super::Schema;
use crate::MachineName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was seen of a machine's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checked {
    /// `pitstop.checked/1`
    pub schema: Schema,
    /// Which machine.
    pub machine: MachineName,
    /// Whether all of them are well.
    pub ok: bool,
    /// Each of them.
    pub parts: Vec<CheckedPart>,
}

/// What was seen of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckedPart {
    /// `power`, `mains`, `console main`, `boot`.
    pub part: String,
    /// Its driver, as the inventory writes it.
    pub driver: String,
    /// Whether it is well.
    pub ok: bool,
    /// What it said, or what is wrong and what to do.
    pub says: String,
    /// How long that took, milliseconds.
    pub ms: u64,
}

/// What machines show of themselves without being asked: how much each console
/// has said, how often each firmware has asked what to boot. Two of these, one
/// from before a machine was switched and one from after, tell which wires
/// lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signs {
    /// `pitstop.signs/1`
    pub schema: Schema,
    /// By name.
    pub machines: Vec<Sign>,
}

/// What one machine shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sign {
    /// Which machine.
    pub machine: MachineName,
    /// Whether nobody has it and nothing is done with it: what it shows now
    /// is not its own doing.
    pub at_rest: bool,
    /// How often it asked what to boot since the daemon started; nothing where
    /// it does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// Its consoles.
    pub consoles: Vec<Heard>,
}

/// How much a console has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heard {
    /// Its name.
    pub console: String,
    /// Bytes, ever.
    pub bytes: u64,
}
