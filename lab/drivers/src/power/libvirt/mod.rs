//! `power.libvirt`: a virtual machine of a libvirt, through virsh(1).
//!
//! Off is `destroy`, which is what pulling the plug is. What the machine boots
//! from is up to its own definition: one that is to boot the agent needs
//! `<boot dev='network'/>` first.

#[cfg(test)]
mod tests;

use super::programs::{HOST, Programs, TIMEOUT};
use super::{Power, PowerLimits, PowerOn};
use crate::child::{first_line, shown};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::event::Nudge;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

const DRIVER: &str = "power.libvirt";
const DEFAULT_URI: &str = "qemu:///system";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "libvirt",
    fields: &[
        FieldSchema::optional(
            "domain",
            FieldKind::Text,
            "what libvirt calls the virtual machine, or its UUID; the machine's own name unless said",
        )
        .or("{name}"),
        FieldSchema::optional(
            "uri",
            FieldKind::Text,
            "which libvirt, as in `qemu+ssh://lab@host7/system`; `qemu:///system` unless said",
        )
        .or(DEFAULT_URI),
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
        HOST,
    ],
    unique: &[Unique { what: "domain", fields: &["domain", "uri"] }],
    ..DriverSchema::EMPTY
};

struct Libvirt {
    machine: String,
    uri: String,
    domain: String,
    programs: Programs,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong = |what: String| {
        DriverError::in_inventory(DRIVER, format!("use the virtual machine of {}", site.name()), what)
    };
    let domain = spec.text("domain").unwrap_or_else(|| site.name());
    // virsh would take the first for an option.
    if domain.is_empty() || domain.starts_with('-') {
        return Err(wrong(format!("`{domain}` is no name of a domain")));
    }
    // It looks for a domain's number before its name, and numbers are given
    // out anew with each start: it may be another machine's by then.
    if domain.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong(format!("`{domain}` is taken for a number by virsh: give the UUID of the domain")));
    }
    let uri = spec.text("uri").unwrap_or(DEFAULT_URI);
    if uri.is_empty() {
        // virsh would choose one by itself.
        return Err(wrong("`uri` is empty".to_owned()));
    }
    Ok(Arc::new(Libvirt {
        machine: site.name().to_owned(),
        uri: uri.to_owned(),
        domain: domain.to_owned(),
        programs: Programs::new(DRIVER, site, spec)?,
        limits: PowerLimits::of(site, leg),
    }))
}

impl Libvirt {
    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let (word, command) = match want {
            // What a tenant had saved with the machine must not wake up with
            // the next one: it boots.
            Switch::On => ("on", &["start", "--force-boot"][..]),
            Switch::Off => ("off", &["destroy"][..]),
        };
        let attempted = format!("switch {} {word}", self.machine);
        let refused = match self.virsh(&attempted, command).await {
            Ok(_) => return Ok(()),
            Err(refused) => refused,
        };
        // Already so is an error to libvirt, which it is not to us; only its
        // state tells that from any other.
        match self.state(&attempted).await {
            Ok(reading) if reading.shows(want) => Ok(()),
            _ => Err(refused),
        }
    }

    async fn state(&self, attempted: &str) -> Result<Reading, DriverError> {
        self.virsh(attempted, &["domstate"]).await.map(|out| reading(out.trim()))
    }

    async fn virsh(&self, attempted: &str, command: &[&str]) -> Result<String, DriverError> {
        let words = ["virsh", "--connect", &self.uri].into_iter().chain(command.iter().copied());
        let argv: Vec<String> = words.chain(["--domain", &self.domain]).map(str::to_owned).collect();
        let ran = self.programs.run(attempted, &argv).await?;
        if ran.status.success() { Ok(ran.out) } else { Err(self.explain(attempted, &ran.err)) }
    }

    /// virsh says first what it wanted and then, mostly, why it cannot.
    fn explain(&self, attempted: &str, said: &str) -> DriverError {
        let errors: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
        let cause = errors.last().map_or_else(|| first_line(said), |last| shown(last.trim()));
        let failed = DriverError::new(DRIVER, attempted, cause);
        let first = errors.first().copied().unwrap_or_default();
        let unknown =
            |line: &&str| line.contains("failed to get domain") || line.contains("Domain not found");
        if !errors.is_empty() && errors.iter().all(unknown) {
            return failed
                .permanent()
                .next(format!("`virsh --connect {} list --all` shows the domains there are", self.uri));
        }
        if first.contains("failed to connect") {
            let lasting = ["Permission denied", "authentication", "no connection driver available"];
            let next = format!(
                "is there a libvirt at {}, and may the daemon's user manage it (group `libvirt`)?",
                self.uri
            );
            let lasts = lasting.iter().any(|words| said.contains(words));
            return if lasts { failed.permanent() } else { failed }.next(next);
        }
        failed
    }
}

/// What virsh's words for a domain's state mean (`virshDomainStateTypeToString`).
fn reading(state: &str) -> Reading {
    match state {
        // Whatever holds memory may come back to life.
        "running" | "idle" | "paused" | "in shutdown" | "pmsuspended" => Reading::On,
        "shut off" => Reading::Off,
        // `crashed`, `no state`, and what later versions will say.
        _ => Reading::Unknown,
    }
}

impl Power for Libvirt {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(async move { self.state(&format!("read the power of {}", self.machine)).await })
    }

    fn nudges(&self) -> bool {
        true
    }

    fn nudge(&self, how: Nudge) -> Task<'_, ()> {
        Box::pin(async move {
            let (what, word) = match how {
                Nudge::Soft => ("ask for the shutdown of", "shutdown"),
                Nudge::Reset => ("reset", "reset"),
                Nudge::Nmi => ("interrupt", "inject-nmi"),
            };
            self.virsh(&format!("{what} {}", self.machine), &[word]).await.map(drop)
        })
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
