//! `power.none`: nothing switches this machine. It is on, as far as anybody
//! can say, and a command to it is an error, never a silent success.

use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::DriverSchema;
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema { name: "none", ..DriverSchema::EMPTY };

struct None {
    machine: String,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    Ok(Arc::new(None { machine: site.name().to_owned(), limits: PowerLimits::of(site, leg) }))
}

impl Power for None {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        let want = if want == Switch::On { "on" } else { "off" };
        Box::pin(std::future::ready(Err(DriverError::new(
            "power.none",
            format!("switch {} {want}", self.machine),
            "nothing is there to switch it with",
        )
        .permanent()
        .next("give the machine a power driver in the inventory"))))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(std::future::ready(Ok(Reading::Unknown)))
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
