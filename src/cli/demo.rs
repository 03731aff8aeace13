//! `pitstop demo`: a lab in a temporary directory, with the same daemon,
//! agent and client as any other; only the hardware is simulated.

use super::fail::Fail;
use super::serve::failed;
use super::{Context, Result};
use crate::daemon::serve::{Options, serve};
use crate::sim::image::{self, mksimimage};
use pitstop_client::{Client, EventQuery, Feed};
use pitstop_wire::api::{
    Clean, HoldKind, Machine, Release, Reservation, ReservationState, Reserve, Shown, Time, Update, Want,
};
use pitstop_wire::run::{Command, End};
use pitstop_wire::{ApiError, Code};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the lab running until ctrl-C, to try commands on.
    #[arg(long)]
    stay: bool,
}

const INVENTORY: &str = r#"format = 1
[lab]
name = "demo"
zone = "UTC"
[machine.board-1]
tags  = { kind = "simulated", soc = "imx8", ram = 4 }
image = "demo-os"
power.sim        = { disk = "16M" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
"#;
const MACHINE: &str = "board-1";
const IMAGE: &str = "demo-os";
const IMAGE_BYTES: u64 = 8 << 20;
/// Longest wait for any one step; each takes about a second.
const LIMIT: Duration = Duration::from_secs(60);

pub async fn run(cx: &Context, args: &Args) -> Result {
    let dir = tempfile::Builder::new().prefix("pitstop-demo-").tempdir();
    let dir = dir.map_err(|e| Fail::internal(format!("no temporary directory can be made: {e}")))?;
    let lab = Lab::start(dir.path()).await?;
    let told = Told::new(cx);
    let turn = tokio::select! {
        turn = one_turn(cx, &lab.client, &told) => turn,
        signal = super::reserve::interrupted() => Err(stopped(cx, signal?)),
    };
    if args.stay && turn.is_ok() {
        cx.out.say(&format!(
            "the lab stays until ctrl-C:  export PITSTOP_SOCKET={}",
            lab.client.socket().display()
        ));
        super::reserve::interrupted().await?;
    }
    let ended = lab.stop(dir.path()).await;
    let gone =
        dir.close().map_err(|e| Fail::internal(format!("the demo's directory cannot be removed: {e}")));
    turn.and(ended).and(gone)
}

fn stopped(cx: &Context, signal: &str) -> Fail {
    cx.out.say(signal);
    Fail::Exit(super::fail::INTERRUPTED)
}

/// A daemon of our own, in this process.
struct Lab {
    client: Client,
    stop: CancellationToken,
    served: JoinHandle<std::result::Result<(), crate::daemon::serve::ServeError>>,
}

impl Lab {
    async fn start(dir: &Path) -> Result<Self> {
        let wrong = |e: std::io::Error| Fail::internal(format!("{}: {e}", dir.display()));
        let inventory = dir.join("inventory.toml");
        std::fs::write(&inventory, INVENTORY).map_err(wrong)?;
        let options = Options {
            data: dir.join("data"),
            inventory,
            socket: dir.join("sock"),
            simulated: true,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            boot_port: None,
            program: std::env::current_exe().map_err(wrong)?,
        };
        let client = Client::new(&options.socket);
        let stop = CancellationToken::new();
        let (ready, told) = oneshot::channel();
        let served = tokio::spawn(serve(options, stop.clone(), ready));
        if told.await.is_ok() {
            return Ok(Self { client, stop, served });
        }
        match served.await {
            Ok(Err(error)) => Err(failed(error)),
            _ => Err(Fail::internal("the daemon ended while it started")),
        }
    }

    /// The daemon first, then the hardware it would otherwise miss.
    async fn stop(self, dir: &Path) -> Result {
        self.stop.cancel();
        let ended = match self.served.await {
            Ok(ended) => ended.map_err(failed),
            Err(error) => Err(Fail::internal(format!("the daemon died: {error}"))),
        };
        let machine = dir.join("data/machines").join(MACHINE);
        let off = pitstop_drivers::sim::stop(&machine).await;
        ended.and(off.map_err(|e| Fail::internal(e.to_string())))
    }
}

/// What is told, with the time since the beginning.
struct Told<'a> {
    cx: &'a Context,
    began: Time,
}

impl<'a> Told<'a> {
    fn new(cx: &'a Context) -> Self {
        Self { cx, began: Time::now() }
    }

    fn say(&self, at: Time, who: &str, text: &str) -> Result {
        let ms = at.since(self.began);
        self.cx.out.line(&format!("{:>3}.{:02}s  {who:<8} {text}", ms / 1_000, ms % 1_000 / 10))
    }
}

