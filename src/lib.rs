//! pitstop runs a lab of physical test machines. This library is the whole
//! program; `main.rs` only starts it, so that tests and benchmarks reach
//! everything a user reaches.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod bootimage;
pub mod cli;
pub mod daemon;
pub mod sim;
pub mod store;
mod whole;
