//! What the lab decides becomes marks between the bytes of the consoles.

use super::{Consoles, MarkKind};
use crate::daemon::Desk;
use pitstop_core::machine::{Health, Purpose, Switch};
use pitstop_core::record::{Actor, Change, Record};
use pitstop_wire::agent::AgentKind;
use tokio::sync::broadcast::error::RecvError;

/// Marks consoles with every committed record about their machine, until the
/// daemon ends. Records that went by too fast leave a mark too: none is
/// silently missing.
pub async fn follow(consoles: Consoles, desk: Desk) {
    let mut records = desk.subscribe();
    loop {
        match records.recv().await {
            Ok(batch) => batch.iter().for_each(|record| mark(&consoles, record)),
            Err(RecvError::Lagged(batches)) => {
                tracing::warn!("console marks: {batches} batches of records went by unseen");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn mark(consoles: &Consoles, record: &Record) {
    let Some(machine) = record.change.machine() else { return };
    if let Some((kind, text)) = words(&record.change, &record.actor) {
        consoles.mark(machine, kind, &text);
    }
    // Whoever typed for the old holder does not type for the next one.
    if let Change::TurnStarted { purpose: Purpose::Turnaround, .. } = &record.change {
        consoles.free_keyboards(machine);
    }
}

fn words(change: &Change, actor: &Actor) -> Option<(MarkKind, String)> {
    let note = |text: String| Some((MarkKind::Note, text));
    match change {
        Change::PowerIntended { leg: 0, intent, .. } => match intent.want {
            Switch::On => Some((MarkKind::Boot, "power on".into())),
            Switch::Off => note("power off".into()),
        },
        Change::PowerByHolder { action, .. } => match actor {
            Actor::User(user) => note(format!("{user}: power {action}")),
            _ => note(format!("power {action}")),
        },
        Change::Granted { reservation, .. } => note(format!("reserved for {reservation}")),
        Change::InUse { .. } => note("handed over".into()),
        Change::TurnStarted { purpose: Purpose::Turnaround, .. } => note("released".into()),
        Change::PhaseEntered { phase, .. } => note(format!("phase: {}", phase.name())),
        Change::PhaseFailed { failure, .. } => {
            note(format!("failed in {}: {}: {}", failure.phase, failure.class.name(), failure.evidence))
        }
        Change::AgentAttached { agent, .. } => match agent.kind {
            AgentKind::Boot => note("boot agent attached".into()),
            AgentKind::Host => note("host agent attached".into()),
        },
        Change::AgentLost { .. } => note("agent lost".into()),
        Change::AgentResumed { .. } => note("agent back".into()),
        Change::AgentRefused { reason, .. } => note(format!("an agent was refused: {reason}")),
        Change::HealthSet { health: Health::Quarantined { failure, .. }, .. } => {
            note(format!("quarantined: {}", failure.class.name()))
        }
        _ => None,
    }
}
