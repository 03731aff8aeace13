//! Deadlines: what is due is judged, and every judgement leads somewhere.

use super::Step;
use crate::lab::Timer;
use crate::machine::{FailureClass, Leg, Machine, Phase, Reading, Stage, Switch};
use crate::record::Change;
use crate::reservation::{End, Status};
use crate::why::words;
use pitstop_wire::MachineName;

impl Step<'_> {
    pub(crate) fn tick(&mut self) {
        self.actor = crate::record::Actor::Time;
        let now = self.now();
        // Each timer is judged once per tick; a judgement moves it on.
        let due: Vec<Timer> =
            self.lab.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, t)| t.clone()).collect();
        for timer in due {
            match timer {
                Timer::Machine(name) => self.machine_is_due(&name),
                Timer::Reservation(id) => self.reservation_is_due(id),
                Timer::Image(name) => self.image_is_due(&name),
                // At the end of every step they are looked at.
                Timer::Circuit(_) => {}
            }
        }
    }

    /// Nobody could be heard for so long: silence and late reports in that
    /// time are no evidence.
    pub(crate) fn gap(&mut self, ms: u64) {
        for name in self.names() {
            if self.machine(&name).is_some_and(|m| m.agent.as_ref().is_some_and(|a| a.lost.is_some())) {
                self.change(Change::AgentLost { machine: name.clone() });
            }
            // Nor did a runner of ours see to its time meanwhile.
            let runs = self.machine(&name).is_some_and(|m| m.running.is_some());
            if runs || self.machine(&name).is_some_and(|m| m.is_commanded()) {
                self.change(Change::LandingMoved { machine: name.clone(), ms, all: runs });
            }
        }
        self.nobody_was_there(ms);
        let checks: Vec<MachineName> = self.lab.checks.keys().cloned().collect();
        for name in checks {
            if let Some(at) = self.lab.checks.get_mut(&name) {
                *at = *at + ms;
            }
            self.retime(&name);
        }
        let sessions: Vec<_> = self.lab.beats.keys().copied().collect();
        for id in sessions {
            if let Some(at) = self.lab.beats.get_mut(&id) {
                *at = *at + ms;
            }
            self.lab.derive(&crate::lab::RowKey::Reservation(id));
        }
    }

    /// Nothing was asked, told or heard for so long: neither a machine on its
    /// turn nor a holder with a machine to claim is to blame for that time.
    pub(crate) fn nobody_was_there(&mut self, ms: u64) {
        for name in self.names() {
            let Some(turn) = self.turn(&name) else { continue };
            let deadline = turn.deadline + ms;
            self.change(Change::DeadlineMoved { machine: name, deadline });
        }
        let unclaimed = self.lab.reservations.values().filter_map(|r| match r.status {
            Status::Ready { unclaimed_until } => Some((r.id, unclaimed_until + ms)),
            _ => None,
        });
        for (reservation, unclaimed_until) in unclaimed.collect::<Vec<_>>() {
            self.change(Change::ClaimMoved { reservation, unclaimed_until });
        }
    }

    fn machine_is_due(&mut self, name: &MachineName) {
        self.power_due(name);
        self.pause_is_due(name);
        self.wiring_is_due(name);
        let now = self.now();
        let Some(machine) = self.machine(name) else { return };
        let lost = machine.agent.as_ref().and_then(|a| a.lost);
        match &machine.stage {
            Stage::Free => self.proof_is_due(name, &machine),
            Stage::Turn(turn) if turn.deadline <= now => {
                let (class, text) = self.overdue(name, &turn.phase, now - turn.phase_since);
                self.fail_phase(name, class, &text);
            }
            Stage::Turn(turn) => {
                let waits = !turn.phase.awaits_attach() && !turn.phase.wants_off();
                if waits && lost.is_some_and(|at| at + super::AGENT_LOST_IN_TURN <= now) {
                    let off = |leg: &Leg| leg.seen.is_some_and(|s| s.reading.shows(Switch::Off));
                    let class = match machine.legs.iter().any(off) {
                        true => FailureClass::Power,
                        false => FailureClass::Agent,
                    };
                    let text = format!("the agent went away and did not come back{}", told(&machine));
                    self.fail_phase(name, class, &text);
                }
            }
            Stage::Ready { until: Some(until), .. } if *until <= now => self.take_back(name, "ci"),
            Stage::InUse { reservation, .. } => {
                let patience = self.lab.agent_patience(*reservation, &machine);
                if let (Some(at), Some(ms)) = (lost, patience)
                    && at + ms <= now
                {
                    let reason = format!("the agent of {name} has been silent for {} s", ms / 1_000);
                    self.end(*reservation, End::Failed { class: FailureClass::Agent, reason });
                }
            }
            _ => {}
        }
    }

    fn overdue(&self, name: &MachineName, phase: &Phase, waited: u64) -> (FailureClass, String) {
        let seconds = waited / 1_000;
        let machine = self.lab.machines.get(name);
        let attached = machine.is_some_and(|m| m.agent.is_some());
        let (class, what) = match phase {
            Phase::Off | Phase::HandOff | Phase::Rest => {
                (FailureClass::Power, format!("not read back off within {seconds} s"))
            }
            Phase::BootAgent if attached => {
                (FailureClass::Agent, format!("the agent attached and said no more for {seconds} s"))
            }
            Phase::BootAgent => (FailureClass::Boot, format!("no agent in {seconds} s")),
            Phase::Evidence if self.ready_by(name) != "agent" => {
                let ready = self.ready_by(name);
                (FailureClass::Boot, format!("nothing of what `ready.{ready}` waits for in {seconds} s"))
            }
            Phase::Evidence => {
                (FailureClass::Boot, format!("the image's host agent did not attach in {seconds} s"))
            }
            Phase::Disk { .. } => (FailureClass::Disk, format!("not written and proven in {seconds} s")),
            Phase::Flash { .. } => self.flash_overdue(name, seconds),
            Phase::Hook { point, hook } => {
                let called = self.spec(name).and_then(|s| s.hooks.get(point)?.get(*hook));
                let called = called.map(|h| h.name.as_str()).unwrap_or_default();
                (FailureClass::Health, format!("hook {point} {called} did not end in {seconds} s"))
            }
            Phase::AfterHooks if machine.is_some_and(|m| !m.settled()) => {
                (FailureClass::Power, format!("power could not be read behind its hooks for {seconds} s"))
            }
            Phase::AfterHooks => (
                FailureClass::Agent,
                format!(
                    "behind its hooks the agent was not heard of for {seconds} s: it may have booted since"
                ),
            ),
            Phase::Seed | Phase::Serve => (FailureClass::Agent, format!("no hand-over in {seconds} s")),
            Phase::Check => (FailureClass::Health, format!("its health check did not end in {seconds} s")),
            Phase::Start { .. } => {
                (FailureClass::Power, format!("its circuit did not bear that it starts for {seconds} s"))
            }
            Phase::Settle => (FailureClass::Power, format!("power could not be read for {seconds} s")),
        };
        let known = machine.map(|m| known(m, phase)).unwrap_or_default();
        (class, format!("{what}{known}"))
    }

    /// A board that was not written in time: because of what the lab owes it,
    /// or of what its programmer does.
    fn flash_overdue(&self, name: &MachineName, seconds: u64) -> (FailureClass, String) {
        let machine = self.lab.machines.get(name);
        if let Some(stalled) = machine.and_then(|m| m.turn()).and_then(|t| t.stalled.as_ref()) {
            return (FailureClass::Lab, format!("not to be written for {seconds} s: {}", stalled.why));
        }
        match machine.is_some_and(|m| m.running.is_some()) {
            true => (FailureClass::Disk, format!("not written and read back in {seconds} s")),
            false => (FailureClass::Power, format!("its programmer waited {seconds} s for its power")),
        }
    }

    fn ready_by(&self, name: &MachineName) -> &str {
        self.spec(name).map_or("agent", |spec| &spec.ready.driver)
    }

    fn reservation_is_due(&mut self, id: crate::id::ReservationId) {
        let now = self.now();
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        if row.ended() {
            return;
        }
        let silent = self.lab.beats.get(&id).is_some_and(|at| *at <= now);
        let waited = row.ask.patience.is_some_and(|ms| row.created + ms <= now);
        let why = match row.status {
            _ if silent => End::Lost,
            _ if row.ends.is_some_and(|at| at <= now) => End::Expired,
            Status::Ready { unclaimed_until } if unclaimed_until <= now => End::Unclaimed,
            Status::Waiting | Status::Preparing if waited => End::TimedOut,
            _ => return,
        };
        self.end(id, why);
    }
}

