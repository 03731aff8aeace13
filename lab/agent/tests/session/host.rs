use std::fs;
use std::path::Path;
use std::sync::Arc;

use pitstop_agent::host::{self, HostError, SeedPlace};
use pitstop_agent::{Agent, Farewell};
use pitstop_image::Seed;
use pitstop_wire::agent::{AgentKind, DiskMatch, FromAgent, Hello, Outcome, Secret, ToAgent, Work};

use crate::daemon::{Console, Daemon, Machine, accepted, farewell, start};

const AREA: Seed = Seed { offset: 8192, len: 4096 };
const DISK: usize = 64 << 10;

fn place(disk: &Path) -> SeedPlace {
    SeedPlace { device: disk.to_owned(), area: AREA }
}

fn boot_host(disk: &Path, boot_id: &str) -> Result<Agent, HostError> {
    let machine = Machine { boot_id: boot_id.into(), ..Machine::new(Some(disk)) };
    host::start(place(disk), Arc::new(machine), Console::default().say())
}

fn attach(hello: Hello) -> (AgentKind, String, Secret) {
    match hello {
        Hello::Attach { kind, boot_id, token, .. } => (kind, boot_id, token),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_seed_leads_the_host_agent_back_and_the_rejoin_token_every_boot_after_it() {
    let daemon = Daemon::start().await;
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let mut before = vec![0x5a; DISK];
    before[AREA.offset as usize..][..AREA.len as usize].fill(0);
    fs::write(&disk, &before).unwrap();

    let boot = start(AgentKind::Boot, daemon.params(), Machine::new(Some(&disk)), &Console::default());
    let (mut peer, _) = daemon.welcome().await;
    let mut params = daemon.params();
    params.token = Secret("host-token".into());
    let order = Work::Seed { find: DiskMatch::default(), offset: AREA.offset, len: AREA.len, params };
    peer.order(1, order).await;
    assert_eq!(peer.next().await.0, FromAgent::Done { step: 1, outcome: Outcome::Seeded });
    peer.send(&ToAgent::Bye { reason: "hand-over".into() }, &[]).await;
    farewell(boot).await;

    let agent = boot_host(&disk, "boot-2").unwrap();
    let (mut peer, hello) = daemon.accept().await;
    assert_eq!(attach(hello), (AgentKind::Host, "boot-2".into(), Secret("host-token".into())));
    peer.answer(&accepted(Some("rejoin-token"))).await;
    // The token is kept before anything else is done: an answer proves it.
    peer.order(1, Work::Look).await;
    assert!(matches!(peer.next().await.0, FromAgent::Done { step: 1, outcome: Outcome::Seen(_) }));
    agent.stop();
    assert_eq!(farewell(agent).await, Farewell::Stopped);

    let agent = boot_host(&disk, "boot-3").unwrap();
    let (mut peer, hello) = daemon.accept().await;
    assert_eq!(attach(hello), (AgentKind::Host, "boot-3".into(), Secret("rejoin-token".into())));
    peer.answer(&accepted(None)).await;
    peer.send(&ToAgent::Bye { reason: "released".into() }, &[]).await;
    farewell(agent).await;

    let after = fs::read(&disk).unwrap();
    let outside = |bytes: &[u8]| {
        let area = AREA.offset as usize..(AREA.offset + AREA.len) as usize;
        [&bytes[..area.start], &bytes[area.end..]].concat()
    };
    assert!(outside(&after) == outside(&before), "bytes outside the seed area changed");
    let text = String::from_utf8_lossy(&after);
    assert!(!text.contains("host-token") && text.contains("rejoin-token"), "a spent token was left");
}

#[tokio::test]
async fn a_host_agent_writes_no_disk_for_anybody() {
    let daemon = Daemon::start().await;
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; DISK]).unwrap();
    let agent = start(AgentKind::Host, daemon.params(), Machine::new(Some(&disk)), &Console::default());
    let (mut peer, _) = daemon.welcome().await;
    let image = pitstop_wire::agent::ImageWork {
        disk: "root".into(),
        find: DiskMatch::default(),
        digest: None,
        mode: pitstop_wire::agent::ImageMode::Write,
    };
    let seed = Work::Seed { find: DiskMatch::default(), offset: 0, len: 4096, params: daemon.params() };
    for (step, work) in [(1, Work::Image(image)), (2, seed)] {
        peer.order(step, work).await;
        let done = peer.next().await.0;
        assert!(matches!(done, FromAgent::Done { outcome: Outcome::Failed { .. }, .. }), "{done:?}");
    }
    assert!(fs::read(&disk).unwrap().iter().all(|&b| b == 0));
    agent.stop();
    farewell(agent).await;
}

#[test]
fn a_disk_without_a_seed_or_with_a_foreign_one_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; DISK]).unwrap();
    assert!(matches!(boot_host(&disk, "b"), Err(HostError::Empty(_))));
    let mut target = pitstop_image::DiskTarget::open_shared(&disk).unwrap();
    pitstop_image::seed::write(&mut target, AREA, br#"{"token":"s3cret"}"#).unwrap();
    let error = boot_host(&disk, "b").err().unwrap();
    assert!(matches!(error, HostError::NotParams(_)), "{error}");
    assert!(!error.to_string().contains("s3cret"));
    fs::write(&disk, vec![7; DISK]).unwrap();
    assert!(matches!(boot_host(&disk, "b"), Err(HostError::Seed { .. })));
}
