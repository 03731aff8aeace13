//! What a run leaves behind for people: one entry per happening.

use super::Config;
use crate::Lab;
use crate::id::Epoch;
use crate::lab::RowKey;
use crate::machine::{Machine, Stage};
use crate::record::Record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The first line of a trace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub trace: u32,
    /// Which seed.
    pub seed: u64,
    /// How many machines.
    pub machines: usize,
    /// How many clients.
    pub clients: usize,
    /// For how long clients come and faults happen, in milliseconds.
    pub span: u64,
    /// The fence that was taken away.
    pub without: Option<String>,
    /// How many things that would have happened were left out.
    pub left_out: usize,
}

impl Header {
    /// The header of a run.
    pub fn of(config: &Config) -> Self {
        Self {
            trace: 1,
            seed: config.seed,
            machines: config.machines,
            clients: config.clients,
            span: config.span,
            without: config.without.map(|f| f.name().to_owned()),
            left_out: config.left_out.len(),
        }
    }
}

/// One happening.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in simulated milliseconds.
    pub at: u64,
    /// What, in words.
    pub what: String,
    /// The daemon that decided about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// What it decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
    /// What left the daemon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
    /// What the asker was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Machines and reservations that changed, as they are now; empty: gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, String>,
}

/// Longest text of a trace, in characters.
const LONG: usize = 400;

/// Something as Rust shows it, cut to a line.
pub(super) fn shown(thing: &impl fmt::Debug) -> String {
    format!("{thing:?}").chars().take(LONG).collect()
}

/// The rows behind these keys, in words.
pub(super) fn states<'k>(lab: &Lab, keys: impl IntoIterator<Item = &'k RowKey>) -> BTreeMap<String, String> {
    let of = |key: &RowKey| match key {
        RowKey::Machine(name) => {
            Some((name.to_string(), lab.machine(name).map(|m| in_words(m)).unwrap_or_default()))
        }
        RowKey::Reservation(id) => {
            Some((id.to_string(), lab.reservation(*id).map(|r| r.state().to_owned()).unwrap_or_default()))
        }
        _ => None,
    };
    keys.into_iter().filter_map(of).collect()
}

fn in_words(machine: &Machine) -> String {
    let mut words = machine.state().to_owned();
    match &machine.stage {
        Stage::Turn(turn) => {
            words += &format!(", {}, try {}", turn.phase.name(), turn.failed + 1);
            words += &turn.reservation.map(|id| format!(", for {id}")).unwrap_or_default();
        }
        Stage::Free => {}
        _ => words += &machine.reservation().map(|id| format!(", {id}")).unwrap_or_default(),
    }
    let power = |leg: &crate::machine::Leg| match leg.seen {
        Some(seen) => format!("{:?}", seen.reading).to_lowercase(),
        None => "never read".to_owned(),
    };
    let legs: Vec<String> = machine.legs.iter().map(power).collect();
    let open: usize = machine.legs.iter().map(|l| l.unsettled.len()).sum();
    words += &format!("; power {}", if legs.is_empty() { "none".to_owned() } else { legs.join("+") });
    if open > 0 {
        words += &format!(", {open} unsettled");
    }
    words + &format!("; disks {}", machine.clean())
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9}.{:03} {}", self.at / 1_000, self.at % 1_000, self.what)?;
        for record in &self.records {
            write!(f, "\n{:>16} {} {}", "record", record.number, shown(&record.change))?;
        }
        for effect in &self.effects {
            write!(f, "\n{:>16} {effect}", "effect")?;
        }
        if let Some(answer) = &self.answer {
            write!(f, "\n{:>16} {answer}", "answer")?;
        }
        for (name, state) in &self.states {
            let state = if state.is_empty() { "gone" } else { state };
            write!(f, "\n{:>16} {name}: {state}", "now")?;
        }
        Ok(())
    }
}
