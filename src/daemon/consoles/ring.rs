//! The newest bytes of one console, and everything its task, its journal and
//! its watchers share.

use pitstop_core::id::RecordNo;
use pitstop_core::time::{LabTime, WallMs};
use pitstop_wire::text::one_line;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, watch};

/// Bytes kept in memory per console: 22 s at 115200 baud.
pub const RING: usize = 256 << 10;
/// Marks kept in memory per console.
const MARKS: usize = 256;

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
    /// Bytes are missing here.
    Gap,
    /// Anything else.
    Note,
}

impl MarkKind {
    /// The word in the journal's index.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Gap => "gap",
            Self::Note => "mark",
        }
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
    pub line: Result<(), String>,
    pub line_since: Stamp,
    /// Who has the keyboard.
    pub writer: Option<Writer>,
    pub watchers: usize,
    pub closed: Option<String>,
    /// Bytes the journal missed.
    pub lost: u64,
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
    pub fn new(position: u64, boot: Option<u64>) -> Self {
        Self {
            bytes: VecDeque::new(),
            start: position,
            marks: VecDeque::new(),
            numbers: 0,
            boot,
            line: Err("not opened yet".into()),
            line_since: Stamp::default(),
            writer: None,
            watchers: 0,
            closed: None,
            lost: 0,
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

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(RING);
        self.bytes.drain(..over);
        self.start += over as u64;
    }

    /// Up to `most` bytes from `position` on, as far as they are in memory.
    pub fn get(&self, position: u64, most: usize) -> Vec<u8> {
        let skip = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.bytes.iter().skip(skip).take(most).copied().collect()
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
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Keys.
    Keys(Vec<u8>),
    /// A break.
    Break,
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
    pub input: mpsc::Sender<Input>,
    /// Set while the journal knows that there is something to write.
    pub noted: AtomicBool,
    /// Tells the journal that there is.
    wake: Mutex<Option<Wake>>,
    /// Tells the task to try the line at once.
    pub kick: Notify,
    /// Counts tries to open the line, and says whether it is open.
    pub tries: watch::Sender<(u64, bool)>,
    stamp: Arc<dyn Fn() -> Stamp + Send + Sync>,
}

/// How a console tells the journal that there is something to write.
pub type Wake = Box<dyn Fn() + Send + Sync>;

impl Shared {
    pub fn new(
        ring: Ring,
        dir: PathBuf,
        input: mpsc::Sender<Input>,
        stamp: Arc<dyn Fn() -> Stamp + Send + Sync>,
    ) -> Self {
        Self {
            ring: Mutex::new(ring),
            changes: watch::Sender::new(0),
            dir,
            input,
            noted: AtomicBool::new(false),
            wake: Mutex::new(None),
            kick: Notify::new(),
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

    fn changed_for_journal(&self) {
        self.changed();
        if !self.noted.swap(true, Ordering::AcqRel)
            && let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner)
        {
            wake();
        }
    }

    /// Bytes came from the machine.
    pub fn push(&self, bytes: &[u8]) {
        self.ring().push(bytes);
        self.changed_for_journal();
    }

    /// Something happened.
    pub fn mark(&self, kind: MarkKind, text: String) {
        let stamp = self.now();
        // It may quote what an agent said, which must not look like a second mark.
        let text = one_line(&text);
        let mut ring = self.ring();
        let (position, number) = (ring.end(), ring.numbers);
        ring.numbers += 1;
        if kind == MarkKind::Boot {
            ring.boot = Some(position);
        }
        ring.marks.push_back(Mark { position, stamp, kind, text, number });
        if ring.marks.len() > MARKS {
            ring.marks.pop_front();
        }
        drop(ring);
        self.changed_for_journal();
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
        if self.ring().writer.take_if(|writer| writer.as_of < changed).is_some() {
            self.changed();
        }
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
