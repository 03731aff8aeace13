mod on_disk;
mod private;

use super::*;
use crate::daemon::hands::Attention as _;
use pitstop_core::time::LabTime;
use pitstop_drivers::console::fake::Fake;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    consoles: Consoles,
    fake: Fake,
    dir: tempfile::TempDir,
}

fn viewer(user: &str) -> Viewer {
    Viewer { user: user.to_owned(), admin: false }
}

fn m1() -> MachineName {
    MachineName::new("m1").unwrap()
}

fn start(dir: &Path) -> Consoles {
    start_at(dir, 1)
}

fn start_at(dir: &Path, tick: u64) -> Consoles {
    let ticks = AtomicU64::new(tick);
    Consoles::with_stamp(dir, move || {
        let t = ticks.fetch_add(1, Ordering::Relaxed);
        Stamp { at: LabTime(t), wall: t.cast_signed() }
    })
    .unwrap()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let consoles = start(dir.path());
        let fake = Fake::default();
        consoles.add(&m1(), "main", Arc::new(fake.clone()));
        Self { consoles, fake, dir }
    }

    /// Plugs a line in and waits until it is open.
    async fn plug(&self) -> DuplexStream {
        let machine = self.fake.plug();
        let deadline = Instant::now() + PATIENCE;
        while self.consoles.status(&m1())[0].line.is_err() {
            assert!(Instant::now() < deadline, "the line does not open");
            self.consoles.ready(&m1(), PATIENCE).await;
        }
        machine
    }

    fn watch(&self, replay: Replay) -> Watcher {
        self.consoles.attach(&m1(), None, replay, &viewer("anna")).unwrap().0
    }

    async fn has(&self, position: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.consoles.status(&m1())[0].position < position {
            assert!(Instant::now() < deadline, "only {}", self.consoles.status(&m1())[0].position);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Bytes until `want` has been seen; marks as `{text}`, skips as `{skipped}`.
async fn read_to(watcher: &mut Watcher, want: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(want) {
        let next = tokio::time::timeout(PATIENCE, watcher.next());
        match next.await.unwrap_or_else(|_| panic!("`{want}` never comes; seen: {seen:?}")) {
            Piece::Bytes { bytes, .. } => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Piece::Mark(mark) => seen.push_str(&format!("{{{}}}", mark.text)),
            Piece::Skipped { .. } => seen.push_str("{skipped}"),
            Piece::Seats(_) | Piece::Time { .. } => {}
            Piece::Closed(why) => panic!("{why}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_stalls_costs_neither_the_journal_nor_the_others_a_byte() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    let mut stalled = bench.watch(Replay::Nothing);
    let mut quick = bench.watch(Replay::Nothing);
    let mut sent = String::new();
    for n in 0..20 {
        // Faster than any serial line, but no faster than a busy disk.
        let mut burst: String =
            (0..1000).map(|m| format!("{n:02}{m:04} some line of a long boot log\r\n")).collect();
        burst.push_str(&format!("burst {n} ends"));
        machine.write_all(burst.as_bytes()).await.unwrap();
        let seen = read_to(&mut quick, &format!("burst {n} ends")).await;
        assert!(seen == burst, "{} of {} bytes", seen.len(), burst.len());
        sent.push_str(&burst);
        bench.consoles.flush();
    }
    machine.write_all(b"the end").await.unwrap();
    sent.push_str("the end");
    bench.has(sent.len() as u64).await;
    bench.consoles.flush();
    let kept = Segments::of(&bench.dir.path().join("m1/main")).read(0, usize::MAX);
    assert!(kept == sent.as_bytes(), "the journal has {} of {} bytes", kept.len(), sent.len());
    assert_eq!(bench.consoles.status(&m1())[0].lost, 0);
    let late = read_to(&mut stalled, "the end").await;
    assert!(late.starts_with("{skipped}") && late.len() < ring::RING + 64, "{} bytes", late.len());
}

#[tokio::test]
async fn a_journal_goes_on_where_the_last_daemon_ended() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    machine.write_all(b"first boot\r\n").await.unwrap();
    bench.has(12).await;
    bench.consoles.mark(&m1(), MarkKind::Boot, "power on");
    machine.write_all(b"second boot\r\n").await.unwrap();
    bench.has(25).await;
    bench.consoles.flush();
    let Bench { consoles, fake, dir } = bench;
    drop(consoles);
    let consoles = start(dir.path());
    consoles.add(&m1(), "main", Arc::new(fake.clone()));
    let bench = Bench { consoles, fake, dir };
    assert_eq!(bench.consoles.status(&m1())[0].position, 25);
    let mut machine = bench.plug().await;
    machine.write_all(b"third").await.unwrap();
    assert_eq!(
        read_to(&mut bench.watch(Replay::All), "third").await,
        "first boot\r\n{power on}second boot\r\nthird"
    );
    assert_eq!(read_to(&mut bench.watch(Replay::SinceBoot), "third").await, "{power on}second boot\r\nthird");
    assert_eq!(
        read_to(&mut bench.watch(Replay::From(6)), "third").await,
        "boot\r\n{power on}second boot\r\nthird"
    );
    let last = read_to(&mut bench.watch(Replay::Last(15)), "third").await;
    assert_eq!(last, "third", "a replay begins at a line: {last}");
}

#[tokio::test]
async fn a_line_that_is_lost_opens_again_and_the_gap_is_shown() {
    let bench = Bench::new();
    let mut watcher = bench.watch(Replay::Nothing);
    let mut machine = bench.plug().await;
    machine.write_all(b"before").await.unwrap();
    read_to(&mut watcher, "before").await;
    drop(machine);
    let deadline = Instant::now() + PATIENCE;
    while bench.consoles.status(&m1())[0].line.is_ok() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut machine = bench.plug().await;
    machine.write_all(b"after").await.unwrap();
    let seen = read_to(&mut watcher, "after").await;
    assert!(seen.starts_with("{line down ") && seen.ends_with("after"), "{seen}");
}

/// All of a replay, and nothing that comes after it.
async fn replayed(watcher: &mut Watcher) -> String {
    let mut seen = String::new();
    while !watcher.replayed() {
        match tokio::time::timeout(PATIENCE, watcher.next()).await.expect("the replay never ends") {
            Piece::Bytes { bytes, .. } => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Piece::Mark(mark) => seen.push_str(&format!("{{{}}}", mark.text)),
            _ => {}
        }
    }
    seen
}

#[tokio::test]
async fn what_was_noted_since_a_machine_fell_silent_is_left_out_of_a_replay() {
    let bench = Bench::new();
    let note = |consoles: &Consoles, text: &str| consoles.mark(&m1(), MarkKind::Note, text);
    note(&bench.consoles, "never heard");
    assert_eq!(replayed(&mut bench.watch(Replay::Last(100))).await, "{never heard}");
    let mut machine = bench.plug().await;
    machine.write_all(b"last words\r\n").await.unwrap();
    bench.has(12).await;
    note(&bench.consoles, "failed");
    note(&bench.consoles, "quarantined");
    let all = "{never heard}last words\r\n{failed}{quarantined}";
    assert_eq!(replayed(&mut bench.watch(Replay::All)).await, all);
    // Whoever has read so far comes back, and is not told twice.
    assert_eq!(replayed(&mut bench.watch(Replay::From(12))).await, "");
    assert_eq!(replayed(&mut bench.watch(Replay::Nothing)).await, "");
    // The next daemon has them from the journal, and notes more.
    bench.consoles.flush();
    let Bench { consoles, fake, dir } = bench;
    drop(consoles);
    let again = Bench { consoles: start_at(dir.path(), 1_000), fake, dir };
    again.consoles.add(&m1(), "main", Arc::new(again.fake.clone()));
    assert_eq!(replayed(&mut again.watch(Replay::All)).await, all);
    note(&again.consoles, "proven");
    assert_eq!(replayed(&mut again.watch(Replay::All)).await, format!("{all}{{proven}}"));
}

#[tokio::test]
async fn a_machine_is_not_kept_off_by_a_console_that_does_not_open() {
    let bench = Bench::new();
    // One try fails, which is told; nobody waits for the limit.
    let begin = Instant::now();
    bench.consoles.ready(&m1(), Duration::from_secs(600)).await;
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(bench.consoles.status(&m1())[0].line.as_ref().unwrap_err().contains("plugged"));
    let none = MachineName::new("m2").unwrap();
    bench.consoles.ready(&none, Duration::from_secs(600)).await;
}

#[tokio::test]
async fn one_types_and_a_stolen_keyboard_is_announced() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    let attach =
        |who: &str| bench.consoles.attach(&m1(), Some("main"), Replay::Nothing, &viewer(who)).unwrap();
    let (mut watcher, anna) = attach("anna");
    let (_, mut bob) = attach("bob");
    bob.because(Some(" the board\nburns "));
    assert!(anna.type_in(b"x").await.is_err(), "not before it is taken");
    anna.take(false, 5).unwrap();
    assert_eq!(bob.take(false, 5).unwrap_err(), "anna");
    anna.type_in(b"ls\r").await.unwrap();
    let mut got = [0; 3];
    machine.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ls\r");
    anna.send_break().await.unwrap();
    bob.take(true, 5).unwrap();
    assert!(read_to(&mut watcher, "keyboard").await.contains("{bob took the keyboard: the board burns}"));
    assert!(anna.type_in(b"x").await.unwrap_err().contains("bob"));
    drop(bob);
    anna.take(false, 5).unwrap();
    bench.consoles.free_keyboards(&m1(), 6);
    assert!(anna.type_in(b"x").await.is_err());
    let deadline = Instant::now() + PATIENCE;
    while bench.fake.breaks() == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_machine_that_takes_no_input_is_still_heard() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    let (mut watcher, keyboard) =
        bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("anna")).unwrap();
    keyboard.take(false, 5).unwrap();
    // More than the pipe holds: the line does not take the rest.
    for _ in 0..4 {
        keyboard.type_in(&[b'x'; 32 << 10]).await.unwrap();
    }
    machine.write_all(b"still here").await.unwrap();
    read_to(&mut watcher, "still here").await;
}

#[tokio::test]
async fn evidence_begins_at_a_line_and_ends_at_the_last_byte() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    machine.write_all(b"one\ntwo\nthree\npanic").await.unwrap();
    bench.has(19).await;
    assert_eq!(bench.consoles.tail(&m1(), 12), b"three\npanic");
    assert_eq!(bench.consoles.tail(&m1(), 1000), b"one\ntwo\nthree\npanic");
    let mut watcher = bench.watch(Replay::Lines(2));
    assert_eq!(read_to(&mut watcher, "panic").await, "three\npanic");
    assert!(bench.consoles.tail(&MachineName::new("m2").unwrap(), 10).is_empty());
}

/// A machine that was silent has its marks of hours at one place.
#[tokio::test]
async fn what_was_noted_long_before_is_told_with_what_was_asked_for() {
    let bench = Bench::new();
    bench.plug().await;
    for number in 0..50 {
        bench.consoles.mark(&m1(), MarkKind::Note, &format!("before {number}"));
    }
    bench.consoles.mark(&m1(), MarkKind::Boot, "power on");
    bench.consoles.mark(&m1(), MarkKind::Note, "after it");
    assert_eq!(read_to(&mut bench.watch(Replay::SinceBoot), "after it}").await, "{power on}{after it}");
    let latest = read_to(&mut bench.watch(Replay::Lines(24)), "after it}").await;
    assert_eq!(latest.matches('{').count(), 20, "{latest}");
    let all = read_to(&mut bench.watch(Replay::All), "after it}").await;
    assert_eq!(all.matches('{').count(), 52, "{all}");
}

#[tokio::test]
async fn what_an_agent_said_of_its_failure_is_no_second_mark_and_steers_no_terminal() {
    let bench = Bench::new();
    let mut watcher = bench.watch(Replay::Nothing);
    bench.consoles.mark(&m1(), MarkKind::Note, "failed in disk: a\n-- 12:00:00 handed over --\u{1b}[2Jb");
    let seen = read_to(&mut watcher, "b}").await;
    assert!(seen.contains("{failed in disk: a -- 12:00:00 handed over -- [2Jb}"), "{seen:?}");
}

#[tokio::test]
async fn the_last_lines_are_words_whatever_the_machine_paints() {
    let bench = Bench::new();
    let mut machine = bench.plug().await;
    let said = b"\x1b]0;owned\x07\x1b[31mKernel panic\x1b[0m\r\n\x1b[2J\r\n10 %\r99 %";
    machine.write_all(said).await.unwrap();
    bench.has(said.len() as u64).await;
    assert_eq!(bench.consoles.last_lines(&m1(), 5, &viewer("anna")), ["Kernel panic", "99 %"]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_costs_no_console() {
    let dir = tempfile::tempdir().unwrap();
    // Where the journal's directory should be there is a file.
    std::fs::write(dir.path().join("m1"), "in the way").unwrap();
    let consoles = start(dir.path());
    let fake = Fake::default();
    consoles.add(&m1(), "main", Arc::new(fake.clone()));
    let bench = Bench { consoles, fake, dir };
    let mut machine = bench.plug().await;
    let mut watcher = bench.watch(Replay::Nothing);
    machine.write_all(b"lost to history").await.unwrap();
    read_to(&mut watcher, "lost to history").await;
    bench.consoles.flush();
    assert_eq!(bench.consoles.status(&m1())[0].lost, 15);
    let (consoles, why) = bench.consoles.unstored().expect("nobody is alarmed");
    assert_eq!(consoles, 1);
    assert!(why.contains("/m1/main") && why.contains("os error"), "{why}");
    std::fs::remove_file(bench.dir.path().join("m1")).unwrap();
    machine.write_all(b"kept").await.unwrap();
    bench.has(19).await;
    bench.consoles.flush();
    let segments = Segments::of(&bench.dir.path().join("m1/main"));
    assert_eq!(segments.read(15, 100), b"kept");
    assert_eq!(segments.next_start(0), Some(15));
    assert_eq!(bench.consoles.unstored(), None, "it is over");
    assert_eq!(
        read_to(&mut bench.watch(Replay::All), "kept").await,
        "lost to historykept",
        "memory still has it"
    );
}

#[test]
fn there_is_a_word_for_every_console_that_is_not_there() {
    let bench = Bench::new();
    let attach = |machine: &str, console| {
        let machine = MachineName::new(machine).unwrap();
        bench.consoles.attach(&machine, console, Replay::Nothing, &viewer("a")).err().unwrap().to_string()
    };
    assert_eq!(attach("m1", Some("m7")), "m1 has no console `m7`; it has main");
    assert_eq!(attach("m2", None), "there is no machine m2");
}

use pitstop_core::id::{Epoch, ReservationId};
use pitstop_core::machine::{DiskPlan, Goal, Purpose};
use pitstop_core::record::{Actor, Change, Record};

fn record(number: u64, change: Change) -> Record {
    Record { number, at: LabTime(1), wall: 1, epoch: Epoch(1), actor: Actor::Lab, change }
}

fn turn(purpose: Purpose, reservation: Option<ReservationId>) -> Change {
    let (machine, goal, disks) = (m1(), Goal::Off, DiskPlan::Leave);
    Change::TurnStarted { machine, purpose, goal, reservation, image: None, disks, deadline: LabTime(9) }
}

impl Bench {
    fn typist(&self) -> Option<String> {
        self.consoles.find(&m1(), None).unwrap().shared.ring().writer.as_ref().map(|w| w.who.clone())
    }

    /// Has records followed, as they come from the loop.
    async fn follow(&self, batches: impl IntoIterator<Item = Vec<Record>>, room: usize) {
        let (sender, records) = tokio::sync::broadcast::channel(room);
        for batch in batches {
            sender.send(batch.into()).unwrap();
        }
        drop(sender);
        marks::follow_records(self.consoles.clone(), records).await;
    }
}

#[tokio::test]
async fn nobody_keeps_the_keyboard_of_a_machine_that_changes_hands() {
    let bench = Bench::new();
    let (_watcher, keyboard) = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("anna")).unwrap();
    let (machine, reservation) = (m1(), ReservationId(7));
    let changes = [
        // Given up while it was prepared; kept as it is, without a leg.
        Change::Freed { machine: machine.clone(), good: false },
        // An admin typed while nobody had it.
        Change::Granted { reservation, machine: machine.clone(), role: 0 },
        Change::WarmTaken { machine: machine.clone(), reservation },
        Change::MemberDropped { reservation, machine: machine.clone(), failed: true },
        turn(Purpose::Turnaround, None),
        turn(Purpose::Prove, None),
        Change::MachineForgotten { machine: machine.clone() },
    ];
    for change in changes {
        keyboard.take(false, 5).unwrap();
        let words = format!("{change:?}");
        bench.follow([vec![record(6, change)]], 8).await;
        assert_eq!(bench.typist(), None, "{words}");
    }
    // What is his own takes nothing away.
    keyboard.take(false, 5).unwrap();
    let own = [turn(Purpose::Prepare, Some(reservation)), Change::InUse { machine }];
    bench.follow([own.map(|change| record(6, change)).into()], 8).await;
    assert_eq!(bench.typist().as_deref(), Some("anna"));
}

#[tokio::test]
async fn a_late_record_takes_nothing_from_the_next_holder() {
    let bench = Bench::new();
    let (_watcher, keyboard) = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("bob")).unwrap();
    // He was found to be the holder by record 6, before the marks got there.
    keyboard.take(false, 6).unwrap();
    let granted = Change::Granted { reservation: ReservationId(7), machine: m1(), role: 0 };
    bench.follow([vec![record(6, granted)]], 8).await;
    assert_eq!(bench.typist().as_deref(), Some("bob"));
}

#[tokio::test]
async fn records_that_went_by_unseen_free_every_keyboard_and_leave_a_mark() {
    let bench = Bench::new();
    let (_watcher, keyboard) = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("anna")).unwrap();
    keyboard.take(false, 5).unwrap();
    let mut watcher = bench.watch(Replay::Nothing);
    let note = |number| vec![record(number, Change::InUse { machine: m1() })];
    bench.follow([vec![record(6, turn(Purpose::Turnaround, None))], note(7), note(8)], 2).await;
    assert_eq!(bench.typist(), None);
    assert!(read_to(&mut watcher, "}").await.contains("marks are missing"));
}

