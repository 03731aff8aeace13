//! `pitstop reserve`: get machines, and wait until they are ready. With
//! `-- CMD` they are held by a session, CMD runs here, and they are given
//! back when it ends.

mod marker;
mod session;
mod wait;

pub use marker::Marker;
pub use wait::interrupted;

use super::fail::{Fail, INTERRUPTED};
use super::status::{more_time, names};
use super::times::{clock, duration, left, moment};
use super::{Context, Result};
use clap::ValueEnum;
use pitstop_client::new_key;
use pitstop_wire::api::{CleanLevel, HoldKind, Release, Reservation, Reserve, RoleAsk, Time, Want};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machines will do: names and key=value.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// How many.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Machines of several kinds, all or nothing (repeat it).
    #[arg(long, value_name = "NAME=FILTER", value_parser = role, conflicts_with_all = ["filter", "count"])]
    role: Vec<RoleAsk>,
    /// The image by name.
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// In which condition: `image` if one is named, else `bare`.
    #[arg(long, value_enum)]
    want: Option<WantArg>,
    /// How clean the disks must be.
    #[arg(long, value_enum)]
    clean: Option<CleanArg>,
    /// For how long once it is ready: 30m, 2h (2h unless said).
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "until")]
    length: Option<Duration>,
    /// Until then: 18:00, or RFC 3339.
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    until: Option<Time>,
    /// For people and the audit.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Lower lets others go first; higher is for admins.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Wait until it is ready (the default).
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only take a place in the queue.
    #[arg(long)]
    no_wait: bool,
    /// Give up waiting after that long: exit code 6.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// What ctrl-C does while waiting.
    #[arg(long, value_enum, default_value = "cancel", value_name = "WHAT")]
    on_interrupt: OnInterrupt,
    /// Wait for a reservation made before, and take it.
    #[arg(long, value_name = "R-…", conflicts_with_all = ["filter", "role", "count", "image", "no_wait", "command"])]
    resume: Option<String>,
    /// With CMD: silence after which the machines are taken back.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "command", default_value = "30s")]
    silence: Duration,
    /// Run this here while holding the machines, then give them back.
    #[arg(last = true, value_name = "CMD", conflicts_with = "no_wait")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnInterrupt {
    /// Give the place in the queue up.
    Cancel,
    /// Stay in the queue.
    Keep,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WantArg {
    /// Power and console, machine off.
    Bare,
    /// The agent serves from RAM.
    Agent,
    /// The image runs.
    Image,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CleanArg {
    /// A proof newer than the last use.
    Proven,
    /// A command said so.
    ByCommand,
    /// A used disk will do.
    Any,
}

fn role(text: &str) -> std::result::Result<RoleAsk, String> {
    let (name, select) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=FILTER"))?;
    if name.is_empty() || select.is_empty() {
        return Err(format!("`{text}` is not NAME=FILTER, such as server=soc=imx8"));
    }
    Ok(RoleAsk { name: name.to_owned(), select: select.to_owned(), count: None })
}

pub async fn run(cx: &mut Context, args: Args) -> Result {
    let with_command = !args.command.is_empty();
    if let Some(program) = args.command.first() {
        session::find(cx, program)?;
    }
    let reservation = match &args.resume {
        Some(id) => cx.client.reservation(&super::pick::reservation(cx, Some(id)).await?).await?,
        None => {
            // Made here, so that an interrupted try can be found again.
            let key = cx.key.clone().map_or_else(new_key, Ok)?;
            cx.client.reserve(&ask(&args, with_command)?, Some(key)).await?
        }
    };
    if with_command {
        return session::run(cx, &reservation, &args.command, args.silence).await;
    }
    if args.no_wait {
        return queued(cx, &reservation);
    }
    let ready = tokio::select! {
        ready = wait::until_ready(cx, &reservation) => ready?,
        signal = interrupted() => return give_up(cx, &args, &reservation.id, signal?).await,
    };
    // We waited for it: its holder is there.
    let held = cx.client.claim(&ready.id).await?;
    print(cx, &held)
}

fn ask(args: &Args, session: bool) -> Result<Reserve> {
    let select = super::pick::filter(&args.filter)?.to_string();
    Ok(Reserve {
        select: args.role.is_empty().then_some(select),
        count: args.count,
        roles: args.role.clone(),
        image: args.image.clone(),
        want: args.want.map(|w| match w {
            WantArg::Bare => Want::Bare,
            WantArg::Agent => Want::Agent,
            WantArg::Image => Want::Image,
        }),
        hold: Some(if session { HoldKind::Session } else { HoldKind::Time }),
        silence: session.then_some(args.silence.as_secs()),
        length: args.length.map(|d| d.as_secs()),
        until: args.until,
        priority: args.priority,
        reason: args.reason.clone(),
        clean: args.clean.map(|c| match c {
            CleanArg::Proven => CleanLevel::Proven,
            CleanArg::ByCommand => CleanLevel::ByCommand,
            CleanArg::Any => CleanLevel::Any,
        }),
        timeout: args.timeout.map(|d| d.as_secs()),
        agent_lost: None,
    })
}

fn queued(cx: &Context, r: &Reservation) -> Result {
    if cx.out.human() {
        cx.out.say(&kept(r));
    }
    cx.out.object(r, &r.id, |out| out.line(&format!("{} {}", r.id, r.state.word())))
}

/// How what was not waited for is taken, and until when.
pub fn kept(r: &Reservation) -> String {
    let id = &r.id;
    let kept = match r.unclaimed_until {
        Some(at) => format!("it is kept for you till {} ({} left)", clock(at), left(at)),
        None => "once it is ready, it is kept for you for `timeout.claim` (10m unless the inventory says otherwise)"
            .to_owned(),
    };
    format!(
        "{kept}\nit is taken by reserve --resume, and by run and power on its machine\n\
         → pitstop why {id}; pitstop reserve --resume {id}; pitstop release {id}"
    )
}

fn print(cx: &Context, r: &Reservation) -> Result {
    if cx.out.human() {
        if let Some(at) = r.ends {
            cx.out.say(&format!("yours till {} ({} left){}", clock(at), left(at), more_time(r)));
        }
        let first = r.machines.first().map(|m| m.machine.as_str()).unwrap_or_default();
        let verb = match r.want {
            Want::Bare => format!("pitstop power {first} on; pitstop console {first}"),
            Want::Agent | Want::Image => format!("pitstop run {first} -- CMD"),
        };
        cx.out.say(&format!("→ {verb}; pitstop release {}", r.id));
    }
    cx.out.object(r, &names(r).replace(' ', "\n"), |out| out.line(&format!("{} {} ready", r.id, names(r))))
}

async fn give_up(cx: &Context, args: &Args, id: &str, signal: &str) -> Result {
    match args.on_interrupt {
        OnInterrupt::Keep => {
            cx.out.say(&format!("\n{signal}: {id} stays in the queue  → pitstop reserve --resume {id}"));
        }
        OnInterrupt::Cancel => {
            cx.client.release(id, &Release::default(), None).await?;
            cx.out.say(&format!("\n{signal}: {id} cancelled"));
        }
    }
    Err(Fail::Exit(INTERRUPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_name_and_a_filter() {
        assert_eq!(role("server=soc=imx8 ram=8..").unwrap().select, "soc=imx8 ram=8..");
        assert!(role("server").is_err());
        assert!(role("=soc=imx8").is_err());
    }
}
