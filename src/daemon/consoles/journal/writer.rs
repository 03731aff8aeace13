//! The thread that writes all journals.

use super::segments::{Segments, end_of};
use super::{Entry, JournalError, Keeper, SEGMENT, at, segment_path};
use crate::daemon::consoles::ring::{Mark, MarkKind, Shared, Stamp};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bytes taken out of the ring at once.
const PIECE: usize = 64 << 10;
/// Files that are kept open, at most.
const OPEN: usize = 512;
/// Pause between two rounds: a busy line says 2 KB in it, and a write for
/// every few bytes of it would cost more than all the rest.
const ROUND: Duration = Duration::from_millis(150);

/// The thread that writes all journals. It ends with this.
pub struct Journal {
    orders: Arc<Orders>,
}

/// What there is to write. Who adds to a round that is due anyway wakes
/// nobody: hundreds of lines would else cost as many wake-ups per round.
#[derive(Default)]
struct Orders {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    /// For the next round.
    waiting: Vec<Weak<Shared>>,
    /// When that is.
    due: Option<Instant>,
    /// At once.
    urgent: Vec<Weak<Shared>>,
    flushes: Vec<Sender<()>>,
    over: bool,
}

impl Orders {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, console: Weak<Shared>, hurry: bool) {
        let mut queue = self.queue();
        let wakes = hurry || queue.due.is_none();
        if hurry {
            queue.urgent.push(console);
        } else {
            queue.waiting.push(console);
            queue.due.get_or_insert_with(|| Instant::now() + ROUND);
        }
        drop(queue);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// What is to be done now; waits for it. `None`: it is over.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if queue.over {
                return None;
            }
            let left = queue.due.map(|due| due.saturating_duration_since(Instant::now()));
            let flushes = std::mem::take(&mut queue.flushes);
            let mut consoles = std::mem::take(&mut queue.urgent);
            if !flushes.is_empty() || left.is_some_and(|left| left.is_zero()) {
                consoles.append(&mut queue.waiting);
                queue.due = None;
            }
            if !consoles.is_empty() || !flushes.is_empty() {
                return Some(Work { consoles, flushes });
            }
            queue = match left {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// However the thread ends, nobody waits for it any more.
struct End<'a>(&'a Orders);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.over = true;
        queue.flushes.clear();
    }
}

struct Work {
    consoles: Vec<Weak<Shared>>,
    flushes: Vec<Sender<()>>,
}

impl Journal {
    /// Starts the thread.
    pub fn start(keeper: Keeper) -> std::io::Result<Self> {
        let orders = Arc::<Orders>::default();
        let taken = orders.clone();
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let _end = End(&taken);
            Rounds { keeper, writers: HashMap::new() }.work(&taken);
        })?;
        Ok(Self { orders })
    }

    /// From now on this console is written.
    pub fn adopt(&self, shared: &Arc<Shared>) {
        let (orders, weak) = (self.orders.clone(), Arc::downgrade(shared));
        shared.wake_with(Box::new(move |hurry| orders.drain(weak.clone(), hurry)));
    }

    /// Returns when everything is on disk that watchers of these consoles may
    /// have seen: its reader wakes us only after them.
    pub fn flush(&self, consoles: &[Arc<Shared>]) {
        let (done, is_done) = channel();
        let mut queue = self.orders.queue();
        if queue.over {
            return;
        }
        queue.waiting.extend(consoles.iter().map(Arc::downgrade));
        queue.flushes.push(done);
        drop(queue);
        self.orders.wake.notify_one();
        // It ends either way: with the word or with the thread.
        let _ = is_done.recv();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.orders.queue().over = true;
        self.orders.wake.notify_one();
    }
}

/// The journals.
struct Rounds {
    keeper: Keeper,
    writers: HashMap<usize, Writer>,
}

impl Rounds {
    fn work(mut self, orders: &Orders) {
        while let Some(Work { consoles, flushes }) = orders.next() {
            consoles.iter().for_each(|console| self.drain(console));
            self.writers.retain(|_, writer| writer.console.strong_count() > 0);
            if !flushes.is_empty() {
                self.writers.values().for_each(Writer::sync);
            }
            // Nobody may be waiting any more.
            for done in flushes {
                let _ = done.send(());
            }
        }
    }

    fn drain(&mut self, console: &Weak<Shared>) {
        let Some(shared) = console.upgrade() else { return };
        if self.writers.len() > OPEN {
            self.writers.values_mut().for_each(Writer::close);
        }
        let keeper = &self.keeper;
        let writer = self
            .writers
            .entry(console.as_ptr() as usize)
            .or_insert_with(|| Writer::new(&shared, keeper.clone()));
        writer.drain(&shared);
    }
}

/// The journal of one console, for writing.
struct Writer {
    console: Weak<Shared>,
    keeper: Keeper,
    dir: PathBuf,
    /// Position of the next byte to be written.
    cursor: u64,
    next_mark: u64,
    open: Option<Files>,
}

struct Files {
    start: u64,
    log: File,
    index: File,
    /// Position behind the last byte written.
    end: u64,
}

impl Writer {
    fn new(shared: &Arc<Shared>, keeper: Keeper) -> Self {
        Self {
            console: Arc::downgrade(shared),
            keeper,
            dir: shared.dir.clone(),
            cursor: end_of(&shared.dir).position,
            next_mark: 0,
            open: None,
        }
    }

    fn close(&mut self) {
        self.open = None;
    }

