//! `power.snmp`: an outlet of a PDU, or a port of a PoE switch (SNMP versions
//! 1, 2c and 3).

mod profile;

#[cfg(test)]
mod tests;

use super::{Power, PowerLimits, PowerOn};
use crate::address;
use crate::error::{DriverError, Task};
use crate::secret::Place;
use crate::site::Site;
use async_snmp::v3::ReportStatus;
use async_snmp::{
    Auth, AuthProtocol, Client, Error, ErrorKind, ErrorStatus, Oid, PrivProtocol, Retry, UsmConfig, Value,
};
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::inventory::{DriverSpec, LegSpec};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::agent::Secret;
use profile::{NAMES, Profile};
use std::sync::Arc;
use std::time::Duration;

const DRIVER: &str = "power.snmp";
/// Where PDUs listen (RFC 3417, section 3.1).
const PORT: u16 = 161;
/// How long one try may take: some PDUs answer a command only once it is done.
const TRY: Duration = Duration::from_secs(4);
/// Tries of a reading after the first. A command is said once: another one on
/// its way while the first is answered would land when nobody expects it.
const AGAIN: u32 = 2;

/// Fields that name the device and who asks it, whoever has the outlet.
macro_rules! device_fields {
    ($($more:expr),* $(,)?) => {
        &[
            FieldSchema::required("address", FieldKind::Address { port: Some(PORT) }, "the device: `pdu-a.lab`, or `pdu-a.lab:1161`"),
            FieldSchema::optional("profile", FieldKind::OneOf(NAMES), "what kind of device; `oid` unless said"),
            FieldSchema::optional(
                "version",
                FieldKind::OneOf(&["1", "2c", "3"]),
                "version of SNMP; `2c` unless said, or `3` where there is a `user`",
            ),
            FieldSchema::optional("community", FieldKind::Secret, "versions 1 and 2c: the community that may write"),
            FieldSchema::optional("user", FieldKind::Text, "version 3: the user"),
            FieldSchema::optional("auth", FieldKind::OneOf(AUTH), "version 3: authentication; `sha` unless said"),
            FieldSchema::optional("auth_password", FieldKind::Secret, "version 3: password for authentication"),
            FieldSchema::optional("priv", FieldKind::OneOf(PRIV), "version 3: encryption; `aes` unless said"),
            FieldSchema::optional("priv_password", FieldKind::Secret, "version 3: password for encryption"),
            FieldSchema::optional("oid", FieldKind::Text, "profile `oid`: object that is set, without the outlet's number"),
            FieldSchema::optional("state_oid", FieldKind::Text, "profile `oid`: object that is read; `oid` unless said"),
            FieldSchema::optional("on", VALUE, "profile `oid`: what `oid` is set to for on, 1 unless said"),
            FieldSchema::optional("off", VALUE, "profile `oid`: what it is set to for off, 2 unless said"),
            FieldSchema::optional("is_on", VALUE, "profile `oid`: what `state_oid` is when on; `on` unless said"),
            FieldSchema::optional("is_off", VALUE, "profile `oid`: what it is when off; `off` unless said"),
            $($more,)*
        ]
    };
}

const AUTH: &[&str] = &["md5", "sha", "sha224", "sha256", "sha384", "sha512"];
const PRIV: &[&str] = &["des", "aes", "aes192", "aes256"];
const VALUE: FieldKind = FieldKind::Int { min: i32::MIN as i64, max: i32::MAX as i64 };

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "snmp",
    fields: device_fields![
        FieldSchema::required("outlet", FieldKind::Label, "which outlet; a port of PoE group 2 is `2.7`"),
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
    ],
    unique: &[Unique { what: "outlet", fields: &["address", "outlet"] }],
    ..DriverSchema::EMPTY
};

