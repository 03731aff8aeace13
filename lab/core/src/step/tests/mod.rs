//! The step, told as stories: each test is named after what would go wrong.

mod agents;
pub(crate) mod bench;
mod blame;
mod circuits;
mod facts;
mod failures;
mod fetch;
mod holder;
mod inventory;
mod leases;
mod pitfalls;
mod policies;
mod power;
mod programs;
mod proof;
mod requests;
mod restart;
mod restored;
mod spare;
mod turns;
mod wiring;

use crate::inventory::model::MachineSpec;
use crate::simulator::labs;
use bench::name;

/// A plain machine, kept for half an hour for its holder to come.
pub(crate) fn spec(machine: &str) -> MachineSpec {
    let mut spec = labs::plain(name(machine));
    spec.limits.claim_ms = 1_800_000;
    spec
}

/// A plain machine, changed.
pub(crate) fn spec_with(machine: &str, change: impl FnOnce(&mut MachineSpec)) -> MachineSpec {
    let mut spec = spec(machine);
    change(&mut spec);
    spec
}
