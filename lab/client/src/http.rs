//! Connections and single requests.

use crate::Result;
use crate::retry::{Retry, worth_another_try};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pitstop_wire::api::{BASE, FRAMES, IDEMPOTENCY_KEY};
use pitstop_wire::{ApiError, Code};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest answer taken, in bytes: a lab of 10,000 machines fits many times.
const MAX_ANSWER: usize = 256 << 20;

/// How long one try may take before its outcome counts as not known.
const ONE_TRY: Duration = Duration::from_secs(30);

/// Idle connections kept.
const POOL: usize = 4;

type Sender = SendRequest<Full<Bytes>>;

/// A client of one daemon. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    patience: Duration,
    idle: Mutex<Vec<Sender>>,
    /// Whether the daemon ever answered: then a missing socket means a
    /// restart and not a daemon that was never there.
    met: AtomicBool,
}

/// One request, ready to be sent any number of times.
pub(crate) struct Call {
    pub method: Method,
    pub path: String,
    pub body: Option<Bytes>,
    pub key: Option<String>,
    pub upgrade: bool,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, key: None, upgrade: false }
    }

    pub fn post<B: Serialize>(path: impl Into<String>, body: &B) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(|e| {
            ApiError::new(Code::Internal, format!("the request cannot be written as JSON: {e}"))
        })?;
        let key = Some(new_key()?);
        Ok(Self { method: Method::POST, path: path.into(), body: Some(body.into()), key, upgrade: false })
    }

    pub fn delete(path: impl Into<String>) -> Result<Self> {
        let key = Some(new_key()?);
        Ok(Self { method: Method::DELETE, path: path.into(), body: None, key, upgrade: false })
    }

    pub fn key(mut self, key: Option<String>) -> Self {
        if key.is_some() {
            self.key = key;
        }
        self
    }

    pub fn upgrade(mut self) -> Self {
        self.upgrade = true;
        self
    }

    pub fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut builder = Request::builder()
            .method(self.method.clone())
            .uri(format!("{BASE}{}", self.path))
            .header(HOST, "pitstop");
        if self.body.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            builder = builder.header(IDEMPOTENCY_KEY, key);
        }
        if self.upgrade {
            builder = builder.header(CONNECTION, "upgrade").header(UPGRADE, FRAMES);
        }
        builder
            .body(Full::new(self.body.clone().unwrap_or_default()))
            .map_err(|e| ApiError::new(Code::Usage, format!("`{}` cannot be asked for: {e}", self.path)))
    }
}

/// A fresh idempotency key.
///
/// # Errors
/// Where the system has no randomness to give.
pub fn new_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| ApiError::new(Code::Internal, format!("the system gives no randomness: {e}")))?;
    Ok(hex::encode(bytes))
}

impl Client {
    /// A client of the daemon behind this Unix socket. Connects when first
    /// used.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let inner = Inner {
            socket: socket.into(),
            patience: Duration::from_secs(10),
            idle: Mutex::default(),
            met: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same daemon, with another limit to how long a call is repeated
    /// while its outcome is not known (10 s unless said).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        let inner = Inner {
            socket: self.inner.socket.clone(),
            patience,
            idle: Mutex::default(),
            met: AtomicBool::new(self.inner.met.load(Ordering::Relaxed)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// Whether the daemon ever answered this client.
    pub(crate) fn met(&self) -> bool {
        self.inner.met.load(Ordering::Relaxed)
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.patience
    }

    /// Sends until the outcome is known or patience is over, and reads the
    /// JSON answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: &Call) -> Result<T> {
        let bytes = self.bytes(call).await?;
        self.read(call, &bytes)
    }

