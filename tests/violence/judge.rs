//! Judges the database against what clients were told: by its records, and by
//! its rows, which must be the fold of the records. Reads it only, with a
//! daemon or without one.

use crate::book::{Ack, Book, Call};
use pitstop::store::{History, RecordQuery};
use pitstop_core::Lab;
use pitstop_core::id::ReservationId;
use pitstop_core::invariant;
use pitstop_core::machine::{Health, Stage, Switch};
use pitstop_core::record::{Actor, Change, Record};
use pitstop_core::reservation::End;
use pitstop_wire::MachineName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the history says happened so far.
#[derive(Default)]
pub struct Judge {
    /// The fold of all records that were read.
    shadow: Lab,
    holders: HashMap<MachineName, ReservationId>,
    keys: HashMap<String, Value>,
    forgotten: BTreeSet<String>,
    queued: BTreeSet<ReservationId>,
    claimed: BTreeSet<ReservationId>,
    extended: BTreeSet<ReservationId>,
    ended: BTreeMap<ReservationId, End>,
    switched: BTreeSet<MachineName>,
    lost: Vec<ReservationId>,
    wrong: Vec<String>,
    grants: HashMap<MachineName, u64>,
    /// Records that say that a phase of a turn failed.
    pub phase_failures: u64,
}

impl Judge {
    /// Newest record that was read.
    pub fn newest(&self) -> u64 {
        self.shadow.meta().records
    }

