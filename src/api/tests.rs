//! The API over a real socket, through the real client, with a real loop.

use super::*;
use crate::daemon::agents::RunLink;
use crate::daemon::decide::{Hands, Running, open};
use crate::daemon::spare::Spare;
use crate::store::memory::MemoryStore;
use crate::store::sample;
use pitstop_client::{Client, EventQuery, Feed, Input};
use pitstop_core::effect::Effect;
use pitstop_core::event::Fact;
use pitstop_core::id::Epoch;
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::api::{Extend, Release, ReservationState, Reserve, Update};
use pitstop_wire::run::{Command, End, FromRun, Stream, ToRun};
use pitstop_wire::selector::TagValue;
use pitstop_wire::{ApiError, Code, MachineName};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Power that always does what it is told.
struct Obedient(Desk);

impl Hands for Obedient {
    fn release(&self, effects: Vec<Effect>, epoch: Epoch) {
        for effect in effects {
            match effect {
                Effect::Power { machine, leg, intent, want, .. } => {
                    let result = Ok(if want == Switch::On { Reading::On } else { Reading::Off });
                    self.0.fact(epoch, Fact::Power { machine, leg, intent, want, result, witnessed: true });
                }
                Effect::Observe { machine, leg } => {
                    let asked = self.0.now();
                    self.0.fact(epoch, Fact::Read { machine, leg, asked, reading: Reading::Off });
                }
                _ => {}
            }
        }
    }

    fn follow(&self, _: &Arc<Inventory>) {}

    fn know(&self, _: &pitstop_core::Lab, _: Option<&[pitstop_core::record::Record]>) {}
}

/// Machines whose agent echoes standard input, and drops each connection
/// after `breaks` bytes of output.
#[derive(Default)]
struct Echo {
    state: Arc<Mutex<EchoState>>,
}

#[derive(Default)]
struct EchoState {
    output: Vec<u8>,
    eof: bool,
    starts: usize,
}

impl Runs for Echo {
    fn link(&self, _: &MachineName, _: &str, _: &str) -> Option<RunLink> {
        let (send, mut to) = mpsc::channel::<(ToRun, Vec<u8>)>(16);
        let (from, receive) = mpsc::channel(16);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            while let Some((message, body)) = to.recv().await {
                let id = message.id().to_owned();
                let answers = state.lock().unwrap().take(&message, &body);
                for (answer, body) in answers {
                    if from.send((with_id(answer, &id), body)).await.is_err() {
                        return;
                    }
                }
                // A connection that breaks in the middle, once in a while.
                if state.lock().unwrap().starts < 4 && matches!(message, ToRun::Input { .. }) {
                    return;
                }
            }
        });
        Some(RunLink { send, receive })
    }
}

fn with_id(message: FromRun, to: &str) -> FromRun {
    let id = to.to_owned();
    match message {
        FromRun::Started { input, .. } => FromRun::Started { id, input },
        FromRun::Output { stream, offset, .. } => FromRun::Output { id, stream, offset },
        FromRun::Taken { input, .. } => FromRun::Taken { id, input },
        FromRun::Ended { end, .. } => FromRun::Ended { id, end },
    }
}

impl EchoState {
    fn take(&mut self, message: &ToRun, body: &[u8]) -> Vec<(FromRun, Vec<u8>)> {
        let id = String::new;
        let have = self.output.len() as u64;
        let mut answers = Vec::new();
        match message {
            ToRun::Start { stdout, .. } => {
                self.starts += 1;
                answers.push((FromRun::Started { id: id(), input: have }, vec![]));
                let from = usize::try_from(*stdout).unwrap();
                if from < self.output.len() {
                    // From a little before, as an agent that cuts pieces would.
                    let from = from.saturating_sub(3);
                    let offset = from as u64;
                    answers.push((
                        FromRun::Output { id: id(), stream: Stream::Stdout, offset },
                        self.output[from..].to_vec(),
                    ));
                }
            }
            ToRun::Input { offset, eof, .. } => {
                let skip = usize::try_from(have - offset).unwrap();
                let new = body.get(skip..).unwrap_or_default();
                self.output.extend_from_slice(new);
                self.eof |= *eof;
                answers.push((FromRun::Taken { id: id(), input: self.output.len() as u64 }, vec![]));
                if !new.is_empty() {
                    answers.push((
                        FromRun::Output { id: id(), stream: Stream::Stdout, offset: have },
                        new.to_vec(),
                    ));
                }
            }
            ToRun::Signal { .. } | ToRun::Seen { .. } => {}
        }
        if self.eof {
            answers.push((FromRun::Ended { id: id(), end: End::Exit { code: 7 } }, vec![]));
        }
        answers
    }
}

