//! Circuits, in words: what they bear, who has their places, who is starting.

use super::{Why, words};
use crate::Lab;
use crate::circuit::{Draw, Place};
use crate::inventory::model::Circuit;
use crate::machine::{Machine, Purpose, Stage};
use crate::queue::Claims;
use crate::reservation::{Ask, Reservation};
use crate::time::LabTime;

/// Most machines named one by one.
const NAMED: usize = 6;

impl Lab {
    /// Who has the places of the machine's circuit, and where the limit is set.
    pub(crate) fn who_has_places(&self, m: &Machine, now: LabTime) -> String {
        let Some((name, circuit)) = self.circuit_of(m) else { return "it hangs on no circuit".to_owned() };
        let others = self.on_circuit(name).filter(|other| other.name != m.name);
        let have: Vec<String> = others.filter_map(|other| self.has_a_place(other, now)).collect();
        let taken = match have.len() {
            0 => "none is taken by another".to_owned(),
            1 => format!("1 is taken: {}", some_of(have)),
            n => format!("{n} are taken: {}", some_of(have)),
        };
        format!(
            "of {} on circuit {name} ({}), {taken}",
            places(circuit.max_on.unwrap_or_default()),
            limit("max_on", circuit.said_on.to_string()),
        )
    }

    /// Why a machine has a place of its circuit, if it has one.
    fn has_a_place(&self, m: &Machine, now: LabTime) -> Option<String> {
        let name = &m.name;
        let gives_way = self.gives_way(m);
        let goes_off = match m.is_commanded() && m.stage == Stage::Free {
            true => ", and is being switched off",
            false => "",
        };
        Some(match self.draws(m, now)? {
            Draw::Held(id) => {
                let owner = self.reservation(id).map(|r| r.owner.to_string()).unwrap_or_default();
                format!("{name} is {owner}'s ({id})")
            }
            Draw::Turn => match m.turn().map(|t| t.purpose) {
                Some(Purpose::Prepare) => format!("{name} is being prepared"),
                Some(Purpose::Prove) => format!("{name} is being proven"),
                _ => format!("{name} is not yet off and at rest"),
            },
            Draw::Checked => {
                let by = m.wiring.as_ref().map(|w| w.by.to_string()).unwrap_or_default();
                format!("{by} checks the wires of {name}")
            }
            Draw::Warm => format!("{name} is warm, and gives way"),
            Draw::Landing(until) => {
                format!("{name} may still be switched on by an earlier command for {}", words(until - now))
            }
            Draw::On if gives_way => format!("{name} was left on{goes_off}"),
            Draw::On => format!("{name} is {} and on", m.state()),
            Draw::Unread if gives_way => format!("{name} cannot be read, so it may be on{goes_off}"),
            Draw::Unread => format!("{name} is {}, and nobody knows whether it is on", m.state()),
            Draw::Old(at) => format!("{name} was read off {} ago, which is long{goes_off}", words(now - at)),
        })
    }

    /// Who of the machine's circuit is starting, and where the limit is set.
    pub(crate) fn who_starts(&self, m: &Machine, now: LabTime) -> String {
        let Some((name, circuit)) = self.circuit_of(m) else { return "it hangs on no circuit".to_owned() };
        let starting: Vec<String> = (self.starting(name, now).into_iter())
            .filter(|(other, _)| **other != m.name)
            .map(|(other, until)| format!("{other} is starting, for {} at most", words(until - now)))
            .collect();
        let before = self.start_queue(name, now).into_iter().take_while(|(_, other)| *other != m.name);
        let before: Vec<String> = before.map(|(_, other)| format!("{other} waits before it")).collect();
        format!(
            "circuit {name} bears {} at once that start ({}): {}",
            circuit.max_starting.unwrap_or_default(),
            limit("max_starting", circuit.said_starting.to_string()),
            some_of(starting.into_iter().chain(before).collect())
        )
    }

