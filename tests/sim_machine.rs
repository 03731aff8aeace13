//! A simulated machine, whole: the real program as hardware, the real agent
//! inside, and here a decision loop that the test plays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pitstop::daemon::agents::{self, Agents, Limits};
use pitstop::daemon::hands::{Answer, Front, Places, Rig, Rigs};
use pitstop::daemon::spare::Spare;
use pitstop::daemon::{boot, tls};
use pitstop::sim::image::{Options, SEED_LEN, SEED_OFFSET, mksimimage};
use pitstop_core::event::{BootAnswer, Fact, Report};
use pitstop_core::id::Epoch;
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::{Reading, Switch};
use pitstop_core::time::LabTime;
use pitstop_drivers::sim::{self, Reply, Request, Status};
use pitstop_drivers::{PowerOn, factories};
use pitstop_image::{AddOptions, ImageStore, Seed, SeedChoice};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskMatch, Hello, ImageMode, ImageWork, Outcome, Secret, ToAgent, Welcome, Work,
};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_pitstop");

/// Accepts every token once and writes down what happens.
struct Loop {
    hellos: mpsc::UnboundedSender<(Hello, bool)>,
    reports: mpsc::UnboundedSender<Report>,
    spent: Mutex<Vec<String>>,
    boot: Mutex<BootAnswer>,
}

impl Front for Loop {
    fn hello(&self, hello: Hello) -> Answer<'_, Welcome> {
        let fresh = match &hello {
            Hello::Attach { token, .. } => {
                let mut spent = self.spent.lock().unwrap();
                let fresh = !spent.contains(&token.0);
                spent.push(token.0.clone());
                fresh
            }
            Hello::Resume { .. } => false,
        };
        self.hellos.send((hello, fresh)).unwrap();
        Box::pin(async move {
            if fresh {
                let rejoin = Some(Secret("next-boot".into()));
                Welcome::Accepted { protocol: 1, heartbeat_ms: 1000, rejoin }
            } else {
                Welcome::Refused { reason: "spent".into(), retry: false }
            }
        })
    }
    fn boot(&self, _: MachineName, _: bool) -> Answer<'_, BootAnswer> {
        let answer = self.boot.lock().unwrap().clone();
        Box::pin(async { answer })
    }
    fn fact(&self, _: Epoch, _: Fact) {}
    fn agent(&self, _: MachineName, _: String, _: String, report: Report) -> Answer<'static, ()> {
        self.reports.send(report).unwrap();
        Box::pin(async {})
    }
    fn now(&self) -> LabTime {
        LabTime(0)
    }
}

struct Lab {
    rigs: Arc<Rigs>,
    rig: Arc<Rig>,
    agents: Agents,
    images: Arc<ImageStore>,
    front: Arc<Loop>,
    hellos: mpsc::UnboundedReceiver<(Hello, bool)>,
    reports: mpsc::UnboundedReceiver<Report>,
    dir: tempfile::TempDir,
}

/// Ends the machine, however the test ends.
impl Drop for Lab {
    fn drop(&mut self) {
        end(&self.rig.site.state);
    }
}

/// Ends the machine's process in `dir`, if there is one.
fn end(dir: &Path) {
    use std::io::{Read as _, Write as _};
    if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(dir.join("control")) {
        stream.write_all(b"{\"op\":\"stop\"}\n").unwrap();
        let _ = stream.read(&mut [0; 64]);
    }
}

fn m1() -> MachineName {
    MachineName::new("m1").unwrap()
}