/// An inventory file; a bad one until it is written.
#[derive(Default)]
struct File(Mutex<Option<Inventory>>);

/// There is no hardware to look at.
struct Blind;

impl Examiner for Blind {
    fn examine<'a>(&'a self, _: &'a MachineName) -> Answer<'a, Option<Vec<Seen>>> {
        Box::pin(async { None })
    }

    fn identify<'a>(&'a self, _: &'a MachineName, _: bool) -> Answer<'a, Option<Result<String, String>>> {
        Box::pin(async { None })
    }
}

impl InventorySource for File {
    fn read(&self) -> Result<Inventory, String> {
        let file = self.0.lock().unwrap();
        file.clone().ok_or_else(|| "inventory.toml:3:1: unknown key `machin`".to_owned())
    }
}

struct Bench {
    desk: Desk,
    client: Client,
    socket: PathBuf,
    file: Arc<File>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    running: Running,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new(machines: usize) -> Self {
        let mut inventory = Arc::unwrap_or_clone(sample::inventory(machines));
        for (n, spec) in inventory.machines.values_mut().enumerate() {
            spec.tags.insert("soc".to_owned(), TagValue::from(if n == 0 { "imx8" } else { "imx9" }));
        }
        let opened = open(Box::new(MemoryStore::default()), Arc::new(inventory), true).unwrap();
        let desk = opened.desk();
        let running = opened.run(Box::new(Obedient(desk.clone()))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let file = Arc::new(File::default());
        let stop = CancellationToken::new();
        let app = App {
            desk: desk.clone(),
            runs: Arc::new(Echo::default()),
            examiner: Arc::new(Blind),
            boot_asks: Arc::default(),
            consoles: crate::daemon::consoles::Consoles::start(&dir.path().join("consoles"), desk.clock())
                .unwrap(),
            images: Arc::new(pitstop_image::ImageStore::open(&dir.path().join("images")).unwrap()),
            inventory: Arc::clone(&file) as Arc<dyn InventorySource>,
            known: select::KnownCache::default(),
            progress: tokio::sync::broadcast::Sender::new(16),
            metrics: Metrics::after(0),
            closing: stop.clone(),
            data: dir.path().to_owned(),
        };
        let listener = Listener::bind(&socket).await.unwrap();
        let served =
            tokio::spawn(listener.serve(router(Arc::new(app)), stop.clone(), Spare::keep(1).unwrap()));
        Self { desk, client: Client::new(&socket), socket, file, stop, served, running, _dir: dir }
    }

    async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap();
        self.desk.stop();
        self.running.ended().await.unwrap();
    }

    async fn records(&self) -> u64 {
        self.desk.snapshot().await.unwrap().meta().records
    }

