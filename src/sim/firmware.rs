//! What runs on the machine: firmware, then the boot agent or what is on the
//! disk. It says on the serial line what a machine would say.

use super::boot::{Job, Odd, Seeded};
use super::child;
use super::faults::{FaultKind, Faults};
use super::image::{Header, Panic};
use super::line::Line;
use super::machine::SharedFaults;
use pitstop_drivers::sim::{Boot, Config};
use pitstop_wire::agent::AgentParams;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long firmware waits for the boot server.
const NETWORK: Duration = Duration::from_secs(20);
/// How long firmware pauses before it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// One boot of the machine.
pub struct System {
    pub config: Config,
    pub dir: PathBuf,
    pub lines: Vec<Line>,
    pub faults: SharedFaults,
    pub boot: Boot,
    pub boot_id: String,
    pub doing: Arc<Mutex<&'static str>>,
}

/// What firmware found to boot.
enum Found {
    Agent(AgentParams),
    Disk,
    Nothing(String),
}

impl System {
    /// Runs until it is aborted, which is what the loss of power looks like.
    pub async fn run(self) {
        self.lines
            .iter()
            .skip(1)
            .for_each(|line| line.say(&format!("{}: second processor up", self.config.name)));
        self.say(&format!("PITSTOP-SIM BIOS 1.0  {}", self.config.name));
        for disk in &self.config.disks {
            self.say(&format!("  disk {}: {} KiB, serial {0}", disk.name, disk.bytes >> 10));
        }
        if self.strike(&FaultKind::NeverBoots) {
            self.say("POST code 7F");
            return self.hang().await;
        }
        sleep(self.boot_time() / 2).await;
        match self.find().await {
            Found::Agent(params) => self.boot_agent(params).await,
            Found::Disk => self.boot_disk().await,
            Found::Nothing(why) => self.say(&why),
        }
        self.hang().await;
    }

    fn boot_time(&self) -> Duration {
        Duration::from_millis(self.config.boot_ms)
    }

    fn say(&self, text: &str) {
        if let Some(line) = self.lines.first() {
            line.say(text);
        }
    }

    fn does(&self, what: &'static str) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self, kind: &FaultKind) -> bool {
        self.faults().hits(kind)
    }

    async fn hang(&self) {
        self.does("hung");
        std::future::pending().await
    }

    async fn find(&self) -> Found {
        match &self.boot {
            Boot::Disk => Found::Disk,
            Boot::Agent { params } => Found::Agent(params.clone()),
            Boot::Network { url } => self.ask(url).await,
        }
    }

    /// The network card's part, as iPXE does it.
    async fn ask(&self, url: &str) -> Found {
        self.say(&format!("net0: {url}"));
        let until = Instant::now() + NETWORK;
        loop {
            match timeout(NETWORK, super::child::fetch(url)).await {
                Ok(Ok(script)) => return self.obey(&script),
                Ok(Err(e)) => self.say(&format!("net0: {e}")),
                Err(_) => self.say("net0: no answer"),
            }
            if Instant::now() >= until {
                return Found::Nothing("No bootable device.".into());
            }
            sleep(ASK_AGAIN).await;
        }
    }

    fn obey(&self, script: &str) -> Found {
        let kernel = script.lines().find_map(|line| line.trim().strip_prefix("kernel "));
        match kernel {
            Some(words) => match pitstop_agent::params::from_cmdline(words) {
                Ok(params) => Found::Agent(params),
                Err(e) => Found::Nothing(format!("the script's kernel line is not understood: {e}")),
            },
            None if script.lines().any(|line| line.trim() == "exit" || line.starts_with("sanboot")) => {
                Found::Disk
            }
            None => Found::Nothing("the script boots nothing".into()),
        }
    }

    async fn kernel(&self, hostname: &str) -> bool {
        let took = self.boot_time() / 4;
        self.say(&format!("[    0.000000] Linux version 6.1.0-sim (pitstop@{hostname}) #1 SMP"));
        self.say(&format!("[    0.000000] Command line: console=ttyS0 host={hostname}"));
        sleep(took).await;
        self.say("[    0.061803] smpboot: Total of 1 processors activated");
        for disk in &self.config.disks {
            self.say(&format!(
                "[    0.161803] virtio_blk: [{}] {} 512-byte logical blocks",
                disk.name,
                disk.bytes / 512
            ));
        }
        sleep(took).await;
        if self.strike(&FaultKind::Panic) {
            self.panic("VFS: Unable to mount root fs on unknown-block(0,0)");
            return false;
        }
        self.say("[    0.314159] Run /init as init process");
        true
    }

