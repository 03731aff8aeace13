//! `pitstop serve`

use super::fail::Fail;
use super::{Context, Result, paths};
use pitstop_core::inventory::Inventory;
use pitstop_wire::{ApiError, Code};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the daemon keeps its things.
    #[arg(long, env = "PITSTOP_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// What exists in the lab.
    #[arg(long, value_name = "FILE", default_value = "inventory.toml")]
    inventory: PathBuf,
    /// Allow simulated machines.
    #[arg(long)]
    simulated: bool,
}

pub async fn run(cx: &mut Context, args: Args) -> Result {
    let _ = (cx, args, paths::data());
    Ok(())
}

/// Reads an inventory, or says all that is wrong with it.
pub fn inventory(path: &Path) -> Result<Inventory> {
    Inventory::load(path, pitstop_drivers::factories())
        .map_err(|e| Fail::from(ApiError::new(Code::Usage, "the inventory has errors").hint(e.to_string())))
}