    /// Reads a JSON answer.
    pub(crate) fn read<T: DeserializeOwned>(&self, call: &Call, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|e| {
            let message =
                format!("the daemon's answer to {} {} is not understood: {e}", call.method, call.path);
            ApiError::new(Code::Internal, message)
                .hint("daemon and command line may be of different versions")
        })
    }

    async fn bytes(&self, call: &Call) -> Result<Bytes> {
        let mut retry = Retry::new(self.inner.patience);
        loop {
            let error = match self.once(call).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            if !worth_another_try(&error) || !self.may_come_back(&error) || !retry.pause(&error).await {
                return Err(error.into_api(call));
            }
        }
    }

    /// A daemon that was never met and has no socket is not restarting.
    fn may_come_back(&self, error: &Failed) -> bool {
        match error {
            Failed::Connect(_) => self.met(),
            _ => true,
        }
    }

    async fn once(&self, call: &Call) -> std::result::Result<Bytes, Failed> {
        let request = call.request().map_err(Failed::Answer)?;
        let work = async {
            let (response, sender) = self.send(request).await?;
            let (status, bytes) = collect(response).await?;
            self.keep(sender);
            if status.is_success() { Ok(bytes) } else { Err(Failed::Answer(read_error(status, &bytes))) }
        };
        match tokio::time::timeout(ONE_TRY, work).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Lost(format!("no answer within {} s", ONE_TRY.as_secs()))),
        }
    }

    /// Sends one request; the body of the answer is still to be read.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<(Response<Incoming>, Sender), Failed> {
        let lost = |e: hyper::Error| Failed::Lost(e.to_string());
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await.map_err(lost)?;
        self.inner.met.store(true, Ordering::Relaxed);
        Ok((response, sender))
    }

    /// One request on a connection of its own, whose answer is a stream or
    /// an upgrade.
    pub(crate) async fn open(&self, call: &Call) -> std::result::Result<Response<Incoming>, Failed> {
        let request = call.request().map_err(Failed::Answer)?;
        let work = async {
            let mut sender = self.connect().await?;
            let response = sender.send_request(request).await.map_err(|e| Failed::Lost(e.to_string()))?;
            self.inner.met.store(true, Ordering::Relaxed);
            let wanted = if call.upgrade { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK };
            if response.status() == wanted {
                return Ok(response);
            }
            let (status, bytes) = collect(response).await?;
            Err(Failed::Answer(read_error(status, &bytes)))
        };
        match tokio::time::timeout(ONE_TRY, work).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Lost(format!("no answer within {} s", ONE_TRY.as_secs()))),
        }
    }

    async fn sender(&self) -> std::result::Result<Sender, Failed> {
        loop {
            let idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut sender) = idle else { return self.connect().await };
            // The daemon may have closed it while it lay here.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> std::result::Result<Sender, Failed> {
        self.connect_for().await
    }

    /// A new connection, for requests with this kind of body.
    pub(crate) async fn connect_for<B>(&self) -> std::result::Result<SendRequest<B>, Failed>
    where
        B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        let stream = UnixStream::connect(&self.inner.socket).await.map_err(|error| {
            let path = self.inner.socket.display();
            Failed::Connect(match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    ApiError::new(Code::NotAllowed, format!("you may not connect to {path}: {error}"))
                        .hint("ask an admin to add you to the socket's group")
                }
                _ => ApiError::new(Code::NotKnown, format!("no daemon answers at {path}: {error}"))
                    .hint("start one with `pitstop serve`, or name its socket with --socket"),
            })
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| Failed::Lost(e.to_string()))?;
        // Ends with the connection, or when the last sender is dropped; what
        // went wrong is told by the request that was under way.
        tokio::spawn(async move { connection.with_upgrades().await });
        Ok(sender)
    }
}

/// Why one try failed.
pub(crate) enum Failed {
    /// Nobody took the connection.
    Connect(ApiError),
    /// The connection broke: the outcome is not known.
    Lost(String),
    /// The daemon said no.
    Answer(ApiError),
}

impl Failed {
    pub fn into_api(self, call: &Call) -> ApiError {
        match self {
            Self::Connect(error) | Self::Answer(error) => error,
            Self::Lost(what) => {
                let message = format!("the connection broke during {} {}: {what}", call.method, call.path);
                ApiError::new(Code::NotKnown, message).hint("the same command may be given again")
            }
        }
    }
}

pub(crate) async fn collect(
    response: Response<Incoming>,
) -> std::result::Result<(StatusCode, Bytes), Failed> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok((status, body.map_err(|e| Failed::Lost(e.to_string()))?.to_bytes()))
}

pub(crate) fn read_error(status: StatusCode, bytes: &[u8]) -> ApiError {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let text: String =
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(200).collect();
        let code = if status == StatusCode::SERVICE_UNAVAILABLE { Code::NotKnown } else { Code::Internal };
        ApiError::new(code, format!("the daemon answered {status}: {text}"))
    })
}
