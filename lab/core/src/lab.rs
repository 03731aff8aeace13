//! The lab: every row, and what is derived from the rows.

use crate::effect::Effect;
use crate::event::{Answer, Event, Moment};
use crate::experience::Trouble;
use crate::fence::Fences;
use crate::id::{Epoch, RecordNo, ReservationId, SecretHash};
use crate::inventory::model::{Inventory, MachineSpec};
use crate::machine::{ImageRef, Machine};
use crate::record::{Parts, Record};
use crate::reservation::{Hold, Reservation};
use crate::time::LabTime;
use pitstop_wire::{MachineName, UserName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A lab at one moment. Rows are shared, so a clone is a cheap snapshot that
/// readers keep while the lab goes on.
#[derive(Debug, Clone, Default)]
pub struct Lab {
    pub(crate) meta: Meta,
    pub(crate) machines: BTreeMap<MachineName, Arc<Machine>>,
    pub(crate) reservations: BTreeMap<ReservationId, Arc<Reservation>>,
    pub(crate) images: BTreeMap<String, Arc<NamedImage>>,
    pub(crate) keys: BTreeMap<(UserName, String), Arc<Remembered>>,

    // Below: not rows. Derived from rows, or true only while this daemon runs.
    pub(crate) inventory: Arc<Inventory>,
    /// What its machines consist of.
    pub(crate) parts: Arc<BTreeMap<MachineName, Parts>>,
    pub(crate) fences: Fences,
    /// Machines at rest, healthy, and ready to be granted.
    pub(crate) free: BTreeSet<MachineName>,
    /// Those of them that wait booted.
    pub(crate) warm: BTreeSet<MachineName>,
    /// Machines by the circuit they hang on.
    pub(crate) on_circuit: BTreeMap<String, BTreeSet<MachineName>>,
    /// Machines that a person wants proven when their circuit has a place.
    pub(crate) asked: BTreeSet<MachineName>,
    /// Machines that wait, or are about to wait, until their circuit bears
    /// that they start.
    pub(crate) starters: BTreeSet<MachineName>,
    /// Lab time of the newest step: what was read long ago is judged by it.
    pub(crate) clock: LabTime,
    /// Reservations in the queue, in the order they are served.
    pub(crate) waiting: BTreeSet<(std::cmp::Reverse<i32>, ReservationId)>,
    /// Ended reservations, oldest end first.
    pub(crate) ended: BTreeSet<(LabTime, ReservationId)>,
    /// Keys, oldest first.
    pub(crate) key_ages: BTreeMap<RecordNo, (UserName, String)>,
    /// When each machine or reservation next needs a judgement.
    pub(crate) timers: BTreeSet<(LabTime, Timer)>,
    pub(crate) due: BTreeMap<Timer, LabTime>,
    /// Until when each session was heard of, for those that must beat.
    pub(crate) beats: BTreeMap<ReservationId, LabTime>,
    /// Until when each check of wires was heard of.
    pub(crate) checks: BTreeMap<MachineName, LabTime>,
    /// When to ask a machine's power again, after an answer that said nothing.
    pub(crate) retries: BTreeMap<MachineName, LabTime>,
    /// How often each machine's agents called in the last minute.
    pub(crate) calls: BTreeMap<MachineName, Calls>,
    /// Whether the queue must be looked at: a machine came free, a
    /// reservation came in, or the inventory changed.
    pub(crate) queue_dirty: bool,
    /// This daemon is about to end, and grants nothing any more.
    pub(crate) draining: bool,
}

/// The one row about the lab itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The daemon that leads.
    pub epoch: Epoch,
    /// Newest record.
    pub records: RecordNo,
    /// Newest reservation.
    pub reservations: u64,
    /// Lab time of the newest commit.
    pub now: LabTime,
    /// Wall time of the newest commit, to continue lab time on start.
    pub wall: i64,
}

/// An image that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// The image.
    pub image: ImageRef,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where it failed and has not worked since, by the machines' class
    /// (empty for machines without one).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trouble: BTreeMap<String, Trouble>,
}

/// An answer remembered under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Whose.
    pub owner: UserName,
    /// The key.
    pub key: String,
    /// SHA-256 of the request.
    pub request: SecretHash,
    /// The answer that was given.
    pub answer: serde_json::Value,
    /// The record that remembered it: its age.
    pub number: RecordNo,
}

