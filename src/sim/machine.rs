//! The hardware: legs, and a system that runs while all of them are on.

use super::faults::{Fault, FaultKind, Faults};
use super::firmware::{self, System};
use super::line::Line;
use super::reaper;
use pitstop_drivers::sim::{Boot, Config, Reply, Request, Status};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long processes of a machine may take to die at power-off.
const KILL: Duration = Duration::from_secs(5);
/// How often the machine looks whether its directory is still there.
const LOOK: Duration = Duration::from_secs(1);

/// A request and where its answer goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// Faults are asked about by the system while it boots.
pub type SharedFaults = Arc<Mutex<Faults>>;

/// A simulated machine.
pub struct Machine {
    config: Config,
    dir: PathBuf,
    lines: Vec<Line>,
    faults: SharedFaults,
    legs: Vec<(String, bool)>,
    /// What the newest power-on said to boot.
    boot: Boot,
    boots: u64,
    running: Option<Running>,
    /// Commands that were accepted and happen later.
    late: Vec<(Instant, Request)>,
}

struct Running {
    task: JoinHandle<()>,
    boot_id: String,
    doing: Arc<Mutex<&'static str>>,
    /// When the power fails, if it does.
    dies: Option<Instant>,
    /// Locks on the disks: no two machines run on one disk.
    _disks: Vec<File>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(config: Config, dir: PathBuf, lines: Vec<Line>) -> Result<Self, String> {
        let mut faults = Faults::default();
        for text in &config.faults {
            faults.add(text.parse::<Fault>().map_err(|e| e.to_string())?);
        }
        let legs = config.legs.iter().map(|leg| (leg.clone(), false)).collect();
        let faults = Arc::new(Mutex::new(faults));
        let mut machine = Self {
            config,
            dir,
            lines,
            faults,
            legs,
            boot: Boot::Disk,
            boots: 0,
            running: None,
            late: Vec::new(),
        };
        machine.make_disks().map_err(|e| format!("cannot make its disks: {e}"))?;
        machine.mute();
        Ok(machine)
    }

