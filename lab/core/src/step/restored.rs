//! The start from rows of the past: a backup was put in the place of the
//! database.
//!
//! What has happened since, nobody remembers: a machine that the rows call
//! free and proven may have a tenant, a reservation that they call active may
//! have ended and its machine be another's. So no row is believed that could
//! hand a machine over dirty, or to two holders: every reservation ends, every
//! machine is at rest with nothing known of its disks and its power. Nothing
//! is switched for that: who is on a machine stays there until somebody is
//! granted it, whose turn begins with a power-off that is read back.

use super::Step;
use crate::event::Floor;
use crate::record::Change;
use crate::reservation::End;
use pitstop_wire::MachineName;

impl Step<'_> {
    /// Believes of the rows only what cannot have changed without a person:
    /// which machines there are, and their health. Call it with the new
    /// inventory in place, and before anything is decided by rows.
    pub(crate) fn doubt_rows(&mut self, floor: Floor) {
        let epoch = floor.epoch.max(self.epoch());
        self.change(Change::Restored { epoch, reservations: floor.reservations });
        let open = self.lab.reservations.values().filter(|r| !r.ended()).map(|r| r.id);
        for reservation in open.collect::<Vec<_>>() {
            self.change(Change::Ended { reservation, why: End::Restored });
        }
        for name in self.names() {
            let may_land_until = self.now() + self.longest_landing(&name);
            self.change(Change::MachineDoubted { machine: name, may_land_until });
        }
    }

    /// How long after its decision a power command may land on a machine at
    /// most; the last one that is not remembered was decided before now.
    fn longest_landing(&self, name: &MachineName) -> u64 {
        let legs = self.lab.machines.get(name).map_or(0, |m| m.legs.len());
        let declared = self.spec(name).map_or(0, |s| s.legs.len());
        let command = (legs.max(declared) as u64 + 1) * self.limits(name).power_ms + self.fetch_ms(name);
        command.max(self.longest_program(name))
    }
}
