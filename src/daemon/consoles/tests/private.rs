//! Consoles of a lab in which not everybody may watch everything.

use super::*;
use pitstop_core::watching::{Audience, Whose};
use std::collections::BTreeSet;

fn held(reservation: u64, holder: &str, only: &[&str]) -> Whose {
    let only: BTreeSet<String> = only.iter().map(|name| (*name).to_owned()).collect();
    Whose::Held(Audience {
        reservation: ReservationId(reservation),
        holder: UserName::new(holder).unwrap(),
        only: Some(only),
    })
}

impl Bench {
    /// A bench whose console comes from an inventory: nobody has said whose it
    /// is.
    async fn private() -> (Self, DuplexStream) {
        let bench = Self::new();
        bench.belongs(Whose::Nobody);
        let machine = bench.plug().await;
        bench.lands().await;
        (bench, machine)
    }

    fn shared(&self) -> Arc<Shared> {
        self.consoles.find(&m1(), None).unwrap().shared.clone()
    }

    /// The machine becomes somebody's.
    fn belongs(&self, whose: Whose) {
        self.shared().belongs(whose, true);
    }

    /// What it says is known to be its owner's.
    async fn lands(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.shared().ring().tenancy.is_sealed() {
            assert!(Instant::now() < deadline, "nobody finds out whose it is");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn attach(&self, replay: Replay, user: &str) -> Result<Watcher, ConsoleError> {
        self.consoles.attach(&m1(), None, replay, &viewer(user)).map(|(watcher, _)| watcher)
    }

    fn as_admin(&self, replay: Replay) -> Watcher {
        let admin = Viewer { user: "root".into(), admin: true };
        self.consoles.attach(&m1(), None, replay, &admin).unwrap().0
    }

    async fn says(&self, machine: &mut DuplexStream, text: &str) {
        let end = self.consoles.status(&m1())[0].position + text.len() as u64;
        machine.write_all(text.as_bytes()).await.unwrap();
        self.has(end).await;
    }
}

const REPLAYS: [Replay; 7] = [
    Replay::All,
    Replay::From(0),
    Replay::Last(1 << 20),
    Replay::Lines(1_000),
    Replay::Since(u64::MAX),
    Replay::SinceBoot,
    Replay::SinceReserve,
];

/// What the watcher is told at last; nothing of what was said comes first.
async fn hung_up(watcher: &mut Watcher) -> String {
    loop {
        match tokio::time::timeout(PATIENCE, watcher.next()).await.expect("nobody hangs up") {
            Piece::Closed(why) => return why,
            Piece::Bytes { bytes, .. } => panic!("{:?}", String::from_utf8_lossy(&bytes)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_tenant_sees_nothing_of_the_last_one_however_he_asks() {
    let (bench, mut machine) = Bench::private().await;
    bench.belongs(held(1, "anna", &["anna"]));
    bench.lands().await;
    bench.consoles.mark(&m1(), MarkKind::Reserve, "reserved for R-1");
    bench.consoles.mark(&m1(), MarkKind::Boot, "power on");
    bench.says(&mut machine, "annas secret\r\n").await;
    bench.consoles.flush();
    // Released: she may see how it goes off, nobody else may.
    bench.belongs(Whose::Last);
    bench.says(&mut machine, "annas last words\r\n").await;
    assert!(bench.attach(Replay::All, "anna").is_ok() && bench.attach(Replay::All, "bob").is_err());
    bench.belongs(Whose::Nobody);
    bench.lands().await;
    bench.says(&mut machine, "boot agent\r\n").await;
    for replay in REPLAYS {
        let seen = replayed(&mut bench.attach(replay, "bob").unwrap()).await;
        assert!(!seen.contains("anna"), "{replay:?}: {seen}");
    }
    let seen = replayed(&mut bench.attach(Replay::All, "bob").unwrap()).await;
    assert!(seen.starts_with("boot agent"), "{seen}");
    bench.belongs(held(2, "bob", &["bob"]));
    bench.lands().await;
    bench.says(&mut machine, "bobs own\r\n").await;
    for replay in REPLAYS {
        let seen = replayed(&mut bench.attach(replay, "bob").unwrap()).await;
        assert!(!seen.contains("anna") && !seen.contains("agent"), "{replay:?}: {seen}");
    }
    assert_eq!(replayed(&mut bench.attach(Replay::All, "bob").unwrap()).await, "bobs own\r\n");
    let Err(ConsoleError::Held { holder, user, .. }) = bench.attach(Replay::All, "anna") else {
        panic!("she had it once");
    };
    assert_eq!((holder.as_str(), user.as_str()), ("bob", "anna"));
    // An admin sees it all, since it was kept as it was sent.
    let all = replayed(&mut bench.as_admin(Replay::All)).await;
    assert!(all.contains("annas secret") && all.contains("last words") && all.contains("bobs own"), "{all}");
    let last = |user: &str| bench.consoles.last_lines(&m1(), 9, &viewer(user));
    assert_eq!(last("bob"), ["bobs own"]);
    assert!(last("anna").is_empty());
}

#[tokio::test]
async fn whoever_may_not_watch_is_hung_up_on_before_the_first_byte() {
    let (bench, mut machine) = Bench::private().await;
    let mut eve = bench.attach(Replay::Nothing, "eve").unwrap();
    let mut anna = bench.attach(Replay::Nothing, "anna").unwrap();
    let mut tom = bench.attach(Replay::Nothing, "tom").unwrap();
    bench.says(&mut machine, "nobodys\r\n").await;
    for watcher in [&mut eve, &mut anna, &mut tom] {
        read_to(watcher, "nobodys\r\n").await;
    }
    bench.belongs(held(1, "anna", &["anna", "tom"]));
    bench.lands().await;
    bench.says(&mut machine, "first byte").await;
    let why = hung_up(&mut eve).await;
    assert!(why.contains("anna's") && why.contains("eve"), "{why}");
    assert_eq!(read_to(&mut anna, "first byte").await, "first byte");
    assert_eq!(read_to(&mut tom, "first byte").await, "first byte");
    // A rule that gets narrower while they watch.
    bench.belongs(held(1, "anna", &["anna"]));
    bench.says(&mut machine, " and more").await;
    hung_up(&mut tom).await;
    assert_eq!(read_to(&mut anna, "more").await, " and more", "it goes on for her");
    assert!(read_to(&mut bench.attach(Replay::All, "anna").unwrap(), "more").await.starts_with("first"));
}

#[tokio::test]
async fn what_waited_in_the_line_is_not_the_next_tenants() {
    let (bench, mut machine) = Bench::private().await;
    bench.belongs(held(1, "anna", &["anna"]));
    bench.lands().await;
    bench.says(&mut machine, "one\r\n").await;
    drop(machine);
    let deadline = Instant::now() + PATIENCE;
    while bench.consoles.status(&m1())[0].line.is_ok() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The line is down as the machine changes hands; what it gives first when
    // it comes back was said before.
    bench.belongs(held(2, "bob", &["bob"]));
    let mut bob = bench.attach(Replay::All, "bob").unwrap();
    let mut machine = bench.fake.plug();
    machine.write_all(b"kept of anna\r\n").await.unwrap();
    bench.consoles.ready(&m1(), PATIENCE).await;
    bench.has(5 + 14).await;
    bench.lands().await;
    bench.says(&mut machine, "bobs\r\n").await;
    let seen = read_to(&mut bob, "bobs").await;
    assert!(!seen.contains("anna") && !seen.contains("one"), "{seen}");
    let seen = replayed(&mut bench.attach(Replay::All, "bob").unwrap()).await;
    assert!(seen.ends_with("bobs\r\n") && !seen.contains("anna"), "{seen}");
}

#[tokio::test]
async fn a_bmc_that_says_again_what_it_kept_shows_nobody_the_bytes_of_others() {
    let (bench, mut machine) = Bench::private().await;
    bench.belongs(held(2, "bob", &["bob"]));
    bench.lands().await;
    bench.says(&mut machine, "before\r\n").await;
    // As the task does when the line of a BMC opened again.
    bench.shared().repeats();
    bench.says(&mut machine, "kept of anna\r\n").await;
    let mut bob = bench.attach(Replay::All, "bob").unwrap();
    assert_eq!(read_to(&mut bob, "before\r\n").await, "before\r\n");
    bench.shared().unseal();
    bench.says(&mut machine, "after\r\n").await;
    assert_eq!(read_to(&mut bob, "after\r\n").await, "after\r\n");
    bench.consoles.flush();
    // So it is for the next daemon.
    let Bench { consoles, fake, dir } = bench;
    drop(consoles);
    let consoles = start_at(dir.path(), 1_000);
    let rings = journal::end_of(&dir.path().join("m1/main"));
    let owned = rings.owned.clone().unwrap();
    assert_eq!((owned.label.as_str(), owned.holes.len()), ("R-2", 1), "{owned:?}");
    consoles.inner.all.write().unwrap().insert(
        m1(),
        vec![Arc::new(consoles.open(&m1(), "main", Ok(Arc::new(fake.clone())), Tenancy::unknown))],
    );
    let again = Bench { consoles, fake, dir };
    let early = again.attach(Replay::All, "bob");
    assert!(matches!(early, Err(ConsoleError::Last { .. })), "nobody has said yet");
    drop(early);
    again.belongs(held(2, "bob", &["bob"]));
    let seen = replayed(&mut again.attach(Replay::All, "bob").unwrap()).await;
    assert_eq!(seen, "before\r\nafter\r\n");
}

#[tokio::test]
async fn a_daemon_that_does_not_know_where_a_tenant_began_shows_him_what_comes() {
    let (bench, mut machine) = Bench::private().await;
    bench.says(&mut machine, "old\r\n").await;
    bench.consoles.flush();
    let Bench { consoles, fake, dir } = bench;
    drop(consoles);
    let consoles = start_at(dir.path(), 1_000);
    let entry = consoles.open(&m1(), "main", Ok(Arc::new(fake.clone())), Tenancy::unknown);
    consoles.inner.all.write().unwrap().insert(m1(), vec![Arc::new(entry)]);
    let bench = Bench { consoles, fake, dir };
    // It was granted just before the last daemon was killed.
    bench.belongs(held(3, "bob", &["bob"]));
    let mut machine = bench.plug().await;
    bench.lands().await;
    bench.says(&mut machine, "new\r\n").await;
    assert_eq!(replayed(&mut bench.attach(Replay::All, "bob").unwrap()).await, "new\r\n");
}

#[tokio::test]
async fn what_was_typed_for_one_is_not_typed_into_the_machine_of_the_next() {
    let (bench, mut machine) = Bench::private().await;
    bench.belongs(held(1, "anna", &["anna"]));
    bench.lands().await;
    let (_watcher, anna) = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("anna")).unwrap();
    anna.take(false, 5).unwrap();
    // More than the pipe holds: the rest waits.
    for _ in 0..4 {
        anna.type_in(&[b'a'; 32 << 10]).await.unwrap();
    }
    bench.belongs(held(2, "bob", &["bob"]));
    assert_eq!(bench.typist(), None, "it was hers");
    bench.lands().await;
    let (_watcher, bob) = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("bob")).unwrap();
    bob.take(false, 6).unwrap();
    bob.type_in(b"b").await.unwrap();
    let mut typed = Vec::new();
    let mut piece = [0; 4096];
    while !typed.contains(&b'b') {
        let read = tokio::time::timeout(PATIENCE, machine.read(&mut piece));
        let n = read.await.expect("bob is not heard").unwrap();
        typed.extend_from_slice(&piece[..n]);
    }
    let hers = typed.iter().filter(|key| **key == b'a').count();
    assert!(hers <= 64 << 10, "{hers} keys of anna's: more than the line had taken");
}

#[tokio::test]
async fn in_a_lab_that_hides_nothing_everybody_sees_everything() {
    let (bench, mut machine) = Bench::private().await;
    let open = |whose| bench.shared().belongs(whose, false);
    let audience = |n, holder: &str| match held(n, holder, &[]) {
        Whose::Held(audience) => Whose::Held(Audience { only: None, ..audience }),
        other => other,
    };
    open(audience(1, "anna"));
    bench.says(&mut machine, "annas\r\n").await;
    let mut eve = bench.attach(Replay::Nothing, "eve").unwrap();
    open(audience(2, "bob"));
    bench.lands().await;
    bench.says(&mut machine, "bobs\r\n").await;
    assert_eq!(read_to(&mut eve, "bobs\r\n").await, "bobs\r\n");
    assert_eq!(replayed(&mut bench.attach(Replay::All, "eve").unwrap()).await, "annas\r\nbobs\r\n");
    // The admin thinks better of it.
    bench.belongs(held(2, "bob", &["bob"]));
    hung_up(&mut eve).await;
    let seen = replayed(&mut bench.attach(Replay::All, "bob").unwrap()).await;
    assert_eq!(seen, "bobs\r\n", "what was his was known all the time");
}

#[tokio::test]
async fn times_come_from_memory_and_from_the_index() {
    let place = on_disk::Place::new(on_disk::ROOM);
    let mut machine = place.bench.plug().await;
    for second in 1..=5_u64 {
        place.clock.store(second * 2_000, Ordering::Relaxed);
        place.say(&mut machine, format!("line {second}\r\n").as_bytes()).await;
    }
    let timed = async |bench: &Bench, replay| {
        let mut watcher = bench.watch(replay).with_times();
        let (mut seen, mut wall) = (Vec::new(), 0);
        while !watcher.replayed() {
            match tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap() {
                Piece::Time { wall: now, .. } => wall = now,
                Piece::Bytes { bytes, .. } => {
                    let text = String::from_utf8(bytes).unwrap();
                    seen.extend(text.lines().map(|line| (wall, line.to_owned())));
                }
                _ => {}
            }
        }
        seen
    };
    let wanted: Vec<_> = (1..=5).map(|n| (n * 2_000, format!("line {n}"))).collect();
    assert_eq!(timed(&place.bench, Replay::All).await, wanted);
    assert_eq!(timed(&place.bench, Replay::Lines(2)).await, wanted[3..]);
    place.boot();
    // The next daemon has nothing in memory.
    let on_disk::Place { bench: Bench { consoles, fake, dir }, .. } = place;
    drop(consoles);
    let consoles = start_at(dir.path(), 20_000);
    consoles.add(&m1(), "main", Arc::new(fake.clone()));
    let bench = Bench { consoles, fake, dir };
    assert_eq!(timed(&bench, Replay::All).await, wanted);
    let mut live = bench.watch(Replay::Nothing).with_times();
    let mut machine = bench.plug().await;
    machine.write_all(b"live").await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, live.next()).await.unwrap() {
            Piece::Time { wall, .. } => break assert!(wall >= 20_000, "{wall}"),
            Piece::Bytes { .. } => panic!("nobody says when"),
            _ => {}
        }
    }
}
