//! `power.none`: nothing switches this machine. It is on, as far as anybody
//! can say, and a command to it is an error, never a silent success. A machine
//! without disks has no such leg at all: there is nothing to wait for.

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

#[cfg(test)]
mod tests {
    use pitstop_core::inventory::Inventory;

    fn legs(disk: &str) -> usize {
        let text = format!(
            "format = 1\n[machine.m1]\npower.none = {{}}\nconsole = {{}}\nboot.power = {{}}\n{disk}\nready.agent = {{}}\n"
        );
        let inventory = Inventory::parse_str("lab.toml", &text, crate::factories()).unwrap();
        inventory.machines.values().map(|machine| machine.legs.len()).sum()
    }

    #[test]
    fn what_nothing_switches_can_be_handed_over_unless_a_disk_would_have_to_be_proven() {
        assert_eq!(legs(""), 0, "a leg that never reads off would keep it from ever being handed over");
        assert_eq!(legs("disk.root = {}"), 1, "a proof while the last holder's system may still run");
    }
}
