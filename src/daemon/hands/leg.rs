//! One power command: give it, read back, say what was seen.

use super::rig::{LegRig, Rig};
use super::{Inner, runner::Runners};
use pitstop_core::effect::Boot;
use pitstop_core::event::BootAnswer;
use pitstop_core::machine::{Reading, Switch};
use pitstop_core::time::LabTime;
use pitstop_drivers::{Delivery, DriverError, Power, PowerOn, Target};
use pitstop_wire::MachineName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long one reading may take.
pub const READ: Duration = Duration::from_secs(15);
/// How long consoles may take before a power-on; never more than a quarter of
/// what is left, or a console that hangs would be the power's failure.
const CONSOLES: Duration = Duration::from_secs(2);
/// First and longest pause between two readings.
pub const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Pause before a command is given again that was answered with an error.
const AGAIN: Duration = Duration::from_secs(1);

/// A pause that many machines on one device do not all end at once.
fn again() -> Duration {
    AGAIN.mul_f32(0.75 + fastrand::f32() / 2.0)
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Order {
    /// The machine.
    pub machine: MachineName,
    /// Index of the leg.
    pub leg: usize,
    /// On or off.
    pub want: Switch,
    /// What an on is to boot.
    pub boot: Boot,
    /// Until when the report is due, and a command may be sent.
    pub until: LabTime,
}

/// An order being carried out.
pub struct Job<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) order: &'a Order,
}

