//! The daemon: it decides with the core's own step, commits, answers and lets
//! effects go, in this order; or it dies somewhere in between.

use crate::action::Death;
use crate::fault::Fault;
use crate::oracle;
use crate::world::{At, Link, Order, Question, World, Wrong};
use pitstop_core::Lab;
use pitstop_core::effect::Effect;
use pitstop_core::event::{Answer, Event, Moment};
use pitstop_core::fence::Fence;
use pitstop_core::id::{Entropy, Epoch};
use pitstop_core::lab::{Outcome, Row, RowKey};
use pitstop_wire::agent::ToAgent;
use std::collections::BTreeMap;

/// How long a daemon is away that is away for long, in milliseconds.
const LONG: u64 = 3_600_000;
/// Judgements without time passing, after which they are taken to lead nowhere.
const JUDGEMENTS: usize = 5;

/// What the asker of an event gets to know.
pub(crate) enum Heard {
    /// The answer.
    Answer(Answer),
    /// Nothing: the daemon was down, or died.
    Nothing,
    /// The daemon was to die, and there was nothing to die of: this is not a
    /// state of its own.
    Same,
}

impl World {
    fn moment(&mut self) -> Moment {
        // Fresh, and the same whenever this state is reached this way.
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.draw().to_le_bytes());
        Moment { now: self.now, wall: 0, entropy: Entropy(entropy) }
    }

    pub(crate) fn deliver(&mut self, event: Event, death: Death) -> Heard {
        if !self.up {
            return Heard::Nothing;
        }
        let moment = self.moment();
        let mut lab = self.lab.clone();
        let out = lab.step(&moment, event);
        let epoch = lab.meta().epoch;
        match death {
            Death::BeforeCommit if out.records.is_empty() => return Heard::Same,
            Death::BeforeCommit => {
                if !self.setting.fences.stands(Fence::IntentFirst) {
                    self.perform_all(out.effects, epoch);
                    self.send_unrecorded(epoch);
                }
                self.die();
                return Heard::Nothing;
            }
            // Without an effect or an answer to lose it may as well die later.
            Death::AfterCommit if out.effects.is_empty() && out.answer == Answer::None => return Heard::Same,
            Death::AfterCommit => {
                self.commit(lab, &out);
                self.die();
                return Heard::Nothing;
            }
            Death::None => {}
        }
        self.commit(lab, &out);
        self.perform_all(out.effects, epoch);
        Heard::Answer(out.answer)
    }

    /// The same, where nobody waits for an answer.
    pub(crate) fn report(&mut self, event: Event, death: Death) -> bool {
        !matches!(self.deliver(event, death), Heard::Same)
    }

    /// Stores what was decided: the rows that were touched, and the records.
    fn commit(&mut self, lab: Lab, out: &Outcome) {
        if let Err(text) = one_history(&self.lab, &lab, out) {
            self.is_wrong(oracle::HISTORY, text);
        }
        self.lab = lab;
    }

    pub(crate) fn is_wrong(&mut self, property: &'static str, text: String) {
        self.wrong.get_or_insert(Wrong { property, text });
    }

    fn perform_all(&mut self, effects: Vec<Effect>, epoch: Epoch) {
        for effect in effects {
            self.perform(effect, epoch);
        }
    }

    /// An effect that left. What it asks of a hand is done later; what it
    /// tells an agent is heard at once, or the connection is broken already.
    fn perform(&mut self, effect: Effect, epoch: Epoch) {
        match effect {
            Effect::Power { intent, want, boot, until, .. } => {
                self.supersede(epoch);
                let holder = self.holder();
                let (credentials, at, slow) = (None, At::Lane, false);
                self.orders.push(Order { intent, want, boot, credentials, epoch, until, holder, at, slow });
            }
            Effect::Observe { .. } => {
                let question = Question { asked: self.now, epoch };
                if !self.questions.contains(&question) {
                    self.questions.push(question);
                }
            }
            Effect::Tell { nonce, message, .. } => self.tell(&nonce, message),
            // The machine has no health check, no hook, and nothing to flip or press.
            Effect::Check { .. }
            | Effect::Act { .. }
            | Effect::Witness { .. }
            | Effect::Hook { .. }
            | Effect::Program { .. }
            | Effect::Stop { .. } => {}
            Effect::Dismiss { .. } => {
                if let Some(agent) = self.agent.as_mut().filter(|a| a.link == Link::Up) {
                    agent.link = Link::Over;
                }
            }
        }
    }

    fn tell(&mut self, nonce: &str, message: ToAgent) {
        let hears = |a: &&mut crate::world::Agent| a.link == Link::Up && a.credentials.nonce == nonce;
        let Some(agent) = self.agent.as_mut().filter(hears) else { return };
        match message {
            ToAgent::Ack { step } => drop(agent.results.remove(&step)),
            ToAgent::Do { step, work }
                if !agent.results.contains_key(&step)
                    && agent.doing.as_ref().is_none_or(|(doing, _)| *doing != step) =>
            {
                self.begin(step, work);
            }
            _ => {}
        }
    }

    /// The process is gone, with its lanes, runners and connections. What it
    /// sent lands all the same.
    pub(crate) fn die(&mut self) -> bool {
        self.up = false;
        let epoch = self.lab.meta().epoch;
        self.orders.retain_mut(|order| order.epoch != epoch || order.orphan());
        self.questions.retain(|q| q.epoch != epoch);
        self.hang_up();
        true
    }

    fn hang_up(&mut self) {
        if let Some(agent) = self.agent.as_mut().filter(|a| a.link == Link::Up) {
            agent.link = Link::Dialling;
        }
    }

    /// The process stands still, with what its lanes and runners were about
    /// to do, and does it when it wakes.
    pub(crate) fn stop(&mut self) -> bool {
        self.stopped = Some(Box::new(self.lab.clone()));
        self.up = false;
        self.hang_up();
        self.faults.spend(Fault::Stop)
    }

    pub(crate) fn restart(&mut self) -> bool {
        self.lab = Lab::from_rows(self.lab.rows()).with_fences(self.setting.fences);
        self.up = true;
        let inventory = self.setting.inventory.clone();
        self.report(Event::Start { inventory, enrol: true }, Death::None)
    }

    pub(crate) fn late_restart(&mut self) -> bool {
        self.now = self.now + LONG;
        self.faults.spend(Fault::LongDown) && self.restart()
    }

    /// A stopped daemon goes on with what it believes. The store refuses the
    /// commit of one that was superseded; it then ends itself.
    pub(crate) fn wake(&mut self) -> bool {
        let Some(mut lab) = self.stopped.take().map(|lab| *lab) else { return false };
        let epoch = lab.meta().epoch;
        self.questions.retain(|q| q.epoch != epoch);
        if self.setting.fences.stands(Fence::Epoch) {
            self.orders.retain_mut(|order| order.epoch != epoch || order.orphan());
            return true;
        }
        let moment = self.moment();
        let out = lab.step(&moment, Event::Tick);
        if !out.records.is_empty() {
            self.commit(lab, &out);
            self.perform_all(out.effects, epoch);
        }
        true
    }

    pub(crate) fn tick(&mut self, death: Death) -> bool {
        let done = self.report(Event::Tick, death);
        if death == Death::None && self.is_due() && self.is_due_for_ever() {
            let text = format!("what is due at {} ms stays due however often it is judged", self.now.0);
            self.is_wrong(oracle::EXIT, text);
        }
        done
    }

    /// One judgement may make another one due at once; but not for ever.
    fn is_due_for_ever(&self) -> bool {
        let mut later = self.clone();
        for _ in 0..JUDGEMENTS {
            later.report(Event::Tick, Death::None);
        }
        later.is_due()
    }
}

