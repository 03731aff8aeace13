//! The command line: one file per verb.
//!
//! Data goes to stdout, talk to stderr; every failure is an
//! [`ApiError`](pitstop_wire::ApiError) and becomes text or JSON and an exit
//! code in one place (`fail`).

mod admin;
mod completion;
mod console;
mod demo;
mod events;
mod extend;
mod fail;
mod fixture;
mod image;
mod image_agent;
mod ls;
mod out;
mod paths;
mod pick;
mod power;
mod reimage;
mod release;
mod replay;
mod report;
mod reserve;
mod run;
mod serve;
mod show;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod times;
mod why;

use clap::{Parser, Subcommand};
use fail::Fail;
use out::{Format, Out};
use pitstop_client::Client;
use std::path::PathBuf;
use std::process::ExitCode;

type Result<T = ()> = std::result::Result<T, Fail>;

/// Runs a lab of physical test machines: reserve, boot, prove clean, hand over.
#[derive(Debug, Parser)]
#[command(name = "pitstop", version, max_term_width = 100, after_help = AFTER)]
#[command(override_usage = "pitstop [VERB] [OPTIONS]", subcommand_help_heading = "Verbs")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Option<Verb>,
}

const AFTER: &str = "Without a verb: status.
FILTER: machine names and key=value: soc=imx8,imx9 ram=8.. rack!=B2 state=free; see `ls --help`

Exit codes
    0  done                         6  timed out
    1  failed, other                7  the machine failed: try elsewhere
    2  usage                        8  daemon not reachable: safe to retry
    3  no such thing              125  run: our failure, else CMD's code
    4  not allowed                127  reserve -- CMD: there is no CMD
    5  held by somebody else      130  interrupted";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Common {
    /// The daemon's socket; PITSTOP_SOCKET unless said.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Format,
    /// The same as `-o json`.
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    color: out::Color,
    /// Do not ask; never implies --force.
    #[arg(short = 'y', long, global = true)]
    yes: bool,
    /// Makes a repeated command the same command (for scripts that retry).
    #[arg(long, global = true, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The lab in one screen: counts, yours, alerts, queue.
    #[command(after_help = "Examples\n  pitstop status\n  pitstop status --json")]
    Status(status::Args),
    /// Machines as a table.
    #[command(after_help = ls::HELP)]
    Ls(ls::Args),
    /// Everything about one machine or reservation.
    #[command(after_help = "Examples\n  pitstop show board01\n  pitstop show R-17 --json")]
    Show(show::Args),
    /// Get machines; with `-- CMD`, run it here and give them back.
    #[command(
        after_help = "Examples\n  pitstop reserve soc=imx8 --image debian-13 --for 2h\n  pitstop reserve soc=imx8 --timeout 20m -- make check"
    )]
    Reserve(reserve::Args),
    /// More time.
    #[command(after_help = "Examples\n  pitstop extend\n  pitstop extend R-17 --for 2h")]
    Extend(extend::Args),
    /// Give machines back.
    #[command(after_help = "Examples\n  pitstop release\n  pitstop release board01 R-17")]
    Release(release::Args),
    /// Why a machine or reservation is where it is, and what to do.
    #[command(after_help = "Examples\n  pitstop why board01\n  pitstop why R-17")]
    Why(why::Args),
    /// What happened.
    #[command(
        after_help = "Examples\n  pitstop events -f board01\n  pitstop events --since yesterday -o csv"
    )]
    Events(events::Args),
    /// What the lab did, and what failures cost.
    #[command(after_help = report::HELP)]
    Report(report::Args),
    /// Run a command on a machine.
    #[command(
        after_help = "Examples\n  pitstop run -- uname -a\n  pitstop run board01 -C /tmp -- sh -c 'ls; exit 3'"
    )]
    Run(run::Args),
    /// Switch a machine's power.
    #[command(after_help = "Examples\n  pitstop power board01\n  pitstop power board01 cycle")]
    Power(power::Args),
    /// Flip a switch beside a machine, or list what there is.
    #[command(after_help = "Examples\n  pitstop switch board01\n  pitstop switch board01 sd host")]
    Switch(fixture::Flip),
    /// Press a button beside a machine.
    #[command(after_help = "Examples\n  pitstop press board01 recovery")]
    Press(fixture::Press),
    /// Have a machine's light blink, to find it in the rack.
    #[command(after_help = "Examples\n  pitstop identify srv17\n  pitstop identify srv17 --off")]
    Identify(fixture::Identify),
    /// Watch a machine's serial line, or type on it.
    #[command(
        after_help = "Examples\n  pitstop console board01 --no-follow\n  pitstop console board01 --write"
    )]
    Console(console::Args),
    /// Write a machine's disks again, back to the same holder.
    #[command(after_help = "Examples\n  pitstop reimage board01 --image debian-13")]
    Reimage(reimage::Args),
    /// Images that machines can be given.
    #[command(
        subcommand,
        after_help = "Examples\n  pitstop image add debian-13 disk.raw.zst\n  pitstop image ls"
    )]
    Image(image::Verb),
    /// Care for the lab.
    #[command(
        subcommand,
        after_help = "Examples\n  pitstop admin enrol state=new\n  pitstop admin drain board01 --reason 'fan noise'\n  pitstop admin backup lab.db"
    )]
    Admin(admin::Verb),
    /// The daemon.
    #[command(after_help = "Examples\n  pitstop serve --inventory lab.toml\n  pitstop serve --simulated")]
    Serve(serve::Args),
    /// A lab of simulated machines, to watch.
    #[command(after_help = "Examples\n  pitstop demo --stay")]
    Demo(demo::Args),
    /// Step through a trace of pitstop-simulate.
    #[command(after_help = replay::HELP)]
    Replay(replay::Args),
    /// Completion for your shell.
    #[command(
        after_help = "Examples\n  pitstop completion bash > ~/.local/share/bash-completion/completions/pitstop"
    )]
    Completion(completion::Args),
}

