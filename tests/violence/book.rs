//! What clients were told. The lab must stand by all of it, whatever was done
//! to it since: this is what it is measured by.

use pitstop_client::api::{Extend, PowerRequest, Reserve};
use pitstop_wire::MachineName;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was asked for, so that it can be asked again.
#[derive(Debug, Clone)]
pub enum Call {
    /// A reservation.
    Reserve(Reserve),
    /// To have it. Its key is the client's own affair.
    Claim,
    /// More time.
    Extend(Extend),
    /// To give it back.
    Release,
    /// Power of a machine that the reservation has.
    Power(MachineName, PowerRequest),
}

/// An answer that a client got: yes.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The idempotency key it was asked under; none for a claim.
    pub key: Option<String>,
    /// The reservation that the answer is about.
    pub id: String,
    /// What was asked.
    pub call: Call,
}

/// A machine that a tenant uses and that nobody else may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenancy {
    /// Whose.
    pub reservation: String,
    /// The boot that his command runs in.
    pub boot_id: String,
    /// How often the machine had booted by then.
    pub boots: u64,
}

/// The oracle's memory. Shared by all clients.
#[derive(Default)]
pub struct Book {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    acks: Vec<Ack>,
    told: HashMap<String, String>,
    holders: HashMap<MachineName, String>,
    given_back: BTreeSet<String>,
    tenancies: HashMap<MachineName, Tenancy>,
    beating: BTreeSet<String>,
    doubtful: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Book {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong, whatever else turns out.
    pub fn violation(&self, words: String) {
        self.inner().wrong.push(words);
    }

    /// What was wrong so far; asked for once.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().wrong)
    }

    /// A key is about to be used: until it is answered, nobody knows.
    pub fn asks(&self, key: &str) {
        self.inner().doubtful.insert(key.to_owned());
    }

    /// It was answered no: nothing came of it.
    pub fn refused(&self, key: &str) {
        self.inner().doubtful.remove(key);
    }

    /// A client was told yes. The same key must always mean the same.
    pub fn acknowledged(&self, ack: Ack) {
        let mut inner = self.inner();
        if let Some(key) = &ack.key {
            inner.doubtful.remove(key);
            let first = inner.told.get(key).cloned();
            match first {
                Some(first) if first == ack.id => return,
                Some(first) => {
                    let words = format!("key {key} was answered with {first}, and later with {}", ack.id);
                    return inner.wrong.push(words);
                }
                None => drop(inner.told.insert(key.clone(), ack.id.clone())),
            }
        }
        inner.acks.push(ack);
    }

    /// The acknowledged answers from this one on.
    pub fn acks_from(&self, first: usize) -> Vec<Ack> {
        self.inner().acks.get(first..).unwrap_or_default().to_vec()
    }

    /// Keys whose answer never came.
    pub fn doubtful(&self) -> Vec<String> {
        self.inner().doubtful.iter().cloned().collect()
    }

    /// A client was told that this machine is his. Until he gives it back, it
    /// is nobody else's.
    pub fn got(&self, id: &str, machine: &MachineName) {
        let mut inner = self.inner();
        let before = inner.holders.insert(machine.clone(), id.to_owned());
        if let Some(before) = before.filter(|b| b != id && !inner.given_back.contains(b)) {
            inner.wrong.push(format!("{machine} was given to {id} while {before} has it"));
        }
    }

    /// Before it is given back (or left to lapse), since the next holder may
    /// hear of it first.
    pub fn gives_back(&self, id: &str) {
        let mut inner = self.inner();
        inner.given_back.insert(id.to_owned());
        inner.beating.remove(id);
    }

    /// This session beats from now on: it may not be lost.
    pub fn beats(&self, id: &str) {
        self.inner().beating.insert(id.to_owned());
    }

    /// Its own client was too slow to beat; what becomes of it shows nothing.
    pub fn excuse(&self, id: &str) {
        self.inner().beating.remove(id);
    }

    /// So is what becomes of all of them: nobody can be heard now.
    pub fn excuse_all(&self) {
        self.inner().beating.clear();
    }

    /// Whether this session's client does all it must.
    pub fn is_beating(&self, id: &str) -> bool {
        self.inner().beating.contains(id)
    }

    /// From now on the machine runs somebody's command.
    pub fn moves_in(&self, machine: &MachineName, tenancy: Tenancy) {
        self.inner().tenancies.insert(machine.clone(), tenancy);
    }

    /// Before he leaves.
    pub fn moves_out(&self, machine: &MachineName) {
        self.inner().tenancies.remove(machine);
    }

    /// Who lives where.
    pub fn tenancies(&self) -> Vec<(MachineName, Tenancy)> {
        self.inner().tenancies.iter().map(|(m, t)| (m.clone(), t.clone())).collect()
    }

    /// Whether he still does.
    pub fn lives(&self, machine: &MachineName, tenancy: &Tenancy) -> bool {
        self.inner().tenancies.get(machine) == Some(tenancy)
    }
}

/// How a tenant marks the disk he was given.
pub const MARK: &str = "PITSTOP-TENANT-";
/// Length of what follows, in bytes.
pub const MARK_NAME: usize = 16;

/// Marks of others on a disk.
pub fn foreign_marks(disk: &[u8], own: &str) -> Vec<String> {
    let mark = MARK.as_bytes();
    let found = disk.windows(mark.len()).enumerate().filter(|(_, bytes)| *bytes == mark).map(|(at, _)| at);
    found
        .map(|at| {
            let name = disk.get(at + mark.len()..).unwrap_or_default();
            String::from_utf8_lossy(name.get(..MARK_NAME).unwrap_or(name)).into_owned()
        })
        .filter(|name| name != own)
        .collect()
}
