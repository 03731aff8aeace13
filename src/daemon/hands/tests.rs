mod drives;

use super::rig::LegRig;
use super::*;
use pitstop_core::event::{BootAnswer, Report};
use pitstop_core::inventory::Inventory;
use pitstop_core::time::LabTime;
use pitstop_drivers::power::fake::{Fake, Turn};
use pitstop_drivers::{Delivery, DriverError, PowerOn, Site, Target, factories};
use pitstop_image::ImageStore;
use pitstop_wire::agent::{AgentParams, Hello, Secret, Welcome};
use std::path::Path;
use std::time::Instant;
use tokio::sync::{broadcast, mpsc};

/// Lab time stands still here, unless a test moves it.
const NOW: LabTime = LabTime(7);

/// A decision loop that writes down what it hears.
struct Loop {
    facts: mpsc::UnboundedSender<(Epoch, Fact)>,
    boot: BootAnswer,
    asked: Mutex<Vec<MachineName>>,
    /// By how much the clock will have moved when it is next looked at, and
    /// from then on.
    moves: Mutex<Vec<u64>>,
}

impl Front for Loop {
    fn hello(&self, _: Hello) -> Answer<'_, Welcome> {
        Box::pin(async { Welcome::Refused { reason: "nobody".into(), retry: false } })
    }
    fn boot(&self, machine: MachineName, lane: bool) -> Answer<'_, BootAnswer> {
        assert!(lane);
        let mut asked = self.asked.lock().unwrap();
        asked.push(machine);
        let answer = match &self.boot {
            // Only the first answer is in doubt.
            BootAnswer::NotKnown(_) if asked.len() > 1 => BootAnswer::Agent(params()),
            other => other.clone(),
        };
        Box::pin(async { answer })
    }
    fn fact(&self, epoch: Epoch, fact: Fact) {
        self.facts.send((epoch, fact)).unwrap();
    }
    fn agent(&self, _: MachineName, _: String, _: String, _: Report) -> Answer<'static, ()> {
        Box::pin(async {})
    }
    fn now(&self) -> LabTime {
        let mut moves = self.moves.lock().unwrap();
        let moved = moves.first().copied().unwrap_or(0);
        if moves.len() > 1 {
            moves.remove(0);
        }
        NOW + moved
    }
}

struct NoConsoles;
impl Attention for NoConsoles {
    fn ready<'a>(&'a self, _: &'a MachineName, _: Duration) -> Answer<'a, ()> {
        Box::pin(async {})
    }
    fn lines(&self, _: &MachineName) -> Vec<(String, Result<String, String>)> {
        Vec::new()
    }
    fn says(&self, _: &MachineName, _: &str, _: regex::Regex) -> Answer<'static, Result<String, String>> {
        Box::pin(async { Err("there are no consoles".to_owned()) })
    }
    fn follow(&self, _: &Rigs) {}
    fn know(&self, _: &pitstop_core::Lab, _: Option<&std::collections::BTreeSet<&MachineName>>) {}
}

/// A boot path whose parameters travel with the power-on.
struct Carried;
impl pitstop_drivers::Boot for Carried {
    fn delivery(&self) -> Delivery {
        Delivery::PowerOn
    }
    fn look(&self) -> Result<String, DriverError> {
        Ok(String::new())
    }
    fn power_on(&self, target: Target<'_>) -> Result<PowerOn, DriverError> {
        Ok(match target {
            Target::Agent(params) => PowerOn::Agent(params.unwrap().clone()),
            Target::Disk => PowerOn::Disk,
            Target::AsIs => PowerOn::Own,
        })
    }
}

struct Bench {
    hands: LabHands,
    front: Arc<Loop>,
    facts: mpsc::UnboundedReceiver<(Epoch, Fact)>,
    _dir: tempfile::TempDir,
}

fn name(text: &str) -> MachineName {
    MachineName::new(text).unwrap()
}

fn params() -> AgentParams {
    AgentParams {
        server: String::new(),
        ca: String::new(),
        machine: name("m1"),
        nonce: "n".into(),
        token: Secret("t".into()),
    }
}

fn places(dir: &Path) -> Places {
    Places {
        machines: dir.join("machines"),
        agent: dir.join("agent"),
        program: "/nonexistent".into(),
        address: "127.0.0.1".into(),
        agents_port: 7443,
        boot_port: None,
        ca: "cafe".into(),
    }
}

