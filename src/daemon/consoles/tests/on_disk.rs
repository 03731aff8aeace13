//! Journals on disk: packed, bounded, searched by time.

use super::*;

/// A lab with so much room, whose clock stands still unless it is moved.
pub(super) struct Place {
    pub(super) bench: Bench,
    pub(super) clock: Arc<AtomicU64>,
}

impl Place {
    pub(super) fn new(quota: Quota) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicU64::new(1_000));
        let hand = clock.clone();
        let stamp = move || {
            let t = hand.load(Ordering::Relaxed);
            Stamp { at: LabTime(t), wall: t.cast_signed() }
        };
        let consoles = Consoles::with_quota(dir.path(), stamp, quota).unwrap();
        let fake = Fake::default();
        consoles.add(&m1(), "main", Arc::new(fake.clone()));
        Self { bench: Bench { consoles, fake, dir }, clock }
    }

    fn dir(&self) -> PathBuf {
        self.bench.dir.path().join("m1/main")
    }

    /// Says something and has it on the disk.
    pub(super) async fn say(&self, machine: &mut DuplexStream, bytes: &[u8]) {
        let end = self.bench.consoles.status(&m1())[0].position + bytes.len() as u64;
        for piece in bytes.chunks(32 << 10) {
            machine.write_all(piece).await.unwrap();
            let so_far = end - bytes.len() as u64 + piece.len() as u64;
            self.bench.has(so_far.min(end)).await;
            self.bench.consoles.flush();
        }
        self.bench.has(end).await;
        self.bench.consoles.flush();
    }

    pub(super) fn boot(&self) {
        self.bench.consoles.mark(&m1(), MarkKind::Boot, "power on");
        self.bench.consoles.flush();
    }

    /// Names of the files, by ending.
    fn files(&self, ending: &str) -> Vec<String> {
        let names =
            std::fs::read_dir(self.dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    }
}

pub(super) const ROOM: Quota = Quota { machine: 1 << 30, machines: BTreeMap::new(), lab: 1 << 30 };

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..bytes).map(|_| random.alphanumeric() as u8).collect()
}

#[tokio::test]
async fn what_was_packed_is_read_as_if_it_were_not() {
    let place = Place::new(ROOM);
    let mut machine = place.bench.plug().await;
    let mut said = String::new();
    for boot in 0..4 {
        place.boot();
        let text: String = (0..3_000).map(|n| format!("boot {boot} line {n}\r\n")).collect();
        place.say(&mut machine, text.as_bytes()).await;
        said += &format!("{{power on}}{text}");
    }
    place.boot(); // closes the last, and gives the keeper its work
    place.bench.consoles.flush();
    assert_eq!(place.files(".zst").len(), 4, "{:?}", place.files(""));
    assert_eq!(place.files(".log").len(), 1, "the open one");
    let packed: u64 =
        place.files(".zst").iter().map(|f| std::fs::metadata(place.dir().join(f)).unwrap().len()).sum();
    assert!(packed * 4 < said.len() as u64, "{packed} of {}", said.len());

    place.say(&mut machine, b"the end").await;
    let seen = read_to(&mut place.bench.watch(Replay::All), "the end").await;
    assert!(seen == said.clone() + "{power on}the end", "{} of {} bytes", seen.len(), said.len());
    let from = read_to(&mut place.bench.watch(Replay::From(100_000)), "the end").await;
    let plain = said.replace("{power on}", "");
    assert!(from.replace("{power on}", "") == plain[100_000..].to_owned() + "the end");
    // The next daemon begins where this one ended.
    let end = journal::end_of(&place.dir());
    assert_eq!((end.position, end.boot), (plain.len() as u64 + 7, Some(plain.len() as u64)));
}

#[tokio::test]
async fn a_machine_that_talks_all_day_keeps_its_newest() {
    let place = Place::new(Quota { machine: 300 << 10, ..ROOM });
    let mut machine = place.bench.plug().await;
    for _ in 0..8 {
        place.boot();
        place.say(&mut machine, &noise(100 << 10)).await;
    }
    place.boot();
    place.bench.consoles.flush();
    let kept =
        place.files("").iter().map(|f| std::fs::metadata(place.dir().join(f)).unwrap().len()).sum::<u64>();
    assert!(kept <= 300 << 10, "{kept}: {:?}", place.files(""));
    let oldest = Segments::of(&place.dir()).next_start(0).unwrap();
    assert!(oldest >= 300 << 10, "the oldest went first: {:?}", place.files(""));
    place.say(&mut machine, b"newest").await;
    read_to(&mut place.bench.watch(Replay::All), "newest").await;
}

