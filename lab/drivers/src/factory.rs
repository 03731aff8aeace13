//! The list of drivers. A new driver is a folder and a line here.

use crate::boot::{self, Boot};
use crate::console::{self, Console};
use crate::error::DriverError;
use crate::evidence::{self, Evidence};
use crate::fixture::{self, Button, Switch};
use crate::power::{self, Power};
use crate::program::{self, HookPrograms, Programmer};
use crate::site::Site;
use pitstop_core::inventory::catalogue::{
    Catalogue, DriverSchema, FieldKind, FieldSchema, Kind, Reads, Unique,
};
use pitstop_core::inventory::{DriverSpec, LegSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

type MakePower = fn(&Site, &LegSpec) -> Result<Arc<dyn Power>, DriverError>;
type MakeConsole = fn(&Site, &str) -> Result<Arc<dyn Console>, DriverError>;
type MakeBoot = fn(&Site) -> Result<Arc<dyn Boot>, DriverError>;

const POWER: &[(DriverSchema, MakePower)] = &[
    (power::sim::SCHEMA, power::sim::make),
    (power::qemu::SCHEMA, power::qemu::make),
    (power::libvirt::SCHEMA, power::libvirt::make),
    (power::ipmi::SCHEMA, power::ipmi::make),
    (power::redfish::SCHEMA, power::redfish::make),
    (power::snmp::SCHEMA, power::snmp::make),
    (power::http::SCHEMA, power::http::make),
    (power::pdudaemon::SCHEMA, power::pdudaemon::make),
    (OUTLET, outlet),
    (power::usb_hub::SCHEMA, power::usb_hub::make),
    (power::command::SCHEMA, power::command::make),
    (power::wol::SCHEMA, power::wol::make),
    (power::none::SCHEMA, power::none::make),
];

const CONSOLE: &[(DriverSchema, MakeConsole)] = &[
    (console::sim::SCHEMA, console::sim::make),
    (console::unix::SCHEMA, console::unix::make),
    (console::serial::SCHEMA, console::serial::make),
    (console::pty::SCHEMA, console::pty::make),
    (console::sol::SCHEMA, console::sol::make),
    (console::tcp::SCHEMA, console::tcp::make),
    (console::telnet::TELNET, console::telnet::telnet),
    (console::telnet::RFC2217, console::telnet::rfc2217),
    (console::command::SCHEMA, console::command::make),
];

const BOOT: &[(DriverSchema, MakeBoot)] = &[
    (boot::SIM, boot::sim),
    (boot::DIRECT, boot::direct),
    (boot::HTTP, boot::http),
    (boot::medium::SCHEMA, boot::medium::make),
    (boot::POWER, boot::power),
];

const fn planned(name: &'static str, when: &'static str) -> DriverSchema {
    DriverSchema { name, not_built: Some(when), ..DriverSchema::EMPTY }
}

const NETBOOT: &str = "it comes with the network boot drivers";
const SHELL: &str = "it comes with `pitstop shell`";

const POWER_PLANNED: &[DriverSchema] = &[];
const CONSOLE_PLANNED: &[DriverSchema] = &[planned("libvirt", "it comes with the consoles of libvirt")];
const BOOT_PLANNED: &[DriverSchema] =
    &[planned("pxe", NETBOOT), planned("uefi-http", NETBOOT), planned("u-boot", NETBOOT)];

const READY: &[DriverSchema] = &[
    DriverSchema { name: "agent", ..DriverSchema::EMPTY },
    evidence::CONSOLE,
    evidence::SSH,
    evidence::COMMAND,
    DriverSchema { name: "power", ..DriverSchema::EMPTY },
];
const REIMAGE: &[DriverSchema] = &[DriverSchema { name: "agent", ..DriverSchema::EMPTY }, program::REIMAGE];
const HOOK: &[DriverSchema] = &[program::HOOK];
const SHELLS: &[DriverSchema] = &[planned("ssh", SHELL), planned("console", SHELL)];
const SWITCH: &[DriverSchema] = &[fixture::SWITCH_SCHEMA];
const BUTTON: &[DriverSchema] = &[fixture::BUTTON_SCHEMA];
const HOST: &[DriverSchema] = &[crate::host::SCHEMA];
const CONTROLLER: &[DriverSchema] = &[
    DriverSchema { name: "queue", fields: &[power::AT_ONCE], ..DriverSchema::EMPTY },
    power::snmp::CONTROLLER,
    power::http::CONTROLLER,
    power::pdudaemon::CONTROLLER,
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
            Kind::Hook => HOOK,
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

    /// What shows that a machine without our agent is up.
    pub fn evidence(&self, site: &Site) -> Result<Evidence, DriverError> {
        Evidence::of(site)
    }

    /// A machine's switches, by name.
    pub fn switches(&self, site: &Site) -> BTreeMap<String, Result<Arc<Switch>, DriverError>> {
        let make =
            |(name, spec): (&String, &DriverSpec)| (name.clone(), Switch::of(site, name, spec).map(Arc::new));
        site.spec.switches.iter().map(make).collect()
    }

    /// A machine's buttons, by name.
    pub fn buttons(&self, site: &Site) -> BTreeMap<String, Result<Arc<Button>, DriverError>> {
        let make =
            |(name, spec): (&String, &DriverSpec)| (name.clone(), Button::of(site, spec).map(Arc::new));
        site.spec.buttons.iter().map(make).collect()
    }

    /// A machine's hooks.
    pub fn hooks(&self, site: &Site) -> HookPrograms {
        program::hooks(site)
    }

    /// What writes a board's flash; `None`: our agent does, or nobody.
    pub fn programmer(&self, site: &Site) -> Option<Result<Arc<Programmer>, DriverError>> {
        site.spec.programmer().map(|_| Programmer::of(site).map(Arc::new))
    }

    /// The driver of a machine's boot path.
    pub fn boot(&self, site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
        make(BOOT, "boot", site, &site.spec.boot.driver)?(site)
    }
}

const OUTLET: DriverSchema = DriverSchema {
    name: "outlet",
    fields: &[
        FieldSchema::required("controller", FieldKind::ControllerRef, "the device, a `[controller.NAME]`"),
        FieldSchema::required("outlet", FieldKind::Label, "which of its outlets"),
    ],
    unique: &[Unique { what: "outlet", fields: &["outlet"] }],
    reads: Reads::AsController,
    ..DriverSchema::EMPTY
};

/// `power.outlet`: an outlet of a device that many machines hang on. The
/// device's own driver drives it, told where by the controller's fields and
/// which by the machine's.
fn outlet(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let name = leg.driver.controller.as_deref().unwrap_or_default();
    let device = site.controllers.get(name).filter(|device| device.driver != "queue").ok_or_else(|| {
        DriverError::new(
            "power.outlet",
            format!("drive {}", site.name()),
            format!("controller `{name}` is no device with outlets"),
        )
        .permanent()
        .next(format!("`[controller.{name}]` takes `snmp`, `http` or `pdudaemon = {{ … }}`"))
    })?;
    let mut fields = (*device.fields).clone();
    fields.remove(power::AT_ONCE.name);
    fields.extend((*leg.driver.fields).clone());
    let driver =
        DriverSpec { fields: Arc::new(fields), controller: leg.driver.controller.clone(), ..device.clone() };
    make(POWER, "power", site, &device.driver)?(site, &LegSpec { driver, ..leg.clone() })
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

    const KINDS: [Kind; 11] = [
        Kind::Power,
        Kind::Console,
        Kind::Boot,
        Kind::Ready,
        Kind::Reimage,
        Kind::Shell,
        Kind::Switch,
        Kind::Button,
        Kind::Hook,
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

    #[test]
    fn a_leg_that_nothing_reads_says_so_or_is_refused() {
        let lab = |power: &str| {
            let text = format!(
                "format = 1\n[controller.p]\npdudaemon = {{ address = \"pdud\", hostname = \"p\" }}\n[controller.q]\nqueue = {{}}\n\
                 [class.unused]\npower.{power}\n[machine.m1]\npower.{power}\nconsole = {{}}\nboot.power = {{}}\nready.agent = {{}}\n"
            );
            pitstop_core::inventory::Inventory::parse_str("lab.toml", &text, factories())
                .map_err(|errors| errors.to_string())
        };
        let pdudaemon = "address = \"pdud\", hostname = \"a\", outlet = 1";
        for (fields, needed) in [
            (format!("pdudaemon = {{ {pdudaemon} }}"), "`status`, or `readback = \"none\"`"),
            (format!("pdudaemon = {{ {pdudaemon}, controller = \"q\" }}"), "`status`, or"),
            ("outlet = { controller = \"p\", outlet = 1 }".to_owned(), "expected `readback = \"none\"`"),
            ("command = { on = [\"a\"], off = [\"b\"] }".to_owned(), "`status`, or"),
        ] {
            let error = lab(&fields).unwrap_err();
            assert!(
                error.contains("nothing reads the state of `power.") && error.contains(needed),
                "{error}"
            );
            assert_eq!(error.matches("nothing reads").count(), 1, "a class is not a machine: {error}");
            lab(&fields.replace(" }", ", readback = \"none\" }")).unwrap();
        }
        lab(&format!("pdudaemon = {{ {pdudaemon}, status = [\"s\"] }}")).unwrap();
        lab("command = { on = [\"a\"], off = [\"b\"], status = [\"s\"], controller = \"p\" }").unwrap();
    }

    #[test]
    fn what_the_lab_out_of_the_box_shows_as_comments_can_be_used() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../inventory.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, shown) = text.split_once("# ── real:").unwrap();
        let lines = shown.lines().skip(1).filter(|line| !line.starts_with("# ──"));
        let uncommented: String = lines.map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
        let whole = format!("{text}{uncommented}");
        let inventory = pitstop_core::inventory::Inventory::parse_str("inventory.toml", &whole, factories());
        assert_eq!(inventory.unwrap_or_else(|errors| panic!("{errors}")).machines.len(), 44);
    }

    /// Above this line of docs/drivers.md people write, below it this test.
    const MARK: &str = "<!-- From here on the tests write, from the drivers themselves. -->";

    fn section(kind: Kind, prefix: &str) -> String {
        let mut text = String::new();
        for driver in factories().drivers(kind).iter().filter(|driver| driver.not_built.is_none()) {
            text += &format!("\n### `{prefix}{}`\n\n", driver.name);
            if driver.fields.is_empty() {
                text += "No fields.\n";
                continue;
            }
            text += "| field | takes | |\n|---|---|---|\n";
            for field in driver.fields {
                let needed = if field.required { " (needed)" } else { "" };
                let takes = field.kind.takes().replace('|', "\\|");
                text +=
                    &format!("| `{}`{needed} | {takes} | {} |\n", field.name, field.doc.replace('|', "\\|"));
            }
        }
        text
    }

    /// `PITSTOP_BLESS=1 cargo test -p pitstop-drivers` writes it anew.
    #[test]
    fn every_field_is_in_the_docs() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/drivers.md");
        let whole = std::fs::read_to_string(&path).unwrap();
        let (by_people, rest) = whole.split_once(MARK).expect("docs/drivers.md has its mark");
        let mut text = "\n\n## Power\n\nEach also takes `min_off` (a duration: shortest time off), `readback = \"none\"` (its state \
                        cannot be read) and `use` (of `mains`: `together`, `spare` or `when the BMC is dead`; else a note).\n"
            .to_owned();
        text += &section(Kind::Power, "power.");
        text += "\n## Consoles\n";
        text += &section(Kind::Console, "console.NAME.");
        text += "\n## Boot\n";
        text += &section(Kind::Boot, "boot.");
        text += "\n## Evidence\n\nWhat shows that a machine is up.\n";
        text += &section(Kind::Ready, "ready.");
        text += "\n## Switches and buttons\n";
        text += &section(Kind::Switch, "switch.NAME.");
        text += &section(Kind::Button, "button.NAME.");
        text += "\n## Reimaging\n\nWhat writes a machine's disks.\n";
        text += &section(Kind::Reimage, "reimage.");
        text += "\n## Fields of a hook\n\nEach hook of `[[machine.NAME.hook.POINT]]` takes these.\n";
        text += &section(Kind::Hook, "");
        text += "\n## Controllers\n\n`[controller.NAME]` holds one of these; `power.outlet` refers to it by its name.\n";
        text += &section(Kind::Controller, "");
        text += "\n## Bench hosts\n\n`[host.NAME]` holds this; drivers that run programs refer to it by `host = \"NAME\"`.\n";
        text += &section(Kind::Host, "");
        if std::env::var_os("PITSTOP_BLESS").is_some() {
            std::fs::write(&path, format!("{by_people}{MARK}{text}")).unwrap();
        } else {
            assert!(
                rest == text,
                "docs/drivers.md is not what the drivers say: PITSTOP_BLESS=1 writes it anew"
            );
        }
    }
}
