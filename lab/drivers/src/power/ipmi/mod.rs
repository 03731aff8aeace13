//! `power.ipmi`: the chassis commands of a BMC (IPMI 2.0, section 28).

#[cfg(test)]
mod tests;

use super::{Power, PowerLimits, PowerOn};
use crate::bmc::{self, Bmc};
use crate::child::first_line;
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::event::Nudge;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

const DRIVER: &str = "power.ipmi";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "ipmi",
    fields: &[
        bmc::ADDRESS,
        bmc::USER,
        bmc::PASSWORD_FIELD,
        bmc::CIPHER,
        bmc::PRIVILEGE,
        FieldSchema::optional(
            "boot_device",
            FieldKind::OneOf(&["set", "leave"]),
            "whether the BMC is told what to boot from (`set`, unless said), or the firmware's own order is right",
        ),
        FieldSchema::optional("efi", FieldKind::Bool, "ask for a UEFI boot when the boot device is set"),
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
    ],
    unique: &[Unique { what: "BMC", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

/// Seconds a light blinks: about the longest there is, one byte.
const LIT: &str = "240";

struct Ipmi {
    bmc: Bmc,
    sets_boot_device: bool,
    efi: bool,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    Ok(Arc::new(Ipmi {
        bmc: Bmc::of(DRIVER, site, &leg.driver)?,
        sets_boot_device: leg.driver.text("boot_device") != Some("leave"),
        efi: leg.driver.flag("efi") == Some(true),
        limits: PowerLimits::of(site, leg),
    }))
}

impl Ipmi {
    async fn switch(&self, want: Switch, on: &PowerOn) -> Result<(), DriverError> {
        let (what, word) = match want {
            Switch::On => ("switch on", "on"),
            Switch::Off => ("switch off", "off"),
        };
        if want == Switch::On {
            self.boot_from(what, on).await?;
        }
        self.bmc.ask(what, &["chassis", "power", word]).await.map(drop)
    }

    /// Chooses what the next boot starts from. It holds for one boot: what
    /// the holder boots afterwards is the holder's affair.
    async fn boot_from(&self, what: &str, on: &PowerOn) -> Result<(), DriverError> {
        let device = match on {
            PowerOn::Own => return Ok(()),
            PowerOn::Disk => "disk",
            PowerOn::Network { .. } => "pxe",
            PowerOn::Kernel { .. } | PowerOn::Medium { .. } | PowerOn::Agent(_) => {
                return Err(self.bmc.failed(what, "ipmitool cannot hand over what to boot").permanent());
            }
        };
        if !self.sets_boot_device {
            return Ok(());
        }
        let mut command = vec!["chassis", "bootdev", device];
        if self.efi {
            command.push("options=efiboot");
        }
        self.bmc.ask(what, &command).await.map(drop).map_err(|e| {
            let answer = format!("the boot device cannot be set: {}", e.answer);
            let next = e.next.iter().map(|next| format!("{next}; ")).collect::<String>();
            let next = format!("{next}`boot_device = \"leave\"` where the firmware's own order is right");
            DriverError { answer, ..e }.next(next)
        })
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let out = self.bmc.ask("read the power of", &["chassis", "power", "status"]).await?;
        // "Chassis Power is on"
        match out.trim().rsplit(' ').next() {
            Some("on") => Ok(Reading::On),
            Some("off") => Ok(Reading::Off),
            _ => Err(self.bmc.failed("read the power of", format!("the BMC said: {}", first_line(&out)))),
        }
    }
}

impl Power for Ipmi {
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want, on))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.state())
    }

    fn nudges(&self) -> bool {
        true
    }

    /// IPMI 2.0, section 28.3: the NMI is its "pulse diagnostic interrupt".
    fn nudge(&self, how: Nudge) -> Task<'_, ()> {
        Box::pin(async move {
            let (what, word) = match how {
                Nudge::Soft => ("ask for its shutdown", "soft"),
                Nudge::Reset => ("reset", "reset"),
                Nudge::Nmi => ("interrupt", "diag"),
            };
            self.bmc.ask(what, &["chassis", "power", word]).await.map(drop)
        })
    }

    /// IPMI 2.0, section 28.5: the light goes out by itself.
    fn identify(&self, on: bool) -> Task<'_, String> {
        Box::pin(async move {
            let seconds = if on { LIT } else { "0" };
            self.bmc.ask("have the light blink of", &["chassis", "identify", seconds]).await?;
            Ok(if on { format!("its light blinks for {LIT} s") } else { "its light is off".to_owned() })
        })
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
