//! What a new inventory changes, for `admin reload --dry-run` and for deciding which machines are *new* again.

use std::collections::{BTreeMap, BTreeSet};

use pitstop_wire::MachineName;
use serde::Serialize;
use serde_json::Value;

use super::model::{Inventory, MachineSpec};

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
    /// Keys that differ, by dotted path as in the inventory (`power.address`, `disk.root.match.serial`), sorted. Empty
    /// unless it changed.
    pub keys: Vec<String>,
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

fn new_because(old: &MachineSpec, new: &MachineSpec) -> Vec<NewBecause> {
    let legs = |spec: &MachineSpec| {
        spec.legs.iter().map(|leg| (leg.name.clone(), leg.driver.clone())).collect::<Vec<_>>()
    };
    // What is written to a disk may change freely; which disk it is may not.
    let disks = |spec: &MachineSpec| {
        let disks = spec.disks.iter().map(|disk| (disk.name.clone(), disk.matching.clone()));
        (disks.collect::<Vec<_>>(), spec.reimage.clone())
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

fn changed_keys(old: &MachineSpec, new: &MachineSpec) -> Vec<String> {
    let (old, new) = (leaves(old), leaves(new));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    paths.into_iter().filter(|path| old.get(*path) != new.get(*path)).cloned().collect()
}

/// Every value of a machine by the path it has in the inventory.
fn leaves(spec: &MachineSpec) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    // A spec is plain data: turning it into JSON cannot fail, and if it did nothing would be listed.
    let Ok(Value::Object(fields)) = serde_json::to_value(spec) else { return found };
    for (key, value) in &fields {
        match key.as_str() {
            "legs" => walk(value, "", &mut found),
            "disks" => walk(value, "disk", &mut found),
            "consoles" => walk(value, "console", &mut found),
            "switches" => walk(value, "switch", &mut found),
            "buttons" => walk(value, "button", &mut found),
            "limits" => walk(value, "timeout", &mut found),
            key => walk(value, key, &mut found),
        }
    }
    found
}

/// The model's words for keys that the inventory spells otherwise or not at all.
fn spelled(key: &str) -> Option<&str> {
    match key {
        "fields" => None,
        "usage" => Some("use"),
        "min_off_ms" => Some("min_off"),
        key => Some(key),
    }
}

fn walk(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    let join = |key: &str| match (path, spelled(key)) {
        (path, None) => path.to_owned(),
        ("", Some(key)) => key.to_owned(),
        ("timeout", Some(key)) => format!("timeout.{}", key.trim_end_matches("_ms")),
        (path, Some(key)) => format!("{path}.{key}"),
    };
    match value {
        // Legs stand as `power = { name, driver = { driver, fields } }`; people write `power.X = { … }`.
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let inner = if key == "driver" && value.is_object() { path.to_owned() } else { join(key) };
            walk(value, &inner, found);
        }),
        Value::Array(items) if items.iter().all(|item| item.get("name").is_some()) && !items.is_empty() => {
            for item in items {
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                walk(item, &join(name), found);
            }
        }
        Value::Null => {}
        leaf => {
            found.insert(path.to_owned(), leaf.clone());
        }
    }
}
