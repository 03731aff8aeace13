//! The servers that are compared.

use super::records::{Arrived, Scanner};
use super::usage;
use super::watch::{self, Place, machine};
use crate::common::{Daemon, daemon::note_pid, load};
use anyhow::{Context, Result, ensure};
use pitstop_client::Client;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The longest a start may take: conserver needs a second for 16 consoles.
const START: Duration = Duration::from_secs(60);

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Floor,
    Pitstop,
    Conserver,
    Ser2net,
}

impl Kind {
    /// In the order of a row; the floor is what the others are measured by.
    pub const ALL: [Self; 4] = [Self::Floor, Self::Pitstop, Self::Conserver, Self::Ser2net];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Pitstop => "pitstop",
            Self::Conserver => "conserver",
            Self::Ser2net => "ser2net",
        }
    }
}

/// A program of `line.c`; ends when its input is closed, at the latest when
/// this is dropped.
pub struct Program {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts it and waits until it is ready.
    pub async fn start(args: &[String]) -> Result<Self> {
        let program =
            std::env::var_os("PITSTOP_BENCH_LINE").context("start this with benches/console/run")?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        note_pid(child.id().context("it ended at once")?)?;
        let said = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut started = Self { child, said };
        ensure!(started.line().await? == "ready", "{args:?} is not ready");
        Ok(started)
    }

    /// The next line it says.
    pub async fn line(&mut self) -> Result<String> {
        self.said.next_line().await?.context("it ended")
    }

    /// Tells it to begin.
    pub async fn go(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("no input")?.write_all(b"go\n").await?;
        Ok(())
    }
}

/// A running server.
pub struct Server {
    pub place: Place,
    running: Running,
    ports: PathBuf,
}

enum Running {
    Line(Program),
    Peer(Child),
    Pitstop(Box<Daemon>),
}

impl Server {
    /// Starts a server for the ports `con0` … in `ports`.
    pub async fn start(kind: Kind, scratch: &Path, ports: &Path, consoles: usize) -> Result<Self> {
        let port = free_ports(consoles + 32)?;
        let (running, place) = match kind {
            Kind::Floor => {
                let args = ["floor".to_owned(), text(ports), consoles.to_string(), port.to_string()];
                (Running::Line(Program::start(&args).await?), Place::Tcp(port))
            }
            Kind::Ser2net => {
                std::fs::write(ports.join("ser2net.yaml"), ser2net(ports, consoles, port)?)?;
                let mut command = Command::new("ser2net");
                command.args(["-n", "-c"]).arg(ports.join("ser2net.yaml"));
                // The last port is opened last.
                (peer(&mut command, ports, port + consoles as u16 - 1).await?, Place::Tcp(port))
            }
            Kind::Conserver => {
                std::fs::write(ports.join("conserver.cf"), conserver(ports, consoles)?)?;
                std::fs::write(ports.join("passwd"), "*any*:\n")?;
                let mut command = Command::new("conserver");
                command.arg("-C").arg(ports.join("conserver.cf")).arg("-P").arg(ports.join("passwd"));
                command.args(["-M", "127.0.0.1", "-p", &port.to_string(), "-b", &(port + 1).to_string()]);
                (peer(&mut command, ports, port).await?, Place::Conserver(port))
            }
            Kind::Pitstop => {
                let daemon = pitstop(scratch, ports, consoles).await?;
                let place = Place::Pitstop(daemon.socket());
                (Running::Pitstop(Box::new(daemon)), place)
            }
        };
        Ok(Self { place, running, ports: ports.to_owned() })
    }

