//! `pitstop power`

use super::fail::Fail;
use super::{Context, Result};
use pitstop_wire::api::{PowerDo, PowerRequest};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine (yours if there is only one), then on, off, cycle or status.
    #[arg(required = true, num_args = 1..=2, value_names = ["MACHINE", "ACTION"])]
    words: Vec<String>,
    /// Override the holder (admins); needs --reason.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why; told to the holder and kept.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let (named, action) = match args.words.as_slice() {
        [action] => (None, action.as_str()),
        [machine, action, ..] => (Some(machine.as_str()), action.as_str()),
        [] => return Err(Fail::usage("on, off, cycle or status?")),
    };
    let action = match action {
        "on" => Some(PowerDo::On),
        "off" => Some(PowerDo::Off),
        "cycle" => Some(PowerDo::Cycle),
        "status" => None,
        other => {
            return Err(Fail::usage(format!("`{other}` is no power action; say on, off, cycle or status"))
                .hint("pitstop power MACHINE cycle"));
        }
    };
    let machine = super::pick::machine(cx, named).await?;
    let Some(action) = action else { return status(cx, &machine).await };
    let force = if args.force { args.reason.clone() } else { None };
    let done = cx.client.power(&machine, &PowerRequest { action, force }, cx.key.clone()).await?;
    cx.out.object(&done, &machine, |out| out.line(&done.text))
}

async fn status(cx: &Context, machine: &str) -> Result {
    let m = cx.client.machine(machine).await?;
    cx.out.object(&m.legs, &m.name, |out| {
        m.legs.iter().try_for_each(|l| {
            let when = l.at.map(|at| format!(" (read {} ago)", super::times::ago(at))).unwrap_or_default();
            out.line(&format!("{} {} {}{when}", m.name, l.name, l.reading))
        })
    })
}
