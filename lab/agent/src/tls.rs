//! TLS towards the daemon: its CA is known by fingerprint, nothing else is trusted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// The name in the daemon's certificate, whatever address it is reached by.
pub const SERVER_NAME: &str = "pitstop";

/// A client configuration that trusts exactly the CA whose certificate (DER) has this SHA-256.
///
/// # Errors
/// The cryptography provider supports none of the protocol versions.
pub(crate) fn config(fingerprint: [u8; 32]) -> Result<ClientConfig, Error> {
    // Named here and not installed for the whole process: a library does not decide for its program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedCa { fingerprint, provider: Arc::clone(&provider) });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct PinnedCa {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl PinnedCa {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        Sha256::digest(certificate).as_slice() == self.fingerprint
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(ca) = intermediates.iter().find(|cert| self.is_pinned(cert)) else {
            return Err(Error::General(
                "the server's certificate chain does not hold the CA this machine was told to trust".into(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|e| Error::General(e.to_string()))?;
        at_a_valid_time(now, |time| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time)
        })
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

/// Verifies at this machine's time, moved into the certificates' validity.
///
/// Many machines have no battery-backed clock and start in 1970, and on others the last tenant set it: their
/// time proves nothing about a certificate, in either direction. The fingerprint does the work.
fn at_a_valid_time<T>(now: UnixTime, verify: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    let mut time = now;
    // The CA and the leaf may each move it once, and the second must not undo the first.
    for _ in 0..3 {
        match verify(time) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                time = not_before;
            }
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                time = not_after;
            }
            other => return other,
        }
    }
    verify(time)
}
