//! The table and the file.

use crate::common::{Figure, Place};
use crate::proof::Proof;
use crate::{MACHINES, RESOURCES, Reached, Side};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// How many times labgrid's rate is wanted …
const TIMES_LABGRID: f64 = 100.0;
/// … or which part of what the disk would allow, where that is less.
const PART_OF_DISK: f64 = 0.5;
/// Commits a cycle needs: one to reserve, one to release.
const COMMITS: f64 = 2.0;

/// Everything that was measured.
pub struct Found {
    /// Where.
    pub place: Place,
    /// Load of the computer before and after.
    pub loads: (f64, f64),
    /// By number of clients.
    pub all: Vec<Reached>,
    /// Ours with a claim in between, cycles per second.
    pub claimed: Figure,
    /// What a killed daemon kept.
    pub proof: Proof,
}

impl Reached {
    /// Cycles per second if every commit of the disk carried one request of
    /// every client.
    fn bound(&self) -> f64 {
        self.clients as f64 * self.disk.median() / COMMITS
    }

    fn target(&self) -> f64 {
        (TIMES_LABGRID * self.labgrid.rate.median()).min(PART_OF_DISK * self.bound())
    }

    fn ratio(&self) -> f64 {
        self.pitstop.rate.median() / self.labgrid.rate.median()
    }

    fn part(&self) -> f64 {
        self.pitstop.rate.median() / self.bound()
    }

    fn met(&self) -> bool {
        self.pitstop.rate.median() >= self.target()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.loads;
        writeln!(f, "{}; load {before} before, {after} after", self.place)?;
        writeln!(
            f,
            "{MACHINES} machines without drivers; labgrid 26.0.1 with {MACHINES} places of {RESOURCES} resources; \
             cycles per second, median (least–most) of {} rounds\n",
            self.claimed.values.len()
        )?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "CLIENTS",
            "PITSTOP, ON DISK",
            "LABGRID, IN MEMORY",
            "RATIO",
            "DISK'S SYNCS/S",
            "OF BOUND",
        ]);
        for r in &self.all {
            table.add_row([
                r.clients.to_string(),
                r.pitstop.rate.to_string(),
                r.labgrid.rate.to_string(),
                format!("{:.1} x", r.ratio()),
                r.disk.to_string(),
                format!("{:.2}", r.part()),
            ]);
        }
        table.column_iter_mut().for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        writeln!(f, "{table}\n")?;
        for r in &self.all {
            let Reached { clients, pitstop, labgrid, .. } = r;
            writeln!(
                f,
                "{clients:>2} clients: reserve {:.2} ms, release {:.2} ms, daemon {:.2} ms of processor per cycle; \
                 labgrid {:.2} ms, {:.2} ms, {:.2} ms",
                pitstop.reserve_ms,
                pitstop.release_ms,
                pitstop.cpu_ms,
                labgrid.reserve_ms,
                labgrid.release_ms,
                labgrid.cpu_ms,
            )?;
        }
        writeln!(f, "with a claim in between: {}/s\n{}\n", self.claimed, self.proof)?;
        let Some(r) = self.all.first() else { return Ok(()) };
        write!(
            f,
            "TARGET ({} clients): the least of {TIMES_LABGRID} x labgrid = {:.0}/s and {PART_OF_DISK} x (clients x \
             syncs/s / {COMMITS}) = {:.0}/s: {}",
            r.clients,
            TIMES_LABGRID * r.labgrid.rate.median(),
            PART_OF_DISK * r.bound(),
            if r.met() { "met" } else { "MISSED" },
        )
    }
}

impl Found {
    /// Writes `allocation.json` into `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let all: Vec<Value> = self.all.iter().map(reached).collect();
        let value = json!({
            "bench": "allocation", "place": self.place.json(),
            "load": { "before": self.loads.0, "after": self.loads.1 },
            "machines": MACHINES, "labgrid": { "version": "26.0.1", "resources_per_place": RESOURCES },
            "clients": all, "with_claim_per_second": self.claimed.json(), "kill": self.proof.json(),
            "quick": crate::common::quick(),
        });
        let path = dir.join("allocation.json");
        std::fs::write(&path, format!("{value:#}\n"))?;
        println!("figures: {}", path.display());
        Ok(())
    }
}

fn reached(r: &Reached) -> Value {
    json!({
        "clients": r.clients, "pitstop": side(&r.pitstop), "labgrid": side(&r.labgrid),
        "disk_syncs_per_second": r.disk.json(), "ratio": r.ratio(), "part_of_bound": r.part(),
        "target_per_second": r.target(), "met": r.met(),
    })
}

fn side(side: &Side) -> Value {
    json!({
        "cycles_per_second": side.rate.json(), "reserve_ms": side.reserve_ms.json(),
        "release_ms": side.release_ms.json(), "cpu_ms_per_cycle": side.cpu_ms.json(),
    })
}
