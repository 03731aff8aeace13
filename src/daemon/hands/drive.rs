//! Virtual drives: a CD is lent to a machine's BMC for one attempt, and taken
//! out when its use is over, however it ends.
//!
//! ```text
//!   power-on for the agent ─▶ lent ─▶ inserted ─┬─▶ the agent speaks ──────────┐
//!                                               ├─▶ another power command ─────┼─▶ lent no more ─▶ taken out
//!                                               └─▶ the phase's time is over ──┘
//! ```

use super::leg::Job;
use super::rig::Rig;
use super::{Inner, leg};
use crate::daemon::boot::Loan;
use pitstop_core::event::BootAnswer;
use pitstop_drivers::{Delivery, DriverError, Power, PowerOn};
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentParams;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const DRIVER: &str = "boot.virtual-media";
/// How often a BMC is told to take a CD out, and the pause after each.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// Longest pause before a CD is inserted once more that was refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What is left of a power-on's time, at most, when a BMC that fetches is
/// given up: it would be too late to switch on, and it is told what was waited
/// for.
const MARGIN: Duration = Duration::from_secs(5);

/// What is known of the drives of machines that have one.
#[derive(Debug, Default)]
pub(super) struct Drives(Mutex<HashMap<MachineName, Drive>>);

#[derive(Debug, Default)]
struct Drive {
    /// Nothing of ours is in it. Not known of any when the daemon starts.
    empty: bool,
    /// Whether the taking out that is under way is done.
    emptying: Option<watch::Receiver<bool>>,
}

impl Drives {
    fn all(&self) -> MutexGuard<'_, HashMap<MachineName, Drive>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, machine: &MachineName, empty: bool) {
        self.all().entry(machine.clone()).or_default().empty = empty;
    }

    /// Begins the taking out, unless it is under way or nothing is in.
    fn begin(&self, machine: &MachineName) -> Option<watch::Sender<bool>> {
        let mut all = self.all();
        let drive = all.entry(machine.clone()).or_default();
        // One that ended early dropped its end.
        let busy = drive.emptying.as_ref().is_some_and(|done| !*done.borrow() && done.has_changed().is_ok());
        if drive.empty || busy {
            return None;
        }
        let (done, is_done) = watch::channel(false);
        drive.emptying = Some(is_done);
        Some(done)
    }

    /// Waits until nothing is being taken out.
    async fn quiet(&self, machine: &MachineName) {
        let emptying = self.all().get(machine).and_then(|drive| drive.emptying.clone());
        if let Some(mut done) = emptying {
            // One that ended early is done as well.
            let _ = done.wait_for(|done| *done).await;
        }
    }
}

impl Inner {
    /// The use of the machine's CD is over, if it has one: nobody is given
    /// any more of it, and it is taken out.
    pub(super) fn end_medium(self: &Arc<Self>, machine: &MachineName) {
        if let Some(loan) = self.rigs.media.end(machine) {
            tracing::info!(%machine, "its boot medium is lent no more; {}", loan.progress());
        }
        let Some(rig) = self.rigs.get(machine).filter(|rig| has_drive(rig)) else { return };
        let Some(power) = drive_of(&rig) else { return };
        let Some(done) = self.drives.begin(machine) else { return };
        let (inner, machine) = (Arc::clone(self), machine.clone());
        self.runtime.spawn(async move {
            match inner.take_out(power.as_ref()).await {
                Ok(()) => inner.drives.set(&machine, true),
                // The next power command tries it again.
                Err(e) => tracing::warn!(%machine, "its boot medium is still in its drive: {e}"),
            }
            done.send_replace(true);
        });
    }

    async fn take_out(&self, power: &dyn Power) -> Result<(), String> {
        let mut tries = 0;
        loop {
            let turn = self.runners.turn(power.limits()).await;
            let told = match timeout(leg::READ, power.eject()).await {
                Ok(told) => told.map_err(|e| e.to_string()),
                Err(_) => Err(format!("no answer within {} s", leg::READ.as_secs())),
            };
            drop(turn);
            tries += 1;
            if told.is_ok() || tries == TRIES {
                return told;
            }
            sleep(PAUSE).await;
        }
    }
}

/// The device whose drive the machine boots from: of the leg that comes on
/// last.
fn drive_of(rig: &Rig) -> Option<Arc<dyn Power>> {
    rig.leg(rig.spec.legs.len().checked_sub(1)?)?.power().ok().cloned()
}

