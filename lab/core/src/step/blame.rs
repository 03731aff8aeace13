//! Who is to blame for a turn that was given up: the machine, its image, or
//! something that many machines share.
//!
//! ```text
//!   given up ─┬─ the image failed on two machines of the class ─▶ it is suspected: not handed out
//!             │                                                   until it is replaced, trusted, or
//!             │                                                   comes up on the one that tries it
//!             ├─ a fifth of the class failed at this within an
//!             │  hour ──────────────────────────────────────────▶ paused: the class, or, where others of
//!             │                                                   it work, the machine alone
//!             └─ else ──────────────────────────────────────────▶ quarantined; proven by itself later
//! ```

use super::Step;
use super::agent::cut;
use super::circuit::Room;
use crate::effect::{Boot, Effect};
use crate::experience::{HOUR, MINUTE, Quarantine, Trouble, doubled, remember, rest_before_proof};
use crate::id::ReservationId;
use crate::inventory::model::{HealthCheck, MachineSpec};
use crate::machine::{
    DiskPlan, Failure, FailureClass, Goal, Health, ImageRef, Machine, Phase, Purpose, Stage, Switch, Turn,
};
use crate::record::{Actor, Change};
use crate::reservation::{Status, Want};
use crate::time::LabTime;
use pitstop_wire::MachineName;

/// Machines of a class on which an image has to fail before it is suspected.
const SUSPECT_AFTER: usize = 2;
/// How long a suspected image rests before one machine may try it (ms);
/// longer each time.
const TRIAL_AFTER: u64 = 30 * MINUTE;
/// The smallest class of which a fifth means something.
const STORM_CLASS: usize = 5;
/// How long a class that fails all at once is paused (ms).
const PAUSE: u64 = 15 * MINUTE;
/// How long a proving turn that is not convenient now is put off (ms).
const PUT_OFF: u64 = 5 * MINUTE;

enum Blame {
    Machine,
    Image,
    /// Something that the machines of a class have in common.
    Class,
    /// The lab itself.
    Lab,
}