async fn lab(power: &str, boot_fields: &str) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "format = 1\n[machine.m1]\npower.sim = {{ disk = \"2M\", boot = \"20ms\"{power} }}\nconsole.main.sim = {{}}\n\
         boot.sim = {{ {boot_fields} }}\nready.agent = {{}}\ndisk.root = {{ match = {{ serial = \"root\" }} }}\n"
    );
    let file = dir.path().join("inventory.toml");
    std::fs::write(&file, text).unwrap();
    let inventory = Inventory::load(&file, factories()).unwrap();
    let (hello, hellos) = mpsc::unbounded_channel();
    let (report, reports) = mpsc::unbounded_channel();
    let front = Arc::new(Loop {
        hellos: hello,
        reports: report,
        spent: Mutex::default(),
        boot: Mutex::new(BootAnswer::Disk),
    });
    let images = Arc::new(ImageStore::open(&dir.path().join("images")).unwrap());
    let identity = tls::load_or_make(&dir.path().join("tls")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let boot_files = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let places = Places {
        machines: dir.path().join("machines"),
        agent: dir.path().join("agent"),
        program: PROGRAM.into(),
        address: "127.0.0.1".into(),
        agents_port: listener.local_addr().unwrap().port(),
        boot_port: Some(boot_files.local_addr().unwrap().port()),
        ca: identity.fingerprint.clone(),
    };
    let rigs = Arc::new(Rigs::new(places));
    rigs.load(factories(), &inventory);
    let agents = Agents::new(front.clone(), images.clone(), broadcast::Sender::new(8));
    let spare = Spare::keep(1).unwrap();
    tokio::spawn(agents::serve(agents.clone(), listener, identity.server, Limits::default(), spare.clone()));
    tokio::spawn(boot::serve(front.clone(), rigs.clone(), agents.clone(), Arc::default(), boot_files, spare));
    let rig = rigs.get(&m1()).unwrap();
    Lab { rigs, rig, agents, images, front, hellos, reports, dir }
}

impl Lab {
    fn params(&self, token: &str) -> AgentParams {
        let params = AgentParams {
            server: String::new(),
            ca: String::new(),
            machine: m1(),
            nonce: "n".into(),
            token: Secret(token.into()),
        };
        self.rig.complete(&self.rigs.places, params)
    }

    async fn set(&self, want: Switch, on: PowerOn) {
        let power = self.rig.leg(0).unwrap().power().unwrap();
        power.set(want, &on).await.unwrap();
    }

    async fn read(&self) -> Reading {
        self.rig.leg(0).unwrap().power().unwrap().read().await.unwrap()
    }

