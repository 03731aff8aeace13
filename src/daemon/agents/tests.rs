use super::hub::Agents;
use super::listen::Limits;
use super::session;
use crate::daemon::hands::{Answer, Front};
use crate::daemon::spare::Spare;
use pitstop_core::event::{BootAnswer, Fact, Report};
use pitstop_core::id::Epoch;
use pitstop_core::time::LabTime;
use pitstop_image::{AddOptions, ImageStore};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    DiskMatch, FromAgent, Hello, ImageMode, ImageWork, Outcome, Secret, ToAgent, Welcome, Work,
};
use pitstop_wire::frame::{Decoder, encode};
use pitstop_wire::run::{FromRun, Stream, ToRun};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

/// A decision loop whose answers the test gives.
struct Loop {
    hellos: mpsc::UnboundedSender<(Hello, oneshot::Sender<Welcome>)>,
    reports: mpsc::UnboundedSender<(String, Report)>,
    /// How many reports it decides about.
    deciding: Arc<Semaphore>,
    /// Reports that are not decided about, and the most there ever were.
    undecided: Arc<Mutex<(usize, usize)>>,
}

impl Front for Loop {
    fn hello(&self, hello: Hello) -> Answer<'_, Welcome> {
        let (sender, receiver) = oneshot::channel();
        self.hellos.send((hello, sender)).unwrap();
        Box::pin(async { receiver.await.unwrap() })
    }
    fn boot(&self, _: MachineName, _: bool) -> Answer<'_, BootAnswer> {
        Box::pin(async { BootAnswer::Disk })
    }
    fn fact(&self, _: Epoch, _: Fact) {}
    fn agent(&self, _: MachineName, _: String, boot_id: String, report: Report) -> Answer<'static, ()> {
        let (deciding, undecided) = (self.deciding.clone(), self.undecided.clone());
        if let Report::Done { .. } = report {
            let mut undecided = undecided.lock().unwrap();
            *undecided = (undecided.0 + 1, undecided.1.max(undecided.0 + 1));
        }
        self.reports.send((boot_id, report)).unwrap();
        Box::pin(async move {
            deciding.acquire().await.unwrap().forget();
            undecided.lock().unwrap().0 -= 1;
        })
    }
    fn now(&self) -> LabTime {
        LabTime(0)
    }
}

struct Bench {
    agents: Agents,
    images: Arc<ImageStore>,
    limits: Limits,
    hellos: mpsc::UnboundedReceiver<(Hello, oneshot::Sender<Welcome>)>,
    reports: mpsc::UnboundedReceiver<(String, Report)>,
    deciding: Arc<Semaphore>,
    undecided: Arc<Mutex<(usize, usize)>>,
    /// Bytes that a connection holds until they are read.
    pipe: usize,
    dir: tempfile::TempDir,
}

/// The machine's end of a connection.
struct Agent {
    stream: DuplexStream,
    decoder: Decoder,
}

const PATIENCE: Duration = Duration::from_secs(30);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn m1() -> MachineName {
    MachineName::new("m1").unwrap()
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (hello, hellos) = mpsc::unbounded_channel();
    let (report, reports) = mpsc::unbounded_channel();
    let images = Arc::new(ImageStore::open(&dir.path().join("images")).unwrap());
    let (deciding, undecided) = (Arc::new(Semaphore::new(1 << 20)), Arc::default());
    let front = Loop {
        hellos: hello,
        reports: report,
        deciding: Arc::clone(&deciding),
        undecided: Arc::clone(&undecided),
    };
    let front = Arc::new(front);
    let agents = Agents::new(front, images.clone(), broadcast::Sender::new(8));
    let (limits, pipe) = (Limits::default(), 4 << 20);
    Bench { agents, images, limits, hellos, reports, deciding, undecided, pipe, dir }
}

fn accepted() -> Welcome {
    Welcome::Accepted { protocol: 1, heartbeat_ms: 1000, rejoin: None }
}