pub(super) fn has_drive(rig: &Rig) -> bool {
    rig.boot().is_ok_and(|boot| boot.delivery() == Delivery::Medium)
}

impl Job<'_> {
    /// Before the machine comes on: what an earlier attempt left in its drive
    /// is out, or its BMC does not do it.
    pub(super) async fn drive_is_quiet(&self, rig: &Rig) {
        if has_drive(rig) {
            self.inner.drives.quiet(&self.order.machine).await;
        }
    }

    /// Lends the attempt's CD and has it inserted.
    pub(super) async fn insert(&self, rig: &Rig, power: &Arc<dyn Power>) -> Result<PowerOn, String> {
        let machine = &self.order.machine;
        let params = match self.parameters().await {
            BootAnswer::Agent(params) => rig.complete(&self.inner.rigs.places, params),
            // Nothing of ours is to boot.
            BootAnswer::Disk => return Ok(PowerOn::Disk),
            BootAnswer::Refused(why) => return Err(format!("no boot parameters: {why}")),
            BootAnswer::NotKnown(why) => return Err(format!("no boot parameters in time: {why}")),
        };
        let boot = rig.boot().map_err(|e| e.to_string())?;
        let (path, loan) = self.lend(boot, params).await?;
        self.end_in_time(rig, &loan);
        self.inner.drives.set(machine, false);
        let on = loan.medium().power_on(&path);
        let left = self.left();
        let limit = left - MARGIN.min(left / 8);
        let mut refused = None;
        let done = timeout(limit, self.insert_by(power, &on, &mut refused)).await;
        match done {
            Ok(done) => done.map_err(|e| e.to_string())?,
            Err(_) => {
                if let Some(refused) = refused {
                    return Err(format!("{refused}; {}", loan.progress()));
                }
                let attempted = format!("have {machine} boot from the medium");
                let late =
                    format!("it was not in the drive within {} s; {}", limit.as_secs(), loan.progress());
                return Err(DriverError::new(DRIVER, attempted, late)
                    .next("`fetch` gives a slow BMC more time, and `server` says where it reaches the daemon")
                    .to_string());
            }
        }
        Ok(on)
    }

    async fn lend(
        &self,
        boot: &Arc<dyn pitstop_drivers::Boot>,
        params: AgentParams,
    ) -> Result<(String, Arc<Loan>), String> {
        let boot = Arc::clone(boot);
        // The whole file is looked through.
        let medium = tokio::task::spawn_blocking(move || boot.medium(&params)).await;
        let medium = medium.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let lent = self.inner.rigs.media.lend(&self.order.machine, medium);
        lent.map_err(|e| format!("no key for the boot medium: {e}"))
    }

    /// Said again where it failed, until the order's time is over; `refused` is
    /// what was answered last. Not in the queue of power commands: a BMC that
    /// fetches can be switched and read.
    async fn insert_by(
        &self,
        power: &Arc<dyn Power>,
        on: &PowerOn,
        refused: &mut Option<DriverError>,
    ) -> Result<(), DriverError> {
        let PowerOn::Medium { url } = on else { return Ok(()) };
        let mut queue = power.limits().clone();
        queue.queue += ", its drive";
        let _turn = self.inner.runners.turn(&queue).await;
        let mut pause = PAUSE;
        loop {
            match power.insert(url).await {
                Err(e) if !e.permanent && self.left() > leg::READ => {
                    tracing::info!(machine = %self.order.machine, "{e}; once more");
                    *refused = Some(e);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Whatever becomes of the turn, the loan ends with the time in which an
    /// agent is waited for.
    fn end_in_time(&self, rig: &Rig, loan: &Arc<Loan>) {
        let limits = &rig.spec.limits;
        let most = rig.spec.fetch_ms() + limits.power_ms + limits.firmware_ms + limits.attach_ms;
        let (inner, loan) = (self.inner.clone(), Arc::downgrade(loan));
        let machine = self.order.machine.clone();
        self.inner.runtime.spawn(async move {
            sleep(Duration::from_millis(most)).await;
            if loan.upgrade().is_some_and(|loan| inner.rigs.media.is_lent(&loan)) {
                inner.end_medium(&machine);
            }
        });
    }
}
