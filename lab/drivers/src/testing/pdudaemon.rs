//! pdudaemon from PyPI, with outlets that are files.

use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A pdudaemon that runs until this is dropped. Outlet N of its PDU `bench`
/// is the file `on-N`; its PDU `dead` is at an address where nothing listens.
pub struct Pdudaemon {
    dir: PathBuf,
    process: Child,
    /// `host:port` of its HTTP listener.
    pub address: String,
}

impl Pdudaemon {
    /// Starts one with its files in `dir`, and waits until it listens.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("pdudaemon");
        std::fs::create_dir_all(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = dir.display();
        let conf = json!({
            "daemon": {"hostname": "127.0.0.1", "port": port, "listener": "http", "logging_level": "DEBUG"},
            "pdus": {
                "bench": {
                    "driver": "localcmdline",
                    "cmd_on": format!("touch {here}/on-%s"),
                    "cmd_off": format!("rm -f {here}/on-%s"),
                },
                "dead": {"driver": "tasmota", "ip": "127.0.0.1:1", "retries": 1, "retrydelay": 0},
            },
        });
        std::fs::write(dir.join("conf"), conf.to_string()).unwrap();
        let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lab/fetch-pdudaemon");
        let fetched = Command::new(fetch).output().unwrap();
        let tree = String::from_utf8(fetched.stdout).unwrap().trim().to_owned();
        assert!(
            fetched.status.success(),
            "the tests need pdudaemon: {}",
            String::from_utf8_lossy(&fetched.stderr)
        );
        let process = Command::new("/usr/bin/python3")
            .arg(Path::new(&tree).join("bin/pdudaemon"))
            .args(["--conf", "conf", "--logfile", "log"])
            .env("PYTHONPATH", &tree)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("stderr")).unwrap())
            .spawn()
            .expect("the tests need python3");
        let started = Self { dir, process, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(e) = TcpStream::connect(&started.address) {
            let said = || std::fs::read_to_string(started.file("stderr")).unwrap_or_default();
            assert!(Instant::now() < deadline, "pdudaemon does not listen: {e}: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }

    /// A file of its outlets.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Pdudaemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
