//! Circuits: who counts as on, who is starting, who gives way.
//!
//! Nothing of it is stored but which circuit a machine hangs on: all else
//! follows from the rows, so that a daemon that is killed while machines start
//! leaves nothing out, and keeps no place for a machine that is long off.

use crate::Lab;
use crate::experience::MINUTE;
use crate::id::ReservationId;
use crate::inventory::model::Circuit;
use crate::machine::{Health, Leg, Machine, Phase, Reading, Stage, Switch};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use std::collections::BTreeMap;

/// How long it counts that a machine at rest was read off (ms): somebody may
/// have pressed its button since.
pub(crate) const FRESH: u64 = 10 * MINUTE;
/// How long after it was seen to be on a machine still starts (ms): what a
/// fuse feels is the first second.
pub(crate) const INRUSH: u64 = 1_000;

/// Why a machine counts as on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// It was granted, or is on a turn: it is on, or will be.
    Turn,
    /// It waits booted for whoever comes.
    Warm,
    /// It is somebody's, who may switch it on at any time.
    Held(ReservationId),
    /// Somebody checks its wires, and may switch it on at any time.
    Checked,
    /// At rest; a command that switches it on may still land, until then at least.
    Landing(LabTime),
    /// At rest, and it reads on.
    On,
    /// At rest, and nobody knows whether it is on.
    Unread,
    /// At rest; it read off, but that was at this moment, long ago. For whoever
    /// waits for its place it is read again.
    Old(LabTime),
}

/// What one circuit has to give.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Most machines that may be on.
    pub max: usize,
    /// Machines that count as on.
    pub used: usize,
    /// Those of them that give way to nobody.
    pub fixed: usize,
    /// Those of them at rest that are on, or are taken to be, until a person
    /// does something about it.
    pub stuck: usize,
    /// Machines that somebody of the queue claims, and those that a person
    /// wants proven.
    pub claimed: usize,
    /// Those of them that do not count as on yet.
    pub cold: usize,
}

/// What all circuits with a limit have to give.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(pub BTreeMap<String, Place>);

impl Places {
    /// Whether the circuit could bear one machine more, if everybody gave way
    /// who can.
    pub fn bears(&self, circuit: Option<&str>) -> bool {
        self.of(circuit).is_none_or(|p| p.fixed + p.claimed < p.max)
    }

    /// Whether it bears one more now. `draws`: the machine counts as on already.
    pub fn has(&self, circuit: Option<&str>, draws: bool) -> bool {
        self.of(circuit).is_none_or(|p| p.used + p.cold + usize::from(!draws) <= p.max)
    }

    fn of(&self, circuit: Option<&str>) -> Option<&Place> {
        self.0.get(circuit?)
    }

    /// One machine more is claimed, or one less.
    pub fn claim(&mut self, circuit: Option<&str>, draws: bool, more: bool) {
        let Some(place) = circuit.and_then(|c| self.0.get_mut(c)) else { return };
        let by = |n: &mut usize| *n = if more { *n + 1 } else { n.saturating_sub(1) };
        by(&mut place.claimed);
        if !draws {
            by(&mut place.cold);
        }
    }
}

/// What is on a circuit.
#[derive(Debug, Clone, Copy)]
pub struct CircuitUse<'l> {
    /// Its name.
    pub name: &'l str,
    /// What it bears.
    pub limits: &'l Circuit,
    /// Machines that count as on.
    pub on: usize,
    /// Machines that are starting.
    pub starting: usize,
    /// Machines that wait to start.
    pub waiting: usize,
}

