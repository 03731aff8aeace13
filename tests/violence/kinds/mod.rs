//! The kinds of violence, one file each. A kind does its harm to a lab under
//! load and leaves it alone again; what became of it is judged afterwards.

mod kill;

use crate::arena::Arena;

/// One kind.
pub struct Kind {
    /// Its name on the command line.
    pub name: &'static str,
    /// Does the harm. In words, what was done; or what went wrong with it.
    pub harm: fn(&mut Arena) -> Result<String, String>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[Kind { name: "kill", harm: kill::harm }];
