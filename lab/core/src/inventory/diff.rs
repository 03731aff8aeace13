//! What a new inventory changes, for `admin reload --dry-run` and for deciding which machines are *new* again.

use std::collections::BTreeSet;

use pitstop_wire::MachineName;
use serde::Serialize;

use super::model::{Inventory, MachineSpec};
use super::words::KeyChange;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is there for the first time.
    Added,
    /// It is gone.
    Removed,
    /// Some of its keys say something else.
    Changed,
}

/// One machine that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineChange {
    /// Which machine.
    pub name: MachineName,
    /// What happens to it.
    pub change: Change,
    /// Keys that say something else, its own or those of its class, sorted. Empty unless it changed.
    pub keys: Vec<KeyChange>,
    /// What makes it *new* again: it is observed only, nothing is switched or written until an admin enrols it.
    pub new_because: Vec<NewBecause>,
}

impl MachineChange {
    /// Whether the machine has to be enrolled (again).
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.change == Change::Added || !self.new_because.is_empty()
    }
}

/// Why a machine that was known is *new* again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NewBecause {
    /// Another outlet, BMC or the like would be switched.
    Legs,
    /// Another disk might be erased.
    Disks,
}

/// Compares two inventories; equal machines are left out, the rest is sorted by name.
#[must_use]
pub fn diff(old: &Inventory, new: &Inventory) -> Vec<MachineChange> {
    let names: BTreeSet<&MachineName> = old.machines.keys().chain(new.machines.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| compare(name, old.machines.get(name), new.machines.get(name)))
        .collect()
}

fn compare(
    name: &MachineName,
    old: Option<&MachineSpec>,
    new: Option<&MachineSpec>,
) -> Option<MachineChange> {
    let with =
        |change, keys, new_because| Some(MachineChange { name: name.clone(), change, keys, new_because });
    match (old, new) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => with(Change::Changed, changed_keys(old, new), new_because(old, new)),
        (None, _) => with(Change::Added, Vec::new(), Vec::new()),
        (_, None) => with(Change::Removed, Vec::new(), Vec::new()),
    }
}

/// The same question that the core asks of a machine's row: which legs and disks are meant. How they are used, and what
/// is written to them, may change freely.
fn new_because(old: &MachineSpec, new: &MachineSpec) -> Vec<NewBecause> {
    let legs = |spec: &MachineSpec| {
        spec.legs.iter().map(|leg| (leg.name.clone(), leg.driver.identity())).collect::<Vec<_>>()
    };
    let disks = |spec: &MachineSpec| {
        spec.disks.iter().map(|disk| (disk.name.clone(), disk.matching.identity())).collect::<Vec<_>>()
    };
    let mut because = Vec::new();
    if legs(old) != legs(new) {
        because.push(NewBecause::Legs);
    }
    if disks(old) != disks(new) {
        because.push(NewBecause::Disks);
    }
    because
}

fn changed_keys(old: &MachineSpec, new: &MachineSpec) -> Vec<KeyChange> {
    let mut keys = old.sources.words.changes(&new.sources.words);
    // Another number in its range, and its `{n}` is another one, in the same words.
    let number = |spec: &MachineSpec| spec.n.map(|n| n.to_string());
    if old.n != new.n {
        keys.push(KeyChange { key: "{n}".to_owned(), old: number(old), new: number(new) });
    }
    keys
}

/// What the two say differently outside of classes and machines: `lab.zone`, `policy.ci.after_build`, …
#[must_use]
pub fn diff_lab(old: &Inventory, new: &Inventory) -> Vec<KeyChange> {
    old.words.changes(&new.words)
}
