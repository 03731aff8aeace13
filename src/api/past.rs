//! What an ended reservation waited for: its rows say how it ended, the
//! records what stood in its way then.

use super::{App, Refusal};
use crate::store::RecordQuery;
use pitstop_core::Lab;
use pitstop_core::machine::{Health, Purpose};
use pitstop_core::record::{Change, Record};
use pitstop_core::reservation::{End, Reservation, Status};
use pitstop_core::why::{Reason, words};

/// Machines looked at one by one.
const LOOKED_AT: usize = 10;
/// Records of a machine that are searched for who had it.
const SEARCHED: usize = 500;

/// Its way in its own records, and for one that never got its machines what
/// those were doing at its end.
pub async fn story(app: &App, lab: &Lab, row: &Reservation) -> Result<Vec<Reason>, Refusal> {
    let Status::Ended { why, .. } = &row.status else { return Ok(Vec::new()) };
    let own = RecordQuery { reservation: Some(row.id), ..RecordQuery::default() };
    let records = app.desk.records(own).await?;
    let mut reasons: Vec<Reason> = records.iter().filter_map(|r| step(r, row)).collect();
    reasons.extend(failures(app, row, &records).await?);
    let waited = matches!(why, End::TimedOut | End::Released { .. }) && row.began.is_none();
    let end = records.iter().find(|r| matches!(r.change, Change::Ended { .. }));
    let Some(end) = end.filter(|_| waited) else { return Ok(reasons) };
    for name in lab.could_have(row).into_iter().take(LOOKED_AT) {
        let before = RecordQuery {
            machine: Some(name.clone()),
            before: Some(end.number),
            limit: Some(SEARCHED),
            newest: true,
            ..RecordQuery::default()
        };
        let past = app.desk.records(before).await?;
        if let Some(state) = past.iter().rev().find_map(|r| state(lab, row, r)) {
            reasons.push(Reason {
                text: format!("{name} {state} then"),
                next: Some(format!("pitstop why {name}")),
            });
        }
    }
    Ok(reasons)
}

/// Phases that failed while its machines were prepared.
async fn failures(app: &App, row: &Reservation, own: &[Record]) -> Result<Vec<Reason>, Refusal> {
    let granted = own.iter().filter(|r| matches!(r.change, Change::Granted { .. }));
    let end = own.iter().find(|r| matches!(r.change, Change::Ended { .. })).map(|r| r.number);
    let mut reasons = Vec::new();
    for got in granted.take(LOOKED_AT) {
        let Some(machine) = got.change.machine() else { continue };
        let since = RecordQuery {
            before: end,
            limit: Some(SEARCHED),
            ..RecordQuery::after(got.number).machine(machine.clone())
        };
        let records = app.desk.records(since).await?;
        // What happened after it gave the machine back is not its concern.
        let lost = |r: &&Record| !matches!(&r.change, Change::MemberDropped { reservation, .. } if *reservation == row.id);
        for record in records.iter().take_while(lost) {
            if let Change::PhaseFailed { failure, .. } = &record.change {
                let after = words(record.at - row.created);
                let (class, evidence) = (failure.class.name(), &failure.evidence);
                reasons.push(Reason {
                    text: format!(
                        "{machine} failed a try after {after}: {class} in {}: {evidence}",
                        failure.phase
                    ),
                    next: Some(format!("pitstop why {machine}")),
                });
            }
        }
    }
    Ok(reasons)
}

/// One step of its own way, with how long after it was asked for.
fn step(record: &Record, row: &Reservation) -> Option<Reason> {
    let after = words(record.at - row.created);
    let text = match &record.change {
        Change::Granted { machine, .. } => format!("got {machine} after {after}"),
        Change::MemberDropped { machine, failed: true, .. } => format!("{machine} failed it after {after}"),
        Change::Requeued { .. } => format!("went back to its place in the queue after {after}"),
        Change::ReservationReady { .. } => format!("was ready after {after}"),
        _ => return None,
    };
    Some(Reason { text, next: None })
}

/// What a record says of where its machine is from then on.
fn state(lab: &Lab, row: &Reservation, record: &Record) -> Option<String> {
    match &record.change {
        Change::Granted { reservation, .. } if *reservation == row.id => {
            Some("was being prepared for it".to_owned())
        }
        Change::Granted { reservation, .. } => {
            let owner = lab.reservation(*reservation).map(|r| format!(" by {}", r.owner)).unwrap_or_default();
            Some(format!("was held{owner} ({reservation})"))
        }
        Change::HealthSet { health, .. } | Change::MachineDeclared { health, .. } => Some(match health {
            Health::Good => "was good".to_owned(),
            Health::New => "was new: nobody had enrolled it,".to_owned(),
            Health::Quarantined { failure, .. } => {
                format!("was quarantined ({}: {})", failure.class.name(), failure.evidence)
            }
            Health::Drained { by, reason, .. } => format!("was drained by {by} (\"{reason}\")"),
            Health::Retired => "was retired".to_owned(),
        }),
        Change::Freed { good: true, .. } => Some("was free".to_owned()),
        Change::TurnStarted { purpose: Purpose::Look, .. } => Some("was being looked at".to_owned()),
        Change::TurnStarted { reservation: None, .. } => Some("was being cleaned".to_owned()),
        _ => None,
    }
}