    /// One raw exchange; for what the client would never say.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // A daemon that refuses early may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(60), read).await.expect("no answer and no end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.raw(format!("POST /api/v1{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).await
    }

    async fn until(&self, id: &str, state: ReservationState) {
        let mut events = self
            .client
            .events(EventQuery { reservation: Some(id.into()), ..EventQuery::default() })
            .await
            .unwrap();
        let work = async {
            loop {
                let found = match events.next().await.unwrap().update {
                    Update::Snapshot(s) => s.reservations.iter().any(|r| r.id == id && r.state == state),
                    Update::Reservation(r) => r.id == id && r.state == state,
                    _ => false,
                };
                if found {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("the state was never told");
    }
}

fn one(select: &str) -> Reserve {
    Reserve {
        select: Some(select.to_owned()),
        clean: Some(pitstop_wire::api::CleanLevel::Any),
        ..Reserve::default()
    }
}

fn code(result: Result<impl Sized, ApiError>) -> Code {
    match result {
        Ok(_) => panic!("was not refused"),
        Err(error) => error.code,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_lives_from_asking_to_release() {
    let bench = Bench::new(2).await;
    let c = &bench.client;
    let r = c.reserve(&one("soc=imx8"), None).await.unwrap();
    assert_eq!(r.limit, Some(7_200), "a time hold ends by itself");
    bench.until(&r.id, ReservationState::Ready).await;
    let r = c.claim(&r.id).await.unwrap();
    assert_eq!((r.state, r.machines[0].machine.as_str()), (ReservationState::Active, "m0"));
    let m = c.machine("m0").await.unwrap();
    assert_eq!(m.holder.as_ref().map(|h| h.reservation.as_str()), Some(r.id.as_str()));
    let later = c.extend(&r.id, &Extend { length: Some(14_400), until: None }, None).await.unwrap();
    assert!(later.ends > r.ends);
    // Without `for`: as the policy says, and never to a sooner end.
    let sooner = c.extend(&r.id, &Extend::default(), None).await;
    assert_eq!(code(sooner), Code::Conflict);
    assert_eq!(c.status().await.unwrap().mine.len(), 1);
    let over = c.release(&r.id, &Release::default(), None).await.unwrap();
    assert_eq!(over.state, ReservationState::Ended);
    let told = c.history(&EventQuery { reservation: Some(r.id), ..EventQuery::default() }).await.unwrap();
    assert!(told.events.iter().any(|e| e.kind == "ended"), "{told:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_reservation_and_another_body_is_refused() {
    let bench = Bench::new(2).await;
    let c = &bench.client;
    let key = || Some("k1".to_owned());
    let first = c.reserve(&one("m0"), key()).await.unwrap();
    assert_eq!(c.reserve(&one("m0"), key()).await.unwrap().id, first.id);
    assert_eq!(code(c.reserve(&one("m1"), key()).await), Code::KeyReused);
    assert_eq!(c.reservations(true).await.unwrap().reservations.len(), 1);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_words_and_changes_nothing() {
    let bench = Bench::new(2).await;
    let before = bench.records().await;
    let table: &[(&str, &str, &str, &str)] = &[
        ("/reservations", "{", "400", "line 1, column 1"),
        ("/reservations", "{\"slect\":\"m0\"}", "400", "did you mean `select`"),
        ("/reservations", "{\"select\":\"soc=\"}", "400", "FILTER"),
        ("/reservations", "{\"select\":\"soc=imx7\"}", "404", "imx8"),
        ("/reservations", "{\"select\":\"m7\"}", "404", "m7"),
        ("/reservations", "{\"select\":\"sox=imx8\"}", "404", "soc"),
        ("/reservations", "{\"count\":0}", "400", "machines"),
        ("/reservations", "{\"count\":3}", "404", "only 2 of 3"),
        ("/reservations", "{\"for\":0}", "400", "`for`"),
        ("/reservations", "{\"for\":99999999999}", "400", "`for`"),
        ("/reservations", "{\"for\":1,\"until\":\"2099-01-01T00:00:00Z\"}", "400", "either `for` or `until`"),
        ("/reservations", "{\"until\":\"1999-01-01T00:00:00Z\"}", "400", "not in the future"),
        ("/reservations", "{\"silence\":5}", "400", "session"),
        ("/reservations", "{\"image\":\"nope\",\"select\":\"m0\"}", "404", "nope"),
        (
            "/reservations",
            "{\"select\":\"m0\",\"roles\":[{\"name\":\"a\",\"select\":\"m1\"}]}",
            "400",
            "either",
        ),
        ("/reservations", "{\"roles\":[{\"name\":\"a b\",\"select\":\"m1\"}]}", "400", "role name"),
        ("/reservations/R-99/release", "{}", "404", "R-99"),
        ("/reservations/17/release", "{}", "400", "R-17"),
        ("/machines/m9/power", "{\"action\":\"on\"}", "404", "no machine `m9`"),
        ("/machines/..%2f..%2fx/power", "{\"action\":\"on\"}", "400", "not allowed in a machine name"),
        ("/machines/m0/power", "{\"action\":\"explode\"}", "400", "explode"),
        ("/machines/m0/power", "{\"action\":\"on\"}", "409", "nobody holds it"),
        ("/machines/m0/drain", "{\"reason\":\" \"}", "400", "reason"),
        ("/machines/m0/run", "{}", "400", "Upgrade"),
        ("/reload", "{}", "400", "inventory.toml:3:1"),
        ("/enrol", "{\"select\":\"m0\",\"count\":5}", "404", "no new machine matches"),
        ("/nothing", "{}", "404", "nothing at"),
        ("/status", "{}", "405", "does not take POST"),
    ];
    for (path, body, status, words) in table {
        let answer = bench.post(path, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {body}: {answer}");
        assert!(answer.contains(words), "{path} {body}: `{words}` is not in {answer}");
    }
    assert_eq!(bench.records().await, before, "something was changed");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_do_not_end_the_daemon() {
    let bench = Bench::new(1).await;
    let deep = "[".repeat(1 << 20);
    assert!(bench.post("/reservations", &deep).await.starts_with("HTTP/1.1 400"));
    let big = "x".repeat(3 << 20);
    assert!(bench.post("/reservations", &big).await.contains(" 4"), "a body over the limit");
    for bytes in [
        &b"\x00\xff\x16\x03\x01"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/reservations HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET /api/v1/events?since=\xff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /api/v1/machines?select=%ff%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /api/v1/reservations HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: a b\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let answer = bench.raw(bytes).await;
        assert!(!answer.contains(" 200 ") && !answer.contains(" 500 "), "{bytes:?}: {answer}");
    }
    assert_eq!(bench.client.machines("").await.unwrap().machines.len(), 1);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_from_its_last_id_and_an_unknown_one_is_reset() {
    let bench = Bench::new(1).await;
    let mut first = bench.client.events(EventQuery::default()).await.unwrap();
    let snapshot = first.next().await.unwrap();
    let id = snapshot.id.expect("a snapshot says what it is up to");
    bench.client.reserve(&one("m0"), None).await.unwrap();
    let answer = async |last: &str| {
        let mut stream = UnixStream::connect(&bench.socket).await.unwrap();
        let head =
            format!("GET /api/v1/events?follow=true HTTP/1.1\r\nhost: x\r\nlast-event-id: {last}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while !text.contains("event: machine") && !text.contains("event: snapshot") {
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        text
    };
    let resumed = answer(&id).await;
    assert!(resumed.contains("\"kind\":\"queued\"") && !resumed.contains("event: snapshot"), "{resumed}");
    for unknown in ["other-1", "memory-999999", "memory-x", "nonsense"] {
        let text = answer(unknown).await;
        assert!(text.contains("event: reset\n"), "{unknown}: {text}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_ended_and_not_broken_when_the_daemon_closes() {
    let bench = Bench::new(1).await;
    let mut stream = UnixStream::connect(&bench.socket).await.unwrap();
    stream.write_all(b"GET /api/v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains("event: snapshot") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
    }
    bench.stop.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut got)).await;
    rest.expect("it goes on").unwrap();
    assert!(got.ends_with(b"\r\n0\r\n\r\n"), "no last chunk: {}", String::from_utf8_lossy(&got));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_an_agent_runs_nothing() {
    let bench = Bench::new(1).await;
    let c = &bench.client;
    let r = c.reserve(&one("m0"), None).await.unwrap();
    bench.until(&r.id, ReservationState::Ready).await;
    // Nobody attached: the core knows no agent, so `run` is refused by it.
    let (_send, input) = mpsc::channel(1);
    let (_signals, signals) = mpsc::channel(1);
    let command = Command { argv: vec!["cat".into()], env: vec![], cwd: None, stdin: true };
    let refused = c.run("m0", command, Feed { input, signals }, &mut Vec::new(), &mut Vec::new()).await;
    assert_eq!(code(refused), Code::Conflict);
    bench.end().await;
}

#[tokio::test]
async fn a_command_that_loses_its_connection_loses_no_byte_and_repeats_none() {
    // The relay and the client, without the core's permission in between.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let runs: Arc<dyn Runs> = Arc::new(Echo::default());
    let app = axum::Router::new().route(
        &format!("{BASE}/machines/{{name}}/run"),
        axum::routing::post(move |request: axum::extract::Request| {
            let runs = Arc::clone(&runs);
            async move { super::run::without_permission(runs, request).await }
        }),
    );
    let stop = CancellationToken::new();
    let served = tokio::spawn(Listener::bind(&socket).await.unwrap().serve(
        app,
        stop.clone(),
        Spare::keep(1).unwrap(),
    ));
    let (send, input) = mpsc::channel(4);
    let (_signals, signals) = mpsc::channel(1);
    let sent: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    let feed = sent.clone();
    tokio::spawn(async move {
        for piece in feed.chunks(50_000) {
            send.send(Input::Bytes(piece.to_vec())).await.unwrap();
        }
        send.send(Input::Eof).await.unwrap();
        // The queue stays open: its end is no end of file.
        std::future::pending::<()>().await;
    });
    let mut stdout = Vec::new();
    let command = Command { argv: vec!["cat".into()], env: vec![], cwd: None, stdin: true };
    let run = Client::new(&socket);
    let mut stderr = tokio::io::sink();
    let work = run.run("m0", command, Feed { input, signals }, &mut stdout, &mut stderr);
    let end = tokio::time::timeout(Duration::from_secs(30), work).await.unwrap().unwrap();
    assert_eq!(end, End::Exit { code: 7 });
    assert!(stdout == sent, "{} of {} bytes", stdout.len(), sent.len());
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn no_daemon_is_not_known_and_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path().join("none"));
    let began = std::time::Instant::now();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.code, Code::NotKnown);
    assert!(error.hint.unwrap().contains("pitstop serve"));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_was_answered_before_does_not_say_that_it_took_a_newer_file() {
    let bench = Bench::new(1).await;
    let write = |machines| {
        *bench.file.0.lock().unwrap() = Some(Arc::unwrap_or_clone(sample::inventory(machines)));
    };
    let reload = async |dry_run, key: &str| {
        bench.client.reload(&pitstop_wire::api::Reload { dry_run }, Some(key.to_owned())).await
    };
    write(2);
    assert!(!reload(true, "k0").await.unwrap().done);
    assert_eq!(bench.desk.inventory().machines.len(), 1, "a dry run changes nothing");
    assert_eq!(reload(false, "k1").await.unwrap().added, ["m1"]);
    assert_eq!(reload(false, "k1").await.unwrap().added, [""; 0], "the same again is fine");
    write(3);
    let error = reload(false, "k1").await.unwrap_err();
    assert_eq!(error.code, Code::Conflict, "{error}");
    assert_eq!(bench.desk.inventory().machines.len(), 2);
    assert_eq!(reload(false, "k2").await.unwrap().added, ["m2"]);
    assert_eq!(bench.desk.inventory().machines.len(), 3);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_events_are_told_as_were_asked_for_however_many_details_lie_between() {
    let bench = Bench::new(1).await;
    let c = &bench.client;
    for _ in 0..2 {
        let r = c.reserve(&one("m0"), None).await.unwrap();
        bench.until(&r.id, ReservationState::Ready).await;
        c.release(&r.id, &Release::default(), None).await.unwrap();
    }
    let story = |n| EventQuery { last: Some(n), story: true, ..EventQuery::default() };
    let all = c.history(&EventQuery { story: true, ..EventQuery::default() }).await.unwrap().events;
    assert!(all.len() > 4 && all.iter().all(|e| !e.detail), "{all:?}");
    for n in [1, 3, all.len()] {
        let told = c.history(&story(n)).await.unwrap().events;
        let numbers =
            |events: &[pitstop_wire::api::Event]| events.iter().map(|e| e.number).collect::<Vec<_>>();
        assert_eq!(numbers(&told), numbers(&all[all.len() - n..]), "the newest {n}, oldest first");
    }
    assert_eq!(c.history(&story(1_000)).await.unwrap().events.len(), all.len(), "no more than there are");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_found_by_the_words_that_people_see_too() {
    let bench = Bench::new(2).await;
    let c = &bench.client;
    let r = c.reserve(&one("m0"), None).await.unwrap();
    bench.until(&r.id, ReservationState::Ready).await;
    c.claim(&r.id).await.unwrap();
    let found = async |select: &str| -> Vec<String> {
        let found = c.machines(select).await.unwrap().machines;
        found.into_iter().map(|m| m.name.to_string()).collect()
    };
    assert_eq!(found("state=held").await, ["m0"]);
    assert_eq!(found("state=in-use").await, ["m0"]);
    assert_eq!(found("state!=held").await, ["m1"]);
    assert_eq!(found("state!=in-use").await, ["m1"]);
    assert_eq!(found("state=failed,free").await, ["m1"]);
    let error = c.machines("state=holding").await.unwrap_err();
    assert!(error.message.contains("`held`") && error.message.contains("`quarantined`"), "{error}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_inventory_names_and_nobody_added_is_not_missed() {
    let bench = Bench::new(2).await;
    assert_eq!(bench.client.status().await.unwrap().alerts, []);
    let mut inventory = Arc::unwrap_or_clone(sample::inventory(2));
    inventory.machines.values_mut().for_each(|m| m.image = Some("debain".to_owned()));
    *bench.file.0.lock().unwrap() = Some(inventory);
    bench.client.reload(&pitstop_wire::api::Reload { dry_run: false }, None).await.unwrap();
    let alerts = bench.client.status().await.unwrap().alerts;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert!(
        alerts[0].text.starts_with("there is no image `debain`, which is that of 2 machines"),
        "{alerts:?}"
    );
    assert_eq!(alerts[0].next.as_deref(), Some("pitstop image add debain FILE"));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_reservation_still_says_what_it_waited_for() {
    let bench = Bench::new(1).await;
    let c = &bench.client;
    let first = c.reserve(&one("m0"), None).await.unwrap();
    bench.until(&first.id, ReservationState::Ready).await;
    let second = c.reserve(&one("m0"), None).await.unwrap();
    let over = c.release(&second.id, &Release::default(), None).await.unwrap();
    assert!(over.end.unwrap().text.starts_with("cancelled by "), "it was never its holder's");
    c.release(&first.id, &Release::default(), None).await.unwrap();
    let why = c.why(&second.id).await.unwrap();
    let want = format!("m0 was held by {} ({}) then", second.owner, first.id);
    assert!(why.lines.iter().any(|l| l.text == want), "{why:?}");
    let why = c.why(&first.id).await.unwrap();
    assert!(why.lines.iter().any(|l| l.text.starts_with("got m0 after ")), "{why:?}");
    assert!(why.summary.contains("released by"), "{why:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_put_in_the_place_of_another_unless_that_is_said() {
    let bench = Bench::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let add = async |byte: u8, replace: bool| {
        let path = dir.path().join(byte.to_string());
        std::fs::write(&path, [byte; 8192]).unwrap();
        bench
            .client
            .add_image("os", tokio::fs::File::open(&path).await.unwrap(), Some("none"), replace, None)
            .await
    };
    let first = add(1, false).await;
    let Ok(first) = first else {
        // Not an admin here: nobody could have added one.
        assert_eq!(code(first), Code::NotAllowed);
        return bench.end().await;
    };
    let error = add(2, false).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.message.contains(&first.digest) && error.hint.unwrap().contains("--replace"));
    assert_eq!(add(1, false).await.unwrap().digest, first.digest, "the same again is fine");
    assert_ne!(add(2, true).await.unwrap().digest, first.digest);
    bench.end().await;
}
