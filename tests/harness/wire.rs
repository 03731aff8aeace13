//! The machines' side of the wire, for agents that misbehave: raw frames
//! over TLS, with the lab's own CA.

use super::Lab;
use pitstop_agent::SERVER_NAME;
use pitstop_wire::agent::{AgentParams, FromAgent, Hello, ToAgent, Welcome};
use pitstop_wire::frame::{Decoder, encode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Fetches a machine's boot script as its firmware would.
pub fn boot_script(lab: &Lab, machine: &str) -> (u16, String) {
    let port = std::fs::read_to_string(lab.data().join("boot.port")).unwrap().trim().to_owned();
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let request = format!("GET /boot/{machine}/script HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The parameters in a script.
pub fn parameters(script: &str) -> AgentParams {
    let kernel = script.lines().find(|l| l.starts_with("kernel ")).expect("the script boots the agent");
    pitstop_agent::params::from_cmdline(kernel).unwrap()
}

/// A connection of an agent that does what the test says.
pub struct Link {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Link {
    /// Connects and says hello.
    pub fn hello(
        runtime: &tokio::runtime::Runtime,
        lab: &Lab,
        server: &str,
        hello: &Hello,
    ) -> (Self, Welcome) {
        runtime.block_on(async {
            let mut link = Self::connect(lab, server).await.unwrap();
            link.write(hello).await;
            let welcome = link.read().await.expect("the daemon answers a hello");
            (link, welcome)
        })
    }

    /// Connects, says something that is no hello, and waits until the daemon
    /// hangs up.
    pub async fn stranger(lab: &Lab, port: u16, message: &[u8]) -> Result<(), String> {
        let server = format!("127.0.0.1:{port}");
        let mut link = Self::connect(lab, &server).await.map_err(|e| format!("{server}: {e}"))?;
        // It may hang up before it has heard all of it.
        let _ = link.stream.write_all(message).await;
        let _ = link.stream.flush().await;
        let gone = async { while link.stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {} };
        let waited = tokio::time::timeout(super::PATIENCE, gone).await;
        waited.map_err(|_| "a stranger who makes no sense is not hung up on".to_owned())
    }

    async fn connect(lab: &Lab, server: &str) -> std::io::Result<Self> {
        let ca = CertificateDer::from_pem_file(lab.data().join("ca/ca.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(server).await?;
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(Self { stream, decoder: Decoder::default() })
    }

    async fn write(&mut self, message: &impl Serialize) {
        self.stream.write_all(&encode(message, &[]).unwrap()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn read<M: DeserializeOwned>(&mut self) -> Option<M> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame.message);
            }
            let mut buffer = vec![0; 64 << 10];
            let wait = tokio::time::timeout(super::PATIENCE, self.stream.read(&mut buffer));
            match wait.await.expect("the daemon says something") {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.push(&buffer[..n]),
            }
        }
    }

    pub fn say(&mut self, runtime: &tokio::runtime::Runtime, message: &FromAgent) {
        runtime.block_on(self.write(message));
    }

    /// The next message; `None` once the daemon hung up.
    pub fn next(&mut self, runtime: &tokio::runtime::Runtime) -> Option<ToAgent> {
        runtime.block_on(self.read())
    }
}

/// A runtime on which links live.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