fn refused() -> Welcome {
    Welcome::Refused { reason: "no".into(), retry: false }
}

impl Bench {
    /// An agent that has said hello; the loop has not answered.
    async fn hello(&mut self, boot: &str) -> (Agent, oneshot::Sender<Welcome>) {
        let (ours, theirs) = tokio::io::duplex(self.pipe);
        let (agents, limits) = (self.agents.clone(), self.limits);
        tokio::spawn(async move {
            if let Ok(met) = session::greet(theirs).await {
                session::run(agents, met, HERE, limits).await;
            }
        });
        let mut agent = Agent { stream: ours, decoder: Decoder::default() };
        let (protocol, version, nonce) = ((1, 1), "1".to_owned(), "n".to_owned());
        let (machine, boot_id, key) = (m1(), boot.to_owned(), Secret("k".into()));
        agent.say(&Hello::Resume { protocol, version, machine, nonce, boot_id, key }).await;
        (agent, self.hellos.recv().await.unwrap().1)
    }

    async fn attached(&mut self, boot: &str) -> Agent {
        let (mut agent, answer) = self.hello(boot).await;
        answer.send(accepted()).unwrap();
        assert_eq!(agent.hears::<Welcome>().await.0, accepted());
        agent
    }

    async fn report(&mut self) -> (String, Report) {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("no report").unwrap()
    }
}

impl Agent {
    async fn say<M: serde::Serialize>(&mut self, message: &M) {
        self.stream.write_all(&encode(message, &[]).unwrap()).await.unwrap();
    }

    async fn hears<M: serde::de::DeserializeOwned>(&mut self) -> (M, Vec<u8>) {
        let mut buf = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next::<M>().unwrap() {
                return (frame.message, frame.body);
            }
            let n =
                tokio::time::timeout(PATIENCE, self.stream.read(&mut buf)).await.expect("silence").unwrap();
            assert!(n > 0, "the connection was closed");
            self.decoder.push(&buf[..n]);
        }
    }

    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .expect("not closed")
            .unwrap();
    }
}

fn look() -> ToAgent {
    ToAgent::Do { step: 1, work: Work::Look }
}

#[tokio::test]
async fn what_is_ordered_in_the_step_that_accepts_an_agent_reaches_it() {
    let mut bench = bench();
    let (mut agent, answer) = bench.hello("b1").await;
    // The loop lets effects go before the session has heard its answer.
    bench.agents.tell(&m1(), "n", &look());
    bench.agents.tell(&m1(), "older", &ToAgent::Ack { step: 9 });
    answer.send(accepted()).unwrap();
    assert_eq!(agent.hears::<Welcome>().await.0, accepted());
    assert_eq!(agent.hears::<ToAgent>().await.0, look());
    assert!(bench.agents.connected(&m1(), "n") && !bench.agents.connected(&m1(), "older"));
}

#[tokio::test]
async fn a_newer_connection_replaces_the_older_one_and_nobody_is_lost() {
    let mut bench = bench();
    let mut first = bench.attached("b1").await;
    let mut second = bench.attached("b1").await;
    first.is_closed().await;
    bench.agents.tell(&m1(), "n", &look());
    assert_eq!(second.hears::<ToAgent>().await.0, look());
    assert!(bench.reports.try_recv().is_err());
    drop(second);
    assert!(matches!(bench.report().await, (_, Report::Lost)));
}

