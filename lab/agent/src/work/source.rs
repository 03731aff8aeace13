//! Block maps and chunks over the session's connection.
//!
//! The worker asks and waits; the session sends, and sends again on a new connection whatever is still
//! unanswered. So a lost link is only a longer wait to the writer, which goes on at the very chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use pitstop_image::{BlockMap, Chunk, ChunkSource, SourceError};
use pitstop_wire::agent::FromAgent;

use super::{WorkEvent, Worker};

/// Compressed bytes that may be under way, at worst.
const AHEAD: u64 = 16 << 20;
/// Fewest and most chunks under way: one is checked while the next travel.
const WINDOW: (u64, u64) = (2, 16);

/// Something the worker asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    Map { digest: String },
    Chunk { digest: String, index: u64 },
}

impl Wanted {
    pub(crate) fn message(&self) -> FromAgent {
        match self.clone() {
            Self::Map { digest } => FromAgent::FetchMap { digest },
            Self::Chunk { digest, index } => FromAgent::Fetch { digest, index },
        }
    }
}

/// What came, or why it does not.
pub(crate) type Answer = Result<Vec<u8>, String>;

/// Where the session leaves answers for the worker.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<BTreeMap<Wanted, Answer>>,
    came: Condvar,
    closed: AtomicBool,
}

impl Mailbox {
    pub(crate) fn put(&self, wanted: Wanted, answer: Answer) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted, answer);
        self.came.notify_all();
    }

    /// Nothing will come any more; whoever waits is told.
    pub(crate) fn close(&self) {
        let letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        drop(letters);
        self.came.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The flag that long work looks at.
    pub(crate) fn closed_flag(&self) -> &AtomicBool {
        &self.closed
    }

    /// Throws away what an earlier job asked for and did not use.
    fn clear(&self) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for an answer; `None` when it is closed.
    fn wait(&self, wanted: &Wanted) -> Option<Answer> {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.is_closed() {
                return None;
            }
            if let Some(answer) = letters.remove(wanted) {
                return Some(answer);
            }
            letters = self.came.wait(letters).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Asks for a block map and waits for it; `None` when the work is cancelled.
pub(super) fn fetch_map(worker: &Worker, digest: &str) -> Option<Answer> {
    worker.mailbox.clear();
    let wanted = Wanted::Map { digest: digest.to_owned() };
    worker.tell(WorkEvent::Want(wanted.clone()));
    worker.mailbox.wait(&wanted)
}

/// The chunks of one image, a few of them asked for ahead.
pub(super) struct LinkSource<'a> {
    worker: &'a Worker,
    map: &'a BlockMap,
    digest: String,
    window: u64,
    /// Asked for and not yet used.
    under_way: BTreeSet<u64>,
    /// First chunk that was never asked for.
    next: u64,
}

impl<'a> LinkSource<'a> {
    pub(super) fn new(worker: &'a Worker, map: &'a BlockMap) -> Self {
        let window = (AHEAD / u64::from(map.chunk())).clamp(WINDOW.0, WINDOW.1);
        Self { worker, map, digest: map.digest().to_string(), window, under_way: BTreeSet::new(), next: 0 }
    }

    fn ask(&mut self, index: u64) {
        self.under_way.insert(index);
        self.worker.tell(WorkEvent::Want(Wanted::Chunk { digest: self.digest.clone(), index }));
    }

    /// Asks for `index`, unless it is under way, and for the data chunks that follow.
    fn look_ahead(&mut self, index: u64) {
        if !self.under_way.contains(&index) {
            self.ask(index);
        }
        self.next = self.next.max(index + 1);
        let chunks = self.map.size().div_ceil(u64::from(self.map.chunk()));
        while (self.under_way.len() as u64) < self.window && self.next < chunks {
            if self.map.chunk_at(self.next) != Chunk::Zero {
                self.ask(self.next);
            }
            self.next += 1;
        }
    }
}

impl ChunkSource for LinkSource<'_> {
    fn fetch(&mut self, index: u64, limit: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
        self.look_ahead(index);
        let wanted = Wanted::Chunk { digest: self.digest.clone(), index };
        let answer = self.worker.mailbox.wait(&wanted);
        self.under_way.remove(&index);
        let protocol = |why: String| SourceError::Protocol { index, why };
        match answer {
            None => Err(protocol("the work was cancelled".into())),
            Some(Err(why)) => Err(protocol(format!("the daemon does not have it: {why}"))),
            // As corrupt as wrong bytes, and just as likely to be right the next time.
            Some(Ok(bytes)) if bytes.len() > limit => {
                Err(protocol(format!("{} bytes came, more than {limit}", bytes.len())))
            }
            Some(Ok(bytes)) => {
                *out = bytes;
                Ok(())
            }
        }
    }
}