impl Lab {
    /// Every circuit of the inventory, as of the newest commit.
    pub fn circuit_states(&self) -> impl Iterator<Item = CircuitUse<'_>> {
        let now = self.meta.now;
        self.inventory.circuits.iter().map(move |(name, limits)| CircuitUse {
            name,
            limits,
            on: self.on_circuit(name).filter(|m| self.draws(m, now).is_some()).count(),
            starting: self.starting(name, now).len(),
            waiting: self.start_queue(name, now).len(),
        })
    }

    /// The circuit a machine hangs on, with its limits.
    pub fn circuit_of(&self, m: &Machine) -> Option<(&str, &Circuit)> {
        let (name, circuit) = self.inventory.circuits.get_key_value(m.circuit.as_deref()?)?;
        Some((name, circuit))
    }

    /// The machine's circuit, if the number of machines on it is limited.
    pub(crate) fn limited(&self, m: &Machine) -> Option<&str> {
        self.circuit_of(m).filter(|(_, c)| c.max_on.is_some()).map(|(name, _)| name)
    }

    /// The machines of a circuit.
    pub fn on_circuit(&self, circuit: &str) -> impl Iterator<Item = &Machine> {
        let names = self.on_circuit.get(circuit).into_iter().flatten();
        names.filter_map(|name| self.machines.get(name)).map(|m| &**m)
    }

    // ── what power shows ──

    /// Whether a leg decides by itself whether the machine is on: all of them
    /// together; but a spare leg only once it has cut power, and then no other.
    pub fn rules(&self, m: &Machine, leg: usize) -> bool {
        let spare = self.inventory.machines.get(&m.name).and_then(|s| s.spare_leg());
        match (spare, &m.cut) {
            (None, _) => true,
            (Some(spare), Some(_)) => leg == spare,
            (Some(spare), None) => leg != spare,
        }
    }

    /// The legs that decide whether the machine is on, with their places.
    pub(crate) fn ruling<'m>(&'m self, m: &'m Machine) -> impl Iterator<Item = (usize, &'m Leg)> {
        m.legs.iter().enumerate().filter(|(leg, _)| self.rules(m, *leg))
    }

    /// Whether the machine reads off, on every leg that counts. Where power
    /// was cut in front of a dead leg, only when it was off long enough.
    pub(crate) fn is_off(&self, m: &Machine, now: LabTime) -> bool {
        let off = |leg: &Leg| leg.seen.is_some_and(|s| s.reading.shows(Switch::Off));
        self.ruling(m).all(|(_, leg)| off(leg))
            && self.cut_since(m).is_none_or(|at| at <= now)
            && !self.is_cut_in_vain(m)
    }

    /// Whether a leg reads on although its power is cut: it has some all the
    /// same. What it read while the spare leg was on once more says nothing.
    pub(crate) fn is_cut_in_vain(&self, m: &Machine) -> bool {
        let Some(dark) = self.cut_since(m) else { return false };
        let reads_on = |leg: &Leg| leg.seen.is_some_and(|s| s.reading.shows(Switch::On) && s.at > dark);
        m.legs.iter().enumerate().any(|(n, leg)| !self.rules(m, n) && reads_on(leg))
    }

    /// Where the spare leg reads off: when its minimum time off is over.
    pub(crate) fn cut_since(&self, m: &Machine) -> Option<LabTime> {
        let spec = self.inventory.machines.get(&m.name)?;
        let spare = spec.spare_leg().filter(|_| m.cut.is_some())?;
        let seen = m.legs.get(spare)?.seen.filter(|s| s.reading == Reading::Off)?;
        Some(seen.changed + spec.legs[spare].min_off_ms)
    }

    /// Whether the machine reads on, on every leg that counts.
    pub(crate) fn is_on(&self, m: &Machine) -> bool {
        let on = |leg: &Leg| leg.seen.is_some_and(|s| s.reading.shows(Switch::On));
        m.cut.is_none() && self.ruling(m).all(|(_, leg)| on(leg))
    }

    // ── who counts as on ──

    /// Why a machine counts as on for its circuit at `now`, if it does: from
    /// the grant, or the decision to send it on a turn, until it is at rest
    /// and reads off.
    pub fn draws(&self, m: &Machine, now: LabTime) -> Option<Draw> {
        match &m.stage {
            Stage::Turn(_) => return Some(Draw::Turn),
            Stage::Ready { reservation: None, .. } => return Some(Draw::Warm),
            Stage::Ready { reservation: Some(id), .. } | Stage::InUse { reservation: id, .. } => {
                return Some(Draw::Held(*id));
            }
            Stage::Free if m.wiring.is_some() => return Some(Draw::Checked),
            Stage::Free => {}
        }
        let ons = m.legs.iter().flat_map(|leg| &leg.unsettled).filter(|i| i.want == Switch::On);
        if let Some(until) = ons.map(|i| i.may_land_until).max() {
            return Some(Draw::Landing(until));
        }
        // Of a leg that cannot be read, off is what was commanded: nobody knows
        // it before that command must have landed.
        let assumed = |leg: &&Leg| leg.seen.is_some_and(|s| matches!(s.reading, Reading::Assumed(_)));
        let blind = m.legs.iter().filter(assumed).flat_map(|leg| &leg.unsettled);
        if let Some(until) = blind.map(|i| i.may_land_until).max() {
            return Some(Draw::Landing(until));
        }
        if !self.is_off(m, now) {
            let on = m.legs.iter().any(reads_on);
            return Some(if on { Draw::On } else { Draw::Unread });
        }
        if !self.is_known(m) {
            return None; // nobody ever reads it again; it is as it was
        }
        let read = self.ruling(m).filter_map(|(_, leg)| leg.seen).filter(|s| s.reading == Reading::Off);
        let oldest = read.map(|s| s.at).min()?;
        (oldest + FRESH <= now).then_some(Draw::Old(oldest))
    }

    /// Whether a machine that counts as on is switched off for somebody who
    /// waits for its place: it is nobody's, and a person did not take it out.
    pub(crate) fn gives_way(&self, m: &Machine) -> bool {
        self.may_be_told_off(m) && !m.proof_asked
    }

    /// The same of one that a person wants proven, too: such a one gives way
    /// to another whose turn comes first.
    pub(crate) fn may_be_told_off(&self, m: &Machine) -> bool {
        let rests = match &m.stage {
            Stage::Free => matches!(m.health, Health::Good | Health::Quarantined { .. }),
            Stage::Ready { reservation: None, .. } => true,
            _ => false,
        };
        // To tell one off again that is without power, and on, leads nowhere.
        rests && m.wiring.is_none() && !self.is_cut_in_vain(m) && self.is_known(m)
    }

    /// Whether what is known of the machine is still what its name means, so
    /// that its legs can be read and switched.
    pub(crate) fn is_known(&self, m: &Machine) -> bool {
        self.inventory.machines.contains_key(&m.name) && !self.changed_parts(m)
    }

    /// Whether a machine that counts as on keeps its place whoever waits.
    fn stays(&self, m: &Machine, draw: Draw) -> bool {
        !self.gives_way(m) && (m.proof_asked || !matches!(draw, Draw::Old(_)))
    }

    /// What the circuits have to give at `now`, to the queue.
    pub(crate) fn places(&self, now: LabTime) -> Places {
        let mut places = Places::default();
        for (name, circuit) in &self.inventory.circuits {
            let Some(max) = circuit.max_on else { continue };
            let mut place = Place { max: max as usize, ..Place::default() };
            for m in self.on_circuit(name) {
                let draw = self.draws(m, now);
                place.used += usize::from(draw.is_some());
                let stays = draw.is_some_and(|d| self.stays(m, d));
                place.fixed += usize::from(stays);
                place.stuck += usize::from(stays && m.stage == Stage::Free && !m.proof_asked);
                if m.proof_asked && draw.is_none() {
                    place.claimed += 1;
                    place.cold += 1;
                }
            }
            places.0.insert(name.clone(), place);
        }
        places
    }

    // ── who is starting ──

    /// Until when the machine counts as starting, if it does: as long as a
    /// command that switches it on may act, or until just after it was seen on.
    pub(crate) fn starts_until(&self, m: &Machine, now: LabTime) -> Option<LabTime> {
        let of = |leg: &Leg| {
            let mut ons = leg.unsettled.iter().filter(|i| i.want == Switch::On);
            let lands = ons.clone().map(|i| i.may_land_until + INRUSH).max();
            match leg.seen {
                _ if ons.any(|i| i.open) => lands,
                // What is on, and stays on, cannot be switched on once more.
                Some(seen) if seen.reading == Reading::On => {
                    lands.filter(|_| leg.goes_off()).max(Some(seen.changed + INRUSH))
                }
                Some(seen) if seen.reading != Reading::Off => lands.max(Some(seen.changed + INRUSH)),
                Some(_) => lands,
                // It may have come on just before what was known of it was forgotten.
                None => lands.max(Some(m.since + INRUSH)),
            }
        };
        m.legs.iter().filter_map(of).max().filter(|at| *at > now)
    }

    /// The machines of a circuit that are starting, and until when at most.
    pub(crate) fn starting(&self, circuit: &str, now: LabTime) -> Vec<(&MachineName, LabTime)> {
        self.on_circuit(circuit).filter_map(|m| Some((&m.name, self.starts_until(m, now)?))).collect()
    }

    /// Since when a machine waits until its circuit bears that it starts.
    pub(crate) fn waits_to_start(&self, m: &Machine, now: LabTime) -> Option<LabTime> {
        match &m.stage {
            Stage::Turn(turn) if matches!(turn.phase, Phase::Start { .. }) => Some(turn.phase_since),
            Stage::InUse { cycling: true, .. } if m.settled() && self.is_off(m, now) => {
                m.legs.first().and_then(|leg| leg.seen).map(|s| s.changed)
            }
            _ => None,
        }
    }

    /// Who of the machine's circuit waits to start before it, the first first.
    pub(crate) fn start_queue(&self, circuit: &str, now: LabTime) -> Vec<(LabTime, MachineName)> {
        let of = |m: &Machine| Some((self.waits_to_start(m, now)?, m.name.clone()));
        let mut queue: Vec<_> = self.on_circuit(circuit).filter_map(of).collect();
        queue.sort();
        queue
    }
}

fn reads_on(leg: &Leg) -> bool {
    leg.seen.is_some_and(|s| s.reading.shows(Switch::On))
}
