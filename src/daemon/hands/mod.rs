//! The hands: they do what was decided, wait, look, and report facts. They
//! decide nothing and remember nothing that a restart would miss.
//!
//! One **lane** per machine orders its power commands; a newer command for a
//! leg cancels the older one. One **runner** per controller bounds what the
//! device gets at the same time, so a dead outlet times out alone.

mod front;
mod leg;
mod rig;
mod runner;

#[cfg(test)]
mod tests;

pub use front::{Answer, Front};
pub use rig::{Places, Rig, Rigs};

use super::Hands;
use super::agents::Agents;
use leg::{Job, Order};
use pitstop_core::effect::Effect;
use pitstop_core::event::Fact;
use pitstop_core::id::{Epoch, IntentId};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{ToAgent, Work};
use runner::Runners;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the hands need of the consoles.
pub trait Attention: Send + Sync {
    /// Returns when every console of the machine is open or has reported its
    /// failure, or `limit` is over.
    fn ready<'a>(&'a self, machine: &'a MachineName, limit: Duration) -> Answer<'a, ()>;
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
}

/// What one machine's power is doing.
#[derive(Default)]
struct Lane {
    /// The command that works on each leg.
    legs: HashMap<usize, AbortHandle>,
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
            }),
        }
    }
}

impl Hands for LabHands {
    fn release(&self, effects: Vec<Effect>, epoch: Epoch) {
        for effect in effects {
            match effect {
                Effect::Power { machine, leg, intent, want, boot, within } => {
                    let order = Order { machine, leg, want, boot, within: Duration::from_millis(within) };
                    self.inner.power(order, intent, epoch);
                }
                Effect::Observe { machine, leg } => self.inner.observe(machine, leg, epoch),
                Effect::Tell { machine, nonce, mut message } => {
                    self.inner.complete(&machine, &mut message);
                    self.inner.agents.tell(&machine, &nonce, &message);
                }
                Effect::Dismiss { machine, reason } => self.inner.agents.dismiss(&machine, &reason),
            }
        }
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

    /// The core does not know where this daemon is reached: the seed's
    /// parameters learn it here.
    fn complete(&self, machine: &MachineName, message: &mut ToAgent) {
        if let ToAgent::Do { work: Work::Seed { params, .. }, .. } = message
            && let Some(rig) = self.rigs.get(machine)
        {
            *params = rig.complete(&self.rigs.places, params.clone());
        }
    }

    fn observe(self: &Arc<Self>, machine: MachineName, leg: usize, epoch: Epoch) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            let (asked, reading) = inner.look(&machine, leg).await;
            inner.front.fact(epoch, Fact::Read { machine, leg, asked, reading });
        });
    }

    /// Reads a leg; when the reading was begun, and what it showed.
    async fn look(&self, machine: &MachineName, leg: usize) -> (pitstop_core::time::LabTime, Reading) {
        let Some(rig) = self.rigs.get(machine) else { return (self.front.now(), Reading::Unknown) };
        let Some(part) = rig.leg(leg) else { return (self.front.now(), Reading::Unknown) };
        let power = match part.power() {
            Ok(power) => power,
            Err(e) => {
                tracing::debug!(machine = %machine, leg, "cannot be read: {e}");
                return (self.front.now(), Reading::Unknown);
            }
        };
        if !part.spec.readback {
            return (self.front.now(), part.assumed());
        }
        let _turn = self.runners.turn(power.limits()).await;
        // Only now: a reading shows nothing of what happened while it waited.
        let asked = self.front.now();
        match tokio::time::timeout(leg::READ, power.read()).await {
            Ok(Ok(reading)) => (asked, reading),
            Ok(Err(e)) => {
                tracing::debug!(machine = %machine, leg, "cannot be read: {e}");
                (asked, Reading::Unknown)
            }
            Err(_) => (asked, Reading::Unknown),
        }
    }
}
