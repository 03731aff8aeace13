//! A BMC with Redfish that does what a test has it do. Its paths are none
//! that anybody could guess: a client must follow the links.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The password of its user `admin`. Unique, so that it can be looked for.
pub const PASSWORD: &str = "pw-2b9e70\"\\ä";
/// Where its only system is.
pub const SYSTEM: &str = "/redfish/v1/machines/blade";
/// Where its system is switched.
pub const RESET: &str = "/redfish/v1/do/reset";
/// Where its sessions are.
pub const SESSIONS: &str = "/redfish/v1/who";

/// A request as the BMC heard it.
pub struct Heard {
    /// Method and path.
    pub what: String,
    /// Value of a header; empty where there is none.
    pub headers: hyper::HeaderMap,
    /// The body; null where it has none.
    pub body: Value,
}

impl Heard {
    /// A header's value; empty where it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What is answered: status, headers and body.
pub struct Says(pub u16, pub Vec<(&'static str, String)>, pub String);

impl Says {
    /// JSON with a status and no headers.
    pub fn json(status: u16, body: &Value) -> Self {
        Self(status, Vec::new(), body.to_string())
    }

    /// An error with a message.
    pub fn error(status: u16, message: &str) -> Self {
        let info = json!([{"MessageId": "Base.1.8.X", "Message": message}]);
        Self::json(
            status,
            &json!({"error": {"code": "Base.1.8.GeneralError", "message": "no", "@Message.ExtendedInfo": info}}),
        )
    }
}

/// What a test has the BMC do instead of what it does: `None`, as always.
pub type Trick = Box<dyn FnMut(&Heard, &mut State) -> Option<Says> + Send>;

/// What the BMC knows.
pub struct State {
    /// Whether its system is on.
    pub on: bool,
    /// Sessions that are open.
    pub sessions: BTreeSet<u32>,
    /// Every session there was.
    pub begun: u32,
    /// What it was asked, one line each, with what it was told.
    pub log: Vec<String>,
    /// The system, but for its power state.
    pub system: Value,
    /// The root.
    pub root: Value,
}

impl State {
    /// What it was told to do: everything but reading, logging in and out.
    pub fn told(&self) -> Vec<&str> {
        let quiet = |line: &&str| line.starts_with("PATCH") || line.contains(RESET);
        self.log.iter().map(String::as_str).filter(quiet).collect()
    }
}

/// The BMC; its server ends with the test's runtime.
pub struct Bmc {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of its certificate, with TLS.
    pub fingerprint: Option<String>,
    /// Its certificate, PEM.
    pub certificate: String,
    /// What it knows.
    pub state: Arc<Mutex<State>>,
}

impl Bmc {
    /// One without TLS.
    pub async fn plain(trick: impl FnMut(&Heard, &mut State) -> Option<Says> + Send + 'static) -> Self {
        Self::start(None, Box::new(trick)).await
    }

    /// One with a certificate for `127.0.0.1` that it signed itself.
    pub async fn tls() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut bmc = Self::start(Some(acceptor(vec![der.clone()], key)), Box::new(|_, _| None)).await;
        bmc.fingerprint = Some(hex::encode(Sha256::digest(&der)));
        bmc.certificate = made.cert.pem();
        bmc
    }

    /// One whose certificate an authority signed; [`Bmc::certificate`] is the
    /// authority's.
    pub async fn signed() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut bmc = Self::start(Some(acceptor(vec![leaf.der().clone()], key)), Box::new(|_, _| None)).await;
        bmc.certificate = authority.pem();
        bmc
    }

    async fn start(tls: Option<TlsAcceptor>, trick: Trick) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            on: false,
            sessions: BTreeSet::new(),
            begun: 0,
            log: Vec::new(),
            system: system(),
            root: json!({
                "Systems": {"@odata.id": "/redfish/v1/machines"},
                "Links": {"Sessions": {"@odata.id": SESSIONS}},
            }),
        }));
        let (shared, trick) = (state.clone(), Arc::new(Mutex::new(trick)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, trick, tls) = (shared.clone(), trick.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, state, trick).await,
                        // A client that likes no certificate goes away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state, trick).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, fingerprint: None, certificate: String::new(), state }
    }

    /// What the inventory would say of it.
    pub fn fields(&self, dir: &Path) -> Value {
        let file = dir.join("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
        let fields = json!({"address": self.address, "user": "admin", "password": {"file": file}});
        let mut whole = fields.as_object().unwrap().clone();
        match &self.fingerprint {
            Some(pin) => whole.insert("fingerprint".into(), json!(pin)),
            None => whole.insert("tls".into(), json!("off")),
        };
        whole.into()
    }
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn system() -> Value {
    json!({
        "Id": "blade",
        "Boot": {
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideMode": "UEFI",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        },
        "Actions": {"#ComputerSystem.Reset": {
            "target": RESET,
            "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "PushPowerButton"],
        }},
    })
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<Mutex<State>>,
    trick: Arc<Mutex<Trick>>,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (state, trick) = (state.clone(), trick.clone());
        async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await else { return std::future::pending().await };
            let what = format!("{} {}", parts.method, parts.uri);
            let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            let heard = Heard { what, headers: parts.headers, body };
            let says = {
                let mut state = state.lock().unwrap();
                let told = if heard.body.is_null() { String::new() } else { format!(" {}", heard.body) };
                state.log.push(format!("{}{told}", heard.what));
                let trick = trick.lock().unwrap()(&heard, &mut state);
                trick.unwrap_or_else(|| usual(&heard, &mut state))
            };
            if says.0 == 0 {
                // The BMC that never answers.
                return std::future::pending().await;
            }
            let mut response = Response::builder().status(says.0);
            for (name, value) in says.1 {
                response = response.header(name, value);
            }
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(says.2))).unwrap())
        }
    });
    // Whoever hangs up has done so.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn usual(heard: &Heard, state: &mut State) -> Says {
    let gone = |state: &State| {
        !state.sessions.iter().any(|id| heard.header("x-auth-token") == format!("token-{id}"))
    };
    let basic = crate::web::basic("admin", &pitstop_wire::agent::Secret(PASSWORD.to_owned())).unwrap();
    let known = !gone(state) || heard.header("authorization") == basic.to_str().unwrap();
    let login = format!("POST {SESSIONS}");
    match heard.what.as_str() {
        "GET /redfish/v1/" => return Says::json(200, &state.root),
        what if what == login => {
            if heard.body != json!({"UserName": "admin", "Password": PASSWORD}) {
                return Says::error(401, "The attempt to log in failed.");
            }
            state.begun += 1;
            let id = state.begun;
            state.sessions.insert(id);
            let headers =
                vec![("x-auth-token", format!("token-{id}")), ("location", format!("{SESSIONS}/{id}"))];
            return Says(201, headers, json!({"Id": id.to_string()}).to_string());
        }
        _ if !known => return Says::error(401, "Who are you?"),
        _ => {}
    }
    if let Some(id) = heard.what.strip_prefix(&format!("DELETE {SESSIONS}/")) {
        let ended = state.sessions.remove(&id.parse().unwrap());
        return Says(if ended { 204 } else { 404 }, Vec::new(), String::new());
    }
    if heard.what == format!("POST {RESET}") {
        match heard.body["ResetType"].as_str() {
            Some("On" | "ForceOn") => state.on = true,
            Some("ForceOff") => state.on = false,
            _ => return Says::error(400, "No such kind."),
        }
        return Says(204, Vec::new(), String::new());
    }
    if heard.what == format!("PATCH {SYSTEM}") {
        return Says(200, Vec::new(), "{}".to_owned());
    }
    if heard.what == format!("GET {SYSTEM}") {
        let mut system = state.system.clone();
        if system.get("PowerState").is_none() {
            system["PowerState"] = json!(if state.on { "On" } else { "Off" });
        }
        return Says::json(200, &system);
    }
    if heard.what == "GET /redfish/v1/machines" {
        return Says::json(200, &json!({"Members": [{"@odata.id": SYSTEM}]}));
    }
    Says::error(404, "There is nothing here.")
}
