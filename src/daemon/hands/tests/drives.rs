//! CDs that are lent for an attempt, and taken out again.

use super::*;
use pitstop_drivers::boot::medium::{self, BLOCK, FILE, SERVED};
use pitstop_wire::agent::{ToAgent, Work};

const POWER: &str = "power.redfish = { address = \"bmc.lab\" }";

/// A bench whose machine m1 boots from a virtual CD.
fn with_drive(fields: &str, fake: &Arc<Fake>) -> Bench {
    let bench = bench(BootAnswer::Agent(params()), &[]);
    let dir = bench._dir.path();
    let agent = dir.join("agent");
    std::fs::create_dir(&agent).unwrap();
    std::fs::write(agent.join(FILE), [vec![0; 2048], medium::empty_block()].concat()).unwrap();
    let text = format!(
        "format = 1\n[machine.m1]\n{POWER}\nconsole = {{}}\nboot.virtual-media = {{ {fields} }}\ndisk.root = {{}}\n\
         ready.agent = {{}}\ntimeout = {{ power = \"1s\", firmware = \"1s\", attach = \"1s\" }}\n"
    );
    let path = dir.join("m1.toml");
    std::fs::write(&path, text).unwrap();
    let spec = Inventory::load(&path, factories()).unwrap().machines.remove(&name("m1")).unwrap();
    let spec = Arc::new(spec);
    let site = Site {
        spec: spec.clone(),
        state: dir.join("m1"),
        program: "/nonexistent".into(),
        agent,
        boot_port: Some(8069),
        address: "127.0.0.1".into(),
        hosts: Arc::default(),
        controllers: Arc::default(),
    };
    let boot = medium::make(&site).unwrap();
    let leg = LegRig::new(spec.legs[0].clone(), Ok(fake.clone()));
    bench.hands.inner.rigs.insert(Rig::of(site, vec![leg], boot));
    bench
}

fn look() -> Effect {
    let message = ToAgent::Do { step: 1, work: Work::Look };
    Effect::Tell { machine: name("m1"), nonce: "n".into(), message }
}

/// Waits until the drive was treated so.
async fn until(fake: &Fake, what: &[&str]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let short = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    while fake.drive().iter().map(short).collect::<Vec<_>>() != what {
        assert!(tokio::time::Instant::now() < deadline, "{:?} instead of {what:?}", fake.drive());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Bench {
    fn lent(&self) -> bool {
        self.hands.inner.rigs.media.end(&name("m1")).is_some()
    }
}

#[tokio::test]
async fn a_cd_is_in_before_power_on_and_out_when_the_agent_speaks() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("", &fake);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 30_000)]);
    let (.., result, _) = bench.power().await;
    assert_eq!(result, Ok(Reading::On));
    let drive = fake.drive();
    // Nobody knows what is in it when the daemon starts.
    assert_eq!(drive[0], "out");
    let url = drive[1].strip_prefix("in ").unwrap();
    assert!(url.starts_with(&format!("http://127.0.0.1:8069{SERVED}")), "{url}");
    assert_eq!(fake.log(), [(Switch::On, PowerOn::Medium { url: Secret(url.to_owned()) })]);
    bench.release(vec![look()]);
    until(&fake, &["out", "in", "out"]).await;
    assert!(!bench.lent(), "the agent speaks, and its parameters can still be read");
    bench.release(vec![look()]);
    bench.release(vec![order("m1", 0, 2, Switch::Off, Disk, 30_000)]);
    assert!(bench.power().await.3.is_ok());
    bench.release(vec![order("m1", 0, 3, Switch::On, Disk, 30_000)]);
    assert!(bench.power().await.3.is_ok());
    assert_eq!(fake.log().last().unwrap(), &(Switch::On, PowerOn::Disk));
    until(&fake, &["out", "in", "out"]).await;
}

#[tokio::test]
async fn a_bmc_that_fetches_cannot_be_read_or_is_not_waited_for() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("fetch = \"5m\"", &fake);
    fake.script_insertions([Turn::Hang, Turn::Late(Duration::from_millis(1_500))]);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 300_000 + 1_000)]);
    until(&fake, &["out", "in"]).await;
    bench.release(vec![Effect::Observe { machine: name("m1"), leg: 0 }]);
    let (_, fact) = bench.facts.recv().await.unwrap();
    assert!(matches!(fact, Fact::Read { reading: Reading::Off, .. }), "{fact:?}");
    assert!(fake.log().is_empty(), "switched on before the CD was in");
    // Off overtakes it, and another attempt takes as long as it takes.
    bench.release(vec![order("m1", 0, 2, Switch::Off, Disk, 30_000)]);
    assert_eq!(bench.power().await.3, Ok(Reading::Off));
    until(&fake, &["out", "in", "out"]).await;
    bench.release(vec![order("m1", 0, 3, Switch::On, BootAgent, 300_000 + 1_000)]);
    assert_eq!(bench.power().await.3, Ok(Reading::On));
    assert_eq!(fake.log().len(), 1);
}

#[tokio::test]
async fn one_that_never_has_it_is_told_with_what_it_fetched() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("", &fake);
    fake.script_insertions([Turn::Hang]);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 6_000)]);
    let told = bench.power().await.3.unwrap_err();
    assert!(told.contains("boot.virtual-media: could not have m1 boot from the medium"), "{told}");
    assert!(told.contains("asked this daemon for nothing") && told.contains("`fetch`"), "{told}");
    assert!(fake.log().is_empty(), "switched on without its CD");
    let key = fake.drive()[1].split(SERVED).nth(1).unwrap().to_owned();
    assert!(!told.contains(key.split('/').next().unwrap()), "{told}");
    // What comes next takes out whatever came of it.
    bench.release(vec![order("m1", 0, 2, Switch::Off, Disk, 30_000)]);
    assert_eq!(bench.power().await.3, Ok(Reading::Off));
    until(&fake, &["out", "in", "out"]).await;
    assert!(!bench.lent());
}

#[tokio::test]
async fn a_refusal_that_stands_is_the_answer_at_once() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("", &fake);
    fake.script_insertions([Turn::Refuse("no licence".into())]);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 5_000)]);
    let told = bench.power().await.3.unwrap_err();
    assert!(told.contains("no licence"), "{told}");
    assert!(fake.log().is_empty());
}

#[tokio::test]
async fn off_takes_the_cd_out_and_a_loan_ends_by_itself() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("", &fake);
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 30_000)]);
    assert!(bench.power().await.3.is_ok());
    bench.release(vec![order("m1", 0, 2, Switch::Off, Disk, 30_000)]);
    assert!(bench.power().await.3.is_ok());
    until(&fake, &["out", "in", "out"]).await;
    bench.release(vec![order("m1", 0, 3, Switch::On, BootAgent, 30_000)]);
    assert!(bench.power().await.3.is_ok());
    // Nobody says anything any more: its limits are 3 s together.
    until(&fake, &["out", "in", "out", "in", "out"]).await;
    assert!(!bench.lent());
}

#[tokio::test]
async fn without_its_cd_a_machine_is_not_switched_on() {
    let fake = Arc::new(Fake::new("q"));
    let mut bench = with_drive("", &fake);
    std::fs::write(bench._dir.path().join("agent").join(FILE), vec![0; BLOCK]).unwrap();
    bench.release(vec![order("m1", 0, 1, Switch::On, BootAgent, 5_000)]);
    let told = bench.power().await.3.unwrap_err();
    assert!(told.contains("no block") && told.contains("image agent --medium"), "{told}");
    assert!(fake.log().is_empty());
}
