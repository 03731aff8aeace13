//! `power.command`: programs of the site's own switch the machine.

use super::programs::{self, Codes, HOST, IS_OFF, IS_ON, Programs, Status, TIMEOUT};
use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Reads};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

const DRIVER: &str = "power.command";
/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "command",
    fields: &[
        FieldSchema::required("on", FieldKind::Argv(&[]), "switches on: exit code 0 = accepted"),
        FieldSchema::required("off", FieldKind::Argv(&[]), "switches off: exit code 0 = accepted"),
        FieldSchema::optional(
            "status",
            FieldKind::Argv(&[]),
            "reads the state: exit code 0 = on, 1 = off, anything else = unknown, unless `is_on` and `is_off` say how",
        ),
        IS_ON,
        IS_OFF,
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
        HOST,
    ],
    reads: Reads::By("status"),
    ..DriverSchema::EMPTY
};

struct Commands {
    programs: Programs,
    on: Vec<String>,
    off: Vec<String>,
    status: Status,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong =
        |what: &str| DriverError::in_inventory(DRIVER, format!("use the commands of {}", site.name()), what);
    Ok(Arc::new(Commands {
        programs: Programs::new(DRIVER, site, spec)?,
        on: programs::argv(spec, "on").ok_or_else(|| wrong("`on` names no program"))?,
        off: programs::argv(spec, "off").ok_or_else(|| wrong("`off` names no program"))?,
        status: Status::of(spec, Codes::Both).map_err(|what| wrong(&what))?,
        limits: PowerLimits::of(site, leg),
    }))
}

impl Power for Commands {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.programs.accepted(if want == Switch::On { &self.on } else { &self.off }))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.status.read(&self.programs))
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
