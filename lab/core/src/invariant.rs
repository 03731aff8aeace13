//! What must hold in every lab after every step, as far as the rows alone
//! can show it. The simulator adds what only the world knows.

use crate::Lab;
use crate::lab::RowKey;
use crate::machine::{Content, Health, Purpose, Stage};
use crate::reservation::{CleanLevel, Status, Want};

/// Checks all invariants; the first that does not hold is named.
pub fn check(lab: &Lab) -> Result<(), String> {
    for machine in lab.machines() {
        machine_holds(lab, machine)?;
    }
    for row in lab.reservations() {
        reservation_holds(lab, row)?;
    }
    Ok(())
}

/// Checks what these rows take part in. Where all held before, and nothing but
/// these rows changed, all holds if this does.
pub fn check_rows<'k>(lab: &Lab, keys: impl IntoIterator<Item = &'k RowKey>) -> Result<(), String> {
    for key in keys {
        match key {
            RowKey::Machine(name) => lab.machine(name).map_or(Ok(()), |m| machine_holds(lab, m))?,
            RowKey::Reservation(id) => lab.reservation(*id).map_or(Ok(()), |r| reservation_holds(lab, r))?,
            RowKey::Image(_) | RowKey::Key(_) => {}
        }
    }
    Ok(())
}

fn machine_holds(lab: &Lab, m: &crate::machine::Machine) -> Result<(), String> {
    let name = &m.name;
    if let Some(id) = m.reservation() {
        let row =
            lab.reservation(id).ok_or_else(|| format!("{name} is held by {id}, which does not exist"))?;
        if row.ended() {
            return Err(format!("{name} is held by {id}, which has ended"));
        }
        if !row.has(name) {
            return Err(format!("{name} is held by {id}, which does not know it"));
        }
    }
    if m.wiring.is_some() {
        if let Some(id) = m.reservation() {
            return Err(format!("{name} is {id}'s while its wires are checked"));
        }
        if !lab.checks.contains_key(name) {
            return Err(format!("the check of the wires of {name} has no end"));
        }
    }
    match &m.stage {
        Stage::Turn(turn) if turn.deadline.0 == u64::MAX => {
            return Err(format!("{name}: phase {} has no deadline", turn.phase.name()));
        }
        Stage::Ready { reservation: Some(id), .. } => ready_holds(lab, m, *id)?,
        Stage::Ready { reservation: None, until, .. } if until.is_none() => {
            return Err(format!("{name} is warm without an end"));
        }
        Stage::InUse { reservation, .. } => {
            let active = lab.reservation(*reservation).is_some_and(|r| r.status == Status::Active);
            if !active {
                return Err(format!("{name} is in use by {reservation}, which is not active"));
            }
        }
        _ => {}
    }
    for leg in &m.legs {
        if leg.unsettled.iter().filter(|i| i.open).count() > 1 {
            return Err(format!("{name}: two power commands at once on leg {}", leg.name));
        }
    }
    Ok(())
}

fn ready_holds(lab: &Lab, m: &crate::machine::Machine, id: crate::id::ReservationId) -> Result<(), String> {
    let name = &m.name;
    if !m.settled() {
        return Err(format!("{name} is ready for {id} while a power effect may still land"));
    }
    let Some(row) = lab.reservation(id) else { return Ok(()) };
    let as_clean = match row.ask.clean {
        CleanLevel::Any => true,
        CleanLevel::ByCommand => m.all_clean(),
        CleanLevel::Proven => m.all_proven(),
    };
    if row.ask.want == Want::Bare && !as_clean {
        return Err(format!("{name} is ready for {id} and its disks are {}", m.clean()));
    }
    for disk in &m.disks {
        match disk.content {
            Content::Writing { .. } => {
                return Err(format!("{name} is ready for {id} and disk {} is half written", disk.name));
            }
            Content::Used { by: Some(other) } if other != id && row.ask.clean > CleanLevel::Any => {
                return Err(format!("{name} is ready for {id} and disk {} was used by {other}", disk.name));
            }
            Content::ByCommand(_) if row.ask.clean > CleanLevel::ByCommand => {
                return Err(format!(
                    "{name} is ready for {id} and disk {} has a command's word only",
                    disk.name
                ));
            }
            Content::Unknown if row.ask.clean > CleanLevel::Any => {
                return Err(format!("{name} is ready for {id} and nothing is known of disk {}", disk.name));
            }
            _ => {}
        }
    }
    Ok(())
}

fn reservation_holds(lab: &Lab, row: &crate::reservation::Reservation) -> Result<(), String> {
    let id = row.id;
    if row.ended() {
        let kept = |m: &&crate::reservation::Member| {
            lab.machine(&m.machine).is_some_and(|m| m.reservation() == Some(id))
        };
        return match row.members.iter().find(kept) {
            Some(m) => Err(format!("{id} has ended and still has {}", m.machine)),
            None => Ok(()),
        };
    }
    for member in &row.members {
        let machine = (lab.machine(&member.machine))
            .ok_or_else(|| format!("{id} has {}, which is gone", member.machine))?;
        if machine.reservation() != Some(id) {
            return Err(format!("{id} believes it has {}, which does not", member.machine));
        }
    }
    let whole = row.members.len() == row.wanted();
    match row.status {
        Status::Waiting if !row.members.is_empty() => Err(format!("{id} waits and has machines")),
        Status::Preparing | Status::Ready { .. } | Status::Active if !whole => {
            Err(format!("{id} has {} of {} machines", row.members.len(), row.wanted()))
        }
        _ => Ok(()),
    }
}

/// At rest: a lab whose clients are gone and whose hardware obeys again must
/// come to this. Anything else is stuck.
pub fn check_at_rest(lab: &Lab) -> Result<(), String> {
    for m in lab.machines() {
        // A warm machine is booted afresh when it has waited long enough, and
        // one that was checked is cleaned after it.
        let fresh =
            |t: &crate::machine::Turn| t.reservation.is_none() && lab.meta().now - t.started < 3_600_000;
        let rests = matches!(m.stage, Stage::Free)
            || matches!(&m.stage, Stage::Ready { reservation: None, until: Some(_), .. })
            || m.turn().is_some_and(fresh)
            // One that is not well, or is checked now and then, is proven
            // for as long as the lab lives.
            || m.turn().is_some_and(|t| t.purpose == Purpose::Prove);
        if !rests {
            return Err(format!(
                "{} does not come to rest: {} {:?}",
                m.name,
                m.state(),
                m.turn().map(|t| &t.phase)
            ));
        }
        if let Some(wiring) = &m.wiring {
            return Err(format!("{} checks the wires of {} for ever", wiring.by, m.name));
        }
        if m.stage == Stage::Free && m.health == Health::Good && !m.settled() {
            return Err(format!("{} rests with a power command open", m.name));
        }
    }
    match lab.reservations().find(|r| !r.ended()) {
        Some(r) => Err(format!("{} does not end: {}", r.id, r.state())),
        None => Ok(()),
    }
}
