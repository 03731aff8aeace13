//! Backups of the database, and admins who put one back: the boards, their
//! disks and what was sent to them stay as they are.

use super::Sim;
use super::daemon::Store;
use super::dice::{Chance, Who};
use crate::event::{Event, Floor};
use crate::id::Epoch;

/// What is kept beside the database.
#[derive(Default)]
pub(super) struct Backups {
    newest: Option<Store>,
    /// The database is a backup, and no daemon has led from it yet: greater
    /// epochs than this one have.
    unseen: Option<Epoch>,
    /// How far the lab has come, in epochs, reservations and lab time.
    floor: Floor,
    now: u64,
}

impl Sim {
    /// Before a daemon starts: now and then somebody put a backup in the
    /// place of the database, and a daemon finds out that it is one.
    pub(super) fn put_back(&mut self) -> bool {
        let led = self.daemon.store.meta().epoch;
        self.daemon.backups.unseen = self.daemon.backups.unseen.filter(|floor| led <= *floor);
        if self.daemon.backups.unseen.is_some() {
            return true; // the daemon that found it died before it had said so
        }
        self.mark();
        // The lock of a daemon that still lives keeps everybody from the database.
        let may = self.daemon.backups.newest.is_some() && !self.daemon.has_zombie();
        let restores = may && self.happens(Who::DAEMON, Chance::Restored);
        if restores && let Some(store) = self.daemon.backups.newest.take() {
            self.daemon.store = store;
            self.daemon.backups.unseen = Some(self.daemon.backups.floor.epoch);
            // Nobody is told any more that he has a machine. Who has one goes on using it.
            self.oracle.forget();
            self.boards.iter_mut().for_each(|board| board.holder = None);
            return true;
        }
        if self.happens(Who::DAEMON, Chance::BacksUp) {
            self.daemon.backups.newest = Some(self.daemon.store.clone());
        }
        false
    }

    /// The mark beside the database, which every commit moves on.
    fn mark(&mut self) {
        let meta = self.daemon.store.meta();
        let backups = &mut self.daemon.backups;
        backups.floor.epoch = backups.floor.epoch.max(meta.epoch);
        backups.floor.reservations = backups.floor.reservations.max(meta.reservations);
        backups.now = backups.now.max(meta.now.0);
    }

    /// The first event of the daemon that found the backup. Lab time does not
    /// go back either.
    pub(super) fn start_restored(&mut self, enrol: bool) -> Event {
        let skew = self.daemon.backups.now as i64 - self.now as i64;
        self.daemon.skew = self.daemon.skew.max(skew);
        Event::StartRestored { inventory: self.file.clone(), enrol, floor: self.daemon.backups.floor }
    }
}
