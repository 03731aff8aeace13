//! Tries everything.

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
