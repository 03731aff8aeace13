//! Power: switch a leg and read it.

pub mod command;
pub mod fake;
pub mod http;
pub mod ipmi;
pub mod libvirt;
pub mod none;
pub mod pdudaemon;
pub(crate) mod programs;
pub mod qemu;
pub mod redfish;
pub mod sim;
pub mod snmp;
pub mod usb_hub;
pub mod wol;

#[cfg(test)]
pub(crate) mod conformance;

use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::event::Nudge;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{FieldKind, FieldSchema};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::agent::{AgentParams, Secret};
use std::path::PathBuf;

/// Switches one leg of one machine.
pub trait Power: Send + Sync {
    /// Sends one command. `Ok` means it was accepted, nothing more; what
    /// became of it is [`Power::read`]'s to say. A command is sent once: a
    /// repeated "cycle" cycles twice.
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()>;

    /// Reads the leg now. `Unknown` and errors are different news, but
    /// neither is off.
    fn read(&self) -> Task<'_, Reading>;

    /// Whether it can do a [`Power::nudge`] at all.
    fn nudges(&self) -> bool {
        false
    }

    /// Asks or nudges the machine, and leaves its power as it is. `Ok` means
    /// that it was accepted.
    fn nudge(&self, how: Nudge) -> Task<'_, ()> {
        let what = format!("do a power {}", how.word());
        let error = DriverError::new("power", what, "what switches this machine cannot").permanent();
        Box::pin(std::future::ready(Err(error)))
    }

    /// Has a light on the machine blink, or stop. What it does then, as a
    /// sentence about the machine.
    fn identify(&self, _on: bool) -> Task<'_, String> {
        Box::pin(std::future::ready(Err(DriverError::new(
            "power",
            "have a light blink",
            "what switches this machine has none",
        )
        .permanent())))
    }

    /// Has the machine's own device fetch a CD from there and put it into the
    /// machine's drive, in the place of whatever is in it. That may take as
    /// long as the device needs: the caller has the deadline.
    fn insert<'a>(&'a self, _url: &'a Secret) -> Task<'a, ()> {
        Box::pin(std::future::ready(Err(DriverError::new(
            "power",
            "insert the boot medium",
            "what switches this machine has no drive for it",
        )
        .permanent())))
    }

    /// Has the drive emptied, where it holds a CD of [`Power::insert`]'s.
    fn eject(&self) -> Task<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What it shares with others.
    fn limits(&self) -> &PowerLimits;

    /// How the machine reaches this daemon's loopback address, where the
    /// driver puts it into a network of its own.
    fn loopback(&self) -> Option<&'static str> {
        None
    }
}

/// How much a controller bears.
pub const AT_ONCE: FieldSchema = FieldSchema::optional(
    "at_once",
    FieldKind::Int { min: 1, max: 1000 },
    "commands the device takes at the same time, 1 unless said",
);

/// The queue a leg's commands stand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerLimits {
    /// Name of the queue: a controller's, or the leg's own.
    pub queue: String,
    /// Commands the device takes at the same time.
    pub at_once: usize,
}

impl PowerLimits {
    /// The queue of the leg's controller, or one of its own.
    pub fn of(site: &Site, leg: &LegSpec) -> Self {
        let Some(name) = &leg.driver.controller else {
            return Self { queue: format!("{}/{}", site.name(), leg.name), at_once: 1 };
        };
        let at_once = site.controllers.get(name).and_then(|c| c.int("at_once")).unwrap_or(1);
        Self { queue: name.clone(), at_once: usize::try_from(at_once).unwrap_or(1).max(1) }
    }
}

/// What a power-on carries to the machine, as its boot driver made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerOn {
    /// Nothing: the machine boots as it is set up.
    Own,
    /// Boot from the machine's own disk.
    Disk,
    /// Start this kernel.
    Kernel {
        /// The kernel's file.
        kernel: PathBuf,
        /// The initial RAM disk's file.
        initrd: PathBuf,
        /// Kernel command line; it holds the attach token.
        append: Secret,
    },
    /// The network card first, with this address as the boot file.
    Network {
        /// Address of an iPXE script.
        url: String,
    },
    /// Boot from the CD in the machine's drive, which [`Power::insert`] has put there.
    Medium {
        /// Where it is fetched from: who knows that can read the token.
        url: Secret,
    },
    /// The boot agent with these parameters (simulated machines).
    Agent(AgentParams),
}