/// Image, reservation, a command, release, and the proof.
async fn one_turn(cx: &Context, client: &Client, told: &Told<'_>) -> Result {
    add_image(client).await?;
    told.say(Time::now(), "you", &format!("pitstop image add {IMAGE} {IMAGE}.raw"))?;
    told.say(Time::now(), "you", &format!("pitstop reserve soc=imx8 --image {IMAGE}"))?;
    let ask = Reserve {
        select: Some("soc=imx8".to_owned()),
        image: Some(IMAGE.to_owned()),
        want: Some(Want::Image),
        hold: Some(HoldKind::Time),
        reason: Some("demo".to_owned()),
        ..Reserve::default()
    };
    let reservation = client.reserve(&ask, None).await?;
    let id = reservation.id.clone();
    let follow = follow(client, told, |_, r| {
        r.is_some_and(|r| matches!(r.state, ReservationState::Ready | ReservationState::Ended))
    });
    let (machine, seen) = limited("ready", follow).await?;
    if seen.is_none_or(|r| r.id != id || r.state == ReservationState::Ended) {
        return Err(ApiError::new(
            Code::MachineFailed,
            format!("{id} did not get its machine: {}", machine.shown.word()),
        )
        .into());
    }
    client.claim(&id).await?;
    command(client, told).await?;
    told.say(Time::now(), "you", &format!("pitstop release {id}"))?;
    client.release(&id, &Release::default(), None).await?;
    let free = follow_until_free(client, told).await?;
    proof(cx, &free)
}

async fn follow_until_free(client: &Client, told: &Told<'_>) -> Result<Machine> {
    let at_rest = follow(client, told, |m, _| matches!(m.shown, Shown::Free | Shown::Failed));
    Ok(limited("free", at_rest).await?.0)
}

async fn limited<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(Fail::internal(format!("{MACHINE} was not {what} within {} s", LIMIT.as_secs()))),
    }
}

async fn add_image(client: &Client) -> Result {
    let file =
        tempfile::NamedTempFile::new().map_err(|e| Fail::internal(format!("no temporary file: {e}")))?;
    let options = image::Options { content: 1 << 20, ..image::Options::default() };
    mksimimage(file.path(), IMAGE, IMAGE_BYTES, &options)
        .map_err(|e| Fail::internal(format!("the demo's image cannot be made: {e}")))?;
    let opened = tokio::fs::File::open(file.path()).await?;
    let seed = format!("{},{}", image::SEED_OFFSET, image::SEED_LEN);
    client.add_image(IMAGE, opened, Some(&seed), None).await?;
    Ok(())
}

/// Tells what happens until machine and reservation are as wanted.
async fn follow(
    client: &Client,
    told: &Told<'_>,
    done: impl Fn(&Machine, Option<&Reservation>) -> bool,
) -> Result<(Machine, Option<Reservation>)> {
    let mut stream = client.events(EventQuery::default()).await?;
    let mut reservation: Option<Reservation> = None;
    let mut machine: Option<Machine> = None;
    loop {
        match stream.next().await?.update {
            Update::Snapshot(snapshot) => {
                machine = snapshot.machines.into_iter().find(|m| m.name == *MACHINE);
                reservation = snapshot.reservations.into_iter().next();
            }
            Update::Record(event) if !event.detail => {
                let who =
                    event.machine.as_ref().map_or_else(|| event.reservation.clone(), |m| Some(m.to_string()));
                told.say(event.time, &who.unwrap_or_else(|| "lab".to_owned()), &event.text)?;
            }
            Update::Machine(m) => machine = Some(*m),
            Update::Reservation(r) => reservation = Some(*r),
            _ => {}
        }
        if let Some(machine) = machine.as_ref().filter(|m| done(m, reservation.as_ref())) {
            return Ok((machine.clone(), reservation));
        }
    }
}

/// A build, as far as this computer allows: commands of a simulated machine
/// run in namespaces of their own, or not at all.
async fn command(client: &Client, told: &Told<'_>) -> Result {
    let argv = ["sh", "-c", "echo built on $(hostname)"].map(str::to_owned).to_vec();
    told.say(Time::now(), "you", &format!("pitstop run {MACHINE} -- sh -c 'echo built on $(hostname)'"))?;
    let (_input, input) = mpsc::channel(1);
    let (_signals, signals) = mpsc::channel(1);
    let command = Command { argv, env: Vec::new(), cwd: None, stdin: false };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    match client.run(MACHINE, command, Feed { input, signals }, &mut out, &mut err).await? {
        End::Exit { code } => {
            for line in String::from_utf8_lossy(&out).lines().chain(String::from_utf8_lossy(&err).lines()) {
                told.say(Time::now(), MACHINE, &format!("| {line}"))?;
            }
            told.say(Time::now(), MACHINE, &format!("exit code {code}"))
        }
        End::Signal { signal } => told.say(Time::now(), MACHINE, &format!("ended by signal {signal}")),
        End::Failed { reason } => told.say(Time::now(), MACHINE, &format!("no commands here: {reason}")),
    }
}

/// The end of the story: good only if the proof is there.
fn proof(cx: &Context, machine: &Machine) -> Result {
    let disk = machine.disks.first();
    let proven = disk.and_then(|d| Some((d.read_bytes?, d.written_bytes?, d.device_bytes?, d.boot.clone()?)));
    let Some((read, written, size, boot)) =
        proven.filter(|_| machine.clean == Clean::Proven && machine.shown == Shown::Free)
    else {
        let message = format!(
            "{} is {} and {}, and no proof is there",
            machine.name,
            machine.shown.word(),
            machine.clean.word()
        );
        return Err(ApiError::new(Code::MachineFailed, message).into());
    };
    cx.out.line("")?;
    cx.out.line(&format!(
        "{} is free and proven: {read} of {size} bytes read back after {written} were written,",
        machine.name
    ))?;
    cx.out.line(&format!(
        "by an agent in RAM that was booted by `{boot}` after a power-off that was read back."
    ))
}
