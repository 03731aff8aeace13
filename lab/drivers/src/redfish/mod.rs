//! A BMC's Redfish service (DSP0266), as far as machines are switched by it.
//!
//! Nothing but the root's path is known beforehand: everything else is where
//! the BMC's own links lead, and these lead nowhere but to the BMC.

mod resource;
mod session;

pub use resource::{Resource, path, references, task_messages, words};
pub use session::Session;

use crate::address;
use crate::child::shown;
use crate::error::DriverError;
use crate::secret::Place;
use crate::site::Site;
use crate::web::tls::Trust;
use crate::web::wire::{Answer, Ask, Line, Wire};
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{FieldKind, FieldSchema};
use pitstop_wire::agent::Secret;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// Where BMCs listen, with TLS and without.
const PORT: u16 = 443;
const PLAIN_PORT: u16 = 80;
/// How long one call may take, milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// The one path that the specification gives (DSP0266, “Redfish-defined URIs”).
const ROOT: &str = "/redfish/v1/";
/// Version of OData that is spoken (DSP0266, “Request headers”).
const ODATA: (HeaderName, HeaderValue) =
    (HeaderName::from_static("odata-version"), HeaderValue::from_static("4.0"));

/// The fields that name a BMC and who asks it, beside those of [`crate::web::tls`].
pub const ADDRESS: FieldSchema = FieldSchema::required(
    "address",
    FieldKind::Address { port: Some(PORT) },
    "the BMC: `srv1-bmc.lab`, or `srv1-bmc.lab:8443` where it listens elsewhere",
);
/// See [`ADDRESS`].
pub const USER: FieldSchema = FieldSchema::optional("user", FieldKind::Text, "user of the BMC");
/// See [`ADDRESS`].
pub const PASSWORD: FieldSchema = FieldSchema::optional("password", FieldKind::Secret, "the user's password");
/// See [`ADDRESS`].
pub const TIMEOUT: FieldSchema =
    FieldSchema::optional("timeout", FieldKind::Duration, "how long each call may take, 10s unless said");

/// A BMC, and as whom it is asked.
#[derive(Debug)]
pub struct Service {
    driver: &'static str,
    wire: Wire,
    user: Option<String>,
    password: Option<Place>,
}

impl Service {
    /// The BMC that `spec` names.
    ///
    /// # Errors
    /// The fields contradict each other; permanent.
    pub fn of(driver: &'static str, site: &Site, spec: &DriverSpec) -> Result<Self, DriverError> {
        let wrong = |what: String| {
            DriverError::in_inventory(driver, format!("reach the BMC of {}", site.name()), what)
        };
        let given = spec.text("address").unwrap_or_default();
        let (host, port) = address::split(given).ok_or_else(|| wrong(format!("`{given}` is no address")))?;
        let trust = Trust::of(spec).map_err(wrong)?;
        // The inventory puts 443 where nobody says a port, and nobody speaks
        // plain HTTP there.
        let port = if trust.is_none() && port == PORT { PLAIN_PORT } else { port };
        let limit = Duration::from_millis(spec.ms("timeout").unwrap_or(DEFAULT_TIMEOUT_MS));
        Ok(Self {
            driver,
            wire: Wire { target: (host, port), trust, limit },
            user: spec.text("user").map(str::to_owned),
            password: Place::of(spec, "password"),
        })
    }

    /// The BMC, for people and for its queue.
    pub fn address(&self) -> String {
        self.wire.address()
    }

    /// A failure of this BMC.
    pub fn failed(&self, attempted: &str, answer: impl ToString) -> DriverError {
        DriverError::new(self.driver, attempted, answer)
    }