/// What every verb gets.
struct Context {
    client: Client,
    out: Out,
    yes: bool,
    key: Option<String>,
}

/// Parses the command line, does it, and says how it went.
pub fn main() -> ExitCode {
    if let Some(code) = demo::intercept() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap knows stream and code.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let format = if cli.common.json { Format::Json } else { cli.common.output };
    let out = Out::new(format, cli.common.color);
    let is_run = matches!(cli.verb, Some(Verb::Run(_)));
    match go(cli, out.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => fail.report(&out, is_run),
    }
}

/// Refuses a format that the verb does not have, before anything is done.
fn has(verb: &Verb, format: Format) -> Result {
    let (fits, which) = match (verb, format) {
        (Verb::Demo(_), Format::Table | Format::Wide) => (true, ""),
        (Verb::Demo(_), _) => (false, "the demo is for people"),
        (Verb::Ls(_) | Verb::Events(_) | Verb::Report(_) | Verb::Image(image::Verb::Ls), Format::Csv) => {
            (true, "")
        }
        (Verb::Console(_), Format::Raw) => (true, ""),
        (_, Format::Raw) => (false, "raw is for console"),
        (_, Format::Csv) => (false, "csv is for lists: ls, events, report, image ls; here -o json"),
        _ => (true, ""),
    };
    if fits { Ok(()) } else { Err(Fail::usage("this has no such output (-o)").hint(which)) }
}

fn go(cli: Cli, out: Out) -> Result {
    let verb = cli.verb.unwrap_or(Verb::Status(status::Args {}));
    has(&verb, out.format)?;
    let workers = match &verb {
        Verb::Serve(_) | Verb::Demo(_) => None,
        // Beats must not wait for a terminal that takes no output.
        Verb::Reserve(_) => Some(2),
        _ => Some(0),
    };
    let runtime = runtime(workers)?;
    let socket = match cli.common.socket {
        Some(path) => path,
        None => paths::socket(),
    };
    let mut context =
        Context { client: Client::new(socket), out, yes: cli.common.yes, key: cli.common.idempotency_key };
    let result = runtime.block_on(Box::pin(dispatch(&mut context, verb)));
    // A thread that waits for a line of stdin cannot be told to stop.
    runtime.shutdown_background();
    result
}

fn runtime(workers: Option<usize>) -> Result<tokio::runtime::Runtime> {
    let mut builder = match workers {
        Some(0) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(n @ 1..) = workers {
        builder.worker_threads(n);
    }
    builder.enable_all().build().map_err(|e| Fail::internal(format!("the runtime does not start: {e}")))
}

async fn dispatch(cx: &mut Context, verb: Verb) -> Result {
    match verb {
        Verb::Status(args) => status::run(cx, &args).await,
        Verb::Ls(args) => ls::run(cx, &args).await,
        Verb::Show(args) => show::run(cx, &args).await,
        Verb::Reserve(args) => Box::pin(reserve::run(cx, args)).await,
        Verb::Extend(args) => extend::run(cx, &args).await,
        Verb::Release(args) => release::run(cx, &args).await,
        Verb::Report(args) => report::run(cx, &args).await,
        Verb::Why(args) => why::run(cx, &args).await,
        Verb::Events(args) => events::run(cx, &args).await,
        Verb::Run(args) => run::run(cx, args).await,
        Verb::Power(args) => power::run(cx, &args).await,
        Verb::Switch(args) => fixture::flip(cx, &args).await,
        Verb::Press(args) => fixture::press(cx, &args).await,
        Verb::Identify(args) => fixture::identify(cx, &args).await,
        Verb::Console(args) => console::run(cx, &args).await,
        Verb::Reimage(args) => reimage::run(cx, &args).await,
        Verb::Image(verb) => image::run(cx, verb).await,
        Verb::Admin(verb) => admin::run(cx, verb).await,
        Verb::Serve(args) => serve::run(cx, args).await,
        Verb::Demo(args) => demo::run(cx, &args).await,
        Verb::Replay(args) => replay::run(cx, &args),
        Verb::Completion(args) => completion::run(cx, &args),
    }
}
