//! What circuits bear: who may start, who gives way, who is proven when there
//! is a place.

use super::Step;
use crate::circuit::Draw;
use crate::effect::Boot;
use crate::lab::Timer;
use crate::machine::{
    DiskPlan, Goal, Health, Leg, Machine, Phase, Purpose, Reading, Stage, Starting, Switch,
};
use crate::record::{Actor, Change};
use crate::time::LabTime;
use pitstop_wire::{ApiError, Code, MachineName};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a machine at rest may be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Now.
    Now,
    /// As soon as others that are at rest have given way.
    Soon,
    /// Not before somebody gives a machine back, or a person does something.
    No,
}

impl Step<'_> {
    // ── starting ──

    /// Whether the machine's circuit bears that it is switched on now, and
    /// nobody waits for that who came before it.
    pub(crate) fn may_start(&self, name: &MachineName) -> bool {
        let Some(machine) = self.machine(name).filter(|m| !m.legs.is_empty()) else { return true };
        // What was read on cannot be switched on once more; what is only taken
        // to be on, since it cannot be read, can.
        let read = |leg: &Leg| leg.seen.is_some_and(|s| s.reading == Reading::On) && !leg.goes_off();
        if self.lab.is_on(&machine) && machine.legs.iter().all(read) {
            return true;
        }
        let Some((circuit, limits)) = self.lab.circuit_of(&machine) else { return true };
        let Some(most) = limits.max_starting else { return true };
        let others = self.lab.starting(circuit, self.now()).into_iter().filter(|(n, _)| *n != name).count();
        let first = self.lab.start_queue(circuit, self.now()).into_iter().next();
        others < most as usize && first.is_none_or(|(_, first)| first == *name)
    }

    /// What entering a phase switches the machine on for, if it does.
    pub(crate) fn starts_for(&self, name: &MachineName, phase: &Phase) -> Option<Starting> {
        match phase {
            Phase::BootAgent => Some(Starting::Agent),
            Phase::Evidence => Some(Starting::Disk),
            Phase::Flash { writing: true } => {
                (self.flash_power(name) == Switch::On).then_some(Starting::Flash)
            }
            _ => None,
        }
    }

    /// How long a machine waits to start at the very most: each of its
    /// circuit may be before it, and take as long as its commands may.
    pub(crate) fn start_limit(&self, name: &MachineName) -> u64 {
        // A program may switch a machine on as long as it runs.
        let one = |m: &Machine| {
            let commands = (m.legs.len() as u64 + 1) * self.limits(&m.name).power_ms;
            // What fetches a medium first counts as starting meanwhile.
            commands + self.fetch_ms(&m.name) + self.longest_program(&m.name) + crate::circuit::INRUSH
        };
        let circuit = self.machine(name).and_then(|m| m.circuit.clone());
        let all: u64 = circuit.iter().flat_map(|c| self.lab.on_circuit(c)).map(one).sum();
        // Once more for those that it finds at it, having been before.
        2 * all
    }

    /// Whoever waited to start and may now does.
    pub(crate) fn start_next(&mut self) {
        let waiting = self.lab.starters.iter().filter_map(|n| self.lab.machines.get(n)?.circuit.clone());
        let timed =
            self.lab.due.range(Timer::Circuit(String::new())..).filter_map(|(timer, _)| match timer {
                Timer::Circuit(circuit) => Some(circuit.clone()),
                _ => None,
            });
        let circuits: BTreeSet<String> = waiting.chain(timed).collect();
        // Whoever made room for it did not ask for that.
        self.actor = Actor::Lab;
        for circuit in circuits {
            while let Some((_, name)) = self.lab.start_queue(&circuit, self.now()).into_iter().next()
                && self.may_start(&name)
                && self.starts(&name)
            {}
            let waits = !self.lab.start_queue(&circuit, self.now()).is_empty();
            let starting = self.lab.starting(&circuit, self.now());
            let next = starting.into_iter().map(|(_, at)| at).min().filter(|_| waits);
            self.lab.set_timer(Timer::Circuit(circuit), next);
        }
    }

    /// Its circuit bears that it starts; whether that was what it waited for.
    fn starts(&mut self, name: &MachineName) -> bool {
        let Some(machine) = self.machine(name) else { return false };
        match &machine.stage {
            Stage::Turn(turn) => match turn.phase {
                Phase::Start { then } => self.enter(name, started(then)),
                _ => return false,
            },
            Stage::InUse { cycling: true, .. } => self.switch_all(name, Switch::On, Boot::AsIs),
            _ => return false,
        }
        true
    }

    /// A person's power-on: refused while its circuit bears no more that start.
    pub(crate) fn is_free_to_start(&self, machine: &Machine) -> Result<(), ApiError> {
        if self.may_start(&machine.name) {
            return Ok(());
        }
        let text = self.lab.who_starts(machine, self.now());
        let mut error = ApiError::new(Code::Conflict, text).hint("wait, and say it again");
        let ends = machine.circuit.iter().flat_map(|c| self.lab.starting(c, self.now()));
        let seconds = ends.map(|(_, at)| at - self.now()).min().unwrap_or_default() / 1_000 + 1;
        error.retry_after = Some(seconds);
        Err(error)
    }

    // ── places ──

    /// Whether a machine at rest may be switched on by a person's word, which
    /// goes before whoever waits.
    pub(crate) fn room_for(&self, machine: &Machine) -> Room {
        let Some(circuit) = self.lab.limited(machine) else { return Room::Now };
        let places = self.lab.places(self.now());
        let Some(place) = places.0.get(circuit) else { return Room::Now };
        let draws = self.lab.draws(machine, self.now()).is_some();
        if place.used + usize::from(!draws) <= place.max {
            Room::Now
        } else if place.fixed + place.claimed < place.max {
            Room::Soon
        } else {
            Room::No
        }
    }

    /// The same for what happens by itself: whoever waits comes first.
    pub(crate) fn room_behind_the_queue(&self, machine: &Machine) -> Room {
        if self.lab.limited(machine).is_none() {
            return Room::Now;
        }
        let claims = self.lab.claims_of_all();
        if self.lab.place_behind(&claims, machine) {
            Room::Now
        } else if claims.places.bears(self.lab.limited(machine)) {
            Room::Soon
        } else {
            Room::No
        }
    }

    /// A refusal: the circuit has no place.
    pub(crate) fn no_room(&mut self, machine: &Machine, what: &str) -> ApiError {
        let name = &machine.name;
        // Those that only seem to be on no longer do when he asks again.
        for other in machine.circuit.iter().flat_map(|c| self.old_readings(c)).collect::<Vec<_>>() {
            self.read_again(&other);
        }
        let why = self.lab.who_has_places(machine, self.now());
        ApiError::new(Code::Conflict, format!("{name} cannot be {what} now: {why}"))
            .hint("release or drain one of them and switch it off; or raise max_on")
    }

    /// Proofs that persons asked for, and that have a place now.
    pub(crate) fn begin_asked_proofs(&mut self) {
        let asked: Vec<MachineName> = self.lab.asked.iter().cloned().collect();
        for name in asked {
            let Some(machine) = self.machine(&name).filter(|m| m.stage == Stage::Free) else { continue };
            let may =
                matches!(machine.health, Health::Good | Health::Quarantined { .. }) && self.is_known(&name);
            if may && self.room_for(&machine) == Room::Now {
                self.begin_proof(&name, &machine);
            }
        }
    }

    /// Who waits for nothing but a place on a circuit has it made: machines at
    /// rest that are on, or may be, are switched off.
    pub(crate) fn make_room(&mut self) {
        if self.lab.inventory.circuits.values().all(|c| c.max_on.is_none()) {
            return;
        }
        let (late, claimed) = self.lab.waits_for_room();
        // By circuit: who waits first, and how many more are to be on.
        let mut wanted: BTreeMap<String, (String, usize)> = BTreeMap::new();
        let asked = self.lab.asked.iter().map(|name| (name.to_string(), name.clone()));
        let queued =
            late.into_iter().flat_map(|(id, names)| names.into_iter().map(move |n| (id.to_string(), n)));
        for (who, name) in asked.chain(queued) {
            let Some(machine) = self.lab.machines.get(&name) else { continue };
            let Some(circuit) = self.lab.limited(machine) else { continue };
            let cold = usize::from(self.lab.draws(machine, self.now()).is_none());
            wanted.entry(circuit.to_owned()).or_insert((who, 0)).1 += cold;
        }
        for (circuit, (who, cold)) in wanted {
            for name in self.who_gives_way(&circuit, cold, &claimed) {
                self.give_way(&name, &circuit, &who);
            }
        }
    }

    /// Whom to switch off, so that `cold` more may be on: those that are not
    /// on in truth first, those that would not go off last. Of those that
    /// persons want proven all but the first give way, too: two that are on
    /// where one may be would else wait for each other.
    fn who_gives_way(&self, circuit: &str, cold: usize, claimed: &BTreeSet<MachineName>) -> Vec<MachineName> {
        let now = self.now();
        let Some(max) = self.lab.inventory.circuits.get(circuit).and_then(|c| c.max_on) else {
            return Vec::new();
        };
        let drawing = self.lab.on_circuit(circuit).filter_map(|m| Some((m, self.lab.draws(m, now)?)));
        let drawing: Vec<(&Machine, Draw)> = drawing.collect();
        let mut short = (drawing.len() + cold).saturating_sub(max as usize);
        let mut givers = Vec::new();
        let first = self.lab.asked.iter().find(|n| drawing.iter().any(|(m, _)| m.name == **n));
        for (m, draw) in &drawing {
            let asks = m.proof_asked && first != Some(&m.name) && self.lab.may_be_told_off(m);
            let may = self.lab.gives_way(m) || matches!(draw, Draw::Old(_)) || asks;
            if claimed.contains(&m.name) || !may {
                continue;
            }
            let in_vain = m.legs.iter().any(|leg| leg.in_vain > 0);
            // Even one whose command is over and not yet read: told off again
            // at that moment, one that nobody can read never comes to rest.
            let busy = !m.settled() || self.lab.cut_since(m).is_some_and(|at| at > now);
            match busy {
                true if !in_vain => short = short.saturating_sub(1), // it goes off as it is
                true => {}
                false => givers.push((in_vain, asks, burden(m, *draw), m.name.clone())),
            }
        }
        givers.sort();
        givers.into_iter().take(short).map(|(.., name)| name).collect()
    }

    fn give_way(&mut self, name: &MachineName, circuit: &str, who: &str) {
        let Some(machine) = self.machine(name) else { return };
        if self.is_long_unread(&machine) {
            return self.read_again(name); // most likely it is off
        }
        let actor = std::mem::replace(&mut self.actor, Actor::Lab);
        let (circuit, waits) = (circuit.to_owned(), who.to_owned());
        self.change(Change::GaveWay { machine: name.clone(), circuit, waits });
        match machine.stage {
            // It is proven when somebody gets it: to switch it on for that
            // now would take the very place.
            Stage::Ready { .. } => {
                self.begin_turn(name, Purpose::Turnaround, Goal::Off, None, None, DiskPlan::Leave);
            }
            _ => self.switch_all(name, Switch::Off, Boot::AsIs),
        }
        self.actor = actor;
    }

    /// Machines of a circuit that read off long ago.
    fn old_readings(&self, circuit: &str) -> Vec<MachineName> {
        self.lab.on_circuit(circuit).filter(|m| self.is_long_unread(m)).map(|m| m.name.clone()).collect()
    }

    /// Whether a machine counts as on for its circuit only because it was read
    /// off long ago: then that it still is off is news.
    pub(crate) fn is_long_unread(&self, machine: &Machine) -> bool {
        let draw = || self.lab.draws(machine, self.now());
        self.lab.limited(machine).is_some() && matches!(draw(), Some(Draw::Old(_)))
    }

    fn read_again(&mut self, name: &MachineName) {
        // Not while an answer may yet come; a proof that was put off is no question.
        let answered = self.now()..=self.now() + self.limits(name).power_ms;
        if self.lab.asks_again(name).is_none_or(|at| at == self.now() || !answered.contains(&at)) {
            self.observe_all(name);
        }
    }

    /// A machine at rest that is taken to be off does something: perhaps
    /// somebody has pressed its button. It is read.
    pub(crate) fn heard_of(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name).filter(|m| m.stage == Stage::Free) else { return };
        let believed = self.lab.limited(&machine).is_some() && self.lab.draws(&machine, self.now()).is_none();
        if believed {
            self.read_again(name);
        }
    }
}

/// The phase that switches a machine on.
pub(crate) fn started(then: Starting) -> Phase {
    match then {
        Starting::Agent => Phase::BootAgent,
        Starting::Flash => Phase::Flash { writing: true },
        Starting::Disk => Phase::Evidence,
    }
}

/// What it costs to switch a machine off, the least first.
fn burden(m: &Machine, draw: Draw) -> (u8, LabTime) {
    match (draw, &m.stage) {
        (Draw::Old(at), _) => (0, at),
        (_, Stage::Ready { until, .. }) => (2, until.unwrap_or_default()),
        _ => (1, m.since),
    }
}
