//! `power.http`: smart plugs and whatever else is switched by HTTP.

mod profile;

#[cfg(test)]
mod tests;

use super::{Power, PowerLimits, PowerOn};
use crate::address;
use crate::child::{first_line, shown};
use crate::error::{DriverError, Task};
use crate::secret::Place;
use crate::site::Site;
use crate::web::wire::Wire;
use crate::web::{Ask, Reply, Web};
use hyper::Method;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::inventory::{DriverSpec, LegSpec};
use pitstop_core::machine::{Reading, Switch};
use profile::{NAMES, Profile};
use regex::Regex;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const DRIVER: &str = "power.http";
const PORT: u16 = 80;
const DEFAULT_TIMEOUT_MS: u64 = 10_000;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "http",
    fields: &[
        ADDRESS,
        FieldSchema::optional(
            "profile",
            FieldKind::OneOf(NAMES),
            "what kind of device; `generic` unless said",
        ),
        FieldSchema::optional("outlet", FieldKind::Label, "which of the device's outlets, by its own count")
            .or("0"),
        USER,
        PASSWORD,
        FieldSchema::optional("on", FieldKind::Text, "generic: path that switches on, as in `/relay?on=1`")
            .or(""),
        FieldSchema::optional("off", FieldKind::Text, "generic: path that switches off"),
        FieldSchema::optional("status", FieldKind::Text, "generic: path that tells the state"),
        FieldSchema::optional(
            "method",
            FieldKind::OneOf(&["GET", "POST", "PUT"]),
            "generic: how `on` and `off` are asked; `GET` unless said",
        ),
        FieldSchema::optional("on_body", FieldKind::Raw, "generic: JSON that is sent to switch on"),
        FieldSchema::optional("off_body", FieldKind::Raw, "generic: JSON that is sent to switch off"),
        FieldSchema::optional(
            "json",
            FieldKind::Raw,
            "generic: where the state is in the answer, as in `relays.0.on`; the whole answer unless said",
        ),
        FieldSchema::optional(
            "is_on",
            FieldKind::Raw,
            "regular expression that the state fits when on; `true`, `on`, `1` in either case unless said",
        ),
        FieldSchema::optional(
            "is_off",
            FieldKind::Raw,
            "regular expression that it fits when off; `false`, `off`, `0` unless said",
        ),
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
    ],
    unique: &[Unique { what: "outlet", fields: &["address", "outlet", "on"] }],
    ..DriverSchema::EMPTY
};