    /// Lives until it is told to stop or its directory is gone.
    pub async fn live(mut self, mut calls: mpsc::Receiver<Call>, mut typed: mpsc::Receiver<Vec<u8>>) {
        let mut keyboard = firmware::Keyboard::default();
        let mut look = tokio::time::interval(LOOK);
        loop {
            let due = self.due();
            tokio::select! {
                call = calls.recv() => {
                    let Some((request, answer)) = call else { break };
                    let stop = request == Request::Stop;
                    let reply = self.handle(request);
                    // The asker may have gone; the command counts all the same.
                    let _ = answer.send(reply);
                    if stop {
                        break;
                    }
                }
                Some(keys) = typed.recv(), if self.running.is_some() => {
                    if let Some(line) = self.lines.first()
                        && keyboard.type_in(&keys, line) == firmware::Typed::Reboot
                    {
                        self.reboot();
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.be_late(),
                _ = look.tick() => if !self.dir.join(pitstop_drivers::sim::protocol::SOCKET).exists() { break },
            }
        }
        self.power_down();
    }

    fn make_disks(&mut self) -> std::io::Result<()> {
        for disk in &self.config.disks {
            let path = self.dir.join(disk.file());
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            // A disk that is there keeps its content: it survives everything.
            if file.metadata()?.len() == 0 {
                file.set_len(disk.bytes)?;
            }
        }
        Ok(())
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mute(&self) {
        let mute = self.faults().has(&FaultKind::ConsoleMute);
        self.lines.iter().for_each(|line| line.mute(mute));
    }

    fn handle(&mut self, request: Request) -> Reply {
        let done = match request {
            Request::On { .. } | Request::Off { .. } => self.command(request),
            Request::Read { leg } => return self.read(&leg),
            Request::Status => return Reply { status: Some(self.status()), ..Reply::default() },
            Request::Reboot => {
                self.reboot();
                Ok(())
            }
            Request::Fault { fault } => self.break_with(&fault),
            Request::Heal => {
                self.faults().heal();
                self.mute();
                Ok(())
            }
            Request::Stop => Ok(()),
        };
        Reply { error: done.err(), ..Reply::default() }
    }

    fn command(&mut self, request: Request) -> Result<(), String> {
        let (Request::On { leg, .. } | Request::Off { leg }) = &request else { return Ok(()) };
        if !self.legs.iter().any(|(name, _)| name == leg) {
            return Err(format!("this machine has no leg {leg}"));
        }
        if self.faults().hits(&FaultKind::PowerIgnored) {
            return Ok(());
        }
        let late = self.faults().strike(|f| match f {
            FaultKind::PowerLate(by) => Some(*by),
            _ => None,
        });
        match late {
            Some(by) => {
                self.late.push((Instant::now() + by, request));
                Ok(())
            }
            None => self.switch(request),
        }
    }

    fn switch(&mut self, request: Request) -> Result<(), String> {
        let (leg, on) = match request {
            Request::On { leg, boot } => {
                self.boot = boot;
                (leg, true)
            }
            Request::Off { leg } => (leg, false),
            _ => return Ok(()),
        };
        for (name, state) in &mut self.legs {
            if *name == leg {
                *state = on;
            }
        }
        let all = self.legs.iter().all(|(_, on)| *on);
        match (all, self.running.is_some()) {
            (true, false) => self.power_up(),
            (false, true) => {
                self.power_down();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn read(&mut self, leg: &str) -> Reply {
        if self.faults().hits(&FaultKind::Unreadable) {
            return Reply { error: Some("the state cannot be read".into()), ..Reply::default() };
        }
        let found = self.legs.iter().find(|(name, _)| name == leg);
        match found {
            Some((_, on)) => Reply { on: Some(*on), ..Reply::default() },
            None => Reply { error: Some(format!("this machine has no leg {leg}")), ..Reply::default() },
        }
    }

    fn status(&self) -> Status {
        let running = self.running.as_ref();
        let doing = running.map_or("off", |r| *r.doing.lock().unwrap_or_else(PoisonError::into_inner));
        Status {
            pid: std::process::id(),
            legs: self.legs.clone(),
            doing: doing.to_owned(),
            boots: self.boots,
            boot_id: running.map(|r| r.boot_id.clone()),
            faults: self.faults().list(),
        }
    }

    fn break_with(&mut self, fault: &str) -> Result<(), String> {
        let fault: Fault = fault.parse().map_err(|e: super::ParseFaultError| e.to_string())?;
        match (fault.kind, &mut self.running) {
            // On a machine that runs, this is about now.
            (FaultKind::PowerLost(after), Some(running)) => running.dies = Some(Instant::now() + after),
            (kind, _) => self.faults().add(Fault { kind, left: fault.left }),
        }
        self.mute();
        Ok(())
    }

    /// The next moment at which something happens by itself.
    fn due(&self) -> Option<Instant> {
        let dies = self.running.as_ref().and_then(|r| r.dies);
        self.late.iter().map(|(at, _)| *at).chain(dies).min()
    }

    fn be_late(&mut self) {
        let now = Instant::now();
        if self.running.as_ref().and_then(|r| r.dies).is_some_and(|at| at <= now) {
            self.legs.iter_mut().for_each(|(_, on)| *on = false);
            self.power_down();
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= now);
        self.late = later;
        for (_, request) in due {
            if let Err(words) = self.switch(request) {
                eprintln!("a late command failed: {words}");
            }
        }
    }

    fn power_up(&mut self) -> Result<(), String> {
        let started = self.lock_disks().and_then(|disks| self.start(disks));
        if started.is_err() {
            self.legs.iter_mut().for_each(|(_, on)| *on = false);
        }
        started
    }

    fn start(&mut self, disks: Vec<File>) -> Result<(), String> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| format!("no randomness for a boot id: {e}"))?;
        let boot_id = hex::encode(id);
        let dies = self.faults().strike(|f| match f {
            FaultKind::PowerLost(after) => Some(Instant::now() + *after),
            _ => None,
        });
        self.boots += 1;
        let doing = Arc::new(Mutex::new("firmware"));
        let system = System {
            config: self.config.clone(),
            dir: self.dir.clone(),
            lines: self.lines.clone(),
            faults: self.faults.clone(),
            boot: self.boot.clone(),
            boot_id: boot_id.clone(),
            doing: doing.clone(),
        };
        let task = tokio::spawn(system.run());
        self.running = Some(Running { task, boot_id, doing, dies, _disks: disks });
        Ok(())
    }

    fn lock_disks(&self) -> Result<Vec<File>, String> {
        let lock = |disk: &pitstop_drivers::sim::DiskConfig| {
            let path = self.dir.join(disk.file());
            let file = File::options().read(true).write(true).open(&path);
            let file = file.map_err(|e| format!("disk {}: {e}", path.display()))?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|_| format!("disk {} is in use by another process", path.display()))?;
            Ok(file)
        };
        self.config.disks.iter().map(lock).collect()
    }

    fn power_down(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.task.abort();
        let left = reaper::kill_everything(KILL);
        if left > 0 {
            eprintln!("{left} processes do not die");
        }
    }

    /// What the system's own reboot does: the power stays on.
    fn reboot(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.power_down();
        // Parameters are good for one boot; the network may be asked again.
        if let Boot::Agent { .. } = self.boot {
            self.boot = Boot::Disk;
        }
        if let Err(words) = self.power_up() {
            eprintln!("a reboot failed: {words}");
        }
    }
}
