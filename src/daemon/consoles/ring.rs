//! The newest bytes of one console, and everything its task, its journal and
//! its watchers share.

use super::journal::End;
use super::tenancy::Tenancy;
use pitstop_core::id::RecordNo;
use pitstop_core::time::{LabTime, WallMs};
use pitstop_core::watching::Whose;
use pitstop_wire::text::one_line;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Bytes kept in memory per console: 22 s at 115200 baud.
pub const RING: usize = 256 << 10;
/// Marks kept in memory per console.
const MARKS: usize = 256;
/// Shortest time between two stamps of bytes, in ms.
const STAMP_EVERY: u64 = 1000;
/// Stamps kept in memory per console.
const STAMPS: usize = 4096;

/// A moment, in both times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Lab time.
    pub at: LabTime,
    /// Wall time.
    pub wall: WallMs,
}

/// What a mark is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// A power-on: a boot begins here.
    Boot,
    /// Somebody was given the machine.
    Reserve,
    /// Bytes are missing here.
    Gap,
    /// Anything else.
    Note,
    /// From here on it is somebody's: for the journal only.
    Own,
    /// From some byte on up to here it was said before: for the journal only.
    Hole,
}

impl MarkKind {
    /// What a word of the journal's index says; `None` for entries that are
    /// no marks, and those of newer programs.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Boot, Self::Reserve, Self::Gap, Self::Note].into_iter().find(|kind| kind.word() == word)
    }

    /// The word in the journal's index.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Reserve => "reserve",
            Self::Gap => "gap",
            Self::Note => "mark",
            Self::Own => "own",
            Self::Hole => "hole",
        }
    }

    /// Whether watchers are told.
    pub fn is_told(self) -> bool {
        !matches!(self, Self::Own | Self::Hole)
    }
}

/// Something that happened between two bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Position of the byte it stands before.
    pub position: u64,
    /// When.
    pub stamp: Stamp,
    /// What it is about.
    pub kind: MarkKind,
    /// In words.
    pub text: String,
    /// Its number: marks at one position have an order.
    pub number: u64,
}

/// The bytes in memory. Positions count the bytes of the whole journal.
pub struct Ring {
    bytes: VecDeque<u8>,
    start: u64,
    pub marks: VecDeque<Mark>,
    pub numbers: u64,
    /// Where the newest boot begins, if one is known.
    pub boot: Option<u64>,
    /// Where the newest reservation begins, if one is known.
    pub reserve: Option<u64>,
    /// Nonce of the attempt that what is said now belongs to.
    pub attempt: Option<String>,
    pub line: Result<(), String>,
    pub line_since: Stamp,
    /// Who has the keyboard.
    pub writer: Option<Writer>,
    /// Number of the connection, and who it is.
    pub watchers: Vec<(u64, String)>,
    /// Whose the bytes are.
    pub tenancy: Tenancy,
    /// When the byte at each of these positions came, oldest first.
    stamps: VecDeque<(u64, Stamp)>,
    /// Counts changes of who sits here, and of the line.
    pub seats: u64,
    pub closed: Option<String>,
    /// Bytes the journal missed.
    pub lost: u64,
    /// Why the journal does not take in what is said now, if it does not.
    pub unstored: Option<String>,
}

/// Whoever has the keyboard.
pub struct Writer {
    /// Number of the connection.
    pub id: u64,
    /// The user.
    pub who: String,
    /// The newest record that was known when he was found to be allowed to.
    pub as_of: RecordNo,
}

impl Ring {
    /// An empty ring at this position of the journal.
    pub fn new(end: &End, tenancy: Tenancy) -> Self {
        Self {
            tenancy,
            stamps: VecDeque::new(),
            bytes: VecDeque::new(),
            start: end.position,
            marks: VecDeque::new(),
            numbers: 0,
            boot: end.boot,
            reserve: end.reserve,
            attempt: None,
            line: Err("not opened yet".into()),
            line_since: Stamp::default(),
            writer: None,
            watchers: Vec::new(),
            seats: 0,
            closed: None,
            lost: 0,
            unstored: None,
        }
    }

