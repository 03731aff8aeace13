//! What must hold, judged by someone who sees both the lab and the world.

use super::{Sim, board::Board};
use crate::facts::Baseline;
use crate::id::ReservationId;
use crate::lab::{Lab, Outcome, Row, RowKey};
use crate::machine::{Health, Purpose, Stage, Switch};
use crate::record::{Actor, Change, Record};
use crate::reservation::{CleanLevel, Reservation, Status, Want};
use crate::time::LabTime;
use crate::{circuit, invariant, machine};
use pitstop_wire::MachineName;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Every so many steps all rows are checked, not only those that changed.
const FULL_CHECK: u64 = 512;
/// Turns that a machine may go through within an hour without anybody having it.
const LONELY_TURNS: usize = 8;

/// What was said, and what went on, as far as the rows do not tell.
#[derive(Default)]
pub(super) struct Oracle {
    /// What holders were told.
    told: BTreeMap<ReservationId, Told>,
    /// What machines went through.
    tallies: BTreeMap<MachineName, Tally>,
    /// Time that counts for no turn: gaps and starts.
    excuses: u64,
}

#[derive(Default)]
struct Told {
    claimed: bool,
    released: bool,
    ends: Option<LabTime>,
}

#[derive(Default)]
struct Tally {
    /// It is on a turn.
    in_turn: bool,
    /// Since the turn began: commands, and those to switch on, for the first leg.
    commands: u64,
    ons: u64,
    /// What was excused before it began.
    starts: u64,
    excuses: u64,
    /// When turns began since somebody had it.
    lonely: VecDeque<u64>,
}

impl Oracle {
    /// Nothing that anybody was told is true any more.
    pub fn forget(&mut self) {
        self.told.clear();
        self.tallies.clear();
    }
}

impl Sim {
    // ── after every step ──

    pub(super) fn check_step(&mut self, out: &Outcome) {
        let Some(lab) = self.daemon.lab.take() else { return };
        let found = self.judged(&lab, out);
        self.daemon.lab = Some(lab);
        if let Err(text) = found {
            self.violation(text);
        }
    }

