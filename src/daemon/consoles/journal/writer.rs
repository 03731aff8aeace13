//! The thread that writes all journals.

use super::segments::{Segments, end_of};
use super::{Entry, JournalError, Keeper, SEGMENT, at, segment_path};
use crate::daemon::consoles::ring::{Mark, MarkKind, Shared, Stamp};
use pitstop_core::time::LabTime;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Bytes taken out of the ring at once.
const PIECE: usize = 64 << 10;
/// Files that are kept open, at most.
const OPEN: usize = 512;
/// Shortest time between two index entries about nothing but bytes, in ms.
const STAMP_EVERY: u64 = 1000;
/// Pause between two rounds: a busy line says 2 KB in it, and a write for
/// every few bytes of it would cost more than all the rest.
const ROUND: Duration = Duration::from_millis(150);

/// The thread that writes all journals.
pub struct Journal {
    sender: Sender<Order>,
}

enum Order {
    /// There is something to write; at once, or in the next round.
    Drain(Weak<Shared>, bool),
    Flush(Sender<()>),
}

impl Journal {
    /// Starts the thread.
    pub fn start(keeper: Keeper) -> std::io::Result<Self> {
        let (sender, orders) = channel();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || Rounds::new(keeper).work(&orders))?;
        Ok(Self { sender })
    }

    /// From now on this console is written.
    pub fn adopt(&self, shared: &Arc<Shared>) {
        let (sender, weak) = (self.sender.clone(), Arc::downgrade(shared));
        // The thread lives as long as the process.
        shared.wake_with(Box::new(move |hurry| drop(sender.send(Order::Drain(weak.clone(), hurry)))));
    }

    /// Returns when everything is on disk that watchers of these consoles may
    /// have seen: its reader wakes us only after them.
    pub fn flush(&self, consoles: &[Arc<Shared>]) {
        let (done, is_done) = channel();
        for shared in consoles {
            // Without the thread, the next order is not taken either.
            let _ = self.sender.send(Order::Drain(Arc::downgrade(shared), false));
        }
        if self.sender.send(Order::Flush(done)).is_ok() {
            // It ends either way: with the word or with the thread.
            let _ = is_done.recv();
        }
    }
}

/// The journals, and which of them have something to write.
struct Rounds {
    keeper: Keeper,
    writers: HashMap<usize, Writer>,
    waiting: Vec<Weak<Shared>>,
    /// When they are written.
    due: Option<Instant>,
}

impl Rounds {
    fn new(keeper: Keeper) -> Self {
        Self { keeper, writers: HashMap::new(), waiting: Vec::new(), due: None }
    }

    fn work(mut self, orders: &Receiver<Order>) {
        loop {
            let order = match self.due {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(Order::Drain(console, true)) => self.drain(&console),
                Ok(Order::Drain(console, false)) => {
                    self.waiting.push(console);
                    self.due.get_or_insert_with(|| Instant::now() + ROUND);
                }
                Ok(Order::Flush(done)) => {
                    self.round();
                    self.writers.values().for_each(Writer::sync);
                    // Nobody may be waiting any more.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.round(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn round(&mut self) {
        self.due = None;
        for console in std::mem::take(&mut self.waiting) {
            self.drain(&console);
        }
        self.writers.retain(|_, writer| writer.console.strong_count() > 0);
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
    stamped: LabTime,
    trouble: bool,
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
            stamped: LabTime(0),
            trouble: false,
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
            let (bytes, mark, start) = {
                let ring = shared.ring();
                let mark = ring.mark_from(self.next_mark).cloned();
                let until = mark.as_ref().map_or(u64::MAX, |m| m.position);
                let from = self.cursor.max(ring.start());
                let most = usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX).min(PIECE);
                (ring.get(from, most), mark, ring.start())
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
            let written = self.write(shared, lost, &bytes, due.as_ref());
            if let Err(e) = written {
                self.close();
                shared.ring().lost += bytes.len() as u64;
                if !std::mem::replace(&mut self.trouble, true) {
                    tracing::error!("console journal: {e}; consoles go on, their journal has a gap");
                }
            } else {
                self.trouble = false;
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
        bytes: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), JournalError> {
        let now = shared.now();
        if lost > 0 {
            let text = format!("{lost} bytes are missing here");
            self.note(now, self.cursor, MarkKind::Gap.word(), text)?;
        }
        if !bytes.is_empty() {
            if self.stamped == LabTime(0) || now.at - self.stamped >= STAMP_EVERY {
                self.stamped = now.at;
                self.note(now, self.cursor, "data", String::new())?;
            }
            let end = self.cursor + bytes.len() as u64;
            let files = self.files(self.cursor)?;
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
        let entry = Entry { o: position, t: stamp.at.0, w: stamp.wall, k: kind.to_owned(), x: text };
        let dir = self.dir.clone();
        let files = self.files(position)?;
        let path = segment_path(&dir, files.start, "idx");
        let mut line = serde_json::to_vec(&entry).map_err(|e| at("write", &path)(e.into()))?;
        line.push(b'\n');
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