fn spec(dir: &Path, machine: &str, legs: &str) -> pitstop_core::inventory::MachineSpec {
    // With a disk: `power.none` is a leg only there.
    let rest = "console = {}\nboot.power = {}\ndisk.root = {}\nready.agent = {}\n";
    let text = format!("format = 1\n[machine.{machine}]\n{legs}\n{rest}");
    let path = dir.join(format!("{machine}.toml"));
    std::fs::write(&path, text).unwrap();
    Inventory::load(&path, factories()).unwrap().machines.remove(&name(machine)).unwrap()
}

/// A bench with machines of scripted legs. Their inventory only gives the
/// number of legs and what every leg has.
fn bench(boot: BootAnswer, machines: &[(&str, &str, &[&Arc<Fake>])]) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (sender, facts) = mpsc::unbounded_channel();
    let front = Arc::new(Loop { facts: sender, boot, asked: Mutex::default(), moves: Mutex::default() });
    let images = Arc::new(ImageStore::open(&dir.path().join("images")).unwrap());
    let agents = Agents::new(front.clone(), images, broadcast::Sender::new(8));
    let rigs = Arc::new(Rigs::new(places(dir.path())));
    for (machine, legs, fakes) in machines {
        let spec = Arc::new(spec(dir.path(), machine, legs));
        let rig_legs = spec.legs.iter().zip(*fakes);
        let rig_legs = rig_legs.map(|(leg, fake)| LegRig::new(leg.clone(), Ok((*fake).clone()))).collect();
        let site = Site {
            spec: spec.clone(),
            state: dir.path().join(machine),
            program: "/nonexistent".into(),
            agent: dir.path().join("agent"),
            boot_port: None,
            address: "127.0.0.1".into(),
            hosts: Arc::default(),
            controllers: Arc::default(),
        };
        rigs.insert(Rig::of(site, rig_legs, Arc::new(Carried)));
    }
    let hands = LabHands::new(front.clone(), agents, Arc::new(NoConsoles), rigs);
    Bench { hands, front, facts, _dir: dir }
}

const ONE: &str = "power.none = {}";
const TWO: &str = "power.none = {}\nmains.none = {}";

fn order(
    machine: &str,
    leg: usize,
    intent: u64,
    want: Switch,
    boot: pitstop_core::effect::Boot,
    within: u64,
) -> Effect {
    Effect::Power { machine: name(machine), leg, intent, want, boot, until: NOW + within }
}
use pitstop_core::effect::Boot::{Agent as BootAgent, AsIs, Disk};

impl Bench {
    fn release(&self, effects: Vec<Effect>) {
        self.hands.release(effects, Epoch(3));
    }

    /// An on of m1 is given, and hangs at its controller.
    async fn hang(&self, fake: &Fake) {
        fake.script([Turn::Hang]);
        self.release(vec![order("m1", 0, 1, Switch::On, Disk, 60_000)]);
        while fake.log().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    async fn power(&mut self) -> (MachineName, usize, IntentId, Result<Reading, String>, bool) {
        let wait = tokio::time::timeout(Duration::from_secs(30), self.facts.recv());
        match wait.await.expect("no report").unwrap() {
            (Epoch(3), Fact::Power { machine, leg, intent, result, witnessed, .. }) => {
                (machine, leg, intent, result, witnessed)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn off_overtakes_an_on_that_hangs() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    bench.hang(&fake).await;
    // The hung command had the controller's only place; the machine runs.
    fake.force(true);
    bench.release(vec![order("m1", 0, 2, Switch::Off, AsIs, 30_000)]);
    let (_, _, intent, result, witnessed) = bench.power().await;
    assert_eq!((intent, result, witnessed), (2, Ok(Reading::Off), true));
    assert!(bench.facts.try_recv().is_err(), "the command that was overtaken reports nothing");
}

#[tokio::test]
async fn a_store_in_trouble_is_blamed_on_the_machine() {
    let fake = Arc::new(Fake::new("q"));
    let doubt = BootAnswer::NotKnown("the disk is full".into());
    let mut bench = bench(doubt, &[("m1", ONE, &[&fake])]);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 30_000)]);
    let (.., result, _) = bench.power().await;
    assert_eq!(result, Ok(Reading::On));
    assert_eq!(bench.front.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_command_is_sent_after_its_time() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    // In time when it begins; stopped for a minute before it is sent.
    *bench.front.moves.lock().unwrap() = vec![0, 60_000];
    bench.release(vec![order("m1", 0, 1, Switch::On, Disk, 30_000)]);
    let (.., result, _) = bench.power().await;
    let told = result.unwrap_err();
    assert!(told.contains("its time was over before it was sent"), "{told}");
    assert!(fake.log().is_empty(), "{:?}", fake.log());
}

#[tokio::test]
async fn what_is_so_already_is_not_commanded_again() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Agent(params()), &[("m1", ONE, &[&fake])]);
    bench.release(vec![order("m1", 0, 1, Switch::Off, AsIs, 5_000)]);
    let (.., result, witnessed) = bench.power().await;
    assert_eq!((result, witnessed), (Ok(Reading::Off), true));
    assert!(fake.log().is_empty());
    assert!(fake.reads() >= 2, "one reading is no evidence");
}

