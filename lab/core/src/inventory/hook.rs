//! Hooks: programs of the lab's own that run at fixed points of a machine's turn, and the programmer of a board.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::catalogue::Kind;
use super::driver::{Chosen, Owner};
use super::error::Problem;
use super::machine::{MachineReader, plain_name};
use super::model::{DiskMatch, DiskSpec, DriverSpec, LegSpec};
use super::reader::{Reader, list};
use super::tree::{Entry, Table, Val};

/// Where in a turn hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// Every leg was read off, and the turn is about to switch on.
    BeforePower,
    /// The boot agent attached and looked round.
    AfterAttach,
    /// The disks were written and proven.
    AfterImage,
    /// Whoever had the machine has it no more; it was not switched off yet.
    BeforeRelease,
    /// A turn was given up.
    OnFailure,
}

impl Point {
    /// All of them, as they follow each other.
    pub const ALL: [Self; 5] =
        [Self::BeforePower, Self::AfterAttach, Self::AfterImage, Self::BeforeRelease, Self::OnFailure];

    /// The key in the inventory.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::BeforePower => "before_power",
            Self::AfterAttach => "after_attach",
            Self::AfterImage => "after_image",
            Self::BeforeRelease => "before_release",
            Self::OnFailure => "on_failure",
        }
    }

    /// Whether the boot agent is there meanwhile, on a machine that runs one.
    #[must_use]
    pub fn has_agent(self) -> bool {
        matches!(self, Self::AfterAttach | Self::AfterImage)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// `[[machine.M.hook.POINT]]` with `NAME = { host = …, run = […], timeout = …, on_error = … }`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hook {
    /// Its name, unique at its point.
    pub name: String,
    /// What is run, where, and for how long.
    pub command: DriverSpec,
}

impl Hook {
    /// How long one may take where the inventory does not say: a minute.
    pub const TIMEOUT_MS: u64 = 60_000;

    /// How long it may take, milliseconds.
    #[must_use]
    pub fn timeout_ms(&self) -> u64 {
        self.command.ms("timeout").unwrap_or(Self::TIMEOUT_MS)
    }

    /// Whether the turn goes on when it fails (`on_error = "warn"`); else the turn fails.
    #[must_use]
    pub fn only_warns(&self) -> bool {
        self.command.text("on_error") == Some("warn")
    }

    /// Program and arguments, with placeholders.
    #[must_use]
    pub fn run(&self) -> Vec<&str> {
        self.command.list("run").unwrap_or_default()
    }
}

/// Hooks of a machine, in the order in which they run.
pub type Hooks = BTreeMap<Point, Vec<Hook>>;

impl MachineReader<'_, '_> {
    /// What `hook` says; what is wrong is raised.
    pub(super) fn hooks(&mut self, table: &Table, owner: Owner<'_>) -> Hooks {
        let mut hooks = Hooks::new();
        let Some(all) = Reader::new(table, "a machine").inner("hook", self.drivers.problems) else {
            return hooks;
        };
        Reader::new(all, "`hook`").only(&Point::ALL.map(Point::key), self.drivers.problems);
        for point in Point::ALL {
            let Some(entry) = all.get(point.key()) else { continue };
            let found = self.hooks_at(point, entry, owner);
            if !found.is_empty() {
                hooks.insert(point, found);
            }
        }
        hooks
    }

    fn hooks_at(&mut self, point: Point, entry: &Entry, owner: Owner<'_>) -> Vec<Hook> {
        let Val::List(items) = &entry.node.value else {
            let what = format!("`hook.{point}` takes a list of tables, not {}", entry.node.kind());
            let expected = format!(
                "`[[machine.{}.hook.{point}]]` with `NAME = {{ run = [\"…\"] }}` under it",
                owner.name
            );
            self.drivers.problems.raise(Problem::new(entry.node.at, what).expected(expected));
            return Vec::new();
        };
        let mut found: Vec<Hook> = Vec::new();
        for item in items {
            let Some(table) = item.as_table() else {
                let what = format!("`hook.{point}` takes a list of tables, not of {}", item.kind());
                self.drivers.problems.raise(Problem::new(item.at, what));
                continue;
            };
            // As they stand in the file: that is how they are run.
            let mut hooks: Vec<_> = table.iter().collect();
            hooks.sort_by_key(|(_, entry)| entry.key);
            for (name, entry) in hooks {
                let Some(hook) = self.hook(point, name, entry, owner) else { continue };
                if found.iter().any(|other| other.name == hook.name) {
                    let what = format!("`hook.{point}` has two hooks named `{name}`");
                    self.drivers.problems.raise(Problem::new(entry.key, what).expected("a name for each"));
                    continue;
                }
                found.push(hook);
            }
        }
        found
    }

