//! The story: three builds, two boards, and a fourth build on a broken one.

use super::build::{FromBuild, Plan};
use super::lab::{IMAGE, Lab};
use super::tell::Teller;
use super::world::{Course, World, mark};
use super::{check, scan};
use crate::cli::fail::Fail;
use crate::cli::out::Tone;
use crate::cli::{Context, Result};
use pitstop_agent::sandbox::{Helper, probe};
use pitstop_client::{EventQuery, EventStream};
use pitstop_wire::api::{Shown, Time};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Longest wait for any one thing; each takes a second or a few.
const LIMIT: Duration = Duration::from_secs(60);
/// Silence that tells of a killed build. Of the others it would only tell
/// that this computer is busy.
const SOON: &str = "2s";
const LATE: &str = "30s";
const FIRST: usize = 0;
const KILLED: usize = 1;
const WAITS: usize = 2;

/// Plays it, and judges whether what it promises came true.
pub async fn play(cx: &Context, lab: &Lab) -> Result {
    let mut story = Story::begin(cx, lab).await?;
    story.three_builds_want_two_boards().await?;
    story.one_is_killed().await?;
    story.the_others_end().await?;
    check::judge(lab, &story.world, &story.tell).await
}

/// The lab, what is known of it, and who tells it.
struct Story<'a> {
    lab: &'a Lab,
    stream: EventStream,
    world: World,
    tell: Teller,
    sandbox: bool,
    /// What builds do, with their numbers.
    told: UnboundedSender<(usize, FromBuild)>,
    heard: UnboundedReceiver<(usize, FromBuild)>,
}

impl<'a> Story<'a> {
    async fn begin(cx: &Context, lab: &'a Lab) -> Result<Self> {
        let tell = Teller::new(&cx.out);
        let stream = lab.client.events(EventQuery::default()).await?;
        tell.text(&format!(
            "A lab of twelve machines, each a process of its own with a power switch, a serial line and a disk.\n\
             They are simulated. The daemon, the agents on the machines and the proofs are those of a real lab.\n\
             All of it is in {}, and gone at the end.\n",
            lab.dir().display()
        ))?;
        let sandbox = match tokio::task::spawn_blocking(|| probe(&Helper::this_program(["sim-sandbox"])))
            .await
        {
            Ok(Err(refusal)) => {
                let reason = refusal.split(';').next().unwrap_or_default();
                tell.text(&format!(
                    "Note: {reason}.\nSo the builds are built-in steps only, without a sandbox; any other command is refused.\n"
                ))?;
                false
            }
            _ => true,
        };
        tell.text(&format!(
            "Four builds come in, as CI starts them: pitstop reserve soc=imx8 --image {IMAGE} -- pitstop run -- ...\n\
             Each gets a machine that was proven clean, leaves marks on its disk, and gives it back.\n"
        ))?;
        lab.add_image().await?;
        let (told, heard) = unbounded_channel();
        Ok(Self { lab, stream, world: World::default(), tell, sandbox, told, heard })
    }

    /// Starts a build and waits until the daemon knows it.
    async fn start(&mut self, select: &str, brief: bool) -> Result {
        let number = self.world.builds.len();
        let name = format!("build-{}", number + 1);
        let silence = if number == KILLED { SOON } else { LATE };
        let plan = Plan { name: &name, select, mark: mark(&name)?, silence, sandbox: self.sandbox };
        let (told, mut heard) = unbounded_channel();
        let process = plan.start(self.lab.client.socket(), told)?;
        let all = self.told.clone();
        tokio::spawn(async move {
            while let Some(what) = heard.recv().await {
                // Nobody listens only when the demo itself ends.
                let _ = all.send((number, what));
            }
        });
        let select = select.to_owned();
        self.world.builds.push(Course { name, select, process: Some(process), brief, ..Course::default() });
        self.until(&format!("build-{} is queued", number + 1), |w| {
            w.builds[number].waited || !w.builds[number].given.is_empty()
        })
        .await
    }

