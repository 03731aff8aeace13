//! `power.usb-hub`: the power of one port of a USB hub, through uhubctl.
//!
//! What a port reads is what the hub says of itself. Many hubs say that a
//! port is off and leave its power on, because switches cost money
//! (github.com/mvp/uhubctl, issues 63 and 260); no program can see that.

#[cfg(test)]
mod tests;

use super::programs::{HOST, Programs, TIMEOUT};
use super::{Power, PowerLimits, PowerOn};
use crate::child::{Ran, first_line};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;

const DRIVER: &str = "power.usb-hub";
const DEFAULT_COMMAND: &str = "uhubctl";
/// More ports uhubctl does not count (`MAX_HUB_PORTS`).
const MAX_PORT: i64 = 14;
const UDEV: &str = "the daemon's user must be let to the hub: uhubctl brings udev rules for that";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "usb-hub",
    fields: &[
        FieldSchema::required("hub", FieldKind::Text, "where the hub is, as uhubctl shows it: `1-1.4`"),
        FieldSchema::required("port", FieldKind::Int { min: 1, max: MAX_PORT }, "which of its ports"),
        FieldSchema::optional(
            "repeat",
            FieldKind::Int { min: 1, max: 100 },
            "how often the hub is told off, for those that do not hear it at once; 1 unless said",
        ),
        FieldSchema::optional("command", FieldKind::Path, "the program; `uhubctl` unless said"),
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
        HOST,
    ],
    unique: &[Unique { what: "port of a hub", fields: &["hub", "port"] }],
    ..DriverSchema::EMPTY
};

struct UsbHub {
    machine: String,
    command: String,
    hub: String,
    port: i64,
    repeat: Option<i64>,
    programs: Programs,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong =
        |what: String| DriverError::in_inventory(DRIVER, format!("use the port of {}", site.name()), what);
    let hub = spec.text("hub").unwrap_or_default();
    if !is_location(hub) {
        return Err(wrong(format!("`{hub}` is no place of a hub: bus and ports, as in `1-1.4`")));
    }
    let port = spec.int("port").filter(|port| (1..=MAX_PORT).contains(port));
    let mut limits = PowerLimits::of(site, leg);
    if spec.controller.is_none() {
        // Machines on one hub stand in one queue even if nobody said so.
        limits.queue = format!("usb://{}/{hub}", spec.host.as_deref().unwrap_or_default());
    }
    Ok(Arc::new(UsbHub {
        machine: site.name().to_owned(),
        command: spec.text("command").unwrap_or(DEFAULT_COMMAND).to_owned(),
        hub: hub.to_owned(),
        port: port.ok_or_else(|| wrong(format!("`port` is a number from 1 to {MAX_PORT}")))?,
        repeat: spec.int("repeat"),
        programs: Programs::new(DRIVER, site, spec)?,
        limits,
    }))
}

/// `BUS` for a root hub, `BUS-PORT.PORT…` behind one.
fn is_location(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (bus, ports) = text.split_once('-').map_or((text, None), |(bus, ports)| (bus, Some(ports)));
    number(bus) && ports.is_none_or(|ports| ports.split('.').all(number))
}

impl UsbHub {
    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let word = if want == Switch::On { "on" } else { "off" };
        let attempted = format!("switch {} {word}", self.machine);
        let mut action = vec!["-a".to_owned(), word.to_owned()];
        if let (Switch::Off, Some(repeat)) = (want, self.repeat) {
            action.extend(["-r".to_owned(), repeat.to_string()]);
        }
        let ran = self.uhubctl(&attempted, &action).await?;
        // It exits with 0 whether or not the hub could be told.
        if let Some(failed) = ran.err.lines().position(|line| line.contains("Failed to control port power")) {
            // The cause stands on the next line (perror(3) after a line end).
            let cause = ran.err.lines().nth(failed + 1).unwrap_or_default().trim_start_matches(": ");
            let error =
                DriverError::new(DRIVER, attempted, format!("the hub did not obey: {}", first_line(cause)));
            return Err(error.next(UDEV));
        }
        // It says that it sent it also where the hub has no such port.
        let port = format!("Port {}: ", self.port);
        let there = ran.out.lines().any(|line| line.trim_start().starts_with(&port));
        if there && ran.out.contains(&format!("Sent power {word} request")) {
            return Ok(());
        }
        Err(self.silent(&attempted, &ran))
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let attempted = format!("read the power of {}", self.machine);
        let ran = self.uhubctl(&attempted, &[]).await?;
        match states(&ran.out, self.port) {
            // One power line serves the two hubs that a USB 3 hub is: it is
            // off when both have switched it off.
            Some(states) if states.contains(&Some(true)) => Ok(Reading::On),
            Some(states) if states.iter().all(|state| *state == Some(false)) => Ok(Reading::Off),
            Some(_) => {
                let lines = ran.out.lines().map(str::trim);
                let said = lines.filter(|line| line.starts_with("Port ")).collect::<Vec<_>>().join(", ");
                Err(DriverError::new(
                    DRIVER,
                    attempted,
                    format!("it is neither on nor off: {}", first_line(&said)),
                ))
            }
            None => Err(self.silent(&attempted, &ran)),
        }
    }

    async fn uhubctl(&self, attempted: &str, action: &[String]) -> Result<Ran, DriverError> {
        let port = self.port.to_string();
        let place = [&*self.command, "-l", &self.hub, "-p", &port].map(str::to_owned);
        let argv = [&place[..], action].concat();
        let ran = self.programs.run(attempted, &argv).await?;
        if ran.status.success() {
            return Ok(ran);
        }
        let failed = DriverError::new(DRIVER, attempted, first_line(&format!("{}\n{}", ran.err, ran.out)));
        Err(if ran.err.contains("permission problems") {
            failed.permanent().next(UDEV)
        } else {
            // It may just have been plugged out, or be coming back.
            failed.next(format!("`{}` alone lists the hubs that can switch their ports", self.command))
        })
    }

    fn silent(&self, attempted: &str, ran: &Ran) -> DriverError {
        let said = first_line(&ran.err);
        let answer = format!("{} said nothing of port {} of {}: {said}", self.command, self.port, self.hub);
        DriverError::new(DRIVER, attempted, answer).next(format!("has the hub such a port? {UDEV}"))
    }
}

/// Whether the port has power, by each hub that is shown (`print_port_status`
/// of uhubctl): on, off, or neither. `None` if a hub is shown without it.
///
/// ```text
/// Current status for hub 1-1.4 [0bda:5411 Generic USB2.1 Hub, USB 2.10, 4 ports, ppps]
///   Port 2: 0503 power highspeed enable connect [0781:5567 SanDisk Cruzer]
/// ```
fn states(output: &str, port: i64) -> Option<Vec<Option<bool>>> {
    let hubs = output.lines().filter(|line| line.starts_with("Current status for hub ")).count();
    let begin = format!("Port {port}: ");
    let ports = output.lines().filter_map(|line| line.trim_start().strip_prefix(&begin));
    let states: Vec<_> = ports
        .map(|line| {
            // Behind the bracket a device says what it likes to be called.
            let words: Vec<&str> = line.split('[').next().unwrap_or_default().split_whitespace().collect();
            match (words.contains(&"power"), words.contains(&"off")) {
                (true, false) => Some(true),
                (false, true) => Some(false),
                _ => None,
            }
        })
        .collect();
    (hubs > 0 && states.len() == hubs).then_some(states)
}

impl Power for UsbHub {
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
