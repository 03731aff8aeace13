//! The fold: how a change becomes rows. [`Lab::apply`] is the only code that
//! touches a row; it asks nothing but the record, so that rows can always be
//! made again from history. What follows from them is in `derive`.

mod derive;
mod image;
mod program;

use crate::experience::{self, DAY, Pause, Quarantine, Usual};
use crate::id::ReservationId;
use crate::inventory::Point;
use crate::lab::{Lab, Meta, Remembered, RowKey};
use crate::machine::{
    Attempt, Content, Cut, Disk, Expect, Goal, Health, Intent, Leg, Machine, Phase, Purpose, Reading, Seen,
    Stage, Switch, Turn,
};
use crate::record::{Change, Part, Record};
use crate::reservation::{Member, Reservation, Status};
use crate::step::{RESTARTED, SUPERSEDED};
use crate::time::LabTime;
use crate::wiring::Wiring;
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentKind;
use std::sync::Arc;

impl Lab {
    /// Makes a record true and says which rows it touched.
    pub(crate) fn apply(&mut self, record: &Record) -> Vec<RowKey> {
        let touched = self.apply_rows(record);
        for key in &touched {
            self.derive(key);
        }
        touched
    }

    /// The same for the rows alone: a fold of history needs no indexes.
    pub(crate) fn apply_rows(&mut self, record: &Record) -> Vec<RowKey> {
        let at = record.at;
        self.meta = Meta {
            epoch: record.epoch,
            records: record.number,
            now: at,
            wall: record.wall,
            reservations: self.meta.reservations,
        };
        let mut touched = Vec::new();
        if let Some(name) = record.change.machine() {
            touched.push(RowKey::Machine(name.clone()));
        }
        if let Some(id) = record.change.reservation() {
            touched.push(RowKey::Reservation(id));
        }
        self.apply_lab(record, &mut touched);
        if let Some(id) = record.change.reservation() {
            self.apply_reservation(id, record);
        }
        if let Some(name) = record.change.machine() {
            self.apply_machine(&name.clone(), record);
        }
        touched
    }

    fn apply_lab(&mut self, record: &Record, touched: &mut Vec<RowKey>) {
        match &record.change {
            Change::Opened { epoch } => self.meta.epoch = *epoch,
            Change::Restored { epoch, reservations } => {
                self.meta.epoch = *epoch;
                self.meta.reservations = self.meta.reservations.max(*reservations);
            }
            Change::ImageNamed { .. }
            | Change::ImageForgotten { .. }
            | Change::ImageFailed { .. }
            | Change::ImageWorked { .. }
            | Change::ImageSuspected { .. }
            | Change::ImageOnTrial { .. }
            | Change::ImageTried { .. }
            | Change::ImageTrusted { .. } => touched.extend(image::apply(&mut self.images, record)),
            Change::ClassPaused { machines, cause, until, .. } => {
                self.pause(machines, Some(Pause { cause: *cause, until: *until }), touched);
            }
            Change::ClassResumed { machines, .. } => self.pause(machines, None, touched),
            Change::KeyRemembered { owner, key, request, answer } => {
                touched.push(RowKey::Key(record.number));
                let row = Remembered {
                    owner: owner.clone(),
                    key: key.clone(),
                    request: *request,
                    answer: answer.clone(),
                    number: record.number,
                };
                self.key_ages.insert(row.number, (owner.clone(), key.clone()));
                self.keys.insert((owner.clone(), key.clone()), Arc::new(row));
            }
            Change::KeyForgotten { owner, key } => {
                if let Some(row) = self.keys.remove(&(owner.clone(), key.clone())) {
                    touched.push(RowKey::Key(row.number));
                    self.key_ages.remove(&row.number);
                }
            }
            _ => {}
        }
    }

    fn pause(&mut self, machines: &[MachineName], pause: Option<Pause>, touched: &mut Vec<RowKey>) {
        for name in machines {
            if let Some(row) = self.machines.get_mut(name) {
                Arc::make_mut(row).pause = pause;
                touched.push(RowKey::Machine(name.clone()));
            }
        }
        self.queue_dirty = true;
    }

