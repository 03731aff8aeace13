//! Programs that switch and read a machine, for every driver that runs some.

use crate::child::{Ran, first_line};
use crate::error::DriverError;
use crate::host::Bench;
use crate::site::Site;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{FieldKind, FieldSchema};
use pitstop_core::machine::Reading;
use regex::Regex;
use std::time::Duration;

const DEFAULT_TIMEOUT_MS: u64 = 20_000;

/// Regular expression that the output of `status` fits when on.
pub const IS_ON: FieldSchema = FieldSchema::optional(
    "is_on",
    FieldKind::Raw,
    "regular expression that the output of `status` fits when on",
);
/// Regular expression that it fits when off.
pub const IS_OFF: FieldSchema =
    FieldSchema::optional("is_off", FieldKind::Raw, "regular expression that it fits when off");
/// How long each program may take.
pub const TIMEOUT: FieldSchema =
    FieldSchema::optional("timeout", FieldKind::Duration, "how long each may take, 20s unless said");

/// Where they run.
pub const HOST: FieldSchema =
    FieldSchema::optional("host", FieldKind::HostRef, "the bench host that its programs run on");

/// How a driver runs programs for one machine. Who runs them by this starts
/// them nowhere else.
pub struct Programs {
    driver: &'static str,
    machine: String,
    bench: Bench,
    limit: Duration,
}

impl Programs {
    /// For the machine, on the `host` of `spec`, each within its `timeout`.
    ///
    /// # Errors
    /// The host cannot be used; permanent.
    pub fn new(driver: &'static str, site: &Site, spec: &DriverSpec) -> Result<Self, DriverError> {
        let limit = Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS));
        let bench = Bench::of(driver, site, spec)?;
        Ok(Self { driver, machine: site.name().to_owned(), bench, limit })
    }

    /// Runs one to its end, whatever that is. `attempted` is what for, as it
    /// would follow "could not".
    ///
    /// # Errors
    /// It could not be started, or did not end in time.
    pub async fn run(&self, attempted: &str, argv: &[String]) -> Result<Ran, DriverError> {
        let ran = self.bench.run(argv, self.limit).await;
        ran.map_err(|e| e.into_driver(self.driver, attempted))
    }

    /// Runs a program of the site's own, whose exit code 0 says that it was
    /// accepted.
    ///
    /// # Errors
    /// Any other end, with what it printed.
    pub async fn accepted(&self, argv: &[String]) -> Result<(), DriverError> {
        let ran = self.run(&self.attempted(argv), argv).await?;
        if ran.status.success() { Ok(()) } else { Err(self.said(argv, &ran)) }
    }

    fn attempted(&self, argv: &[String]) -> String {
        let program = argv.first().map_or("", String::as_str);
        format!("run {program} for {}", self.machine)
    }

    fn said(&self, argv: &[String], ran: &Ran) -> DriverError {
        let Ran { status, out, err } = ran;
        let answer = format!("{status}: {}", first_line(&format!("{out}\n{err}")));
        DriverError::new(self.driver, self.attempted(argv), answer).over()
    }
}

/// What the exit code of `status` tells, where no patterns do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// 0 is on, 1 is off.
    Both,
    /// 0 is on; nothing is off.
    OnlyOn,
}

/// How the site's own `status` tells the state, if there is one.
pub struct Status {
    argv: Option<Vec<String>>,
    patterns: Option<(Regex, Regex)>,
    codes: Codes,
}

impl Status {
    /// What `status`, `is_on` and `is_off` say.
    ///
    /// # Errors
    /// They contradict each other, as a sentence.
    pub fn of(spec: &DriverSpec, codes: Codes) -> Result<Self, String> {
        let pattern = |field| match spec.text(field).map(Regex::new) {
            None => Ok(None),
            Some(Ok(regex)) => Ok(Some(regex)),
            Some(Err(e)) => Err(format!("`{field}` is no regular expression: {e}")),
        };
        let patterns = match (pattern("is_on")?, pattern("is_off")?) {
            (Some(on), Some(off)) => Some((on, off)),
            (None, None) => None,
            // Without both, "neither" would have to count as one of them.
            _ => return Err("`is_on` and `is_off` go together".to_owned()),
        };
        let argv = argv(spec, "status");
        if argv.is_none() && patterns.is_some() {
            return Err("`is_on` and `is_off` are about `status`, which is missing".to_owned());
        }
        Ok(Self { argv, patterns, codes })
    }

    /// Runs it. Without one the state is unknown, which is not off.
    ///
    /// # Errors
    /// It could not be run, or failed where its output is what counts.
    pub async fn read(&self, programs: &Programs) -> Result<Reading, DriverError> {
        let Some(argv) = &self.argv else { return Ok(Reading::Unknown) };
        let ran = programs.run(&programs.attempted(argv), argv).await?;
        let Some((on, off)) = &self.patterns else {
            return match (ran.status.code(), self.codes) {
                (Some(0), _) => Ok(Reading::On),
                (Some(1), Codes::Both) => Ok(Reading::Off),
                (Some(1), Codes::OnlyOn) => Ok(Reading::Unknown),
                // What it printed says why.
                _ => Err(programs.said(argv, &ran)),
            };
        };
        // A program that failed may have printed anything before.
        if !ran.status.success() {
            return Err(programs.said(argv, &ran));
        }
        let output = ran.out + &ran.err;
        Ok(match (on.is_match(&output), off.is_match(&output)) {
            (true, false) => Reading::On,
            (false, true) => Reading::Off,
            _ => Reading::Unknown,
        })
    }
}

/// The command in a field; `None` where it names no program.
pub fn argv(spec: &DriverSpec, field: &str) -> Option<Vec<String>> {
    let list = spec.list(field)?;
    (!list.is_empty()).then(|| list.into_iter().map(str::to_owned).collect())
}
