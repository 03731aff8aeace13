//! Devices that speak HTTP: one request on one connection, with a deadline.
//!
//! Smart plugs have room for a handful of connections and keep dead ones for
//! minutes, so none is left open. A password is sent only to a device that
//! asked for one, by the scheme it asked for: whoever listens on the wire
//! learns nothing from a device that does digests.

use crate::error::DriverError;
use crate::secret::Place;
use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, USER_AGENT, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pitstop_wire::agent::Secret;
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of an answer that are looked at.
const MAX_BODY: usize = 256 << 10;

/// A device, and as whom it is asked.
#[derive(Debug, Clone)]
pub struct Web {
    /// The driver, for errors.
    pub driver: &'static str,
    /// As the inventory writes it.
    pub address: String,
    /// Where that is.
    pub target: (String, u16),
    /// Who asks.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<Place>,
    /// Whether user and password are part of the query, because the device
    /// knows no other way. They are in no error and no log.
    pub in_query: bool,
    /// How long one call may take.
    pub limit: Duration,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// A JSON body.
    pub body: Option<String>,
}

impl Ask {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None }
    }
}

/// What came back: a status that is not an error's, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The body, as text.
    pub body: String,
}

struct Raw {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Web {
    /// Asks. `attempted` is what for, as in "could not `switch srv1 on`".
    ///
    /// # Errors
    /// The device is not there, does not answer in time, or says no.
    pub async fn ask(&self, attempted: &str, ask: &Ask) -> Result<Reply, DriverError> {
        match timeout(self.limit, self.with_password(attempted, ask)).await {
            Ok(done) => done,
            Err(_) => {
                let late = format!("no answer within {} s", self.limit.as_secs_f32());
                Err(self.failed(attempted, late).next(self.look()))
            }
        }
    }

    fn failed(&self, attempted: &str, answer: impl ToString) -> DriverError {
        DriverError::new(self.driver, attempted, answer)
    }

    fn look(&self) -> String {
        format!("is {} up, and is that its address?", self.address)
    }

    async fn with_password(&self, attempted: &str, ask: &Ask) -> Result<Reply, DriverError> {
        let lost = |e: String| self.failed(attempted, e).next(self.look());
        if let (true, Some(user)) = (self.in_query, &self.user) {
            let Secret(password) = self.password(attempted).await?;
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let path = format!("{}&user={}&password={}", ask.path, encoded(user), encoded(&password));
            let reply = self.send(&Ask { path, ..ask.clone() }, None).await.map_err(lost)?;
            return self.judge(attempted, reply);
        }
        let first = self.send(ask, None).await.map_err(lost)?;
        let reply = match (&self.user, first.status) {
            (Some(user), StatusCode::UNAUTHORIZED) => {
                let password = self.password(attempted).await?;
                let proof = authorization(&first.headers, ask, user, &password)
                    .map_err(|e| self.failed(attempted, e).permanent())?;
                self.send(ask, Some(proof)).await.map_err(lost)?
            }
            _ => first,
        };
        self.judge(attempted, reply)
    }

    async fn password(&self, attempted: &str) -> Result<Secret, DriverError> {
        match &self.password {
            Some(place) => place.read(self.driver, attempted).await,
            None => Ok(Secret(String::new())),
        }
    }

    fn judge(&self, attempted: &str, raw: Raw) -> Result<Reply, DriverError> {
        let Raw { status, body, .. } = raw;
        if status.is_success() {
            return Ok(Reply { body });
        }
        let said = crate::child::first_line(&body);
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

    async fn send(&self, ask: &Ask, authorization: Option<String>) -> Result<Raw, String> {
        let (host, port) = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| e.to_string())?;
        // What was asked for must not be done later, when we have given up:
        // nothing stays with the kernel, and nothing is sent for longer.
        let socket = SockRef::from(&stream);
        let set_up = socket
            .set_linger(Some(Duration::ZERO))
            .and_then(|()| socket.set_tcp_user_timeout(Some(self.limit)));
        set_up.map_err(|e| e.to_string())?;
        let io = |e: hyper::Error| e.to_string();
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io)?;
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.path)
            .header(HOST, &self.address)
            .header(USER_AGENT, "pitstop")
            .header(CONNECTION, "close");
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let body = Full::new(Bytes::from(ask.body.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|e| e.to_string())?;
        let answer = async {
            let response = send.send_request(request).await.map_err(io)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| e.to_string())?;
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Ok(Raw { status: parts.status, headers: parts.headers, body })
        };
        // The connection works only while it is polled, and ends with this.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            end = &mut connection => match end {
                Ok(()) => answer.await,
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

/// The header that answers a device's challenge (RFC 7616, RFC 7617).
fn authorization(headers: &HeaderMap, ask: &Ask, user: &str, password: &Secret) -> Result<String, String> {
    let challenges: Vec<&str> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
    if let Some(challenge) = challenges.iter().find_map(|whole| find_scheme(whole, "digest ")) {
        let mut asked = WwwAuthenticateHeader::parse(challenge)
            .map_err(|e| format!("its challenge makes no sense: {e}"))?;
        let mut context = AuthContext::new(user, password.0.as_str(), ask.path.as_str());
        context.method = HttpMethod::from(ask.method.as_str().to_owned());
        return asked.respond(&context).map(|answer| answer.to_header_string()).map_err(|e| e.to_string());
    }
    if challenges.iter().any(|whole| find_scheme(whole, "basic").is_some()) {
        use base64::Engine as _;
        let words = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.0));
        return Ok(format!("Basic {words}"));
    }
    Err("it wants a password by no scheme that is known here (basic, digest)".to_owned())
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