    fn apply_reservation(&mut self, id: ReservationId, record: &Record) {
        if let Change::Queued { owner, ask, .. } = &record.change {
            self.meta.reservations = id.0;
            let row = Reservation {
                id,
                owner: owner.clone(),
                ask: (**ask).clone(),
                created: record.at,
                created_wall: record.wall,
                status: Status::Waiting,
                members: Vec::new(),
                failed_on: Vec::new(),
                began: None,
                ends: None,
            };
            self.reservations.insert(id, Arc::new(row));
            return;
        }
        if matches!(record.change, Change::ReservationForgotten { .. }) {
            if let Some(row) = self.reservations.remove(&id)
                && let Status::Ended { at, .. } = row.status
            {
                self.ended.remove(&(at, id));
            }
            return;
        }
        let Some(row) = self.reservations.get_mut(&id) else { return };
        let row = Arc::make_mut(row);
        match &record.change {
            Change::Granted { machine, role, .. } => {
                row.status = Status::Preparing;
                row.ends = None; // its time begins when all are ready
                row.members.push(Member { role: *role, machine: machine.clone(), ready: false });
            }
            Change::MemberDropped { machine, failed, .. } => {
                row.members.retain(|m| m.machine != *machine);
                if *failed {
                    row.failed_on.push(machine.clone());
                }
            }
            Change::Requeued { .. } => row.status = Status::Waiting,
            Change::ImageReplaced { image, .. } => row.ask.image = Some(image.clone()),
            Change::MemberReady { machine, .. } => {
                row.members.iter_mut().filter(|m| m.machine == *machine).for_each(|m| m.ready = true);
            }
            Change::ReservationReady { unclaimed_until, ends, .. } => {
                row.status = Status::Ready { unclaimed_until: *unclaimed_until };
                row.began = Some(record.at);
                row.ends = *ends;
            }
            Change::ClaimMoved { unclaimed_until, .. } => {
                row.status = Status::Ready { unclaimed_until: *unclaimed_until };
            }
            Change::Claimed { .. } => row.status = Status::Active,
            Change::Extended { ends, .. } => row.ends = Some(*ends),
            Change::Ended { why, .. } => row.status = Status::Ended { at: record.at, why: why.clone() },
            _ => {}
        }
    }

    fn apply_machine(&mut self, name: &MachineName, record: &Record) {
        match &record.change {
            Change::MachineDeclared { legs, disks, health, .. } => {
                let mut row = declared(name, legs, disks, health, record.at);
                if let Some(known) = self.machines.get(name) {
                    // These numbers are unique within the machine for ever.
                    (row.attempts, row.intents, row.turns) = (known.attempts, known.intents, known.turns);
                    row.circuit.clone_from(&known.circuit);
                }
                self.machines.insert(name.clone(), Arc::new(row));
                // Whoever waited for it as one of several keeps the others no longer.
                self.queue_dirty = true;
                return;
            }
            Change::MachineForgotten { .. } => {
                self.calls.remove(name);
                self.machines.remove(name);
                self.queue_dirty = true;
                return;
            }
            _ => {}
        }
        let Some(row) = self.machines.get_mut(name) else { return };
        let machine = Arc::make_mut(row);
        match &record.change {
            Change::HealthSet { health, .. } => {
                if let Health::Quarantined { failure, at, .. } = health
                    && *at == record.at
                {
                    let quarantine = Quarantine { at: *at, class: failure.class };
                    experience::remember(&mut machine.quarantines, quarantine);
                }
                machine.health = health.clone();
                machine.proof_asked = false;
                // Whether a reservation of several can be served has changed.
                self.queue_dirty = true;
            }
            Change::CircuitSet { circuit, .. } => machine.circuit.clone_from(circuit),
            Change::ProofAsked { .. } => machine.proof_asked = true,
            Change::HardwareSeen { hardware, .. } => machine.hardware = Some((**hardware).clone()),
            Change::BaselineSet { baseline, forget, .. } => {
                machine.baseline = Some(baseline.clone());
                if *forget {
                    machine.disks.iter_mut().for_each(|disk| disk.content = Content::Unknown);
                }
                self.queue_dirty = true; // it may suit somebody now
            }
            Change::WiringBegun { by, .. } => machine.wiring = Some(Wiring { by: by.clone() }),
            Change::WiringEnded { .. } => machine.wiring = None,
            Change::PowerIntended { .. }
            | Change::PowerUnsettled { .. }
            | Change::PowerSettled { .. }
            | Change::PowerSeen { .. }
            | Change::PowerByHolder { .. }
            | Change::ActBegun { .. }
            | Change::ActDone { .. }
            | Change::ActFailed { .. }
            | Change::LandingMoved { .. }
            | Change::PowerCut { .. }
            | Change::CutOver { .. }
            | Change::CycleStopped { .. } => apply_power(machine, record),
            Change::ProgramBegun { .. }
            | Change::ProgramEnded { .. }
            | Change::ProgramGone { .. }
            | Change::HooksDone { .. }
            | Change::NotMeddled { .. } => program::apply(machine, record),
            Change::AgentAttached { .. }
            | Change::AgentResumed { .. }
            | Change::AgentLost { .. }
            | Change::AgentDismissed { .. } => apply_agent(machine, record),
            Change::DiskWriting { .. }
            | Change::DiskProven { .. }
            | Change::DiskByCommand { .. }
            | Change::DiskUsed { .. } => apply_disk(machine, &record.change),
            Change::MachineDoubted { may_land_until, .. } => doubt(machine, *may_land_until, record.at),
            _ => apply_turn(machine, record),
        }
    }
}

