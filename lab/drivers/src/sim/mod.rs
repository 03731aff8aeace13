//! The simulated machine as its drivers see it: a process of its own with a
//! control socket. It stands for hardware, so it lives outside the daemon's
//! life: a daemon that is killed leaves it running, and the next one finds it
//! by its socket.

mod client;
pub mod protocol;
mod trouble;

pub use client::{ensure, request, stop};
pub use protocol::{Boot, Config, DiskConfig, Reply, Request, Status};
