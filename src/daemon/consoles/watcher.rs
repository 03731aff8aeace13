//! Whoever watches a console, and whoever types.

use super::journal::{Reader, Segments};
use super::plain;
use super::ring::{Input, Mark, MarkKind, Ring, Shared, Typed, Writer, line_start};
use super::tenancy::{Sight, Viewer};
use super::times::Times;
use pitstop_core::id::RecordNo;
use pitstop_core::time::{LabTime, WallMs};
use pitstop_wire::UserName;
use pitstop_wire::text::brief;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{oneshot, watch};

/// Most bytes in one piece.
const PIECE: usize = 32 << 10;
/// How far behind the end a watcher goes on who was too slow.
const CATCH_UP: u64 = 16 << 10;
/// Most bytes a replay goes back, whatever was asked for.
const MAX_REPLAY: u64 = 1 << 30;
/// Bytes that "so many lines" are looked for in.
const LINES_IN: u64 = 1 << 20;
/// Marks that are told of a machine that has been silent since.
const LATEST_MARKS: usize = 20;
/// Characters of a line that is quoted.
const LONGEST_LINE: usize = 200;

/// Where a watcher begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// At the live end.
    Nothing,
    /// At this position.
    From(u64),
    /// So many bytes back, at a line's beginning.
    Last(u64),
    /// So many lines back.
    Lines(usize),
    /// At the newest power-on.
    SinceBoot,
    /// Where the newest reservation began.
    SinceReserve,
    /// Where the machine was so many milliseconds ago.
    Since(u64),
    /// At the oldest byte there is, within reason.
    All,
}

/// What a watcher sees next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The machine said this.
    Bytes {
        /// Position of the first byte.
        position: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// What follows came then; told where it was asked for.
    Time {
        /// Position of the next byte.
        position: u64,
        /// When.
        wall: WallMs,
    },
    /// Something happened.
    Mark(Mark),
    /// Bytes were skipped: the watcher is slow, or the journal lost them.
    Skipped {
        /// Position of the next byte.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// Seats or the line changed.
    Seats(Seats),
    /// The console is over.
    Closed(String),
}

/// Who sits at a console, and whether its line is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    /// Who types.
    pub writer: Option<String>,
    /// Whether that is the keyboard attached with this watcher.
    pub you: bool,
    /// Who watches, in the order they came.
    pub watchers: Vec<String>,
    /// Whether the line is open; if not, why.
    pub line: Result<(), String>,
}

/// A cursor in a console. What it does not take in time is skipped; nobody
/// waits for it. A sender that makes no progress for [`Watcher::STALL`]
/// should be cut off.
pub struct Watcher {
    shared: Arc<Shared>,
    id: u64,
    viewer: Viewer,
    /// What may be seen, and as of which change.
    sight: (u64, Sight),
    /// When the bytes came, if that is told.
    times: Option<Times>,
    /// The console's name.
    pub console: String,
    position: u64,
    journal: Reader,
    /// Below this, bytes come from the journal.
    replay_until: u64,
    /// Marks of lower numbers were there before this watcher.
    marks_until: u64,
    old_marks: VecDeque<Mark>,
    next_mark: u64,
    /// The count of changes that was told last.
    seats: Option<u64>,
    changes: watch::Receiver<u64>,
    over: bool,
}

/// A right to type that may be taken.
pub struct Keyboard {
    shared: Arc<Shared>,
    id: u64,
    who: String,
    /// Why it is taken from whoever has it.
    reason: Option<String>,
}