    /// One call, with its deadline. A GET is followed to where the BMC says
    /// that the thing is now, once and on the BMC itself.
    async fn ask(
        &self,
        line: &mut Line,
        attempted: &str,
        ask: &Ask,
        headers: HeaderMap,
    ) -> Result<Answer, DriverError> {
        let headers = with_usual(headers);
        let answer = self.once(line, attempted, ask, headers.clone()).await?;
        match answer.headers.get(LOCATION) {
            Some(place) if ask.method == Method::GET && answer.status.is_redirection() => {
                let Some(path) = self.path_of(place) else {
                    let place = shown(&String::from_utf8_lossy(place.as_bytes()));
                    return Err(self
                        .failed(attempted, format!("the BMC sends elsewhere, to {place}"))
                        .permanent());
                };
                self.once(line, attempted, &Ask { path, ..ask.clone() }, headers).await
            }
            _ => Ok(answer),
        }
    }

    /// One call that takes as long as it takes. The caller has the deadline.
    async fn ask_patiently(
        &self,
        line: &mut Line,
        attempted: &str,
        ask: &Ask,
        headers: HeaderMap,
    ) -> Result<Answer, DriverError> {
        let answer = self.wire.send(line, ask, with_usual(headers)).await;
        answer.map_err(|e| e.explain(self.driver, attempted, &self.wire))
    }

    async fn once(
        &self,
        line: &mut Line,
        attempted: &str,
        ask: &Ask,
        headers: HeaderMap,
    ) -> Result<Answer, DriverError> {
        match timeout(self.wire.limit, self.wire.send(line, ask, headers)).await {
            Ok(answer) => answer.map_err(|e| e.explain(self.driver, attempted, &self.wire)),
            Err(_) => {
                let late = format!("no answer within {} s", self.wire.limit.as_secs_f32());
                Err(self
                    .failed(attempted, late)
                    .next(format!("is {} up, and is that its address?", self.address())))
            }
        }
    }

    /// The path of a `Location` on this BMC. Some say it with scheme and host
    /// (RFC 9110, section 10.2.2).
    fn path_of(&self, place: &HeaderValue) -> Option<String> {
        let place = place.to_str().ok()?;
        let scheme = if self.wire.trust.is_some() { "https" } else { "http" };
        let usual = if self.wire.trust.is_some() { PORT } else { PLAIN_PORT };
        let Some(rest) = place.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else {
            return resource::path(place);
        };
        let (authority, path) = rest.split_at(rest.find('/')?);
        let authority: hyper::http::uri::Authority = authority.parse().ok()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let here = host.eq_ignore_ascii_case(&self.wire.target.0)
            && authority.port_u16().unwrap_or(usual) == self.wire.target.1;
        if here { resource::path(path) } else { None }
    }

    async fn password(&self, attempted: &str) -> Result<Secret, DriverError> {
        match &self.password {
            Some(place) => place.read(self.driver, attempted).await,
            None => Ok(Secret(String::new())),
        }
    }

    /// An answer that is not what was hoped for.
    pub fn refused(&self, attempted: &str, refusal: &Refusal) -> DriverError {
        let Refusal { status, said } = refusal;
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let error = self.failed(attempted, format!("the BMC said {status}{said}"));
        match *status {
            StatusCode::UNAUTHORIZED => {
                error.permanent().next("`user` and `password` in the inventory must be what the BMC has")
            }
            StatusCode::FORBIDDEN => error
                .permanent()
                .next("the user must be one that may switch the machine: Operator or Administrator"),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => error
                .permanent()
                .next(format!("is {} a BMC with Redfish, and `system` one of its systems?", self.address())),
            _ => error,
        }
    }
}

/// The headers that every call has.
fn with_usual(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let (name, value) = ODATA;
    headers.insert(name, value);
    headers
}

/// A status that is an error's, and what the BMC said about it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// One line without control characters and without secrets; perhaps empty.
    pub said: String,
}

impl Refusal {
    /// Takes what is said from the body, without any of `secrets`.
    fn of(answer: &Answer, secrets: &[&str]) -> Self {
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let said: String = resource::messages(&json).chars().filter(|c| !c.is_control()).collect();
        Self { status: answer.status, said: shown(&resource::without(&said, secrets)) }
    }
}
