//! A daemon that does what the test says, and an agent to go with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pitstop_agent::{Agent, Options, Platform, PlatformError, Say, sandbox::Place};
use pitstop_wire::agent::{
    AgentKind, AgentParams, FromAgent, Hardware, Hello, Secret, SeenDisk, ToAgent, Welcome, Work,
};
use pitstop_wire::frame::{Decoder, encode};
use pitstop_wire::run::{FromRun, ToRun};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// No condition that a test waits for takes this long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Daemon {
    listener: TcpListener,
    tls: TlsAcceptor,
    pub ca: String,
    pub address: String,
}

/// Years in which the certificate is valid.
pub type Years = (i32, i32);
pub const NOW: Years = (2000, 3000);

impl Daemon {
    pub async fn start() -> Self {
        Self::with_certificate(NOW, "pitstop").await
    }

    pub async fn with_certificate(years: Years, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let leaf = params.signed_by(&key, &ca).unwrap();
        let ca_der = AsRef::<rcgen::Certificate>::as_ref(&ca).der().clone();
        let fingerprint = hex::encode(Sha256::digest(&ca_der));
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), ca_der], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)), ca: fingerprint, address }
    }

    pub fn params(&self) -> AgentParams {
        AgentParams {
            server: self.address.clone(),
            ca: self.ca.clone(),
            machine: "m1".parse().unwrap(),
            nonce: "nonce-1".into(),
            token: Secret("token-1".into()),
        }
    }

    /// The next connection, and what it says first.
    pub async fn accept(&self) -> (Peer, Hello) {
        let talk = async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            let mut peer = Peer { stream: self.tls.accept(tcp).await.unwrap(), decoder: Decoder::default() };
            let hello = peer.read::<Hello>().await.expect("a hello").0;
            (peer, hello)
        };
        timeout(PATIENCE, talk).await.expect("the agent connects")
    }

    /// The next connection, up to TLS; the error of its handshake.
    pub async fn handshake_error(&self) -> String {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        self.tls.accept(tcp).await.expect_err("the agent breaks the handshake off").to_string()
    }

    /// The next connection, accepted.
    pub async fn welcome(&self) -> (Peer, Hello) {
        let (mut peer, hello) = self.accept().await;
        peer.answer(&accepted(None)).await;
        (peer, hello)
    }
}

pub fn accepted(rejoin: Option<&str>) -> Welcome {
    Welcome::Accepted { protocol: 1, heartbeat_ms: 200, rejoin: rejoin.map(|t| Secret(t.into())) }
}

pub struct Peer {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Peer {
    async fn read<M: DeserializeOwned>(&mut self) -> Option<(M, Vec<u8>)> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some((frame.message, frame.body));
            }
            let mut buffer = vec![0; 65536];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.push(&buffer[..n]),
            }
        }
    }

    pub async fn answer(&mut self, welcome: &Welcome) {
        self.write(&encode(welcome, &[]).unwrap()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn send(&mut self, message: &ToAgent, body: &[u8]) {
        self.write(&encode(message, body).unwrap()).await;
    }

    pub async fn order(&mut self, step: u64, work: Work) {
        self.send(&ToAgent::Do { step, work }, &[]).await;
    }

    pub async fn run(&mut self, message: ToRun, body: &[u8]) {
        self.send(&ToAgent::Run(message), body).await;
    }

    /// The next message of any kind; `None` when the agent hangs up.
    pub async fn any(&mut self) -> Option<(FromAgent, Vec<u8>)> {
        timeout(PATIENCE, self.read()).await.expect("the agent says something")
    }

    /// The next message that is neither a beat nor progress.
    pub async fn next(&mut self) -> (FromAgent, Vec<u8>) {
        let news = async {
            loop {
                match self.read().await.expect("the agent hung up") {
                    (FromAgent::Beat | FromAgent::Progress { .. }, _) => {}
                    other => return other,
                }
            }
        };
        timeout(PATIENCE, news).await.expect("the agent says something new")
    }

    pub async fn next_run(&mut self) -> (FromRun, Vec<u8>) {
        match self.next().await {
            (FromAgent::Run(message), body) => (message, body),
            (other, _) => panic!("expected something about a command, got {other:?}"),
        }
    }

    /// Waits until the agent hangs up.
    pub async fn hung_up(&mut self) {
        while self.any().await.is_some() {}
    }
}

/// A machine for tests: commands run right here, the disk is a file.
pub struct Machine {
    pub boot_id: String,
    pub disk: Option<PathBuf>,
    pub place: Place,
}

impl Machine {
    pub fn new(disk: Option<&Path>) -> Self {
        Self {
            boot_id: "boot-1".into(),
            disk: disk.map(Path::to_owned),
            place: Place::Here { home: Some("/tmp".into()) },
        }
    }
}

impl Platform for Machine {
    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn hardware(&self) -> Result<Hardware, PlatformError> {
        let disk = |path: &PathBuf| SeenDisk {
            path: path.display().to_string(),
            bytes: path.metadata().map_or(0, |m| m.len()),
            serial: Some("S1".into()),
            bus: "virtio".into(),
            ..SeenDisk::default()
        };
        let macs = vec!["52:54:00:00:00:01".into()];
        let disks = self.disk.iter().map(disk).collect();
        Ok(Hardware { disks, macs, memory: 1 << 30, cpus: 2, ..Hardware::default() })
    }

    fn place(&self) -> Place {
        self.place.clone()
    }
}

/// What an agent said on its console.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<Vec<String>>>);

impl Console {
    pub fn say(&self) -> Say {
        let lines = Arc::clone(&self.0);
        Say::new(move |line| lines.lock().unwrap().push(line.to_owned()))
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

pub fn start(kind: AgentKind, params: AgentParams, machine: Machine, console: &Console) -> Agent {
    let platform = Arc::new(machine);
    Agent::start(Options { kind, params, platform, say: console.say(), keep_rejoin: None }).unwrap()
}

/// Waits for an agent's end without blocking the daemon of the test.
pub async fn farewell(agent: Agent) -> pitstop_agent::Farewell {
    timeout(PATIENCE, tokio::task::spawn_blocking(|| agent.wait())).await.expect("the agent ends").unwrap()
}