pub(super) fn attach(
    shared: &Arc<Shared>,
    console: &str,
    replay: Replay,
    viewer: &Viewer,
) -> Result<(Watcher, Keyboard), Option<UserName>> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let changes = shared.changes();
    let (end, boot, reserve, first_mark, marks_until, sight) = {
        let mut ring = shared.ring();
        if let Some(holder) = ring.tenancy.refuses(viewer) {
            return Err(holder);
        }
        ring.watchers.push((id, viewer.user.clone()));
        ring.seats += 1;
        let first = ring.marks.front().map_or(ring.numbers, |m| m.number);
        let sight = (ring.tenancy.version, ring.tenancy.sight(viewer));
        let end = ring.end().min(sight.1.to);
        // Marks behind what may be seen come with what follows.
        let behind = ring.marks.iter().find(|mark| mark.position > end);
        (end, ring.boot, ring.reserve, first, behind.map_or(ring.numbers, |mark| mark.number), sight)
    };
    let oldest = sight.1.from.max(end.saturating_sub(MAX_REPLAY));
    // Whoever has read up to some position has read its marks. Whoever asks
    // for the last of it is told also what was noted since the machine fell
    // silent: why it failed, as a rule.
    let with_marks = !matches!(replay, Replay::Nothing | Replay::From(_));
    let from = match replay {
        Replay::Nothing => end,
        Replay::From(position) => position,
        Replay::Last(bytes) => cut_at_line(shared, end.saturating_sub(bytes), end),
        Replay::Lines(lines) => lines_back(shared, lines, oldest, end),
        Replay::SinceBoot => boot.unwrap_or(end),
        Replay::SinceReserve => reserve.unwrap_or(end),
        Replay::Since(ms) => {
            let then = LabTime(shared.now().at.0.saturating_sub(ms));
            // What is so new that the index has not got it is in memory.
            Segments::of(&shared.dir).position_at(then).unwrap_or(shared.ring().start())
        }
        Replay::All => 0,
    };
    let from = from.clamp(oldest.min(end), end);
    let mut watcher = Watcher {
        shared: shared.clone(),
        id,
        viewer: viewer.clone(),
        sight,
        times: None,
        console: console.to_owned(),
        position: from,
        journal: Reader::of(&shared.dir),
        replay_until: end,
        marks_until,
        old_marks: VecDeque::new(),
        next_mark: first_mark,
        seats: None,
        changes,
        over: false,
    };
    let since = watcher.marks_since(replay);
    watcher.find_marks(from, first_mark, from < end || with_marks, since);
    if matches!(replay, Replay::Last(_) | Replay::Lines(_)) {
        watcher.keep_marks(LATEST_MARKS);
    }
    shared.changed();
    Ok((watcher, Keyboard { shared: shared.clone(), id, who: viewer.user.clone(), reason: None }))
}

/// Bytes `from..to`, from memory where they are there, else from the journal.
fn read(shared: &Shared, from: u64, to: u64) -> Vec<u8> {
    let most = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    {
        let ring = shared.ring();
        if from >= ring.start() {
            return ring.get(from, most);
        }
    }
    Segments::of(&shared.dir).read(from, most)
}

/// What the machine said last, as lines that a terminal can be given; none if
/// this viewer may not see them.
pub(super) fn last_lines(shared: &Shared, lines: usize, viewer: &Viewer) -> Vec<String> {
    let (end, sight) = {
        let ring = shared.ring();
        if ring.tenancy.refuses(viewer).is_some() {
            return Vec::new();
        }
        let sight = ring.tenancy.sight(viewer);
        (ring.end().min(sight.to), sight)
    };
    // Empty lines are asked for too, and left out.
    let mut at = lines_back(shared, 4 * lines, sight.from, end);
    let mut bytes = Vec::new();
    loop {
        let (from, to) = sight.next(at);
        if from >= end {
            break;
        }
        bytes.extend(read(shared, from, to.min(end)));
        at = to;
    }
    let said = bytes.split(|b| *b == b'\n').map(|line| plain::line(line, LONGEST_LINE));
    let mut said: Vec<String> = said.filter(|line| !line.trim().is_empty()).collect();
    said.split_off(said.len().saturating_sub(lines))
}

fn cut_at_line(shared: &Shared, from: u64, end: u64) -> u64 {
    if from == 0 {
        return 0;
    }
    let bytes = read(shared, from, (from + 4096).min(end));
    from + line_start(&bytes) as u64
}

