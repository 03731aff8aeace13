//! `power.command`: programs of the site's own switch the machine.

use super::{Power, PowerLimits, PowerOn};
use crate::child::{Ran, first_line};
use crate::error::{DriverError, Task};
use crate::host::Bench;
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_core::machine::{Reading, Switch};
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;

const DRIVER: &str = "power.command";
const DEFAULT_TIMEOUT_MS: u64 = 20_000;
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
        FieldSchema::optional(
            "is_on",
            FieldKind::Raw,
            "regular expression that the output of `status` fits when on",
        ),
        FieldSchema::optional("is_off", FieldKind::Raw, "regular expression that it fits when off"),
        FieldSchema::optional("timeout", FieldKind::Duration, "how long each may take, 20s unless said"),
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
        FieldSchema::optional("host", FieldKind::HostRef, "the bench host it runs on"),
    ],
    ..DriverSchema::EMPTY
};

struct Commands {
    machine: String,
    bench: Bench,
    on: Vec<String>,
    off: Vec<String>,
    status: Option<Vec<String>>,
    patterns: Option<(Regex, Regex)>,
    limit: Duration,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong = |what: &str| {
        DriverError::new(DRIVER, format!("use the commands of {}", site.name()), what)
            .permanent()
            .next("mend the inventory")
    };
    let argv = |field: &str| {
        let list = spec.list(field)?;
        (!list.is_empty()).then(|| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let pattern = |field| match spec.text(field).map(Regex::new) {
        None => Ok(None),
        Some(Ok(regex)) => Ok(Some(regex)),
        Some(Err(e)) => Err(wrong(&format!("`{field}` is no regular expression: {e}"))),
    };
    let patterns = match (pattern("is_on")?, pattern("is_off")?) {
        (Some(on), Some(off)) => Some((on, off)),
        (None, None) => None,
        // Without both, "neither" would have to count as one of them.
        _ => return Err(wrong("`is_on` and `is_off` go together")),
    };
    Ok(Arc::new(Commands {
        machine: site.name().to_owned(),
        bench: Bench::of(DRIVER, site, spec)?,
        on: argv("on").ok_or_else(|| wrong("`on` names no program"))?,
        off: argv("off").ok_or_else(|| wrong("`off` names no program"))?,
        status: argv("status"),
        patterns,
        limit: Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS)),
        limits: PowerLimits::of(site, leg),
    }))
}

impl Commands {
    fn attempted(&self, argv: &[String]) -> String {
        format!("run {} for {}", argv.first().map_or("", String::as_str), self.machine)
    }

    fn said(&self, argv: &[String], ran: &Ran) -> DriverError {
        let Ran { status, out, err } = ran;
        let answer = format!("{status}: {}", first_line(&format!("{out}\n{err}")));
        DriverError::new(DRIVER, self.attempted(argv), answer)
    }

    async fn run(&self, argv: &[String]) -> Result<Ran, DriverError> {
        let ran = self.bench.run(argv, self.limit).await;
        ran.map_err(|e| e.into_driver(DRIVER, self.attempted(argv)))
    }

    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let argv = if want == Switch::On { &self.on } else { &self.off };
        let ran = self.run(argv).await?;
        if ran.status.success() { Ok(()) } else { Err(self.said(argv, &ran)) }
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let Some(argv) = &self.status else { return Ok(Reading::Unknown) };
        let ran = self.run(argv).await?;
        let Some((on, off)) = &self.patterns else {
            return Ok(match ran.status.code() {
                Some(0) => Reading::On,
                Some(1) => Reading::Off,
                _ => Reading::Unknown,
            });
        };
        // A program that failed may have printed anything before.
        if !ran.status.success() {
            return Err(self.said(argv, &ran));
        }
        let output = ran.out + &ran.err;
        Ok(match (on.is_match(&output), off.is_match(&output)) {
            (true, false) => Reading::On,
            (false, true) => Reading::Off,
            _ => Reading::Unknown,
        })
    }
}

impl Power for Commands {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.state())
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
