//! The journal on disk: raw bytes, and beside them an index of when and what.
//!
//! ```text
//! DIR/MACHINE/CONSOLE/00000000000000012345.log   bytes from position 12345 on
//! DIR/MACHINE/CONSOLE/00000000000000012345.idx   one line of JSON per entry
//! ```
//!
//! A segment ends at a power-on or at 8 MiB. Stamps are not in the text: what
//! the machine sent stays as it was sent. One thread writes all journals; a
//! disk that is full or slow costs journal bytes (counted, and said in the
//! journal), never a console.

use super::ring::{Mark, MarkKind, Shared, Stamp};
use pitstop_core::time::LabTime;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

/// Bytes after which a segment ends.
const SEGMENT: u64 = 8 << 20;
/// Bytes kept per console; the oldest segments go first.
const KEEP: u64 = 64 << 20;
/// Bytes taken out of the ring at once.
const PIECE: usize = 64 << 10;
/// Files that are kept open, at most.
const OPEN: usize = 512;
/// Shortest time between two index entries about nothing but bytes, in ms.
const STAMP_EVERY: u64 = 1000;

/// Why a journal could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct JournalError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

fn at<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(std::io::Error) -> JournalError + 'p {
    move |source| JournalError { what, path: path.to_owned(), source }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// Position of the byte it stands before.
    o: u64,
    /// Lab time in milliseconds.
    t: u64,
    /// Wall time in milliseconds since 1970.
    w: i64,
    /// `data`, `boot`, `gap` or `mark`.
    k: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    x: String,
}

/// Where a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Position of the next byte.
    pub position: u64,
    /// Where the newest boot begins, if one is known.
    pub boot: Option<u64>,
}

/// Where the journal in `dir` ends; at 0 if there is none.
pub fn end_of(dir: &Path) -> End {
    let segments = Segments::of(dir);
    let position = segments.list.last().map_or(0, |s| s.start + s.len);
    let boot =
        segments.list.iter().rev().find_map(|s| {
            entries(&segments.path(s.start, "idx")).filter(|e| e.k == "boot").map(|e| e.o).last()
        });
    End { position, boot }
}

fn entries(path: &Path) -> impl Iterator<Item = Entry> + use<> {
    let lines = File::open(path).ok().map(|file| BufReader::new(file).lines());
    // The last line may be half written: it is not there then.
    lines.into_iter().flatten().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

/// The segments of one console, for reading.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    list: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    len: u64,
}

impl Segments {
    /// The segments in `dir`, as they are now.
    pub fn of(dir: &Path) -> Self {
        let mut list = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let start = name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse().ok());
            if let (Some(start), Ok(meta)) = (start, entry.metadata()) {
                list.push(Segment { start, len: meta.len() });
            }
        }
        list.sort_by_key(|s| s.start);
        Self { dir: dir.to_owned(), list }
    }

    fn path(&self, start: u64, kind: &str) -> PathBuf {
        segment_path(&self.dir, start, kind)
    }

    /// Up to `most` bytes from `position` on, up to the next gap; empty if
    /// the journal has nothing there.
    pub fn read(&self, position: u64, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut from = position;
        for segment in self.list.iter().filter(|s| s.start + s.len > position) {
            if segment.start > from || bytes.len() >= most {
                break;
            }
            let want = usize::try_from(segment.start + segment.len - from)
                .unwrap_or(usize::MAX)
                .min(most - bytes.len());
            let mut piece = vec![0; want];
            let read = File::open(self.path(segment.start, "log"))
                .and_then(|file| file.read_exact_at(&mut piece, from - segment.start));
            if read.is_err() {
                break;
            }
            from += want as u64;
            bytes.extend(piece);
        }
        bytes
    }

    /// Where the first segment behind `position` begins.
    pub fn next_start(&self, position: u64) -> Option<u64> {
        self.list.iter().map(|s| s.start).find(|start| *start > position)
    }

    /// The marks from position `from` to before `to`, oldest first.
    pub fn marks(&self, from: u64, to: u64) -> Vec<Mark> {
        let mut marks = Vec::new();
        for (at, segment) in self.list.iter().enumerate() {
            let next = self.list.get(at + 1).map_or(u64::MAX, |s| s.start);
            if next < from || segment.start >= to {
                continue;
            }
            for entry in entries(&self.path(segment.start, "idx")) {
                let kind = match entry.k.as_str() {
                    "boot" => MarkKind::Boot,
                    "gap" => MarkKind::Gap,
                    "mark" => MarkKind::Note,
                    _ => continue,
                };
                if entry.o >= from && entry.o < to {
                    let stamp = Stamp { at: LabTime(entry.t), wall: entry.w };
                    marks.push(Mark { position: entry.o, stamp, kind, text: entry.x, number: 0 });
                }
            }
        }
        marks
    }
}

