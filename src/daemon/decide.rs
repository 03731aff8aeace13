//! The decision loop: the one owner of the lab, on a thread of its own.
//!
//! A turn of the loop takes everything that is queued, steps it, commits all
//! records in one transaction, and only then answers, publishes and lets
//! effects go. While one commit is on its way to the disk the next batch
//! gathers, so that a crowd shares commits.
//!
//! When a commit fails, the batch never happened: the lab is loaded again,
//! askers hear "not known", no effect leaves, and what is true regardless
//! (facts, reports of agents) is decided about again.

mod batch;
mod front;
mod lag;
mod trouble;

#[cfg(test)]
mod tests;

use super::clock::{Clock, Pulse};
use super::desk::{self, Desk};
use crate::store::{CommitError, Past, Store, StoreError, sleep};
use batch::{Cause, Dice, Draft};
use front::Front;
pub(super) use lag::Arrival;
use lag::Lag;
use pitstop_core::Lab;
use pitstop_core::effect::Effect;
use pitstop_core::event::{Event, Moment};
use pitstop_core::id::Epoch;
use pitstop_core::inventory::model::Inventory;
use pitstop_core::lab::Rows;
use pitstop_core::record::Record;
use pitstop_core::time::LabTime;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use trouble::{Limbo, Trouble};

/// While deadlines run, the loop wakes at least this often (ms), so that it
/// knows to half a second for how long it was stopped or suspended.
const BREATH: u64 = 500;
/// Pause before a deadline is judged again that a judgement did not move (ms).
const STALL: u64 = 20;

/// How often a lab is loaded that another daemon goes on writing to.
const TAKE_OVER: u32 = 200;

/// What acts on the world.
pub trait Hands: Send {
    /// Lets effects go that are committed. Must not block: each lane queues.
    /// Facts about them are reported under `epoch`.
    fn release(&self, effects: Vec<Effect>, epoch: Epoch);

    /// From now on this is the inventory: it is committed, and the effects
    /// that are released next were decided by it. Those before were not: a
    /// leg's index may mean another leg.
    fn follow(&self, inventory: &Arc<Inventory>);

    /// This is committed, and nobody has heard of it: whoever must know before
    /// anybody else what it means does. `None`: any row may have changed.
    fn know(&self, lab: &Lab, records: Option<&[Record]>);
}

/// Why a lab could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be loaded.
    #[error("cannot load the lab: {0}")]
    Load(#[from] StoreError),
    /// The daemon's epoch could not be stored.
    #[error("cannot take the lab over: {0}")]
    Commit(#[from] CommitError),
    /// No randomness, no nonces.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// Why the loop ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// Another daemon leads. This one must not act any more.
    #[error("another pitstop has taken this lab over (epoch {}, this one has {}); this one stops", .by.0, .ours.0)]
    Superseded {
        /// Its epoch.
        by: Epoch,
        /// Ours.
        ours: Epoch,
    },
    /// The kernel gives no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Entropy(String),
    /// A bug.
    #[error(
        "the decision loop died; nothing was committed halfway, start pitstop again and report this as a bug"
    )]
    Died,
    /// Its thread could not be started.
    #[error("cannot start the decision loop: {0}")]
    Thread(#[from] std::io::Error),
}

/// A lab that is loaded and taken over, but does nothing yet.
pub struct Opened {
    decider: Decider,
    desk: Desk,
    effects: Vec<Effect>,
}

/// Loads the lab and takes it over: the next epoch is stored in a commit of
/// its own before anybody is served. With `enrol`, new machines need no
/// person (simulated labs).
///
/// # Errors
/// The lab cannot be loaded or the epoch not be stored.
pub fn open(mut store: Box<dyn Store>, inventory: Arc<Inventory>, enrol: bool) -> Result<Opened, StartError> {
    let mut tries = 1;
    let (lab, clock, effects) = loop {
        match take_over(store.as_mut(), &inventory, enrol) {
            // Another daemon leads, as where somebody removed its lock, and
            // has committed since this one loaded: what it wrote is loaded too.
            Err(StartError::Commit(CommitError::Refused(StoreError::OutOfStep { .. })))
                if tries < TAKE_OVER =>
            {
                tries += 1;
            }
            taken => break taken?,
        }
    };
    let epoch = lab.meta().epoch;
    let (desk, counter) = desk::set_up(clock, epoch, store.history(), Arc::clone(lab.inventory()));
    let front = Front::new(counter, clock, store.history(), Arc::clone(lab.inventory()));
    let decider = Decider {
        lab: Arc::new(lab),
        store,
        front,
        epoch,
        began: clock.now(),
        trouble: None,
        limbo: None,
        stalled: false,
    };
    Ok(Opened { decider, desk, effects })
}

