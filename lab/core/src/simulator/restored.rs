//! Backups of the database, and admins who put one back: the machines, their
//! disks and what was sent to them stay as they are.

use super::Sim;
use super::daemon::Daemon;
use crate::Lab;
use crate::event::{Event, Floor};
use crate::lab::{Meta, Row, RowKey};
use std::collections::BTreeMap;

/// One in so many starts is from a backup, if there is one.
const RESTORES: u64 = 12;
/// At one in so many starts a backup is taken.
const BACKUPS: u64 = 4;

/// What a backup holds.
pub(super) struct Backup {
    meta: Meta,
    rows: BTreeMap<RowKey, Row>,
    shadow: Lab,
}

impl Daemon {
    /// How far the lab has come, as the mark beside the database has it.
    pub fn advance_floor(&mut self, meta: &Meta) {
        self.floor = Floor {
            epoch: self.floor.epoch.max(meta.epoch),
            reservations: self.floor.reservations.max(meta.reservations),
        };
    }

    fn back_up(&mut self) {
        let (meta, rows, shadow) = (self.meta.clone(), self.rows.clone(), self.shadow.clone());
        self.backup = Some(Backup { meta, rows, shadow });
    }

    fn put_back(&mut self) {
        if let Some(Backup { meta, rows, shadow }) = self.backup.take() {
            (self.meta, self.rows, self.shadow) = (meta, rows, shadow);
        }
    }
}

impl Sim {
    /// What the next daemon starts with: now and then a backup was put in the
    /// place of the database.
    pub(super) fn start_event(&mut self) -> Event {
        let inventory = self.inventory.clone();
        if self.daemon.backup.is_some() && self.fault("restored from a backup", RESTORES) {
            self.daemon.put_back();
            // Nobody is told any more that he has a machine.
            self.holders.clear();
            return Event::StartRestored { inventory, enrol: true, floor: self.daemon.floor };
        }
        if self.rng.u64(0..BACKUPS) == 0 {
            self.daemon.back_up();
        }
        Event::Start { inventory, enrol: true }
    }
}
