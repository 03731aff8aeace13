//! Bench hosts: the computers that things are plugged into, reached by ssh.
//!
//! Nothing is installed there: a bench host needs an ssh server and a shell
//! (POSIX.1-2017, XCU 2), no more. The driver of a power leg, a console, a
//! switch or a hook asks a [`Bench`] to run its program, and does not know
//! whether that is this host or another.

mod errand;
mod login;
mod script;
mod stream;
mod work;

#[cfg(test)]
mod tests;

pub use errand::{Errand, Hear, Open, Parcel};
pub use stream::Stream;

use crate::address;
use crate::child::{Program, Ran, RunError};
use crate::error::DriverError;
use crate::secret::Place;
use crate::site::Site;
use login::Trust;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const PORT: u16 = 22;
const DEFAULT_TIMEOUT_MS: u64 = 15_000;
const DEFAULT_AT_ONCE: i64 = 4;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "ssh",
    fields: &[
        FieldSchema::required(
            "address",
            FieldKind::Address { port: Some(PORT) },
            "the host: `bench1.lab`, or `bench1.lab:2222`",
        ),
        FieldSchema::required("user", FieldKind::Text, "who logs in there"),
        FieldSchema::optional(
            "key",
            FieldKind::Secret,
            "the private key; the daemon's ssh agent unless said (`SSH_AUTH_SOCK`)",
        ),
        FieldSchema::optional("passphrase", FieldKind::Secret, "what the key is encrypted with"),
        FieldSchema::optional(
            "host_key",
            FieldKind::Text,
            "the host's own key, as in `ssh-ed25519 AAAA…`; `known_hosts` is then not looked at",
        ),
        FieldSchema::optional(
            "known_hosts",
            FieldKind::Path,
            "where host keys are known from; ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts unless said",
        ),
        FieldSchema::optional(
            "timeout",
            FieldKind::Duration,
            "how long it may take to log in, 15s unless said",
        ),
        FieldSchema::optional(
            "at_once",
            FieldKind::Int { min: 1, max: 100 },
            "programs run there at the same time, 4 unless said; consoles are not counted",
        ),
    ],
    unique: &[Unique { what: "bench host", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

/// What went wrong with a host, before or while something ran there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host {host}: {what}{}", next.as_deref().map(|n| format!(" ({n})")).unwrap_or_default())]
pub struct HostError {
    /// The host's name.
    pub host: String,
    /// What came back.
    pub what: String,
    /// Whether only a person can end it.
    pub permanent: bool,
    /// What a person can do about it.
    pub next: Option<String>,
}

/// A bench host.
#[derive(Debug)]
pub struct Host {
    name: String,
    target: (String, u16),
    user: String,
    key: Option<Place>,
    passphrase: Option<Place>,
    trust: Trust,
    /// How long a login may take.
    limit: Duration,
    /// Programs that may run there now. Each has a thread of this process
    /// while it runs, so this bounds those too.
    slots: Semaphore,
    /// The kind of host key that was known the last time. A host has several
    /// keys and shows the one it is asked for.
    kind: Mutex<Option<usize>>,
}

impl Host {
    fn of(name: &str, spec: &DriverSpec) -> Result<Self, HostError> {
        let wrong = |what: String| HostError {
            host: name.to_owned(),
            what,
            permanent: true,
            next: Some("mend the inventory".to_owned()),
        };
        let given = spec.text("address").unwrap_or_default();
        let at_once = usize::try_from(spec.int("at_once").unwrap_or(DEFAULT_AT_ONCE)).unwrap_or(1);
        Ok(Self {
            name: name.to_owned(),
            target: address::split(given).ok_or_else(|| wrong(format!("`{given}` is no address")))?,
            user: spec.text("user").unwrap_or_default().to_owned(),
            key: Place::of(spec, "key"),
            passphrase: Place::of(spec, "passphrase"),
            trust: Trust::of(spec).map_err(wrong)?,
            limit: Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS)),
            slots: Semaphore::new(at_once),
            kind: Mutex::default(),
        })
    }

    fn failed(&self, what: impl ToString) -> HostError {
        HostError { host: self.name.clone(), what: what.to_string(), permanent: false, next: None }
    }
}

impl HostError {
    fn permanent(self) -> Self {
        Self { permanent: true, ..self }
    }

    fn next(self, step: impl Into<String>) -> Self {
        Self { next: Some(step.into()), ..self }
    }
}

/// The hosts of an inventory.
#[derive(Debug, Default)]
pub struct Hosts(BTreeMap<String, (DriverSpec, Result<Arc<Host>, HostError>)>);

impl Hosts {
    /// Those of an inventory. One that is the same as in `old` stays the same,
    /// and with it what is under way there.
    pub fn of(specs: &BTreeMap<String, DriverSpec>, old: &Self) -> Self {
        let host = |(name, spec): (&String, &DriverSpec)| {
            let kept = old.0.get(name).filter(|(was, _)| was == spec).map(|(_, host)| host.clone());
            let host = kept.unwrap_or_else(|| Host::of(name, spec).map(Arc::new));
            (name.clone(), (spec.clone(), host))
        };
        Self(specs.iter().map(host).collect())
    }

    /// Whether these are, of those named, the hosts that the inventory has.
    pub fn fit(&self, specs: &BTreeMap<String, DriverSpec>, named: &[&str]) -> bool {
        named.iter().all(|name| self.0.get(*name).map(|(spec, _)| spec) == specs.get(*name))
    }
}

/// Where a program runs: on this host or on another.
#[derive(Debug, Clone)]
pub enum Bench {
    /// This host.
    Here,
    /// A bench host.
    There(Arc<Host>),
}

impl Bench {
    /// Where a driver's programs run.
    ///
    /// # Errors
    /// The host cannot be what the inventory says; permanent.
    pub fn of(driver: &'static str, site: &Site, spec: &DriverSpec) -> Result<Self, DriverError> {
        let Some(name) = &spec.host else { return Ok(Self::Here) };
        let failed = |what: String| {
            DriverError::new(driver, format!("use what {} has at {name}", site.name()), what).permanent()
        };
        match site.hosts.0.get(name) {
            Some((_, Ok(host))) => Ok(Self::There(host.clone())),
            Some((_, Err(e))) => Err(failed(e.to_string())),
            None => Err(failed("there is no such host".to_owned())),
        }
    }

    /// Runs a program to its end, within `limit`. Dropped before that, it is
    /// killed with everything it started.
    ///
    /// # Errors
    /// `RunError`
    pub async fn run(&self, argv: &[String], limit: Duration) -> Result<Ran, RunError> {
        match self {
            Self::Here => Program { argv, secret: None, limit }.run().await,
            Self::There(host) => host.run(argv, limit).await,
        }
    }
}

impl std::fmt::Display for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here => write!(f, "this host"),
            Self::There(host) => write!(f, "{}", host.name),
        }
    }
}
