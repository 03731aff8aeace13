//! The end: what every machine went through, and whether all that the demo
//! promises came true.

use super::build::PLACES;
use super::lab::{IMAGE, Lab, peak_memory};
use super::scan;
use super::tell::{Teller, mib};
use super::world::{Course, History, World};
use crate::cli::Result;
use crate::cli::fail::Fail;
use crate::cli::out::Tone;
use crate::cli::times::clock_seconds;
use pitstop_wire::api::{Clean, DiskState, EndKind, HealthState, Machine, Shown};
use std::os::unix::process::ExitStatusExt as _;

/// What a newcomer is promised, in MiB.
const MEMORY: u64 = 50;

/// Prints the table and the last lines; an error where anything is missing.
pub async fn judge(lab: &Lab, world: &World, tell: &Teller) -> Result {
    let digest = lab.client.image(IMAGE).await?.digest;
    let machines = lab.client.machines("").await?.machines;
    let mut missing = Vec::new();
    let mut rows = vec![
        ["MACHINE", "SERVED", "WHAT HAPPENED", "PROOF: DIGEST, READ BACK, WHEN", "STATE"].map(str::to_owned),
    ];
    let mut idle = 0;
    for machine in &machines {
        missing.extend(marked(lab, machine).await?);
        let history = world.history.get(machine.name.as_str());
        match history {
            Some(history) => rows.push(row(machine, history)),
            None if machine.shown == Shown::Free => idle += 1,
            None => missing.push(format!("{} is {}, and nobody used it", machine.name, machine.shown.word())),
        }
        if let Some(history) = history.filter(|h| !h.served.is_empty()) {
            missing.extend(unproven(machine, history, &digest));
            if !scan::is_exactly(lab.disk(machine.name.as_str()), lab.image()).await? {
                missing.push(format!("{}: its disk is not exactly {IMAGE}", machine.name));
            }
        }
    }
    rows.push(
        [&format!("{idle} others"), "-", "nobody wanted them", "made before they are given", "free"]
            .map(str::to_owned),
    );
    missing.extend(untold(lab, world, &machines).await?);
    tell.text("")?;
    table(tell, &rows)?;
    tell.text("")?;
    close(tell, world, &missing)
}

/// What builds left on a machine's disk, seen from outside.
async fn marked(lab: &Lab, machine: &Machine) -> Result<Option<String>> {
    let name = machine.name.as_str();
    let marks = scan::marks(lab.disk(name)).await?;
    Ok((marks > 0).then(|| format!("{name}: {marks} marks of builds are still on its disk")))
}

/// What a machine that served is lacking.
fn unproven(machine: &Machine, history: &History, digest: &str) -> Option<String> {
    let name = &machine.name;
    if machine.shown != Shown::Free || machine.clean != Clean::Proven {
        return Some(format!(
            "{name} is {} and {}, not free and proven",
            machine.shown.word(),
            machine.clean.word()
        ));
    }
    let proven = |d: &DiskState| {
        d.digest.as_deref() == Some(digest)
            && d.device_bytes.is_some()
            && d.read_bytes == d.device_bytes
            && d.proven.zip(history.left).is_some_and(|(proven, left)| proven >= left)
    };
    match machine.disks.as_slice() {
        [disk] if proven(disk) => None,
        _ => Some(format!("{name}: no proof of {IMAGE} over its whole disk since its last build")),
    }
}

