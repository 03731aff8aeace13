//! `power.qemu`: a virtual machine in a process of its own, which outlives
//! the daemon. It is on while its monitor answers; it is off when nobody
//! listens there and nobody holds its disks. Anything between is unknown.

mod launch;
mod lock;
mod monitor;
mod qmp;

#[cfg(test)]
mod tests;

use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::process::Verified;
use crate::site::Site;
use launch::Build;
use monitor::Monitor;
use pitstop_core::event::Nudge;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_core::machine::{Reading, Switch};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

/// How a QEMU guest on a user-mode network reaches the host's loopback.
pub const HOST: &str = "10.0.2.2";
const DRIVER: &str = "power.qemu";
/// QEMUs that are started at the same time on one host.
const AT_ONCE: usize = 4;
/// How long consoles may take to connect before the processors start.
const CONSOLES: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// How long QEMU may take to end: asked to, told to, made to.
const QUIT: Duration = Duration::from_secs(5);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "qemu",
    fields: &[
        FieldSchema::optional("memory", FieldKind::Size, "memory, 512M unless said"),
        FieldSchema::optional("cpus", FieldKind::Int { min: 1, max: 64 }, "processors, 1 unless said"),
        FieldSchema::optional("disk", FieldKind::Size, "size of each of its disks, 2G unless said"),
        FieldSchema::optional("program", FieldKind::Path, "the program, qemu-system-x86_64 unless said"),
    ],
    ..DriverSchema::EMPTY
};

/// A virtual machine.
pub struct Qemu {
    site: Site,
    build: Build,
    monitor: PathBuf,
    limits: PowerLimits,
    /// The monitor serves one connection, and looking at a lock takes it for
    /// a moment: one operation at a time.
    turn: Mutex<()>,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let build = Build::of(site, &leg.driver)?;
    for console in &build.consoles {
        site.socket(DRIVER, &format!("console-{console}.sock"))?;
    }
    let mut limits = PowerLimits::of(site, leg);
    if leg.driver.controller.is_none() {
        limits = PowerLimits { queue: "qemu".into(), at_once: AT_ONCE };
    }
    let monitor = site.socket(DRIVER, "qmp.sock")?;
    Ok(Arc::new(Qemu { site: site.clone(), build, monitor, limits, turn: Mutex::new(()) }))
}

impl Qemu {
    fn failed(&self, what: &str, answer: impl ToString) -> DriverError {
        DriverError::new(DRIVER, format!("{what} {}", self.site.name()), answer)
    }

    async fn connect(&self, what: &str) -> Result<Option<Monitor>, DriverError> {
        Monitor::connect(&self.monitor).await.map_err(|e| self.failed(what, e))
    }

    /// The process that runs this machine, if it is that.
    fn process(&self) -> Option<Verified> {
        let pid_file = self.build.pid_file();
        let pid = std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
        let ours = pid_file.to_string_lossy().into_owned();
        // `-pidfile OURS` is on the command line of no other process.
        Verified::find(pid, |line| line.windows(2).any(|pair| pair[0] == "-pidfile" && pair[1] == ours))
    }

    fn disks_held(&self) -> Result<bool, DriverError> {
        for (name, _) in &self.build.disks {
            let path = self.build.disk(name);
            if lock::held(&path).map_err(|e| self.failed("look at the disk lock of", e))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn on(&self, on: &PowerOn, _turn: MutexGuard<'_, ()>) -> Result<(), DriverError> {
        if let PowerOn::Agent(_) | PowerOn::Medium { .. } = on {
            return Err(self.failed("boot", "it takes no parameters but by kernel or network").permanent());
        }
        self.site.make_state(DRIVER)?;
        let mut monitor = match self.connect("switch on").await? {
            // A daemon died between starting it and letting it go: what it
            // was to boot then is not what it is to boot now.
            Some(mut monitor) => {
                match monitor.status().await.map_err(|e| self.failed("switch on", e))?.as_str() {
                    "prelaunch" => {
                        return Err(self.failed("switch on", "a start was interrupted; switch it off first"));
                    }
                    _ => return Ok(()),
                }
            }
            None => {
                self.build.start(on).await?;
                let gone = || self.failed("switch on", "it ended at once");
                self.connect("switch on").await?.ok_or_else(gone)?
            }
        };
        self.consoles_listen(&mut monitor).await?;
        monitor.ask("cont").await.map_err(|e| self.failed("switch on", e))?;
        Ok(())
    }

    /// The first byte of the firmware belongs into the journal: waits until
    /// every console is connected, or has had its time.
    async fn consoles_listen(&self, monitor: &mut Monitor) -> Result<(), DriverError> {
        let until = Instant::now() + CONSOLES;
        while Instant::now() < until {
            let answer = monitor.ask("query-chardev").await.map_err(|e| self.failed("switch on", e))?;
            if !answer.as_array().into_iter().flatten().any(waits) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        tracing::warn!(machine = self.site.name(), "switched on without all its consoles");
        Ok(())
    }

    async fn off(&self, _turn: MutexGuard<'_, ()>) -> Result<(), DriverError> {
        let process = self.process();
        let asked = match self.connect("switch off").await {
            Ok(Some(mut monitor)) => monitor.ask("quit").await,
            Ok(None) => Ok(Value::Null),
            Err(e) => Err(e.to_string()),
        };
        let Some(process) = process else {
            return asked.map(drop).map_err(|e| self.failed("switch off", e));
        };
        if asked.is_ok() && process.ended(QUIT).await {
            return Ok(());
        }
        for signal in [Signal::TERM, Signal::KILL] {
            tracing::warn!(
                machine = self.site.name(),
                pid = process.pid,
                "QEMU does not quit; {signal:?} follows"
            );
            process.signal(signal).map_err(|e| self.failed("switch off", e))?;
            if process.ended(QUIT).await {
                return Ok(());
            }
        }
        Err(self.failed("switch off", format!("process {} does not end", process.pid)))
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let _turn = self.turn.lock().await;
        if let Some(mut monitor) = self.connect("read").await? {
            let status = monitor.status().await.map_err(|e| self.failed("read", e))?;
            // Not yet let go: neither off nor a machine that runs.
            return Ok(if status == "prelaunch" { Reading::Unknown } else { Reading::On });
        }
        if self.process().is_some() || self.disks_held()? {
            return Ok(Reading::Unknown);
        }
        Ok(Reading::Off)
    }
}

/// Whether this character device is a console that nobody listens to.
fn waits(device: &Value) -> bool {
    let text = |key| device.get(key).and_then(Value::as_str).unwrap_or_default();
    text("label").starts_with("console-") && text("filename").starts_with("disconnected:")
}

impl Power for Qemu {
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(async move {
            let turn = self.turn.lock().await;
            match want {
                Switch::On => self.on(on, turn).await,
                Switch::Off => self.off(turn).await,
            }
        })
    }

    fn nudges(&self) -> bool {
        true
    }

    fn nudge(&self, how: Nudge) -> Task<'_, ()> {
        Box::pin(async move {
            let (what, command) = match how {
                Nudge::Soft => ("ask for the shutdown of", "system_powerdown"),
                Nudge::Reset => ("reset", "system_reset"),
                Nudge::Nmi => ("interrupt", "inject-nmi"),
            };
            let _turn = self.turn.lock().await;
            match self.connect(what).await? {
                Some(mut monitor) => monitor.ask(command).await.map(drop).map_err(|e| self.failed(what, e)),
                None => Err(self.failed(what, "it is off")),
            }
        })
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.state())
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }

    fn loopback(&self) -> Option<&'static str> {
        Some(HOST)
    }
}
