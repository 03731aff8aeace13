//! The way to a device: TCP, TLS where the inventory does not say otherwise,
//! and HTTP/1.1 over it (RFC 9112).
//!
//! No redirect is followed here and nothing is sent twice: a command that was
//! on its way when the connection broke may have been carried out.

use super::tls::{Refused, Trust};
use crate::address;
use crate::error::DriverError;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes of an answer that are looked at.
const MAX_BODY: usize = 256 << 10;

/// Where a device is, and how it is known to be that one.
#[derive(Debug, Clone)]
pub struct Wire {
    /// Host and port.
    pub target: (String, u16),
    /// Which certificates are taken for the device's; `None`: it speaks plain HTTP.
    pub trust: Option<Trust>,
    /// How long one call may take. The caller sees to it; here it is how long
    /// the kernel goes on with what the device does not acknowledge.
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

/// What came back, whatever it says.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as text.
    pub body: String,
}

/// Why nothing came back.
#[derive(Debug)]
pub enum WireError {
    /// The device is not there, went away, or speaks no HTTP.
    Lost(String),
    /// It shows a certificate that is not taken for the device's.
    Untrusted(Refused),
    /// There is nothing to know the device by: a file is missing, say, which
    /// may be because it is just being written anew.
    Unknown(String),
    /// What the inventory says makes no request.
    Unusable(String),
}

/// A connection that may be used again; none to begin with.
#[derive(Default)]
pub struct Line(Option<Open>);

impl Wire {
    /// The device as an address, for people and for the `Host` of a request.
    pub fn address(&self) -> String {
        address::join(&self.target.0, self.target.1)
    }

    /// Asks, over the open connection where there is one.
    ///
    /// # Errors
    /// [`WireError`]. The device may have done what it was asked to, unless
    /// the error is not [`WireError::Lost`].
    pub async fn send(&self, line: &mut Line, ask: &Ask, headers: HeaderMap) -> Result<Answer, WireError> {
        let mut request = self.request(ask, headers)?;
        // Taken out, so that a call that is given up half-way leaves no
        // connection with an answer on its way.
        if let Some(open) = line.0.take() {
            match open.exchange(request).await {
                Ok((answer, open)) => {
                    line.0 = open;
                    return Ok(answer);
                }
                // The device had ended the connection meanwhile.
                Err(Broken { unsent: Some(unsent), .. }) => request = *unsent,
                Err(broken) => return Err(WireError::Lost(broken.why)),
            }
        }
        let open = self.open().await?;
        let (answer, open) = open.exchange(request).await.map_err(|broken| WireError::Lost(broken.why))?;
        line.0 = open;
        Ok(answer)
    }

    fn request(&self, ask: &Ask, headers: HeaderMap) -> Result<Request<Full<Bytes>>, WireError> {
        let unusable = |e: hyper::http::Error| WireError::Unusable(e.to_string());
        let body = Full::new(Bytes::from(ask.body.clone().unwrap_or_default()));
        let mut request =
            Request::builder().method(&ask.method).uri(&ask.path).body(body).map_err(unusable)?;
        let host = HeaderValue::try_from(self.address()).map_err(|e| unusable(e.into()))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("pitstop"));
        if ask.body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }

    async fn open(&self) -> Result<Open, WireError> {
        let lost = |e: std::io::Error| WireError::Lost(e.to_string());
        // Before the device is bothered: a file that is missing is our affair.
        let client = match &self.trust {
            Some(trust) => Some(trust.client(&self.target.0).await.map_err(WireError::Unknown)?),
            None => None,
        };
        let (host, port) = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(lost)?;
        // What was asked for must not be done later, when we have given up:
        // nothing stays with the kernel, and nothing is sent for longer.
        let socket = SockRef::from(&stream);
        let set_up = socket
            .set_linger(Some(Duration::ZERO))
            .and_then(|()| socket.set_tcp_user_timeout(Some(self.limit)));
        set_up.map_err(lost)?;
        match client {
            None => Open::over(stream).await,
            Some(client) => Open::over(client.connect(stream).await?).await,
        }
    }
}

impl WireError {
    /// The same as a driver says it; `attempted` is what it was for.
    pub fn explain(&self, driver: &'static str, attempted: &str, wire: &Wire) -> DriverError {
        let address = wire.address();
        match self {
            Self::Lost(why) => DriverError::new(driver, attempted, why)
                .next(format!("is {address} up, and is that its address?")),
            Self::Untrusted(Refused { why, fingerprint }) => DriverError::new(
                driver,
                attempted,
                format!("the certificate of {address} is not trusted: {why}"),
            )
            .permanent()
            .next(format!("if it is that device's own, as seen from a place that is safe: `fingerprint = \"{fingerprint}\"`")),
            Self::Unknown(why) => DriverError::new(driver, attempted, why)
                .next("`ca` or `fingerprint` says by what the device is known"),
            Self::Unusable(why) => {
                DriverError::in_inventory(driver, attempted, why)
            }
        }
    }
}

