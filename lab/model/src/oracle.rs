//! What must hold in every state, judged by someone who sees both the lab and
//! the world.

use crate::world::{Told, World};
use pitstop_core::id::ReservationId;
use pitstop_core::invariant;
use pitstop_core::machine::{Content, Health, ImageRef, Machine, Stage};
use pitstop_core::reservation::{CleanLevel, Reservation, Status, Want};

/// Rows and records agree, and nobody writes over his successor.
pub const HISTORY: &str = "the rows are the fold of one history";
/// No state without a way out.
pub const EXIT: &str = "every state that does not rest has an exit";

/// Hardware cannot be fenced by number, only by time and evidence.
pub const POWER: &str = "no power effect may land on a machine that is ready or held";
/// Clean or not offered.
pub const CLEAN: &str = "nobody gets another's bytes or a half written disk unless he accepts it";

/// A disk that nobody enrolled is somebody else's.
pub const ENROLLED: &str = "no disk is written but the one that was enrolled";

/// A property: its name, and why it does not hold.
pub type Property = (&'static str, fn(&World) -> Result<(), String>);

/// What must always hold.
pub const ALWAYS: [Property; 11] = [
    ("the core's own invariants hold", rows_agree),
    ("at most one holder", one_holder),
    (POWER, nothing_lands),
    (CLEAN, clean_disks),
    ("what is ready with an image holds that image and runs", image_runs),
    ("what is ready bare is off", bare_is_off),
    ("no acknowledged answer is lost", answers_kept),
    (HISTORY, |world| step_right(world, HISTORY)),
    (EXIT, has_exit),
    (ENROLLED, |world| step_right(world, ENROLLED)),
    ("what is called proven is true of the disk", proof_true),
];

fn step_right(world: &World, property: &str) -> Result<(), String> {
    match &world.wrong {
        Some(wrong) if wrong.property == property => Err(wrong.text.clone()),
        _ => Ok(()),
    }
}

fn rows_agree(world: &World) -> Result<(), String> {
    invariant::check(&world.lab)
}

/// Who is to have the machine to himself: it is ready for him, or his.
fn owner(machine: &Machine) -> Option<(ReservationId, bool, Option<&ImageRef>)> {
    match &machine.stage {
        Stage::Ready { reservation: Some(id), image, .. } => Some((*id, false, image.as_ref())),
        Stage::InUse { reservation, image, .. } => Some((*reservation, true, image.as_ref())),
        _ => None,
    }
}

fn owned(world: &World) -> Option<(&Machine, &Reservation, bool, Option<&ImageRef>)> {
    let machine = world.row()?;
    let (id, in_use, image) = owner(machine)?;
    Some((machine, world.lab.reservation(id)?, in_use, image))
}

fn one_holder(world: &World) -> Result<(), String> {
    let lives = |id: &ReservationId| world.lab.reservation(*id).is_some_and(|r| !r.ended());
    let holders: Vec<ReservationId> = (world.clients.iter())
        .filter_map(|c| match c.told {
            Told::Claimed(id) => Some(id),
            _ => None,
        })
        .filter(lives)
        .collect();
    match holders.as_slice() {
        [] | [_] => Ok(()),
        many => Err(format!("{many:?} were all told that the machine is theirs")),
    }
}

fn nothing_lands(world: &World) -> Result<(), String> {
    let Some((machine, row, in_use, _)) = owned(world) else { return Ok(()) };
    let his = |holder: Option<ReservationId>| in_use && holder == Some(row.id);
    match world.orders.iter().find(|o| o.may_land() && !his(o.holder)) {
        Some(order) => Err(format!(
            "{} is {} for {}, and `{:?}` may still land",
            machine.name,
            machine.state(),
            row.id,
            order.want
        )),
        None => Ok(()),
    }
}

fn clean_disks(world: &World) -> Result<(), String> {
    let Some((machine, row, ..)) = owned(world) else { return Ok(()) };
    if row.ask.clean == CleanLevel::Any {
        return Ok(());
    }
    let (name, id, disk) = (&machine.name, row.id, &world.board.disk);
    if let Some(other) = disk.tenants.iter().find(|t| **t != id) {
        return Err(format!("{name} is handed to {id} with the bytes of {other} on it"));
    }
    if disk.partial {
        return Err(format!("{name} is handed to {id} with a half written disk"));
    }
    Ok(())
}

fn image_runs(world: &World) -> Result<(), String> {
    let Some((machine, row, in_use, Some(image))) = owned(world) else { return Ok(()) };
    let base = &world.board.disk.base;
    if base.as_ref() != Some(&image.digest) {
        return Err(format!(
            "{} is handed to {} with {base:?} instead of {}",
            machine.name, row.id, image.name
        ));
    }
    if !in_use && !world.board.on {
        return Err(format!("{} is ready for {} with {}, and off", machine.name, row.id, image.name));
    }
    Ok(())
}

fn bare_is_off(world: &World) -> Result<(), String> {
    let Some((machine, row, false, _)) = owned(world) else { return Ok(()) };
    if row.ask.want == Want::Bare && world.board.on {
        return Err(format!("{} is ready for {} as off, and it is on", machine.name, row.id));
    }
    Ok(())
}

/// What is told is told after the commit: it stays true whatever crashes.
fn answers_kept(world: &World) -> Result<(), String> {
    for (client, asks) in world.clients.iter().zip(&world.setting.asks) {
        let (Told::Accepted(id) | Told::Claimed(id) | Told::Released(id)) = client.told else { continue };
        let row = world.lab.reservation(id).filter(|r| r.owner == asks.user);
        let row = row.ok_or(format!("{id} was acknowledged to {} and is not his in the store", asks.user))?;
        let kept = match client.told {
            Told::Claimed(_) => row.ended() || row.status == Status::Active,
            Told::Released(_) => row.ended(),
            _ => true,
        };
        if !kept {
            return Err(format!(
                "{id} is {} in the store; {} was told otherwise: {:?}",
                row.state(),
                asks.user,
                client.told
            ));
        }
    }
    Ok(())
}

/// A lab in which nothing is under way and nothing is due must be at rest.
fn has_exit(world: &World) -> Result<(), String> {
    step_right(world, EXIT)?;
    if let Some(machine) = world.row()
        && let (Stage::Turn(turn), true) = (&machine.stage, world.up)
        && world.lab.next_deadline().is_none_or(|at| at > turn.deadline)
    {
        return Err(format!("phase {} is not judged at its deadline", turn.phase.name()));
    }
    if !world.up || !world.waits() || world.next_moment().is_some() {
        return Ok(());
    }
    let Some(machine) = world.row() else { return Ok(()) };
    if machine.stage != Stage::Free || !machine.settled() {
        return Err(format!("{} is {} for ever", machine.name, machine.state()));
    }
    match world.lab.reservations().find(|r| !r.ended()) {
        Some(row) if machine.health == Health::Good => Err(format!("{} is {} for ever", row.id, row.state())),
        _ => Ok(()),
    }
}

/// What is called proven is just what the certificate says.
fn proof_true(world: &World) -> Result<(), String> {
    let Some(machine) = world.row().filter(|m| m.all_proven()) else { return Ok(()) };
    let disk = &world.board.disk;
    for row in &machine.disks {
        let Content::Proven(certificate) = &row.content else { continue };
        // A disk that was swapped since is seen when our agent boots next.
        if certificate.proof.serial.as_deref() != Some(world.board.serial()) {
            continue;
        }
        if disk.base != certificate.digest || disk.partial || disk.touched {
            return Err(format!(
                "disk {} of {} is called proven, and holds {disk:?}",
                row.name, machine.name
            ));
        }
    }
    Ok(())
}

/// A state that must be reachable, so that what always holds does not hold of
/// nothing.
pub type Goal = (&'static str, fn(&World) -> bool);

/// A machine is handed over with its image.
pub const IMAGE_HELD: &str = "a machine is handed over with its image";
/// A bare machine is handed over.
pub const BARE_HELD: &str = "a bare machine is handed over";
/// A release leads to a free machine.
pub const FREE_AGAIN: &str = "a release leads to a free machine";
/// A machine is handed over when all has gone wrong that may.
pub const FAULTS_SURVIVED: &str = "a machine is handed over after the last fault that may happen";

/// The states that must be reachable, whatever may go wrong on the way.
pub const SOMETIMES: [Goal; 4] = [
    (IMAGE_HELD, |w| matches!(owned(w), Some((_, _, true, Some(_))))),
    (BARE_HELD, |w| matches!(owned(w), Some((_, row, true, None)) if row.ask.want == Want::Bare)),
    (FREE_AGAIN, |w| {
        let released = w.clients.iter().any(|c| matches!(c.told, Told::Released(_)));
        released && w.row().is_some_and(|m| m.stage == Stage::Free && m.health == Health::Good)
    }),
    (FAULTS_SURVIVED, |w| owned(w).is_some_and(|(_, _, in_use, _)| in_use) && !w.faults.any()),
];
