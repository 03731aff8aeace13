//! A libvirt: libvirtd with its own test hypervisor, whose domain is `test`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A libvirtd that runs until this is dropped.
pub struct Libvirt {
    process: Child,
    /// Somebody who stays connected: the test hypervisor forgets everything
    /// when its last client goes.
    keeper: Option<Child>,
    socket: PathBuf,
}

impl Libvirt {
    /// Starts one with its files in `dir`, and waits until it answers.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("libvirt");
        std::fs::create_dir_all(&dir).unwrap();
        let here = dir.display();
        // No other driver: each would look for its own daemons and devices.
        let conf = format!(
            "unix_sock_dir = \"{here}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n\
             log_outputs = \"3:file:{here}/log\"\n"
        );
        std::fs::write(dir.join("conf"), conf).unwrap();
        let process = Command::new("/usr/sbin/libvirtd")
            .arg("--config")
            .arg(dir.join("conf"))
            .arg("--pid-file")
            .arg(dir.join("pid"))
            .env("LIBVIRT_DRIVER_DIR", dir.join("no-drivers"))
            .envs([
                ("HOME", &dir),
                ("XDG_RUNTIME_DIR", &dir),
                ("XDG_CACHE_HOME", &dir),
                ("XDG_CONFIG_HOME", &dir),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need libvirtd");
        let mut started = Self { process, keeper: None, socket: dir.join("libvirt-sock") };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (done, said) = started.virsh(&["domstate", "test"]);
            if done {
                break;
            }
            assert!(Instant::now() < deadline, "libvirtd does not answer: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let keeper = Command::new("virsh")
            .args(["--connect", &started.uri()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keeper = started.keeper.insert(keeper);
        // It greets once it is connected.
        let mut greeting = [0; 1];
        std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut greeting).unwrap();
        started
    }

    /// Where virsh finds it.
    pub fn uri(&self) -> String {
        format!("test+unix:///default?socket={}", self.socket.display())
    }

    /// What virsh says to these words, and whether it did what they say.
    pub fn virsh(&self, words: &[&str]) -> (bool, String) {
        let out = Command::new("virsh").args(["--connect", &self.uri()]).args(words).output();
        let out = out.expect("the tests need virsh");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        for process in self.keeper.iter_mut().chain([&mut self.process]) {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}
