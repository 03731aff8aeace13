use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use pitstop_image::{AddOptions, ImageStore, Seed, StoredImage};
use pitstop_wire::agent::{
    AgentKind, DiskMatch, DiskProof, FromAgent, ImageMode, ImageWork, Outcome, ToAgent, Work,
};

use crate::daemon::{Console, Daemon, Machine, Peer, farewell, start};

const CHUNK: usize = 4096;
const CHUNKS: usize = 40;
/// The device is longer than the image, and not by whole chunks.
const DEVICE: usize = (CHUNKS + 7) * CHUNK + 512;

struct Bench {
    _dir: tempfile::TempDir,
    disk: std::path::PathBuf,
    content: Vec<u8>,
    image: Arc<StoredImage>,
}

impl Bench {
    /// An image with data and holes, and a disk full of another tenant's bytes.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..CHUNKS * CHUNK)
            .map(|at| if (at / CHUNK) % 3 == 1 { 0 } else { (at / CHUNK + at % 251) as u8 })
            .collect();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        let options = AddOptions { chunk: CHUNK as u32, ..AddOptions::default() };
        let manifest = store.add("test", content.as_slice(), &options).unwrap();
        let image = store.open_image(&manifest.digest).unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, vec![0xa5; DEVICE]).unwrap();
        Self { _dir: dir, disk, content, image }
    }

    fn digest(&self) -> String {
        self.image.map().digest().to_string()
    }

    fn work(&self, mode: ImageMode) -> Work {
        let find = DiskMatch { serial: Some("S1".into()), ..DiskMatch::default() };
        Work::Image(ImageWork { disk: "root".into(), find, digest: Some(self.digest()), mode })
    }

    /// Answers one request as a daemon does.
    async fn serve(&self, peer: &mut Peer, message: FromAgent) {
        match message {
            FromAgent::FetchMap { digest } => {
                peer.send(&ToAgent::Map { digest }, &self.image.map().encode()).await;
            }
            FromAgent::Fetch { digest, index } => {
                let chunk = self.image.chunk(index).unwrap();
                peer.send(&ToAgent::Chunk { digest, index }, &chunk).await;
            }
            other => panic!("{other:?}"),
        }
    }

    /// Answers requests until the step is done.
    async fn serve_until_done(&self, peer: &mut Peer) -> Outcome {
        loop {
            match peer.next().await.0 {
                FromAgent::Done { outcome, .. } => return outcome,
                other => self.serve(peer, other).await,
            }
        }
    }

    fn assert_exact(&self) {
        let disk = fs::read(&self.disk).unwrap();
        assert_eq!(disk.len(), DEVICE);
        assert!(disk[..self.content.len()] == self.content, "the image is not on the disk");
        assert!(disk[self.content.len()..].iter().all(|&b| b == 0), "bytes of the last tenant are left");
    }
}

fn proof(outcome: Outcome) -> DiskProof {
    match outcome {
        Outcome::Proven(proof) => proof,
        other => panic!("{other:?}"),
    }
}

fn agent(daemon: &Daemon, disk: &Path) -> pitstop_agent::Agent {
    start(AgentKind::Boot, daemon.params(), Machine::new(Some(disk)), &Console::default())
}

async fn end(agent: pitstop_agent::Agent) {
    agent.stop();
    farewell(agent).await;
}

#[tokio::test]
async fn a_written_disk_is_exact_and_proven_to_its_last_byte_and_verifies_without_a_write() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    peer.order(1, bench.work(ImageMode::Write)).await;
    let done = proof(bench.serve_until_done(&mut peer).await);
    bench.assert_exact();
    let device = DEVICE as u64;
    assert_eq!((done.device_bytes, done.read_bytes, done.written_bytes), (device, device, device));
    assert_eq!(done.image_bytes, bench.image.map().mapped());
    assert_eq!(done.image_bytes + done.zero_bytes, device);
    assert_eq!(done.digest, Some(bench.digest()));
    assert_eq!(done.serial.as_deref(), Some("S1"));
    assert_ne!(done.erase, "none");
    peer.order(2, bench.work(ImageMode::Verify)).await;
    let again = proof(bench.serve_until_done(&mut peer).await);
    assert_eq!((again.written_bytes, again.erase.as_str()), (0, "none"));
    end(agent).await;
}