#[tokio::test]
async fn a_dead_controller_delays_nobody_else() {
    let (dead, well) = (Arc::new(Fake::new("dead")), Arc::new(Fake::new("well")));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&dead]), ("m2", ONE, &[&well])]);
    dead.script([Turn::Hang]);
    bench.release(vec![
        order("m1", 0, 1, Switch::On, Disk, 2_000),
        order("m2", 0, 1, Switch::On, Disk, 30_000),
    ]);
    let (machine, .., result, _) = bench.power().await;
    assert_eq!((machine, result), (name("m2"), Ok(Reading::On)));
    let (machine, .., result, witnessed) = bench.power().await;
    assert_eq!(machine, name("m1"));
    assert_eq!((result, witnessed), (Ok(Reading::Off), true), "what was read last is told, and it is not on");
}

#[tokio::test]
async fn legs_come_on_one_after_the_other() {
    let (first, second) = (Arc::new(Fake::new("a")), Arc::new(Fake::new("b")));
    let mut bench = bench(BootAnswer::Agent(params()), &[("m1", TWO, &[&first, &second])]);
    first.script([Turn::Late(Duration::from_millis(50))]);
    bench.release(vec![
        order("m1", 0, 1, Switch::On, AsIs, 30_000),
        order("m1", 1, 2, Switch::On, BootAgent, 30_000),
    ]);
    let (_, leg, ..) = bench.power().await;
    assert_eq!(leg, 0);
    let (_, leg, ..) = bench.power().await;
    assert_eq!(leg, 1);
    let carried = AgentParams { server: "127.0.0.1:7443".into(), ca: "cafe".into(), ..params() };
    assert_eq!(first.log(), [(Switch::On, PowerOn::Own)]);
    assert_eq!(second.log(), [(Switch::On, PowerOn::Agent(carried))], "with the last leg the machine boots");
}

#[tokio::test]
async fn a_machine_is_not_switched_on_without_the_parameters_it_needs() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Refused("the attempt is burned".into()), &[("m1", ONE, &[&fake])]);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 5_000)]);
    let (.., result, _) = bench.power().await;
    assert!(result.unwrap_err().contains("burned"));
    assert!(fake.log().is_empty());
    assert_eq!(bench.front.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_command_that_failed_is_believed_only_after_a_look() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    fake.script([Turn::RefuseYetObey("timeout".into())]);
    bench.release(vec![order("m1", 0, 1, Switch::On, Disk, 20_000)]);
    let (.., result, _) = bench.power().await;
    assert_eq!(result, Ok(Reading::On));
    assert_eq!(fake.log().len(), 1, "it worked: said once");
}

#[tokio::test]
async fn one_reading_that_flickers_is_believed() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    fake.force(true);
    fake.flickers(true);
    // Whenever its time is over: also right after the wrong reading.
    for within in 1..=60 {
        fake.script([Turn::Ignore]);
        bench.release(vec![order("m1", 0, within, Switch::Off, AsIs, within)]);
        let (.., result, _) = bench.power().await;
        let believed = result.as_ref().is_ok_and(|r| r.shows(Switch::Off));
        assert!(!believed, "it is on, and was called {result:?} after {within} ms");
    }
    assert!(fake.reads() > 60, "nobody looked");
    for _ in 0..4 {
        bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
        let (_, fact) = bench.facts.recv().await.unwrap();
        assert!(matches!(fact, Fact::Read { reading: Reading::Unknown, .. }), "one look: {fact:?}");
        while !bench.hands.inner.looking().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_no_success() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    fake.unreadable(true);
    bench.release(vec![order("m1", 0, 1, Switch::Off, AsIs, 100)]);
    let (.., result, witnessed) = bench.power().await;
    assert!(result.unwrap_err().contains("no answer"));
    assert!(!witnessed);
    bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
    let (_, fact) = bench.facts.recv().await.unwrap();
    assert!(matches!(fact, Fact::Read { reading: Reading::Unknown, asked: LabTime(7), .. }));
}

