//! Who claims which free machine, and which place of a circuit: a matching
//! that later claims may rearrange, never shrink.

use crate::circuit::Places;
use crate::id::ReservationId;
use crate::lab::Lab;
use crate::machine::{Health, Machine};
use pitstop_wire::MachineName;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A place of a reservation that wants a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    reservation: ReservationId,
    role: usize,
    number: u32,
}

/// A free machine that suits a role.
#[derive(Clone, Copy)]
struct Candidate<'l> {
    name: &'l MachineName,
    /// Its circuit, if the number of machines on that is limited.
    circuit: Option<&'l str>,
    /// Whether it counts as on there already.
    draws: bool,
}

/// Which slot claims which free machine, and with which places of circuits.
#[derive(Clone, Default)]
pub(crate) struct Claims<'l> {
    by_machine: BTreeMap<&'l MachineName, (Slot, Candidate<'l>)>,
    pub(crate) places: Places,
    /// Reservations that can be served at once. All others that are served
    /// wait until somebody has given way to them.
    now: BTreeSet<ReservationId>,
    found: Found<'l>,
}

/// What is found once, and looked at many times.
#[derive(Clone, Default)]
struct Found<'l> {
    /// Free machines.
    machines: BTreeMap<&'l MachineName, Candidate<'l>>,
    /// Whom each role could have.
    suitable: BTreeMap<(ReservationId, usize), Rc<[Candidate<'l>]>>,
}

impl<'l> Claims<'l> {
    /// Who claims the machine.
    pub(crate) fn whose(&self, name: &MachineName) -> Option<ReservationId> {
        self.by_machine.get(name).map(|(slot, _)| slot.reservation)
    }

    /// Whether the machine, and a place for it, may be claimed by this reservation.
    fn has(&self, wanted: Candidate<'l>, id: ReservationId) -> bool {
        let Candidate { name, circuit, draws } = wanted;
        !self.by_machine.contains_key(name)
            && self.places.bears(circuit)
            && (!self.now.contains(&id) || self.places.has(circuit, draws))
    }

    fn claim(&mut self, wanted: Candidate<'l>, slot: Slot) {
        self.by_machine.insert(wanted.name, (slot, wanted));
        self.places.claim(wanted.circuit, wanted.draws, true);
    }

    fn disclaim(&mut self, name: &MachineName) {
        if let Some((_, given)) = self.by_machine.remove(name) {
            self.places.claim(given.circuit, given.draws, false);
        }
    }
}

/// What was visited on the way to a machine for a slot.
#[derive(Default)]
struct Visited<'l> {
    machines: Vec<&'l MachineName>,
    circuits: Vec<&'l str>,
}

impl Lab {
    /// A reservation of several machines that cannot be served as long as
    /// machines are out of use must not keep the rest of them idle.
    fn has_claims(&self, claims: &Claims<'_>, id: ReservationId) -> bool {
        let Some(row) = self.reservations.get(&id) else { return false };
        let usable = |m: &Machine| m.health == Health::Good && m.pause.is_none();
        row.wanted() == 1 || self.could_serve(&row.ask, usable, |c| claims.places.0.get(c).map(|p| p.stuck))
    }