#[tokio::test]
async fn a_blank_disk_is_zero_from_end_to_end() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    let Work::Image(mut work) = bench.work(ImageMode::Write) else { unreachable!() };
    work.digest = None;
    peer.order(1, Work::Image(work)).await;
    let done = proof(bench.serve_until_done(&mut peer).await);
    assert_eq!((done.digest, done.image_bytes, done.zero_bytes), (None, 0, DEVICE as u64));
    assert!(fs::read(&bench.disk).unwrap().iter().all(|&b| b == 0));
    end(agent).await;
}

#[tokio::test]
async fn one_changed_byte_behind_the_image_differs_and_nothing_is_written() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let mut disk = bench.content.clone();
    disk.resize(DEVICE, 0);
    disk[DEVICE - 1] = 1;
    fs::write(&bench.disk, &disk).unwrap();
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    peer.order(1, bench.work(ImageMode::Verify)).await;
    let outcome = bench.serve_until_done(&mut peer).await;
    let Outcome::Differs { at } = outcome else { panic!("{outcome:?}") };
    assert!(at.contains(&format!("1 bytes at {}", DEVICE - 1)), "{at}");
    assert!(fs::read(&bench.disk).unwrap() == disk, "verify wrote");
    end(agent).await;
}

#[tokio::test]
async fn a_lost_link_in_the_middle_of_a_write_is_only_a_longer_wait() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    peer.order(1, bench.work(ImageMode::Write)).await;
    let mut answered = BTreeSet::new();
    // The map and four chunks, then nothing more: the connection dies with requests under way.
    while answered.len() < 4 {
        let message = peer.next().await.0;
        if let FromAgent::Fetch { index, .. } = &message {
            answered.insert(*index);
        }
        bench.serve(&mut peer, message).await;
    }
    drop(peer);
    let (mut peer, _) = daemon.welcome().await;
    let outcome = loop {
        match peer.next().await.0 {
            FromAgent::Done { outcome, .. } => break outcome,
            FromAgent::FetchMap { .. } => panic!("the write began anew"),
            message => bench.serve(&mut peer, message).await,
        }
    };
    assert_eq!(proof(outcome).written_bytes, DEVICE as u64);
    bench.assert_exact();
    end(agent).await;
}

