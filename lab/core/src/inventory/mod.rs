//! The inventory: what exists in the lab, read from `inventory.toml` and the files it includes.
//!
//! [`Inventory::load`] gives either a lab in which every reference is resolved, every class and range merged and every
//! driver's fields checked against the [`Catalogue`], or all that is wrong with it at once ([`InventoryErrors`]).
//!
//! How layers merge: class, then range, then machine; tables by path, anything else is replaced. Where a driver stands, the
//! same driver merges its fields and another replaces it whole. `console = {}` says that there is none, whatever the class
//! says. Files are equals: a key set in two of them is an error.
//!
//! The way of a text: `load` (files to one tree that knows its places) → `expand` (ranges and layers) → `machine` and
//! `sections` (typed) with `driver` (the catalogue's checks).

pub mod catalogue;
mod diff;
mod driver;
mod error;
mod expand;
mod files;
pub mod hook;
mod load;
mod machine;
pub mod model;
mod not_yet;
mod policy;
mod reader;
mod secret;
mod sections;
mod source;
pub mod template;
mod tree;
pub(crate) mod units;
mod words;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use catalogue::{Catalogue, DriverSchema, FieldKind, FieldSchema, Kind, Takes, Unique, Word};
pub use diff::{Change, MachineChange, NewBecause, diff, diff_lab};
pub use error::{InventoryError, InventoryErrors};
pub use expand::MAX_MACHINES;
pub use files::{DiskFiles, Files, MemoryFiles};
pub use hook::{Hook, Hooks, Point};
pub use load::{MAX_FILE, MAX_FILES};
pub use model::{
    AfterBuild, AtEnd, Circuit, DiskContent, DiskMatch, DiskSpec, DriverSpec, Extend, Group, Idle, Inventory,
    LabInfo, Lease, LegSpec, Limits, MachineSpec, OnAgentLost, OnFailure, OtherDisks, Place, Policy,
    Resource, SecretRef, Sources, Verify, WatchConsoles,
};
pub use words::{KeyChange, Said, Words};

use driver::{Claims, Drivers, Interner};
use error::Problem;
use expand::Machines;
use load::Loaded;
use machine::{MachineReader, TagKinds};
use reader::Reader;

impl Inventory {
    /// Reads an inventory from the file system.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, catalogue: &dyn Catalogue) -> Result<Self, InventoryErrors> {
        Self::load_from(&DiskFiles, path, catalogue)
    }

    /// Reads an inventory from any files.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load_from(
        files: &dyn Files,
        path: &Path,
        catalogue: &dyn Catalogue,
    ) -> Result<Self, InventoryErrors> {
        build(load::load(files, path), catalogue)
    }

    /// Reads an inventory from one text; `name` stands for it in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_str(name: &str, text: &str, catalogue: &dyn Catalogue) -> Result<Self, InventoryErrors> {
        Self::load_from(&MemoryFiles::default().with(name, text), Path::new(name), catalogue)
    }
}

fn build(loaded: Loaded, catalogue: &dyn Catalogue) -> Result<Inventory, InventoryErrors> {
    let Loaded { sources, root, mut problems, incomplete } = loaded;
    if incomplete {
        return Err(problems.finish(&sources));
    }
    let mut inventory = Inventory::default();
    sections::read(&root, &sources, &mut inventory, &mut problems);
    check_classes(&root, &mut problems);
    let mut machines = Machines::of(&root, &sources, &mut problems);

    let (mut claims, mut interner, none) = (Claims::default(), Interner::default(), BTreeMap::new());
    let mut drivers = Drivers {
        sources: &sources,
        catalogue,
        problems: &mut problems,
        hosts: &none,
        controllers: &none,
        claims: &mut claims,
        interner: &mut interner,
    };
    let hosts = sections::reached(&root, Kind::Host, &mut drivers);
    let mut drivers = Drivers { hosts: &hosts, ..drivers };
    let controllers = sections::reached(&root, Kind::Controller, &mut drivers);
    let mut drivers = Drivers { controllers: &controllers, ..drivers };

    let mut tags = TagKinds::default();
    let mut specs = BTreeMap::new();
    while let Some(machine) = machines.next(drivers.problems) {
        let reader = MachineReader {
            machine: &machine,
            drivers: &mut drivers,
            inventory: &inventory,
            tags: &mut tags,
        };
        specs.extend(reader.read().map(|spec| (spec.name.clone(), spec)));
    }
    for class in machines.unused_classes(&root) {
        let (drivers, tags) = (&mut drivers, &mut tags);
        MachineReader { machine: &class, drivers, inventory: &inventory, tags }.read();
    }
    sections::check_warm(&root, &inventory.policies, &specs, drivers.problems);
    if !problems.is_empty() {
        return Err(problems.finish(&sources));
    }
    inventory.words = words(&root);
    inventory.machines = specs;
    inventory.hosts = hosts;
    inventory.controllers = controllers;
    Ok(inventory)
}

/// What is said outside of classes and machines, whose words the machines have.
fn words(root: &tree::Table) -> Words {
    let rest = root.iter().filter(|(key, _)| !matches!(&***key, "class" | "machine"));
    let rest = rest.map(|(key, entry)| (Arc::clone(key), entry.clone())).collect();
    Words::of(&rest, Arc::from)
}

/// What can be said about a class before a machine uses it.
fn check_classes(root: &tree::Table, problems: &mut error::Problems) {
    for (name, _, table) in load::named(root, "class", problems) {
        Reader::new(table, "a machine").only(&machine::KEYS, problems);
        if let Some(entry) = table.get("class") {
            problems.raise(Problem::new(entry.key, format!("class `{name}` cannot have a class itself")));
        }
    }
}
