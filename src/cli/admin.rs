//! `pitstop admin`

mod backup;
mod check;
mod facts;
mod fsck;
mod wiring;

use super::fail::Fail;
use super::pick::{filter, machine_name};
use super::{Context, Result};
use pitstop_wire::MachineName;
use pitstop_wire::api::{Enrol, NewMachine, Reload, Reloaded};
use pitstop_wire::text::machines;
use std::io::{BufRead, Write};

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Accept new machines, whose disks will be erased, and those that are not what they were.
    #[command(after_help = facts::HELP)]
    Enrol {
        /// Which.
        #[arg(required = true)]
        filter: Vec<String>,
        /// How many you believe that to be; asked for unless given.
        #[arg(long)]
        count: Option<usize>,
        /// Enrol nothing: write what was found of them, as lines for the inventory, to a new file.
        #[arg(long, value_name = "FILE", conflicts_with = "count")]
        write: Option<std::path::PathBuf>,
    },
    /// Take machines out.
    Drain {
        /// Which.
        #[arg(required = true)]
        machines: Vec<String>,
        /// Why; shown to everybody.
        #[arg(long)]
        reason: String,
    },
    /// Put drained machines back.
    Undrain {
        /// Which.
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Send quarantined machines through a proving turn.
    Prove {
        /// Which.
        #[arg(required = true)]
        machines: Vec<String>,
    },
    /// Read the inventory again.
    Reload {
        /// Only print the difference.
        #[arg(long)]
        dry_run: bool,
    },
    /// Copy the lab's database to a file, while everything goes on.
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(backup::Backup),
    /// Put a backup in the place of the lab's database; no daemon may run.
    #[command(after_help = backup::RESTORE_HELP)]
    Restore(backup::Restore),
    /// Check a lab's database, or a backup of one; writes nothing.
    #[command(after_help = fsck::HELP)]
    Fsck(fsck::Args),
    /// Check an inventory file, or the hardware of machines.
    #[command(after_help = check::HELP)]
    Check(check::Args),
}

pub async fn run(cx: &mut Context, verb: Verb) -> Result {
    match verb {
        Verb::Enrol { filter, write: Some(file), .. } => facts::write(cx, &filter, &file).await,
        Verb::Enrol { filter, count, write: None } => enrol(cx, &filter, count).await,
        Verb::Drain { machines, reason } => {
            for machine in &names_of(&machines)? {
                let done = cx.client.drain(machine, &reason, key(cx, &machines)?).await?;
                cx.out.object(&done, machine, |out| out.line(&done.text))?;
            }
            Ok(())
        }
        Verb::Undrain { machines } => {
            for machine in &names_of(&machines)? {
                let done = cx.client.undrain(machine, key(cx, &machines)?).await?;
                cx.out.object(&done, machine, |out| out.line(&done.text))?;
            }
            Ok(())
        }
        Verb::Prove { machines } => {
            for machine in &names_of(&machines)? {
                let done = cx.client.prove(machine, key(cx, &machines)?).await?;
                cx.out.object(&done, machine, |out| out.line(&done.text))?;
            }
            Ok(())
        }
        Verb::Reload { dry_run } => {
            let reloaded = cx.client.reload(&Reload { dry_run }, cx.key.clone()).await?;
            cx.out.object(&reloaded, "", |out| difference(&reloaded).iter().try_for_each(|l| out.line(l)))
        }
        Verb::Backup(args) => backup::backup(cx, &args).await,
        Verb::Restore(args) => backup::restore(cx, &args),
        Verb::Fsck(args) => fsck::run(cx, &args),
        Verb::Check(args) => check::run(cx, &args).await,
    }
}

/// All of them are read before the first is touched.
fn names_of(words: &[String]) -> Result<Vec<MachineName>> {
    words.iter().map(|word| machine_name(word)).collect()
}

/// One key cannot stand for several requests.
fn key(cx: &Context, machines: &[String]) -> Result<Option<String>> {
    if machines.len() > 1 && cx.key.is_some() {
        return Err(Fail::usage("one --idempotency-key cannot stand for several machines"));
    }
    Ok(cx.key.clone())
}

async fn enrol(cx: &Context, words: &[String], count: Option<usize>) -> Result {
    let select = filter(words)?.acting().to_string();
    let count = match count {
        Some(count) => count,
        None => {
            let found = cx.client.enrol(&Enrol { select: select.clone(), count: None }, None).await?;
            for m in &found.machines {
                listed(m).iter().for_each(|line| cx.out.say(line));
            }
            let n = found.machines.len();
            if n > 0 && !cx.yes {
                if !cx.out.can_ask {
                    return Err(Fail::usage(format!("{} would be enrolled", machines(n)))
                        .hint(format!("say so with --count {n}")));
                }
                confirm(cx, "Type how many machines that are: ", &n.to_string())?;
            }
            n
        }
    };
    let done = cx.client.enrol(&Enrol { select, count: Some(count) }, cx.key.clone()).await?;
    cx.out.object(&done, "", |out| {
        done.machines.iter().try_for_each(|m| out.line(&format!("{} enrolled", m.name)))
    })
}

/// What somebody accepts: which disks will be erased, and what is switched.
pub fn listed(m: &NewMachine) -> Vec<String> {
    let disks = if m.erased.is_empty() { "no disk".to_owned() } else { m.erased.join("; ") };
    let power = if m.power.is_empty() { "nothing".to_owned() } else { m.power.join("; ") };
    let mut lines = vec![
        format!("{}: will be erased: {disks}", m.name),
        format!("{}: will be switched: {power}", m.name),
    ];
    lines.extend(m.differences.iter().map(|text| format!("{}: is not what it was: {text}", m.name)));
    lines
}

/// Has a person type something that cannot be typed by habit.
pub fn confirm(cx: &Context, question: &str, answer: &str) -> Result {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question}").and_then(|()| stderr.flush())?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == answer {
        return Ok(());
    }
    cx.out.say("Nothing was changed.");
    Err(Fail::Exit(1))
}

fn difference(reloaded: &Reloaded) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(reloaded.added.iter().map(|m| format!("+ {m}")));
    lines.extend(reloaded.removed.iter().map(|m| format!("- {m}")));
    lines.extend(reloaded.changed.iter().map(|m| format!("~ {m}")));
    lines.push(match (reloaded.done, lines.is_empty()) {
        (_, true) => "nothing changed".to_owned(),
        (true, false) => "reloaded".to_owned(),
        (false, false) => "nothing was done (--dry-run)".to_owned(),
    });
    lines
}