#[tokio::test]
async fn lost_is_never_reported_after_back() {
    let mut bench = bench();
    let first = bench.attached("b1").await;
    let (mut second, answer) = bench.hello("b1").await;
    drop(first);
    // The loop hears hellos and reports in order: were the first connection's
    // loss reported now, it would come behind the second's hello.
    while bench.agents.connected(&m1(), "n") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    answer.send(accepted()).unwrap();
    second.hears::<Welcome>().await;
    assert!(bench.reports.try_recv().is_err());
    let (_third, answer) = bench.hello("b1").await;
    drop(second);
    while bench.agents.connected(&m1(), "n") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // But if the one that was to come is refused, the loss is still owed.
    answer.send(refused()).unwrap();
    assert!(matches!(bench.report().await, (_, Report::Lost)));
    assert!(bench.reports.try_recv().is_err());
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_lost() {
    let mut bench = bench();
    bench.limits.silence = Duration::from_millis(100);
    let mut agent = bench.attached("b1").await;
    agent.is_closed().await;
    assert!(matches!(bench.report().await, (boot, Report::Lost) if boot == "b1"));
}

#[tokio::test]
async fn a_dismissed_agent_hears_why() {
    let mut bench = bench();
    let mut agent = bench.attached("b1").await;
    bench.agents.dismiss(&m1(), "released");
    assert_eq!(agent.hears::<ToAgent>().await.0, ToAgent::Bye { reason: "released".into() });
    agent.is_closed().await;
}

#[tokio::test]
async fn results_and_progress_go_where_they_belong() {
    let mut bench = bench();
    let mut agent = bench.attached("b1").await;
    agent.say(&FromAgent::Progress { step: 1, phase: "write".into(), done: 5, total: 10 }).await;
    agent.say(&FromAgent::Beat).await;
    let shown = loop {
        match bench.agents.progress(&m1()) {
            Some(progress) => break progress,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    assert_eq!((shown.done, shown.total), (5, 10));
    agent.say(&FromAgent::Done { step: 1, outcome: Outcome::Seeded }).await;
    assert!(matches!(bench.report().await, (_, Report::Done { step: 1, outcome: Outcome::Seeded })));
    assert!(bench.agents.progress(&m1()).is_none());
}

fn work(digest: &str) -> ToAgent {
    let image = ImageWork {
        disk: "root".into(),
        find: DiskMatch::default(),
        digest: Some(digest.into()),
        mode: ImageMode::Write,
    };
    ToAgent::Do { step: 1, work: Work::Image(image) }
}

#[tokio::test]
async fn an_agent_gets_the_image_of_its_work_and_no_other() {
    let mut bench = bench();
    let add = |name: &str, byte| {
        let bytes = vec![byte; 2 << 20];
        bench.images.add(name, &bytes[..], &AddOptions::default()).unwrap().digest.to_string()
    };
    let (ours, others) = (add("ours", 1), add("others", 2));
    let mut agent = bench.attached("b1").await;
    // Asked for before the work is told to this connection: it waits.
    agent.say(&FromAgent::FetchMap { digest: ours.clone() }).await;
    agent.say(&FromAgent::Fetch { digest: ours.clone(), index: 0 }).await;
    agent.say(&FromAgent::Fetch { digest: ours.clone(), index: 77 }).await;
    agent.say(&FromAgent::FetchMap { digest: others.clone() }).await;
    bench.agents.tell(&m1(), "n", &work(&ours));
    assert_eq!(agent.hears::<ToAgent>().await.0, work(&ours));
    let (message, body) = agent.hears::<ToAgent>().await;
    assert_eq!(message, ToAgent::Map { digest: ours.clone() });
    assert_eq!(pitstop_image::BlockMap::decode(&body).unwrap().digest().to_string(), ours);
    let (message, body) = agent.hears::<ToAgent>().await;
    assert_eq!(message, ToAgent::Chunk { digest: ours.clone(), index: 0 });
    assert!(!body.is_empty());
    assert!(matches!(agent.hears().await.0, ToAgent::NoChunk { index: Some(77), .. }));
    let (message, body) = agent.hears::<ToAgent>().await;
    assert!(matches!(message, ToAgent::NoChunk { index: None, reason, .. } if reason.contains("your work")));
    assert!(body.is_empty());
    drop(bench.dir);
}

#[tokio::test]
async fn strangers_who_talk_rubbish_never_reach_the_loop() {
    let bench = bench();
    for rubbish in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 8, 0, 0, 0, 4, b'n', b'u', b'l', b'l']]
    {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let met = tokio::spawn(session::greet(theirs));
        ours.write_all(rubbish).await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, met).await.unwrap().unwrap().is_err());
    }
    // A long hello is refused before it has arrived.
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let met = tokio::spawn(session::greet(theirs));
    ours.write_all(&(1_u32 << 20).to_be_bytes()).await.unwrap();
    ours.write_all(&(1_u32 << 19).to_be_bytes()).await.unwrap();
    ours.write_all(&vec![b' '; 100 << 10]).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, met).await.unwrap().unwrap().is_err());
    drop(bench);
}