    /// Reads what is new, record by record.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn read(&mut self, history: &dyn History) -> Result<(), String> {
        loop {
            let after = self.newest();
            let records = history.records(&RecordQuery::after(after)).map_err(|e| e.to_string())?;
            if records.is_empty() {
                return Ok(());
            }
            for record in &records {
                self.take(record);
            }
            if self.newest() <= after {
                return Err(format!("records after {after} do not go on from it"));
            }
        }
    }

    fn take(&mut self, record: &Record) {
        let expected = self.newest() + 1;
        if record.number != expected {
            self.wrong.push(format!("record {expected} is missing: {} comes next", record.number));
        }
        self.note(record);
        self.shadow.follow(record);
    }

    fn note(&mut self, record: &Record) {
        match &record.change {
            Change::Queued { reservation, .. } if !self.queued.insert(*reservation) => {
                self.wrong.push(format!("{reservation} was queued twice"));
            }
            Change::Granted { reservation, machine, .. } => self.granted(*reservation, machine),
            Change::MemberDropped { machine, .. } => drop(self.holders.remove(machine)),
            Change::Claimed { reservation } => drop(self.claimed.insert(*reservation)),
            Change::Extended { reservation, .. } => drop(self.extended.insert(*reservation)),
            Change::Ended { reservation, why } => self.ended(*reservation, why),
            Change::PowerByHolder { machine, .. } => drop(self.switched.insert(machine.clone())),
            Change::PowerIntended { machine, intent, .. } => {
                self.commanded(machine, intent.want, &record.actor);
            }
            Change::KeyRemembered { key, answer, .. } => self.remembered(key, answer),
            Change::KeyForgotten { key, .. } => drop(self.forgotten.insert(key.clone())),
            Change::PhaseFailed { .. } => self.phase_failures += 1,
            Change::HealthSet { machine, health: Health::Quarantined { failure, .. } } => {
                let evidence = &failure.evidence;
                self.wrong.push(format!("{machine} was blamed for what was done to the daemon: {evidence}"));
            }
            _ => {}
        }
    }

    fn granted(&mut self, id: ReservationId, machine: &MachineName) {
        *self.grants.entry(machine.clone()).or_default() += 1;
        if let Some(other) = self.holders.insert(machine.clone(), id) {
            self.wrong.push(format!("{machine} was granted to {id} while {other} had it"));
        }
    }

    fn ended(&mut self, id: ReservationId, why: &End) {
        self.holders.retain(|_, holder| *holder != id);
        if *why == End::Lost {
            self.lost.push(id);
        }
        if self.ended.insert(id, why.clone()).is_some() {
            self.wrong.push(format!("{id} ended twice"));
        }
    }

    fn remembered(&mut self, key: &str, answer: &Value) {
        if let Some(first) = self.keys.insert(key.to_owned(), answer.clone())
            && !self.forgotten.contains(key)
        {
            self.wrong.push(format!("key {key} was answered twice: {first}, then {answer}"));
        }
    }

    /// While somebody has a machine in use, its power is his.
    fn commanded(&mut self, name: &MachineName, want: Switch, actor: &Actor) {
        let Some(Stage::InUse { reservation, cycling, .. }) = self.shadow.machine(name).map(|m| &m.stage)
        else {
            return;
        };
        let second_half = want == Switch::On && *actor == Actor::Driver;
        // A daemon that finds a cycle half done gives its off again.
        let taken_up = *cycling && want == Switch::Off && *actor == Actor::Lab;
        if !(matches!(actor, Actor::User(_)) || second_half || taken_up) {
            self.wrong.push(format!("{name} was switched {want:?} by {actor:?} while {reservation} has it"));
        }
    }

    /// Everything that is wrong with what was read: in itself, and with what
    /// clients were told.
    pub fn check(&mut self, history: &dyn History, acks: &[Ack], book: &Book) -> Vec<String> {
        let mut wrong = std::mem::take(&mut self.wrong);
        match history.rows() {
            Err(e) => wrong.push(format!("the rows cannot be read: {e}")),
            Ok(rows) => wrong.extend(self.rows_differ(rows)),
        }
        wrong.extend(invariant::check(&self.shadow).err());
        for id in std::mem::take(&mut self.lost) {
            if book.is_beating(&id.to_string()) {
                wrong.push(format!("{id} was ended as lost, and its client never stopped beating"));
            }
        }
        wrong.extend(acks.iter().filter_map(|ack| self.stands(ack).err()));
        wrong
    }

    fn rows_differ(&self, rows: pitstop_core::lab::Rows) -> Option<String> {
        let (stored, folded) = (Lab::from_rows(rows).rows(), self.shadow.rows());
        if stored == folded {
            return None;
        }
        let differs = stored.rows.iter().zip(&folded.rows).find(|(a, b)| a != b);
        let (meta, counts) = ((&stored.meta, &folded.meta), (stored.rows.len(), folded.rows.len()));
        Some(format!("rows are not the fold of the records: {meta:?}, {counts:?}, {differs:?}"))
    }

    /// Whether the lab stands by an answer.
    ///
    /// # Errors
    /// It does not; in words.
    pub fn stands(&self, ack: &Ack) -> Result<(), String> {
        let id: ReservationId = ack.id.parse()?;
        if let Some(key) = &ack.key {
            self.key_stands(key, ack)?;
        }
        let happened = match &ack.call {
            Call::Reserve(_) => self.queued.contains(&id),
            Call::Claim => self.claimed.contains(&id),
            Call::Extend(_) => self.extended.contains(&id),
            Call::Release => self.ended.contains_key(&id),
            Call::Power(machine, _) => self.switched.contains(machine),
        };
        if happened { Ok(()) } else { Err(format!("acknowledged and lost: {ack:?}")) }
    }

    fn key_stands(&self, key: &str, ack: &Ack) -> Result<(), String> {
        let Some(answer) = self.keys.get(key) else {
            // What changes nothing is not remembered: to release twice.
            let twice = matches!(ack.call, Call::Release);
            return if twice { Ok(()) } else { Err(format!("the key of {ack:?} is not remembered")) };
        };
        match answer.get("reservation").and_then(Value::as_str) {
            Some(id) if id != ack.id => Err(format!("key {key} was answered with {}, not {id}", ack.id)),
            _ => Ok(()),
        }
    }

    /// How many reservations one machine served at most.
    pub fn most_grants(&self) -> u64 {
        self.grants.values().copied().max().unwrap_or(0)
    }

    /// Reservations that exist and of which no client was told.
    pub fn unheard_of(&self, acks: &[Ack]) -> usize {
        let known: BTreeSet<&str> =
            acks.iter().filter(|a| matches!(a.call, Call::Reserve(_))).map(|a| a.id.as_str()).collect();
        self.queued.iter().filter(|id| !known.contains(id.to_string().as_str())).count()
    }
}
