//! What the lab decides becomes marks between the bytes of the consoles.

use super::{Consoles, MarkKind, Said};
use crate::daemon::Desk;
use pitstop_core::event::Fact;
use pitstop_core::machine::{Health, Purpose, Switch};
use pitstop_core::record::{Actor, Change, Record};
use pitstop_wire::agent::AgentKind;
use std::sync::{Arc, PoisonError};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Marks consoles with every committed record about their machine, until the
/// daemon ends. Where records went by too fast, every console says so: none
/// is silently missing, and nobody types into a machine that may have become
/// somebody else's.
pub fn follow(consoles: Consoles, desk: &Desk) -> impl Future<Output = ()> + use<> {
    let (records, desk) = (desk.subscribe(), desk.clone());
    async move {
        match desk.snapshot().await {
            Ok(lab) => lab.machines().for_each(|machine| {
                let attempt = machine.turn().and_then(|turn| turn.attempt.as_ref());
                consoles.attempt(&machine.name, attempt.map(|a| a.nonce.as_str()));
            }),
            Err(e) => tracing::warn!("consoles do not know which attempts are under way: {}", e.message),
        }
        tokio::join!(follow_records(consoles.clone(), records), tell(&consoles, &desk));
    }
}

/// Reports what machines are heard to say.
async fn tell(consoles: &Consoles, desk: &Desk) {
    let told = consoles.inner.told.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut told) = told else { return };
    while let Some(Said { machine, nonce, heard }) = told.recv().await {
        desk.fact(desk.epoch(), Fact::Said { machine, nonce, saying: heard.saying, line: heard.line });
    }
}

pub(super) async fn follow_records(consoles: Consoles, mut records: Receiver<Arc<[Record]>>) {
    loop {
        match records.recv().await {
            Ok(batch) => batch.iter().for_each(|record| mark(&consoles, record)),
            Err(RecvError::Lagged(batches)) => {
                tracing::warn!("console marks: {batches} batches of records went by unseen");
                consoles.free_all("marks are missing here: too much happened at once; keyboards are free");
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
    match &record.change {
        Change::AttemptStarted { nonce, .. } => consoles.attempt(machine, Some(nonce)),
        Change::TurnStarted { .. } | Change::InUse { .. } => consoles.attempt(machine, None),
        Change::PhaseFailed { .. } => consoles.hold(machine),
        Change::MachineReady { .. }
        | Change::ProofPassed { .. }
        | Change::Freed { good: true, .. }
        | Change::HealthSet { health: Health::Good, .. } => consoles.release(machine),
        _ => {}
    }
    // Whoever typed for the old holder, or while there was none, does not
    // type for the next one.
    if changes_holder(&record.change) {
        consoles.free_keyboards(machine, record.number);
    }
}

/// Whether the machine is somebody else's from here on. The end of a
/// reservation is seen at its machines: each is freed or goes on a turn.
fn changes_holder(change: &Change) -> bool {
    match change {
        Change::Granted { .. }
        | Change::WarmTaken { .. }
        | Change::MemberDropped { .. }
        | Change::Freed { .. }
        | Change::MachineForgotten { .. } => true,
        // A turn that prepares follows a grant, or is its holder's own.
        Change::TurnStarted { purpose, .. } => *purpose != Purpose::Prepare,
        _ => false,
    }
}

fn words(change: &Change, actor: &Actor) -> Option<(MarkKind, String)> {
    let note = |text: String| Some((MarkKind::Note, text));
    match change {
        Change::PowerIntended { leg: 0, intent, .. } => match intent.want {
            Switch::On => Some((MarkKind::Boot, "power on".into())),
            Switch::Off => note("power off".into()),
        },
        Change::PowerByAdmin { action, .. } => match actor {
            Actor::User(user) => note(format!("{user}: {action}")),
            _ => note(action.clone()),
        },
        Change::PowerByHolder { action, .. } => match actor {
            Actor::User(user) => note(format!("{user}: power {action}")),
            _ => note(format!("power {action}")),
        },
        Change::ActBegun { what, .. } => note(what.clone()),
        Change::ActFailed { what, answer, .. } => note(format!("{what} failed: {answer}")),
        Change::Granted { reservation, .. } => {
            Some((MarkKind::Reserve, format!("reserved for {reservation}")))
        }
        Change::ConsoleSaid { saying, .. } if saying.is_trouble() => {
            note(format!("noticed: {}", saying.words()))
        }
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