    fn hook(&mut self, point: Point, name: &str, entry: &Entry, owner: Owner<'_>) -> Option<Hook> {
        let slot = format!("hook.{point}.{name}");
        if !plain_name(name) {
            let what = format!("`{name}` cannot be the name of a hook");
            let problem = Problem::new(entry.key, what).expected("letters, digits, '.', '_', '-'");
            self.drivers.problems.raise(problem);
            return None;
        }
        let Some(table) = entry.node.as_table() else {
            let what = format!("`{slot}` takes a table, not {}", entry.node.kind());
            self.drivers.problems.raise(
                Problem::new(entry.node.at, what).expected("`NAME = { run = [\"program\", \"argument\"] }`"),
            );
            return None;
        };
        let schema = self.drivers.catalogue.drivers(Kind::Hook).first()?;
        let command = self.drivers.fields(&slot, &Chosen { schema, entry, table }, owner)?;
        Some(Hook { name: name.to_owned(), command })
    }

    /// Raises hooks that would never run.
    pub(super) fn hooks_fit(&mut self, hooks: &Hooks, ready: &DriverSpec, table: &Table) {
        let entry = table.get("hook").and_then(|e| e.node.as_table()?.get(Point::AfterAttach.key()));
        if let (Some(entry), true, true) =
            (entry, hooks.contains_key(&Point::AfterAttach), ready.driver != "agent")
        {
            let what = format!("no agent attaches to a machine with `ready.{}`", ready.driver);
            let expected = list(&["hook.before_power", "hook.after_image"]);
            self.drivers.problems.raise(Problem::new(entry.key, what).expected(format!("one of {expected}")));
        }
    }

    /// Raises what keeps a programmer from doing its work.
    pub(super) fn reimage_fits(
        &mut self,
        reimage: &DriverSpec,
        (ready, legs): (&DriverSpec, &[LegSpec]),
        table: &Table,
    ) {
        let Some(entry) = table.get("reimage").filter(|_| reimage.driver == "command") else { return };
        let mut raise = |at, what: &str, expected: &str| {
            self.drivers.problems.raise(Problem::new(at, what).expected(expected));
        };
        if ready.driver == "agent" {
            raise(
                entry.key,
                "a board that `reimage.command` writes runs no agent of ours",
                "`ready.console`, `ready.ssh`, `ready.command` or `ready.power`",
            );
        }
        if let Some(disk) = table.get("disk") {
            raise(
                disk.key,
                "`disk` is for the agent: `reimage.command` writes the whole board",
                "no `disk` on this machine",
            );
        }
        if legs.iter().any(|leg| leg.driver.driver == "none") {
            raise(
                entry.key,
                "a board whose power nobody can switch off is not known to be written",
                "a power driver",
            );
        }
        if !reimage.list("run").unwrap_or_default().iter().any(|word| word.contains("{image}")) {
            raise(
                entry.key,
                "`run` of `reimage.command` does not say where the image goes",
                "`{image}` in one of its words: the path of a file",
            );
        }
    }
}

/// The flash that a programmer writes, as a disk. Which flash is meant is what the inventory says of the programmer.
pub(super) fn flash(reimage: &DriverSpec) -> DiskSpec {
    DiskSpec {
        name: "flash".to_owned(),
        matching: DiskMatch { by: Some(reimage.identity()), ..DiskMatch::default() },
        content: Default::default(),
        verify: Default::default(),
    }
}