    fn sync(&self) {
        if let Some(files) = &self.open
            && let Err(e) = files.log.sync_all().and_then(|()| files.index.sync_all())
        {
            tracing::warn!("console journal {}: {e}", self.dir.display());
        }
    }

    fn drain(&mut self, shared: &Shared) {
        // Before the ring is looked at: what comes later wakes us again.
        shared.looked_at();
        loop {
            let (bytes, stamps, mark, start) = {
                let ring = shared.ring();
                let mark = ring.mark_from(self.next_mark).cloned();
                let until = mark.as_ref().map_or(u64::MAX, |m| m.position);
                let from = self.cursor.max(ring.start());
                let most = usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX).min(PIECE);
                let bytes = ring.get(from, most);
                let stamps: Vec<_> = ring.stamps_in(from, from + bytes.len() as u64).collect();
                (bytes, stamps, mark, ring.start())
            };
            let lost = start.saturating_sub(self.cursor);
            if lost > 0 {
                self.cursor = start;
                self.close();
            }
            let due = mark.filter(|m| m.position <= self.cursor + bytes.len() as u64);
            if bytes.is_empty() && due.is_none() {
                return;
            }
            let written = self.write(shared, lost, (&bytes, &stamps), due.as_ref());
            if let Err(e) = written {
                self.close();
                let mut ring = shared.ring();
                ring.lost += bytes.len() as u64;
                if ring.unstored.replace(e.to_string()).is_none() {
                    tracing::error!("console journal: {e}; consoles go on, their journal has a gap");
                }
            } else {
                shared.ring().unstored = None;
            }
            if lost > 0 {
                shared.ring().lost += lost;
            }
            self.cursor += bytes.len() as u64;
            match due {
                Some(mark) => self.next_mark = mark.number + 1,
                // All there was: whatever came since wakes us again.
                None if bytes.len() < PIECE => return,
                None => {}
            }
        }
    }

    fn write(
        &mut self,
        shared: &Shared,
        lost: u64,
        (bytes, stamps): (&[u8], &[(u64, Stamp)]),
        mark: Option<&Mark>,
    ) -> Result<(), JournalError> {
        if lost > 0 {
            let text = format!("{lost} bytes are missing here");
            self.note(shared.now(), self.cursor, MarkKind::Gap.word(), text)?;
        }
        if !bytes.is_empty() {
            let end = self.cursor + bytes.len() as u64;
            let files = self.files(self.cursor)?;
            let index = segment_path(&shared.dir, files.start, "idx");
            let lines = stamps.iter().map(|(position, stamp)| line(*stamp, *position, "data", String::new()));
            let lines = lines.collect::<Result<Vec<_>, _>>().map_err(at("write", &index))?.concat();
            if !lines.is_empty() {
                files.index.write_all(&lines).map_err(at("write", &index))?;
            }
            files
                .log
                .write_all(bytes)
                .map_err(at("write", &segment_path(&shared.dir, files.start, "log")))?;
            files.end = end;
        }
        if let Some(mark) = mark {
            if mark.kind == MarkKind::Boot {
                self.begin(mark.position, true)?;
            }
            self.note(mark.stamp, mark.position, mark.kind.word(), mark.text.clone())?;
        }
        Ok(())
    }

    fn note(&mut self, stamp: Stamp, position: u64, kind: &str, text: String) -> Result<(), JournalError> {
        let dir = self.dir.clone();
        let files = self.files(position)?;
        let path = segment_path(&dir, files.start, "idx");
        let line = line(stamp, position, kind, text).map_err(at("write", &path))?;
        files.index.write_all(&line).map_err(at("write", &path))
    }

    /// The open segment, if it may take bytes at `position`; else a new one.
    fn files(&mut self, position: u64) -> Result<&mut Files, JournalError> {
        let fits = self.open.as_ref().is_some_and(|f| f.end == position && position - f.start < SEGMENT);
        if !fits {
            let fresh = self.open.is_some();
            self.begin(position, fresh)?;
        }
        self.open.as_mut().ok_or_else(|| at("open", &self.dir)(std::io::ErrorKind::NotFound.into()))
    }

    /// Opens a segment at `position`: the last one, if it ends there and has
    /// room and no `fresh` one is wanted, else a new one.
    fn begin(&mut self, position: u64, fresh: bool) -> Result<(), JournalError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(at("make", &self.dir))?;
        self.open = None;
        let segments = Segments::of(&self.dir);
        let last = segments.list.last().copied();
        // After a restart the last segment goes on, torn index line or not.
        let goes_on =
            last.filter(|s| !fresh && !s.packed && s.end() == position && s.len < SEGMENT && s.len > 0);
        let start = goes_on.map_or(position, |s| s.start);
        let open = |kind: &str| {
            let path = segment_path(&self.dir, start, kind);
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
            file.map_err(at("open", &path))
        };
        self.open = Some(Files { start, log: open("log")?, index: open("idx")?, end: position });
        if goes_on.is_none() && last.is_some() {
            self.keeper.closed(&self.dir);
        }
        Ok(())
    }
}

/// A line of an index.
fn line(stamp: Stamp, position: u64, kind: &str, text: String) -> std::io::Result<Vec<u8>> {
    let entry = Entry { o: position, t: stamp.at.0, w: stamp.wall, k: kind.to_owned(), x: text };
    let mut line = serde_json::to_vec(&entry)?;
    line.push(b'\n');
    Ok(line)
}
