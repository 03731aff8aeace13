//! Console servers: ser2net with ptys as its serial ports, and pyserial's RFC
//! 2217 server.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A pty: its master, and the path of its terminal.
pub fn pty() -> (OwnedFd, PathBuf) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap().into();
    (master, path)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A console server that runs until this is dropped.
pub struct Server {
    process: Child,
    /// `host:port` of each of its ports.
    pub ports: Vec<String>,
}

/// ser2net with one port for each of these gensios (`tcp`, `telnet,tcp`,
/// `telnet(rfc2217),tcp`) and terminals.
pub fn ser2net(dir: &Path, ports: &[(&str, &Path)]) -> Server {
    let mut text = "%YAML 1.1\n---\n".to_owned();
    let mut addresses = Vec::new();
    for (at, (gensio, terminal)) in ports.iter().enumerate() {
        let port = free_port();
        let terminal = terminal.display();
        text += &format!(
            "connection: &con{at}\n    accepter: {gensio},127.0.0.1,{port}\n    \
             connector: serialdev,{terminal},115200n81,local\n    options:\n        kickolduser: true\n"
        );
        addresses.push(format!("127.0.0.1:{port}"));
    }
    let file = dir.join("ser2net.yaml");
    std::fs::write(&file, text).unwrap();
    let mut process = Command::new("/usr/sbin/ser2net");
    process.args(["-n", "-c"]).arg(&file).stdin(Stdio::null());
    Server { process: quiet(&mut process).spawn().expect("the tests need ser2net"), ports: addresses }
}

/// Serves one connection after the other: what is written comes back.
const PYSERIAL: &str = r"
import serial, serial.rfc2217, socket, sys, threading
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    peer, _ = listener.accept()
    port = serial.serial_for_url('loop://', timeout=0.05)
    class Out:
        def write(self, data):
            peer.sendall(data)
    manager = serial.rfc2217.PortManager(port, Out())
    alive = True
    def back():
        while alive:
            data = port.read(4096)
            if data:
                peer.sendall(b''.join(manager.escape(data)))
    thread = threading.Thread(target=back)
    thread.start()
    broke = False
    while True:
        data = peer.recv(4096)
        if not data:
            break
        for byte in manager.filter(data):
            port.write(byte)
        if port.break_condition and not broke:
            broke = True
        elif broke and not port.break_condition:
            port.write(b'broke %d' % port.baudrate)
            broke = False
    alive = False
    thread.join()
    peer.close()
";

/// pyserial's server, whose port gives back what it gets, and says so after a
/// break.
pub fn pyserial() -> Server {
    let port = free_port();
    let mut process = Command::new("/usr/bin/python3");
    process.args(["-c", PYSERIAL, &port.to_string()]).stdin(Stdio::null());
    let process = quiet(&mut process).spawn().expect("the tests need python3 with serial");
    Server { process, ports: vec![format!("127.0.0.1:{port}")] }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
