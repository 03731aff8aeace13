//! Boot: how pitstop chooses what a machine boots, and what its power-on must
//! carry for that.

pub mod medium;

use crate::error::DriverError;
use crate::power::PowerOn;
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_wire::agent::{AgentParams, Secret};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a machine gets the boot agent's parameters from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The power-on carries them.
    PowerOn,
    /// The machine asks the boot files' listener.
    Asked,
    /// They are on a [`Medium`](medium::Medium) that a device of the machine's own fetches before power on.
    Medium,
    /// It cannot be given any: power-on is the whole boot.
    Never,
}

/// What a power-on is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The boot agent, with these parameters where the power-on carries them.
    Agent(Option<&'a AgentParams>),
    /// The machine's own disk.
    Disk,
    /// Whatever it does by itself.
    AsIs,
}

/// A boot path.
pub trait Boot: Send + Sync {
    /// How parameters reach the machine.
    fn delivery(&self) -> Delivery;

    /// What the power-on must carry.
    fn power_on(&self, target: Target<'_>) -> Result<PowerOn, DriverError>;

    /// What is served as this attempt's medium.
    ///
    /// # Errors
    /// There is none, or this boot path needs none.
    fn medium(&self, params: &AgentParams) -> Result<medium::Medium, DriverError> {
        Err(no_parameters("boot", params.machine.as_str()))
    }

    /// What can be said without booting anything: that all the files are
    /// there, and where a machine's firmware must ask.
    fn look(&self) -> Result<String, DriverError>;

    /// The only address that the machine's firmware, or the device that
    /// fetches for it, asks from, where that is known.
    fn asks_from(&self) -> Option<IpAddr> {
        None
    }
}

/// `boot.sim`: a simulated machine is told by its power-on, or asks by HTTP
/// like a real one.
pub const SIM: DriverSchema = DriverSchema {
    name: "sim",
    with_power: &["sim"],
    fields: &[FieldSchema::optional(
        "delivery",
        FieldKind::OneOf(&["power-on", "http"]),
        "how the agent's parameters reach it: `power-on` unless said",
    )],
    ..DriverSchema::EMPTY
};

/// `boot.direct`: the power driver starts the kernel itself.
pub const DIRECT: DriverSchema = DriverSchema {
    name: "direct",
    with_power: &["qemu"],
    fields: &[
        FieldSchema::optional("image", FieldKind::OneOf(&["agent"]), "what is started; `agent` unless said"),
        FieldSchema::optional("append", FieldKind::Raw, "added to the agent's kernel command line"),
    ],
    ..DriverSchema::EMPTY
};

/// `boot.http`: the machine's own firmware fetches an iPXE script.
pub const HTTP: DriverSchema = DriverSchema {
    name: "http",
    fields: &[
        FieldSchema::optional("append", FieldKind::Raw, "added to the agent's kernel command line"),
        FieldSchema::optional(
            "address",
            FieldKind::Text,
            "IP address its firmware asks from; nobody else is given its boot parameters",
        ),
    ],
    ..DriverSchema::EMPTY
};

/// `boot.power`: power on is the whole boot.
pub const POWER: DriverSchema = DriverSchema { name: "power", ..DriverSchema::EMPTY };

/// Kernel command line of the boot agent where the inventory says nothing: a
/// serial console, a panic that does not burn a core for ever, and no notices:
/// the kernel would print its own command line, token and all, for everybody
/// who watches the console.
pub const DEFAULT_APPEND: &str = "console=ttyS0 panic=10 loglevel=5";

struct Sim {
    script: Option<String>,
    machine: String,
}

struct Direct {
    machine: String,
    files: Files,
    append: String,
}

struct Http {
    machine: String,
    script: String,
    address: Option<IpAddr>,
    files: Files,
}

/// The boot agent's.
struct Files {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Files {
    fn of(site: &Site) -> Self {
        Self { kernel: site.agent.join("vmlinuz"), initrd: site.agent.join("initrd") }
    }

