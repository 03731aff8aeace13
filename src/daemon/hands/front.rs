//! What the hands need of the decision loop.

use crate::daemon::Desk;
use pitstop_core::event::{BootAnswer, Fact, Report};
use pitstop_core::id::Epoch;
use pitstop_core::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{Hello, Welcome};
use std::future::Future;
use std::pin::Pin;

/// An answer that has to be waited for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The decision loop, seen from the hands. A trait, so that hands are tested
/// without one.
pub trait Front: Send + Sync {
    /// An agent says hello.
    fn hello(&self, hello: Hello) -> Answer<'_, Welcome>;
    /// What a machine is to boot; `lane`: our own lane asks.
    fn boot(&self, machine: MachineName, lane: bool) -> Answer<'_, BootAnswer>;
    /// A hand reports about an effect of this epoch.
    fn fact(&self, epoch: Epoch, fact: Fact);
    /// An agent reports in its session, by the call itself. Whoever waits for
    /// the result waits until that has been decided about, or turned away.
    fn agent(
        &self,
        machine: MachineName,
        nonce: String,
        boot_id: String,
        report: Report,
    ) -> Answer<'static, ()>;
    /// Lab time.
    fn now(&self) -> LabTime;
}

impl Front for Desk {
    fn hello(&self, hello: Hello) -> Answer<'_, Welcome> {
        Box::pin(Self::hello(self, hello))
    }
    fn boot(&self, machine: MachineName, lane: bool) -> Answer<'_, BootAnswer> {
        Box::pin(Self::boot(self, machine, lane))
    }
    fn fact(&self, epoch: Epoch, fact: Fact) {
        Self::fact(self, epoch, fact);
    }
    fn agent(
        &self,
        machine: MachineName,
        nonce: String,
        boot_id: String,
        report: Report,
    ) -> Answer<'static, ()> {
        Box::pin(Self::agent(self, machine, nonce, boot_id, report))
    }
    fn now(&self) -> LabTime {
        Self::now(self)
    }
}
