//! The hands: they do what was decided, wait, look, and report facts. They
//! decide nothing and remember nothing that a restart would miss.
//!
//! One **lane** per machine orders its power commands; a newer command for a
//! leg cancels the older one. One **runner** per controller bounds what the
//! device gets at the same time, so a dead outlet times out alone.

mod act;
mod check;
mod drive;
mod examine;
mod front;
mod leg;
mod program;
mod rig;
mod runner;
mod witness;

#[cfg(test)]
mod tests;

pub use examine::Seen;
pub use front::{Answer, Front};
pub use rig::{Places, Rig, Rigs};

use super::Hands;
use super::agents::Agents;
use act::Undone;
use check::Check;
use drive::Drives;
use leg::{Job, Order};
use pitstop_core::Lab;
use pitstop_core::effect::Effect;
use pitstop_core::event::{Act, Fact, Nudge};
use pitstop_core::id::{Epoch, IntentId};
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::{Reading, Switch};
use pitstop_core::record::Record;
use pitstop_core::time::LabTime;
use pitstop_drivers::{Power, factories};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{ToAgent, Work};
use regex::Regex;
use runner::Runners;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a machine's device may take to nudge it.
const NUDGED: Duration = Duration::from_secs(20);

/// What the hands need of the consoles.
pub trait Attention: Send + Sync {
    /// Returns when every console of the machine is open or has reported its
    /// failure, or `limit` is over.
    fn ready<'a>(&'a self, machine: &'a MachineName, limit: Duration) -> Answer<'a, ()>;

    /// The machine's consoles, by name: what there is to say of an open line,
    /// or why it is not open.
    fn lines(&self, machine: &MachineName) -> Vec<(String, Result<String, String>)>;

    /// The first line that fits, of those that are said from this call on; or
    /// why there never will be one. Dropped, it listens no more.
    fn says(
        &self,
        machine: &MachineName,
        console: &str,
        line: Regex,
    ) -> Answer<'static, Result<String, String>>;

    /// The drivers are these now.
    fn follow(&self, rigs: &Rigs);

    /// As [`Hands::know`]; `machines` are those the records are about, `None`
    /// where it may be any.
    fn know(&self, lab: &Lab, machines: Option<&BTreeSet<&MachineName>>);
}

/// The hands of a lab.
#[derive(Clone)]
pub struct LabHands {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    front: Arc<dyn Front>,
    agents: Agents,
    attention: Arc<dyn Attention>,
    rigs: Arc<Rigs>,
    runners: Arc<Runners>,
    lanes: Mutex<HashMap<MachineName, Lane>>,
    drives: Drives,
    programs: program::Programs,
    /// Legs that are being looked at, and whether they are to be looked at
    /// once more: what was asked for later must be read later.
    looking: Mutex<HashMap<(MachineName, usize), bool>>,
}

/// What one machine's power is doing.
#[derive(Default)]
struct Lane {
    /// The command that works on each leg.
    legs: HashMap<usize, AbortHandle>,
    /// What watches for the evidence that it is up.
    witness: Option<AbortHandle>,
    /// Whether the newest power-on is done: legs come on one after the other.
    last_on: Option<watch::Receiver<bool>>,
}

impl LabHands {
    /// Hands that act through these drivers. Call it inside the runtime that
    /// is to carry the work.
    pub fn new(
        front: Arc<dyn Front>,
        agents: Agents,
        attention: Arc<dyn Attention>,
        rigs: Arc<Rigs>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                runtime: Handle::current(),
                front,
                agents,
                attention,
                rigs,
                runners: Arc::default(),
                lanes: Mutex::default(),
                drives: Drives::default(),
                programs: program::Programs::default(),
                looking: Mutex::default(),
            }),
        }
    }
}

impl Hands for LabHands {
    fn release(&self, effects: Vec<Effect>, epoch: Epoch) {
        for effect in effects {
            match effect {
                Effect::Power { machine, leg, intent, want, boot, until } => {
                    self.inner.end_medium(&machine);
                    let order = Order { machine, leg, want, boot, until };
                    self.inner.power(order, intent, epoch);
                }
                Effect::Observe { machine, leg } => self.inner.observe(machine, leg, epoch),
                Effect::Tell { machine, nonce, mut message } => {
                    // It speaks: all that it boots from is in its RAM.
                    self.inner.end_medium(&machine);
                    self.inner.complete(&machine, &mut message);
                    self.inner.agents.tell(&machine, &nonce, &message);
                }
                Effect::Check { machine, nonce, run } => {
                    self.inner.check(Check { machine, nonce, run }, epoch);
                }
                Effect::Act { machine, intent, act, until } => {
                    self.inner.act(machine, intent, act, until, epoch);
                }
                Effect::Witness { machine, turn, until } => self.inner.witness(machine, turn, until, epoch),
                Effect::Hook { .. } | Effect::Program { .. } | Effect::Stop { .. } => {
                    self.inner.program(effect, epoch);
                }
                Effect::Dismiss { machine, reason } => self.inner.agents.dismiss(&machine, &reason),
            }
        }
    }