/// What the inventory may say of a device that many machines hang on.
pub const CONTROLLER: DriverSchema = DriverSchema {
    name: "snmp",
    fields: device_fields![super::AT_ONCE],
    unique: &[Unique { what: "device", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

struct Snmp {
    machine: String,
    target: (String, u16),
    login: Login,
    profile: Profile,
    limits: PowerLimits,
}

/// As whom the device is asked.
enum Login {
    Community { first: bool, community: Option<Place> },
    User { user: String, auth: Option<(AuthProtocol, Place)>, privacy: Option<(PrivProtocol, Place)> },
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong =
        |what: String| DriverError::in_inventory(DRIVER, format!("use the outlet of {}", site.name()), what);
    let given = spec.text("address").unwrap_or_default();
    let target = address::split(given).ok_or_else(|| wrong(format!("`{given}` is no address")))?;
    let mut limits = PowerLimits::of(site, leg);
    if spec.controller.is_none() {
        // Machines on one device stand in one queue even if nobody said so.
        limits.queue = format!("snmp://{given}");
    }
    Ok(Arc::new(Snmp {
        machine: site.name().to_owned(),
        target,
        login: login(spec).map_err(wrong)?,
        profile: Profile::of(spec).map_err(wrong)?,
        limits,
    }))
}

fn login(spec: &DriverSpec) -> Result<Login, String> {
    let user = spec.text("user");
    let version = spec.text("version").unwrap_or(if user.is_some() { "3" } else { "2c" });
    if version != "3" {
        return match user {
            Some(_) => Err(format!("version {version} has communities and no users")),
            None => Ok(Login::Community { first: version == "1", community: Place::of(spec, "community") }),
        };
    }
    let user = user.ok_or("version 3 needs a `user`")?.to_owned();
    let auth = Place::of(spec, "auth_password").map(|place| {
        let protocol = match spec.text("auth") {
            Some("md5") => AuthProtocol::Md5,
            Some("sha224") => AuthProtocol::Sha224,
            Some("sha256") => AuthProtocol::Sha256,
            Some("sha384") => AuthProtocol::Sha384,
            Some("sha512") => AuthProtocol::Sha512,
            _ => AuthProtocol::Sha1,
        };
        (protocol, place)
    });
    let privacy = Place::of(spec, "priv_password").map(|place| {
        let protocol = match spec.text("priv") {
            Some("des") => PrivProtocol::Des,
            Some("aes192") => PrivProtocol::Aes192Blumenthal,
            Some("aes256") => PrivProtocol::Aes256Blumenthal,
            _ => PrivProtocol::Aes128,
        };
        (protocol, place)
    });
    if auth.is_none() && privacy.is_some() {
        return Err(
            "encryption without authentication is not possible: `auth_password` is missing".to_owned()
        );
    }
    Ok(Login::User { user, auth, privacy })
}

impl Snmp {
    /// The device's answer about one object.
    async fn ask(&self, attempted: &str, oid: &Oid, set: Option<i32>) -> Result<Value, DriverError> {
        let auth = self.auth(attempted).await?;
        let failed = |e: Box<Error>| self.explain(attempted, &e);
        let again = if set.is_some() { 0 } else { AGAIN };
        let retry = Retry::fixed(again, Duration::ZERO).map_err(|e| self.failed(attempted, e))?;
        let target = (self.target.0.as_str(), self.target.1);
        let client = Client::builder(target, auth)
            .request_timeout(TRY)
            .retry(retry)
            .connect()
            .await
            .map_err(failed)?;
        let answer = match set {
            Some(value) => client.set(oid, Value::Integer(value)).await,
            None => client.get(oid).await,
        };
        let answer = answer.map_err(failed)?;
        let one =
            answer.single().ok_or_else(|| self.failed(attempted, "it answered about something else"))?;
        match one.value {
            Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView => {
                Err(self.no_outlet(attempted))
            }
            ref value => Ok(value.clone()),
        }
    }

    async fn auth(&self, attempted: &str) -> Result<Auth, DriverError> {
        match &self.login {
            Login::Community { first, community } => {
                let Secret(community) = match community {
                    Some(place) => place.read(DRIVER, attempted).await?,
                    None => Secret("private".to_owned()),
                };
                Ok(if *first { Auth::v1(community) } else { Auth::v2c(community) })
            }
            Login::User { user, auth, privacy } => {
                let config = UsmConfig::new(user.clone());
                let bad = |e: &dyn std::fmt::Display| self.failed(attempted, e).permanent();
                let Some((auth, place)) = auth else { return Ok(Auth::from(config)) };
                let Secret(password) = place.read(DRIVER, attempted).await?;
                let Some((privacy, place)) = privacy else {
                    return config.auth(*auth, password).map(Auth::from).map_err(|e| bad(&e));
                };
                let Secret(key) = place.read(DRIVER, attempted).await?;
                config.auth_priv(*auth, password, *privacy, key).map(Auth::from).map_err(|e| bad(&e))
            }
        }
    }

    fn failed(&self, attempted: &str, answer: impl ToString) -> DriverError {
        DriverError::new(DRIVER, attempted, answer)
    }

    fn no_outlet(&self, attempted: &str) -> DriverError {
        self.failed(attempted, "the device has no such outlet")
            .permanent()
            .next("`outlet` and `profile` in the inventory must be what the device has")
    }

    fn explain(&self, attempted: &str, error: &Error) -> DriverError {
        let (host, port) = &self.target;
        let error = error.exchange_source();
        match (error.kind(), error) {
            // A wrong community, and mostly a wrong password, is answered by
            // nothing.
            (ErrorKind::Timeout | ErrorKind::ConstructionTimeout, _) => self
                .failed(attempted, format!("{host} does not answer"))
                .next(format!("is it up, does UDP port {port} get through, and is the community right, or user and passwords?")),
            // Its clock was set, or it has just started: the next try knows.
            (_, Error::Report { status, .. })
                if matches!(**status, ReportStatus::NotInTimeWindow { .. } | ReportStatus::UnknownEngineId { .. }) =>
            {
                self.failed(attempted, format!("{host} wants to be asked anew: {status}"))
            }
            (ErrorKind::Auth | ErrorKind::Report, _) => self
                .failed(attempted, format!("{host} does not take the user and passwords: {error}"))
                .permanent()
                .next("`user`, `auth`, `priv` and both passwords must be what the device has"),
            (_, Error::Snmp { status: ErrorStatus::NoSuchName, .. }) => self.no_outlet(attempted),
            (
                _,
                Error::Snmp {
                    status:
                        ErrorStatus::NoAccess | ErrorStatus::ReadOnly | ErrorStatus::NotWritable | ErrorStatus::AuthorizationError,
                    ..
                },
            ) => self
                .failed(attempted, format!("{host} lets this community or user read only"))
                .permanent()
                .next("give it the right to write in the device"),
            (_, Error::Snmp { status, .. }) => self.failed(attempted, format!("{host} refused: {status}")),
            _ => self.failed(attempted, error).next(format!("is {host} its address?")),
        }
    }

    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        let (value, word) = match want {
            Switch::On => (self.profile.on, "on"),
            Switch::Off => (self.profile.off, "off"),
        };
        self.ask(&format!("switch {} {word}", self.machine), &self.profile.set, Some(value)).await.map(drop)
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let attempted = format!("read the power of {}", self.machine);
        let value = self.ask(&attempted, &self.profile.state, None).await?;
        match value.as_i32() {
            Some(state) if state == self.profile.is_on => Ok(Reading::On),
            Some(state) if state == self.profile.is_off => Ok(Reading::Off),
            Some(state) => Err(self.failed(&attempted, format!("its state, {state}, is neither on nor off"))),
            None => Err(self.failed(&attempted, "its state is no number")),
        }
    }
}

impl Power for Snmp {
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