#[tokio::test]
async fn a_panic_is_told_with_the_attempt_that_it_belongs_to() {
    let bench = Bench::new();
    let mut told = bench.consoles.inner.told.lock().unwrap().take().unwrap();
    let mut machine = bench.plug().await;
    let nonce = "abc".to_owned();
    bench.follow([vec![record(6, Change::AttemptStarted { machine: m1(), attempt: 1, nonce })]], 8).await;
    machine.write_all(b"[    1.0] Kernel panic - not syncing: no init\r\n").await.unwrap();
    let said = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!((said.machine, said.nonce.as_deref()), (m1(), Some("abc")));
    assert_eq!(said.heard.line, "[    1.0] Kernel panic - not syncing: no init");
    // Handed over: what a tenant's kernel says belongs to no attempt.
    bench.follow([vec![record(7, Change::InUse { machine: m1() })]], 8).await;
    machine.write_all(b"[    9.0] Oops: 0002 [#1] SMP\r\n").await.unwrap();
    let said = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!(said.nonce, None);
}

#[tokio::test]
async fn everybody_knows_who_watches() {
    let bench = Bench::new();
    let mut anna = bench.watch(Replay::Nothing);
    let bob = bench.consoles.attach(&m1(), None, Replay::Nothing, &viewer("bob")).unwrap();
    let seats = async |watcher: &mut Watcher, want: &[&str]| loop {
        if let Piece::Seats(seats) = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap()
            && seats.watchers == want
        {
            return;
        }
    };
    seats(&mut anna, &["anna", "bob"]).await;
    drop(bob);
    seats(&mut anna, &["anna"]).await;
}