impl Step<'_> {
    /// The turn ends here: all its tries failed.
    pub(crate) fn give_up(&mut self, name: &MachineName, turn: &Turn, failure: Failure) {
        let blame = self.blame(name, turn, &failure);
        if let Some(id) = turn.reservation {
            let replaced = turn.image.as_ref().is_some_and(|image| self.successor(image).is_some());
            self.member_failed(id, name, &failure, matches!(blame, Blame::Image) && !replaced);
        }
        match blame {
            // The machine did what it was told. Where the image is the
            // machine's own, it rests without a proof: the next one to have
            // it asks for one, or brings another image.
            Blame::Image => match turn.purpose {
                Purpose::Prepare => self.turn_around(name, "ci"),
                _ => self.begin_turn(name, Purpose::Turnaround, Goal::Off, None, None, DiskPlan::Leave),
            },
            Blame::Class => {
                self.dismiss(name, "its class fails all at once");
                self.change(Change::Freed { machine: name.clone(), good: false });
                if turn.purpose == Purpose::Prove {
                    self.change(Change::ProofInVain { machine: name.clone() });
                }
                self.pause_class(name, failure.class, turn.started);
                self.switch_off(name, failure.class);
            }
            // It waits for what failed, and is tried again.
            Blame::Lab => {
                self.dismiss(name, "the lab could not do its part");
                self.change(Change::Freed { machine: name.clone(), good: false });
                let (class, until) = (self.class_of(name), self.now() + PAUSE);
                let machines = vec![name.clone()];
                self.change(Change::ClassPaused { class, machines, cause: failure.class, until });
                self.switch_off(name, failure.class);
            }
            Blame::Machine => {
                self.dismiss(name, "the machine is quarantined");
                self.change(Change::Freed { machine: name.clone(), good: false });
                self.quarantine(name, failure);
            }
        }
    }

    fn blame(&mut self, name: &MachineName, turn: &Turn, failure: &Failure) -> Blame {
        if failure.class == FailureClass::Drift {
            return Blame::Machine; // whatever its class does, this is another one
        }
        let tried = turn.image.clone().filter(|_| at_the_image(turn, failure.class));
        if let Some(image) = tried {
            // Somebody put another in its place, for a reason: the machine
            // shows with that one what it is worth.
            if self.successor(&image).is_some() && turn.purpose != Purpose::Prove {
                return Blame::Image;
            }
            self.image_failed(name, &image, failure);
            let says_so = failure.class == FailureClass::Image && turn.purpose != Purpose::Prove;
            if says_so || self.is_suspect(name, &image) {
                return Blame::Image;
            }
        }
        // One that was in quarantine before stays there, whatever its class does.
        let good = self.machine(name).is_some_and(|m| m.health == Health::Good);
        if good && failure.class == FailureClass::Lab {
            return Blame::Lab;
        }
        if good && self.too_many(name, failure.class) { Blame::Class } else { Blame::Machine }
    }

    // ── images ──

    /// The machine's class, as images know it.
    fn class_of(&self, name: &MachineName) -> String {
        self.spec(name).and_then(|s| s.class.clone()).unwrap_or_default()
    }

    pub(crate) fn is_suspect(&self, name: &MachineName, image: &ImageRef) -> bool {
        self.spec(name).is_some_and(|spec| self.lab.is_suspect(image, spec))
    }

    /// Whether the turn's further tries could only fail like this one.
    pub(crate) fn is_hopeless(&self, name: &MachineName, turn: &Turn, class: FailureClass) -> bool {
        at_the_image(turn, class) && turn.image.as_ref().is_some_and(|image| self.is_suspect(name, image))
    }

    fn image_failed(&mut self, name: &MachineName, image: &ImageRef, failure: &Failure) {
        // Only the image that has the name now: another one is nobody's trouble any more.
        if self.successor(image).is_some() || !self.lab.images.contains_key(&image.name) {
            return;
        }
        let (class, failure) = (self.class_of(name), failure.clone());
        let (called, machine) = (image.name.clone(), name.clone());
        self.change(Change::ImageFailed { image: called.clone(), machine, class: class.clone(), failure });
        let Some(trouble) = self.lab.trouble(image, &class).cloned() else { return };
        // Of those that were on their way when it came under suspicion, none
        // says anything new; one that tried it since does.
        let known = trouble.suspect.is_some_and(|s| !s.trying);
        if known || trouble.machines.len() < SUSPECT_AFTER {
            return;
        }
        let tries = trouble.suspect.map_or(0, |s| s.tries as usize + 1);
        let again = self.now() + doubled(TRIAL_AFTER, tries + 1);
        self.change(Change::ImageSuspected { image: called, class, again });
        for machine in &trouble.machines {
            self.prove_now(machine);
        }
    }

    /// Machines that were blamed for what now seems to be another's fault are
    /// proven at once.
    fn prove_now(&mut self, name: &MachineName) {
        if self.machine(name).is_some_and(|m| matches!(m.health, Health::Quarantined { .. })) {
            self.change(Change::QuarantineExcused { machine: name.clone() });
        }
    }

    /// The image was written whole, or came up: whatever failed at that
    /// before was not its fault.
    pub(crate) fn image_worked(&mut self, name: &MachineName, came_up: bool) {
        let Some(image) = self.turn(name).and_then(|t| t.image) else { return };
        let class = self.class_of(name);
        let over = |t: &Trouble| came_up || t.failure.class == FailureClass::Image;
        if self.lab.trouble(&image, &class).is_some_and(over) {
            self.change(Change::ImageWorked { image: image.name, class });
        }
    }

    /// A machine is given with a suspected image: the others wait for how it
    /// goes.
    pub(crate) fn image_tried(&mut self, name: &MachineName, image: &ImageRef, want: Want) {
        let class = self.class_of(name);
        let shows = |t: &Trouble| {
            t.suspect.is_some_and(|s| s.trial)
                && (want == Want::Image || t.failure.class == FailureClass::Image)
        };
        if !self.lab.trouble(image, &class).is_some_and(shows) {
            return;
        }
        // It may never come to an answer: its holder may leave before.
        let again = self.now() + TRIAL_AFTER;
        self.change(Change::ImageTried { image: image.name.clone(), class, again });
    }

    /// What may be tried again, now that an image has rested.
    pub(crate) fn image_is_due(&mut self, name: &str) {
        let now = self.now();
        let Some(row) = self.lab.images.get(name).cloned() else { return };
        for (class, trouble) in &row.trouble {
            if trouble.suspect.is_some_and(|s| !s.trial && s.again <= now) {
                self.change(Change::ImageOnTrial { image: name.to_owned(), class: class.clone() });
            }
        }
    }

    /// The image that has this one's name now, if that is another.
    fn successor(&self, image: &ImageRef) -> Option<&ImageRef> {
        self.lab.images.get(&image.name).map(|row| &row.image).filter(|now| now.digest != image.digest)
    }

    /// A reservation failed with an image that has been replaced: it goes on
    /// with what has the name now, if that will do.
    pub(crate) fn take_successor(&mut self, reservation: ReservationId) {
        let ask = self.lab.reservations.get(&reservation).map(|r| &r.ask);
        let Some((want, image)) = ask.and_then(|ask| Some((ask.want, ask.image.clone()?))) else { return };
        let fits = |new: &&ImageRef| image.seed.is_none() || want.can_have(new);
        if let Some(image) = self.successor(&image).filter(fits).cloned() {
            self.change(Change::ImageReplaced { reservation, image });
        }
    }

    /// A name is about to stand for another image. Who waits for one that has
    /// failed would wait for it to fail again: he gets the new one.
    pub(crate) fn image_replaced(&mut self, new: &ImageRef) {
        let Some(row) = self.lab.images.get(&new.name).cloned() else { return };
        if row.trouble.is_empty() || row.image.digest == new.digest {
            return;
        }
        let waits = |r: &crate::reservation::Reservation| {
            r.status == Status::Waiting
                && r.ask.image.as_ref().is_some_and(|i| i.digest == row.image.digest)
                // Where the old one needed no seed, a board wants it.
                && (row.image.seed.is_none() || r.ask.want.can_have(new))
        };
        let waiting: Vec<_> = self.lab.queue().filter(|r| waits(r)).map(|r| r.id).collect();
        for reservation in waiting {
            self.change(Change::ImageReplaced { reservation, image: new.clone() });
        }
    }

    // ── classes ──

    /// Whether one more quarantine for this cause would put more than a fifth
    /// of the machine's class out of use within an hour.
    fn too_many(&self, name: &MachineName, cause: FailureClass) -> bool {
        let members = self.class_members(name);
        let since = |q: &Quarantine| q.class == cause && self.now() - q.at < HOUR;
        let failed = |n: &&MachineName| {
            *n != name && self.lab.machines.get(*n).is_some_and(|m| m.quarantines.iter().any(since))
        };
        let before = members.iter().filter(failed).count();
        members.len() >= STORM_CLASS && before + 1 > members.len() / 5
    }

    /// The machines of the class of this one; none if it has no class.
    fn class_members(&self, name: &MachineName) -> Vec<MachineName> {
        let Some(class) = self.spec(name).and_then(|s| s.class.as_ref()) else { return Vec::new() };
        let same = |n: &&MachineName| self.spec(n).is_some_and(|s| s.class.as_ref() == Some(class));
        self.lab.machines.keys().filter(same).cloned().collect()
    }

    /// Pauses what seems to be ill: the class, or, where another of it ended a
    /// turn well while this one failed, this machine alone. Two broken boards
    /// must not keep four good ones idle.
    fn pause_class(&mut self, name: &MachineName, cause: FailureClass, began: LabTime) {
        let mut machines = self.class_members(name);
        let worked = |n: &MachineName| self.lab.machines.get(n).and_then(|m| m.worked);
        if machines.iter().any(|n| n != name && worked(n).is_some_and(|at| at > began)) {
            machines = vec![name.clone()];
        }
        if self.machine(name).is_some_and(|m| m.pause.is_some_and(|p| p.cause == cause)) {
            return;
        }
        let (class, until) = (self.class_of(name), self.now() + PAUSE);
        self.change(Change::ClassPaused { class, machines, cause, until });
    }

    fn resume_class(&mut self, name: &MachineName) {
        let mut machines = self.class_members(name);
        if !machines.contains(name) {
            machines.push(name.clone()); // it left its class meanwhile
        }
        machines.retain(|n| self.lab.machines.get(n).is_some_and(|m| m.pause.is_some()));
        self.change(Change::ClassResumed { class: self.class_of(name), machines });
    }

    /// A pause is over: whoever waits may try.
    pub(crate) fn pause_is_due(&mut self, name: &MachineName) {
        let now = self.now();
        if self.machine(name).is_some_and(|m| m.pause.is_some_and(|p| p.until <= now)) {
            self.resume_class(name);
        }
    }

    // ── machines ──

    /// Out of use until proven; off, as far as it obeys.
    fn quarantine(&mut self, name: &MachineName, failure: Failure) {
        let Some(machine) = self.machine(name) else { return };
        let class = failure.class;
        if matches!(machine.health, Health::Good | Health::Quarantined { .. }) {
            let at = self.now();
            let mut past = machine.quarantines.clone();
            remember(&mut past, Quarantine { at, class });
            let again = at + rest_before_proof(&past, at);
            let health = Health::Quarantined { failure, at, again };
            self.change(Change::HealthSet { machine: name.clone(), health });
        }
        self.switch_off(name, class);
    }

    fn switch_off(&mut self, name: &MachineName, failed: FailureClass) {
        if failed != FailureClass::Power {
            self.switch_all(name, Switch::Off, Boot::AsIs);
        }
        self.came_to_rest(name);
    }

    /// A machine at rest whose time has come: one in quarantine shows whether
    /// it is well again, one in use shows that it still is.
    pub(crate) fn proof_is_due(&mut self, name: &MachineName, machine: &Machine) {
        let now = self.now();
        if machine.stage != Stage::Free || self.lab.proof_due(machine).is_none_or(|at| at > now) {
            return;
        }
        if !self.is_known(name) || (machine.health == Health::Good && !self.is_convenient(name)) {
            return self.ask_later(name, PUT_OFF);
        }
        self.actor = Actor::Time;
        match self.room_behind_the_queue(machine) {
            Room::Now => self.begin_proof(name, machine),
            // A warm machine would else keep one in quarantine for ever.
            Room::Soon if machine.health != Health::Good => {
                self.change(Change::ProofAsked { machine: name.clone() });
            }
            Room::Soon | Room::No => self.ask_later(name, PUT_OFF),
        }
    }

    /// Whether a healthy machine can be spared: nobody waits, and the rest of
    /// its class is not on such a turn, too. Those without a class are one.
    fn is_convenient(&self, name: &MachineName) -> bool {
        let proves = |n: &&MachineName| {
            let turn = self.lab.machines.get(*n).and_then(|m| m.turn());
            turn.is_some_and(|t| t.purpose == Purpose::Prove)
        };
        let class = |n: &MachineName| self.spec(n).and_then(|s| s.class.as_ref());
        let members: Vec<_> = self.lab.machines.keys().filter(|n| class(n) == class(name)).collect();
        let busy = members.iter().copied().filter(proves).count();
        self.lab.waiting.is_empty() && busy < (members.len() / 5).max(1)
    }

    /// A turn without a tenant: everything is written and proven again. With
    /// zeroes where it is not sure that the image can be.
    pub(crate) fn begin_proof(&mut self, name: &MachineName, machine: &Machine) {
        let blamed = matches!(&machine.health,
            Health::Quarantined { failure, .. } if failure.class == FailureClass::Image);
        let image = self.lab.trusted_image(name).filter(|_| !blamed);
        let boots = self.check_of(name).is_some() && image.as_ref().is_some_and(|i| i.seed.is_some());
        let goal = if boots { Goal::Image } else { Goal::Off };
        self.begin_turn(name, Purpose::Prove, goal, None, image, DiskPlan::Write);
    }

    /// The command that shows that the machine is well, if it has one.
    pub(crate) fn check_of(&self, name: &MachineName) -> Option<&HealthCheck> {
        let runs_image = |s: &&MachineSpec| s.runs_agent();
        self.spec(name).filter(runs_image)?.health.as_ref().filter(|h| !h.run.is_empty())
    }

    pub(crate) fn begin_check(&mut self, name: &MachineName) {
        let Some(attempt) = self.turn(name).and_then(|t| t.attempt) else { return };
        let Some(run) = self.check_of(name).map(|c| c.run.clone()) else {
            return self.phase_done(name); // the inventory has none any more
        };
        self.effect(Effect::Check { machine: name.clone(), nonce: attempt.nonce, run });
    }

    pub(crate) fn checked(&mut self, name: &MachineName, nonce: &str, result: Result<(), String>) {
        let Some(turn) = self.turn(name).filter(|t| t.phase == Phase::Check) else { return };
        if turn.attempt.is_none_or(|a| a.nonce != nonce) {
            return;
        }
        match result {
            Ok(()) => self.phase_done(name),
            Err(said) => self.fail_phase(name, FailureClass::Health, &cut(&said)),
        }
    }

    /// A machine came through its proving turn. What its class was paused for
    /// seems to be over.
    pub(crate) fn proof_succeeded(&mut self, name: &MachineName) {
        self.change(Change::ProofPassed { machine: name.clone() });
        let Some(machine) = self.machine(name) else { return };
        if machine.pause.is_some() {
            self.resume_class(name);
        }
        if matches!(machine.health, Health::Quarantined { .. }) {
            self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
        }
    }
}

/// Whether the turn failed where its image has a part in it: as the agent
/// says, or because what was written did not come up.
fn at_the_image(turn: &Turn, class: FailureClass) -> bool {
    class == FailureClass::Image || (turn.phase == Phase::Evidence && class == FailureClass::Boot)
}
