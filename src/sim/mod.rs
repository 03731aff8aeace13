//! The simulated machine: a process that stands for hardware.
//!
//! Like hardware it does not care whether a daemon lives. It has power legs,
//! serial lines (ptys), disks (files) and firmware that boots either the boot
//! agent, which is the real agent in a child process, or what is on its disk.
//! What goes wrong with it is configured, or injected while it runs.
//!
//! ```text
//!  daemon ──control socket──▶ sim-machine ──starts, kills──▶ sim-boot (the agent)
//!     ◀────────pty─────────────┘                                   │
//!     ◀───────────────────────TLS──────────────────────────────────┘
//! ```

mod boot;
mod child;
mod control;
mod entry;
mod faults;
mod firmware;
mod header;
pub mod image;
mod line;
mod machine;
mod people;
mod reaper;
mod step;

pub use entry::{SimArgs, intercept};
pub use faults::{Fault, FaultKind, ParseFaultError};