fn segment_path(dir: &Path, start: u64, kind: &str) -> PathBuf {
    dir.join(format!("{start:020}.{kind}"))
}

/// The thread that writes all journals.
pub struct Journal {
    sender: Sender<Order>,
}

enum Order {
    Drain(Weak<Shared>),
    Flush(Sender<()>),
}

impl Journal {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, orders) = channel();
        std::thread::Builder::new().name("journal".into()).spawn(move || work(&orders))?;
        Ok(Self { sender })
    }

    /// From now on this console is written.
    pub fn adopt(&self, shared: &Arc<Shared>) {
        let (sender, weak) = (self.sender.clone(), Arc::downgrade(shared));
        // The thread lives as long as the process.
        shared.wake_with(Box::new(move || drop(sender.send(Order::Drain(weak.clone())))));
    }

    /// Returns when everything so far is on disk.
    pub fn flush(&self) {
        let (done, is_done) = channel();
        if self.sender.send(Order::Flush(done)).is_ok() {
            // It ends either way: with the word or with the thread.
            let _ = is_done.recv();
        }
    }
}

fn work(orders: &Receiver<Order>) {
    let mut writers: HashMap<usize, Writer> = HashMap::new();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Drain(weak) => {
                let key = weak.as_ptr() as usize;
                let Some(shared) = weak.upgrade() else {
                    writers.remove(&key);
                    continue;
                };
                if writers.len() > OPEN {
                    writers.values_mut().for_each(Writer::close);
                }
                writers.retain(|_, w| w.console.strong_count() > 0);
                let writer = writers.entry(key).or_insert_with(|| Writer::new(&shared));
                writer.drain(&shared);
            }
            Order::Flush(done) => {
                for writer in writers.values() {
                    writer.sync();
                }
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
        }
    }
}

/// The journal of one console, for writing.
struct Writer {
    console: Weak<Shared>,
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
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            console: Arc::downgrade(shared),
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
        shared.noted.store(false, Ordering::Release);
        loop {
            let (bytes, mark, start) = {
                let ring = shared.ring();
                let mark = ring.marks.iter().find(|m| m.number >= self.next_mark).cloned();
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
            if let Some(mark) = due {
                self.next_mark = mark.number + 1;
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
                self.close();
                self.begin(mark.position)?;
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
            self.begin(position)?;
        }
        self.open.as_mut().ok_or_else(|| at("open", &self.dir)(std::io::ErrorKind::NotFound.into()))
    }

    /// Opens a segment at `position`: the last one, if it ends there and has
    /// room, else a new one.
    fn begin(&mut self, position: u64) -> Result<(), JournalError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(at("make", &self.dir))?;
        let was_open = self.open.take().is_some();
        let segments = Segments::of(&self.dir);
        let last = segments.list.last().copied();
        // After a restart the last segment goes on, torn index line or not.
        let goes_on =
            last.filter(|s| !was_open && s.start + s.len == position && s.len < SEGMENT && s.len > 0);
        let start = goes_on.map_or(position, |s| s.start);
        if goes_on.is_none() {
            self.drop_oldest(&segments);
        }
        let open = |kind: &str| {
            let path = segment_path(&self.dir, start, kind);
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
            file.map_err(at("open", &path))
        };
        self.open = Some(Files { start, log: open("log")?, index: open("idx")?, end: position });
        Ok(())
    }

    fn drop_oldest(&self, segments: &Segments) {
        let mut kept: u64 = segments.list.iter().map(|s| s.len).sum();
        for segment in &segments.list {
            if kept <= KEEP - SEGMENT {
                return;
            }
            kept -= segment.len;
            for kind in ["log", "idx"] {
                let path = segment_path(&self.dir, segment.start, kind);
                if let Err(e) = fs::remove_file(&path) {
                    tracing::warn!("console journal: cannot remove {}: {e}", path.display());
                }
            }
        }
    }
}