    /// Position of the oldest byte in memory.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Position of the next byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn push(&mut self, bytes: &[u8], now: Stamp) {
        if self.stamps.back().is_none_or(|(_, last)| now.at - last.at >= STAMP_EVERY) {
            self.stamps.push_back((self.end(), now));
        }
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(RING);
        self.bytes.drain(..over);
        self.start += over as u64;
        // The last one before the oldest byte says when that came.
        while self.stamps.len() > STAMPS || self.stamps.get(1).is_some_and(|(at, _)| *at <= self.start) {
            self.stamps.pop_front();
        }
    }

    /// The stamp that holds for the byte at `position`, if it is in memory,
    /// and where the next one begins.
    pub fn stamp_at(&self, position: u64) -> (Option<(u64, Stamp)>, Option<u64>) {
        let behind = self.stamps.partition_point(|(at, _)| *at <= position);
        let here = behind.checked_sub(1).and_then(|at| self.stamps.get(at)).copied();
        (here, self.stamps.get(behind).map(|(at, _)| *at))
    }

    /// The stamps of these bytes.
    pub fn stamps_in(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Stamp)> {
        let first = self.stamps.partition_point(|(at, _)| *at < from);
        self.stamps.range(first..).copied().take_while(move |(at, _)| *at < to)
    }

    fn note(&mut self, kind: MarkKind, stamp: Stamp, text: String) {
        let (position, number) = (self.end(), self.numbers);
        self.numbers += 1;
        self.marks.push_back(Mark { position, stamp, kind, text, number });
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }

    /// Up to `most` bytes from `position` on, as far as they are in memory.
    pub fn get(&self, position: u64, most: usize) -> Vec<u8> {
        let skip = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let (front, back) = self.bytes.as_slices();
        let first = front.get(skip..).unwrap_or_default();
        let first = &first[..most.min(first.len())];
        let second = back.get(skip.saturating_sub(front.len())..).unwrap_or_default();
        let second = &second[..(most - first.len()).min(second.len())];
        [first, second].concat()
    }

    /// The first mark with this number or a later one.
    pub fn mark_from(&self, number: u64) -> Option<&Mark> {
        // They are in the order of their numbers, without a hole.
        let first = self.marks.front()?.number;
        self.marks.get(usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX))
    }

    /// All bytes from the first line that begins at or behind `position`.
    pub fn lines(&self, position: u64) -> Vec<u8> {
        let from = position.max(self.start);
        let bytes = self.get(from, usize::MAX);
        let cut = if from == 0 { 0 } else { line_start(&bytes) };
        bytes[cut..].to_vec()
    }
}

/// Index of the first byte behind a line's end; 0 if there is none.
pub fn line_start(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1)
}

/// What is typed.
#[derive(Debug)]
pub enum Input {
    /// Keys.
    Keys(Vec<u8>),
    /// A break; the answer is whether it was sent.
    Break(oneshot::Sender<Result<(), String>>),
}

/// What is typed, and in which turn of the console's owners: what was typed
/// for one is not for the machine of the next.
#[derive(Debug)]
pub struct Typed {
    /// Counts owners.
    pub turn: u64,
    /// What.
    pub input: Input,
}

/// Shared by the task, the journal and the watchers of one console. The lock
/// is held for a copy at most, never across a wait.
pub struct Shared {
    ring: Mutex<Ring>,
    /// Counts changes; whoever follows waits for the next.
    changes: watch::Sender<u64>,
    /// Where the journal keeps this console.
    pub dir: PathBuf,
    /// Keys for the line.
    pub input: mpsc::Sender<Typed>,
    /// Set while the journal knows that there is something to write.
    pub noted: AtomicBool,
    /// Bytes since it was told; set so far that it knows that it must hurry.
    unsaved: AtomicUsize,
    /// Tells the journal.
    wake: Mutex<Option<Wake>>,
    /// Counts power-ons: what was heard before the newest may be heard again.
    pub boots: AtomicU64,
    /// Tells the task to try the line at once.
    pub kick: Notify,
    /// Counts owners.
    pub turns: AtomicU64,
    /// Whether what comes is nobody's yet: the task is to find the line empty.
    pub sealed: AtomicBool,
    /// Tells the task of it.
    pub seal: Notify,
    /// Counts tries to open the line, and says whether it is open.
    pub tries: watch::Sender<(u64, bool)>,
    stamp: Arc<dyn Fn() -> Stamp + Send + Sync>,
}

/// How a console tells the journal that there is something to write, and
/// whether it is urgent.
pub type Wake = Box<dyn Fn(bool) + Send + Sync>;

/// Bytes that may wait for the journal's next round: a quarter of the ring.
const URGENT: usize = RING / 4;

impl Shared {
    pub fn new(
        ring: Ring,
        dir: PathBuf,
        input: mpsc::Sender<Typed>,
        stamp: Arc<dyn Fn() -> Stamp + Send + Sync>,
    ) -> Self {
        let sealed = AtomicBool::new(ring.tenancy.is_sealed());
        Self {
            ring: Mutex::new(ring),
            changes: watch::Sender::new(0),
            dir,
            input,
            noted: AtomicBool::new(false),
            unsaved: AtomicUsize::new(0),
            wake: Mutex::new(None),
            boots: AtomicU64::new(0),
            kick: Notify::new(),
            turns: AtomicU64::new(0),
            sealed,
            seal: Notify::new(),
            tries: watch::Sender::new((0, false)),
            stamp,
        }
    }

    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Stamp {
        (self.stamp)()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn wake_with(&self, wake: Wake) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(wake);
    }

