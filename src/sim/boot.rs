//! The agent's process on a simulated machine, from inside: the real agent
//! library, with disks that are files.

use pitstop_agent::sandbox::{Helper, Namespaces, Place};
use pitstop_agent::{Agent, Options, Platform, PlatformError, Say, host};
use pitstop_drivers::sim::DiskConfig;
use pitstop_image::Seed;
use pitstop_wire::agent::{AgentKind, AgentParams, Hardware, SeenDisk};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What to be: handed over on standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The machine.
    pub machine: String,
    /// Host name of what runs.
    pub hostname: String,
    /// The boot this is.
    pub boot_id: String,
    /// The machine's directory.
    pub dir: PathBuf,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// Boot agent: its parameters.
    pub params: Option<AgentParams>,
    /// Host agent: where its seed is on the first disk.
    pub seed: Option<Seeded>,
    /// Of each disk a bit flips after it was written, before it is read back.
    pub corrupt: bool,
    /// How it is not what it was.
    #[serde(default)]
    pub odd: Odd,
}

/// What somebody did at the bench.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Odd {
    /// Another disk is in the place of the first.
    pub disk: bool,
    /// Another machine is plugged in, with disks of its own.
    pub machine: bool,
    /// A part of the memory is gone.
    pub memory: bool,
}

/// A seed area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeded {
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// `pitstop sim-boot`: one agent, until it ends or the machine does.
pub fn main() -> ExitCode {
    match live() {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("pitstop-agent: {words}");
            ExitCode::FAILURE
        }
    }
}

fn live() -> Result<(), String> {
    // The machine's process is the machine: without it there is no power.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("prctl: {e}"))?;
    let mut text = Vec::new();
    std::io::stdin().lock().take(1 << 20).read_to_end(&mut text).map_err(|e| format!("no job: {e}"))?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| format!("no job: {e}"))?;
    let platform: Arc<dyn Platform> = Arc::new(SimPlatform { job: job.clone() });
    let agent = match (job.params, job.seed, job.disks.first()) {
        (Some(params), _, _) => {
            let say = Say::stderr();
            Agent::start(Options { kind: AgentKind::Boot, params, platform, say, keep_rejoin: None })
                .map_err(|e| e.to_string())?
        }
        (None, Some(seed), Some(disk)) => {
            let area = Seed { offset: seed.offset, len: seed.len };
            let place = host::SeedPlace { device: job.dir.join(disk.file()), area };
            host::start(place, platform, Say::stderr()).map_err(|e| e.to_string())?
        }
        _ => return Err("the job names neither parameters nor a seed".into()),
    };
    agent.wait();
    Ok(())
}

/// A machine whose disks are files.
struct SimPlatform {
    job: Job,
}

impl Platform for SimPlatform {
    fn boot_id(&self) -> String {
        self.job.boot_id.clone()
    }

    fn hardware(&self) -> Result<Hardware, PlatformError> {
        let odd = self.job.odd;
        let mut disks = Vec::new();
        for (number, disk) in self.job.disks.iter().enumerate() {
            let path = self.job.dir.join(disk.file());
            let what = path.display().to_string();
            let meta = std::fs::metadata(&path)
                .map_err(|source| PlatformError::Io { what: what.clone(), source })?;
            disks.push(SeenDisk {
                path: what,
                bytes: meta.len(),
                serial: Some(match odd.machine || (odd.disk && number == 0) {
                    true => format!("{}-other", disk.name),
                    false => disk.name.clone(),
                }),
                bus: "virtio".into(),
                ..SeenDisk::default()
            });
        }
        let machine =
            if odd.machine { format!("{}-other", self.job.machine) } else { self.job.machine.clone() };
        Ok(Hardware {
            disks,
            macs: vec![mac(&machine)],
            memory: if odd.memory { 256 << 20 } else { 512 << 20 },
            cpus: 1,
            cores: 1,
            arch: std::env::consts::ARCH.to_owned(),
            serial: Some(format!("SIM-{machine}")),
            uuid: None,
            model: Some("pitstop simulated machine".to_owned()),
            firmware: [("bios".to_owned(), "1.0".to_owned())].into(),
        })
    }

    fn written(&self, disk: &Path) {
        if !self.job.corrupt {
            return;
        }
        match flip_a_bit(disk) {
            Ok(()) => eprintln!("[    1.618033] disk: a bit flipped at byte 0"),
            Err(e) => eprintln!("[    1.618033] disk: no bit could be flipped: {e}"),
        }
    }

    fn place(&self) -> Place {
        Place::Namespaces(Namespaces {
            helper: Helper::this_program(["sim-sandbox"]),
            hostname: self.job.hostname.clone(),
            disk: self.job.disks.first().map(|disk| self.job.dir.join(disk.file())),
            steps: Some(Helper::this_program(["sim-step"])),
        })
    }
}

/// A locally administered address (IEEE 802: bit 1 of the first byte), the
/// same for a machine at every boot.
fn mac(machine: &str) -> String {
    let hash = blake3::hash(machine.as_bytes());
    let b = hash.as_bytes();
    format!("52:54:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3])
}

/// Spoils the first byte.
fn flip_a_bit(path: &Path) -> std::io::Result<()> {
    let disk = std::fs::File::options().read(true).write(true).open(path)?;
    let mut first = [0];
    disk.read_exact_at(&mut first, 0)?;
    disk.write_all_at(&[first[0] ^ 1], 0)
}