    fn candidates_of<'l>(&'l self, claims: &mut Claims<'l>, slot: Slot) -> Rc<[Candidate<'l>]> {
        let (id, role) = (slot.reservation, slot.role);
        let Some(row) = self.reservations.get(&id) else { return Rc::default() };
        let Found { machines, suitable } = &mut claims.found;
        let found = suitable.entry((id, role)).or_insert_with(|| {
            let of = |name: &'l MachineName| *machines.entry(name).or_insert_with(|| self.candidate(name));
            self.candidates(row, role).map(of).collect()
        });
        Rc::clone(found)
    }

    fn candidate<'l>(&'l self, name: &'l MachineName) -> Candidate<'l> {
        let machine = self.machines.get(name);
        let circuit = machine.and_then(|m| self.limited(m));
        let draws = circuit.is_some() && machine.is_some_and(|m| self.draws(m, self.clock).is_some());
        Candidate { name, circuit, draws }
    }

    /// Finds a machine for a slot, moving earlier claims aside where they
    /// have another choice (Kuhn's augmenting path; the circuits are one more
    /// layer of it). Whom it can serve now is never made to wait for a place.
    fn augment<'l>(&'l self, claims: &mut Claims<'l>, slot: Slot, visited: &mut Visited<'l>) -> bool {
        let candidates = self.candidates_of(claims, slot);
        if let Some(found) = candidates.iter().find(|c| claims.has(**c, slot.reservation)) {
            claims.claim(*found, slot);
            return true;
        }
        for wanted in candidates.iter() {
            if visited.machines.contains(&wanted.name) {
                continue;
            }
            visited.machines.push(wanted.name);
            match claims.by_machine.get(wanted.name).copied() {
                Some((other, _)) if self.augment(claims, other, visited) => claims.disclaim(wanted.name),
                Some(_) => continue,
                None => self.free_a_place(claims, *wanted, visited),
            }
            // It may have a place only when somebody has given way.
            if claims.has(*wanted, slot.reservation) {
                claims.claim(*wanted, slot);
                return true;
            }
        }
        false
    }

    /// Moves a claim off the machine's circuit, where it has another choice.
    fn free_a_place<'l>(&'l self, claims: &mut Claims<'l>, wanted: Candidate<'l>, visited: &mut Visited<'l>) {
        let Some(circuit) = wanted.circuit.filter(|c| !visited.circuits.contains(c)) else { return };
        visited.circuits.push(circuit);
        let there = claims.by_machine.iter().filter(|(_, (_, c))| c.circuit == Some(circuit));
        let claimed: Vec<&MachineName> = there.map(|(name, _)| *name).collect();
        for name in claimed {
            if visited.machines.contains(&name) {
                continue;
            }
            visited.machines.push(name);
            // What was claimed when this began may have been moved since.
            let Some((other, _)) = claims.by_machine.get(name).copied() else { continue };
            if self.augment(claims, other, visited) {
                return claims.disclaim(name);
            }
        }
    }

    /// Claims of nobody, at the present places.
    fn no_claims(&self) -> Claims<'_> {
        Claims { places: self.places(self.clock), ..Claims::default() }
    }

    /// Whether a machine's circuit has a place now that nobody claims.
    pub(crate) fn place_behind(&self, claims: &Claims<'_>, m: &Machine) -> bool {
        let circuit = self.limited(m);
        claims.places.bears(circuit) && claims.places.has(circuit, self.draws(m, self.clock).is_some())
    }

    /// What a reservation's elders keep: free machines, and places.
    pub(crate) fn claims_of_elders(&self, id: ReservationId) -> Claims<'_> {
        let mut claims = self.no_claims();
        let Some(row) = self.reservations.get(&id) else { return claims };
        let place = (std::cmp::Reverse(row.ask.priority), id);
        for (_, elder) in self.waiting.iter().take_while(|elder| **elder < place) {
            self.claim_slots(&mut claims, *elder);
        }
        claims
    }

    /// For `why`: the free machines this reservation's elders keep.
    pub fn kept_for_elders(&self, id: ReservationId) -> BTreeMap<MachineName, ReservationId> {
        let claims = self.claims_of_elders(id).by_machine;
        claims.into_iter().map(|(m, (slot, _))| (m.clone(), slot.reservation)).collect()
    }

    /// Claims what a waiting reservation needs; whether it got all. At once,
    /// if that can be; else with places that others have to give up first.
    fn claim_slots<'l>(&'l self, claims: &mut Claims<'l>, id: ReservationId) -> bool {
        if !self.reservations.contains_key(&id) || !self.has_claims(claims, id) {
            return false;
        }
        if claims.places.0.is_empty() {
            return self.claim_all(claims, id);
        }
        let found = std::mem::take(&mut claims.found);
        let mut before = claims.clone();
        claims.found = found;
        claims.now.insert(id);
        if self.claim_all(claims, id) {
            return true;
        }
        before.found = std::mem::take(&mut claims.found);
        *claims = before;
        self.claim_all(claims, id)
    }

    fn claim_all<'l>(&'l self, claims: &mut Claims<'l>, id: ReservationId) -> bool {
        let Some(row) = self.reservations.get(&id) else { return false };
        let slots = row
            .ask
            .roles
            .iter()
            .enumerate()
            .flat_map(|(role, r)| (0..r.count).map(move |number| Slot { reservation: id, role, number }));
        let mut all = true;
        for slot in slots {
            all &= self.augment(claims, slot, &mut Visited::default());
        }
        all
    }

    /// What the whole queue claims.
    pub(crate) fn claims_of_all(&self) -> Claims<'_> {
        self.all_claims().0
    }

    /// The claims of the whole queue, and whose are complete.
    fn all_claims(&self) -> (Claims<'_>, Vec<ReservationId>) {
        let mut claims = self.no_claims();
        let mut served = Vec::new();
        for (_, id) in self.waiting.iter() {
            if self.claim_slots(&mut claims, *id) {
                served.push(*id);
            }
            if claims.by_machine.len() >= self.free.len() {
                break;
            }
        }
        (claims, served)
    }

    /// Who of the queue can have which machine now, and for which role.
    pub(crate) fn servable(&self) -> Vec<(ReservationId, MachineName, usize)> {
        let (claims, served) = self.all_claims();
        let at_once = |id: &ReservationId| claims.places.0.is_empty() || claims.now.contains(id);
        let of = |id: ReservationId| {
            let slots = claims.by_machine.iter().filter(move |(_, (slot, _))| slot.reservation == id);
            slots.map(move |(name, (slot, _))| (id, (*name).clone(), slot.role))
        };
        served.into_iter().filter(at_once).flat_map(of).collect()
    }

    /// Whom nothing keeps waiting but places that others have to give up:
    /// with the machines they are to get. And all machines that are claimed.
    pub(crate) fn waits_for_room(&self) -> (Vec<(ReservationId, Vec<MachineName>)>, BTreeSet<MachineName>) {
        let (claims, served) = self.all_claims();
        let of = |id: ReservationId| {
            let mine = claims.by_machine.iter().filter(|(_, (slot, _))| slot.reservation == id);
            (id, mine.map(|(name, _)| (*name).clone()).collect())
        };
        let late = served.into_iter().filter(|id| !claims.now.contains(id)).map(of).collect();
        (late, claims.by_machine.into_keys().cloned().collect())
    }
}
