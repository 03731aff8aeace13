//! What the benchmarks share: a private daemon, clients, figures, and what is
//! to be said of the computer they ran on.

#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of it")]

pub mod daemon;
pub mod figures;
pub mod load;
pub mod place;

pub use daemon::Daemon;
pub use figures::{Figure, quantile};
pub use place::Place;

use std::path::PathBuf;

/// Where everything temporary goes: the directory that `run` made, on the
/// disk of the working tree, and removes at the end.
///
/// # Errors
/// The benchmark was not started by `run`.
pub fn scratch() -> anyhow::Result<PathBuf> {
    std::env::var_os("PITSTOP_BENCH_SCRATCH")
        .map(PathBuf::from)
        .ok_or_else(|| anyhow::anyhow!("start this with benches/NAME/run"))
}

/// Whether rounds are short: to see that it works, not to be believed.
pub fn quick() -> bool {
    std::env::var_os("PITSTOP_BENCH_QUICK").is_some()
}
