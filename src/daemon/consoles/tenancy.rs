//! Whose that is what a console says, and who may see it.
//!
//! A machine that changes hands is not silent at that moment: bytes wait in
//! ports, sockets and the memory of BMCs. So what it says is *sealed* when its
//! owner changes, for all but admins, until the task that reads it has found
//! its line empty; what is said from there on is the new owner's. Where that
//! is goes into the journal's index, so that the next daemon knows it too.

use super::journal::End;
use super::ring::{Mark, MarkKind, Stamp};
use pitstop_core::time::LabTime;
use pitstop_core::watching::{Audience, Whose};
use pitstop_wire::UserName;

/// Repeats of a line that are remembered: what came before them is hidden as
/// well where there are more.
const HOLES: usize = 64;
/// In the index: what nobody has.
const NOBODYS: &str = "-";

/// Who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// The user.
    pub user: String,
    /// May watch everything.
    pub admin: bool,
}

impl Viewer {
    /// A viewer of this name.
    pub fn new(user: &UserName, admin: bool) -> Self {
        Self { user: user.to_string(), admin }
    }
}

/// What the index of a journal knows of who had the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// Who: a reservation, or [`NOBODYS`].
    pub label: String,
    /// From this byte on.
    pub from: u64,
    /// From this moment on.
    pub at: LabTime,
    /// What a line said again meanwhile, from and to.
    pub holes: Vec<(u64, u64)>,
}

/// Whose the bytes of a console are.
#[derive(Debug, Clone)]
pub struct Tenancy {
    /// Everybody may see everything, whatever else is known.
    open: bool,
    owned: Owned,
    /// `None`: nobody but admins may watch.
    audience: Option<Watchable>,
    /// What comes from this byte on is nobody's yet.
    sealed: Option<u64>,
    /// What comes may have been said before, whoever has the machine.
    repeats: bool,
    /// Counts changes.
    pub version: u64,
}

/// Who may watch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watchable {
    /// Everybody: nobody has the machine.
    Nobodys,
    Held(Audience),
}

impl Tenancy {
    /// A console that everybody may watch.
    pub fn open() -> Self {
        let owned = Owned::default();
        Self { open: true, owned, audience: None, sealed: None, repeats: false, version: 0 }
    }

    /// A console of which nobody has said yet whose it is; its journal ends
    /// here.
    pub fn unknown(end: &End) -> Self {
        let owned = end.owned.clone().unwrap_or_default();
        let sealed = Some(end.position);
        Self { open: false, owned, audience: None, sealed, repeats: false, version: 0 }
    }

    /// Learns whose what is said from `end` on is, and whether anybody's
    /// console is kept from anybody. True: it is sealed from here on.
    pub fn learn(&mut self, whose: Whose, private: bool, end: u64, now: LabTime) -> bool {
        let audience = match whose {
            Whose::Held(audience) => Some(Watchable::Held(audience)),
            Whose::Nobody => Some(Watchable::Nobodys),
            // The last daemon has seen that it was nobody's.
            Whose::Last if self.audience.is_none() && self.owned.label == NOBODYS => Some(Watchable::Nobodys),
            // Theirs who had it, or of nobody known.
            Whose::Last => self.audience.clone(),
            Whose::Left => None,
        };
        let label = match &audience {
            None => String::new(),
            Some(Watchable::Nobodys) => NOBODYS.to_owned(),
            Some(Watchable::Held(audience)) => audience.reservation.to_string(),
        };
        let first = self.audience.is_none() && audience.is_some();
        let other = label != self.owned.label;
        if self.open == private || self.audience != audience {
            self.version += 1;
        }
        (self.open, self.audience) = (!private, audience);
        if other {
            self.owned = Owned { label, from: end, at: now, holes: Vec::new() };
            self.sealed = Some(end);
            self.version += 1;
        } else if first && !self.repeats {
            // Where it began is known from the last daemon.
            self.sealed = None;
        }
        other
    }

    /// What comes from here on may have been said before.
    pub fn seal(&mut self, end: u64) {
        self.repeats = true;
        self.sealed.get_or_insert(end);
        self.version += 1;
    }

    /// Whether what comes may have been said before.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Whether what comes is nobody's yet.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// The line was found empty: from `end` on it is the owner's, if he is
    /// known. What the journal is to know of it.
    pub fn unseal(&mut self, end: u64, now: Stamp) -> Option<(MarkKind, Stamp, String)> {
        self.repeats = false;
        if self.audience.is_none() && !self.open {
            return None;
        }
        let sealed = self.sealed.take()?;
        self.version += 1;
        if sealed == self.owned.from {
            self.owned.from = end;
            let stamp = Stamp { at: self.owned.at, ..now };
            return Some((MarkKind::Own, stamp, self.owned.label.clone()));
        }
        if sealed == end {
            return None;
        }
        self.owned.holes.push((sealed, end));
        if self.owned.holes.len() > HOLES {
            let (_, to) = self.owned.holes.remove(0);
            self.owned.from = to;
        }
        Some((MarkKind::Hole, now, sealed.to_string()))
    }

    /// Why this viewer may not watch; the holder, if somebody has it.
    pub fn refuses(&self, viewer: &Viewer) -> Option<Option<UserName>> {
        if self.open || viewer.admin {
            return None;
        }
        match &self.audience {
            Some(Watchable::Nobodys) => None,
            Some(Watchable::Held(audience)) if audience.admits(&viewer.user) => None,
            Some(Watchable::Held(audience)) => Some(Some(audience.holder.clone())),
            None => Some(None),
        }
    }

    /// What of the bytes this viewer may see.
    pub fn sight(&self, viewer: &Viewer) -> Sight {
        if self.open || viewer.admin {
            return Sight { from: 0, at: LabTime::default(), to: u64::MAX, holes: Vec::new() };
        }
        let to = self.sealed.unwrap_or(u64::MAX);
        Sight { from: self.owned.from.min(to), at: self.owned.at, to, holes: self.owned.holes.clone() }
    }
}

/// What of a console one may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// From this byte on.
    pub from: u64,
    /// Marks from this moment on.
    at: LabTime,
    /// Up to here.
    pub to: u64,
    /// But for these, from and to.
    holes: Vec<(u64, u64)>,
}

impl Sight {
    /// The first byte at or behind `position` that may be seen, and up to
    /// where, at most, those that follow it.
    pub fn next(&self, position: u64) -> (u64, u64) {
        let mut at = position.max(self.from);
        for (from, to) in &self.holes {
            if at < *from {
                return (at, (*from).min(self.to));
            }
            at = at.max(*to);
        }
        (at, self.to)
    }

    /// Whether this mark may be seen.
    pub fn shows(&self, mark: &Mark) -> bool {
        mark.kind.is_told() && mark.position >= self.from && mark.stamp.at >= self.at
    }
}
