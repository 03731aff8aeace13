//! A bench host: OpenSSH's sshd on loopback, with keys of its own.

use crate::site::Site;
use crate::testing::driver;
use pitstop_core::inventory::DriverSpec;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the client's key is encrypted with.
pub const PASSPHRASE: &str = "pass-77f7a8";

/// An ssh server that runs until this is dropped.
pub struct Sshd {
    process: Child,
    dir: PathBuf,
    /// Where it listens.
    pub port: u16,
}

impl Sshd {
    /// Starts one whose host key is of these kinds (`ed25519`, `ecdsa`, `rsa`).
    pub fn start(dir: &Path, kinds: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut text = format!(
            "ListenAddress 127.0.0.1:{port}\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nAuthorizedKeysFile {}\n",
            dir.join("authorized").display()
        );
        for kind in kinds {
            let file = dir.join(format!("host-{kind}"));
            keygen(&file, kind, "");
            text += &format!("HostKey {}\n", file.display());
        }
        for (name, word) in [("client", ""), ("locked", PASSPHRASE), ("stranger", "")] {
            keygen(&dir.join(name), "ed25519", word);
        }
        let public = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        std::fs::write(dir.join("authorized"), public("client.pub") + &public("locked.pub")).unwrap();
        std::fs::write(dir.join("sshd_config"), text).unwrap();
        // Where root's sshd confines what it does not trust yet.
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-f"])
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need sshd");
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, dir: dir.to_owned(), port }
    }

    /// The host's public key of a kind, as `KIND KEY`.
    pub fn host_key(&self, kind: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("host-{kind}.pub"))).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// A `known_hosts` with this key of it.
    pub fn known_hosts(&self, kind: &str) -> PathBuf {
        let file = self.dir.join(format!("known-{kind}"));
        std::fs::write(&file, format!("[127.0.0.1]:{} {}\n", self.port, self.host_key(kind))).unwrap();
        file
    }

    /// What the inventory would say.
    pub fn fields(&self) -> Value {
        json!({
            "address": format!("127.0.0.1:{}", self.port),
            "user": user(),
            "key": {"file": self.dir.join("client")},
            "host_key": self.host_key("ed25519"),
        })
    }

    /// The same, with some of it said otherwise.
    pub fn but(&self, change: Value) -> Value {
        let mut fields = self.fields();
        for (key, value) in change.as_object().unwrap() {
            fields[key] = value.clone();
        }
        fields
    }

    /// A file of the test's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn keygen(file: &Path, kind: &str, word: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", kind, "-N", word, "-f"]).arg(file);
    assert!(keygen.status().expect("the tests need ssh-keygen").success());
}

fn user() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// A site whose inventory has this bench host, named `bench1`.
pub fn at_bench(site: Site, fields: Value) -> Site {
    let specs = [("bench1".to_owned(), driver("ssh", fields))].into();
    Site { hosts: Arc::new(crate::host::Hosts::of(&specs, &crate::host::Hosts::default())), ..site }
}

/// The same driver, on `bench1`.
pub fn there(spec: DriverSpec) -> DriverSpec {
    DriverSpec { host: Some("bench1".to_owned()), ..spec }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
