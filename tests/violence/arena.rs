//! A lab under load that is harmed, and judged after each round.

use crate::book::{Ack, Book, Call};
use crate::harness::{Lab, block};
use crate::interview;
use crate::judge::Judge;
use crate::load::{Crowd, Load, say};
use fastrand::Rng;
use pitstop::store::SqliteStore;
use pitstop_client::Client;
use pitstop_client::api::Enrol;
use pitstop_drivers::sim::{self, Request};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Most machines cost nothing to hand over; some are switched, and some go
/// through whole turns. A command of a killed daemon may land for twice the
/// power limit, which is waited out: hence a short one.
const INVENTORY: &str = r#"
format = 1
[lab]
name = "violence"
[class.keep]
tags        = { kind = "keep" }
shared      = true
after_build = "keep"
power.none  = {}
console     = {}
boot.power  = {}
ready.agent = {}
[class.bare]
tags             = { kind = "bare" }
shared           = true
after_build      = "keep"
power.sim        = { boot = "10ms" }
console.main.sim = {}
boot.sim         = {}
ready.agent      = {}
timeout          = { power = "2s", firmware = "60s", attach = "60s" }
[class.board]
tags             = { kind = "board" }
power.sim        = { disk = "1M", boot = "10ms" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
timeout          = { power = "2s", firmware = "60s", attach = "120s", reimage = "120s" }
[machine."keep[01-14]"]
class = "keep"
[machine."bare[1-3]"]
class = "bare"
[machine."board[1-6]"]
class = "board"
[policy.person]
after_build = "reimage"
"#;

/// Machines of that inventory.
const MACHINES: usize = 23;

/// Who uses them.
const CROWD: Crowd = Crowd { churners: 8, sessions: 3, tenants: 5, switchers: 2 };

/// How long a lab that nobody harms any more may take to serve again.
const ANSWER: Duration = Duration::from_secs(60);

/// What a round costs, besides the harm.
#[derive(Debug, Default, Clone, Copy)]
pub struct Costs {
    /// From the start of the daemon to its first answer.
    pub start: Duration,
    /// Reading the dead database.
    pub judge: Duration,
    /// Asking the new daemon.
    pub interview: Duration,
}

/// The lab, its clients and its oracle.
pub struct Arena {
    pub lab: Lab,
    pub rng: Rng,
    pub book: Arc<Book>,
    pub costs: Costs,
    /// Answers that were held against the lab, each once.
    pub checked: usize,
    pub judge: Judge,
    /// Rounds that it has been through.
    pub rounds: u64,
    runtime: Arc<Runtime>,
    load: Option<Load>,
}

impl fmt::Display for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Costs { start, judge, interview } = self.costs;
        let (start, judge, interview) = (start.as_millis(), judge.as_millis(), interview.as_millis());
        write!(f, "{} answers, {} records; ", self.checked, self.judge.newest())?;
        write!(f, "{start} ms to start, {judge} ms judging, {interview} ms asking again")
    }
}

impl Arena {
    /// A lab with its clients; `prepare` may change it before it starts.
    pub fn open(runtime: &Arc<Runtime>, seed: u64, prepare: impl FnOnce(&mut Lab)) -> Self {
        let mut lab = Lab::new(INVENTORY);
        lab.set("PITSTOP_LOG", "warn");
        prepare(&mut lab);
        lab.start();
        let client = Client::new(lab.path("sock"));
        let all = |kind: &str, count| Enrol { select: format!("kind={kind}"), count: Some(count) };
        block(async {
            for (kind, count) in [("keep", 14), ("bare", 3), ("board", 6)] {
                client.enrol(&all(kind, count), None).await.unwrap();
            }
            assert_eq!(client.machines("").await.unwrap().machines.len(), MACHINES);
        });
        let mut rng = Rng::with_seed(seed);
        let book = Arc::new(Book::default());
        let guard = runtime.enter();
        let load = Load::start(&lab.path("sock"), &lab.data(), book.clone(), CROWD, rng.u64(..));
        drop(guard);
        Self {
            lab,
            rng,
            book,
            costs: Costs::default(),
            checked: 0,
            judge: Judge::default(),
            rounds: 0,
            runtime: runtime.clone(),
            load: Some(load),
        }
    }