/// What the story lacks.
async fn untold(lab: &Lab, world: &World, machines: &[Machine]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut expect = |is: bool, what: String| {
        if !is {
            missing.push(what);
        }
    };
    let quarantined: Vec<&Machine> =
        machines.iter().filter(|m| matches!(m.health, HealthState::Quarantined { .. })).collect();
    expect(quarantined.len() == 1, format!("one machine was to be quarantined, {} are", quarantined.len()));
    for machine in quarantined {
        let said = world.history.get(machine.name.as_str()).map(|h| h.console.as_slice()).unwrap_or_default();
        let class = matches!(&machine.health, HealthState::Quarantined { class, .. } if class == "boot");
        let panic = said.iter().any(|line| line.contains("Kernel panic"));
        expect(class && panic, format!("{}: the panic on its console is not the evidence", machine.name));
    }
    let processes = lab.processes().await?;
    expect(
        processes == machines.len(),
        format!("{} machines were to be processes, {processes} are", machines.len()),
    );
    for build in &world.builds {
        let end = match &build.id {
            Some(id) => lab.client.reservation(id).await?.end.map(|end| end.kind),
            None => None,
        };
        expect(build.dirtied.is_some(), format!("{} did nothing on its machine", build.name));
        let well = match end {
            Some(EndKind::Lost) => killed(build),
            Some(EndKind::Released) => build.exit.is_some_and(|e| e.success()),
            _ => false,
        };
        expect(well, format!("{} did not end as it should: {}", build.name, build.complaint));
    }
    let count = |is: fn(&Course) -> bool| world.builds.iter().filter(|b| is(b)).count();
    expect(count(killed) == 1, "one build was to be killed and its session lost".to_owned());
    expect(count(|b| b.waited) == 1, "one build was to wait for its turn".to_owned());
    expect(
        count(|b| b.given.len() == 2) == 1,
        "one build was to get a machine instead of a broken one".to_owned(),
    );
    let seen = world.history.values().any(|h| h.marks == PLACES.len());
    expect(
        seen,
        "the marks of a build were not seen while it ran, so not seeing them now says nothing".to_owned(),
    );
    Ok(missing)
}

fn killed(build: &Course) -> bool {
    build.lost.is_some() && build.exit.is_some_and(|e| e.signal() == Some(9))
}

fn row(machine: &Machine, history: &History) -> [String; 5] {
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let proof = machine.disks.first().filter(|d| d.content == "proven").and_then(|d| {
        let digest: String = d.digest.as_ref()?.chars().take(11).collect();
        Some(format!(
            "{digest} {} of {} MiB {}",
            mib(d.read_bytes?),
            mib(d.device_bytes?),
            clock_seconds(d.proven?)
        ))
    });
    let state = match &machine.health {
        HealthState::Quarantined { class, .. } => format!("{} ({class})", machine.shown.word()),
        _ => machine.shown.word().to_owned(),
    };
    [
        machine.name.to_string(),
        or(history.served.join(" "), "nobody"),
        or(history.notes.join(", "), "all went well"),
        proof.unwrap_or_else(|| "none: never handed over".to_owned()),
        state,
    ]
}

fn table(tell: &Teller, rows: &[[String; 5]]) -> Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ");
        let tone = match number {
            0 => Tone::Dim,
            _ if row[4].starts_with("FAILED") => Tone::Bad,
            _ => Tone::Plain,
        };
        tell.text(&tell.paint(tone, line.trim_end()))?;
    }
    Ok(())
}

fn close(tell: &Teller, world: &World, missing: &[String]) -> Result {
    let elapsed = tell.elapsed();
    let memory = match peak_memory() {
        Some(bytes) => format!("at most {} MiB of memory (promised: under {MEMORY})", mib(bytes)),
        None => "memory not known".to_owned(),
    };
    let took =
        format!("{}.{} s; the daemon, with this demo: {memory}", elapsed / 1_000, elapsed % 1_000 / 100);
    if missing.is_empty() {
        let served = world.history.values().filter(|h| !h.served.is_empty()).count();
        return tell.text(&format!(
            "Every build got a clean machine, and the {served} that served are clean again, each with its proof.\n\
             A look into the disks from outside agrees: exactly the image, and no mark of any build anywhere.\n{took}"
        ));
    }
    tell.text(&format!("Not all that was to be seen is there. {took}"))?;
    for what in missing {
        tell.text(&format!("  missing: {what}"))?;
    }
    Err(Fail::Exit(1))
}
