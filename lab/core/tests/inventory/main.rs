//! Inventories from files: bad ones with the exact text people get, good ones with what they mean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad;
mod catalogue;
mod good;
mod hostile;
mod layers;

use std::path::PathBuf;

use pitstop_core::inventory::{Inventory, InventoryErrors, MachineSpec};

use catalogue::Invented;

fn folder(which: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/inventories")).join(which)
}

fn parse(text: &str) -> Result<Inventory, InventoryErrors> {
    Inventory::parse_str("lab.toml", text, &Invented)
}

fn good(text: &str) -> Inventory {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn machine<'i>(inventory: &'i Inventory, name: &str) -> &'i MachineSpec {
    inventory.machines.get(name).unwrap_or_else(|| panic!("there is no {name}"))
}
