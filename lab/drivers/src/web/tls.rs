//! TLS towards a device (RFC 8446, RFC 5246).
//!
//! Most BMCs show a certificate that they signed themselves. It is never
//! taken on trust: it must come from an authority that is known, or be the one
//! whose fingerprint the inventory says. One that is not tells what it is.

use super::wire::WireError;
use crate::secret::read_file;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{FieldKind, FieldSchema};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where systems keep the authorities they know: Debian, Fedora, SUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Largest file of certificates, bytes.
const MAX: u64 = 4 << 20;

/// The fields that say which certificates are taken for a device's.
pub const TLS: FieldSchema = FieldSchema::optional(
    "tls",
    FieldKind::OneOf(&["verify", "off"]),
    "`verify`, unless said; `off` is plain HTTP: passwords can be read on the wire",
);
/// See [`TLS`].
pub const CA: FieldSchema = FieldSchema::optional(
    "ca",
    FieldKind::Path,
    "file (PEM) of the authority that signed the certificate; those the daemon's host knows unless said",
);
/// See [`TLS`].
pub const FINGERPRINT: FieldSchema = FieldSchema::optional(
    "fingerprint",
    FieldKind::Text,
    "SHA-256 of the certificate itself, hexadecimal, for one that the device signed: nothing else is looked at",
);

/// Which certificates are taken for a device's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities that the daemon's host knows.
    System,
    /// Those of the authorities in this file.
    Authority(String),
    /// This one, by its SHA-256.
    Pinned([u8; 32]),
}

/// A certificate that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Why.
    pub why: String,
    /// Its SHA-256, hexadecimal.
    pub fingerprint: String,
}

impl Trust {
    /// What [`TLS`], [`CA`] and [`FINGERPRINT`] say; `None`: without TLS.
    ///
    /// # Errors
    /// They contradict each other, or the fingerprint is none.
    pub fn of(spec: &DriverSpec) -> Result<Option<Self>, String> {
        let (ca, pin) = (spec.text("ca"), spec.text("fingerprint"));
        match (spec.text("tls") == Some("off"), ca, pin) {
            (true, None, None) => Ok(None),
            (true, ..) => Err("with `tls = \"off\"` there is no certificate to look at".to_owned()),
            (false, Some(_), Some(_)) => Err("`ca` or `fingerprint`: one of them says it all".to_owned()),
            (false, None, None) => Ok(Some(Self::System)),
            (false, Some(file), None) => Ok(Some(Self::Authority(file.to_owned()))),
            (false, None, Some(pin)) => match fingerprint(pin) {
                Some(pin) => Ok(Some(Self::Pinned(pin))),
                None => Err(format!(
                    "`{}` is no fingerprint: 64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256` prints them",
                    crate::child::shown(pin)
                )),
            },
        }
    }

    /// What a connection to `host` needs.
    ///
    /// # Errors
    /// There is nothing to trust, or `host` is no name that a certificate can
    /// be for.
    pub(super) async fn client(&self, host: &str) -> Result<Client, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| format!("`{host}` cannot be in a certificate: {e}"))?;
        // Named here and not installed for the whole process: a library does
        // not decide for its program.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let known = match self {
            Self::Pinned(pin) => Known::Pinned(*pin),
            Self::Authority(file) => Known::Signed(signed_by(Some(file.clone()), &provider).await?),
            // A host that knows nobody can still say what it saw.
            Self::System => signed_by(None, &provider).await.map_or_else(Known::Nobody, Known::Signed),
        };
        let judge = Arc::new(Judge { known, provider: provider.clone(), refused: OnceLock::new() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone())
            .with_no_client_auth();
        Ok(Client { name, judge, config })
    }
}

/// The authorities in a file, or those the host knows. Read for each
/// connection: a file that was renewed is the new one at once.
async fn signed_by(
    named: Option<String>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let read = tokio::task::spawn_blocking(move || roots(named.as_deref()));
    let roots = read.await.map_err(|e| e.to_string())??;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| e.to_string())
}

/// The authorities in a file; of those that are known as a rule, the first.
fn roots(named: Option<&str>) -> Result<RootCertStore, String> {
    let usual = || SYSTEM.into_iter().find(|file| std::path::Path::new(file).exists());
    let Some(file) = named.or_else(usual) else {
        return Err(
            "this host knows no authorities (Debian: ca-certificates), and there is no `ca` or `fingerprint`"
                .to_owned(),
        );
    };
    let pem = read_file(file, MAX).map_err(|e| format!("{file} cannot be read: {e}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = certificates.map_err(|e| format!("{file} holds no certificates: {e}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() { Err(format!("{file} holds no certificate of an authority")) } else { Ok(roots) }
}

/// 64 hexadecimal digits in either case, with colons or without.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    hex::decode(digits).ok()?.try_into().ok()
}

/// One connection's side of TLS.
pub(super) struct Client {
    name: ServerName<'static>,
    judge: Arc<Judge>,
    config: ClientConfig,
}

impl Client {
    /// Shakes hands.
    pub async fn connect(self, stream: TcpStream) -> Result<TlsStream<TcpStream>, WireError> {
        let connector = TlsConnector::from(Arc::new(self.config));
        connector.connect(self.name, stream).await.map_err(|e| match self.judge.refused.get() {
            Some(refused) => WireError::Untrusted(refused.clone()),
            None => WireError::Lost(format!("no TLS: {e}")),
        })
    }
}

/// Decides about a certificate, and remembers the one it refused.
#[derive(Debug)]
struct Judge {
    known: Known,
    provider: Arc<CryptoProvider>,
    refused: OnceLock<Refused>,
}

#[derive(Debug)]
enum Known {
    Pinned([u8; 32]),
    Signed(Arc<WebPkiServerVerifier>),
    Nobody(String),
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Sha256::digest(end_entity);
        let (judged, why) = match &self.known {
            // Name and validity were looked at by whoever wrote it down.
            Known::Pinned(pin) if seen.as_slice() == pin => {
                (Ok(ServerCertVerified::assertion()), String::new())
            }
            Known::Pinned(_) => {
                let error = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
                (Err(error), "it is not the one that `fingerprint` says".to_owned())
            }
            Known::Nobody(why) => {
                (Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)), why.clone())
            }
            Known::Signed(verifier) => {
                let judged =
                    verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
                let why = judged.as_ref().err().map(ToString::to_string).unwrap_or_default();
                (judged, why)
            }
        };
        if judged.is_err() {
            self.refused.get_or_init(|| Refused { why, fingerprint: hex::encode(seen) });
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
