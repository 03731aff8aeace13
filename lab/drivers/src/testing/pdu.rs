//! A PDU: net-snmp's `snmpd`, with outlets that are files.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Community that may write, and passwords of the user `admin`. Unique, so
/// that they can be looked for.
pub const COMMUNITY: &str = "cm-44a1b2";
/// See [`COMMUNITY`].
pub const AUTH: &str = "auth-55c3d4";
/// See [`COMMUNITY`].
pub const PRIV: &str = "priv-66e5f6";

/// Answers snmpd by its pass_persist protocol (snmpd.conf(5)) as each kind of
/// PDU would: `SET-OID ON OFF STATE-OID IS-ON IS-OFF`, by the makers' MIBs.
/// Outlets 1 to 8 are there. A file `stuck` keeps all as they are, `refuses`
/// has commands refused.
const OUTLETS: &str = r#"#!/bin/sh
dir=$1
kinds="
.1.3.6.1.4.1.318.1.1.4.4.2.1.3 1 2 .1.3.6.1.4.1.318.1.1.4.4.2.1.3 1 2
.1.3.6.1.4.1.318.1.1.12.3.3.1.1.4 1 2 .1.3.6.1.4.1.318.1.1.12.3.5.1.1.4 1 2
.1.3.6.1.4.1.318.1.1.26.9.2.4.1.5 1 2 .1.3.6.1.4.1.318.1.1.26.9.2.3.1.5 2 1
.1.3.6.1.4.1.13742.6.4.1.2.1.2.1 1 0 .1.3.6.1.4.1.13742.6.4.1.2.1.3.1 7 8
.1.3.6.1.4.1.3808.1.1.3.3.3.1.1.4 1 2 .1.3.6.1.4.1.3808.1.1.3.3.5.1.1.4 1 2
.1.3.6.1.2.1.105.1.1.1.3.1 1 2 .1.3.6.1.2.1.105.1.1.1.3.1 1 2
.1.3.6.1.4.1.99999.1 70 80 .1.3.6.1.4.1.99999.2 7 8
"
find() { # get|set OID
    echo "$kinds" | while read -r set on off state is_on is_off; do
        if [ "$1" = get ]; then base=$state; else base=$set; fi
        case $2 in
            "$base".[1-8]) [ -n "$base" ] && echo "${2##*.} $on $off $is_on $is_off" && break ;;
        esac
    done
}
while read -r command; do
    case $command in
        PING) echo PONG ;;
        get)
            read -r oid
            set -- $(find get "$oid")
            # snmpd reads what it is about to set.
            if [ $# = 0 ] && [ -n "$(find set "$oid")" ]; then echo "$oid"; echo integer; echo 0; continue; fi
            if [ $# = 0 ]; then echo NONE; continue; fi
            echo "$oid"; echo integer
            if [ -e "$dir/on-$1" ]; then echo "$4"; else echo "$5"; fi ;;
        set)
            read -r oid
            read -r type value
            set -- $(find set "$oid")
            echo "$oid $value" >>"$dir/log"
            if [ $# = 0 ]; then echo not-writable; continue; fi
            if [ -e "$dir/refuses" ]; then echo wrong-value; continue; fi
            if [ ! -e "$dir/stuck" ]; then
                case $value in
                    "$2") touch "$dir/on-$1" ;;
                    "$3") rm -f "$dir/on-$1" ;;
                    *) echo wrong-value; continue ;;
                esac
            fi
            echo DONE ;;
        getnext) read -r oid; echo NONE ;;
        # snmpd sends an empty line behind what is to be set.
        *) ;;
    esac
done
"#;

/// A PDU that runs until this is dropped.
pub struct Pdu {
    dir: PathBuf,
    process: Child,
    /// UDP port it listens at, on loopback.
    pub port: u16,
}

impl Pdu {
    /// Starts one with its files in `dir`.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("pdu");
        std::fs::create_dir_all(dir.join("persistent")).unwrap();
        let program = dir.join("outlets");
        std::fs::write(&program, OUTLETS).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = dir.display();
        let conf = format!(
            "agentaddress udp:127.0.0.1:{port}\nrwcommunity {COMMUNITY}\nrocommunity looker\n\
             createUser admin SHA-256 {AUTH} AES {PRIV}\nrwuser admin priv\n\
             pass_persist .1.3.6.1.4.1 {here}/outlets {here}\npass_persist .1.3.6.1.2.1.105 {here}/outlets {here}\n"
        );
        std::fs::write(dir.join("snmpd.conf"), conf).unwrap();
        for (name, secret) in [("community", COMMUNITY), ("auth", AUTH), ("priv", PRIV)] {
            std::fs::write(dir.join(name), format!("{secret}\n")).unwrap();
        }
        let process = Command::new("/usr/sbin/snmpd")
            .args(["-f", "-C", "-c", "snmpd.conf", "-Lo", "-I", "-smux,-mteTrigger"])
            .current_dir(&dir)
            .env("SNMP_PERSISTENT_DIR", dir.join("persistent"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests need snmpd");
        Self { dir, process, port }
    }

    /// `host:port`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to a secret in a file: `community`, `auth` or `priv`.
    pub fn secret(&self, name: &str) -> serde_json::Value {
        serde_json::json!({"file": self.dir.join(name)})
    }

    /// A file of its outlets.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Pdu {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
