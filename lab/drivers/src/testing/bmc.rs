//! A BMC: OpenIPMI's `ipmi_sim`, with a chassis that is a few files.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The password of its user `admin`. Unique, so that it can be looked for.
pub const PASSWORD: &str = "pw-7d1f0c";

/// The program that ipmi_sim asks to switch and to tell: `DIR [MC] get|set
/// NAME [VALUE] …`. A file `lies` makes it accept without effect, `refuses`
/// makes it refuse, `slow` is how many seconds it takes.
const CHASSIS: &str = r#"#!/bin/sh
dir=$1; shift
case $1 in 0x*) shift ;; esac
[ -e "$dir/slow" ] && sleep "$(cat "$dir/slow")"
op=$1; shift
if [ "$op" = get ]; then
    for name in "$@"; do
        case $name in
            power) if [ -e "$dir/on" ]; then echo power:1; else echo power:0; fi ;;
            boot) echo "boot:$(cat "$dir/boot" 2>/dev/null || echo none)" ;;
        esac
    done
    exit 0
fi
[ -e "$dir/refuses" ] && exit 1
while [ $# -gt 1 ]; do
    echo "$1 $2" >>"$dir/log"
    if [ ! -e "$dir/lies" ]; then
        case "$1 $2" in
            "power 1") touch "$dir/on" ;;
            "power 0") rm -f "$dir/on" ;;
            boot*) echo "$2" >"$dir/boot" ;;
            cd*) echo "$2" >"$dir/cd" ;;
        esac
    fi
    shift 2
done
"#;

/// Puts the chassis into a directory of its own: the program, which is given
/// that directory.
pub fn chassis(dir: &Path) -> PathBuf {
    let program = dir.join("chassis");
    std::fs::write(&program, CHASSIS).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    program
}

/// A BMC that runs until this is dropped.
pub struct Bmc {
    dir: PathBuf,
    process: Child,
    /// UDP port it listens at, on loopback.
    pub port: u16,
    /// Where it looks for the machine's serial line.
    pub serial: TcpListener,
}

impl Bmc {
    /// Starts one with its files in `dir`.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("bmc");
        std::fs::create_dir_all(dir.join("state")).unwrap();
        chassis(&dir);
        let serial = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = serial.local_addr().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = dir.display();
        let auths = "none md2 md5 straight";
        let levels: String = ["callback", "user", "operator", "admin"]
            .map(|level| format!("    allowed_auths_{level} {auths}\n"))
            .concat();
        let conf = format!(
            "name \"bmc\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n{levels}    \
             guid a123456789abcdefa123456789abcdef\n  endlan\n  sol \"tcp:{line}\" 115200\n  \
             chassis_control \"{here}/chassis {here}\"\n  user 1 true \"\" \"nobody\" user 10 {auths}\n  \
             user 2 true \"admin\" \"{PASSWORD}\" admin 10 {auths}\n  user 3 true \"guest\" \"guest\" user 10 {auths}\n"
        );
        std::fs::write(dir.join("lan.conf"), conf).unwrap();
        let emu = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n";
        std::fs::write(dir.join("emu"), emu).unwrap();
        let process = Command::new("ipmi_sim")
            .args(["-c", "lan.conf", "-f", "emu", "-s", "state", "-n"])
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need ipmi_sim (Debian: openipmi)");
        Self { dir, process, port, serial }
    }

    /// What the inventory would say of it.
    pub fn fields(&self) -> serde_json::Value {
        let file = self.file("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
        let address = format!("127.0.0.1:{}", self.port);
        serde_json::json!({"address": address, "user": "admin", "password": {"file": file}, "cipher": 3})
    }

    /// A file of its chassis.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What it was told to do, one command a line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its connection to the machine's serial line, which it makes when it
    /// starts, and again ten seconds after it lost it.
    pub fn line(&self) -> std::net::TcpStream {
        self.serial.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.serial.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).unwrap();
                    return stream;
                }
                Err(e) => assert!(Instant::now() < deadline, "the BMC does not connect: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
