//! Consoles: everything a machine ever said, for whoever watches, and a
//! keyboard for one.
//!
//! ```text
//!  line ─▶ task ─▶ ring ─▶ journal (a thread that may wait for the disk) ─▶ keeper (packs, drops the oldest)
//!           │       └────▶ watchers (each with a cursor, may be slow)
//!           └─▶ listener (what means something becomes a fact)
//! ```
//!
//! The task that reads a line waits for nobody: it puts bytes into the ring
//! and goes on. Journal and watchers have cursors into it; whoever falls
//! behind skips, and that is said where it happened. All lines are read on a
//! thread of their own, so that nothing else in the daemon delays them: a
//! UART that nobody reads loses bytes after a third of a second.

mod journal;
mod line;
mod listen;
mod listener;
mod marks;
mod plain;
mod ring;
mod tenancy;
mod times;
mod watcher;

#[cfg(test)]
mod tests;

pub use journal::{JournalError, Quota, Segments};
pub use marks::follow;
pub use ring::{Mark, MarkKind, Stamp};
pub use tenancy::Viewer;
pub use watcher::{Keyboard, Piece, Replay, Seats, Watcher};

use super::Clock;
use super::hands::{Answer, Attention, Rigs};
use journal::{Journal, Keeper};
use line::Task;
use listener::{Heard, Listener};
use pitstop_core::Lab;
use pitstop_core::id::RecordNo;
use pitstop_core::saying::Rules;
use pitstop_drivers::{Console as Driver, DriverError};
use pitstop_wire::{MachineName, UserName};
use regex::Regex;
use ring::{Ring, Shared};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tenancy::Tenancy;
use tokio::sync::mpsc;

/// Every console of the lab.
#[derive(Clone)]
pub struct Consoles {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    stamp: Arc<dyn Fn() -> Stamp + Send + Sync>,
    journal: Journal,
    keeper: Keeper,
    rules: Arc<Rules>,
    /// What is heard, and who asks for it.
    tell: mpsc::Sender<Said>,
    told: Mutex<Option<mpsc::Receiver<Said>>>,
    runtime: tokio::runtime::Handle,
    all: RwLock<BTreeMap<MachineName, Vec<Arc<Entry>>>>,
}

/// What a machine was heard to say.
struct Said {
    machine: MachineName,
    /// Nonce of the attempt that its boot belongs to.
    nonce: Option<String>,
    heard: Heard,
}

/// Sayings that wait for the decision loop. There are a handful per boot.
const SAID: usize = 1024;

/// One console and the task that reads it.
struct Entry {
    name: String,
    driver: Result<Arc<dyn Driver>, DriverError>,
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.close("the console is no longer in the inventory");
    }
}

/// How a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The console's name.
    pub console: String,
    /// Whether it is open; if not, why.
    pub line: Result<(), String>,
    /// Since when, in wall time.
    pub since: i64,
    /// Bytes the journal ever took in.
    pub position: u64,
    /// Bytes the journal could not take in.
    pub lost: u64,
}

/// Why there is no such console to attach to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// The machine is not in the inventory.
    #[error("there is no machine {0}")]
    NoMachine(MachineName),
    /// The machine has no consoles.
    #[error("{0} has no console")]
    None(MachineName),
    /// It has others.
    #[error("{machine} has no console `{asked}`; it has {has}")]
    NoSuch {
        /// The machine.
        machine: MachineName,
        /// What was asked for.
        asked: String,
        /// What there is.
        has: String,
    },
    /// The machine is somebody's who is not watched by this user.
    #[error("{machine} is {holder}'s, whose consoles are not for {user} to watch")]
    Held {
        /// The machine.
        machine: MachineName,
        /// Who has it.
        holder: UserName,
        /// Who asked.
        user: String,
    },
    /// It is nobody's, and may say yet what its last holder had it say.
    #[error("{machine} was not seen off since its last holder: what it says is not for {user} to watch")]
    Last {
        /// The machine.
        machine: MachineName,
        /// Who asked.
        user: String,
    },
}