    async fn three_builds_want_two_boards(&mut self) -> Result {
        self.start("soc=imx8", false).await?;
        self.start("soc=imx8", false).await?;
        self.start("soc=imx8", false).await?;
        self.start("soc=imx9", true).await?;
        self.until("two builds run", |w| [FIRST, KILLED].iter().all(|n| w.builds[*n].dirtied.is_some()))
            .await?;
        self.why(WAITS).await
    }

    /// What a person would ask now.
    async fn why(&self, number: usize) -> Result {
        let Some(id) = &self.world.builds[number].id else { return Ok(()) };
        let why = self.lab.client.why(id).await?;
        self.tell.now("you", Tone::Plain, "ask", &format!("pitstop why {id}"))?;
        self.tell.more(&why.summary)?;
        for line in &why.lines {
            let next = line.next.as_ref().map(|n| format!("  -> {n}")).unwrap_or_default();
            self.tell.more(&format!("  {}{next}", line.text))?;
        }
        Ok(())
    }

    async fn one_is_killed(&mut self) -> Result {
        let build = &self.world.builds[KILLED];
        let (name, board) = (build.name.clone(), build.dirtied.clone().unwrap_or_default());
        let marks = scan::marks(self.lab.disk(&board)).await?;
        self.tell.now(
            "you",
            Tone::Plain,
            "look",
            &format!("into the disk of {board} from outside: {marks} marks of {name}"),
        )?;
        self.world.history.entry(board.clone()).or_default().marks = marks;
        self.tell.now(
            "you",
            Tone::Plain,
            "kill -9",
            &format!("{name}: nobody is left to give {board} back, {SOON} of silence must tell"),
        )?;
        if let Some(process) = &build.process {
            process.kill()?;
        }
        self.until("the killed build's session is lost", |w| w.builds[KILLED].lost.is_some()).await
    }

    async fn the_others_end(&mut self) -> Result {
        self.until("the build that waited runs", |w| w.builds[WAITS].dirtied.is_some()).await?;
        for number in [WAITS, FIRST] {
            if let Some(process) = &mut self.world.builds[number].process {
                process.finish();
            }
        }
        self.until("all builds are done", |w| w.builds.iter().all(|b| b.exit.is_some())).await?;
        let at_rest = |w: &World| {
            let rests = |name: &String| {
                w.machines.get(name).is_some_and(|m| matches!(m.shown, Shown::Free | Shown::Failed))
            };
            w.builds.iter().flat_map(|b| &b.given).all(rests)
        };
        self.until("all machines rest", at_rest).await
    }

    /// Takes in what happens until something is the case.
    async fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Result {
        let began = Time::now();
        while !done(&self.world) {
            let left = LIMIT.saturating_sub(Duration::from_millis(Time::now().since(began)));
            let next = async {
                tokio::select! {
                    item = self.stream.next() => self.world.update(item?.update, &self.tell),
                    Some((number, what)) = self.heard.recv() => self.world.heard(number, what, &self.tell),
                }
            };
            match tokio::time::timeout(left, next).await {
                Ok(told) => told?,
                Err(_) => {
                    return Err(Fail::internal(format!("not within {} s: {what}", LIMIT.as_secs())));
                }
            }
            self.look_at_failed().await?;
            self.check_on_builds(what)?;
        }
        Ok(())
    }

    /// A build that ended before its time will not do what is waited for.
    fn check_on_builds(&self, what: &str) -> Result {
        let early = |b: &&Course| b.exit.is_some_and(|e| e.code().is_some_and(|code| code != 0));
        match self.world.builds.iter().find(early) {
            Some(build) => {
                Err(Fail::internal(format!("{} failed before {what}: {}", build.name, build.complaint)))
            }
            None => Ok(()),
        }
    }

    /// The evidence of machines that were just quarantined.
    async fn look_at_failed(&mut self) -> Result {
        while let Some(machine) = self.world.failed.pop() {
            let name = super::super::pick::machine_name(&machine)?;
            let why = self.lab.client.why(name.as_str()).await?;
            let said: Vec<String> = why
                .lines
                .iter()
                .filter_map(|l| l.text.strip_prefix("console: "))
                .map(str::to_owned)
                .collect();
            for line in said.iter().filter(|line| line.contains("panic")) {
                self.tell.more(line)?;
            }
            self.world.history.entry(machine).or_default().console = said;
        }
        Ok(())
    }
}
