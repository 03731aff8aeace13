//! A batch in the making: what waits, and what was decided about it.

use super::lag::{Arrival, Lag};
use super::{Halt, Hands};
use crate::daemon::desk::{Item, Reply, Snapshot, not_known};
use crate::store::Batch;
use pitstop_core::Lab;
use pitstop_core::effect::Effect;
use pitstop_core::event::{Answer, Event, Report, Request};
use pitstop_core::id::{Entropy, Epoch};
use pitstop_core::lab::{Outcome, RowKey};
use pitstop_core::record::Record;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::oneshot;

/// An event and where its answer goes.
pub struct Asked {
    pub event: Event,
    pub reply: Reply,
    pub came: Arrival,
}

/// What was taken off the queue and not decided about.
#[derive(Default)]
pub struct Waiting {
    beats: VecDeque<Asked>,
    others: VecDeque<Asked>,
    pub readers: Vec<oneshot::Sender<Snapshot>>,
    pub stop: bool,
}

impl Waiting {
    pub fn take(&mut self, item: Item) {
        match item {
            Item::Event(
                event @ Event::Request(_, Request::Beat(_) | Request::WiringBeat(_)),
                reply,
                came,
            ) => {
                self.beats.push_back(Asked { event, reply, came });
            }
            Item::Event(event, reply, came) => self.others.push_back(Asked { event, reply, came }),
            Item::Snapshot(reader) => self.readers.push(reader),
            Item::Stop => self.stop = true,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.beats.is_empty() && self.others.is_empty() && self.readers.is_empty() && !self.stop
    }

    /// Everything to be decided about, beats first.
    pub fn drain(&mut self) -> impl Iterator<Item = Asked> + use<'_> {
        self.beats.drain(..).chain(self.others.drain(..))
    }

    /// Puts what a dropped batch held back to the front, in its order.
    pub fn put_back(&mut self, events: Vec<Event>) {
        for event in events.into_iter().rev() {
            self.others.push_front(Asked { event, reply: None, came: Arrival::UNKNOWN });
        }
    }

    /// Tells askers that they are not served now. Facts are kept, since
    /// nobody repeats them; agents repeat their results until acknowledged,
    /// so keeping those would only pile them up.
    pub fn turn_away(&mut self, why: &str) {
        let waiting = self.beats.drain(..).chain(std::mem::take(&mut self.others));
        let mut kept = VecDeque::new();
        for asked in waiting {
            match asked.event {
                Event::Agent { report: Report::Done { .. }, .. } => {}
                event if keeps(&event).is_some() => {
                    kept.push_back(Asked { event, reply: None, came: Arrival::UNKNOWN });
                }
                _ => refuse(asked.reply, why),
            }
        }
        self.others = kept;
    }

    pub fn serve_readers(&mut self, view: &Snapshot) {
        for reader in self.readers.drain(..) {
            // A reader that has gone needs nothing.
            drop(reader.send(view.clone()));
        }
    }
}

fn refuse(reply: Reply, why: &str) {
    if let Some(reply) = reply {
        reply(Err(not_known(why)));
    }
}

/// What is true whether or not the batch is committed: it is decided about
/// again if it is not.
pub fn keeps(event: &Event) -> Option<Event> {
    let stays = matches!(event, Event::Fact { .. } | Event::Agent { .. } | Event::Gap(_) | Event::Drain);
    stays.then(|| event.clone())
}

/// What is left of an event that was stepped.
#[derive(Default)]
pub struct Cause {
    /// Where its answer goes.
    pub reply: Reply,
    /// The event itself, if it is true whether or not the batch is committed.
    pub again: Option<Event>,
    /// How long it waits.
    pub lag: Option<Lag>,
}

/// What a batch decided so far.
#[derive(Default)]
pub struct Draft {
    /// It brings another inventory, which is nobody's before the commit:
    /// should that fail, the lab goes on with the old one.
    pub reloads: bool,
    records: Vec<Record>,
    touched: BTreeSet<RowKey>,
    effects: Vec<Effect>,
    answers: Vec<(Reply, Answer)>,
    again: Vec<Event>,
    lags: Vec<Lag>,
}

impl Draft {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.reloads
    }

    /// Adds what was decided about an event. As long as the batch changes
    /// nothing, answers and effects depend on nothing but committed state,
    /// and need not wait for the disk.
    pub fn take(
        &mut self,
        hands: &dyn Hands,
        epoch: Epoch,
        lab: &Lab,
        mut outcome: Outcome,
        Cause { reply, again, mut lag }: Cause,
    ) {
        if let Some(lag) = &mut lag {
            lag.led_to(&outcome);
        }
        let answer = std::mem::replace(&mut outcome.answer, Answer::None);
        let effects = self.add(outcome);
        if self.is_empty() {
            tell(reply, answer, lab);
            release(hands, effects, epoch);
            lag.iter().for_each(Lag::tell);
            return;
        }
        self.answers.push((reply, answer));
        self.effects.extend(effects);
        self.again.extend(again);
        self.lags.extend(lag);
    }

    /// Adds records; answers with the effects.
    pub fn add(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.records.extend(outcome.records);
        self.touched.extend(outcome.touched);
        outcome.effects
    }

    /// The batch as it is stored, given the lab after it.
    pub fn batch(&self, lab: &Lab) -> Batch {
        let mut batch = Batch { meta: lab.meta().clone(), records: self.records.clone(), ..Batch::default() };
        for key in &self.touched {
            match lab.row(key) {
                Some(row) => batch.upserts.push(row),
                None => batch.removes.push(key.clone()),
            }
        }
        batch
    }

    /// It is committed, and `lab` with it: answers leave, and the caller lets records and
    /// effects go, then tells the lags.
    pub fn answer(self, lab: &Lab) -> (Vec<Record>, Vec<Effect>, Vec<Lag>) {
        for (reply, answer) in self.answers {
            tell(reply, answer, lab);
        }
        (self.records, self.effects, self.lags)
    }

    /// Nobody knows (yet) whether it is committed: askers hear so.
    pub fn not_known(&mut self, why: &str) {
        for (reply, _) in self.answers.drain(..) {
            refuse(reply, why);
        }
    }

    /// It was not committed. What is true regardless is left over.
    pub fn turn_away(mut self, why: &str) -> Vec<Event> {
        self.not_known(why);
        self.again
    }

    /// What it decided.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Newest record if it is committed.
    pub fn newest(&self) -> Option<u64> {
        self.records.last().map(|r| r.number)
    }
}

fn tell(reply: Reply, answer: Answer, lab: &Lab) {
    if let Some(reply) = reply {
        reply(Ok((answer, lab)));
    }
}

pub fn release(hands: &dyn Hands, effects: Vec<Effect>, epoch: Epoch) {
    if !effects.is_empty() {
        hands.release(effects, epoch);
    }
}

/// Randomness for a batch: one draw from the kernel, counted up.
pub struct Dice {
    seed: [u8; 32],
    thrown: u64,
}

impl Dice {
    pub fn throw() -> Result<Self, Halt> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| Halt::Entropy(e.to_string()))?;
        Ok(Self { seed, thrown: 0 })
    }

    pub fn next(&mut self) -> Entropy {
        self.thrown += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.thrown.to_le_bytes());
        Entropy(hash.finalize().into())
    }
}
