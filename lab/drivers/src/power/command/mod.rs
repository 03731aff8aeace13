//! `power.command`: programs of the site's own switch the machine.
//!
//! No shell looks at the arguments. A program has a deadline and runs in a
//! process group of its own, which is killed as a whole: a script's `sleep`
//! must not outlive the script.

use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_core::machine::{Reading, Switch};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const DRIVER: &str = "power.command";
const DEFAULT_TIMEOUT_MS: u64 = 20_000;
/// How long output is waited for once the program itself has ended.
const LEFTOVERS: Duration = Duration::from_millis(200);
/// Bytes of a program's output that are looked at.
const MAX_OUTPUT: u64 = 64 << 10;

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
    if spec.host.is_some() {
        return Err(wrong("bench hosts are not built yet; the commands run on this host"));
    }
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
        on: argv("on").ok_or_else(|| wrong("`on` names no program"))?,
        off: argv("off").ok_or_else(|| wrong("`off` names no program"))?,
        status: argv("status"),
        patterns,
        limit: Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS)),
        limits: PowerLimits::of(site, leg),
    }))
}

/// How a program ended and what it printed.
struct Ran {
    status: ExitStatus,
    output: String,
}

impl Commands {
    fn failed(&self, argv: &[String], answer: impl ToString) -> DriverError {
        let program = argv.first().map_or("", String::as_str);
        DriverError::new(DRIVER, format!("run {program} for {}", self.machine), answer)
    }

    async fn run(&self, argv: &[String]) -> Result<Ran, DriverError> {
        let Some((program, args)) = argv.split_first() else {
            return Err(self.failed(argv, "it names no program"));
        };
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| self.failed(argv, e).permanent().next("is it installed, and executable?"))?;
        let mut group = Group { child };
        match timeout(self.limit, group.finish()).await {
            Ok(ran) => ran.map_err(|e| self.failed(argv, e)),
            Err(_) => {
                Err(self
                    .failed(argv, format!("not done within {} s; it was killed", self.limit.as_secs_f32())))
            }
        }
    }

    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let argv = if want == Switch::On { &self.on } else { &self.off };
        let Ran { status, output } = self.run(argv).await?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(argv, format!("{status}: {}", first_line(&output))))
        }
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let Some(argv) = &self.status else { return Ok(Reading::Unknown) };
        let Ran { status, output } = self.run(argv).await?;
        let Some((on, off)) = &self.patterns else {
            return Ok(match status.code() {
                Some(0) => Reading::On,
                Some(1) => Reading::Off,
                _ => Reading::Unknown,
            });
        };
        // A program that failed may have printed anything before.
        if !status.success() {
            return Err(self.failed(argv, format!("{status}: {}", first_line(&output))));
        }
        Ok(match (on.is_match(&output), off.is_match(&output)) {
            (true, false) => Reading::On,
            (false, true) => Reading::Off,
            _ => Reading::Unknown,
        })
    }
}

fn first_line(output: &str) -> String {
    output
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("it printed nothing")
        .chars()
        .take(200)
        .collect()
}

/// A program with everything it started; all of it ends with this.
struct Group {
    child: Child,
}

impl Group {
    async fn finish(&mut self) -> std::io::Result<Ran> {
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let read_out = async {
            match out {
                Some(out) => out.take(MAX_OUTPUT).read_to_end(&mut output).await,
                None => Ok(0),
            }
        };
        let read_err = async {
            match err {
                Some(err) => err.take(MAX_OUTPUT).read_to_end(&mut errors).await,
                None => Ok(0),
            }
        };
        // Only the program itself is waited for: something it left in the
        // background may hold its output open for ever.
        let status = {
            let reading = async { tokio::join!(read_out, read_err) };
            tokio::pin!(reading);
            let (status, read) = tokio::select! {
                status = self.child.wait() => (status?, false),
                _ = &mut reading => (self.child.wait().await?, true),
            };
            if !read {
                let _ = timeout(LEFTOVERS, reading).await;
            }
            status
        };
        output.extend(errors);
        Ok(Ran { status, output: String::from_utf8_lossy(&output).into_owned() })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is there until the program was waited for, so the number is
        // still its own; what it left behind in its group is not ours to find
        // after that.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
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