    fn judged(&mut self, lab: &Lab, out: &Outcome) -> Result<(), String> {
        if self.report.steps.is_multiple_of(FULL_CHECK) {
            self.report.checks += 1;
            invariant::check(lab)?;
        }
        if out.records.is_empty() {
            return Ok(());
        }
        self.report.checks += 1;
        invariant::check_rows(lab, &out.touched)?;
        if !lab.free.is_empty()
            && !lab.waiting.is_empty()
            && let Some((id, name, _)) = lab.servable().first()
        {
            return Err(format!("{id} waits, and could have {name}"));
        }
        for record in &out.records {
            match &record.change {
                Change::MachineReady { machine, until: None }
                | Change::WarmTaken { machine, .. }
                | Change::InUse { machine } => {
                    self.handed_over(lab, machine)?;
                    self.proof_holds(lab, machine)?;
                }
                Change::Freed { machine, good: true } => self.proof_holds(lab, machine)?,
                Change::TurnStarted { machine, .. }
                    if lab.machine(machine).is_some_and(|m| lab.changed_parts(m)) =>
                {
                    return Err(format!(
                        "{machine} is sent on a turn, and nobody has enrolled what it is now"
                    ));
                }
                Change::PowerIntended { machine, intent, .. } => {
                    power_on_held(lab, machine, intent.want, &record.actor)?;
                }
                Change::Granted { reservation, machine, .. } => {
                    in_order(lab, *reservation, machine, &out.records)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Before what was decided is stored: now it counts.
    pub(super) fn check_commit(&mut self, lab: &Lab, out: &Outcome) {
        for record in &out.records {
            let found = match &record.change {
                Change::PowerIntended { machine, intent, leg } => {
                    self.tally_power(machine, *leg, intent.want, record)
                }
                Change::TurnStarted { machine, purpose, .. } => {
                    self.tally_turn(lab, machine, *purpose, record)
                }
                Change::PhaseEntered { machine, .. } => self.comes_to_an_end(lab, machine),
                Change::BaselineSet { machine, baseline, .. } => self.accepted(machine, baseline, record),
                Change::DeadlineMoved { machine, deadline } => {
                    self.oracle.excuses += self.moved(machine, *deadline);
                    Ok(())
                }
                Change::MachineReady { machine, .. } | Change::Freed { machine, .. } => {
                    self.oracle.tallies.entry(machine.clone()).or_default().in_turn = false;
                    Ok(())
                }
                Change::InUse { .. } => {
                    self.report.handovers += 1;
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(text) = found {
                self.violation(text);
            }
        }
    }

    /// The machine as the world knows it, at the moment it is promised.
    fn handed_over(&self, lab: &Lab, name: &MachineName) -> Result<(), String> {
        let (Some(row), Some(number)) = (lab.machine(name), self.board_of(name)) else { return Ok(()) };
        let board = &self.boards[number];
        let Some(id) = row.reservation() else { return Ok(()) };
        let Some(reservation) = lab.reservation(id) else { return Ok(()) };
        if board.inflight.iter().any(|f| f.at > self.now) {
            return Err(format!("{name} is handed to {id} while a power command is still under way"));
        }
        if let Some((other, held)) = board.holder.as_ref().filter(|(n, held)| n != name && *held != id) {
            return Err(format!("{name} is handed to {id}, and is {other}, which {held} holds"));
        }
        let again = reservation.status == Status::Active;
        if reservation.ask.want == Want::Bare
            && board.on()
            && !board.legs.is_empty()
            && !board.flaked
            && !again
        {
            return Err(format!("{name} is handed to {id} as off, and it is on"));
        }
        if reservation.ask.clean == CleanLevel::Any {
            return Ok(());
        }
        clean_for(board, name, id)?;
        if let Stage::Ready { image: Some(image), .. } | Stage::InUse { image: Some(image), .. } = &row.stage
        {
            // One without disks has nothing that an image could be written to.
            let Some(base) = board.disks.first().map(|d| d.base.clone()) else { return Ok(()) };
            if base != Some(Some(image.digest.clone())) {
                return Err(format!("{name} is handed to {id} with {base:?} instead of {}", image.name));
            }
        }
        Ok(())
    }

    /// What is called clean was read after whatever a hook did.
    fn proof_holds(&self, lab: &Lab, name: &MachineName) -> Result<(), String> {
        let (Some(row), Some(number)) = (lab.machine(name), self.board_of(name)) else { return Ok(()) };
        if !row.disks.is_empty() && row.all_clean() && self.boards[number].behind {
            return Err(format!("{name} is {}, and a hook had its own system run since", row.clean()));
        }
        Ok(())
    }

    // ── what machines go through ──

    /// No machine is switched again and again.
    fn tally_power(
        &mut self,
        name: &MachineName,
        leg: usize,
        want: Switch,
        record: &Record,
    ) -> Result<(), String> {
        let starts = self.starts;
        let tally = self.oracle.tallies.entry(name.clone()).or_default();
        if leg > 0 || !tally.in_turn || matches!(record.actor, Actor::User(_)) {
            return Ok(());
        }
        tally.commands += 1;
        tally.ons += u64::from(want == Switch::On);
        self.report.liveness_checks += 1;
        let starts = starts - tally.starts;
        if tally.ons > 4 + 2 * starts || tally.commands > 80 + 20 * starts {
            return Err(format!(
                "{name} was switched {} times, {} of them on, in one turn",
                tally.commands, tally.ons
            ));
        }
        Ok(())
    }

    /// No machine goes round and round by itself.
    fn tally_turn(
        &mut self,
        lab: &Lab,
        name: &MachineName,
        purpose: Purpose,
        record: &Record,
    ) -> Result<(), String> {
        let (now, starts, excuses) = (self.now, self.starts, self.oracle.excuses);
        let tally = self.oracle.tallies.entry(name.clone()).or_default();
        (tally.commands, tally.ons, tally.starts, tally.excuses) = (0, 0, starts, excuses);
        tally.in_turn = true;
        if purpose == Purpose::Prepare || matches!(record.actor, Actor::User(_)) {
            tally.lonely.clear();
        }
        tally.lonely.push_back(now);
        tally.lonely.retain(|at| at + super::HOUR > now);
        self.report.liveness_checks += 1;
        // One that is checked now and then is cleaned after each, and proven when it fails.
        let checks =
            lab.spec(name).and_then(|s| s.health.as_ref()).map_or(0, |h| 3 * super::HOUR / h.every_ms);
        if tally.lonely.len() > LONELY_TURNS + checks as usize {
            return Err(format!(
                "{name} went through {} turns in an hour and nobody had it",
                tally.lonely.len()
            ));
        }
        Ok(())
    }

    /// A turn ends within what its phases may take, once for each try.
    fn comes_to_an_end(&mut self, lab: &Lab, name: &MachineName) -> Result<(), String> {
        let Some(turn) = lab.machine(name).and_then(|m| m.turn()) else { return Ok(()) };
        let Some(spec) = lab.spec(name) else { return Ok(()) };
        let limits = &spec.limits;
        let offs = 3 * (6 * limits.power_ms + spec.fetch_ms());
        let boots = spec.fetch_ms()
            + 2 * (limits.power_ms + limits.firmware_ms)
            + limits.attach_ms
            + limits.evidence_ms;
        let disks = 2 * limits.reimage_ms * spec.disks.len() as u64;
        let check = spec.health.as_ref().map_or(0, |h| h.within_ms);
        // Each of its circuit may start before it, each time that it starts.
        let each = |m: &machine::Machine| {
            let of = lab.spec(&m.name).map_or(60_000, |s| s.limits.power_ms + s.fetch_ms());
            (m.legs.len() as u64 + 1) * of + circuit::INRUSH
        };
        let circuit = lab.machine(name).and_then(|m| m.circuit.as_deref());
        let waits = 4 * circuit.map_or(0, |c| lab.on_circuit(c).map(each).sum());
        let cuts = spec.spare_leg().map_or(0, |leg| 3 * (6 * limits.power_ms + spec.legs[leg].min_off_ms));
        let hooks: u64 = spec.hooks.values().flatten().map(|h| h.timeout_ms() + 60_000).sum();
        let flash = spec.programmer().map_or(0, |p| 6 * p.ms("timeout").unwrap_or(0) + 2 * limits.reimage_ms);
        let programs = 3 * hooks + 2 * flash;
        let once = offs
            + boots
            + disks
            + check
            + limits.handover_ms
            + 4 * limits.power_ms
            + spec.fetch_ms()
            + waits
            + cuts
            + programs;
        let tally = self.oracle.tallies.entry(name.clone()).or_default();
        let excused = self.oracle.excuses - tally.excuses + (self.starts - tally.starts) * once;
        let most = 2 * once + excused;
        self.report.liveness_checks += 1;
        // By the clock of the daemon that decided it, which may be a stopped one.
        let took = lab.meta.now - turn.started;
        if took > most {
            return Err(format!(
                "{name} has been on its turn for {} s, {} are allowed",
                took / 1_000,
                most / 1_000
            ));
        }
        Ok(())
    }

    /// What a machine was enrolled as, only a person makes something else.
    fn accepted(&self, name: &MachineName, baseline: &Baseline, record: &Record) -> Result<(), String> {
        let before = self.daemon.store.shadow.machine(name).and_then(|m| m.baseline.clone());
        let Some(before) = before.filter(|_| !matches!(record.actor, Actor::User(_))) else { return Ok(()) };
        let numbers = |b: &Baseline| {
            let disks: Vec<_> = b.facts.disks.iter().map(|d| d.serial.clone()).collect();
            (b.facts.serial.clone(), disks)
        };
        match numbers(&before) == numbers(baseline) {
            true => Ok(()),
            false => Err(format!("{name} became {:?}, and nobody accepted that", numbers(baseline))),
        }
    }

    /// How far a deadline moved: as far as the time that nobody saw.
    fn moved(&self, machine: &MachineName, deadline: LabTime) -> u64 {
        let before = self.daemon.store.shadow.machine(machine).and_then(|m| m.turn()).map(|t| t.deadline);
        before.map_or(0, |before| deadline - before)
    }

    // ── circuits ──

    /// A board was switched on: its circuit must bear it.
    pub(super) fn fuse_holds(&mut self, number: usize) {
        let Some(name) = self.plans[number].circuit.clone() else { return };
        let Some(circuit) = self.circuits.get(&name).cloned() else { return };
        self.report.checks += 1;
        // One without legs draws no power that anybody switches.
        let there = |(n, board): &(usize, &Board)| {
            let hangs = self.plans[*n].circuit.as_ref() == Some(&name) && !board.legs.is_empty();
            // What no daemon knows of any more, since a backup does not, may be
            // switched on late by one that did.
            hangs && board.on() && !board.flaked && self.is_known(*n)
        };
        let on: Vec<(usize, &Board)> = self.boards.iter().enumerate().filter(there).collect();
        let fresh = |board: &Board| board.started.is_some_and(|at| at + circuit::INRUSH > self.now);
        let starting: Vec<usize> = on.iter().filter(|(_, b)| fresh(b)).map(|(n, _)| *n).collect();
        let on: Vec<usize> = on.into_iter().map(|(n, _)| n).collect();
        if circuit.max_on.is_some_and(|max| on.len() > max as usize) {
            return self.violation(format!("circuit {name} blows: boards {on:?} are on, {circuit:?}"));
        }
        if circuit.max_starting.is_some_and(|max| starting.len() > max as usize) {
            self.violation(format!("circuit {name} blows: boards {starting:?} start at once, {circuit:?}"));
        }
    }

    /// What left the inventory, and is nobody's, is not pitstop's any more,
    /// whether it is on or not.
    pub(super) fn forgotten(&mut self, number: usize) {
        if !self.is_known(number) {
            self.boards[number].flaked = true;
        }
    }

    /// Whether a board is a machine of the inventory, or of the database.
    fn is_known(&self, number: usize) -> bool {
        let known = |name: &MachineName| {
            self.file.machines.contains_key(name) || self.daemon.store.machine(name).is_some()
        };
        self.names.iter().any(|(name, board)| *board == number && known(name))
    }

    // ── what people were told ──

    fn stored(&self, id: ReservationId) -> Option<&Arc<Reservation>> {
        self.daemon.store.reservation(id)
    }

    /// An acknowledged reservation exists from now on, whatever crashes.
    pub(super) fn acknowledged_reserve(&mut self, id: ReservationId) {
        self.report.checks += 1;
        if self.stored(id).is_none() {
            return self.violation(format!("{id} was acknowledged and is not in the store"));
        }
        self.oracle.told.entry(id).or_default();
    }

    /// An acknowledged claim: these machines are in his hands, and in nobody else's.
    pub(super) fn acknowledged_claim(&mut self, id: ReservationId) {
        self.oracle.told.entry(id).or_default().claimed = true;
        self.check_told(id);
        let Some(row) = self.stored(id).filter(|r| r.status == Status::Active).cloned() else { return };
        for member in &row.members {
            let Some(number) = self.board_of(&member.machine) else { continue };
            let held = self.boards[number].holder.as_ref().map(|(_, held)| *held);
            let reimaging = self.daemon.store.machine(&member.machine).is_some_and(|m| m.turn().is_some());
            if held != Some(id) && !reimaging {
                return self
                    .violation(format!("{id} was claimed, and {} is held by {held:?}", member.machine));
            }
        }
    }

    /// An acknowledged extension.
    pub(super) fn acknowledged_extension(&mut self, id: ReservationId) {
        let ends = self.stored(id).and_then(|r| r.ends);
        self.oracle.told.entry(id).or_default().ends = ends;
        if ends.is_none() {
            self.violation(format!("{id} was extended, and has no end"));
        }
    }

    /// An acknowledged release.
    pub(super) fn acknowledged_release(&mut self, id: ReservationId) {
        self.oracle.told.entry(id).or_default().released = true;
        self.check_told(id);
    }

    /// After a crash everything that anybody was told is still so.
    pub(super) fn check_acknowledged(&mut self) {
        let ids: Vec<ReservationId> = self.oracle.told.keys().copied().collect();
        for id in ids {
            self.check_told(id);
        }
        let Self { oracle, daemon, .. } = self;
        // What is over stays over: the store itself sees to that.
        oracle.told.retain(|id, _| daemon.store.reservation(*id).is_some_and(|r| !r.ended()));
    }

    fn check_told(&mut self, id: ReservationId) {
        self.report.checks += 1;
        let Some(told) = self.oracle.told.get(&id) else { return };
        let wrong = match self.stored(id) {
            // Ended ones are forgotten in the end, a thousand later.
            None => (self.daemon.store.reservations() < 1_000).then_some("is gone"),
            Some(row) if row.ended() => None,
            Some(_) if told.released => Some("was released, and lives"),
            Some(row) if told.claimed && row.status != Status::Active => {
                Some("was claimed, and is not in use")
            }
            Some(row) if told.ends > row.ends => Some("was extended, and ends earlier"),
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            self.violation(format!("{id} {wrong}"));
        }
    }

    // ── now and then ──

    /// Rows and history must agree: those that changed since this was seen last.
    pub(super) fn check_fold(&mut self) {
        self.report.checks += 1;
        let changed = std::mem::take(&mut self.daemon.store.changed);
        let store = &self.daemon.store;
        let differs = |key: &&RowKey| store.row(key) != store.shadow.row(key).as_ref();
        if let Some(key) = changed.iter().find(differs) {
            let both = (store.row(key), store.shadow.row(key));
            let text = format!("a row is not the fold of the records: {key:?}: {both:?}");
            return self.violation(text);
        }
        if *store.meta() != store.shadow.meta {
            let text = format!("{:?} is not the fold of the records: {:?}", store.meta(), store.shadow.meta);
            self.violation(text);
        }
    }

    /// The same for all rows.
    fn check_whole_fold(&mut self) {
        self.report.checks += 1;
        if self.daemon.store.rows() != self.daemon.store.shadow.rows() {
            self.violation("the rows are not the fold of the records".into());
        }
    }

    /// When everybody has left and the hardware obeys.
    pub(super) fn check_end(&mut self) {
        if self.report.violation.is_some() {
            return;
        }
        self.check_fold();
        self.check_whole_fold();
        self.check_acknowledged();
        let Some(lab) = &self.daemon.lab else {
            return self.violation("the daemon is not running at the end".into());
        };
        self.report.liveness_checks += (lab.machines().len() + lab.reservations().len()) as u64;
        let rests = invariant::check(lab).and_then(|()| invariant::check_at_rest(lab));
        if let Err(text) = rests {
            self.violation(format!("not at rest 12 h after the last fault: {text}"));
        }
    }
}

/// Nobody else's bytes, and nothing half done.
fn clean_for(board: &Board, name: &MachineName, id: ReservationId) -> Result<(), String> {
    for disk in &board.disks {
        if let Some(other) = disk.tenants.iter().find(|t| **t != id) {
            return Err(format!("{name} is handed to {id} with the bytes of {other} on it"));
        }
        if disk.partial {
            return Err(format!("{name} is handed to {id} with a half written disk"));
        }
    }
    Ok(())
}

/// Nobody is served before one who came earlier and could have had the machine.
fn in_order(lab: &Lab, id: ReservationId, name: &MachineName, records: &[Record]) -> Result<(), String> {
    let (Some(row), Some(machine)) = (lab.reservation(id), lab.machine(name)) else { return Ok(()) };
    let place = (std::cmp::Reverse(row.ask.priority), id);
    for (priority, elder) in lab.waiting.iter().take_while(|e| **e < place) {
        let Some(elder_row) = lab.reservation(*elder).filter(|r| r.wanted() == 1) else { continue };
        // One that came back to the queue in this very step was not in it before.
        let returned =
            |r: &Record| matches!(r.change, Change::Requeued { reservation } if reservation == *elder);
        if records.iter().any(returned) {
            continue;
        }
        let role = &elder_row.ask.roles[0];
        // Who wants a suspected image lets others pass.
        let image = elder_row.ask.image.clone().or_else(|| lab.default_image(name));
        let suspect = image.is_some_and(|i| lab.spec(name).is_some_and(|spec| lab.is_suspect(&i, spec)));
        // And who has no image that a board could be written with.
        let board = lab.spec(name).filter(|spec| spec.programmer().is_some());
        let unwritten = board.is_some_and(|spec| !lab.may_be_written(&elder_row.ask, spec));
        let passes = suspect || unwritten;
        if !passes && machine.health == Health::Good && lab.suits(machine, role, &elder_row.ask, true) {
            return Err(format!("{id} got {name}, which {elder} (priority {}) waits for", priority.0));
        }
    }
    Ok(())
}

/// While somebody holds a machine, its power is his.
fn power_on_held(lab: &Lab, name: &MachineName, want: Switch, actor: &Actor) -> Result<(), String> {
    let Some(machine::Stage::InUse { reservation, cycling, .. }) = lab.machine(name).map(|m| &m.stage) else {
        return Ok(());
    };
    // Once its off was read, or its circuit bears that it starts again.
    let starts = lab.machine(name).is_some_and(|m| m.circuit.is_some()) && *actor == Actor::Lab;
    let second_half = want == Switch::On && (*actor == Actor::Driver || starts);
    // A daemon that finds a cycle half done gives its off again.
    let taken_up = *cycling && want == Switch::Off && *actor == Actor::Lab;
    if matches!(actor, Actor::User(_)) || second_half || taken_up {
        return Ok(());
    }
    Err(format!("{name} was switched {want:?} by {actor:?} while {reservation} holds it"))
}

impl super::daemon::Store {
    /// A reservation as it is stored.
    pub fn reservation(&self, id: ReservationId) -> Option<&Arc<Reservation>> {
        match self.row(&RowKey::Reservation(id)) {
            Some(Row::Reservation(row)) => Some(row),
            _ => None,
        }
    }

    /// A machine as it is stored.
    pub fn machine(&self, name: &MachineName) -> Option<&Arc<machine::Machine>> {
        match self.row(&RowKey::Machine(name.clone())) {
            Some(Row::Machine(row)) => Some(row),
            _ => None,
        }
    }
}
