//! Agents: the machines' listener, one session per machine, image chunks.
//!
//! A session is registered *before* the decision loop hears its hello: what
//! the loop orders in the very step that accepts the agent must find it.
//!
//! ```text
//!  connection ─ hello ─▶ pending ─ accepted ─▶ current ─ replaced, dismissed, lost ─▶ gone
//! ```

mod hub;
mod listen;
mod origin;
mod pool;
mod session;

#[cfg(test)]
mod tests;

pub use hub::{Agents, RunLink};
pub use listen::{Limits, serve};
