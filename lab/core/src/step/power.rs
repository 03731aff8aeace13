//! Power: intents, what became of them, and when a machine is really off.
//!
//! A command that left can not be called back, and "accepted" says nothing.
//! So an intent stays with its leg until two equal readings show that it
//! landed, or until its `may_land_until` has passed and power was read after
//! that. Only `off` may start while another intent is unsettled.

use super::Step;
use crate::effect::{Boot, Effect};
use crate::event::Fact;
use crate::fence::Fence;
use crate::id::IntentId;
use crate::machine::{FailureClass, Intent, Leg, Machine, Phase, Reading, Seen, Stage, Switch};
use crate::record::Change;
use crate::time::LabTime;
use pitstop_wire::MachineName;

/// Pause before power is asked again after an answer that said nothing (ms).
const ASK_AGAIN: u64 = 2_000;

impl Step<'_> {
    /// Decides a power command for every leg.
    pub(crate) fn switch_all(&mut self, name: &MachineName, want: Switch, boot: Boot) {
        self.abandon_all(name, super::SUPERSEDED);
        let legs = self.legs_to_switch(name, want);
        self.switch_legs(name, &legs, want, boot);
    }

    pub(super) fn switch_legs(&mut self, name: &MachineName, legs: &[usize], want: Switch, boot: Boot) {
        let Some(machine) = self.machine(name) else { return };
        let power_ms = self.limits(name).power_ms;
        let last = legs.len().saturating_sub(1);
        for (place, leg) in legs.iter().copied().enumerate() {
            let id = self.lab.machines.get(name).map_or(0, |m| m.intents) + 1;
            // A leg's turn comes when those before it are done. The runner
            // sends nothing after `until`; a controller that queued the
            // last command may act on it for as long again. What a device of
            // the machine's own fetches for our agent, it fetches before.
            let fetch_ms = if boot == Boot::Agent && place == last { self.fetch_ms(name) } else { 0 };
            let until = self.now() + (place as u64 + 1) * power_ms + fetch_ms;
            let may_land_until = until + power_ms;
            let twin = machine.legs[leg].unsettled.iter().any(|i| i.want == want);
            let intent = Intent { id, want, may_land_until, open: true, twin };
            self.change(Change::PowerIntended { machine: name.clone(), leg, intent });
            // A machine boots when its last leg comes on.
            let boot = if want == Switch::Off || place == last { boot } else { Boot::AsIs };
            self.effect(Effect::Power { machine: name.clone(), leg, intent: id, want, boot, until });
        }
    }

    /// Nobody waits for the runners of these intents any more.
    fn abandon(&mut self, name: &MachineName, leg: usize, answer: &str) {
        let Some(machine) = self.machine(name) else { return };
        let open: Vec<IntentId> = machine
            .legs
            .get(leg)
            .into_iter()
            .flat_map(|l| &l.unsettled)
            .filter(|i| i.open)
            .map(|i| i.id)
            .collect();
        for intent in open {
            let answer = answer.to_owned();
            self.change(Change::PowerUnsettled { machine: name.clone(), leg, intent, answer });
        }
    }

    /// A daemon that starts has no runner for any intent it finds.
    pub(crate) fn abandon_all(&mut self, name: &MachineName, answer: &str) {
        let legs = self.machine(name).map_or(0, |m| m.legs.len());
        for leg in 0..legs {
            self.abandon(name, leg, answer);
        }
    }

    /// Asks what power is, and not again before an answer had its time.
    pub(crate) fn observe_all(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        for leg in 0..machine.legs.len() {
            self.effect(Effect::Observe { machine: name.clone(), leg });
        }
        let again = self.now() + self.limits(name).power_ms;
        self.lab.retries.insert(name.clone(), again);
        self.retime(name);
    }

    pub(crate) fn fact(&mut self, fact: Fact) {
        match fact {
            Fact::Power { machine, leg, intent, want, result, witnessed } => {
                self.power_result(&machine, leg, intent, want, result, witnessed);
            }
            Fact::Witnessed { machine, turn, result } => self.witnessed(&machine, turn, result),
            Fact::Acted { machine, intent, act, begun, result } => {
                self.acted(&machine, intent, &act, begun, result);
            }
            Fact::Hooked { machine, intent, nonce, over, result } => {
                self.hooked(&machine, (intent, &nonce), over, result);
            }
            Fact::Programmed { machine, intent, nonce, over, result } => {
                self.programmed(&machine, (intent, &nonce), over, result);
            }
            Fact::Gone { machine, intent } => self.program_gone(&machine, intent),
            Fact::Checked { machine, nonce, result } => self.checked(&machine, &nonce, result),
            Fact::Said { machine, nonce, saying, line } => {
                self.said(&machine, nonce.as_deref(), saying, &line)
            }
            Fact::Read { machine, leg, asked, reading } => self.power_read(&machine, leg, asked, reading),
        }
    }

    fn power_result(
        &mut self,
        name: &MachineName,
        leg: usize,
        id: IntentId,
        want: Switch,
        result: Result<Reading, String>,
        witnessed: bool,
    ) {
        let Some(machine) = self.machine(name) else { return };
        let Some(intent_row) =
            machine.legs.get(leg).and_then(|l| l.unsettled.iter().find(|i| i.id == id && i.open)).cloned()
        else {
            return; // abandoned meanwhile: only time settles it
        };
        // Without these fences it may be about an intent of another daemon, or
        // about one that was never stored.
        debug_assert!(
            intent_row.want == want || !self.fence(Fence::Epoch) || !self.fence(Fence::IntentFirst),
            "an intent was answered with another's report"
        );
        match result {
            Ok(reading) if reading.shows(want) => {
                self.change(Change::PowerSeen { machine: name.clone(), leg, reading });
                let (machine, intent) = (name.clone(), id);
                if witnessed && !intent_row.twin || !self.fence(Fence::MayLandUntil) {
                    self.change(Change::PowerSettled { machine, leg, intent });
                } else {
                    let answer = "it reads as wanted; whether this command did it was not seen".to_owned();
                    self.change(Change::PowerUnsettled { machine, leg, intent, answer });
                }
                self.spare_is_on(name, leg, want);
                self.power_progress(name);
            }
            other => {
                let answer = match other {
                    Ok(reading) => {
                        self.change(Change::PowerSeen { machine: name.clone(), leg, reading });
                        format!("switched {want:?}, read back {reading:?}").to_lowercase()
                    }
                    Err(answer) => answer,
                };
                self.change(Change::PowerUnsettled {
                    machine: name.clone(),
                    leg,
                    intent: id,
                    answer: answer.clone(),
                });
                self.power_failed(name, want, &answer);
            }
        }
    }

    fn power_read(&mut self, name: &MachineName, leg: usize, asked: LabTime, reading: Reading) {
        let Some(machine) = self.machine(name) else { return };
        let Some(row) = machine.legs.get(leg) else { return };
        // Whoever has it under its old name switches it, and what it was then
        // would be believed after. It is read again as soon as that is over.
        if self.under_another_name(name).is_some() {
            return;
        }
        let readable = self.readable(name, leg);
        let reading = if readable { reading } else { assumed(row) };
        // Of a leg that cannot be read, no answer will ever say more.
        let says = reading != Reading::Unknown || !readable;
        // A reading asked for before the newest one was taken is the older of
        // the two, however late it arrives: it says nothing of what is now.
        let old = row.seen.is_some_and(|s| asked < s.at);
        if self.is_unbelieved(&machine, leg, asked, reading) {
            return;
        }
        let news = row.seen.is_none_or(|s| s.reading != reading)
            || !row.unsettled.is_empty()
            || machine.turn().is_some()
            || machine.cut.is_some()
            || self.is_long_unread(&machine);
        if news && !old {
            self.change(Change::PowerSeen { machine: name.clone(), leg, reading });
        }
        if !says {
            return; // `retries` asks again
        }
        let over: Vec<IntentId> =
            row.unsettled.iter().filter(|i| !i.open && i.may_land_until <= asked).map(|i| i.id).collect();
        for intent in over {
            self.change(Change::PowerSettled { machine: name.clone(), leg, intent });
        }
        self.settle_behind(name, leg, asked, reading);
        self.cut_in_vain(name, leg, reading);
        if !self.asks(name) && self.lab.retries.remove(name).is_some() {
            self.retime(name);
        }
        self.power_progress(name);
    }

    /// Whether a leg still owes an answer. As long as one does, none is asked
    /// again before its time: else a leg that answers would have a dead one
    /// asked as fast as it answers itself.
    fn asks(&self, name: &MachineName) -> bool {
        let now = self.now();
        let Some(machine) = self.machine(name) else { return false };
        // What hangs on a leg that cuts power may never answer.
        let mut rule = machine.legs.iter().enumerate().filter(|(leg, _)| self.lab.rules(&machine, *leg));
        rule.any(|(leg, row)| {
            self.unread(name, &machine, leg)
                || row.unsettled.iter().any(|i| !i.open && i.may_land_until <= now)
        })
    }

    /// Whether nothing is known of a leg that can be read.
    fn unread(&self, name: &MachineName, machine: &Machine, leg: usize) -> bool {
        let seen = machine.legs.get(leg).and_then(|l| l.seen);
        self.lab.rules(machine, leg)
            && self.readable(name, leg)
            && seen.is_none_or(|s| s.reading == Reading::Unknown)
    }

    /// Goes on where a turn waited for power.
    pub(crate) fn power_progress(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let Some(turn) = machine.turn() else {
            self.holder_progress(name, &machine);
            if machine.stage == Stage::Free {
                self.waits_without_power(name, &machine);
            }
            return self.came_to_rest(name);
        };
        match turn.phase {
            Phase::Off | Phase::HandOff | Phase::Rest => self.off_progress(name, &machine),
            Phase::BootAgent | Phase::Evidence => self.on_progress(name, &machine),
            Phase::Settle => self.settle_progress(name, &machine),
            Phase::Flash { .. } => self.flash_progress(name),
            Phase::AfterHooks => self.look_progress(name),
            Phase::Start { .. }
            | Phase::Hook { .. }
            | Phase::Disk { .. }
            | Phase::Seed
            | Phase::Serve
            | Phase::Check => {}
        }
    }

    /// Off is reached when every leg reads off and nothing can undo it.
    fn off_progress(&mut self, name: &MachineName, machine: &Machine) {
        if machine.is_commanded() {
            return;
        }
        if !self.lab.is_off(machine, self.now()) {
            if self.waits_without_power(name, machine) {
                return;
            }
            // Read and found on: command it again, until the phase's deadline.
            // What hangs on a leg that cuts power may never be read.
            let unread = |leg: usize| self.lab.rules(machine, leg) && self.unread(name, machine, leg);
            if !(0..machine.legs.len()).any(unread) && self.may_ask(name) {
                let rest = self.off_may_be_given(name, machine) - self.now();
                self.ask_later(name, ASK_AGAIN.max(rest));
                if rest == 0 {
                    self.switch_all(name, Switch::Off, Boot::Disk);
                }
            }
            return;
        }
        if machine.settled() || !self.fence(Fence::MayLandUntil) {
            self.phase_done(name);
        } else {
            self.look_behind_programs(name, machine);
        }
    }

    /// When off may be given again after it did not work. Once at once, since
    /// it may need just that; then a device that refuses is not commanded more
    /// often than one that does not answer.
    fn off_may_be_given(&self, name: &MachineName, machine: &Machine) -> LabTime {
        let power_ms = self.limits(name).power_ms;
        // A power limit after it was decided, which the intent's time tells.
        // A spare leg is commanded alone.
        let place = |leg: usize| if machine.cut.is_some() { 0 } else { leg as u64 };
        let next = |leg: usize, i: &Intent| i.may_land_until.0.saturating_sub((place(leg) + 1) * power_ms);
        let offs = machine.legs.iter().enumerate().flat_map(|(leg, row)| {
            row.unsettled.iter().filter(|i| i.want == Switch::Off && i.twin).map(move |i| next(leg, i))
        });
        LabTime(offs.max().unwrap_or_default())
    }

    /// In a phase that needs the machine on: seen off means it never came on,
    /// or lost power since.
    fn on_progress(&mut self, name: &MachineName, machine: &Machine) {
        if machine.is_commanded() {
            return;
        }
        let off = |l: &Leg| l.seen.is_some_and(|s| s.reading.shows(Switch::Off));
        if machine.legs.iter().enumerate().any(|(leg, row)| self.lab.rules(machine, leg) && off(row)) {
            self.fail_phase(name, FailureClass::Power, "power was switched on and reads off");
        } else if self.ready_by_power(name) && self.lab.is_on(machine) {
            self.phase_done(name);
        }
    }

    /// The hand-over waits until no power effect may land any more and power
    /// was read to be what the goal wants.
    pub(crate) fn settle_progress(&mut self, name: &MachineName, machine: &Machine) {
        let want = self.settled_switch(machine);
        if !machine.settled() && self.fence(Fence::MayLandUntil) {
            return;
        }
        if self.shown(name, machine, want) {
            self.phase_done(name);
        } else if !self.waits_without_power(name, machine)
            && (0..machine.legs.len()).all(|leg| !self.lab.rules(machine, leg) || known(&machine.legs[leg]))
        {
            self.fail_phase(name, FailureClass::Power, "power changed by itself before the hand-over");
        }
    }

    /// Whether every leg is shown to be so: by its reading, or, where it
    /// cannot be read and is to be on, by this turn's agent, which could not
    /// speak otherwise.
    pub(crate) fn shown(&self, name: &MachineName, machine: &Machine, want: Switch) -> bool {
        let nonce = machine.turn().and_then(|t| t.attempt.as_ref()).map(|a| &a.nonce);
        let speaks = machine.agent.as_ref().is_some_and(|a| a.lost.is_none() && Some(&a.nonce) == nonce);
        if want == Switch::Off || machine.cut.is_some() {
            return want == Switch::Off && self.lab.is_off(machine, self.now());
        }
        machine.legs.iter().enumerate().filter(|(leg, _)| self.lab.rules(machine, *leg)).all(|(leg, row)| {
            row.seen.is_some_and(|s| s.reading.shows(want))
                || (want == Switch::On && speaks && !self.readable(name, leg))
        })
    }

    /// A holder's own power command went through: the second half of a cycle.
    fn holder_progress(&mut self, name: &MachineName, machine: &Machine) {
        let Stage::InUse { cycling: true, .. } = machine.stage else { return };
        if !machine.settled() {
            return;
        }
        let on = |l: &Leg| l.seen.is_some_and(|s| s.reading.shows(Switch::On));
        if self.lab.is_off(machine, self.now()) {
            // Else its circuit's turn comes.
            if self.may_start(name) {
                self.switch_all(name, Switch::On, Boot::AsIs);
            }
        } else if !self.waits_without_power(name, machine)
            && machine.legs.iter().enumerate().any(|(leg, row)| self.lab.rules(machine, leg) && on(row))
        {
            // Its off never happened, and never will now. To go on waiting
            // would have a later off of the holder's switch on again.
            self.change(Change::CycleStopped { machine: name.clone() });
        }
    }

    /// Whether an off is to be given again to a leg that does not answer: it
    /// may need just that to answer again (a virtual machine that was left
    /// half started). Off does no harm where it is already so.
    fn off_again(&self, name: &MachineName, machine: &Machine) -> bool {
        // One that was never read is read first.
        let unknown = |leg: usize| machine.legs[leg].seen.is_some() && self.unread(name, machine, leg);
        !machine.is_commanded()
            && machine.turn().is_some_and(|t| t.phase.wants_off())
            && (0..machine.legs.len()).any(unknown)
            && self.off_may_be_given(name, machine) <= self.now()
    }

    /// A machine that left the inventory has no driver to read its power. Its
    /// name is forgotten, and may come back, only when nothing can land.
    fn settle_by_time(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let now = self.now();
        self.lab.retries.remove(name);
        for (leg, row) in machine.legs.iter().enumerate() {
            for intent in row.unsettled.iter().filter(|i| i.may_land_until <= now) {
                self.change(Change::PowerSettled { machine: name.clone(), leg, intent: intent.id });
            }
        }
        self.retime(name);
        self.came_to_rest(name);
    }

    /// Whether a leg's state can be read at all.
    pub(super) fn readable(&self, name: &MachineName, leg: usize) -> bool {
        self.spec(name).and_then(|s| s.legs.get(leg)).is_none_or(|l| l.readback)
    }

    /// A command failed; what it may still do later is the intent's matter.
    fn power_failed(&mut self, name: &MachineName, want: Switch, answer: &str) {
        let Some(turn) = self.turn(name) else { return };
        if turn.phase.wants_off() && self.wants_cut(name) {
            self.switch_all(name, Switch::Off, Boot::Disk);
        } else if turn.phase.wants_off() {
            // Whatever the answer was: look, then command again if it is on.
            self.ask_later(name, ASK_AGAIN);
        } else if want == Switch::On
            && (turn.phase.awaits_attach() || matches!(turn.phase, Phase::Flash { .. }))
        {
            self.fail_phase(name, FailureClass::Power, answer);
        }
    }

    fn may_ask(&self, name: &MachineName) -> bool {
        self.lab.retries.get(name).is_none_or(|at| *at <= self.now())
    }

    pub(crate) fn ask_later(&mut self, name: &MachineName, ms: u64) {
        let at = self.now() + ms;
        self.lab.retries.insert(name.clone(), at);
        self.retime(name);
    }

    /// Judges what is due about power: runners that never reported, intents
    /// whose time has passed, questions that found no answer.
    pub(crate) fn power_due(&mut self, name: &MachineName) {
        let now = self.now();
        let Some(machine) = self.machine(name) else { return };
        for (leg, row) in machine.legs.iter().enumerate() {
            for intent in row.unsettled.iter().filter(|i| i.open && i.may_land_until <= now) {
                let answer = "no report from the driver in time".to_owned();
                let (machine, intent) = (name.clone(), intent.id);
                self.change(Change::PowerUnsettled { machine, leg, intent, answer });
            }
        }
        if self.spec(name).is_none() {
            return self.settle_by_time(name);
        }
        let Some(machine) = self.machine(name) else { return };
        let retry_due = self.lab.retries.get(name).is_some_and(|at| *at <= now);
        let landed = machine.legs.iter().flat_map(|l| &l.unsettled).any(|i| i.may_land_until <= now);
        let first = !self.lab.retries.contains_key(name);
        if retry_due || (landed && first) {
            self.lab.retries.remove(name);
            let cycles = matches!(machine.stage, Stage::InUse { cycling: true, .. });
            let idle = |p: &Phase| matches!(p, Phase::Disk { .. } | Phase::Seed | Phase::Start { .. });
            let waits = cycles || machine.turn().is_some_and(|t| !idle(&t.phase));
            if self.off_again(name, &machine) {
                self.ask_later(name, self.limits(name).power_ms);
                self.switch_all(name, Switch::Off, Boot::Disk);
            } else if landed || waits {
                self.observe_all(name);
            } else {
                self.retime(name);
            }
        }
    }
}

fn known(leg: &Leg) -> bool {
    leg.seen.is_some_and(|s| s.reading != Reading::Unknown)
}

/// What a leg that cannot be read is: what the last command made of it, as
/// far as anybody knows, and not even that once a command for the opposite
/// may have landed later. The row knows this; the lane that gave the command
/// may have died since.
fn assumed(row: &Leg) -> Reading {
    match row.seen {
        Some(Seen { reading: Reading::Assumed(want), at, .. })
            if row.unsettled.iter().all(|i| i.want == want || i.may_land_until <= at) =>
        {
            Reading::Assumed(want)
        }
        _ => Reading::Unknown,
    }
}