/// Calls in the name of one machine since a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    pub since: LabTime,
    /// By agents that were let in.
    pub let_in: u32,
    /// By others.
    pub refused: u32,
}

/// What a timer is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Machine(MachineName),
    Reservation(ReservationId),
    Image(String),
    /// A circuit may bear another that starts.
    Circuit(String),
}

/// A row, by its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// A machine.
    Machine(MachineName),
    /// A reservation.
    Reservation(ReservationId),
    /// An image.
    Image(String),
    /// An idempotency key, by the record that remembered it: the oldest goes first.
    Key(RecordNo),
}

/// A row as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A machine.
    Machine(Arc<Machine>),
    /// A reservation.
    Reservation(Arc<Reservation>),
    /// An image.
    Image(Arc<NamedImage>),
    /// An idempotency key.
    Key(Arc<Remembered>),
}

impl Row {
    /// What it is stored under.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Machine(m) => RowKey::Machine(m.name.clone()),
            Self::Reservation(r) => RowKey::Reservation(r.id),
            Self::Image(i) => RowKey::Image(i.image.name.clone()),
            Self::Key(k) => RowKey::Key(k.number),
        }
    }
}

/// All rows: what the store loads and what a new daemon goes on from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The lab itself.
    pub meta: Meta,
    /// Everything else.
    pub rows: Vec<Row>,
}

/// What a step decided.
#[derive(Debug)]
pub struct Outcome {
    /// What became true, in order. Empty: nothing to commit.
    pub records: Vec<Record>,
    /// Rows these records touched; a key without a row was removed.
    pub touched: BTreeSet<RowKey>,
    /// What is to be done once the records are committed.
    pub effects: Vec<Effect>,
    /// What the asker is told once the records are committed.
    pub answer: Answer,
}

impl Lab {
    /// A lab from its rows; the first event must be [`Event::Start`].
    pub fn from_rows(rows: Rows) -> Self {
        Self::default().filled(rows)
    }