impl Order {
    /// What is left of it when the process that gave it is gone; `false`:
    /// nothing.
    fn orphan(&mut self) -> bool {
        if let At::Sent { watched, .. } = &mut self.at {
            *watched = false;
        }
        matches!(self.at, At::Sent { flying: true, .. })
    }
}

/// Records must follow the newest one, lead to the rows that the step left,
/// and say which rows they touched: the store writes no others.
fn one_history(before: &Lab, after: &Lab, out: &Outcome) -> Result<(), String> {
    let mut folded = before.clone();
    for record in &out.records {
        let newest = folded.meta().records;
        if record.number != newest + 1 {
            return Err(format!("history forked: record {} was written after {newest}", record.number));
        }
        folded.follow(record);
    }
    let rows = after.rows();
    if folded.rows() != rows {
        return Err("the rows are not the fold of the records".into());
    }
    let keyed = |rows: Vec<Row>| rows.into_iter().map(|row| (key_of(&row), row)).collect::<BTreeMap<_, _>>();
    let (old, new) = (keyed(before.rows().rows), keyed(rows.rows));
    let changed = |key: &RowKey| old.get(key) != new.get(key);
    match old.keys().chain(new.keys()).find(|key| changed(key) && !out.touched.contains(key)) {
        Some(key) => Err(format!("{key:?} changed, and the step does not say so")),
        None => Ok(()),
    }
}

fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Machine(machine) => RowKey::Machine(machine.name.clone()),
        Row::Reservation(reservation) => RowKey::Reservation(reservation.id),
        Row::Image(image) => RowKey::Image(image.image.name.clone()),
        Row::Key(key) => RowKey::Key(key.number),
    }
}