/// Loads what is stored and commits the start of the next epoch on top.
fn take_over(
    store: &mut dyn Store,
    inventory: &Arc<Inventory>,
    enrol: bool,
) -> Result<(Lab, Clock, Vec<Effect>), StartError> {
    let rows = store.load(&mut sleep)?;
    let past = store.past();
    let clock = Clock::start(&rows.meta).not_before(past.map(|p| p.now).unwrap_or_default());
    let mut lab = Lab::from_rows(rows);
    let moment = Moment { now: clock.now(), wall: clock.wall(), entropy: Dice::throw()?.next() };
    let inventory = Arc::clone(inventory);
    let start = match past {
        None => Event::Start { inventory, enrol },
        Some(Past { floor, .. }) => Event::StartRestored { inventory, enrol, floor },
    };
    let outcome = lab.step(&moment, start);
    let mut draft = Draft::default();
    let effects = draft.add(outcome);
    store.commit(&draft.batch(&lab), &mut sleep)?;
    Ok((lab, clock, effects))
}

impl Opened {
    /// The desk; what is put on it waits until the loop runs.
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// The lab as it was taken over.
    pub fn lab(&self) -> &Lab {
        &self.decider.lab
    }

    /// Lets go what the start decided, and runs the loop.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn run(self, hands: Box<dyn Hands>) -> Result<Running, Halt> {
        let Self { decider, desk, effects } = self;
        // The loop lives until it is told to stop, not until nobody asks.
        drop(desk);
        let (sender, ended) = oneshot::channel();
        let work = move || {
            hands.release(effects, decider.epoch);
            let end = decider.run(&*hands);
            // Nobody may be waiting for the end any more.
            drop(sender.send(end));
        };
        let thread = std::thread::Builder::new().name("decisions".to_owned()).spawn(work)?;
        Ok(Running { thread, ended })
    }
}

/// A loop that runs.
pub struct Running {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<Result<(), Halt>>,
}

impl Running {
    /// Waits until the loop has ended and has let go of its store.
    ///
    /// # Errors
    /// Why it ended, unless it was told to.
    pub async fn ended(self) -> Result<(), Halt> {
        let end = self.ended.await.unwrap_or(Err(Halt::Died));
        // It sent its last word: what is left is dropping the store.
        match tokio::task::spawn_blocking(move || self.thread.join()).await {
            Ok(Ok(())) => end,
            _ => Err(Halt::Died),
        }
    }
}

struct Decider {
    /// Between turns: the lab as it is committed, unless in limbo.
    lab: Arc<Lab>,
    store: Box<dyn Store>,
    front: Front,
    epoch: Epoch,
    /// When the turn under way began.
    began: LabTime,
    trouble: Option<Trouble>,
    limbo: Option<Limbo>,
    /// A deadline stayed where it was although it was judged.
    stalled: bool,
}

impl Decider {
    fn run(mut self, hands: &dyn Hands) -> Result<(), Halt> {
        let mut pulse = Pulse::new(self.front.clock.now());
        loop {
            let asked = self.patience();
            self.front.gather(asked);
            self.began = self.front.clock.now();
            let away = pulse.beat(self.began, asked);
            let stop = self.front.waiting.stop;
            self.turn(hands, away)?;
            if stop {
                self.front.waiting.turn_away("the daemon is stopping");
                return Ok(());
            }
        }
    }