/// What the inventory may say of a device that many machines hang on.
pub const CONTROLLER: DriverSchema = DriverSchema {
    name: "http",
    fields: &[
        ADDRESS,
        FieldSchema::required("profile", FieldKind::OneOf(NAMES), "what kind of device"),
        USER,
        PASSWORD,
        TIMEOUT,
        super::AT_ONCE,
    ],
    unique: &[Unique { what: "device", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

const ADDRESS: FieldSchema = FieldSchema::required(
    "address",
    FieldKind::Address { port: Some(PORT) },
    "the device: `plug-03.lab`, or `plug-03.lab:8080`",
);
const USER: FieldSchema = FieldSchema::optional("user", FieldKind::Text, "user of the device");
const PASSWORD: FieldSchema = FieldSchema::optional("password", FieldKind::Secret, "the user's password");
const TIMEOUT: FieldSchema =
    FieldSchema::optional("timeout", FieldKind::Duration, "how long each call may take, 10s unless said");

struct Http {
    machine: String,
    web: Web,
    profile: Profile,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong =
        |what: String| DriverError::in_inventory(DRIVER, format!("use the device of {}", site.name()), what);
    let address = spec.text("address").unwrap_or_default().to_owned();
    let target = address::split(&address).ok_or_else(|| wrong(format!("`{address}` is no address")))?;
    let limit = Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS));
    let profile = Profile::of(spec).map_err(wrong)?;
    if leg.readback && profile.status.is_none() {
        let what = "nothing reads its state: `status`, or `readback = \"none\"`, off is then assumed";
        return Err(wrong(what.to_owned()));
    }
    let mut limits = PowerLimits::of(site, leg);
    if spec.controller.is_none() {
        // Machines on one device stand in one queue even if nobody said so.
        limits.queue = format!("http://{address}");
    }
    Ok(Arc::new(Http {
        machine: site.name().to_owned(),
        web: Web {
            driver: DRIVER,
            wire: Wire { target, trust: None, limit },
            user: spec.text("user").map(str::to_owned),
            password: Place::of(spec, "password"),
            in_query: spec.text("profile") == Some("tasmota"),
        },
        profile,
        limits,
    }))
}

/// How an answer tells the state.
struct Meaning {
    /// Where the state is: the first of these that is there; none: all of it.
    json: Vec<String>,
    is_on: Regex,
    is_off: Regex,
}

impl Meaning {
    fn of(spec: &DriverSpec, json: &[&str]) -> Result<Self, String> {
        let pattern = |field: &str, usual: &str| {
            let text = spec.text(field).unwrap_or(usual);
            Regex::new(text).map_err(|e| format!("`{field}` is no regular expression: {e}"))
        };
        Ok(Self {
            json: json.iter().map(|path| (*path).to_owned()).collect(),
            is_on: pattern("is_on", r"^(?i:true|on|1)$")?,
            is_off: pattern("is_off", r"^(?i:false|off|0)$")?,
        })
    }

    /// The state in a body.
    fn find(&self, body: &str) -> Result<String, Odd> {
        if self.json.is_empty() {
            return Ok(body.trim().to_owned());
        }
        let whole: Value = serde_json::from_str(body).map_err(|_| Odd::NoJson)?;
        self.json.iter().find_map(|path| find(&whole, path)).ok_or(Odd::NotThere)
    }

    /// What the body says; neither or both is not known.
    fn read(&self, reply: &Reply) -> Result<Reading, String> {
        let state = self.find(&reply.body);
        let is = |pattern: &Regex| state.as_ref().is_ok_and(|state| pattern.is_match(state));
        let odd = match (is(&self.is_on), is(&self.is_off)) {
            (true, false) => return Ok(Reading::On),
            (false, true) => return Ok(Reading::Off),
            _ => state.as_ref().err().unwrap_or(&Odd::Neither),
        };
        Err(match odd {
            Odd::NoJson => format!("it answered no JSON: {}", first_line(&reply.shown)),
            Odd::NotThere => {
                format!(
                    "there is no `{}` in what it answered: {}",
                    self.json.join("` or `"),
                    shown(&reply.shown)
                )
            }
            Odd::Neither => {
                let state = self.find(&reply.shown).unwrap_or_default();
                format!("its state is neither on nor off: {}", shown(&state))
            }
        })
    }
}

/// Why a body tells no state.
enum Odd {
    NoJson,
    NotThere,
    Neither,
}

/// Follows `a.0.b`; text without its quotes.
fn find(whole: &Value, path: &str) -> Option<String> {
    let found = path.split('.').try_fold(whole, |at, key| match at {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        Value::Object(fields) => fields.get(key),
        _ => None,
    })?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}

impl Http {
    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let (ask, word) = match want {
            Switch::On => (&self.profile.on, "on"),
            Switch::Off => (&self.profile.off, "off"),
        };
        let attempted = format!("switch {} {word}", self.machine);
        let reply = self.web.ask(&attempted, ask).await?;
        // Some say in the answer that they did not do it, and that all is well.
        if self.profile.answers { self.meaning(&attempted, &reply).map(drop) } else { Ok(()) }
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let Some(ask) = &self.profile.status else { return Ok(Reading::Unknown) };
        let attempted = format!("read the power of {}", self.machine);
        let reply = self.web.ask(&attempted, ask).await?;
        self.meaning(&attempted, &reply)
    }

    fn meaning(&self, attempted: &str, reply: &Reply) -> Result<Reading, DriverError> {
        self.profile.meaning.read(reply).map_err(|e| DriverError::new(DRIVER, attempted, e))
    }
}

impl Power for Http {
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

fn ask(method: &Method, path: impl Into<String>) -> Ask {
    Ask::new(method.clone(), path)
}
