//! A USB hub: a script that says and prints what uhubctl 2.5 does, with ports
//! that are files. No hub can be simulated where there is no USB.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Hub 1-1.4 with four ports, and 2-1.4, which is the same hub for USB 3
/// (`print_port_status`, `set_port_status_libusb` and `main` of uhubctl.c). A
/// file `stuck` keeps all as it is; `refuses`, `permission` and `unreadable`
/// have the kernel say no in three places.
const SCRIPT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
echo "$*" >>"$dir/log"
action=
while [ $# -gt 0 ]; do
    case $1 in
        -l) hub=$2; shift 2 ;;
        -p) port=$2; shift 2 ;;
        -a) action=$2; shift 2 ;;
        -r) shift 2 ;;
        *) echo "Run with -h to get usage info." >&2; exit 1 ;;
    esac
done
if [ -e "$dir/permission" ]; then
    echo "There were permission problems while accessing USB." >&2
    echo "Follow https://git.io/JIB2Z for a fix!" >&2
fi
if [ "$hub" != 1-1.4 ] || [ -e "$dir/permission" ]; then
    echo "No compatible devices detected at location $hub!" >&2
    echo "Run with -h to get usage info." >&2
    exit 1
fi
show() { # Current|New BUS
    echo "$1 status for hub $2-1.4 [0bda:$2411 Generic 4-Port USB Hub, ppps]"
    if [ "$port" -gt 4 ]; then return; fi
    if [ -e "$dir/unreadable" ]; then
        echo "cannot read port $port status, Success (0)" >&2
    elif [ -e "$dir/on-$port" ]; then
        if [ "$2" = 1 ]; then
            echo "  Port $port: 0503 power highspeed enable connect [0781:5567 SanDisk off 1234]"
        else
            echo "  Port $port: 02a0 power 5gbps Rx.Detect"
        fi
    elif [ "$2" = 1 ]; then
        echo "  Port $port: 0000 off"
    else
        echo "  Port $port: 00a0 off"
    fi
}
for bus in 1 2; do
    show Current $bus
    if [ -z "$action" ]; then continue; fi
    if [ -e "$dir/refuses" ]; then
        printf 'Failed to control port power!\n: Operation not permitted\n' >&2
    elif [ ! -e "$dir/stuck" ] && [ "$port" -le 4 ]; then
        if [ "$action" = on ]; then touch "$dir/on-$port"; else rm -f "$dir/on-$port"; fi
    fi
    echo "Sent power $action request"
    show New $bus
done
"#;

/// The hub's files.
pub struct Hub {
    dir: PathBuf,
}

impl Hub {
    /// One whose ports are off, with its files in `dir`.
    pub fn new(dir: &Path) -> Self {
        let hub = Self { dir: dir.join("hub") };
        std::fs::create_dir_all(&hub.dir).unwrap();
        std::fs::write(hub.command(), SCRIPT).unwrap();
        std::fs::set_permissions(hub.command(), std::fs::Permissions::from_mode(0o700)).unwrap();
        hub
    }

    /// The script.
    pub fn command(&self) -> PathBuf {
        self.file("uhubctl")
    }

    /// A file of the hub.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The arguments of each call so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}