/// What is known of a machine whose time is over: what usually was, how far
/// it came, what its power devices said.
fn known(machine: &Machine, phase: &Phase) -> String {
    let mut text = String::new();
    let usual = machine.usual.of(phase);
    if !usual.is_none() {
        text.push_str(&format!(" (usually {})", words(u64::from(usual.ms))));
    }
    if *phase == Phase::BootAgent && machine.agent.is_none() {
        let given = machine.turn().and_then(|t| t.attempt.as_ref()).is_some_and(|a| a.given);
        text.push_str(match given {
            true => "; its boot parameters were given out",
            false => "; nobody asked for its boot parameters",
        });
    }
    text + &told(machine)
}

/// What power reads, and what its devices said.
fn told(machine: &Machine) -> String {
    let mut text = String::new();
    for leg in &machine.legs {
        let seen = match leg.seen.map(|s| s.reading) {
            Some(Reading::On) => "reads on",
            Some(Reading::Off) => "reads off",
            Some(Reading::Assumed(_)) => "cannot be read",
            Some(Reading::Unknown) | None => "does not answer",
        };
        text.push_str(&format!("; {} {seen}", leg.name));
        if let Some(answer) = &leg.answer {
            text.push_str(&format!(" (it said: {answer})"));
        }
    }
    text
}
