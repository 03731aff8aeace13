//! A session (DSP0266, “Redfish session login authentication”): begun for one command or one reading,
//! and ended with it.
//!
//! A BMC bears a handful of sessions and keeps forgotten ones for half an
//! hour. So whatever happens to the work, the session is ended: also when
//! nobody waits for it any more.

use super::resource::{Resource, reference};
use super::{ROOT, Refusal, Service};
use crate::error::DriverError;
use crate::web::wire::{Answer, Ask, Line};
use crate::web::{basic, secret_header};
use hyper::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, LOCATION};
use hyper::{Method, StatusCode};
use pitstop_wire::agent::Secret;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// How long the end of a session is waited for before what was done is told.
const LEAVING: Duration = Duration::from_secs(2);

/// What proves who asks.
type Proof = (HeaderName, HeaderValue);

/// A BMC that knows who asks.
pub struct Session {
    service: Arc<Service>,
    line: Line,
    attempted: String,
    /// None, where the inventory names no user.
    proof: Option<Proof>,
    /// The session to be ended; none where there is no such thing.
    own: Option<Own>,
    /// The service's root.
    pub root: Resource,
}

/// A session that the BMC keeps for us.
struct Own {
    service: Arc<Service>,
    attempted: String,
    token: HeaderValue,
    path: String,
}

impl Service {
    /// Logs in, for what `attempted` says as in "could not `switch srv1 on`".
    ///
    /// # Errors
    /// The BMC is not there, is not the one it should be, or does not take
    /// the user.
    pub async fn session(self: &Arc<Self>, attempted: &str) -> Result<Session, DriverError> {
        // In a task of its own: if nobody waits any more, the session that
        // comes about is dropped, and so ended.
        let begun = tokio::spawn(Session::begin(self.clone(), attempted.to_owned()));
        begun.await.map_err(|e| self.failed(attempted, e))?
    }
}

impl Session {
    async fn begin(service: Arc<Service>, attempted: String) -> Result<Self, DriverError> {
        let mut line = Line::default();
        let ask = Ask::new(Method::GET, ROOT);
        let mut answer = service.ask(&mut line, &attempted, &ask, HeaderMap::new()).await?;
        let secret = match &service.user {
            Some(_) => service.password(&attempted).await?,
            None => Secret(String::new()),
        };
        let unfit = |e: String| service.failed(&attempted, format!("the password: {e}")).permanent();
        let basic = match &service.user {
            Some(user) => Some((AUTHORIZATION, basic(user, &secret).map_err(unfit)?)),
            None => None,
        };
        if let (StatusCode::UNAUTHORIZED, Some((name, value))) = (answer.status, &basic) {
            // The root is everybody's (DSP0266, “Authentication requirements”),
            // but not on every BMC.
            let headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
            answer = service.ask(&mut line, &attempted, &ask, headers).await?;
        }
        let root = service.resource(&attempted, ROOT, &answer)?;
        let mut session = Self { service, line, attempted, proof: basic, own: None, root };
        if session.proof.is_some()
            && let Some(sessions) = session.root.link(&["Links", "Sessions"])
        {
            session.log_in(sessions, &secret).await?;
        }
        Ok(session)
    }