    /// Something changed that watchers show.
    pub fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// The same, and the journal has `more` bytes (or a mark) to write.
    fn changed_for_journal(&self, more: usize) {
        self.changed();
        let unsaved = self.unsaved.fetch_add(more, Ordering::AcqRel);
        let hurry = unsaved < URGENT && unsaved + more >= URGENT;
        if (hurry || !self.noted.swap(true, Ordering::AcqRel))
            && let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner)
        {
            wake(hurry);
        }
    }

    /// The journal is about to look: what comes from now on is told again.
    pub fn looked_at(&self) {
        self.unsaved.store(0, Ordering::Release);
        self.noted.store(false, Ordering::Release);
    }

    /// Bytes came from the machine.
    pub fn push(&self, bytes: &[u8]) {
        let now = self.now();
        self.ring().push(bytes, now);
        self.changed_for_journal(bytes.len());
    }

    /// Something happened.
    pub fn mark(&self, kind: MarkKind, text: String) {
        let stamp = self.now();
        // It may quote what an agent said, which must not look like a second mark.
        let text = one_line(&text);
        let mut ring = self.ring();
        match kind {
            MarkKind::Boot => {
                ring.boot = Some(ring.end());
                self.boots.fetch_add(1, Ordering::AcqRel);
            }
            MarkKind::Reserve => ring.reserve = Some(ring.end()),
            MarkKind::Gap | MarkKind::Note | MarkKind::Own | MarkKind::Hole => {}
        }
        ring.note(kind, stamp, text);
        drop(ring);
        self.changed_for_journal(0);
    }

    /// The line opened or was lost.
    pub fn line(&self, line: Result<(), String>) {
        let open = line.is_ok();
        let now = self.now();
        let mut ring = self.ring();
        if ring.line.is_ok() != open {
            ring.line_since = now;
        }
        ring.line = line;
        ring.seats += 1;
        drop(ring);
        self.tries.send_modify(|(n, is)| {
            *n += 1;
            *is = open;
        });
        self.changed();
    }

    /// Whoever has the keyboard has it no more, unless he was found to be
    /// allowed to after this record.
    pub fn free_keyboard(&self, changed: RecordNo) {
        let mut ring = self.ring();
        if ring.writer.take_if(|writer| writer.as_of < changed).is_some() {
            ring.seats += 1;
            drop(ring);
            self.changed();
        }
    }

    /// Whose the machine is from now on. Whoever may not watch it any more
    /// gets no byte that comes later, and a keyboard that was another's is
    /// free.
    pub fn belongs(&self, whose: Whose, private: bool) {
        let now = self.now().at;
        let mut ring = self.ring();
        let (end, before) = (ring.end(), ring.tenancy.version);
        let other = ring.tenancy.learn(whose, private, end, now);
        if other {
            self.turns.fetch_add(1, Ordering::AcqRel);
            ring.seats += u64::from(ring.writer.take().is_some());
        }
        let changed = ring.tenancy.version != before;
        self.sealed.store(ring.tenancy.is_sealed(), Ordering::Release);
        drop(ring);
        if changed {
            self.seal.notify_one();
            self.changed();
        }
    }

    /// What comes from now on may have been said before.
    pub fn repeats(&self) {
        let mut ring = self.ring();
        let end = ring.end();
        ring.tenancy.seal(end);
        self.sealed.store(true, Ordering::Release);
        drop(ring);
        self.changed();
    }

    /// The line was found empty: what comes from now on is the owner's.
    pub fn unseal(&self) {
        let now = self.now();
        let mut ring = self.ring();
        let end = ring.end();
        if let Some((kind, stamp, text)) = ring.tenancy.unseal(end, now) {
            ring.note(kind, stamp, text);
        }
        self.sealed.store(false, Ordering::Release);
        drop(ring);
        self.changed_for_journal(0);
    }

    /// The console is over.
    pub fn close(&self, why: &str) {
        self.ring().closed = Some(why.to_owned());
        self.changed();
    }

    /// Has the line tried at once; ready when it is open or one try failed.
    pub fn expect_line(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let mut tries = self.tries.subscribe();
        let (before, open) = *tries.borrow_and_update();
        self.kick.notify_one();
        async move {
            if !open {
                // An error means that the console is gone, which is final.
                let _ = tries.wait_for(|(n, is)| *is || *n > before).await;
            }
        }
    }
}
