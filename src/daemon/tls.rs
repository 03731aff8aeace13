//! The lab's own certificate authority: made at first start, known to
//! machines by its fingerprint.

use crate::whole;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name in the daemon's certificate, whatever address it is reached by.
const SERVER_NAME: &str = pitstop_agent::SERVER_NAME;
const CA_NAME: &str = "pitstop lab CA";

/// What the daemon shows to machines.
#[derive(Clone)]
pub struct Identity {
    /// SHA-256 of the CA's certificate (DER), hexadecimal.
    pub fingerprint: String,
    /// The listener's side of TLS.
    pub server: Arc<ServerConfig>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the CA cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// A file of the CA is not what it should be.
    #[error("{} is damaged: {why}; restore it, or remove the directory to start with a new CA (every agent that \
             runs now is then cut off)", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS refuses what was made.
    #[error("cannot set TLS up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The identity kept in `dir`; made if there is none.
pub fn load_or_make(dir: &Path) -> Result<Identity, TlsError> {
    let (ca, key) = authority(dir)?;
    let issuer = Issuer::new(ca_params()?, key);
    // A fresh leaf for every start: its key never touches the disk.
    let leaf_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    params.distinguished_name = name(SERVER_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&leaf_key, &issuer)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        // The CA travels along: agents know it by fingerprint only.
        .with_single_cert(vec![leaf.der().clone(), ca.clone()], private)?;
    Ok(Identity { fingerprint: hex::encode(Sha256::digest(&ca)), server: Arc::new(server) })
}

fn authority(dir: &Path) -> Result<(CertificateDer<'static>, KeyPair), TlsError> {
    let (ca_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("make", dir))?;
    // The certificate is written last: where it is, the key is too.
    if !ca_path.exists() {
        let key = KeyPair::generate()?;
        let ca = ca_params()?.self_signed(&key)?;
        // Only we may read them.
        whole::write(&key_path, key.serialize_pem().as_bytes(), 0o600).map_err(at("write", &key_path))?;
        whole::write(&ca_path, ca.pem().as_bytes(), 0o600).map_err(at("write", &ca_path))?;
    }
    let damaged = |path: &Path, why: String| TlsError::Damaged { path: path.to_owned(), why };
    let pem = fs::read_to_string(&key_path).map_err(at("read", &key_path))?;
    let key = KeyPair::from_pem(&pem).map_err(|e| damaged(&key_path, e.to_string()))?;
    let pem = fs::read(&ca_path).map_err(at("read", &ca_path))?;
    let ca = CertificateDer::from_pem_slice(&pem).map_err(|e| damaged(&ca_path, e.to_string()))?;
    Ok((ca, key))
}

/// What the CA says about itself; the same at every start, since it is where
/// the leaf's issuer comes from.
fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn at<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(std::io::Error) -> TlsError + 'p {
    move |source| TlsError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_ca_survives_a_restart_and_its_key_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls");
        let first = load_or_make(&dir).unwrap();
        assert_eq!(load_or_make(&dir).unwrap().fingerprint, first.fingerprint);
        assert_eq!(first.fingerprint.len(), 64);
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("ca.key"))), (0o700, 0o600));
    }

    #[test]
    fn a_damaged_ca_is_reported_and_never_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        load_or_make(dir.path()).unwrap();
        fs::write(dir.path().join("ca.key"), "rubbish").unwrap();
        assert!(matches!(load_or_make(dir.path()), Err(TlsError::Damaged { .. })));
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(matches!(load_or_make(dir.path()), Err(TlsError::Io { .. })));
    }
}