fn declared(name: &MachineName, legs: &[Part], disks: &[Part], health: &Health, at: LabTime) -> Machine {
    let leg = |part: &Part| Leg {
        name: part.name.clone(),
        identity: part.identity.clone(),
        seen: None,
        unsettled: Vec::new(),
        answer: None,
        in_vain: 0,
    };
    let disk = |part: &Part| Disk {
        name: part.name.clone(),
        identity: part.identity.clone(),
        content: Content::Unknown,
    };
    Machine {
        name: name.clone(),
        health: health.clone(),
        stage: Stage::Free,
        since: at,
        legs: legs.iter().map(leg).collect(),
        disks: disks.iter().map(disk).collect(),
        agent: None,
        hardware: None,
        baseline: None,
        wiring: None,
        attempts: 0,
        intents: 0,
        turns: 0,
        failures: 0,
        usual: Usual::default(),
        quarantines: Vec::new(),
        pause: None,
        worked: None,
        checked: None,
        circuit: None,
        proof_asked: false,
        cut: None,
        running: None,
        meddled: false,
    }
}

fn apply_power(machine: &mut Machine, record: &Record) {
    match &record.change {
        Change::PowerIntended { leg, intent, .. } => {
            machine.intents = intent.id;
            if let Stage::InUse { cycling, .. } = &mut machine.stage
                && intent.want == crate::machine::Switch::On
            {
                *cycling = false;
            }
            if let Some(leg) = machine.legs.get_mut(*leg) {
                leg.unsettled.push(intent.clone());
            }
        }
        Change::ActBegun { intent, .. } => {
            machine.intents = intent.id;
            if let Some(leg) = machine.legs.first_mut() {
                leg.unsettled.push(intent.clone());
            }
        }
        Change::ActDone { intent, .. } | Change::ActFailed { intent: Some(intent), .. } => {
            machine.legs.iter_mut().for_each(|leg| leg.unsettled.retain(|i| i.id != *intent));
        }
        Change::PowerUnsettled { leg, intent, answer, .. } => {
            let Some(leg) = machine.legs.get_mut(*leg) else { return };
            if ![SUPERSEDED, RESTARTED].contains(&answer.as_str()) {
                leg.answer = Some(answer.clone());
            }
            let reads_off = leg.seen.is_some_and(|s| s.reading.shows(Switch::Off));
            for i in leg.unsettled.iter_mut().filter(|i| i.id == *intent) {
                i.open = false;
                let nobody_knows = [SUPERSEDED, RESTARTED].contains(&answer.as_str());
                leg.in_vain += u32::from(i.want == Switch::Off && !reads_off && !nobody_knows);
            }
        }
        Change::PowerSettled { leg, intent, .. } => {
            let Some(leg) = machine.legs.get_mut(*leg) else { return };
            let on = |i: &Intent| i.id == *intent && i.want == Switch::On;
            if let Some(seen) = leg.seen.as_mut().filter(|s| s.reading != Reading::Off)
                && leg.unsettled.iter().any(on)
            {
                // It may have read on before, and have been off since; or it
                // cannot be read, and came on in the last moment.
                seen.changed = record.at;
            }
            leg.unsettled.retain(|i| i.id != *intent);
            leg.answer = None;
        }
        Change::PowerSeen { leg, reading, .. } => {
            let Some(leg) = machine.legs.get_mut(*leg) else { return };
            let same = leg.seen.filter(|s| s.reading == *reading);
            let changed = same.map_or(record.at, |s| s.changed);
            leg.seen = Some(Seen { reading: *reading, at: record.at, changed });
            if reading.shows(Switch::Off) {
                leg.in_vain = 0;
            }
        }
        Change::PowerCut { reason, .. } => {
            machine.cut = Some(Cut { since: record.at, reason: reason.clone() });
            forget_readings(machine, |_| true);
        }
        Change::CutOver { .. } => {
            // It was without power: what it read before says nothing.
            forget_readings(machine, |other| other == 0);
            machine.cut = None;
        }
        Change::PowerByHolder { action, .. } => {
            if let Stage::InUse { cycling, .. } = &mut machine.stage {
                *cycling = action == "cycle";
            }
            if let Some(agent) = &mut machine.agent {
                agent.excused = true;
            }
        }
        Change::LandingMoved { ms, all, .. } => {
            let moved = machine.legs.iter_mut().flat_map(|l| &mut l.unsettled).filter(|i| *all || i.open);
            moved.for_each(|i| i.may_land_until = i.may_land_until + *ms);
        }
        Change::CycleStopped { .. } => {
            if let Stage::InUse { cycling, .. } = &mut machine.stage {
                *cycling = false;
            }
        }
        _ => {}
    }
}

