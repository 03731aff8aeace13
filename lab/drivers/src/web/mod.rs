//! Devices that speak HTTP: one request on one connection, with a deadline.
//!
//! Smart plugs have room for a handful of connections and keep dead ones for
//! minutes, so none is left open. A password is sent only to a device that
//! asked for one, by the scheme it asked for: whoever listens on the wire
//! learns nothing from a device that does digests.

pub mod tls;
pub mod wire;

pub use wire::Ask;

use crate::error::DriverError;
use crate::secret::{Place, unsaid};
use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pitstop_wire::agent::Secret;
use tokio::time::timeout;
use wire::{Answer, Line, Wire, WireError};

/// A device, and as whom it is asked.
#[derive(Debug, Clone)]
pub struct Web {
    /// The driver, for errors.
    pub driver: &'static str,
    /// Where it is.
    pub wire: Wire,
    /// Who asks.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<Place>,
    /// Whether user and password are part of the query, because the device
    /// knows no other way. They are in no error and no log.
    pub in_query: bool,
}

/// What came back: a status that is not an error's, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The body, as text.
    pub body: String,
    /// The same for people: without the password that was sent.
    pub shown: String,
}

impl Web {
    /// Asks. `attempted` is what for, as in "could not `switch srv1 on`".
    ///
    /// # Errors
    /// The device is not there, does not answer in time, or says no.
    pub async fn ask(&self, attempted: &str, ask: &Ask) -> Result<Reply, DriverError> {
        match timeout(self.wire.limit, self.with_password(attempted, ask)).await {
            Ok(done) => done,
            Err(_) => {
                let late = format!("no answer within {} s", self.wire.limit.as_secs_f32());
                Err(self.failed(attempted, late).next(self.look()))
            }
        }
    }

    fn failed(&self, attempted: &str, answer: impl ToString) -> DriverError {
        DriverError::new(self.driver, attempted, answer)
    }

    fn look(&self) -> String {
        format!("is {} up, and is that its address?", self.wire.address())
    }

    async fn with_password(&self, attempted: &str, ask: &Ask) -> Result<Reply, DriverError> {
        let lost = |e: WireError| e.explain(self.driver, attempted, &self.wire);
        if let (true, Some(user)) = (self.in_query, &self.user) {
            let password = self.password(attempted).await?;
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let path = format!("{}&user={}&password={}", ask.path, encoded(user), encoded(&password.0));
            let reply = self.send(&Ask { path, ..ask.clone() }, None).await.map_err(lost)?;
            let shown = unsaid(&reply.body, user, &password);
            return self.judge(attempted, reply, shown);
        }
        let first = self.send(ask, None).await.map_err(lost)?;
        let (Some(user), StatusCode::UNAUTHORIZED) = (&self.user, first.status) else {
            let shown = first.body.clone();
            return self.judge(attempted, first, shown);
        };
        let password = self.password(attempted).await?;
        let proof = authorization(&first.headers, ask, user, &password)
            .map_err(|e| self.failed(attempted, e).permanent())?;
        let reply = self.send(ask, Some(proof)).await.map_err(lost)?;
        let shown = unsaid(&reply.body, user, &password);
        self.judge(attempted, reply, shown)
    }

    async fn password(&self, attempted: &str) -> Result<Secret, DriverError> {
        match &self.password {
            Some(place) => place.read(self.driver, attempted).await,
            None => Ok(Secret(String::new())),
        }
    }

    fn judge(&self, attempted: &str, answer: Answer, shown: String) -> Result<Reply, DriverError> {
        let Answer { status, body, .. } = answer;
        if status.is_success() {
            return Ok(Reply { body, shown });
        }
        let said = crate::child::first_line(&shown);
        let error = self.failed(attempted, format!("the device said {status}: {said}"));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                error.permanent().next("`user` and `password` in the inventory must be what the device has")
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => error
                .permanent()
                .next("is it the kind of device that `profile` says, and is there such an outlet?"),
            _ => error,
        })
    }

    /// On a connection of its own.
    async fn send(&self, ask: &Ask, authorization: Option<HeaderValue>) -> Result<Answer, WireError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value);
        }
        self.wire.send(&mut Line::default(), ask, headers).await
    }
}

/// The header that answers a device's challenge (RFC 7616, RFC 7617).
fn authorization(
    headers: &HeaderMap,
    ask: &Ask,
    user: &str,
    password: &Secret,
) -> Result<HeaderValue, String> {
    let challenges: Vec<&str> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
    if let Some(challenge) = challenges.iter().find_map(|whole| find_scheme(whole, "digest ")) {
        let mut asked = WwwAuthenticateHeader::parse(challenge)
            .map_err(|e| format!("its challenge makes no sense: {e}"))?;
        let mut context = AuthContext::new(user, password.0.as_str(), ask.path.as_str());
        context.method = HttpMethod::from(ask.method.as_str().to_owned());
        let answer = asked.respond(&context).map_err(|e| e.to_string())?;
        return secret_header(&answer.to_header_string());
    }
    if challenges.iter().any(|whole| find_scheme(whole, "basic").is_some()) {
        return basic(user, password);
    }
    Err("it wants a password by no scheme that is known here (basic, digest)".to_owned())
}

/// The password itself, as good as plain (RFC 7617, section 2).
pub fn basic(user: &str, password: &Secret) -> Result<HeaderValue, String> {
    use base64::Engine as _;
    let words = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.0));
    secret_header(&format!("Basic {words}"))
}

/// A header that no log shows.
pub fn secret_header(value: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(value).map_err(|_| "it cannot be put into a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The challenge of this scheme: one header may hold several (RFC 9110,
/// section 11.6.1).
fn find_scheme<'c>(header: &'c str, scheme: &str) -> Option<&'c str> {
    let lower = header.to_ascii_lowercase();
    let begins = |at: usize| {
        let before = lower.get(..at).unwrap_or_default().trim_end();
        before.is_empty() || before.ends_with(',')
    };
    let at = lower.match_indices(scheme).map(|(at, _)| at).find(|at| begins(*at))?;
    header.get(at..)
}