#[tokio::test]
async fn a_corrupt_chunk_is_fetched_again_and_blamed_on_the_image_the_third_time() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    for (step, corrupt_times) in [(1, 2), (2, 3)] {
        peer.order(step, bench.work(ImageMode::Write)).await;
        let mut bad = 0;
        let outcome = loop {
            match peer.next().await.0 {
                FromAgent::Done { outcome, .. } => break outcome,
                FromAgent::Fetch { digest, index: 5 } if bad < corrupt_times => {
                    bad += 1;
                    let mut chunk = bench.image.chunk(5).unwrap();
                    *chunk.last_mut().unwrap() ^= 1;
                    peer.send(&ToAgent::Chunk { digest, index: 5 }, &chunk).await;
                }
                message => bench.serve(&mut peer, message).await,
            }
        };
        match (step, outcome) {
            (1, Outcome::Proven(proof)) => assert_eq!(proof.written_bytes, DEVICE as u64),
            (2, Outcome::Failed { reason, image: true }) => assert!(reason.contains("chunk 5"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    end(agent).await;
}

#[tokio::test]
async fn a_block_map_of_another_image_or_none_is_the_images_fault() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    let other = pitstop_image::BlockMap::new(0, 4096, None, Vec::new()).unwrap().encode();
    for step in [1, 2] {
        peer.order(step, bench.work(ImageMode::Write)).await;
        let reason = loop {
            match peer.next().await.0 {
                FromAgent::FetchMap { digest } if step == 1 => {
                    peer.send(&ToAgent::Map { digest }, &other).await;
                }
                FromAgent::FetchMap { digest } => {
                    let reason = "no such image".into();
                    peer.send(&ToAgent::NoChunk { digest, index: None, reason }, &[]).await;
                }
                FromAgent::Done { outcome: Outcome::Failed { reason, image: true }, .. } => break reason,
                other => panic!("{other:?}"),
            }
        };
        let expected = if step == 1 { "3 times" } else { "no such image" };
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(fs::read(&bench.disk).unwrap().iter().all(|&b| b == 0xa5), "the disk was touched");
    end(agent).await;
}

#[tokio::test]
async fn an_image_too_large_for_the_disk_is_the_images_fault_and_writes_nothing() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    fs::write(&bench.disk, vec![0xa5; 5 * CHUNK]).unwrap();
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    peer.order(1, bench.work(ImageMode::Write)).await;
    let outcome = bench.serve_until_done(&mut peer).await;
    assert!(
        matches!(&outcome, Outcome::Failed { image: true, reason } if reason.contains("holds")),
        "{outcome:?}"
    );
    assert!(fs::read(&bench.disk).unwrap().iter().all(|&b| b == 0xa5));
    end(agent).await;
}

#[tokio::test]
async fn a_result_is_sent_again_until_it_is_acknowledged_and_a_repeated_step_is_not_done_again() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    let seed = Seed { offset: 4096, len: 4096 };
    fs::write(&bench.disk, vec![0; DEVICE]).unwrap();
    let find = DiskMatch { serial: Some("S1".into()), ..DiskMatch::default() };
    let order = Work::Seed { find, offset: seed.offset, len: seed.len, params: daemon.params() };
    peer.order(1, order.clone()).await;
    let done = FromAgent::Done { step: 1, outcome: Outcome::Seeded };
    assert_eq!(peer.next().await.0, done);
    let written = fs::read(&bench.disk).unwrap();
    drop(peer);
    let (mut peer, _) = daemon.welcome().await;
    assert_eq!(peer.next().await.0, done, "unacknowledged, so sent again");
    fs::write(&bench.disk, vec![0; DEVICE]).unwrap();
    peer.order(1, order).await;
    assert_eq!(peer.next().await.0, done);
    assert!(fs::read(&bench.disk).unwrap() != written, "the repeated step was done again");
    peer.send(&ToAgent::Ack { step: 1 }, &[]).await;
    // Answered in order: the acknowledgement has been taken in.
    peer.order(2, Work::Look).await;
    assert!(matches!(peer.next().await.0, FromAgent::Done { step: 2, .. }));
    drop(peer);
    let (mut peer, _) = daemon.welcome().await;
    assert!(matches!(peer.next().await.0, FromAgent::Done { step: 2, .. }), "only what lacks its Ack");
    end(agent).await;
}

#[tokio::test]
async fn a_disk_that_is_not_there_fails_and_names_what_is() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    let Work::Image(mut work) = bench.work(ImageMode::Write) else { unreachable!() };
    work.find.serial = Some("S2".into());
    work.digest = None;
    peer.order(1, Work::Image(work)).await;
    let outcome = bench.serve_until_done(&mut peer).await;
    assert!(matches!(&outcome, Outcome::Failed { reason, .. } if reason.contains("S1")), "{outcome:?}");
    end(agent).await;
}

#[tokio::test]
async fn goodbye_in_the_middle_of_a_write_cancels_it() {
    let (bench, daemon) = (Bench::new(), Daemon::start().await);
    let agent = agent(&daemon, &bench.disk);
    let (mut peer, _) = daemon.welcome().await;
    peer.order(1, bench.work(ImageMode::Write)).await;
    let message = peer.next().await.0;
    bench.serve(&mut peer, message).await;
    assert!(matches!(peer.next().await.0, FromAgent::Fetch { .. }));
    peer.send(&ToAgent::Bye { reason: "cancelled".into() }, &[]).await;
    assert_eq!(farewell(agent).await, pitstop_agent::Farewell::Bye { reason: "cancelled".into() });
}
