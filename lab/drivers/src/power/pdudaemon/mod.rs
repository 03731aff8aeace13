//! `power.pdudaemon`: an outlet of a PDU that a pdudaemon drives.
//!
//! pdudaemon knows sixty kinds of PDU, relay and plug. Over HTTP it answers
//! `GET /power/control/on?hostname=PDU&port=OUTLET` (`httplistener.py`,
//! `listener.py`) once the PDU has done it, or once it has tried `retries`
//! times. It has no request for the state: what it switched something else
//! must read, or off is assumed.

#[cfg(test)]
mod tests;

use super::programs::{Codes, IS_OFF, IS_ON, Programs, Status};
use super::{Power, PowerLimits, PowerOn};
use crate::address;
use crate::child::first_line;
use crate::error::{DriverError, Task};
use crate::site::Site;
use crate::web::wire::Wire;
use crate::web::{Ask, Web};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Reads, Unique};
use pitstop_core::machine::{Reading, Switch};
use std::sync::Arc;
use std::time::Duration;

const DRIVER: &str = "power.pdudaemon";
/// Where pdudaemon listens unless its configuration says otherwise.
const PORT: u16 = 16421;
/// It answers only when all is done, and others may stand before us in its
/// own queue.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
const LISTENER: &str = "is that the address of pdudaemon's HTTP listener?";

const ADDRESS: FieldSchema = FieldSchema::required(
    "address",
    FieldKind::Address { port: Some(PORT) },
    "the pdudaemon, with `\"listener\": \"http\"`: `pdud.lab`, or `pdud.lab:8080`",
);
const HOSTNAME: FieldSchema = FieldSchema::required(
    "hostname",
    FieldKind::Text,
    "the PDU as pdudaemon's own configuration calls it, a key of `pdus`",
);
const TIMEOUT: FieldSchema = FieldSchema::optional(
    "timeout",
    FieldKind::Duration,
    "how long each command may take, pdudaemon's own tries included; 30s unless said",
);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "pdudaemon",
    fields: &[
        ADDRESS,
        HOSTNAME,
        FieldSchema::required("outlet", FieldKind::Label, "which of its outlets; pdudaemon's word is port"),
        FieldSchema::optional(
            "status",
            FieldKind::Argv(&[]),
            "reads the state, which pdudaemon cannot: exit code 0 = on, 1 = off, anything else = unknown, unless `is_on` and `is_off` say how",
        ),
        IS_ON,
        IS_OFF,
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
    ],
    unique: &[Unique { what: "outlet", fields: &["address", "hostname", "outlet"] }],
    reads: Reads::By("status"),
    ..DriverSchema::EMPTY
};

/// What the inventory may say of a PDU that many machines hang on.
pub const CONTROLLER: DriverSchema = DriverSchema {
    name: "pdudaemon",
    fields: &[ADDRESS, HOSTNAME, TIMEOUT, super::AT_ONCE],
    unique: &[Unique { what: "device", fields: &["address", "hostname"] }],
    reads: Reads::Never,
    ..DriverSchema::EMPTY
};

struct Pdudaemon {
    machine: String,
    web: Web,
    /// `hostname=PDU&port=OUTLET`
    query: String,
    programs: Programs,
    status: Status,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong =
        |what: String| DriverError::in_inventory(DRIVER, format!("use the outlet of {}", site.name()), what);
    let address = spec.text("address").unwrap_or_default().to_owned();
    let target = address::split(&address).ok_or_else(|| wrong(format!("`{address}` is no address")))?;
    let hostname = spec.text("hostname").filter(|hostname| !hostname.is_empty());
    let hostname = hostname.ok_or_else(|| wrong("`hostname` names no PDU".to_owned()))?;
    let outlet = spec.text("outlet").unwrap_or_default();
    // pdudaemon hands it to a shell with some of its drivers.
    if outlet.is_empty() || !outlet.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) {
        return Err(wrong(format!("`{outlet}` is no outlet: letters, digits, `-`, `_`, `.` and `:`")));
    }
    let mut limits = PowerLimits::of(site, leg);
    if spec.controller.is_none() {
        // Machines on one PDU stand in one queue even if nobody said so, and
        // those on another PDU of the same pdudaemon do not.
        limits.queue = format!("pdudaemon://{address}/{hostname}");
    }
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    Ok(Arc::new(Pdudaemon {
        machine: site.name().to_owned(),
        query: format!("hostname={}&port={}", encoded(hostname), encoded(outlet)),
        web: Web {
            driver: DRIVER,
            wire: Wire {
                target,
                trust: None,
                limit: Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS)),
            },
            user: None,
            password: None,
            in_query: false,
        },
        programs: Programs::new(DRIVER, site, spec)?,
        status: Status::of(spec, Codes::Both).map_err(wrong)?,
        limits,
    }))
}

impl Pdudaemon {
    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let word = if want == Switch::On { "on" } else { "off" };
        let attempted = format!("switch {} {word}", self.machine);
        let ask = Ask::new(Method::GET, format!("/power/control/{word}?{}", self.query));
        let reply = self.web.ask(&attempted, &ask).await.map_err(|e| {
            // One answer for two causes (`HTTPListener.handle`), so it cannot
            // be known whether trying again is pointless.
            if e.answer.contains("said 500 ") {
                e.next(
                    "pdudaemon has no PDU of that `hostname`, or the PDU did not obey: its log tells which",
                )
            } else if e.answer.contains("said 404 ") {
                e.next(LISTENER)
            } else {
                e
            }
        })?;
        if reply.body.starts_with("OK") {
            return Ok(());
        }
        let answer = format!("it did not answer as a pdudaemon does: {}", first_line(&reply.body));
        Err(DriverError::new(DRIVER, attempted, answer).next(LISTENER))
    }
}

impl Power for Pdudaemon {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.status.read(&self.programs))
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
