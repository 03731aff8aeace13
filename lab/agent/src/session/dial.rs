//! Reaching the daemon, and frames on the connection.

use std::sync::Arc;
use std::time::Duration;

use pitstop_wire::agent::{Hello, Welcome};
use pitstop_wire::frame::{Decoder, encode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls;

const CONNECT: Duration = Duration::from_secs(10);
/// The daemon commits before it answers; its disk may be slow.
const ANSWER: Duration = Duration::from_secs(30);
/// How long sent bytes may stay unacknowledged by the other end's kernel, in milliseconds. The default of
/// a quarter of an hour would leave an agent talking to a daemon's host that lost power.
const SILENCE_MS: u32 = 20_000;

pub(super) struct Dialer {
    server: String,
    tls: TlsConnector,
}

/// A connection that stands.
pub(super) struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) decoder: Decoder,
}

impl Dialer {
    pub(super) fn new(server: String, pin: [u8; 32]) -> Result<Self, rustls::Error> {
        Ok(Self { server, tls: TlsConnector::from(Arc::new(tls::config(pin)?)) })
    }

    pub(super) async fn dial(&self) -> Result<Connection, String> {
        let server = &self.server;
        let name = ServerName::try_from(tls::SERVER_NAME).map_err(|e| e.to_string())?;
        let connect = async {
            let tcp = TcpStream::connect(server).await.map_err(|e| format!("{server}: {e}"))?;
            tcp.set_nodelay(true).map_err(|e| format!("{server}: {e}"))?;
            rustix::net::sockopt::set_tcp_user_timeout(&tcp, SILENCE_MS)
                .map_err(|e| format!("{server}: TCP_USER_TIMEOUT: {e}"))?;
            self.tls.connect(name, tcp).await.map_err(|e| format!("{server}: TLS: {e}"))
        };
        match timeout(CONNECT, connect).await {
            Ok(Ok(stream)) => Ok(Connection { stream, decoder: Decoder::default() }),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("{server}: no answer for {} s", CONNECT.as_secs())),
        }
    }
}

impl Connection {
    /// Says hello and waits for the answer.
    pub(super) async fn greet(&mut self, hello: &Hello) -> Result<Welcome, String> {
        let frame = encode(hello, &[]).map_err(|e| e.to_string())?;
        let talk = async {
            self.stream.write_all(&frame).await.map_err(|e| format!("sending hello: {e}"))?;
            self.stream.flush().await.map_err(|e| format!("sending hello: {e}"))?;
            loop {
                if let Some(frame) = self.decoder.next().map_err(|e| format!("the daemon's welcome: {e}"))? {
                    return Ok(frame.message);
                }
                let mut buffer = [0; 4096];
                match self.stream.read(&mut buffer).await {
                    Ok(0) => return Err("closed before the daemon's welcome".to_owned()),
                    Ok(n) => self.decoder.push(&buffer[..n]),
                    Err(e) => return Err(format!("waiting for the daemon's welcome: {e}")),
                }
            }
        };
        timeout(ANSWER, talk).await.unwrap_or_else(|_| Err(format!("no welcome for {} s", ANSWER.as_secs())))
    }
}
