//! `pitstop admin check`: an inventory file, or the hardware it speaks of.

use super::super::fail::Fail;
use super::super::ls::nothing;
use super::super::out::Tone;
use super::super::pick::filter;
use super::super::table::{Column, Table};
use super::super::times::duration;
use super::super::{Context, Result};
use super::wiring;
use crate::daemon::hands::Places;
use pitstop_wire::api::{Checked, CheckedPart, Schema};
use pitstop_wire::text::machines;
use pitstop_wire::{ApiError, Code, MachineName};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Machines that are looked at at the same time.
const AT_ONCE: usize = 32;

pub const HELP: &str = "Given a file, it is read as an inventory, without a daemon. Otherwise each part of each machine is looked
at: power legs are read, consoles must be open, what boots must be there. Nothing is switched.

With --wiring machines are switched, one after the other, and all consoles of machines at rest are listened to. A machine
must be free, new or drained for that; it boots what is on its disk, and is off afterwards. Swapped cables are found out.
Where they are right, it boots our agent, which writes nothing and reports what the machine is: that is compared with what
was enrolled. However the check ends, also where it is killed, the machine is put back.

Examples
  pitstop admin check lab.toml          the file only
  pitstop admin check                   every machine
  pitstop admin check srv17             one of them
  pitstop admin check kind=server
  pitstop admin check --wiring srv17    whether its cables lead to it: switches it off, on and off

Exit code 0: all is well; 1: something is not.";

/// What to check.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An inventory file, or which machines; all of them unless said.
    #[arg(value_name = "FILE|FILTER")]
    what: Vec<String>,
    /// Switch these machines, and look whether it is them who start.
    #[arg(long, requires = "what")]
    wiring: bool,
    /// Leave out the last part: do not boot our agent.
    #[arg(long, requires = "wiring")]
    no_agent: bool,
    /// How long a machine may take to say something after power on.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", requires = "wiring")]
    within: Duration,
}

pub async fn run(cx: &Context, args: &Args) -> Result {
    match args.what.as_slice() {
        [file] if is_file(file) && !args.wiring => inventory(cx, Path::new(file)),
        words => hardware(cx, words, args).await,
    }
}

/// Where drivers are made that are never used.
fn nowhere() -> Places {
    let nowhere = std::path::PathBuf::from("/nonexistent");
    Places {
        machines: nowhere.clone(),
        agent: nowhere.clone(),
        program: nowhere,
        address: "127.0.0.1".to_owned(),
        agents_port: 0,
        boot_port: Some(0),
        ca: String::new(),
    }
}

/// No machine has a name with a slash or `.toml` in it that is not also a file.
fn is_file(word: &str) -> bool {
    word.contains('/') || word.ends_with(".toml") || Path::new(word).is_file()
}

fn inventory(cx: &Context, path: &Path) -> Result {
    let inventory = super::super::serve::inventory(path).map_err(|fail| match fail {
        // There is nothing that a check could have changed.
        Fail::Said(error) => {
            let hint = error.hint.clone().unwrap_or_default().replace("; nothing was changed", "");
            Fail::Said(error).hint(hint)
        }
        other => other,
    })?;
    // What no table of fields can tell: regular expressions, addresses, keys.
    crate::daemon::hands::Rigs::new(nowhere()).check(pitstop_drivers::factories(), &inventory).map_err(
        |faults| {
            Fail::from(
                ApiError::new(Code::Usage, "the inventory has drivers that cannot be made").hint(faults),
            )
        },
    )?;
    cx.out.line(&format!("{}: {}, no errors", path.display(), machines(inventory.machines.len())))
}

async fn hardware(cx: &Context, words: &[String], args: &Args) -> Result {
    let select = if words.is_empty() { filter(words)? } else { filter(words)?.acting() };
    let found = cx.client.machines(&select.to_string()).await?;
    if found.machines.is_empty() && cx.out.human() {
        cx.out.say(&nothing(&select));
    }
    let names: Vec<MachineName> = found.machines.into_iter().map(|m| m.name).collect();
    let checked = if args.wiring { wires(cx, &names, args).await? } else { look(cx, &names).await? };
    let rows: Vec<Row> = checked.iter().flat_map(rows).collect();
    cx.out.list(&checked, &rows, &PARTS)?;
    let bad = checked.iter().filter(|machine| !machine.ok).count();
    if bad == 0 {
        return Ok(());
    }
    if cx.out.human() {
        cx.out.say(&format!("{} of {} not well", bad, machines(checked.len())));
    }
    Err(Fail::Exit(1))
}

/// One after the other, or nobody could tell who was switched.
async fn wires(cx: &Context, names: &[MachineName], args: &Args) -> Result<Vec<Checked>> {
    let mut all = Vec::new();
    for machine in names {
        let parts = match wiring::check(cx, machine, args.within, !args.no_agent).await {
            Ok(parts) => parts,
            // What is wrong with one is no reason not to look at the others.
            Err(Fail::Said(error)) => vec![CheckedPart {
                part: "power".to_owned(),
                driver: String::new(),
                ok: false,
                says: error.to_string(),
                ms: 0,
            }],
            Err(other) => return Err(other),
        };
        let ok = parts.iter().all(|part| part.ok);
        all.push(Checked { schema: Schema::new("pitstop.checked/1"), machine: machine.clone(), ok, parts });
    }
    Ok(all)
}

/// All of them, side by side, in the order of their names.
async fn look(cx: &Context, names: &[MachineName]) -> Result<Vec<Checked>> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for (at, name) in names.iter().cloned().enumerate() {
        let (client, room) = (cx.client.clone(), room.clone());
        looks.spawn(async move {
            let _turn = room.acquire().await;
            (at, client.check(&name).await)
        });
    }
    let mut all = looks.join_all().await;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, checked)| checked).collect::<std::result::Result<_, _>>()?)
}

/// One part of one machine.
#[derive(Serialize)]
struct Row {
    machine: MachineName,
    #[serde(flatten)]
    part: CheckedPart,
}

fn rows(checked: &Checked) -> Vec<Row> {
    let row = |part: &CheckedPart| Row { machine: checked.machine.clone(), part: part.clone() };
    checked.parts.iter().map(row).collect()
}

static PARTS: Table<Row> = Table {
    name: |row| format!("{} {}", row.machine, row.part.part),
    csv: &[
        ("machine", |row| row.machine.to_string()),
        ("part", |row| row.part.part.clone()),
        ("driver", |row| row.part.driver.clone()),
        ("ok", |row| row.part.ok.to_string()),
        ("ms", |row| row.part.ms.to_string()),
        ("says", |row| row.part.says.clone()),
    ],
    columns: &[
        Column { title: "MACHINE", wide: false, cell: |row, _| (row.machine.to_string(), Tone::Plain) },
        Column { title: "PART", wide: false, cell: |row, _| (row.part.part.clone(), Tone::Plain) },
        Column { title: "DRIVER", wide: false, cell: |row, _| (row.part.driver.clone(), Tone::Dim) },
        Column {
            title: "",
            wide: false,
            cell: |row, _| {
                if row.part.ok { ("ok".to_owned(), Tone::Plain) } else { ("FAILED".to_owned(), Tone::Bad) }
            },
        },
        Column { title: "TOOK", wide: false, cell: |row, _| (took(row.part.ms), Tone::Dim) },
        Column { title: "SAYS", wide: false, cell: |row, _| (row.part.says.clone(), Tone::Plain) },
    ],
};

fn took(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { format!("{}.{}s", ms / 1000, ms % 1000 / 100) }
}