    fn follow(&self, inventory: &Arc<Inventory>) {
        // Drivers look for the runtime that is to carry their work.
        let _runtime = self.inner.runtime.enter();
        self.inner.rigs.load(factories(), inventory);
        self.inner.programs.follow(|machine| self.inner.rigs.get(machine));
        self.inner.attention.follow(&self.inner.rigs);
    }

    fn know(&self, lab: &Lab, records: Option<&[Record]>) {
        let machines = records.map(|records| records.iter().filter_map(|r| r.change.machine()).collect());
        self.inner.attention.know(lab, machines.as_ref());
    }
}

impl Inner {
    fn lanes(&self) -> MutexGuard<'_, HashMap<MachineName, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn power(self: &Arc<Self>, order: Order, intent: IntentId, epoch: Epoch) {
        let mut lanes = self.lanes();
        let lane = lanes.entry(order.machine.clone()).or_default();
        // Superseded: what it already sent may still land, which the stored
        // intent accounts for.
        if let Some(older) = lane.legs.remove(&order.leg) {
            older.abort();
        }
        let (done, is_done) = watch::channel(false);
        let after = match order.want {
            // Off waits for nobody.
            Switch::Off => None,
            Switch::On => lane.last_on.replace(is_done),
        };
        let (inner, leg) = (self.clone(), order.leg);
        let task = self.runtime.spawn(async move {
            if let Some(mut after) = after {
                // An aborted one drops its end, which counts as done.
                let _ = after.wait_for(|done| *done).await;
            }
            let job = Job { inner: &inner, order: &order };
            let (result, witnessed) = job.run().await;
            if let Err(e) = &result {
                tracing::info!(machine = %order.machine, leg = order.leg, "power: {e}");
            }
            let Order { machine, leg, want, .. } = order;
            inner.front.fact(epoch, Fact::Power { machine, leg, intent, want, result, witnessed });
            done.send_replace(true);
        });
        lane.legs.insert(leg, task.abort_handle());
    }

    /// Runs a health check beside everything else, and reports how it ended.
    fn check(self: &Arc<Self>, check: Check, epoch: Epoch) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Some(fact) = check.run(&inner.agents).await {
                inner.front.fact(epoch, fact);
            }
        });
    }

    /// Watches for what shows that a machine is up, in the place of whatever
    /// was watched for before.
    fn witness(self: &Arc<Self>, machine: MachineName, turn: (u64, u32), until: LabTime, epoch: Epoch) {
        // Before the task begins: the machine is about to be switched on.
        let on = self.lanes().get(&machine).and_then(|lane| lane.last_on.clone());
        let watch = witness::watch(self.clone(), machine.clone(), on);
        let (inner, name) = (self.clone(), machine.clone());
        let task = self.runtime.spawn(async move {
            let left = Duration::from_millis(until - inner.front.now());
            // The core has the deadline; nobody is told that it is over.
            if let Ok(result) = tokio::time::timeout(left, watch).await {
                inner.front.fact(epoch, Fact::Witnessed { machine, turn, result });
            }
        });
        let mut lanes = self.lanes();
        if let Some(older) = lanes.entry(name).or_default().witness.replace(task.abort_handle()) {
            older.abort();
        }
    }

    /// Flips a switch or presses a button, beside everything else but other
    /// such acts on the machine.
    fn act(self: &Arc<Self>, machine: MachineName, intent: IntentId, act: Act, until: LabTime, epoch: Epoch) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            let done = match inner.rigs.get(&machine) {
                Some(rig) => match act {
                    Act::Nudge(nudge) => inner.nudge(&rig, nudge, until).await,
                    _ => rig.act(&act, || inner.front.now() <= until).await,
                },
                None => Err(Undone::before(format!("{machine} is not in the inventory"))),
            };
            if let Err(e) = &done {
                tracing::info!(%machine, "{act}: {}", e.why);
            }
            let begun = done.as_ref().map_or_else(|e| e.begun, |()| true);
            let result = done.map_err(|e| e.why);
            inner.front.fact(epoch, Fact::Acted { machine, intent, act, begun, result });
        });
    }

    /// Through the first leg, which is the one named `power`.
    async fn nudge(&self, rig: &Rig, nudge: Nudge, until: LabTime) -> Result<(), Undone> {
        let leg = rig.leg(0).ok_or_else(|| Undone::before("it has no power leg"))?;
        let power = leg.power().map_err(Undone::before)?;
        if !power.nudges() {
            let word = nudge.word();
            return Err(Undone::before(format!(
                "what switches this machine can only do on and off, no {word}"
            )));
        }
        let left = || Duration::from_millis(until - self.front.now());
        let turn = async {
            // No power command is given meanwhile, and this not between two of them.
            let quiet = rig.nudged().write().await;
            (quiet, self.runners.turn(power.limits()).await)
        };
        let _turn = tokio::time::timeout(left(), turn).await.map_err(|_| Undone::late())?;
        if left().is_zero() {
            return Err(Undone::late());
        }
        match tokio::time::timeout(NUDGED, power.nudge(nudge)).await {
            Ok(done) => done.map_err(|e| Undone::failed(&e)),
            Err(_) => Err(Undone::perhaps(format!("no answer within {} s", NUDGED.as_secs()))),
        }
    }

    /// The core does not know where this daemon is reached: the seed's
    /// parameters learn it here.
    fn complete(&self, machine: &MachineName, message: &mut ToAgent) {
        if let ToAgent::Do { work: Work::Seed { params, .. }, .. } = message
            && let Some(rig) = self.rigs.get(machine)
        {
            *params = rig.complete(&self.rigs.places, params.clone());
        }
    }

    /// Reads a leg and reports it. One reading at a time: a controller that
    /// hangs would collect them without end otherwise.
    fn observe(self: &Arc<Self>, machine: MachineName, leg: usize, epoch: Epoch) {
        match self.looking().entry((machine.clone(), leg)) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                return;
            }
            Entry::Vacant(first) => first.insert(false),
        };
        let mut look = Look { inner: self.clone(), key: (machine, leg), over: false };
        self.runtime.spawn(async move {
            loop {
                let (machine, leg) = look.key.clone();
                let (asked, reading) = look.inner.look(&machine, leg).await;
                look.inner.front.fact(epoch, Fact::Read { machine, leg, asked, reading });
                if !look.again() {
                    return;
                }
            }
        });
    }

    fn looking(&self) -> MutexGuard<'_, HashMap<(MachineName, usize), bool>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a leg; when the reading was begun, and what it showed twice.
    async fn look(&self, machine: &MachineName, leg: usize) -> (LabTime, Reading) {
        let Some(rig) = self.rigs.get(machine) else { return (self.front.now(), Reading::Unknown) };
        let Some(part) = rig.leg(leg) else { return (self.front.now(), Reading::Unknown) };
        let power = match part.power() {
            Ok(power) => power,
            Err(e) => {
                tracing::debug!(machine = %machine, leg, "cannot be read: {e}");
                return (self.front.now(), Reading::Unknown);
            }
        };
        // There is nothing to read. What it is taken to be is in its row.
        if !part.spec.readback {
            return (self.front.now(), Reading::Unknown);
        }
        let _turn = self.runners.turn(power.limits()).await;
        // Only now: a reading shows nothing of what happened while it waited.
        let asked = self.front.now();
        let reading = read(machine, leg, power.as_ref()).await;
        if reading == Reading::Unknown {
            return (asked, reading);
        }
        // One reading may be a flicker: two that agree are one.
        tokio::time::sleep(leg::PAUSE.0).await;
        let same = read(machine, leg, power.as_ref()).await == reading;
        (asked, if same { reading } else { Reading::Unknown })
    }
}

async fn read(machine: &MachineName, leg: usize, power: &dyn Power) -> Reading {
    match tokio::time::timeout(leg::READ, power.read()).await {
        Ok(Ok(reading)) => reading,
        Ok(Err(e)) => {
            tracing::debug!(machine = %machine, leg, "cannot be read: {e}");
            Reading::Unknown
        }
        Err(_) => Reading::Unknown,
    }
}

/// A leg that is being looked at; not any more when this is dropped, so that
/// a driver that panics does not leave it unread for ever.
struct Look {
    inner: Arc<Inner>,
    key: (MachineName, usize),
    over: bool,
}

impl Look {
    /// Whether it was asked for again meanwhile. If not, this is over: whoever
    /// asks from now on begins another.
    fn again(&mut self) -> bool {
        let mut looking = self.inner.looking();
        let again = looking.get(&self.key).copied().unwrap_or(false);
        if again {
            looking.insert(self.key.clone(), false);
        } else {
            looking.remove(&self.key);
            self.over = true;
        }
        again
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !self.over {
            self.inner.looking().remove(&self.key);
        }
    }
}