impl Consoles {
    /// Consoles that keep their journals below `dir`. Starts the thread that
    /// reads lines and the one that writes journals.
    ///
    /// # Errors
    /// A thread or its runtime cannot be started.
    pub fn start(dir: &Path, clock: Clock) -> std::io::Result<Self> {
        Self::with_stamp(dir, move || Stamp { at: clock.now(), wall: clock.wall() })
    }

    /// The same with any clock.
    ///
    /// # Errors
    /// As [`Consoles::start`].
    pub fn with_stamp(
        dir: &Path,
        stamp: impl Fn() -> Stamp + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::with_quota(dir, stamp, Quota::default())
    }

    /// The same with so much room on the disk.
    ///
    /// # Errors
    /// As [`Consoles::start`].
    pub fn with_quota(
        dir: &Path,
        stamp: impl Fn() -> Stamp + Send + Sync + 'static,
        quota: Quota,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // It lives as long as the process: the runtime is never dropped, so
        // that no line is closed before the very end.
        std::thread::Builder::new()
            .name("consoles".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        let keeper = Keeper::start(dir, quota)?;
        let (tell, told) = mpsc::channel(SAID);
        let inner = Inner {
            dir: dir.to_owned(),
            stamp: Arc::new(stamp),
            journal: Journal::start(keeper.clone())?,
            keeper,
            rules: Arc::new(Rules::builtin().map_err(std::io::Error::other)?),
            tell,
            told: Mutex::new(Some(told)),
            runtime: handle,
            all: RwLock::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Follows the drivers: opens new consoles, closes those that are gone.
    pub fn load(&self, rigs: &Rigs) {
        let mut all = self.inner.all.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *all);
        for rig in rigs.all() {
            let name = &rig.spec.name;
            let had = old.remove(name).unwrap_or_default();
            let entry = |(console, driver): &(String, Result<Arc<dyn Driver>, DriverError>)| {
                let same = |e: &&Arc<Entry>| match (&e.driver, driver) {
                    (Ok(a), Ok(b)) => e.name == *console && Arc::ptr_eq(a, b),
                    (Err(a), Err(b)) => e.name == *console && a == b,
                    _ => false,
                };
                had.iter()
                    .find(same)
                    .cloned()
                    .unwrap_or_else(|| Arc::new(self.open(name, console, driver.clone(), Tenancy::unknown)))
            };
            let mut entries: Vec<_> = rig.consoles().iter().map(entry).collect();
            // `main` is the one that is meant when none is named.
            entries.sort_by_key(|e| e.name != "main");
            all.insert(name.clone(), entries);
        }
    }

    /// Adds a console behind those the machine has, which everybody may watch.
    pub fn add(&self, machine: &MachineName, console: &str, driver: Arc<dyn Driver>) {
        let entry = Arc::new(self.open(machine, console, Ok(driver), |_| Tenancy::open()));
        let mut all = self.inner.all.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(machine.clone()).or_default().push(entry);
    }

    fn open(
        &self,
        machine: &MachineName,
        console: &str,
        driver: Result<Arc<dyn Driver>, DriverError>,
        tenancy: impl Fn(&journal::End) -> Tenancy,
    ) -> Entry {
        let inner = &self.inner;
        let dir = inner.dir.join(machine.as_str()).join(console);
        let end = journal::end_of(&dir);
        let (input, typed) = mpsc::channel(line::INPUT);
        let shared = Arc::new(Shared::new(Ring::new(&end, tenancy(&end)), dir, input, inner.stamp.clone()));
        inner.journal.adopt(&shared);
        let name = format!("{machine}/{console}");
        let listener = Listener::new(inner.rules.clone());
        let tell = self.teller(machine, &shared);
        let task = Task { name, driver: driver.clone(), shared: shared.clone(), typed, listener, tell };
        let task = inner.runtime.spawn(task.run()).abort_handle();
        Entry { name: console.to_owned(), driver, shared, task }
    }

    /// Hands on what this console's machine was heard to say.
    fn teller(&self, machine: &MachineName, shared: &Arc<Shared>) -> line::Tell {
        let (tell, machine, shared) = (self.inner.tell.clone(), machine.clone(), Arc::downgrade(shared));
        Box::new(move |heard| {
            let nonce = shared.upgrade().and_then(|shared| shared.ring().attempt.clone());
            let said = Said { machine: machine.clone(), nonce, heard };
            if let Err(e) = tell.try_send(said) {
                tracing::warn!("{machine} said something that nobody takes: {e}");
            }
        })
    }

    /// From now on what the machine says belongs to this attempt, or to none.
    fn attempt(&self, machine: &MachineName, nonce: Option<&str>) {
        for entry in self.entries(machine) {
            entry.shared.ring().attempt = nonce.map(str::to_owned);
        }
    }

    /// The machine failed: what it said in this boot is evidence, and stays.
    fn hold(&self, machine: &MachineName) {
        for entry in self.entries(machine) {
            let (boot, end) = {
                let ring = entry.shared.ring();
                (ring.boot.unwrap_or(ring.end()), ring.end())
            };
            self.inner.keeper.hold(&entry.shared.dir, boot, end);
        }
    }

    /// What it said then is needed by nobody any more.
    fn release(&self, machine: &MachineName) {
        for entry in self.entries(machine) {
            self.inner.keeper.release(&entry.shared.dir);
        }
    }

    /// Runs what follows a console live where the console is read: whoever
    /// wakes it then need not wake another thread. It must never wait for a
    /// disk.
    pub fn spawn<F>(&self, follow: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.runtime.spawn(follow)
    }

    /// The last lines that a machine said on its first console, oldest first;
    /// none for a machine without one.
    pub fn last_lines(&self, machine: &MachineName, lines: usize, viewer: &Viewer) -> Vec<String> {
        let found = self.find(machine, None);
        found.map(|entry| watcher::last_lines(&entry.shared, lines, viewer)).unwrap_or_default()
    }

    /// Learns from the lab, as it is committed, whose these machines are now,
    /// before anybody else hears of it: who may not watch them any more gets
    /// no byte that they say from here on. Without `machines`: all of them.
    pub fn know(&self, lab: &Lab, machines: Option<&BTreeSet<&MachineName>>) {
        if machines.is_none() {
            self.inner.keeper.limit(Quota::of(lab.inventory()));
        }
        let private = lab.inventory().private_consoles();
        let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
        let affected: Vec<_> = match machines {
            Some(some) => some.iter().filter_map(|name| all.get_key_value(*name)).collect(),
            None => all.iter().collect(),
        };
        for (name, entries) in affected.into_iter().filter(|(_, entries)| !entries.is_empty()) {
            let whose = lab.whose_console(name);
            entries.iter().for_each(|entry| entry.shared.belongs(whose.clone(), private));
        }
    }

    fn find(&self, machine: &MachineName, console: Option<&str>) -> Result<Arc<Entry>, ConsoleError> {
        let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
        let entries = all.get(machine).ok_or_else(|| ConsoleError::NoMachine(machine.clone()))?;
        let found = match console {
            None => entries.first(),
            Some(name) => entries.iter().find(|e| e.name == name),
        };
        found.cloned().ok_or_else(|| match console {
            Some(asked) if !entries.is_empty() => ConsoleError::NoSuch {
                machine: machine.clone(),
                asked: asked.to_owned(),
                has: entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", "),
            },
            _ => ConsoleError::None(machine.clone()),
        })
    }

    fn entries(&self, machine: &MachineName) -> Vec<Arc<Entry>> {
        let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(machine).cloned().unwrap_or_default()
    }

    /// Attaches a watcher, and a keyboard that is not taken yet; the viewer's
    /// name is shown to the others. `console: None` is `main`, or else the
    /// first.
    ///
    /// # Errors
    /// There is no such console, or it is not for this viewer to watch.
    pub fn attach(
        &self,
        machine: &MachineName,
        console: Option<&str>,
        replay: Replay,
        viewer: &Viewer,
    ) -> Result<(Watcher, Keyboard), ConsoleError> {
        let entry = self.find(machine, console)?;
        watcher::attach(&entry.shared, &entry.name, replay, viewer).map_err(|holder| {
            let (machine, user) = (machine.clone(), viewer.user.clone());
            match holder {
                Some(holder) => ConsoleError::Held { machine, holder, user },
                None => ConsoleError::Last { machine, user },
            }
        })
    }

    /// How the machine's lines are.
    pub fn status(&self, machine: &MachineName) -> Vec<Status> {
        let status = |entry: &Arc<Entry>| {
            let ring = entry.shared.ring();
            Status {
                console: entry.name.clone(),
                line: ring.line.clone(),
                since: ring.line_since.wall,
                position: ring.end(),
                lost: ring.lost,
            }
        };
        self.entries(machine).iter().map(status).collect()
    }

    /// Consoles whose journal does not take in what is said now: how many,
    /// and why of the first.
    pub fn unstored(&self) -> Option<(usize, String)> {
        let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut why = all.values().flatten().filter_map(|entry| entry.shared.ring().unstored.clone());
        let first = why.next()?;
        Some((1 + why.count(), first))
    }

    /// The newest bytes of the machine's first console, `most` at most,
    /// beginning at a line: the evidence of a failure.
    pub fn tail(&self, machine: &MachineName, most: usize) -> Vec<u8> {
        let Ok(entry) = self.find(machine, None) else { return Vec::new() };
        let ring = entry.shared.ring();
        ring.lines(ring.end().saturating_sub(most as u64))
    }

    /// Writes a mark into the journals of all consoles of the machine.
    pub fn mark(&self, machine: &MachineName, kind: MarkKind, text: &str) {
        for entry in self.entries(machine) {
            entry.shared.mark(kind, text.to_owned());
        }
    }

    /// Takes the keyboard away from whoever has it, on every console of the
    /// machine: its holder changed with this record. Whoever took it knowing
    /// that keeps it.
    pub fn free_keyboards(&self, machine: &MachineName, changed: RecordNo) {
        for entry in self.entries(machine) {
            entry.shared.free_keyboard(changed);
        }
    }

    /// Takes every keyboard away, since nobody knows whose machines these are
    /// now, and says so on every console.
    fn free_all(&self, why: &str) {
        let all: Vec<_> = {
            let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
            all.values().flatten().cloned().collect()
        };
        for entry in all {
            entry.shared.free_keyboard(RecordNo::MAX);
            entry.shared.mark(MarkKind::Note, why.to_owned());
        }
    }

    /// Has the journals on disk before it returns (at an orderly end).
    pub fn flush(&self) {
        let all: Vec<_> = {
            let all = self.inner.all.read().unwrap_or_else(PoisonError::into_inner);
            all.values().flatten().map(|entry| Arc::clone(&entry.shared)).collect()
        };
        self.inner.journal.flush(&all);
        self.inner.keeper.flush();
    }
}

impl Attention for Consoles {
    fn lines(&self, machine: &MachineName) -> Vec<(String, Result<String, String>)> {
        let said = |status: &Status| match status.position {
            0 => "open; nothing was ever heard on it".to_owned(),
            bytes => format!("open; {bytes} bytes so far"),
        };
        self.status(machine)
            .into_iter()
            .map(|s| (s.console.clone(), s.line.clone().map(|()| said(&s))))
            .collect()
    }

    fn says(
        &self,
        machine: &MachineName,
        console: &str,
        line: Regex,
    ) -> Answer<'static, Result<String, String>> {
        match self.find(machine, Some(console)) {
            Ok(entry) => Box::pin(listen::says(entry.shared.clone(), line)),
            Err(e) => Box::pin(async move { Err(e.to_string()) }),
        }
    }

    fn follow(&self, rigs: &Rigs) {
        self.load(rigs);
    }

    fn know(&self, lab: &Lab, machines: Option<&BTreeSet<&MachineName>>) {
        self.know(lab, machines);
    }

    fn ready<'a>(&'a self, machine: &'a MachineName, limit: Duration) -> Answer<'a, ()> {
        let entries = self.entries(machine);
        Box::pin(async move {
            let tried = entries.iter().map(|entry| entry.shared.expect_line());
            let all = async {
                for tried in tried.collect::<Vec<_>>() {
                    tried.await;
                }
            };
            // A console that hangs is no reason to keep the machine off.
            let _ = tokio::time::timeout(limit, all).await;
        })
    }
}
