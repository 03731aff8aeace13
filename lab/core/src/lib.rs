//! Decides. Given a lab and an event, [`Lab::step`] says what changes
//! ([`record`]s) and what is to be done about it ([`effect`]s). There is no
//! I/O here, no clock and no randomness but what an event carries, so a lab
//! runs in the [`simulator`] far faster than real time.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

pub mod circuit;
pub mod effect;
pub mod event;
pub mod experience;
pub mod facts;
pub mod fence;
mod fold;
pub mod id;
pub mod invariant;
pub mod inventory;
pub mod lab;
pub mod ledger;
pub mod machine;
pub mod queue;
pub mod record;
pub mod reservation;
pub mod saying;
pub mod simulator;
mod step;
pub mod time;
pub mod watching;
pub mod why;
pub mod wiring;

pub use lab::Lab;