    /// The lab that a whole history leads to: its rows are the fold of its
    /// records.
    pub fn from_records<'r>(records: impl IntoIterator<Item = &'r Record>) -> Self {
        let mut lab = Self::default();
        records.into_iter().for_each(|record| lab.follow(record));
        lab
    }

    /// Makes one more record of a history true, as [`Lab::from_records`] does
    /// with all of them: for a history that is longer than memory.
    pub fn follow(&mut self, record: &Record) {
        self.apply(record);
    }

    /// The lab after a commit that failed: its rows as they are stored, and
    /// what only this daemon knows from `old`, whose rows are not to be
    /// trusted. A session that `old` had ended counts as heard `now`.
    pub fn reopen(rows: Rows, inventory: Arc<Inventory>, old: &Self, now: LabTime) -> Self {
        let mut beats = old.beats.clone();
        let mut checks = old.checks.clone();
        let mut known = BTreeSet::new();
        for row in &rows.rows {
            if let Row::Machine(m) = row
                && m.wiring.is_some()
            {
                checks.entry(m.name.clone()).or_insert(now + crate::wiring::SILENCE);
            }
            if let Row::Reservation(r) = row {
                known.insert(r.id);
                if let Hold::Session { silence } = r.ask.hold {
                    beats.entry(r.id).or_insert(now + silence);
                }
            }
        }
        beats.retain(|id, _| known.contains(id));
        let mut lab = Self {
            inventory: old.inventory.clone(),
            parts: old.parts.clone(),
            fences: old.fences,
            beats,
            checks,
            retries: old.retries.clone(),
            draining: old.draining,
            clock: now,
            ..Self::default()
        };
        lab.is_about(&inventory);
        lab.filled(rows)
    }

    /// Takes an inventory as what the lab consists of now.
    pub(crate) fn is_about(&mut self, inventory: &Arc<Inventory>) {
        if Arc::ptr_eq(&self.inventory, inventory) {
            return;
        }
        self.inventory = inventory.clone();
        // Digests, which are asked for with every look at a machine.
        let parts = |(name, m): (&MachineName, &MachineSpec)| (name.clone(), Parts::of(m));
        self.parts = Arc::new(inventory.machines.iter().map(parts).collect());
    }

    fn filled(mut self, rows: Rows) -> Self {
        let (mut machines, mut reservations, mut images) = (Vec::new(), Vec::new(), Vec::new());
        let (mut key_ages, mut keys) = (Vec::new(), Vec::new());
        for row in rows.rows {
            match row {
                Row::Machine(m) => machines.push((m.name.clone(), m)),
                Row::Reservation(r) => reservations.push((r.id, r)),
                Row::Image(i) => images.push((i.image.name.clone(), i)),
                Row::Key(k) => {
                    key_ages.push((k.number, (k.owner.clone(), k.key.clone())));
                    keys.push(((k.owner.clone(), k.key.clone()), k));
                }
            }
        }
        self.meta = rows.meta;
        self.clock = self.clock.max(self.meta.now);
        // Whole maps at once: made entry by entry they were a seventh of a long simulated run.
        self.machines = machines.into_iter().collect();
        self.reservations = reservations.into_iter().collect();
        self.images = images.into_iter().collect();
        self.key_ages = key_ages.into_iter().collect();
        self.keys = keys.into_iter().collect();
        self.derive_all();
        self
    }

    /// All rows, in a fixed order.
    pub fn rows(&self) -> Rows {
        let rows = (self.machines.values().cloned().map(Row::Machine))
            .chain(self.reservations.values().cloned().map(Row::Reservation))
            .chain(self.images.values().cloned().map(Row::Image))
            .chain(self.key_ages.values().filter_map(|key| self.keys.get(key)).cloned().map(Row::Key))
            .collect();
        Rows { meta: self.meta.clone(), rows }
    }

    /// One row, if it exists.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Machine(name) => self.machines.get(name).cloned().map(Row::Machine),
            RowKey::Reservation(id) => self.reservations.get(id).cloned().map(Row::Reservation),
            RowKey::Image(name) => self.images.get(name).cloned().map(Row::Image),
            RowKey::Key(number) => {
                self.key_ages.get(number).and_then(|key| self.keys.get(key)).cloned().map(Row::Key)
            }
        }
    }

    /// Decides about one event: the only place where a machine or a
    /// reservation changes. The caller commits `records` and the rows of
    /// `touched`, and only then answers and lets `effects` go.
    pub fn step(&mut self, moment: &Moment, event: Event) -> Outcome {
        crate::step::step(self, moment, event)
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<LabTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether the daemon is about to end, and grants nothing any more.
    pub fn draining(&self) -> bool {
        self.draining
    }

    /// Takes the place of the fences, for the simulator.
    pub fn with_fences(mut self, fences: Fences) -> Self {
        self.fences = fences;
        self
    }

    /// The lab's own row.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The inventory of the last start or reload.
    pub fn inventory(&self) -> &Arc<Inventory> {
        &self.inventory
    }

    /// All machines by name.
    pub fn machines(&self) -> impl ExactSizeIterator<Item = &Arc<Machine>> {
        self.machines.values()
    }

    /// One machine.
    pub fn machine(&self, name: &MachineName) -> Option<&Arc<Machine>> {
        self.machines.get(name)
    }

    /// What the inventory says of a machine; `None` if it left.
    pub fn spec(&self, name: &MachineName) -> Option<&MachineSpec> {
        self.inventory.machines.get(name)
    }

    /// All reservations, oldest first; ended ones stay a while.
    pub fn reservations(&self) -> impl ExactSizeIterator<Item = &Arc<Reservation>> {
        self.reservations.values()
    }

    /// One reservation.
    pub fn reservation(&self, id: ReservationId) -> Option<&Arc<Reservation>> {
        self.reservations.get(&id)
    }

    /// The queue, in the order it is served.
    pub fn queue(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.waiting.iter().filter_map(|(_, id)| self.reservations.get(id))
    }

    /// Images that may be asked for.
    pub fn images(&self) -> impl ExactSizeIterator<Item = &Arc<NamedImage>> {
        self.images.values()
    }

    /// Whether this user's reservation is the one that has the machine.
    pub fn holds(&self, user: &UserName, machine: &MachineName) -> bool {
        (self.machines.get(machine))
            .and_then(|m| m.reservation())
            .and_then(|id| self.reservations.get(&id))
            .is_some_and(|r| r.owner == *user)
    }

    /// When a machine's power is to be read again because it did not answer;
    /// `None` if nothing is owed.
    pub fn asks_again(&self, machine: &MachineName) -> Option<LabTime> {
        self.retries.get(machine).copied()
    }

    /// Until when a session may stay silent; `None` if it need not beat.
    pub fn beat_due(&self, id: ReservationId) -> Option<LabTime> {
        self.beats.get(&id).copied()
    }
}