/// A connection, which works only while it is polled.
struct Open {
    send: SendRequest<Full<Bytes>>,
    drive: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
}

/// No answer; and the request, where not a byte of it was sent.
struct Broken {
    why: String,
    unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl Broken {
    fn sent(why: impl Error) -> Self {
        Self { why: whole(&why), unsent: None }
    }
}

impl Open {
    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, WireError> {
        let made = handshake(TokioIo::new(stream)).await;
        let (send, connection) = made.map_err(|e| WireError::Lost(whole(&e)))?;
        Ok(Self { send, drive: Box::pin(connection) })
    }

    /// One question, and the connection again if it is good for another.
    async fn exchange(self, request: Request<Full<Bytes>>) -> Result<(Answer, Option<Self>), Broken> {
        let Self { mut send, mut drive } = self;
        let result = {
            let answer = answer(&mut send, request);
            tokio::pin!(answer);
            let ended = tokio::select! {
                answer = &mut answer => Err(answer),
                end = &mut drive => Ok(end),
            };
            match ended {
                Err(answer) => answer.map(|answer| (answer, true)),
                Ok(end) => {
                    // Its channels end with it, and so does the answer's wait.
                    drive = Box::pin(std::future::ready(Ok(())));
                    let answer = answer.await.map(|answer| (answer, false));
                    match end {
                        Ok(()) => answer,
                        Err(e) => answer.map_err(|broken| Broken { why: whole(&e), ..broken }),
                    }
                }
            }
        };
        let (answer, alive) = result?;
        Ok((answer, alive.then_some(Self { send, drive })))
    }
}

async fn answer(
    send: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Broken> {
    if let Err(e) = send.ready().await {
        return Err(Broken { why: whole(&e), unsent: Some(Box::new(request)) });
    }
    let response = send.try_send_request(request).await.map_err(|mut e| {
        let unsent = e.take_message().map(Box::new);
        Broken { why: whole(e.error()), unsent }
    })?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| Broken::sent(&*e))?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// An error with what is behind it.
fn whole(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    /// Reads one request without a body; its first line.
    async fn request(stream: &mut BufReader<TcpStream>) -> String {
        let (mut first, mut line) = (String::new(), String::new());
        stream.read_line(&mut first).await.unwrap();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        first.trim().to_owned()
    }

    /// A device that promises to keep connections and does not: it ends each
    /// behind its first answer, or without one where `mute` has it so for the
    /// second request of a connection. Tells what it heard once it has ended.
    async fn device(mute: bool) -> (Wire, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = ("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let (told, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let mut what = request(&mut stream).await;
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                if mute {
                    told.send(what).unwrap();
                    what = request(&mut stream).await;
                }
                drop(stream);
                told.send(what).unwrap();
            }
        });
        (Wire { target, trust: None, limit: Duration::from_secs(20) }, heard)
    }

    #[tokio::test]
    async fn what_was_not_sent_at_all_goes_over_another_connection() {
        let (wire, mut heard) = device(false).await;
        let mut line = Line::default();
        for path in ["/a", "/b", "/c"] {
            let answer = wire.send(&mut line, &Ask::new(Method::POST, path), HeaderMap::new()).await.unwrap();
            assert_eq!(answer.body, "ok");
            assert_eq!(heard.recv().await.unwrap(), format!("POST {path} HTTP/1.1"));
        }
    }

    #[tokio::test]
    async fn what_may_have_been_heard_is_not_said_again() {
        let (wire, mut heard) = device(true).await;
        let mut line = Line::default();
        wire.send(&mut line, &Ask::new(Method::POST, "/a"), HeaderMap::new()).await.unwrap();
        let lost = wire.send(&mut line, &Ask::new(Method::POST, "/b"), HeaderMap::new()).await.unwrap_err();
        assert!(matches!(lost, WireError::Lost(_)), "{lost:?}");
        wire.send(&mut line, &Ask::new(Method::POST, "/c"), HeaderMap::new()).await.unwrap();
        for path in ["/a", "/b", "/c"] {
            assert_eq!(heard.recv().await.unwrap(), format!("POST {path} HTTP/1.1"));
        }
    }
}
