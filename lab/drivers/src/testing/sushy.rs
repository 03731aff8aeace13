//! A BMC with Redfish: sushy-tools' emulator, with a chassis that is a few
//! files.

use super::bmc::chassis;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "pw-90ce11";
/// Where the workspace is.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A BMC that runs until this is dropped.
pub struct Sushy {
    dir: PathBuf,
    process: Child,
    port: u16,
    fingerprint: String,
}

impl Sushy {
    /// Starts one with its files in `dir` and a certificate it signed itself,
    /// and waits until it serves.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("sushy");
        std::fs::create_dir_all(&dir).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["bmc".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(dir.join("password"), PASSWORD).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(format!("{ROOT}/tests/.cache/sushy/bin/python3"))
            .arg(format!("{ROOT}/tests/lab/redfish.py"))
            .arg(&dir)
            .arg(port.to_string())
            .args([&chassis(&dir), &dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need sushy-tools: tests/lab/sushy installs it");
        let fingerprint = hex::encode(Sha256::digest(made.cert.der()));
        let mut sushy = Self { dir, process, port, fingerprint };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                sushy.process.try_wait().unwrap().is_none(),
                "the emulator ended: tests/lab/sushy installs it"
            );
            assert!(Instant::now() < deadline, "the emulator does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        sushy
    }

    /// What the inventory would say of it.
    pub fn fields(&self) -> Value {
        let (address, file) = (format!("127.0.0.1:{}", self.port), self.file("password"));
        json!({"address": address, "user": "admin", "password": {"file": file}, "fingerprint": self.fingerprint})
    }

    /// A file of its chassis.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What its chassis was told to do, one command a line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Drop for Sushy {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
