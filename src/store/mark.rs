//! How far a lab has come, in a small file beside its database: `lab.mark`.
//!
//! A database that was restored, or that lost what it had been told is on
//! disk, looks like any other. But its machines went on without it. The mark
//! gives it away: it is written after the commit that it speaks of, so it is
//! never ahead of the lab's own database.
//!
//! It is written whole and synced when a daemon takes the lab, before anything
//! is decided; after every other commit it is overwritten in place, unsynced,
//! which costs no time: that survives the death of the daemon, and a power
//! loss only as far as the kernel had got.

use super::StoreError;
use crate::whole;
use pitstop_core::id::Epoch;
use pitstop_core::lab::Meta;
use pitstop_core::time::LabTime;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The mark's name within the data directory.
pub const FILE: &str = "lab.mark";

/// First word of the file: what it is, and in which form.
const WORD: &str = "pitstop-mark-1";

/// How far a lab has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The database's name.
    pub store: String,
    /// The newest daemon that led.
    pub epoch: Epoch,
    /// The newest record.
    pub records: u64,
    /// The newest reservation.
    pub reservations: u64,
    /// Lab time.
    pub now: LabTime,
}

impl Mark {
    /// The mark of a commit.
    pub fn of(store: &str, meta: &Meta) -> Self {
        Self {
            store: store.to_owned(),
            epoch: meta.epoch,
            records: meta.records,
            reservations: meta.reservations,
            now: meta.now,
        }
    }
}

impl fmt::Display for Mark {
    /// Always as long, so that it can be overwritten in place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, epoch, records, reservations, now } = self;
        writeln!(f, "{WORD} {store} {:020} {records:020} {reservations:020} {:020}", epoch.0, now.0)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [WORD, store, epoch, records, reservations, now] = words[..] else { return Err(()) };
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        Ok(Self {
            store: store.to_owned(),
            epoch: Epoch(number(epoch)?),
            records: number(records)?,
            reservations: number(reservations)?,
            now: LabTime(number(now)?),
        })
    }
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This.
    Mark(Mark),
    /// It is not there, or makes no sense.
    Nothing,
}

impl Found {
    /// What the file of this data directory says.
    ///
    /// # Errors
    /// It is there and cannot be read: nobody knows what it says.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let mark = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
                Ok(mark.map_or(Self::Nothing, Self::Mark))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::Nothing),
            Err(source) => Err(StoreError::File { what: "read", path, source }),
        }
    }
}

/// The file, as its daemon keeps it.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    /// Open for overwriting, and what it says, once this daemon has written it.
    own: Option<(File, Mark)>,
}

impl Marker {
    /// The file of this data directory.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE), own: None }
    }

    /// Says how far the lab has come. Answers whether the file was written
    /// anew, and is on disk.
    ///
    /// # Errors
    /// The first mark of an epoch cannot be written. One that cannot be
    /// overwritten later stays as it is, which is still true.
    pub fn advance(&mut self, mark: Mark) -> Result<bool, StoreError> {
        if let Some((file, old)) = &mut self.own
            && (&old.store, old.epoch) == (&mark.store, mark.epoch)
        {
            if let Err(error) = file.write_all_at(mark.to_string().as_bytes(), 0) {
                tracing::warn!(path = %self.path.display(), %error, "how far the lab has come cannot be written");
            }
            *old = mark;
            return Ok(false);
        }
        let failed = |source| StoreError::File { what: "write", path: self.path.clone(), source };
        whole::write(&self.path, mark.to_string().as_bytes(), 0o600).map_err(failed)?;
        let file = OpenOptions::new().write(true).open(&self.path).map_err(failed)?;
        self.own = Some((file, mark));
        Ok(true)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // An orderly end; after any other the kernel writes it when it likes.
        if let Some((file, _)) = &self.own
            && let Err(error) = file.sync_data()
        {
            tracing::warn!(path = %self.path.display(), %error, "how far the lab has come is not surely on disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: u64, records: u64) -> Mark {
        Mark { store: "0a".repeat(16), epoch: Epoch(epoch), records, reservations: 7, now: LabTime(12_345) }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_is_always_as_long() {
        let (small, large) = (mark(1, 2), mark(u64::MAX, u64::MAX));
        assert_eq!(small.to_string().parse(), Ok(small.clone()));
        assert_eq!(large.to_string().parse(), Ok(large.clone()));
        assert_eq!(small.to_string().len(), large.to_string().len());
        for bad in ["", "pitstop-mark-1", "pitstop-mark-2 a 1 2 3 4", "pitstop-mark-1 a 1 2 3 x", "\0\0\0"] {
            assert_eq!(bad.parse::<Mark>(), Err(()), "{bad:?}");
        }
    }

    #[test]
    fn the_file_says_the_newest_and_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Found::read(dir.path()).unwrap(), Found::Nothing);
        let mut marker = Marker::new(dir.path());
        assert!(marker.advance(mark(1, 10)).unwrap());
        assert!(!marker.advance(mark(1, 9_999)).unwrap(), "in place");
        assert_eq!(Found::read(dir.path()).unwrap(), Found::Mark(mark(1, 9_999)));
        assert!(marker.advance(mark(2, 10_000)).unwrap(), "another epoch is written whole");
        assert_eq!(Found::read(dir.path()).unwrap(), Found::Mark(mark(2, 10_000)));
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
