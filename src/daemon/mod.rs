//! The daemon: one decision loop that owns the lab, and the hands around it.

pub mod agents;
pub mod boot;
pub mod clock;
pub mod consoles;
pub mod decide;
pub mod desk;
mod drain;
pub mod hands;
pub mod lock;
mod port;
pub mod serve;
mod share;
pub mod spare;
pub mod tls;

pub use clock::Clock;
pub use decide::{Halt, Hands, Opened, Running, StartError, open};
pub use desk::{Condition, Desk};
