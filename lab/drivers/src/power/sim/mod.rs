//! `power.sim`: a leg of a simulated machine, switched by its control socket.

use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::process::flocked;
use crate::sim::{self, Boot, Config, DiskConfig, Reply, Request};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Takes, Word};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

const DRIVER: &str = "power.sim";
const DEFAULT_DISK: u64 = 16 << 20;
const DEFAULT_BOOT_MS: u64 = 150;

const fn fault(name: &'static str, takes: Takes) -> Word {
    Word { name, takes }
}

/// What can go wrong with a simulated machine; `FaultKind` in `src/sim/faults.rs` says what each means.
pub const FAULTS: &[Word] = &[
    fault("power-lost", Takes::Perhaps("MS")),
    fault("power-ignored", Takes::Nothing),
    fault("power-late", Takes::Number("MS")),
    fault("never-boots", Takes::Nothing),
    fault("panic", Takes::Nothing),
    fault("agent-silent", Takes::Nothing),
    fault("agent-late", Takes::Number("MS")),
    fault("agent-twice", Takes::Nothing),
    fault("image-corrupt", Takes::Nothing),
    fault("console-mute", Takes::Nothing),
    fault("unreadable", Takes::Nothing),
    fault("disk-swapped", Takes::Nothing),
    fault("machine-swapped", Takes::Nothing),
    fault("memory-lost", Takes::Nothing),
];

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "sim",
    fields: &[
        FieldSchema::optional("disk", FieldKind::Size, "size of each of its disks, 16M unless said"),
        FieldSchema::optional("extra", FieldKind::List, "disks that the inventory does not declare, by name"),
        FieldSchema::optional(
            "boot",
            FieldKind::Duration,
            "how long firmware and kernel take each, 150ms unless said",
        ),
        FieldSchema::optional("faults", FieldKind::Words(FAULTS), "what goes wrong"),
    ],
    ..DriverSchema::EMPTY
};

/// One leg of a simulated machine.
pub struct Sim {
    site: Site,
    leg: String,
    config: Config,
    limits: PowerLimits,
}

/// How the machine of this site is built.
pub fn config(site: &Site) -> Config {
    let power = site.spec.legs.iter().find(|l| l.driver.driver == "sim").map(|l| &l.driver);
    let bytes = power.and_then(|p| p.bytes("disk")).unwrap_or(DEFAULT_DISK);
    let list = |field| power.and_then(|p| p.list(field)).unwrap_or_default();
    let declared = site.spec.disks.iter().map(|d| d.name.as_str());
    Config {
        name: site.name().to_owned(),
        legs: site.spec.legs.iter().filter(|l| l.driver.driver == "sim").map(|l| l.name.clone()).collect(),
        consoles: consoles(site),
        disks: declared
            .chain(list("extra"))
            .map(|name| DiskConfig { name: name.to_owned(), bytes })
            .collect(),
        boot_ms: power.and_then(|p| p.ms("boot")).unwrap_or(DEFAULT_BOOT_MS),
        faults: list("faults").into_iter().map(str::to_owned).collect(),
    }
}

/// The simulated serial lines, `main` first.
fn consoles(site: &Site) -> Vec<String> {
    let sim = site.spec.consoles.iter().filter(|(_, c)| c.driver == "sim");
    let mut names: Vec<String> = sim.map(|(name, _)| name.clone()).collect();
    names.sort_by_key(|name| name != "main");
    names
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    Ok(Arc::new(Sim {
        site: site.clone(),
        leg: leg.name.clone(),
        config: config(site),
        limits: PowerLimits::of(site, leg),
    }))
}

impl Sim {
    async fn ask(&self, what: &str, request: Request) -> Result<Option<Reply>, DriverError> {
        let reply = sim::request(&self.site.state, &request).await?;
        match reply {
            Some(Reply { error: Some(words), .. }) => {
                Err(DriverError::new(DRIVER, format!("{what} {}", self.site.name()), words))
            }
            other => Ok(other),
        }
    }

    async fn switch(&self, want: Switch, on: &PowerOn) -> Result<(), DriverError> {
        let leg = self.leg.clone();
        let request = match want {
            Switch::Off => Request::Off { leg },
            Switch::On => Request::On { leg, boot: self.boot(on)? },
        };
        self.site.make_state(DRIVER)?;
        sim::ensure(&self.site.program, &self.site.state, &self.config).await?;
        match self.ask("switch", request).await? {
            Some(_) => Ok(()),
            None => {
                Err(DriverError::new(DRIVER, format!("switch {}", self.site.name()), "its process is gone"))
            }
        }
    }

    fn boot(&self, on: &PowerOn) -> Result<Boot, DriverError> {
        match on {
            PowerOn::Own | PowerOn::Disk => Ok(Boot::Disk),
            PowerOn::Agent(params) => Ok(Boot::Agent { params: params.clone() }),
            PowerOn::Network { url } => Ok(Boot::Network { url: url.clone() }),
            PowerOn::Kernel { .. } | PowerOn::Medium { .. } => Err(DriverError::new(
                DRIVER,
                format!("boot {}", self.site.name()),
                "a simulated machine runs no kernel and has no drive",
            )
            .permanent()
            .next("write `boot.sim = {}` for it")),
        }
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        match self.ask("read", Request::Read { leg: self.leg.clone() }).await? {
            Some(Reply { on: Some(on), .. }) => Ok(if on { Reading::On } else { Reading::Off }),
            Some(_) => Ok(Reading::Unknown),
            None => self.state_without_process(),
        }
    }

    /// No process: off, unless something still holds a disk.
    fn state_without_process(&self) -> Result<Reading, DriverError> {
        for disk in &self.config.disks {
            let path = self.site.state.join(disk.file());
            let held = flocked(&path).map_err(|e| {
                DriverError::new(DRIVER, format!("look at the lock of {}", path.display()), e)
            })?;
            if held {
                return Ok(Reading::Unknown);
            }
        }
        Ok(Reading::Off)
    }
}

impl Power for Sim {
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want, on))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.state())
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
