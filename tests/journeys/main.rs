//! Whole stories on simulated machines, told through the program itself: a
//! daemon in a process of its own, the command line, and the machines'
//! side of the wire. What is true is looked up where users look it up: in
//! `--json`, in the events, and, where that matters, in the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "violence uses the rest")]
#[path = "../harness/mod.rs"]
mod harness;

mod blame;
mod circuits;
mod console;
mod crowd;
mod disks;
mod drift;
mod faults;
mod graceful;
mod input;
mod kill_in_turn;
mod kill_in_use;
mod old;
mod refusals;
mod restored;
mod sessions;
mod store;