    /// Why what is asked for is more than its circuits ever bear, if it is.
    pub(crate) fn never_fits(&self, ask: &Ask) -> Option<String> {
        let limited = self.inventory.circuits.values().any(|c| c.max_on.is_some());
        let wanted: u32 = ask.roles.iter().map(|r| r.count).sum();
        if !limited || wanted < 2 || self.could_serve(ask, |_| true, |_| Some(0)) {
            return None;
        }
        let concerned = |name: &str| {
            self.on_circuit(name).any(|m| ask.roles.iter().any(|role| self.suits(m, role, ask, true)))
        };
        let said = |(name, c): (&String, &Circuit)| {
            let most = c.max_on.filter(|_| concerned(name))?;
            Some(format!("circuit {name} bears {most} ({})", limit("max_on", c.said_on.to_string())))
        };
        let said: Vec<String> = self.inventory.circuits.iter().filter_map(said).collect();
        Some(format!("more machines than may ever be on at once: {}", said.join(", ")))
    }

    /// Why a machine at rest that would do is not given to this reservation:
    /// its circuit has no place; whether that is why.
    pub(super) fn why_no_place(
        &self,
        m: &Machine,
        row: &Reservation,
        elders: &Claims<'_>,
        now: LabTime,
        why: &mut Why,
    ) -> bool {
        let Some(place) = self.limited(m).and_then(|c| elders.places.0.get(c)) else { return false };
        let name = &m.name;
        let asked = |other: &&Machine| other.proof_asked && self.draws(other, self.clock).is_none();
        let asked = m.circuit.as_deref().map_or(0, |c| self.on_circuit(c).filter(asked).count());
        let kept = place.claimed.saturating_sub(asked);
        let has = self.place_behind(elders, m);
        if has && (row.wanted() == 1 || place.used + place.cold + row.wanted() <= place.max) {
            return false;
        }
        let text = self.who_has_places(m, now);
        let kept = match kept {
            0 => String::new(),
            n => format!("; those before in the queue get {}", places(n as u32)),
        };
        let asked = asked_for(self, m);
        let short = if has { "may have too few places" } else { "has no place" };
        why.tell(
            format!("{name} is at rest, and its circuit {short} for what is asked: {text}{kept}{asked}"),
            format!("pitstop why {name}"),
        );
        true
    }

    /// What a machine's circuit has to do with it.
    pub(super) fn why_circuit(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let Some((name, circuit)) = self.circuit_of(m) else { return };
        if self.waits_to_start(m, now).is_some() {
            why.say(format!("it waits to start: {}", self.who_starts(m, now)));
        }
        let Some(max) = circuit.max_on else { return };
        let places = self.places(now);
        let Place { used, .. } = places.0.get(name).cloned().unwrap_or_default();
        let own = match self.has_a_place(m, now) {
            Some(_) if m.stage != Stage::Free => ", with it",
            Some(_) => ", with it, as long as it is not read off",
            None => "",
        };
        why.say(format!(
            "circuit {name}: {used} of {max} count as on{own} ({})",
            limit("max_on", circuit.said_on.to_string())
        ));
        if m.stage != Stage::Free {
            return;
        }
        if m.proof_asked {
            why.say(format!("it is proven as soon as there is a place: {}", self.who_has_places(m, now)));
        } else if used >= max as usize {
            let proven = matches!(m.health, crate::machine::Health::Quarantined { .. });
            let what =
                if proven { "to be proven it needs a place" } else { "to be switched on it needs a place" };
            why.say(format!("{what}: {}", self.who_has_places(m, now)));
        }
    }
}

fn asked_for(lab: &Lab, m: &Machine) -> String {
    let asked = lab.asked.iter().filter_map(|n| lab.machine(n)).filter(|other| other.circuit == m.circuit);
    let waiting: Vec<String> = asked.map(|other| other.name.to_string()).collect();
    match waiting.is_empty() {
        true => String::new(),
        false => format!("; {} is to be proven first", waiting.join(", ")),
    }
}

fn places(n: u32) -> String {
    if n == 1 { "1 place".to_owned() } else { format!("{n} places") }
}

fn limit(key: &str, place: String) -> String {
    format!("`{key}`, set at {place}")
}

fn some_of(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let list = if all.is_empty() { "nobody".to_owned() } else { all.join(", ") };
    if more > 0 { format!("{list}, and {more} more") } else { list }
}