fn output(id: &str, offset: u64) -> FromAgent {
    FromAgent::Run(FromRun::Output { id: id.into(), stream: Stream::Stdout, offset })
}

#[tokio::test]
async fn a_caller_who_does_not_read_is_cut_off_and_delays_nobody() {
    let mut bench = bench();
    let mut agent = bench.attached("b1").await;
    assert!(bench.agents.link(&m1(), "r1", "older attempt").is_none());
    let mut slow = bench.agents.link(&m1(), "slow", "n").unwrap();
    let mut quick = bench.agents.link(&m1(), "quick", "n").unwrap();
    let signal = |id: &str| ToRun::Signal { id: id.into(), signal: 2 };
    quick.send.send((signal("quick"), Vec::new())).await.unwrap();
    assert_eq!(agent.hears::<ToAgent>().await.0, ToAgent::Run(signal("quick")));
    for offset in 0..1000 {
        agent.say(&output("slow", offset)).await;
    }
    agent.say(&output("quick", 5)).await;
    let (message, _) = tokio::time::timeout(PATIENCE, quick.receive.recv()).await.unwrap().unwrap();
    assert_eq!(message, FromRun::Output { id: "quick".into(), stream: Stream::Stdout, offset: 5 });
    let mut got = 0;
    while slow.receive.recv().await.is_some() {
        got += 1;
    }
    assert!(got < 1000, "what it did not take is kept by the agent, not here");
    drop(agent);
    assert!(tokio::time::timeout(PATIENCE, quick.receive.recv()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_caller_speaks_for_his_own_command_only() {
    let mut bench = bench();
    let mut agent = bench.attached("b1").await;
    let link = bench.agents.link(&m1(), "mine", "n").unwrap();
    let signal = |id: &str| ToRun::Signal { id: id.into(), signal: 9 };
    link.send.send((signal("yours"), Vec::new())).await.unwrap();
    let again = bench.agents.link(&m1(), "mine", "n").unwrap();
    again.send.send((signal("mine"), Vec::new())).await.unwrap();
    assert_eq!(agent.hears::<ToAgent>().await.0, ToAgent::Run(signal("mine")));
}

/// An agent that reads nothing, with a message to it stuck on the way.
async fn stuck(bench: &mut Bench) -> Agent {
    bench.pipe = 8 << 10;
    let agent = bench.attached("b1").await;
    let long = ToAgent::NoChunk { digest: "d".into(), index: None, reason: "x".repeat(100 << 10) };
    bench.agents.tell(&m1(), "n", &long);
    agent
}

/// Beats until the loop hears something.
async fn beats_until_a_report(bench: &mut Bench, agent: &mut Agent) -> Report {
    let beats = async {
        // It may be cut off in the middle of a beat.
        while agent.stream.write_all(&encode(&FromAgent::Beat, &[]).unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        report = bench.report() => report.1,
        () = beats => unreachable!(),
    }
}

#[tokio::test]
async fn an_agent_that_beats_but_does_not_read_is_lost() {
    let mut bench = bench();
    bench.limits.say = Duration::from_millis(100);
    let mut agent = stuck(&mut bench).await;
    assert!(matches!(beats_until_a_report(&mut bench, &mut agent).await, Report::Lost));
    assert!(!bench.agents.connected(&m1(), "n"));
}

#[tokio::test]
async fn a_dismissed_agent_that_does_not_read_its_goodbye_is_gone_all_the_same() {
    let mut bench = bench();
    bench.limits.hello = Duration::from_secs(2);
    bench.limits.say = Duration::from_secs(3600);
    let mut agent = stuck(&mut bench).await;
    bench.agents.dismiss(&m1(), "released");
    assert!(matches!(beats_until_a_report(&mut bench, &mut agent).await, Report::Lost));
}

#[tokio::test]
async fn a_connection_that_does_not_read_is_replaced_at_once() {
    let mut bench = bench();
    bench.limits.say = Duration::from_secs(3600);
    let mut first = stuck(&mut bench).await;
    let mut second = bench.attached("b1").await;
    let closed = async {
        while first.stream.write_all(&encode(&FromAgent::Beat, &[]).unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the older connection is kept");
    bench.agents.tell(&m1(), "n", &look());
    assert_eq!(second.hears::<ToAgent>().await.0, look());
}

#[tokio::test]
async fn results_do_not_pile_up_while_a_commit_waits() {
    let mut bench = bench();
    bench.deciding.forget_permits(1 << 20);
    let mut agent = bench.attached("b1").await;
    for step in 1..=5 {
        agent.say(&FromAgent::Done { step, outcome: Outcome::Seeded }).await;
    }
    for step in 1..=5 {
        assert!(matches!(bench.report().await.1, Report::Done { step: s, .. } if s == step));
        bench.deciding.add_permits(1);
    }
    assert_eq!(bench.undecided.lock().unwrap().1, 1, "more than one was waiting to be decided");
}

#[tokio::test]
async fn silent_connections_of_one_address_leave_the_places_of_others() {
    let bench = bench();
    let identity = crate::daemon::tls::load_or_make(&bench.dir.path().join("ca")).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let limits =
        Limits { strangers: 1, each: 1, loopback: 2, hello: Duration::from_secs(3600), ..Limits::default() };
    let served = tokio::spawn(super::serve(
        bench.agents.clone(),
        listener,
        identity.server,
        limits,
        Spare::keep(1).unwrap(),
    ));
    let silent = [TcpStream::connect(at).await.unwrap(), TcpStream::connect(at).await.unwrap()];
    // Accepted in order: the two have their places now, and none of those
    // that others have.
    let mut third = TcpStream::connect(at).await.unwrap();
    let mut byte = [0];
    let end = tokio::time::timeout(PATIENCE, third.read(&mut byte)).await.expect("it was kept");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert!(
        silent
            .iter()
            .all(|s| matches!(s.try_read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock))
    );
    served.abort();
}

#[tokio::test]
async fn a_token_from_another_address_than_its_parameters_went_to_never_reaches_the_loop() {
    let mut bench = bench();
    bench.agents.given(&m1(), "n", Ipv4Addr::new(192, 0, 2, 9).into());
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (agents, limits) = (bench.agents.clone(), bench.limits);
    tokio::spawn(async move {
        session::run(agents, session::greet(theirs).await.unwrap(), HERE, limits).await;
    });
    let mut agent = Agent { stream: ours, decoder: Decoder::default() };
    let attach = Hello::Attach {
        protocol: (1, 1),
        version: "1".into(),
        kind: pitstop_wire::agent::AgentKind::Boot,
        machine: m1(),
        nonce: "n".into(),
        boot_id: "b".into(),
        token: Secret("t".into()),
        key_hash: String::new(),
    };
    agent.say(&attach).await;
    let (welcome, _) = agent.hears::<Welcome>().await;
    assert!(matches!(welcome, Welcome::Refused { reason, .. } if reason.contains("192.0.2.9")));
    assert!(bench.hellos.try_recv().is_err(), "the token was spent");
}
