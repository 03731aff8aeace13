//! Touches hardware: power legs, consoles, boot paths.
//!
//! A driver does one thing when it is told to and says truthfully what it
//! saw. It keeps no state machine, decides nothing and retries nothing that
//! has an effect: the core orders, the hands wait and read back. Every driver
//! stands in [`factories()`], and nowhere else is one called by name.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

pub mod address;
mod bmc;
pub mod boot;
mod child;
pub mod console;
pub mod error;
pub mod evidence;
mod factory;
pub mod fixture;
pub mod host;
pub mod power;
pub mod process;
pub mod program;
mod redfish;
mod secret;
pub mod sim;
pub mod site;
#[cfg(test)]
mod testing;
pub mod watched;
mod web;

pub use boot::{Boot, Delivery, Target};
pub use console::{Console, Line};
pub use error::{DriverError, Task};
pub use evidence::Evidence;
pub use factory::{Factories, factories};
pub use fixture::{Button, Switch};
pub use power::{Power, PowerLimits, PowerOn};
pub use site::Site;