#[tokio::test]
async fn the_evidence_of_an_open_failure_is_dropped_for_what_came_later() {
    let place = Place::new(Quota { machine: 200 << 10, ..ROOM });
    let mut machine = place.bench.plug().await;
    place.boot();
    place.say(&mut machine, b"VFS: Unable to mount root fs\r\n").await;
    place.say(&mut machine, &noise(50 << 10)).await;
    place.bench.consoles.hold(&m1());
    for _ in 0..6 {
        place.boot();
        place.say(&mut machine, &noise(100 << 10)).await;
    }
    place.boot();
    place.bench.consoles.flush();
    let first = Segments::of(&place.dir()).read(0, 30);
    assert_eq!(first, b"VFS: Unable to mount root fs\r\n", "{:?}", place.files(""));
    // Proven: nobody asks any more.
    place.bench.consoles.release(&m1());
    place.say(&mut machine, &noise(100 << 10)).await;
    place.boot();
    place.bench.consoles.flush();
    assert!(Segments::of(&place.dir()).read(0, 30).is_empty(), "{:?}", place.files(""));
}

#[tokio::test]
async fn one_machine_fills_the_disk_of_the_whole_lab() {
    let place = Place::new(Quota { lab: 250 << 10, ..ROOM });
    let (m2, quiet) = (MachineName::new("m2").unwrap(), Fake::default());
    place.bench.consoles.add(&m2, "main", Arc::new(quiet));
    let old = place.bench.dir.path().join("m2/main");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("00000000000000000000.log"), noise(100 << 10)).unwrap();
    std::fs::write(old.join("00000000000000102400.log"), b"open").unwrap();
    let mut machine = place.bench.plug().await;
    for _ in 0..4 {
        place.boot();
        place.say(&mut machine, &noise(100 << 10)).await;
    }
    place.boot();
    place.bench.consoles.flush();
    assert!(!old.join("00000000000000000000.log").exists(), "the oldest of the lab");
    assert!(old.join("00000000000000102400.log").exists(), "what is open stays");
}

#[tokio::test]
async fn a_replay_begins_where_the_machine_was_some_time_ago() {
    let place = Place::new(ROOM);
    let mut machine = place.bench.plug().await;
    for minute in 1..=10_u64 {
        place.clock.store(minute * 60_000, Ordering::Relaxed);
        if minute == 3 {
            place.bench.consoles.mark(&m1(), MarkKind::Reserve, "reserved for R-1");
        }
        place.say(&mut machine, format!("minute {minute}\r\n").as_bytes()).await;
    }
    let seen = read_to(&mut place.bench.watch(Replay::Since(150_000)), "minute 10").await;
    assert_eq!(seen.lines().next(), Some("minute 7"), "{seen}");
    let seen = read_to(&mut place.bench.watch(Replay::SinceReserve), "minute 10").await;
    assert!(seen.starts_with("{reserved for R-1}minute 3\r\n"), "{seen}");
    let seen = read_to(&mut place.bench.watch(Replay::Since(u64::MAX)), "minute 10").await;
    assert!(seen.starts_with("minute 1\r\n"), "{seen}");
    let end = journal::end_of(&place.dir());
    assert_eq!(end.reserve, Some(20), "it outlives the daemon");
}

#[tokio::test]
async fn a_segment_that_is_being_packed_is_there_in_one_form_or_the_other() {
    let place = Place::new(ROOM);
    let dir = place.dir();
    let mut machine = place.bench.plug().await;
    place.boot();
    place.say(&mut machine, b"said once").await;
    // As a crash between the new name and the end of the old one leaves it.
    let packed = zstd::encode_all(&b"said once"[..], 0).unwrap();
    std::fs::write(dir.join("00000000000000000000-9.zst"), packed).unwrap();
    assert_eq!(Segments::of(&dir).read(0, 100), b"said once");
    assert_eq!(journal::end_of(&dir).position, 9);
}

#[tokio::test]
async fn a_quota_that_the_inventory_changes_counts_at_once_and_for_its_machine_only() {
    let place = Place::new(ROOM);
    let (m2, quiet) = (MachineName::new("m2").unwrap(), Fake::default());
    place.bench.consoles.add(&m2, "main", Arc::new(quiet));
    let other = place.bench.dir.path().join("m2/main");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("00000000000000000000.log"), noise(100 << 10)).unwrap();
    std::fs::write(other.join("00000000000000102400.log"), b"open").unwrap();
    let mut machine = place.bench.plug().await;
    for _ in 0..4 {
        place.boot();
        place.say(&mut machine, &noise(100 << 10)).await;
    }
    place.boot();
    place.bench.consoles.flush();
    assert!(Segments::of(&place.dir()).next_start(0).is_some_and(|at| at == 100 << 10), "all of it is there");
    let keeper = &place.bench.consoles.inner.keeper;
    keeper.limit(Quota { machines: BTreeMap::from([("m1".to_owned(), 150 << 10)]), ..ROOM });
    keeper.flush();
    let oldest = Segments::of(&place.dir()).next_start(0).unwrap();
    assert!(oldest >= 200 << 10, "{:?}", place.files(""));
    assert!(other.join("00000000000000000000.log").exists(), "the other machine has room");
    keeper.limit(Quota { lab: 60 << 10, ..ROOM });
    keeper.flush();
    assert!(!other.join("00000000000000000000.log").exists(), "the lab has none");
}