/// Another leg rules from now on: what these read is not believed any more,
/// and how often any of them was told off in vain is counted anew.
fn forget_readings(machine: &mut Machine, which: impl Fn(usize) -> bool) {
    for (number, leg) in machine.legs.iter_mut().enumerate() {
        leg.in_vain = 0;
        if which(number) {
            leg.seen = None;
        }
    }
}

/// Rejoin tokens of one hand-over that open it.
const REJOIN_KEPT: usize = 4;

fn apply_agent(machine: &mut Machine, record: &Record) {
    match &record.change {
        Change::AgentAttached { agent, spent, .. } => {
            machine.agent = Some(agent.clone());
            if let (Some(token), Stage::Turn(turn)) = (spent, &mut machine.stage)
                && let Some(attempt) = &mut turn.attempt
            {
                attempt.expect = None;
                attempt.spent.push(*token);
            }
        }
        Change::AgentResumed { rejoin, .. } => {
            if let Some(agent) = &mut machine.agent {
                agent.lost = None;
                agent.excused = false;
                agent.rejoin.extend(rejoin);
                let old = agent.rejoin.len().saturating_sub(REJOIN_KEPT);
                agent.rejoin.drain(..old);
            }
        }
        Change::AgentLost { .. } => {
            if let Some(agent) = &mut machine.agent {
                agent.lost = Some(record.at);
            }
        }
        Change::AgentDismissed { .. } => machine.agent = None,
        _ => {}
    }
}

fn apply_disk(machine: &mut Machine, change: &Change) {
    let (index, content) = match change {
        Change::DiskWriting { disk, attempt, .. } => (*disk, Content::Writing { attempt: *attempt }),
        Change::DiskProven { disk, certificate, .. } => (*disk, Content::Proven(certificate.clone())),
        Change::DiskByCommand { disk, proof, .. } => {
            // Read back after whatever hooks did.
            machine.meddled = false;
            (*disk, Content::ByCommand(proof.clone()))
        }
        Change::DiskUsed { disk, by, .. } => (*disk, Content::Used { by: *by }),
        _ => return,
    };
    if let Some(disk) = machine.disks.get_mut(index) {
        disk.content = content;
    }
}

/// What is left of a row of the past: which machine it is, and its health.
fn doubt(machine: &mut Machine, may_land_until: LabTime, at: LabTime) {
    (machine.stage, machine.since, machine.agent) = (Stage::Free, at, None);
    (machine.wiring, machine.running, machine.meddled) = (None, None, false);
    // Nor is it proven by itself before people could look who is on it.
    machine.checked = Some(at);
    if let Health::Quarantined { again, .. } = &mut machine.health {
        *again = (*again).max(at + DAY);
    }
    machine.disks.iter_mut().for_each(|disk| disk.content = Content::Unknown);
    (machine.cut, machine.proof_asked) = (None, false);
    for leg in &mut machine.legs {
        (leg.seen, leg.in_vain) = (None, 0);
        // Whether there are such commands nobody knows; so nothing that is
        // seen from now on tells that one of ours has landed.
        for want in [Switch::On, Switch::Off] {
            machine.intents += 1;
            leg.unsettled.push(Intent { id: machine.intents, want, may_land_until, open: false, twin: true });
        }
    }
}

