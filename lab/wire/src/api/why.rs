//! Why a machine or reservation is where it is.

use super::{Schema, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /why/{machine or R-…}`: the chain of reasons, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// `pitstop.why/1`
    pub schema: Schema,
    /// The machine, or `R-17`.
    pub about: String,
    /// The answer in one line.
    pub summary: String,
    /// The reasons, most important first.
    pub lines: Vec<WhyLine>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyLine {
    /// In words.
    pub text: String,
    /// The command to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// A moment the text speaks of (a deadline, an end).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}