    /// All its processes.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let root = match &self.running {
            Running::Line(program) => program.child.id(),
            Running::Peer(child) => child.id(),
            Running::Pitstop(daemon) => Some(daemon.pid()?),
        };
        Ok(usage::tree(root.context("the server ended")?))
    }

    /// What its log has of a console; `None` where it keeps none.
    pub async fn logged(&self, console: usize) -> Result<Option<Arrived>> {
        let path = match &self.place {
            Place::Pitstop(socket) => return watch::journal(socket, console).await.map(Some),
            _ => self.ports.join(format!("con{console}.log")),
        };
        let Ok(bytes) = std::fs::read(path) else { return Ok(None) };
        let mut arrived = Arrived::default();
        Scanner::default().feed(&bytes, |record| {
            if !record.answer {
                arrived.count(console as u32, &record);
            }
        });
        Ok(Some(arrived))
    }

    /// Ends it and everything it started.
    pub async fn stop(self) -> Result<()> {
        let processes = self.processes()?;
        if let Running::Peer(mut child) = self.running {
            // Parents first: conserver starts a child again that ends before it.
            for pid in &processes {
                if let Some(pid) = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have ended with its parent.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            child.wait().await?;
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Starts a peer and waits until it listens at `port`.
async fn peer(command: &mut Command, ports: &Path, port: u16) -> Result<Running> {
    let log = std::fs::File::create(ports.join("server.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let child = command.spawn().context("the peer cannot be started")?;
    note_pid(child.id().context("it ended at once")?)?;
    let deadline = Instant::now() + START;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(Instant::now() < deadline, "it does not listen:\n{}", log_of(ports));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for pid in usage::tree(child.id().context("it ended")?) {
        note_pid(pid)?;
    }
    Ok(Running::Peer(child))
}

fn log_of(ports: &Path) -> String {
    std::fs::read_to_string(ports.join("server.log")).unwrap_or_default()
}

/// As fast as its manual lets it be: no delay for more characters, large
/// buffers. It keeps no log of its own.
fn ser2net(ports: &Path, consoles: usize, port: u16) -> Result<String> {
    let mut yaml = "%YAML 1.1\n---\n".to_owned();
    for i in 0..consoles {
        let (at, device) = (usize::from(port) + i, text(&ports.join(format!("con{i}"))));
        write!(
            yaml,
            "connection: &c{i}\n  accepter: tcp(nodelay),127.0.0.1,{at}\n  enable: on\n  options:\n    \
             max-connections: 4\n    chardelay: false\n    dev-to-net-bufsize: 16384\n  \
             connector: serialdev,{device},115200n81,local\n"
        )?;
    }
    Ok(yaml)
}

fn conserver(ports: &Path, consoles: usize) -> Result<String> {
    let mut file = "config * { sslrequired no; }\naccess * { trusted 127.0.0.1; }\n".to_owned();
    for i in 0..consoles {
        let device = text(&ports.join(format!("con{i}")));
        // Flow control by bytes, which it has on unless told, would stop at noise.
        writeln!(
            file,
            "console c{i} {{ master localhost; type device; device {device}; baud 115200; parity none; \
             options !ixon,!ixoff; logfile {device}.log; rw *; ro *; }}"
        )?;
    }
    Ok(file)
}

/// A lab of machines that have nothing but a console; the first is held, so
/// that its keyboard may be taken.
async fn pitstop(scratch: &Path, ports: &Path, consoles: usize) -> Result<Daemon> {
    let mut inventory = r#"format = 1
[lab]
name = "bench"
zone = "UTC"
[class.bench]
tags = { kind = "bench" }
shared = true
after_build = "keep"
power.none = {}
boot.power = {}
ready.agent = {}
"#
    .to_owned();
    for i in 0..consoles {
        let (name, device) = (machine(i), text(&ports.join(format!("con{i}"))));
        write!(
            inventory,
            "[machine.{name}]\nclass = \"bench\"\nconsole.main.serial = {{ device = \"{device}\" }}\n"
        )?;
    }
    let mut daemon = Daemon::of(scratch, &inventory)?;
    daemon.start()?;
    daemon.enrol(consoles).await?;
    let client = Client::new(daemon.socket());
    let held = client.reserve(&load::ask(&format!("name={}", machine(0))), None).await?;
    client.claim(&held.id).await?;
    Ok(daemon)
}

/// The first of so many ports in a row that nobody uses.
fn free_ports(many: usize) -> Result<u16> {
    let is_free = |port: usize| {
        u16::try_from(port).is_ok_and(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
    };
    // Below those that the system gives out by itself.
    let mut begins = (18_000..32_000 - many).step_by(many);
    let begin = begins.find(|begin| (*begin..begin + many).all(is_free)).context("no ports are free")?;
    Ok(u16::try_from(begin)?)
}