#[tokio::test]
async fn a_leg_that_cannot_be_read_is_assumed_after_its_time() {
    let fake = Arc::new(Fake::new("q"));
    let leg = "power.none = { readback = \"none\", min_off = \"30ms\" }";
    let mut bench = bench(BootAnswer::Disk, &[("m1", leg, &[&fake])]);
    fake.unreadable(true);
    let begin = Instant::now();
    bench.release(vec![order("m1", 0, 1, Switch::Off, AsIs, 20_000)]);
    let (.., result, witnessed) = bench.power().await;
    assert_eq!((result, witnessed), (Ok(Reading::Assumed(Switch::Off)), false));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    // Its row keeps that; a second memory here would outlive what the row
    // learned since.
    bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
    let (_, fact) = bench.facts.recv().await.unwrap();
    assert!(matches!(fact, Fact::Read { reading: Reading::Unknown, .. }), "{fact:?}");
    assert_eq!(fake.reads(), 0, "there is nothing to read");
}

#[tokio::test]
async fn a_controller_that_hangs_collects_no_readings() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = bench(BootAnswer::Disk, &[("m1", ONE, &[&fake])]);
    bench.hang(&fake).await;
    for _ in 0..100 {
        bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
        tokio::task::yield_now().await;
    }
    // The hung command is given up, and its place at the controller is free.
    bench.release(vec![order("m1", 0, 2, Switch::Off, AsIs, 30_000)]);
    let mut readings = 0;
    let mut powered = false;
    while readings < 2 || !powered {
        let wait = tokio::time::timeout(Duration::from_secs(30), bench.facts.recv());
        match wait.await.expect("no report").unwrap().1 {
            Fact::Read { .. } => readings += 1,
            Fact::Power { .. } => powered = true,
            other => panic!("nobody asked for {other:?}"),
        }
    }
    while !bench.hands.inner.looking().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(bench.facts.try_recv().is_err(), "one was under way, and one more is as new as all the others");
    bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
    assert!(matches!(bench.facts.recv().await.unwrap().1, Fact::Read { reading: Reading::Off, .. }));
}

#[tokio::test]
async fn a_machine_stays_off_for_as_long_as_it_needs() {
    let fake = Arc::new(Fake::new("q"));
    let leg = "power.none = { min_off = \"150ms\" }";
    let mut bench = bench(BootAnswer::Disk, &[("m1", leg, &[&fake])]);
    fake.force(true);
    // Before it is off: however late this test hears of it, no less time has passed.
    let on = Instant::now();
    bench.release(vec![order("m1", 0, 1, Switch::Off, AsIs, 20_000)]);
    assert!(bench.power().await.3.is_ok());
    bench.release(vec![order("m1", 0, 2, Switch::On, Disk, 20_000)]);
    assert!(bench.power().await.3.is_ok());
    assert!(on.elapsed() >= Duration::from_millis(150), "{:?}", on.elapsed());
}

#[tokio::test]
async fn a_driver_that_cannot_be_made_is_told_before_the_reload_and_no_other_machine_suffers() {
    let dir = tempfile::tempdir().unwrap();
    let load = |machines: &[(&str, &str)]| {
        let mut text = "format = 1\n".to_owned();
        for (machine, boot) in machines {
            text += &format!("[machine.{machine}]\npower.none = {{}}\nconsole = {{}}\nboot.{boot}\n");
            text += "disk.root = {}\nready.agent = {}\n";
        }
        let path = dir.path().join("inventory.toml");
        std::fs::write(&path, text).unwrap();
        Inventory::load(&path, factories()).unwrap()
    };
    let places = Places { boot_port: Some(1), ..places(dir.path()) };
    let rigs = Rigs::new(places);
    let bad = ("m1", "http = { address = \"m1.lab\" }");
    rigs.load(factories(), &load(&[("m1", "http = {}")]));
    let error = rigs.check(factories(), &load(&[bad])).unwrap_err();
    assert!(error.contains("m1.lab"), "{error}");
    assert!(rigs.get(&name("m1")).unwrap().boot().is_ok(), "looking changed something");
    // What was so before is no reason to refuse what is well.
    rigs.load(factories(), &load(&[bad]));
    rigs.check(factories(), &load(&[bad, ("m2", "power = {}")])).unwrap();
}