/// Where the last `lines` before `end` begin; not before `oldest`.
fn lines_back(shared: &Shared, lines: usize, oldest: u64, end: u64) -> u64 {
    let from = end.saturating_sub(LINES_IN).max(oldest);
    let bytes = read(shared, from, end);
    let ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    // What follows the last line's end is a line too, if it is not empty.
    let open = usize::from(ends.last().is_none_or(|last| *last < bytes.len()));
    let lines = lines.max(1);
    match (ends.len() + open).checked_sub(lines + 1) {
        Some(at) => from + ends.get(at).copied().unwrap_or(0) as u64,
        None => from,
    }
}

impl Watcher {
    /// A connection that takes nothing for so long is dead.
    pub const STALL: std::time::Duration = std::time::Duration::from_secs(30);

    /// Position of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the line is open; if not, why.
    pub fn line(&self) -> Result<(), String> {
        self.shared.ring().line.clone()
    }

    /// Whether everything there was at the attach has been given out.
    pub fn replayed(&self) -> bool {
        self.position >= self.replay_until && self.old_marks.is_empty() && self.next_mark >= self.marks_until
    }

    /// The next piece; waits for one. May be dropped while it waits. After
    /// [`Piece::Closed`] there is nothing more, and this waits for ever.
    pub async fn next(&mut self) -> Piece {
        loop {
            self.changes.borrow_and_update();
            if let Some(piece) = self.now() {
                return piece;
            }
            if self.over || self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells when the bytes came, too.
    #[must_use]
    pub fn with_times(mut self) -> Self {
        self.times = Some(Times::default());
        self
    }

    fn now(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        self.load_times();
        let shared = self.shared.clone();
        let ring = shared.ring();
        if let Some(refused) = self.look_at_sight(&ring) {
            return Some(refused);
        }
        let until = self.pass_over(&ring);
        if let Some(piece) = self.mark_here(&ring) {
            return Some(piece);
        }
        let limit = self.next_mark_at(&ring).unwrap_or(u64::MAX).min(until);
        let room = limit.min(ring.end()).saturating_sub(self.position);
        if room > 0
            && let Some(times) = &mut self.times
            && let Some(wall) = times.news(&ring, self.position)
        {
            return Some(Piece::Time { position: self.position, wall });
        }
        let limit = self.times.as_ref().and_then(|times| times.next).map_or(limit, |at| limit.min(at));
        let most = usize::try_from(limit.saturating_sub(self.position)).unwrap_or(usize::MAX).min(PIECE);
        if self.position < ring.start() && most > 0 {
            let (start, end) = (ring.start(), ring.end());
            drop(ring);
            return Some(self.behind(start, end, most));
        }
        let bytes = ring.get(self.position, most);
        if !bytes.is_empty() {
            let position = self.position;
            self.position += bytes.len() as u64;
            return Some(Piece::Bytes { position, bytes });
        }
        if self.seats.replace(ring.seats) != Some(ring.seats) {
            return Some(Piece::Seats(self.look_at_seats(&ring)));
        }
        let closed = ring.closed.clone()?;
        self.over = true;
        Some(Piece::Closed(closed))
    }

    /// What may not be seen is passed over, and not missed. Up to where what
    /// follows may be.
    fn pass_over(&mut self, ring: &Ring) -> u64 {
        let (next, until) = self.sight.1.next(self.position);
        self.position = self.position.max(next.min(ring.end()));
        until
    }

    /// Of a replay that reaches further back than memory, the index knows when
    /// it was said. Not read while the console is locked, nor by who follows
    /// live.
    fn load_times(&mut self) {
        if self.times.is_none() || self.position >= self.replay_until {
            return;
        }
        let shared = self.shared.clone();
        let known = {
            let ring = shared.ring();
            self.pass_over(&ring);
            ring.stamp_at(self.position).0.is_some()
        };
        if let (false, Some(times)) = (known, &mut self.times) {
            times.load(&shared.dir, self.position);
        }
    }

    /// Whether the machine has become somebody's who is watched by others.
    fn look_at_sight(&mut self, ring: &Ring) -> Option<Piece> {
        if self.sight.0 == ring.tenancy.version {
            return None;
        }
        self.sight = (ring.tenancy.version, ring.tenancy.sight(&self.viewer));
        let holder = ring.tenancy.refuses(&self.viewer)?;
        self.over = true;
        Some(Piece::Closed(match holder {
            Some(holder) => {
                format!("the machine is {holder}'s now, who is not watched by {}", self.viewer.user)
            }
            None => format!("what the machine says now is not for {} to see", self.viewer.user),
        }))
    }

    /// The bytes are not in memory: of a replay they are in the journal, of
    /// the live stream they are given up.
    fn behind(&mut self, start: u64, end: u64, most: usize) -> Piece {
        if self.position < self.replay_until {
            let most = most.min(usize::try_from(start - self.position).unwrap_or(usize::MAX));
            let bytes = self.journal.read(self.position, most);
            if !bytes.is_empty() {
                let position = self.position;
                self.position += bytes.len() as u64;
                return Piece::Bytes { position, bytes };
            }
        }
        let mut to = start.max(end.saturating_sub(CATCH_UP));
        // The journal may begin behind the position asked for. (Who follows
        // live does not look: there nobody waits for a disk.)
        if self.position < self.replay_until
            && let Some(at) = Segments::of(&self.shared.dir).next_start(self.position)
        {
            to = to.min(at).max(self.position + 1);
        }
        let bytes = to - self.position;
        self.position = to;
        Piece::Skipped { position: to, bytes }
    }

    /// Looks for the first mark that is to be told; `old`: also those that are
    /// there already.
    fn find_marks(&mut self, from: u64, before: u64, old: bool, since: LabTime) {
        if old {
            let in_memory = self.shared.ring().marks.front().map(|m| (m.position, m.stamp.at));
            let stored = Segments::of(&self.shared.dir).marks(from, self.replay_until + 1);
            let older =
                stored.into_iter().filter(|m| in_memory.is_none_or(|first| (m.position, m.stamp.at) < first));
            self.old_marks = older.filter(|m| self.sight.1.shows(m) && m.stamp.at >= since).collect();
        }
        // Marks in memory that lie before the beginning were not asked for.
        let ring = self.shared.ring();
        let sees = |m: &&Mark| m.position >= from && self.sight.1.shows(m) && m.stamp.at >= since;
        let first = ring.marks.iter().filter(sees).find(|m| old || m.number >= ring.numbers);
        self.next_mark = first.map_or(ring.numbers, |m| m.number).max(before);
    }

    /// From which moment on marks belong to what is asked for: a machine that
    /// was silent has those of long before at the same place.
    fn marks_since(&self, replay: Replay) -> LabTime {
        let newest = |kind: MarkKind| {
            let found = self.shared.ring().marks.iter().rev().find(|m| m.kind == kind).map(|m| m.stamp.at);
            // Older than what is in memory: all of that is newer.
            found.unwrap_or_default()
        };
        match replay {
            Replay::Since(ms) => LabTime(self.shared.now().at.0.saturating_sub(ms)),
            Replay::SinceBoot => newest(MarkKind::Boot),
            Replay::SinceReserve => newest(MarkKind::Reserve),
            _ => LabTime::default(),
        }
    }

    /// Only so many of the marks that are there already are told.
    fn keep_marks(&mut self, most: usize) {
        let (first, told) = {
            let ring = self.shared.ring();
            let told = ring.marks.iter().filter(|m| m.number >= self.next_mark && m.kind.is_told());
            let told: Vec<u64> = told.map(|m| m.number).collect();
            (told.len().checked_sub(most).and_then(|at| told.get(at)).copied(), told.len())
        };
        self.next_mark = first.unwrap_or(self.next_mark);
        let over = self.old_marks.len().saturating_sub(most.saturating_sub(told));
        self.old_marks.drain(..over);
    }

    fn mark_here(&mut self, ring: &Ring) -> Option<Piece> {
        if self.old_marks.front().is_some_and(|m| m.position <= self.position) {
            return self.old_marks.pop_front().map(Piece::Mark);
        }
        loop {
            let mark = ring.mark_from(self.next_mark)?;
            if mark.position > self.position {
                return None;
            }
            self.next_mark = mark.number + 1;
            if mark.kind.is_told() {
                return Some(Piece::Mark(mark.clone()));
            }
        }
    }

    fn next_mark_at(&self, ring: &Ring) -> Option<u64> {
        let old = self.old_marks.front().map(|m| m.position);
        let new = ring.mark_from(self.next_mark).map(|m| m.position);
        [old, new].into_iter().flatten().filter(|at| *at > self.position).min()
    }

    fn look_at_seats(&self, ring: &Ring) -> Seats {
        Seats {
            writer: ring.writer.as_ref().map(|writer| writer.who.clone()),
            you: ring.writer.as_ref().is_some_and(|writer| writer.id == self.id),
            watchers: ring.watchers.iter().map(|(_, who)| who.clone()).collect(),
            line: ring.line.clone(),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut ring = self.shared.ring();
        ring.watchers.retain(|(id, _)| *id != self.id);
        ring.seats += 1;
        drop(ring);
        self.shared.changed();
    }
}

impl Keyboard {
    /// Why it is taken from whoever has it: everybody on the console reads it.
    pub fn because(&mut self, reason: Option<&str>) {
        let reason = reason.map(str::trim).filter(|reason| !reason.is_empty());
        self.reason = reason.map(|reason| brief(reason, LONGEST_LINE));
    }

    /// Takes the keyboard; with `steal` from whoever has it, who is told.
    /// `as_of` is the newest record that says that one may: a later change of
    /// holder takes it away again.
    ///
    /// # Errors
    /// Somebody else has it: who.
    pub fn take(&self, steal: bool, as_of: RecordNo) -> Result<(), String> {
        let mut ring = self.shared.ring();
        match &mut ring.writer {
            Some(writer) if writer.id == self.id => {
                writer.as_of = as_of;
                return Ok(());
            }
            Some(writer) if !steal => return Err(writer.who.clone()),
            _ => {}
        }
        let writer = Writer { id: self.id, who: self.who.clone(), as_of };
        let stolen = ring.writer.replace(writer).is_some();
        ring.seats += 1;
        drop(ring);
        if stolen {
            let why = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            self.shared.mark(super::MarkKind::Note, format!("{} took the keyboard{why}", self.who));
        }
        self.shared.changed();
        Ok(())
    }

    /// Gives the keyboard back, if one has it.
    pub fn leave(&self) {
        let mut ring = self.shared.ring();
        if ring.writer.take_if(|writer| writer.id == self.id).is_some() {
            ring.seats += 1;
            drop(ring);
            self.shared.changed();
        }
    }

    /// Types. Waits while the line does not take it.
    ///
    /// # Errors
    /// One has not got the keyboard, or the line is down.
    pub async fn type_in(&self, keys: &[u8]) -> Result<(), String> {
        let turn = self.may()?;
        self.send(Typed { turn, input: Input::Keys(keys.to_vec()) }).await
    }

    /// Sends a break.
    ///
    /// # Errors
    /// As [`Keyboard::type_in`].
    pub async fn send_break(&self) -> Result<(), String> {
        let turn = self.may()?;
        let (answer, is_sent) = oneshot::channel();
        self.send(Typed { turn, input: Input::Break(answer) }).await?;
        is_sent.await.unwrap_or_else(|_| Err("the line was lost".into()))
    }

    async fn send(&self, typed: Typed) -> Result<(), String> {
        self.shared.input.send(typed).await.map_err(|_| "the console is closed".to_owned())
    }

    /// In which turn of owners.
    fn may(&self) -> Result<u64, String> {
        let ring = self.shared.ring();
        match &ring.writer {
            Some(writer) if writer.id == self.id => {
                let turn = self.shared.turns.load(Ordering::Acquire);
                ring.line.clone().map(|()| turn).map_err(|why| format!("the line is down: {why}"))
            }
            Some(Writer { who, .. }) => Err(format!("{who} has the keyboard")),
            None => Err("nobody has the keyboard: take it first".into()),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.leave();
    }
}
