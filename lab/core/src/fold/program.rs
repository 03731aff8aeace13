//! How what becomes of programs becomes rows.

use crate::inventory::Point;
use crate::machine::{Job, Machine, Running, Stage, Stalled};
use crate::record::{Change, Record};

pub(super) fn apply(machine: &mut Machine, record: &Record) {
    match &record.change {
        Change::ProgramBegun { job, nonce, intent, .. } => {
            machine.intents = intent.id;
            if let Some(leg) = machine.legs.first_mut() {
                leg.unsettled.push(intent.clone());
            }
            // What a hook does to the machine is its own affair.
            machine.meddled |= matches!(job, Job::Hook { .. });
            machine.running = Some(Running { job: job.clone(), nonce: nonce.clone(), intent: intent.id });
            if let Stage::Turn(turn) = &mut machine.stage {
                turn.stalled = None;
            }
        }
        Change::ProgramEnded { intent, over, trouble, again, .. } => {
            if machine.running.as_ref().is_some_and(|running| running.intent == *intent) {
                machine.running = None;
            }
            if *over {
                is_over(machine, *intent, record);
            }
            if let (Stage::Turn(turn), Some(again)) = (&mut machine.stage, again) {
                turn.stalled = Some(Stalled { again: *again, why: trouble.clone().unwrap_or_default() });
            }
        }
        Change::ProgramGone { intent, .. } => is_over(machine, *intent, record),
        Change::HooksDone { point: Point::BeforePower, .. } => {
            if let Stage::Turn(turn) = &mut machine.stage {
                turn.prepared = true;
            }
        }
        Change::NotMeddled { .. } => machine.meddled = false,
        _ => {}
    }
}

/// It can do no more; what it did shows when power is read after this.
fn is_over(machine: &mut Machine, intent: u64, record: &Record) {
    let intents = machine.legs.iter_mut().flat_map(|leg| &mut leg.unsettled);
    for row in intents.filter(|row| row.id == intent) {
        row.may_land_until = row.may_land_until.min(record.at);
    }
}
