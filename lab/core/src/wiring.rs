//! A check of a machine's wires: an admin has it for himself, and it is put
//! back when he is done, or was last heard of.

use pitstop_wire::UserName;
use serde::{Deserialize, Serialize};

/// How long the session of a check may be silent before the machine is put
/// back (ms).
pub const SILENCE: u64 = 15_000;

/// Whose check it is. Its beats are not stored: with a daemon that starts it
/// counts as just heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// Who checks.
    pub by: UserName,
}