fn apply_turn(machine: &mut Machine, record: &Record) {
    let at = record.at;
    match &record.change {
        Change::TurnStarted { purpose, goal, reservation, image, disks, deadline, .. } => {
            machine.turns += 1;
            machine.since = at;
            machine.proof_asked = false;
            machine.stage = Stage::Turn(Box::new(Turn {
                number: machine.turns,
                purpose: *purpose,
                goal: *goal,
                reservation: *reservation,
                image: image.clone(),
                disks: *disks,
                phase: Phase::Off,
                phase_since: at,
                deadline: *deadline,
                attempt: None,
                failed: 0,
                started: at,
                prepared: false,
                stalled: None,
            }));
        }
        Change::MachineReady { until, .. } => {
            let Stage::Turn(turn) = &machine.stage else { return };
            machine.usual.took(&turn.phase, at - turn.phase_since);
            machine.worked = Some(at);
            let image = turn.image.clone().filter(|_| turn.goal == Goal::Image);
            machine.stage = Stage::Ready { reservation: turn.reservation, until: *until, image };
            machine.since = at;
            machine.failures = 0;
        }
        Change::WarmTaken { reservation, .. } => {
            if let Stage::Ready { reservation: held, until, .. } = &mut machine.stage {
                *held = Some(*reservation);
                *until = None;
            }
        }
        Change::InUse { .. } => {
            if let Stage::Ready { reservation: Some(id), image, .. } = &machine.stage {
                machine.stage = Stage::InUse { reservation: *id, image: image.clone(), cycling: false };
                machine.since = at;
            }
        }
        Change::QuarantineExcused { .. } => {
            if let Health::Quarantined { again, at: since, .. } = &mut machine.health {
                *again = at;
                machine.quarantines.retain(|q| q.at != *since);
            }
        }
        Change::ProofPassed { .. } | Change::ProofInVain { .. } => machine.checked = Some(at),
        Change::Freed { good, .. } => {
            if let (Stage::Turn(turn), true) = (&machine.stage, *good) {
                machine.usual.took(&turn.phase, at - turn.phase_since);
                // To be switched off shows little of what a class has in common.
                if turn.attempt.is_some() {
                    machine.worked = Some(at);
                }
            }
            let looked = machine.turn().is_some_and(|t| t.purpose == Purpose::Look);
            machine.stage = Stage::Free;
            machine.since = at;
            machine.agent = None;
            machine.failures = match *good {
                // That it was looked at mends nothing.
                true if looked => machine.failures,
                true => 0,
                false => machine.failures + 1,
            };
        }
        _ => {
            if let Stage::Turn(turn) = &mut machine.stage {
                took(&mut machine.usual, turn, record);
                // No hook of before can act any more, and no proof of before counts.
                machine.meddled &= !matches!(record.change, Change::AttemptStarted { .. });
                apply_phase(turn, &mut machine.attempts, record);
            }
        }
    }
}

/// What leads on is a phase that ended well. What leads back to the beginning,
/// or begins the same phase again after a start, is not.
fn took(usual: &mut Usual, turn: &Turn, record: &Record) {
    if let Change::PhaseEntered { phase, .. } = &record.change
        && *phase != Phase::Off
        && *phase != turn.phase
        // Which comes before anything is switched off.
        && !matches!(phase, Phase::Hook { point: Point::BeforeRelease, .. })
    {
        usual.took(&turn.phase, record.at - turn.phase_since);
    }
}

fn apply_phase(turn: &mut Turn, attempts: &mut u64, record: &Record) {
    match &record.change {
        Change::PhaseEntered { phase, deadline, .. } => {
            // Off is read once more behind the hooks; any other way back to
            // it is another try.
            turn.prepared &= *phase != Phase::Off || matches!(turn.phase, Phase::Hook { .. });
            turn.stalled = None;
            turn.phase = phase.clone();
            turn.phase_since = record.at;
            turn.deadline = *deadline;
        }
        Change::DeadlineMoved { deadline, .. } => turn.deadline = *deadline,
        Change::PhaseFailed { .. } => (turn.failed, turn.prepared) = (turn.failed + 1, false),
        Change::AttemptStarted { attempt, nonce, .. } => {
            *attempts = *attempt;
            turn.attempt = Some(Attempt {
                number: *attempt,
                nonce: nonce.clone(),
                expect: None,
                spent: Vec::new(),
                given: false,
                step: 0,
                done: 0,
            });
        }
        other => {
            if let Some(attempt) = &mut turn.attempt {
                apply_attempt(attempt, other);
            }
        }
    }
}

fn apply_attempt(attempt: &mut Attempt, change: &Change) {
    match change {
        Change::TokenIssued { kind, token, .. } => {
            attempt.given |= *kind == AgentKind::Boot;
            attempt.expect = Some(Expect { kind: *kind, token: *token });
        }
        Change::AttemptBurned { .. } => attempt.expect = None,
        Change::StepTold { step, .. } => attempt.step = *step,
        Change::StepDone { step, .. } => attempt.done = *step,
        _ => {}
    }
}
