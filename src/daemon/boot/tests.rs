use super::script;

#[test]
fn what_a_refusal_quotes_cannot_become_a_command() {
    let machine = pitstop_wire::MachineName::new("m1").unwrap();
    let text = script::refused(&machine, "token\nkernel http://evil/ ${net0/mac} || shell");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(!text.contains('$') && text.lines().skip(1).all(|l| !l.starts_with("kernel")));
}

use super::*;
use crate::daemon::hands::{Answer, Places, Rig};
use pitstop_core::event::{Fact, Report};
use pitstop_core::id::Epoch;
use pitstop_core::inventory::Inventory;
use pitstop_core::time::LabTime;
use pitstop_wire::agent::{AgentParams, Hello, Secret, Welcome};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// A decision loop that gives parameters to whoever asks, and counts.
#[derive(Default)]
pub(super) struct Loop {
    /// How often it was asked.
    pub(super) asked: AtomicUsize,
}

impl Front for Loop {
    fn hello(&self, _: Hello) -> Answer<'_, Welcome> {
        Box::pin(async { Welcome::Refused { reason: "nobody".into(), retry: false } })
    }
    fn boot(&self, machine: MachineName, _: bool) -> Answer<'_, BootAnswer> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (nonce, token) = ("n".into(), Secret("s3cr3t".into()));
        let params = AgentParams { server: String::new(), ca: String::new(), machine, nonce, token };
        Box::pin(async { BootAnswer::Agent(params) })
    }
    fn fact(&self, _: Epoch, _: Fact) {}
    fn agent(&self, _: MachineName, _: String, _: String, _: Report) -> Answer<'static, ()> {
        Box::pin(async {})
    }
    fn now(&self) -> LabTime {
        LabTime(0)
    }
}

/// Serves the boot files of these machines; where, and their drivers. Their
/// directory is `dir`, with the boot agent's files in `agent`.
pub(super) async fn served(
    dir: &tempfile::TempDir,
    text: &str,
    front: Arc<Loop>,
) -> (std::net::SocketAddr, Arc<Rigs>) {
    let path = dir.path().join("inventory.toml");
    std::fs::write(&path, text).unwrap();
    let inventory = Inventory::load(&path, pitstop_drivers::factories()).unwrap();
    let places = Places {
        machines: dir.path().join("machines"),
        agent: dir.path().join("agent"),
        program: "/nonexistent".into(),
        address: "127.0.0.1".into(),
        agents_port: 7443,
        boot_port: Some(8069),
        ca: "cafe".into(),
    };
    let rigs = Arc::new(Rigs::new(places.clone()));
    let hosts = Arc::new(pitstop_drivers::host::Hosts::of(&inventory.hosts, &Default::default()));
    for spec in inventory.machines.values() {
        rigs.insert(Rig::new(pitstop_drivers::factories(), spec, &inventory, &hosts, &places));
    }
    let images = Arc::new(pitstop_image::ImageStore::open(&dir.path().join("images")).unwrap());
    let agents = Agents::new(front.clone(), images, broadcast::Sender::new(8));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    // It ends with the test's runtime.
    tokio::spawn(serve(front, rigs.clone(), agents, Arc::default(), listener, Spare::keep(1).unwrap()));
    (at, rigs)
}

async fn get_script(at: std::net::SocketAddr, machine: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("GET /boot/{machine}/script HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_tenant_who_asks_for_a_neighbours_parameters_gets_none_and_burns_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        format = 1
        [machine.known]
        power.none = {}
        disk.root = {}
        console = {}
        boot.http = { address = "192.0.2.17" }
        ready.agent = {}
        [machine.own]
        power.none = {}
        disk.root = {}
        console = {}
        boot.http = { address = "127.0.0.1" }
        ready.agent = {}
        [machine.other]
        power.none = {}
        disk.root = {}
        console = {}
        boot.power = {}
        ready.agent = {}
    "#;
    let front = Arc::new(Loop::default());
    let (at, _) = served(&dir, text, front.clone()).await;
    for refused in ["known", "other"] {
        let answer = get_script(at, refused).await;
        assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("s3cr3t"), "{answer}");
    }
    assert_eq!(front.asked.load(Ordering::Relaxed), 0, "the loop was asked, which burns the attempt");
    let answer = get_script(at, "own").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("pitstop.token=s3cr3t"), "{answer}");
}