    /// Lets the clients go on for a while.
    pub fn work(&mut self, millis: std::ops::Range<u64>) -> Duration {
        let time = Duration::from_millis(self.rng.u64(millis));
        std::thread::sleep(time);
        time
    }

    /// A client of one's own.
    pub fn client(&self) -> Client {
        Client::new(self.lab.path("sock"))
    }

    /// Runs something asynchronous to its end; what it leaves behind goes on.
    pub fn block<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Where machines connect to.
    pub fn machines_port(&self) -> u16 {
        let text = std::fs::read_to_string(self.lab.data().join("machines.port")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Until somebody new is answered who only looks.
    pub fn until_answered(&self) -> Result<Duration, String> {
        self.until("somebody looks at the lab", || async {
            self.client().status().await.map(drop).map_err(|e| e.to_string())
        })
    }

    /// Until somebody new is given a reservation and gives it back.
    pub fn until_served(&mut self) -> Result<Duration, String> {
        let key = format!("probe-{:016x}", self.rng.u64(..));
        let ask = pitstop_client::api::Reserve {
            select: Some("kind=keep".to_owned()),
            clean: Some(pitstop_client::api::CleanLevel::Any),
            ..Default::default()
        };
        let call = Call::Reserve(ask);
        self.book.asks(&key);
        self.until("somebody is given a reservation", || async {
            let client = self.client();
            let row = say(&client, &call, "", Some(key.clone())).await.map_err(|e| e.to_string())?;
            let id = row.map(|r| r.id).unwrap_or_default();
            self.book.acknowledged(Ack { key: Some(key.clone()), id: id.clone(), call: call.clone() });
            say(&client, &Call::Release, &id, None).await.map(drop).map_err(|e| e.to_string())
        })
    }

    fn until<F: Future<Output = Result<(), String>>>(
        &self,
        what: &str,
        try_it: impl Fn() -> F,
    ) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            let one_try = async { tokio::time::timeout(ANSWER, try_it()).await };
            let error = match self.runtime.block_on(one_try) {
                Ok(Ok(())) => return Ok(began.elapsed()),
                Ok(Err(e)) => e,
                Err(_) => "no answer".to_owned(),
            };
            if began.elapsed() > ANSWER {
                return Err(format!("{} s, and it is not so that {what}: {error}", ANSWER.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Commands that ran through.
    pub fn commands(&self) -> u64 {
        self.load.as_ref().map_or(0, Load::commands)
    }

    /// The end of a round: the daemon is killed wherever it is, what it left
    /// is judged, the next one is started and asked. What was wrong.
    pub fn reckon(&mut self) -> Vec<String> {
        self.rounds += 1;
        self.lab.kill9();
        let began = Instant::now();
        let mut wrong = self.look_at_the_dead();
        self.costs.judge = began.elapsed();
        let began = Instant::now();
        self.lab.start();
        self.costs.start = began.elapsed();
        let began = Instant::now();
        wrong.extend(self.ask_the_living());
        self.costs.interview = began.elapsed();
        wrong
    }

    fn look_at_the_dead(&mut self) -> Vec<String> {
        // All of these had been answered before it died.
        let acks = self.book.acks_from(0);
        let mut wrong = self.book.take_violations();
        wrong.extend(self.look_at_tenants());
        match SqliteStore::read_only(&self.lab.data()) {
            Err(e) => wrong.push(format!("the database cannot be opened: {e}")),
            Ok(history) => match self.judge.read(&*history) {
                Err(e) => wrong.push(format!("the records cannot be read: {e}")),
                Ok(()) => wrong.extend(self.judge.check(&*history, &acks, &self.book)),
            },
        }
        wrong
    }

    fn ask_the_living(&mut self) -> Vec<String> {
        let acks = self.book.acks_from(0);
        let asked = interview::choose(&acks, self.checked, &mut self.rng);
        self.checked = acks.len();
        let client = self.client().with_patience(Duration::from_secs(30));
        let wrong = self.runtime.block_on(interview::ask(&client, asked));
        [wrong, self.look_at_tenants(), self.book.take_violations()].concat()
    }

    /// Whoever was told that he is in: his machine runs on as it did.
    fn look_at_tenants(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (machine, tenancy) in self.book.tenancies() {
            let dir = self.lab.data().join("machines").join(machine.as_str());
            let status = match block(sim::request(&dir, &Request::Status)) {
                Ok(Some(reply)) => reply.status,
                _ => None,
            };
            let same = status
                .as_ref()
                .is_some_and(|s| s.boot_id.as_deref() == Some(&tenancy.boot_id) && s.boots == tenancy.boots);
            // He may have left meanwhile.
            if !same && self.book.lives(&machine, &tenancy) {
                wrong.push(format!("{machine} is {tenancy:?}'s, and is {status:?}"));
            }
        }
        wrong
    }

    /// Puts aside what is left of a lab that is to be looked at.
    pub fn keep(&self, dir: &Path) -> String {
        let dir = dir.join("violence");
        let copied = std::fs::create_dir_all(&dir).and_then(|()| {
            for file in ["lab.db", "lab.db-wal"] {
                std::fs::copy(self.lab.data().join(file), dir.join(file))?;
            }
            std::fs::write(dir.join("log"), self.lab.log())
        });
        copied.map_or_else(|e| format!("{}: {e}", dir.display()), |()| dir.display().to_string())
    }

    /// Everybody gives everything back; then the whole history is read once
    /// more from its beginning, and every answer is asked for again.
    pub fn close(mut self) -> Vec<String> {
        let Some(load) = self.load.take() else { return Vec::new() };
        let mut wrong: Vec<String> = self.runtime.block_on(load.end()).err().into_iter().collect();
        wrong.extend(self.reckon());
        let acks = self.book.acks_from(0);
        wrong.extend(self.everything(&acks));
        self.lab.stop();
        wrong
    }

    fn everything(&mut self, acks: &[Ack]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut judge = Judge::default();
        match SqliteStore::read_only(&self.lab.data()) {
            Err(e) => wrong.push(format!("the database cannot be opened: {e}")),
            Ok(history) => {
                wrong.extend(judge.read(&*history).err());
                wrong.extend(judge.check(&*history, acks, &self.book));
            }
        }
        if judge.unheard_of(acks) > 0 {
            wrong.push(format!("{} reservations were made that nobody was told of", judge.unheard_of(acks)));
        }
        if !self.book.doubtful().is_empty() {
            wrong.push(format!("never answered: {:?}", self.book.doubtful()));
        }
        if judge.newest() < self.judge.newest() {
            wrong.push(format!(
                "there were {} records, and there are {}",
                self.judge.newest(),
                judge.newest()
            ));
        }
        let client = self.client();
        wrong.extend(self.runtime.block_on(interview::ask(&client, interview::newest(acks, 400))));
        wrong.extend(self.believes_a_lie(&judge));
        wrong
    }

    /// An oracle that believes everything proves nothing: told of an answer
    /// that was never given, it must object, by the database and by the
    /// daemon.
    fn believes_a_lie(&self, judge: &Judge) -> Option<String> {
        let (key, call) = ("never-asked".to_owned(), Call::Reserve(Default::default()));
        let lie = Ack { key: Some(key), id: "R-999999".to_owned(), call };
        let asked = self.runtime.block_on(interview::ask(&self.client(), vec![lie.clone()]));
        let believed = judge.stands(&lie).is_ok() || asked.is_empty();
        believed.then(|| format!("the oracle believes {lie:?}"))
    }
}