    /// Whether they are there.
    fn look(&self, driver: &'static str, machine: &str) -> Result<(), DriverError> {
        for file in [&self.kernel, &self.initrd] {
            if !file.is_file() {
                return Err(DriverError::new(
                    driver,
                    format!("start the boot agent on {machine}"),
                    format!("there is no {}", file.display()),
                )
                .permanent()
                .next("make it with `pitstop image agent`"));
            }
        }
        Ok(())
    }
}

struct PowerOnly;

/// Makes `boot.sim`.
pub fn sim(site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
    let http = site.spec.boot.text("delivery") == Some("http");
    let script = http.then(|| script_url(site, "boot.sim")).transpose()?;
    Ok(Arc::new(Sim { script, machine: site.name().to_owned() }))
}

/// Makes `boot.direct`.
pub fn direct(site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
    Ok(Arc::new(Direct {
        machine: site.name().to_owned(),
        files: Files::of(site),
        append: site.spec.boot.text("append").unwrap_or(DEFAULT_APPEND).to_owned(),
    }))
}

/// Makes `boot.http`.
pub fn http(site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
    Ok(Arc::new(Http {
        machine: site.name().to_owned(),
        script: script_url(site, "boot.http")?,
        address: asks_from("boot.http", site)?,
        files: Files::of(site),
    }))
}

/// Makes `boot.power`.
pub fn power(_site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
    Ok(Arc::new(PowerOnly))
}

/// The field `address`.
fn asks_from(driver: &'static str, site: &Site) -> Result<Option<IpAddr>, DriverError> {
    let address = site.spec.boot.text("address").map(|text| {
        text.parse::<IpAddr>().map(|address| address.to_canonical()).map_err(|e| {
            DriverError::new(driver, format!("boot {}", site.name()), format!("address `{text}`: {e}"))
                .permanent()
                .next("give the IP address that it asks from, as in `192.0.2.17`")
        })
    });
    address.transpose()
}

/// Where this machine finds its script.
fn script_url(site: &Site, driver: &'static str) -> Result<String, DriverError> {
    let Some(port) = site.boot_port else {
        return Err(DriverError::new(driver, format!("boot {}", site.name()), "nothing serves boot files")
            .permanent()
            .next("start the daemon with a boot listener"));
    };
    // QEMU's user-mode network shows the host's loopback as 10.0.2.2.
    let qemu = site.spec.legs.iter().any(|l| l.driver.driver == "qemu");
    let host = if qemu { crate::power::qemu::HOST } else { site.address.as_str() };
    let at = crate::address::join(host, port);
    Ok(format!("http://{at}/boot/{}/script", site.name()))
}

/// The agent's part of a kernel command line. Every value is hexadecimal, a
/// validated name or an address, so none can smuggle in another word.
pub fn kernel_words(params: &AgentParams) -> Secret {
    let AgentParams { server, ca, machine, nonce, token } = params;
    let Secret(token) = token;
    Secret(format!(
        "pitstop.server={server} pitstop.ca={ca} pitstop.machine={machine} pitstop.nonce={nonce} pitstop.token={token}"
    ))
}

impl Boot for Sim {
    fn look(&self) -> Result<String, DriverError> {
        Ok("it brings its own agent".to_owned())
    }

    fn delivery(&self) -> Delivery {
        if self.script.is_some() { Delivery::Asked } else { Delivery::PowerOn }
    }

    fn power_on(&self, target: Target<'_>) -> Result<PowerOn, DriverError> {
        match (&self.script, target) {
            (Some(url), _) => Ok(PowerOn::Network { url: url.clone() }),
            (None, Target::Agent(Some(params))) => Ok(PowerOn::Agent(params.clone())),
            (None, Target::Agent(None)) => Err(no_parameters("boot.sim", &self.machine)),
            (None, Target::Disk | Target::AsIs) => Ok(PowerOn::Disk),
        }
    }
}

impl Boot for Direct {
    fn look(&self) -> Result<String, DriverError> {
        self.files.look("boot.direct", &self.machine)?;
        Ok("the boot agent's files are there".to_owned())
    }

    fn delivery(&self) -> Delivery {
        Delivery::PowerOn
    }

    fn power_on(&self, target: Target<'_>) -> Result<PowerOn, DriverError> {
        let params = match target {
            Target::Agent(Some(params)) => params,
            Target::Agent(None) => return Err(no_parameters("boot.direct", &self.machine)),
            Target::Disk | Target::AsIs => return Ok(PowerOn::Disk),
        };
        self.files.look("boot.direct", &self.machine)?;
        Ok(PowerOn::Kernel {
            kernel: self.files.kernel.clone(),
            initrd: self.files.initrd.clone(),
            append: Secret(format!("{} {}", self.append, kernel_words(params).0)),
        })
    }
}

impl Boot for Http {
    fn look(&self) -> Result<String, DriverError> {
        self.files.look("boot.http", &self.machine)?;
        Ok(format!("the boot agent's files are there; its firmware must ask for {}", self.script))
    }

    fn delivery(&self) -> Delivery {
        Delivery::Asked
    }

    fn power_on(&self, _target: Target<'_>) -> Result<PowerOn, DriverError> {
        // Network first for every target: the script that the daemon answers
        // with decides, so a guest's own reboot is decided too.
        Ok(PowerOn::Network { url: self.script.clone() })
    }

    fn asks_from(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Boot for PowerOnly {
    fn look(&self) -> Result<String, DriverError> {
        Ok("power on is the whole boot".to_owned())
    }

    fn delivery(&self) -> Delivery {
        Delivery::Never
    }

    fn power_on(&self, _target: Target<'_>) -> Result<PowerOn, DriverError> {
        Ok(PowerOn::Own)
    }
}

fn no_parameters(driver: &'static str, machine: &str) -> DriverError {
    DriverError::new(
        driver,
        format!("start the boot agent on {machine}"),
        "no parameters were given out for it",
    )
}

#[cfg(test)]
mod tests;