    async fn reads(&self, want: Reading) {
        let deadline = Instant::now() + PATIENCE;
        while self.read().await != want {
            assert!(Instant::now() < deadline, "never {want:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        sim::request(&self.rig.site.state, &request).await.unwrap().expect("no process")
    }

    async fn status(&self) -> Status {
        self.ask(Request::Status).await.status.unwrap()
    }

    async fn fault(&self, fault: &str) {
        assert_eq!(self.ask(Request::Fault { fault: fault.into() }).await.error, None);
    }

    async fn hello(&mut self) -> (Hello, bool) {
        tokio::time::timeout(PATIENCE, self.hellos.recv()).await.expect("no agent").unwrap()
    }

    async fn done(&mut self) -> Outcome {
        loop {
            match tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("no report").unwrap() {
                Report::Done { outcome, .. } => return outcome,
                Report::Lost => {}
            }
        }
    }

    /// What the console says until `want` is in it.
    async fn console(&self, want: &str) -> String {
        let (_, driver) = &self.rig.consoles()[0];
        let mut line = driver.as_ref().unwrap().open().await.unwrap();
        let mut seen = String::new();
        let mut buf = [0; 4096];
        while !seen.contains(want) {
            let n = tokio::time::timeout(PATIENCE, line.read(&mut buf)).await;
            let n = n.unwrap_or_else(|_| panic!("`{want}` never comes; seen: {seen}")).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        seen
    }

    fn disk(&self) -> PathBuf {
        self.rig.site.state.join("disk-root.img")
    }

    /// Makes a simulated image and adds it; its file and digest.
    fn image(&self, name: &str) -> (PathBuf, String) {
        let path = self.dir.path().join(name);
        mksimimage(&path, name, 1 << 20, &Options { content: 300 << 10, ..Options::default() }).unwrap();
        let seed = SeedChoice::At(Seed { offset: SEED_OFFSET, len: SEED_LEN });
        let file = std::fs::File::open(&path).unwrap();
        let manifest = self.images.add(name, file, &AddOptions { seed, ..AddOptions::default() }).unwrap();
        (path, manifest.digest.to_string())
    }

    fn tell(&self, step: u64, work: Work) {
        self.agents.tell(&m1(), "n", &ToAgent::Do { step, work });
    }

    /// Waits until the session of the agent that said hello is there.
    async fn connected(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.agents.connected(&m1(), "n") {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn write(&self, digest: &str) -> Work {
        Work::Image(ImageWork {
            disk: "root".into(),
            find: root(),
            digest: Some(digest.into()),
            mode: ImageMode::Write,
        })
    }
}

fn root() -> DiskMatch {
    DiskMatch { serial: Some("root".into()), ..DiskMatch::default() }
}

#[tokio::test]
async fn on_attach_image_seed_off_disk_host_agent_reboot_rejoin() {
    let mut lab = lab("", "").await;
    let (file, digest) = lab.image("blue");
    assert_eq!(lab.read().await, Reading::Off);
    lab.set(Switch::On, PowerOn::Agent(lab.params("first"))).await;
    lab.reads(Reading::On).await;
    let (hello, fresh) = lab.hello().await;
    assert!(fresh && matches!(hello, Hello::Attach { kind: AgentKind::Boot, .. }), "{hello:?}");
    lab.connected().await;
    lab.tell(1, lab.write(&digest));
    let Outcome::Proven(proof) = lab.done().await else { panic!("not proven") };
    assert_eq!((proof.device_bytes, proof.read_bytes), (2 << 20, 2 << 20));
    let mut want = std::fs::read(&file).unwrap();
    want.resize(2 << 20, 0);
    assert!(std::fs::read(lab.disk()).unwrap() == want, "the disk is not the image");
    lab.tell(
        2,
        Work::Seed { find: root(), offset: SEED_OFFSET, len: SEED_LEN, params: lab.params("second") },
    );
    assert_eq!(lab.done().await, Outcome::Seeded);

    let before = lab.status().await;
    lab.set(Switch::Off, PowerOn::Own).await;
    lab.reads(Reading::Off).await;
    lab.set(Switch::On, PowerOn::Disk).await;
    let (hello, fresh) = lab.hello().await;
    assert!(fresh && matches!(hello, Hello::Attach { kind: AgentKind::Host, .. }), "{hello:?}");
    lab.console("blue login:").await;
    lab.connected().await;
    let first = lab.status().await;
    assert_ne!(first.boot_id, before.boot_id);
    // It keeps its token for the next boot where the seed was.
    let deadline = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&std::fs::read(lab.disk()).unwrap()).contains("next-boot") {
        assert!(Instant::now() < deadline, "the rejoin token is not on the disk");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // The tenant reboots: the power stays on, the boot is a new one.
    lab.ask(Request::Reboot).await;
    let (hello, _) = lab.hello().await;
    let Hello::Attach { kind: AgentKind::Host, token, boot_id, .. } = hello else { panic!("{hello:?}") };
    assert_eq!(token.0, "next-boot");
    assert_eq!(Some(boot_id), lab.status().await.boot_id);
    assert_ne!(lab.status().await.boot_id, first.boot_id);
    assert_eq!(lab.read().await, Reading::On);
}

#[tokio::test]
async fn power_off_ends_everything_that_runs_on_the_machine() {
    let mut lab = lab("", "").await;
    lab.set(Switch::On, PowerOn::Agent(lab.params("t"))).await;
    lab.hello().await;
    let pid = lab.status().await.pid;
    let children = || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).unwrap().split_whitespace().count()
    };
    assert!(children() > 0);
    lab.set(Switch::Off, PowerOn::Own).await;
    assert_eq!(children(), 0);
    assert_eq!(lab.status().await.doing, "off");
}

#[tokio::test]
async fn a_machine_outlives_the_daemon_that_started_it() {
    let lab = lab("", "").await;
    let state = lab.rig.site.state.clone();
    std::fs::create_dir_all(&state).unwrap();
    let config = pitstop_drivers::power::sim::config(&lab.rig.site);
    std::fs::write(state.join("machine.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    // A daemon that is killed, as a process group, the way a terminal or a
    // service manager does it.
    let mut daemon = Command::new("sh")
        .args(["-c", "\"$1\" sim-machine --dir \"$2\" --name m1 >\"$2/said\" & wait", "sh", PROGRAM])
        .arg(&state)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(state.join("said")).unwrap_or_default() != "ready\n" {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.set(Switch::On, PowerOn::Disk).await;
    let before = lab.status().await;
    let group = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    daemon.wait().unwrap();
    let after = lab.status().await;
    assert_eq!((after.pid, after.boot_id, after.boots), (before.pid, before.boot_id, 1));
    // A second process for the same machine does not come to be.
    let second =
        Command::new(PROGRAM).args(["sim-machine", "--name", "m1", "--dir"]).arg(&state).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&second.stdout), "taken\n");
    sim::stop(&state).await.unwrap();
    assert_eq!(lab.read().await, Reading::Off);
}

#[tokio::test]
async fn a_machine_whose_directory_is_gone_ends() {
    let lab = lab("", "").await;
    lab.set(Switch::On, PowerOn::Disk).await;
    let pid = lab.status().await.pid;
    std::fs::remove_dir_all(&lab.rig.site.state).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // It is this process's child, so its end leaves an empty command line.
    while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(Instant::now() < deadline, "it lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn faults_of_power() {
    let lab = lab(", faults = [\"power-ignored*1\"]", "").await;
    lab.set(Switch::On, PowerOn::Disk).await;
    assert_eq!(lab.read().await, Reading::Off, "accepted without effect");
    lab.fault("power-late:2000*1").await;
    lab.set(Switch::On, PowerOn::Disk).await;
    assert_eq!(lab.read().await, Reading::Off, "late");
    lab.reads(Reading::On).await;
    lab.fault("power-lost").await;
    lab.reads(Reading::Off).await;
    lab.fault("unreadable*1").await;
    lab.rig.leg(0).unwrap().power().unwrap().read().await.unwrap_err();
    assert_eq!(lab.read().await, Reading::Off);
    assert!(lab.ask(Request::Fault { fault: "pancake".into() }).await.error.unwrap().contains("no fault"));
}

#[tokio::test]
async fn faults_of_boot() {
    let mut lab = lab(", faults = [\"panic*1\", \"never-boots*1\"]", "").await;
    lab.set(Switch::On, PowerOn::Agent(lab.params("a"))).await;
    lab.console("POST code").await;
    lab.set(Switch::Off, PowerOn::Own).await;
    lab.set(Switch::On, PowerOn::Agent(lab.params("b"))).await;
    lab.console("Kernel panic - not syncing").await;
    lab.set(Switch::Off, PowerOn::Own).await;
    lab.fault("agent-silent*1").await;
    lab.set(Switch::On, PowerOn::Agent(lab.params("c"))).await;
    lab.console("Run /init").await;
    lab.set(Switch::Off, PowerOn::Own).await;
    assert!(lab.hellos.try_recv().is_err(), "no agent came so far");
    lab.fault("agent-twice*1").await;
    lab.fault("agent-late:50*1").await;
    lab.set(Switch::On, PowerOn::Agent(lab.params("d"))).await;
    let (_, first) = lab.hello().await;
    let (_, second) = lab.hello().await;
    assert!(first && !second, "the second of two agents is refused");
    lab.set(Switch::Off, PowerOn::Own).await;
    lab.set(Switch::On, PowerOn::Disk).await;
    lab.console("No bootable device.").await;
}

#[tokio::test]
async fn a_bit_that_flips_on_the_disk_is_found() {
    let mut lab = lab(", faults = [\"image-corrupt*1\"]", "").await;
    let (_, digest) = lab.image("blue");
    lab.set(Switch::On, PowerOn::Agent(lab.params("t"))).await;
    lab.hello().await;
    lab.connected().await;
    lab.tell(1, lab.write(&digest));
    let outcome = lab.done().await;
    assert!(matches!(&outcome, Outcome::Failed { image: false, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_machine_that_boots_from_the_network_asks_what_to_boot() {
    let mut lab = lab("", "delivery = \"http\"").await;
    *lab.front.boot.lock().unwrap() = BootAnswer::Agent(lab.params("net"));
    let url = lab.rig.boot().unwrap().power_on(pitstop_drivers::Target::AsIs).unwrap();
    lab.set(Switch::On, url.clone()).await;
    let (hello, fresh) = lab.hello().await;
    assert!(fresh && matches!(hello, Hello::Attach { kind: AgentKind::Boot, .. }));
    lab.set(Switch::Off, PowerOn::Own).await;
    *lab.front.boot.lock().unwrap() = BootAnswer::Disk;
    lab.set(Switch::On, url.clone()).await;
    lab.console("No bootable device.").await;
    lab.set(Switch::Off, PowerOn::Own).await;
    *lab.front.boot.lock().unwrap() = BootAnswer::Refused("not now".into());
    lab.set(Switch::On, url).await;
    lab.console("the script boots nothing").await;
    assert!(lab.hellos.try_recv().is_err());
}