    /// Without sessions, user and password go along with each call.
    async fn log_in(&mut self, sessions: String, secret: &Secret) -> Result<(), DriverError> {
        let service = self.service.clone();
        let body = json!({"UserName": service.user, "Password": secret.0}).to_string();
        let ask = Ask { body: Some(body), ..Ask::new(Method::POST, sessions) };
        let answer = service.ask(&mut self.line, &self.attempted, &ask, HeaderMap::new()).await?;
        if answer.status.is_success() {
            return self.logged_in(&answer);
        }
        let refusal = Refusal::of(&answer, &[&secret.0]);
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(()),
            _ if is_full(&answer) => {
                let error = service.refused(&self.attempted, &refusal);
                Err(DriverError {
                    answer: format!("the BMC has no session left: {}", error.answer),
                    permanent: false,
                    ..error
                }
                .next("who else is logged in? a BMC has few sessions, and drops idle ones after half an hour or so"))
            }
            // Not every BMC tells a password that is wrong from one that may not.
            StatusCode::FORBIDDEN => {
                Err(service
                    .refused(&self.attempted, &Refusal { status: StatusCode::UNAUTHORIZED, ..refusal }))
            }
            _ => Err(service.refused(&self.attempted, &refusal)),
        }
    }

    fn logged_in(&mut self, answer: &Answer) -> Result<(), DriverError> {
        let Some(token) = answer.headers.get(TOKEN).and_then(|token| token.to_str().ok()) else {
            return Err(self.failed("the BMC gave a session without a token"));
        };
        let token = secret_header(token).map_err(|e| self.failed(e))?;
        self.proof = Some((TOKEN, token.clone()));
        let made: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let place = answer.headers.get(LOCATION).and_then(|place| self.service.path_of(place));
        match place.or_else(|| reference(&made)) {
            Some(path) => {
                let (service, attempted) = (self.service.clone(), self.attempted.clone());
                self.own = Some(Own { service, attempted, token, path });
            }
            None => {
                tracing::warn!(bmc = %self.service.address(), "the BMC does not tell where its session is, so it cannot be ended");
            }
        }
        Ok(())
    }

    /// A failure of what is attempted.
    pub fn failed(&self, answer: impl ToString) -> DriverError {
        self.service.failed(&self.attempted, answer)
    }

    /// What a refusal is as a failure.
    pub fn refused(&self, refusal: &Refusal) -> DriverError {
        self.service.refused(&self.attempted, refusal)
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// It is not there, or is no resource.
    pub async fn get(&mut self, path: &str) -> Result<Resource, DriverError> {
        let answer = self.ask(&Ask::new(Method::GET, path), None).await?;
        self.service.resource(&self.attempted, path, &answer)
    }

    /// Has a resource changed, or an action done. `version`: only if the
    /// resource is still this one. `Ok(Err(_))`: the BMC will not.
    ///
    /// # Errors
    /// There was no answer: it may have been done all the same.
    pub async fn tell(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        version: Option<HeaderValue>,
    ) -> Result<Result<(), Refusal>, DriverError> {
        let ask = Ask { body: Some(body.to_string()), ..Ask::new(method, path) };
        let answer = self.ask(&ask, version).await?;
        // 202 with a task's address is as good as the others: accepted.
        Ok(if answer.status.is_success() { Ok(()) } else { Err(Refusal::of(&answer, &[])) })
    }

    /// The same for what takes as long as it takes; the caller has the
    /// deadline. The task that does it, where the BMC makes one of it (DSP0266,
    /// “Asynchronous operations”). No refusal repeats one of `secrets`.
    ///
    /// # Errors
    /// There was no answer: it may have been done all the same.
    pub async fn tell_patiently(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        secrets: &[&str],
    ) -> Result<Result<Option<String>, Refusal>, DriverError> {
        let ask = Ask { body: Some(body.to_string()), ..Ask::new(method, path) };
        let headers: HeaderMap = self.proof.iter().cloned().collect();
        let answer = self.service.ask_patiently(&mut self.line, &self.attempted, &ask, headers).await?;
        if !answer.status.is_success() {
            return Ok(Err(Refusal::of(&answer, secrets)));
        }
        let made: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        Ok(Ok((answer.status == StatusCode::ACCEPTED).then(|| reference(&made)).flatten()))
    }

    /// Reads what may be gone by now; `None`: it is.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn look(&mut self, path: &str) -> Result<Option<Value>, DriverError> {
        let answer = self.ask(&Ask::new(Method::GET, path), None).await?;
        Ok(answer.status.is_success().then(|| serde_json::from_str(&answer.body).unwrap_or_default()))
    }

    async fn ask(&mut self, ask: &Ask, version: Option<HeaderValue>) -> Result<Answer, DriverError> {
        let mut headers: HeaderMap = self.proof.iter().cloned().collect();
        if let Some(version) = version {
            headers.insert(IF_MATCH, version);
        }
        self.service.ask(&mut self.line, &self.attempted, ask, headers).await
    }

    /// Logs out. A BMC that is slow about it is not waited for: it is told
    /// once more by `drop`, on another connection.
    pub async fn end(mut self) {
        if let Some(own) = &self.own
            && matches!(timeout(LEAVING, own.log_out(&mut self.line)).await, Ok(Ok(())))
        {
            self.own = None;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(own), Ok(runtime)) = (self.own.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            if let Err(e) = own.log_out(&mut Line::default()).await {
                tracing::warn!("a session stays with the BMC until it drops it: {e}");
            }
        });
    }
}

impl Own {
    async fn log_out(&self, line: &mut Line) -> Result<(), DriverError> {
        let headers = HeaderMap::from_iter([(TOKEN, self.token.clone())]);
        let attempted = format!("log out after the attempt to {}", self.attempted);
        let answer = self
            .service
            .ask(line, &attempted, &Ask::new(Method::DELETE, self.path.as_str()), headers)
            .await?;
        match answer.status {
            // It has ended by itself.
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(self.service.refused(&attempted, &Refusal::of(&answer, &[]))),
        }
    }
}

impl Service {
    fn resource(&self, attempted: &str, path: &str, answer: &Answer) -> Result<Resource, DriverError> {
        if !answer.status.is_success() {
            return Err(self.refused(attempted, &Refusal::of(answer, &[])));
        }
        let json: Value = serde_json::from_str(&answer.body).map_err(|_| {
            let said = crate::child::first_line(&answer.body);
            self.failed(attempted, format!("the BMC answered no JSON: {said}"))
                .next(format!("is {} a BMC with Redfish?", self.address()))
        })?;
        let told = json.get("@odata.etag").and_then(Value::as_str);
        let etag = answer.headers.get(ETAG).cloned().or_else(|| HeaderValue::from_str(told?).ok());
        Ok(Resource { path: path.to_owned(), etag, json })
    }
}

/// Whether a login was refused because others are logged in.
fn is_full(answer: &Answer) -> bool {
    const FULL: [&str; 5] = ["limit", "maximum", "exceed", "full", "too many"];
    let said = answer.body.to_lowercase();
    match answer.status {
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::INSUFFICIENT_STORAGE
        | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::UNAUTHORIZED => false,
        _ => said.contains("session") && FULL.iter().any(|word| said.contains(word)),
    }
}
