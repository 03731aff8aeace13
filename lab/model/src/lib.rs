//! A model of the hand-over protocol that is searched through completely:
//! every order of events and faults within a bound, with
//! [stateright](https://docs.rs/stateright).
//!
//! The simulator of the core runs long and at random; this runs short and
//! leaves nothing out. What decides is the core itself: a state holds the real
//! [`Lab`](pitstop_core::Lab), and what a daemon does in it is
//! [`Lab::step`](pitstop_core::Lab::step). Only the world around it is a model:
//! one machine with one power leg and one disk, the lane and runner of its
//! power, the agent on it, messages, two clients, time.
//!
//! # What is abstracted
//!
//! - **Time** stands still while anything happens by itself, and then jumps to
//!   the next deadline of the lab, of a runner, or of hardware that has waited
//!   as long as it may ([`Move::Wait`](action::Move::Wait)). Whatever is slower
//!   than that is a fault: it then takes as long as it likes. A power command
//!   lands within the limit that the inventory gives, after its sending ended.
//! - **Faults are bounded**: so many in all, and of each kind so many. Within
//!   these bounds every place for each of them is tried.
//! - **Messages** are a bag. One that arrives at once is one action with what
//!   caused it (an agent finishes *and* is heard). A message that anything else
//!   overtakes is a fault (`stray`): from then on it is in the bag, and arrives
//!   at any later time, or never. It may arrive twice that way. A message is
//!   lost only with its connection (`cut`), since a session is one TCP stream.
//!   Facts of hands reach the daemon the same ways.
//! - **What only observes or only tells is done at once**: what a step tells an
//!   agent is heard in the same action, or the connection was cut before it.
//!   That it is heard later is the same as an agent that works later. This is a
//!   partial-order reduction by hand, as are: a system boots with its power, and
//!   a lost connection is reported with what broke it.
//! - **A daemon** that dies takes its lanes, runners and connections with it;
//!   what was sent lands all the same. It dies between two events, before a
//!   commit, or after one and before its effects and answer left. One that is
//!   stopped keeps what its lanes were about to send, and wakes under its
//!   successor.
//! - **Commits** are checked against the records: history must not fork, rows
//!   must be its fold, and no row may change that the step does not name. So
//!   the rows of the lab are those of the store.
//! - **Equal states** are those whose futures are equal: [`key`] says what is
//!   left out, and a test compares the futures of states that are taken for one.
//! - Left out: several machines, several legs, disks and controllers (the
//!   simulator has them), legs that cannot be read, warm machines, sessions that
//!   must beat, the rate limit on calls (60 a minute, which no bound here comes
//!   near), and changes of the inventory.
//!
//! A search that ends without a violation has seen every state there is within
//! its bounds; it is not cut off at a depth. [`configuration`] has the bounds,
//! [`oracle`] what must hold.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

pub mod action;
mod agents;
pub mod check;
mod clients;
pub mod configuration;
mod daemon;
pub mod fault;
pub mod key;
pub mod oracle;
mod power;
pub mod tell;
pub mod world;
