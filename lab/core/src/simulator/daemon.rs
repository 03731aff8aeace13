//! The daemon in the simulated world: loop, store and death.

use super::Sim;
use super::board::Happening;
use super::restored::Backup;
use crate::Lab;
use crate::event::{Answer, Event, Floor, Moment};
use crate::fence::{Fence, Fences};
use crate::id::Epoch;
use crate::lab::{Meta, Outcome, Row, RowKey, Rows};
use std::collections::BTreeMap;

/// One in so many steps the daemon dies right before, or right after, its
/// commit; more often where something is about to be done about it.
const DEATHS: (u64, u64) = (1_500, 150);

/// The daemon and what it keeps on disk.
pub(super) struct Daemon {
    fences: Fences,
    /// The running daemon's lab.
    pub lab: Option<Lab>,
    /// A daemon that was stopped, believes it still leads, and wakes later.
    zombie: Option<Lab>,
    /// The database.
    pub meta: Meta,
    pub rows: BTreeMap<RowKey, Row>,
    /// The fold of all committed records.
    pub shadow: Lab,
    /// The newest backup.
    pub backup: Option<Backup>,
    /// How far the lab has come.
    pub floor: Floor,
}

impl Daemon {
    pub fn new(fences: Fences) -> Self {
        Self {
            fences,
            lab: None,
            zombie: None,
            meta: Meta::default(),
            rows: BTreeMap::new(),
            shadow: Lab::default(),
            backup: None,
            floor: Floor::default(),
        }
    }

    fn write(&mut self, lab: &Lab, out: &Outcome) -> Result<(), String> {
        for record in &out.records {
            if record.number != self.shadow.meta.records + 1 {
                return Err(format!("history forked at record {}", record.number));
            }
            self.shadow.apply(record);
        }
        if !out.records.is_empty() {
            self.meta = lab.meta.clone();
            self.advance_floor(&lab.meta);
        }
        for key in &out.touched {
            match lab.row(key) {
                Some(row) => drop(self.rows.insert(key.clone(), row)),
                None => drop(self.rows.remove(key)),
            }
        }
        Ok(())
    }

    pub fn stored(&self) -> Rows {
        Rows { meta: self.meta.clone(), rows: self.rows.values().cloned().collect() }
    }
}

impl Sim {
    pub(super) fn restart(&mut self) {
        if self.daemon.lab.is_some() {
            return;
        }
        self.check_fold();
        let start = self.start_event();
        let lab = Lab::from_rows(self.daemon.stored()).with_fences(self.daemon.fences);
        self.daemon.lab = Some(lab);
        self.deliver(start);
        if self.daemon.lab.as_ref().is_some_and(|l| l.images().len() == 0) {
            self.add_images();
        }
        if self.daemon.zombie.is_some() {
            let wake = self.rng.u64(100..90_000);
            self.at(wake, Happening::ZombieWakes);
        }
    }

    pub(super) fn tick(&mut self) {
        self.deliver(Event::Tick);
    }

    fn moment(&mut self) -> Moment {
        Moment { now: self.now, wall: self.now.0 as i64, entropy: self.entropy() }
    }

    /// Steps, commits, checks, answers and lets effects go, in this order;
    /// or dies somewhere in between. `None`: no answer was heard.
    pub(super) fn deliver(&mut self, event: Event) -> Option<Answer> {
        let moment = self.moment();
        self.daemon.lab.as_ref()?;
        self.note(|| format!("event {event:?}").chars().take(300).collect());
        let lab = self.daemon.lab.as_mut()?;
        let out = lab.step(&moment, event);
        self.report.steps += 1;
        let deaths = match out.effects.is_empty() {
            true => DEATHS.0,
            // Without intents a death is dangerous between two effects only:
            // there it is made likely, so that the lack is found soon.
            false if !self.daemon.fences.stands(Fence::IntentFirst) => DEATHS.1 / 4,
            false => DEATHS.1,
        };
        if !out.records.is_empty() && self.fault("killed before commit", deaths) {
            let epoch = self.epoch();
            let lab = self.daemon.lab.take();
            if !self.daemon.fences.stands(Fence::IntentFirst) {
                self.perform_all(&out, epoch); // they left, and nobody will know
            }
            self.die(lab);
            return None;
        }
        let lab = self.daemon.lab.take()?;
        let written = self.daemon.write(&lab, &out);
        self.daemon.lab = Some(lab);
        if let Err(text) = written {
            self.violation(text);
        }
        self.report.records += out.records.len() as u64;
        if self.config.trace {
            for record in &out.records {
                self.note(|| {
                    format!("  record {} {:?}", record.number, record.change).chars().take(300).collect()
                });
            }
        }
        self.check_step(&out);
        if !out.records.is_empty() && self.fault("killed after commit", deaths) {
            let lab = self.daemon.lab.take();
            self.die(lab);
            return None;
        }
        let epoch = self.epoch();
        self.perform_all(&out, epoch);
        Some(out.answer)
    }

    fn epoch(&self) -> Epoch {
        self.daemon.lab.as_ref().map(|l| l.meta.epoch).unwrap_or_default()
    }

    fn perform_all(&mut self, out: &Outcome, epoch: Epoch) {
        for effect in out.effects.clone() {
            self.perform(effect, epoch);
        }
    }

    fn die(&mut self, lab: Option<Lab>) {
        self.report.kills += 1;
        if self.rng.u64(0..4) == 0 {
            // Not dead but stopped. What it had not committed, it forgets:
            // it wakes with what the store held then.
            self.daemon.zombie = lab.map(|_| {
                let mut z = Lab::from_rows(self.daemon.stored()).with_fences(self.daemon.fences);
                z.inventory = self.inventory.clone();
                z.derive_all();
                z
            });
        }
        for agent in &mut self.agents {
            agent.connected = false;
        }
        let alive: Vec<usize> = (0..self.agents.len()).filter(|a| self.agents[*a].alive).collect();
        for agent in alive {
            let slow = self.fault("agent slow to return", 4);
            let retry = self.rng.u64(100..if slow { 120_000 } else { 5_000 });
            self.at(retry, Happening::Hello(agent));
        }
        // Now and then for longer than any phase, or a holder who may claim, has.
        let down =
            if self.rng.u8(..8) == 0 { self.rng.u64(60_000..3_600_000) } else { self.rng.u64(200..60_000) };
        self.at(down, Happening::Restart);
    }

    /// The stopped daemon goes on with what it was about to do.
    pub(super) fn zombie_wakes(&mut self) {
        let Some(mut lab) = self.daemon.zombie.take() else { return };
        self.note(|| "a stopped daemon wakes".into());
        let moment = self.moment();
        let out = lab.step(&moment, Event::Tick);
        let led = self.daemon.meta.epoch == lab.meta.epoch;
        if !led && self.daemon.fences.stands(Fence::Epoch) {
            return; // the store refuses it, and it ends itself
        }
        if let Err(text) = self.daemon.write(&lab, &out) {
            return self.violation(text);
        }
        let epoch = lab.meta.epoch;
        for effect in out.effects {
            self.perform(effect, epoch);
        }
    }
}
