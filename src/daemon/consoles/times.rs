//! When the bytes came that a watcher is given: from memory, where they are,
//! else from the index of the journal.

use super::journal::Segments;
use super::ring::Ring;
use pitstop_core::time::WallMs;
use std::path::Path;

/// The times of one watcher's bytes. The index has one at most every second,
/// and one wherever a machine speaks after a longer silence.
#[derive(Debug, Default)]
pub struct Times {
    /// Position of the stamp that was told last.
    told: Option<u64>,
    /// Where the next one begins: no piece goes across it.
    pub next: Option<u64>,
    /// Stamps of one segment, and where the next one begins.
    old: Vec<(u64, WallMs)>,
    old_until: u64,
}

impl Times {
    /// When the byte at `position` came, unless that was told.
    pub fn news(&mut self, ring: &Ring, position: u64) -> Option<WallMs> {
        let (here, newer) = ring.stamp_at(position);
        let here = match here {
            Some((at, stamp)) => {
                self.next = newer;
                Some((at, stamp.wall))
            }
            None => self.old_at(position, newer),
        };
        let (at, wall) = here?;
        (self.told.replace(at) != Some(at)).then_some(wall)
    }

    /// Reads what the index says of the segment that `position` is in, unless
    /// it was read.
    pub fn load(&mut self, dir: &Path, position: u64) {
        if position >= self.old_until {
            (self.old, self.old_until) = Segments::of(dir).stamps(position);
            self.old.sort_by_key(|(at, _)| *at);
        }
    }

    fn old_at(&mut self, position: u64, newer: Option<u64>) -> Option<(u64, WallMs)> {
        let behind = self.old.partition_point(|(at, _)| *at <= position);
        let next = self.old.get(behind).map(|(at, _)| *at).into_iter().chain(newer).min();
        // At the end of the segment there is another to be read.
        let end = (position < self.old_until).then_some(self.old_until);
        self.next = next.into_iter().chain(end).min();
        behind.checked_sub(1).and_then(|at| self.old.get(at)).copied()
    }
}