impl Job<'_> {
    /// Two equal readings, or why there are none; and whether the leg was
    /// seen to change, or nothing had to be sent.
    pub async fn run(&self) -> (Result<Reading, String>, bool) {
        let witnessed = AtomicBool::new(false);
        let result = self.carry_out(&witnessed).await;
        (result, witnessed.load(Ordering::Relaxed))
    }

    async fn carry_out(&self, witnessed: &AtomicBool) -> Result<Reading, String> {
        let Order { machine, leg, .. } = self.order;
        let rig = self.inner.rigs.get(machine).ok_or_else(|| format!("{machine} is not in the inventory"))?;
        let part = rig.leg(*leg).ok_or_else(|| format!("{machine} has no leg {leg}"))?;
        let power = part.power().map_err(|e| e.to_string())?.clone();
        let mut eye = Eye {
            runners: &self.inner.runners,
            part,
            power: &power,
            last: Err("it was not read".into()),
            tries: 0,
        };
        let left = self.left();
        let carried = async {
            let reading = self.attempt(&rig, part, &mut eye, witnessed).await?;
            // Off comes first, whatever else does not work.
            if self.order.want == Switch::Off && self.is_turn() {
                rig.go_home().await?;
            }
            Ok(reading)
        };
        match timeout(left, carried).await {
            Ok(done) => done,
            Err(_) => {
                let nothing = format!("nothing within {:.1} s", left.as_secs_f32());
                match eye.last {
                    // One reading may be a flicker, and nothing landed.
                    Ok(reading) if reading.shows(self.order.want) => {
                        Err(format!("{nothing}: it read {reading:?} only once").to_lowercase())
                    }
                    last => last.map_err(|e| match eye.tries {
                        0 | 1 => format!("{nothing}: {e}"),
                        tries => format!("{nothing}, {tries} tries: {e}"),
                    }),
                }
            }
        }
    }

    /// Whether the machine is on a turn: then whatever its last holder did to
    /// what stands beside it is undone.
    fn is_turn(&self) -> bool {
        self.order.boot != Boot::AsIs
    }

    /// How much time is left, by the clock the intent is judged by.
    pub(super) fn left(&self) -> Duration {
        Duration::from_millis(self.order.until - self.inner.front.now())
    }

    async fn attempt(
        &self,
        rig: &Rig,
        part: &LegRig,
        eye: &mut Eye<'_>,
        witnessed: &AtomicBool,
    ) -> Result<Reading, String> {
        let want = self.order.want;
        if part.spec.readback {
            // Already so: nothing is sent. A command that changes nothing
            // cannot be seen to land, and a slow controller might act on it
            // when the machine is somebody else's.
            if eye.shows(want).await {
                witnessed.store(true, Ordering::Relaxed);
                return eye.last.clone();
            }
            let before = eye.last.as_ref().is_ok_and(|r| *r != Reading::Unknown);
            witnessed.store(before, Ordering::Relaxed);
        }
        let on = match want {
            Switch::Off => PowerOn::Own,
            Switch::On => {
                self.before_on(part).await;
                if self.is_turn() {
                    rig.go_home().await?;
                }
                self.drive_is_quiet(rig).await;
                self.carry(rig, eye.power).await?
            }
        };
        loop {
            match self.command(rig, eye, &on).await {
                Ok(()) if !part.spec.readback => {
                    sleep(Duration::from_millis(part.spec.min_off_ms)).await;
                    part.saw(want);
                    return Ok(Reading::Assumed(want));
                }
                // Accepted: it happens or it does not; said once.
                Ok(()) => return eye.wait_for(want).await,
                Err(e) if e.permanent => return Err(e.to_string()),
                // An error proves nothing: look before it is said again.
                Err(e) => {
                    // Said twice, one of the two may land later.
                    witnessed.store(false, Ordering::Relaxed);
                    if part.spec.readback && eye.shows(want).await {
                        return eye.last.clone();
                    }
                    eye.tries += 1;
                    eye.last = Err(e.to_string());
                    sleep(again()).await;
                }
            }
        }
    }

    async fn command(&self, rig: &Rig, eye: &Eye<'_>, on: &PowerOn) -> Result<(), DriverError> {
        let _quiet = rig.nudged().read().await;
        let _turn = self.inner.runners.turn(eye.power.limits()).await;
        // The daemon may have been stopped since its timers were set.
        if self.left().is_zero() {
            let want = format!("switch {:?}", self.order.want).to_lowercase();
            return Err(DriverError::new("lane", want, "its time was over before it was sent").permanent());
        }
        eye.power.set(self.order.want, on).await
    }

    /// Off long enough, and every console listening: the first byte of the
    /// boot ROM belongs into the journal.
    async fn before_on(&self, part: &LegRig) {
        let min_off = Duration::from_millis(part.spec.min_off_ms);
        let rest = match part.off_since() {
            Some(since) => min_off.saturating_sub(since.elapsed()),
            // Off since nobody knows when: perhaps just now.
            None => min_off,
        };
        let consoles = self.inner.attention.ready(&self.order.machine, CONSOLES.min(self.left() / 4));
        tokio::join!(sleep(rest), consoles);
    }

    /// What the power-on must carry.
    async fn carry(&self, rig: &Rig, power: &Arc<dyn Power>) -> Result<PowerOn, String> {
        let boot = rig.boot().map_err(|e| e.to_string())?;
        let carry = |target: Target<'_>| boot.power_on(target).map_err(|e| e.to_string());
        match self.order.boot {
            Boot::Disk => carry(Target::Disk),
            Boot::AsIs => carry(Target::AsIs),
            Boot::Agent if boot.delivery() == Delivery::Medium => self.insert(rig, power).await,
            Boot::Agent if boot.delivery() != Delivery::PowerOn => carry(Target::Agent(None)),
            Boot::Agent => match self.parameters().await {
                BootAnswer::Agent(params) => {
                    carry(Target::Agent(Some(&rig.complete(&self.inner.rigs.places, params))))
                }
                BootAnswer::Disk => carry(Target::Disk),
                BootAnswer::Refused(why) => Err(format!("no boot parameters: {why}")),
                BootAnswer::NotKnown(why) => Err(format!("no boot parameters in time: {why}")),
            },
        }
    }

    /// What the machine is to boot. Asked until it can be stored: an on that
    /// waits for our own disk is no failure of the machine's power.
    pub(super) async fn parameters(&self) -> BootAnswer {
        loop {
            match self.inner.front.boot(self.order.machine.clone(), true).await {
                BootAnswer::NotKnown(why) if self.left() > AGAIN => {
                    tracing::info!(machine = %self.order.machine, "boot parameters: {why}; asking again");
                    sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Looks at one leg.
struct Eye<'a> {
    runners: &'a Runners,
    part: &'a LegRig,
    power: &'a Arc<dyn Power>,
    last: Result<Reading, String>,
    /// How often the command was answered with an error.
    tries: u32,
}

impl Eye<'_> {
    async fn look(&mut self) -> Option<Reading> {
        let turn = self.runners.turn(self.power.limits()).await;
        let read = timeout(READ, self.power.read()).await;
        drop(turn);
        self.last = match read {
            Ok(Ok(reading)) => Ok(reading),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("reading gave no answer within {} s", READ.as_secs())),
        };
        match self.last {
            Ok(Reading::On) => self.part.saw(Switch::On),
            Ok(Reading::Off) => self.part.saw(Switch::Off),
            _ => {}
        }
        self.last.as_ref().ok().copied()
    }

    /// Whether two readings in a row show `want`.
    async fn shows(&mut self, want: Switch) -> bool {
        let mut twice = false;
        loop {
            match self.look().await {
                Some(reading) if reading.shows(want) && twice => return true,
                Some(reading) if reading.shows(want) => twice = true,
                _ => return false,
            }
            sleep(PAUSE.0).await;
        }
    }

    /// Looks until two readings in a row show `want`; the caller has a
    /// deadline.
    async fn wait_for(&mut self, want: Switch) -> Result<Reading, String> {
        let mut pause = PAUSE.0;
        while !self.shows(want).await {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        self.last.clone()
    }
}