    /// How long there is nothing to do unless something comes (ms).
    fn patience(&self) -> Option<u64> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.patience());
        }
        if !self.front.waiting.is_empty() {
            return Some(0);
        }
        let due = self.lab.next_deadline()? - self.front.clock.now();
        Some(due.max(if self.stalled { STALL } else { 0 }).min(BREATH))
    }

    fn turn(&mut self, hands: &dyn Hands, away: Option<u64>) -> Result<(), Halt> {
        let rests = self.trouble.as_ref().is_some_and(Trouble::rests);
        if !rests && self.leave_limbo(hands)? {
            self.decide(hands, away)?;
        } else if let Some(trouble) = &self.trouble {
            self.front.waiting.turn_away(&trouble.reason);
        }
        self.serve_readers();
        Ok(())
    }

    /// Steps everything that waits and commits it.
    fn decide(&mut self, hands: &dyn Hands, away: Option<u64>) -> Result<(), Halt> {
        // To go back to if the commit fails again. Not kept otherwise: it
        // would cost a copy of the lab's indexes per turn.
        let before = self.trouble.is_some().then(|| Arc::clone(&self.lab));
        let draft = self.draft(hands, away)?;
        if draft.is_empty() && self.trouble.is_none() {
            return Ok(());
        }
        match self.commit(&draft) {
            Ok(()) => self.committed(hands, draft),
            Err(CommitError::Superseded { by, ours }) => {
                draft.turn_away("another pitstop has taken the lab over");
                return Err(Halt::Superseded { by, ours });
            }
            Err(error) => self.failed(hands, draft, before, &error)?,
        }
        Ok(())
    }

    fn draft(&mut self, hands: &dyn Hands, away: Option<u64>) -> Result<Draft, Halt> {
        let Self { front, trouble, began, epoch, .. } = self;
        let now = *began;
        let mut dice = Dice::throw()?;
        let mut moment = || Moment { now, wall: front.clock.wall(), entropy: dice.next() };
        let lab = Arc::make_mut(&mut self.lab);
        let mut draft = Draft::default();
        // In trouble nobody was heard since it began; how long that is, is
        // asked anew at every try.
        let gap = match trouble {
            Some(trouble) => Some((Event::Gap(now - trouble.since), false)),
            None => away.map(|ms| (Event::Gap(ms), true)),
        };
        if let Some((gap, again)) = gap {
            let kept = again.then(|| gap.clone());
            let outcome = lab.step(&moment(), gap);
            draft.take(hands, *epoch, lab, outcome, Cause { again: kept, ..Cause::default() });
        }
        // Queued beats are taken before deadlines are judged.
        for asked in front.waiting.drain() {
            let (again, lag) = (batch::keeps(&asked.event), Lag::of(&asked.event, asked.came));
            let outcome = lab.step(&moment(), asked.event);
            draft.reloads |= !Arc::ptr_eq(lab.inventory(), &front.inventory);
            draft.take(hands, *epoch, lab, outcome, Cause { reply: asked.reply, again, lag });
        }
        let is_due = |lab: &Lab| lab.next_deadline().is_some_and(|due| due <= now);
        if is_due(lab) {
            let lag = Lag::of(&Event::Tick, Arrival::now());
            let outcome = lab.step(&moment(), Event::Tick);
            draft.take(hands, *epoch, lab, outcome, Cause { lag, ..Cause::default() });
        }
        self.stalled = is_due(lab);
        Ok(draft)
    }

    /// One commit for the whole batch.
    fn commit(&mut self, draft: &Draft) -> Result<(), CommitError> {
        let batch = draft.batch(&self.lab);
        let Self { store, front, lab, .. } = self;
        let mut view = None;
        store.commit(&batch, &mut |pause| front.pause(pause, lab, &mut view))
    }

    fn load(&mut self) -> Result<Rows, StoreError> {
        let Self { store, front, lab, .. } = self;
        let mut view = None;
        store.load(&mut |pause| front.pause(pause, lab, &mut view))
    }

    fn serve_readers(&mut self) {
        let Self { front, limbo, lab, .. } = self;
        let view = match limbo {
            _ if front.waiting.readers.is_empty() => return,
            None => Ok(Arc::clone(lab)),
            Some(_) => front.committed_view(lab),
        };
        front.waiting.serve_readers(&view);
    }
}
