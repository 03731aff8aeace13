//! The agent: the program that pitstop starts on a machine. It dials the daemon, and then as **boot agent**
//! writes and proves disks from RAM, or as **host agent** runs the tenant's commands inside the booted image.
//!
//! - [`Agent`] is one session with the daemon: attach, work, resume after every loss.
//! - [`Platform`] is what differs between a machine ([`RealMachine`]) and a simulated one ([`Simulated`]).
//! - [`host`] finds the seed and starts the host agent.
//! - [`sandbox`] holds the commands of simulated machines.
//! - [`pid1`] is the program as the first process of a machine.
//!
//! The messages are those of [`pitstop_wire::agent`] and [`pitstop_wire::run`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

mod facts;
mod hardware;
pub mod host;
mod netlink;
pub mod params;
pub mod pid1;
mod platform;
mod run;
pub mod sandbox;
mod say;
mod session;
mod sys;
mod tls;
mod work;

pub use hardware::RealMachine;
pub use platform::{Platform, PlatformError, Simulated};
pub use run::MAX_COMMANDS;
pub use say::Say;
pub use session::{Agent, Farewell, KeepRejoin, Options, StartError};
pub use tls::SERVER_NAME;
