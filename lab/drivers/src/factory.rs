//! The list of drivers. A new driver is a folder and a line here.

use crate::boot::{self, Boot};
use crate::console::{self, Console};
use crate::error::DriverError;
use crate::power::{self, Power};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{Catalogue, DriverSchema, FieldKind, FieldSchema, Kind};
use std::sync::{Arc, LazyLock};

type MakePower = fn(&Site, &LegSpec) -> Result<Arc<dyn Power>, DriverError>;
type MakeConsole = fn(&Site, &str) -> Result<Arc<dyn Console>, DriverError>;
type MakeBoot = fn(&Site) -> Result<Arc<dyn Boot>, DriverError>;

const POWER: &[(DriverSchema, MakePower)] = &[
    (power::sim::SCHEMA, power::sim::make),
    (power::qemu::SCHEMA, power::qemu::make),
    (power::command::SCHEMA, power::command::make),
    (power::none::SCHEMA, power::none::make),
];

const CONSOLE: &[(DriverSchema, MakeConsole)] = &[
    (console::sim::SCHEMA, console::sim::make),
    (console::unix::SCHEMA, console::unix::make),
    (console::serial::SCHEMA, console::serial::make),
];

const BOOT: &[(DriverSchema, MakeBoot)] = &[
    (boot::SIM, boot::sim),
    (boot::DIRECT, boot::direct),
    (boot::HTTP, boot::http),
    (boot::POWER, boot::power),
];

const fn planned(name: &'static str, when: &'static str) -> DriverSchema {
    DriverSchema { name, not_built: Some(when), ..DriverSchema::EMPTY }
}

const BMC: &str = "it comes with the BMC drivers";
const PDU: &str = "it comes with the PDU drivers";
const HUB: &str = "it comes with the USB drivers";
const NETBOOT: &str = "it comes with the network boot drivers";
const EVIDENCE: &str = "it comes with the other kinds of evidence; `ready.agent` is built";
const SHELL: &str = "it comes with `pitstop shell`";
const HOOKS: &str = "it comes with switches, buttons and hooks";

const POWER_PLANNED: &[DriverSchema] = &[
    planned("ipmi", BMC),
    planned("redfish", BMC),
    planned("outlet", PDU),
    planned("snmp", PDU),
    planned("http", PDU),
    planned("usb-hub", HUB),
    planned("libvirt", "it comes with the libvirt driver"),
];
const CONSOLE_PLANNED: &[DriverSchema] = &[
    planned("sol", BMC),
    planned("telnet", "it comes with the console server drivers"),
    planned("rfc2217", "it comes with the console server drivers"),
    planned("tcp", "it comes with the console server drivers"),
    planned("libvirt", "it comes with the libvirt driver"),
];
const BOOT_PLANNED: &[DriverSchema] = &[
    planned("pxe", NETBOOT),
    planned("uefi-http", NETBOOT),
    planned("u-boot", NETBOOT),
    planned("virtual-media", BMC),
];

const READY: &[DriverSchema] = &[
    DriverSchema { name: "agent", ..DriverSchema::EMPTY },
    planned("console", EVIDENCE),
    planned("ssh", EVIDENCE),
    planned("command", EVIDENCE),
    planned("power", EVIDENCE),
];
const REIMAGE: &[DriverSchema] = &[
    DriverSchema { name: "agent", ..DriverSchema::EMPTY },
    planned("command", "it comes with reimaging by command; `reimage.agent` is built"),
];
const SHELLS: &[DriverSchema] = &[planned("ssh", SHELL), planned("console", SHELL)];
const SWITCH: &[DriverSchema] = &[planned("command", HOOKS)];
const BUTTON: &[DriverSchema] = &[planned("command", HOOKS)];
const HOST: &[DriverSchema] = &[planned("ssh", "it comes with bench hosts")];
const CONTROLLER: &[DriverSchema] = &[
    DriverSchema {
        name: "queue",
        fields: &[FieldSchema::optional(
            "at_once",
            FieldKind::Int { min: 1, max: 1000 },
            "commands the device takes at the same time, 1 unless said",
        )],
        ..DriverSchema::EMPTY
    },
    planned("snmp", PDU),
    planned("http", PDU),
    planned("ssh", "it comes with bench hosts"),
];

/// Every driver there is.
#[derive(Debug)]
pub struct Factories {
    power: Vec<DriverSchema>,
    console: Vec<DriverSchema>,
    boot: Vec<DriverSchema>,
}

/// The one list of drivers.
pub fn factories() -> &'static Factories {
    static ALL: LazyLock<Factories> = LazyLock::new(|| Factories {
        power: schemas(POWER, POWER_PLANNED),
        console: schemas(CONSOLE, CONSOLE_PLANNED),
        boot: schemas(BOOT, BOOT_PLANNED),
    });
    &ALL
}

fn schemas<M>(built: &[(DriverSchema, M)], planned: &[DriverSchema]) -> Vec<DriverSchema> {
    built.iter().map(|(schema, _)| *schema).chain(planned.iter().copied()).collect()
}

impl Catalogue for Factories {
    fn drivers(&self, kind: Kind) -> &[DriverSchema] {
        match kind {
            Kind::Power => &self.power,
            Kind::Console => &self.console,
            Kind::Boot => &self.boot,
            Kind::Ready => READY,
            Kind::Reimage => REIMAGE,
            Kind::Shell => SHELLS,
            Kind::Switch => SWITCH,
            Kind::Button => BUTTON,
            Kind::Host => HOST,
            Kind::Controller => CONTROLLER,
        }
    }
}

impl Factories {
    /// The driver of a power leg.
    pub fn power(&self, site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
        make(POWER, "power", site, &leg.driver.driver)?(site, leg)
    }

    /// The driver of a console.
    pub fn console(&self, site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
        let Some(spec) = site.spec.consoles.get(console) else {
            return Err(DriverError::new(
                "console",
                format!("open {console} of {}", site.name()),
                "it has no such console",
            )
            .permanent());
        };
        make(CONSOLE, "console", site, &spec.driver)?(site, console)
    }

    /// The driver of a machine's boot path.
    pub fn boot(&self, site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
        make(BOOT, "boot", site, &site.spec.boot.driver)?(site)
    }
}

fn make<'a, M>(
    built: &'a [(DriverSchema, M)],
    kind: &'static str,
    site: &Site,
    driver: &str,
) -> Result<&'a M, DriverError> {
    let found = built.iter().find(|(schema, _)| schema.name == driver);
    found.map(|(_, make)| make).ok_or_else(|| {
        DriverError::new(
            kind,
            format!("drive {}", site.name()),
            format!("there is no driver {kind}.{driver}"),
        )
        .permanent()
        .next("`pitstop admin reload --dry-run` shows what the inventory may say")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 10] = [
        Kind::Power,
        Kind::Console,
        Kind::Boot,
        Kind::Ready,
        Kind::Reimage,
        Kind::Shell,
        Kind::Switch,
        Kind::Button,
        Kind::Host,
        Kind::Controller,
    ];

    #[test]
    fn no_two_drivers_of_a_kind_share_a_name_and_every_field_is_explained() {
        for kind in KINDS {
            let mut names: Vec<_> = factories().drivers(kind).iter().map(|d| d.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{kind:?}");
            for driver in factories().drivers(kind) {
                assert!(driver.fields.iter().all(|f| !f.doc.is_empty()), "{}", driver.name);
                for unique in driver.unique {
                    for field in unique.fields {
                        assert!(driver.fields.iter().any(|f| f.name == *field), "{} {field}", driver.name);
                    }
                }
            }
        }
    }
}