    fn panic(&self, why: &str) {
        self.say(&format!("[    0.271828] Kernel panic - not syncing: {why}"));
        self.say("[    0.271828] ---[ end Kernel panic - not syncing ]---");
        self.does("hung");
    }

    async fn boot_agent(&self, params: AgentParams) {
        if !self.kernel("agent").await {
            return;
        }
        self.does("agent");
        let mut job = self.job("pitstop-agent");
        job.params = Some(params);
        self.agent(job).await;
    }

    async fn boot_disk(&self) {
        let Some(disk) = self.config.disks.first() else { return self.say("No bootable device.") };
        let header = Header::of_disk(&self.dir.join(disk.file()));
        let header = match header {
            Ok(Some(header)) => header,
            Ok(None) => return self.say("No bootable device."),
            Err(e) => return self.say(&format!("Disk error: {e}")),
        };
        self.say(&format!("Booting from disk {} ...", disk.name));
        if let Some(ms) = header.boot_ms {
            sleep(Duration::from_millis(ms)).await;
        }
        if !self.kernel(&header.hostname).await {
            return;
        }
        if header.panic == Some(Panic::Kernel) {
            return self.panic("Attempted to kill init! exitcode=0x00000100");
        }
        self.does("disk");
        self.say(&format!("\r\n{} login: ", header.hostname));
        let Some((offset, len)) = header.seed else { return };
        let mut job = self.job(&header.hostname);
        job.seed = Some(Seeded { offset, len });
        let late = header.panic == Some(Panic::Late);
        tokio::select! {
            () = self.agent(job) => {}
            () = sleep(self.boot_time() * 4), if late => self.panic("Fatal exception in interrupt"),
        }
    }

    fn job(&self, hostname: &str) -> Job {
        Job {
            machine: self.config.name.clone(),
            hostname: hostname.to_owned(),
            boot_id: self.boot_id.clone(),
            dir: self.dir.clone(),
            disks: self.config.disks.clone(),
            params: None,
            seed: None,
            corrupt: false,
            odd: Odd::default(),
        }
    }

    async fn agent(&self, mut job: Job) {
        if self.strike(&FaultKind::AgentSilent) {
            return;
        }
        let late = self.faults().strike(|f| match f {
            FaultKind::AgentLate(by) => Some(*by),
            _ => None,
        });
        sleep(late.unwrap_or_default()).await;
        // The disk fails under the boot agent: that is who writes and proves.
        let boots = job.params.is_some();
        job.corrupt = boots && self.strike(&FaultKind::ImageCorrupt);
        job.odd = Odd {
            disk: boots && self.strike(&FaultKind::DiskSwapped),
            machine: boots && self.strike(&FaultKind::MachineSwapped),
            memory: boots && self.strike(&FaultKind::MemoryLost),
        };
        let Some(line) = self.lines.first() else { return };
        let twice = self.strike(&FaultKind::AgentTwice);
        let first = child::run(&job, line);
        if twice {
            tokio::join!(first, child::run(&job, line));
        } else {
            first.await;
        }
    }
}

/// What was typed on the serial line.
#[derive(Debug, Default)]
pub struct Keyboard {
    line: Vec<u8>,
}

/// What a line that was typed means.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// Nothing that the machine would act on.
    Nothing,
    /// The tenant reboots.
    Reboot,
}

impl Keyboard {
    /// Echoes keys like a terminal and acts on whole lines.
    pub fn type_in(&mut self, keys: &[u8], line: &Line) -> Typed {
        let mut typed = Typed::Nothing;
        for key in keys {
            match key {
                b'\r' | b'\n' => {
                    line.put(b"\r\n");
                    let words = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_owned();
                    match words.as_str() {
                        "" => {}
                        "reboot" => typed = Typed::Reboot,
                        other => line.say(&format!("sh: {other}: not found (this shell knows `reboot`)")),
                    }
                    line.put(b"# ");
                }
                8 | 127 if self.line.pop().is_some() => line.put(b"\x08 \x08"),
                8 | 127 => {}
                key if self.line.len() < 256 => {
                    self.line.push(*key);
                    line.put(&[*key]);
                }
                _ => {}
            }
        }
        typed
    }
}
