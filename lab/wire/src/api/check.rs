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
