//! Programs of the lab's that run for a machine: its hooks, and what writes
//! and reads back the flash of a board.
//!
//! A program may do anything to the machine, and no number reaches into it. So
//! it is an intent of the first leg, like an act of a person: until it is known
//! to be over, or its time has passed, and power was read after that, nobody is
//! handed the machine. What was proven before a hook counts again when
//! somebody has looked behind it: the agent that proved it is still the same,
//! or the flash was read back once more.

use super::Step;
use super::agent::cut;
use crate::effect::{Boot, Effect, Fill};
use crate::event::{ProgramTrouble, ReadBack};
use crate::fence::Fence;
use crate::id::IntentId;
use crate::inventory::model::{DriverSpec, Hook};
use crate::inventory::{Point, template};
use crate::machine::{
    CommandProof, Content, DiskPlan, FailureClass, Goal, ImageRef, Intent, Job, Machine, Phase, Stage,
    Switch, Turn,
};
use crate::record::Change;
use crate::step::turn::target;
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::Work;

/// How much later than its time a program's end may be reported (ms).
const REPORTED: u64 = 10_000;
/// How long each program of a board's programmer may take where the inventory
/// does not say (ms).
pub(crate) const PROGRAM_MS: u64 = 300_000;
/// Pause before a programmer is begun again that the lab itself held up (ms).
const AGAIN: u64 = 5_000;

/// Why the placeholders of a hook stand for nothing.
enum Unfilled {
    /// The turn has no image.
    NoImage(String),
    /// What belongs to its image is not there: whoever added it forgot that.
    Lacks(String),
}

impl Step<'_> {
    // ── hooks ──

    fn hooks(&self, name: &MachineName, point: Point) -> &[Hook] {
        self.spec(name).and_then(|s| s.hooks.get(&point)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn has_hooks(&self, name: &MachineName, point: Point) -> bool {
        !self.hooks(name, point).is_empty()
    }

    /// How long the phase of a hook may last.
    pub(crate) fn hook_ms(&self, name: &MachineName, point: Point, hook: usize) -> u64 {
        self.hooks(name, point).get(hook).map_or(0, Hook::timeout_ms) + 2 * REPORTED
    }

    /// The next hook of a point, or what follows them.
    pub(crate) fn next_hook(&mut self, name: &MachineName, point: Point, hook: usize) {
        if hook < self.hooks(name, point).len() {
            return self.enter(name, Phase::Hook { point, hook });
        }
        if hook > 0 {
            self.change(Change::HooksDone { machine: name.clone(), point });
        }
        let Some(machine) = self.machine(name) else { return };
        let Some(turn) = machine.turn() else { return };
        match point {
            Point::BeforeRelease | Point::BeforePower => self.enter(name, Phase::Off),
            Point::AfterAttach => self.next_disk(name, &machine, turn, 0),
            Point::AfterImage if !machine.meddled => self.disks_are_done(name),
            Point::AfterImage if self.programmer(name).is_none() => self.enter(name, Phase::AfterHooks),
            Point::AfterImage if self.reads_back(name) => self.enter(name, Phase::Flash { writing: false }),
            // Nobody knows what is on it anyway.
            Point::AfterImage => self.disks_are_done(name),
            Point::OnFailure => {}
        }
    }

    pub(crate) fn begin_hook(&mut self, name: &MachineName, point: Point, index: usize) {
        let Some(hook) = self.hooks(name, point).get(index).cloned() else {
            return self.next_hook(name, point, index); // the inventory has none any more
        };
        let image = self.turn(name).and_then(|t| t.image);
        match self.run_hook(name, point, &hook, image.as_ref()) {
            Ok(()) => {}
            // A turn that writes zeroes, or only looks: it has nothing to do there.
            Err(Unfilled::NoImage(why)) => {
                self.never_begun(name, point, &hook, &why, true);
                self.phase_done(name);
            }
            Err(Unfilled::Lacks(why)) => {
                self.never_begun(name, point, &hook, &why, hook.only_warns());
                self.hook_ended(name, point, &hook.name, Err((FailureClass::Image, why)));
            }
        }
    }

    /// Begins a hook, or says why it cannot be.
    fn run_hook(
        &mut self,
        name: &MachineName,
        point: Point,
        hook: &Hook,
        image: Option<&ImageRef>,
    ) -> Result<(), Unfilled> {
        let fill = self.filled(name, hook, image)?;
        let ms = hook.timeout_ms();
        let job = Job::Hook { point, hook: hook.name.clone() };
        let (intent, nonce) = self.begin_program(name, job, ms);
        let (machine, hook, until) = (name.clone(), hook.name.clone(), self.now() + ms);
        self.effect(Effect::Hook { machine, intent, nonce, point, hook, fill, until });
        Ok(())
    }

    /// What the placeholders of a hook stand for now.
    fn filled(&self, name: &MachineName, hook: &Hook, image: Option<&ImageRef>) -> Result<Fill, Unfilled> {
        let mut fill = Fill::default();
        for place in hook.run().into_iter().flat_map(template::placeholders) {
            let (what, part) = place.split_once('.').unwrap_or((place, ""));
            if what == "machine" && part.is_empty() {
                fill.words.insert(place.to_owned(), name.to_string());
                continue;
            }
            let image = image.ok_or_else(|| {
                Unfilled::NoImage(format!(
                    "not run: no image is written in this turn, as `{{{place}}}` wants"
                ))
            })?;
            match part {
                "name" => drop(fill.words.insert(place.to_owned(), image.name.clone())),
                "digest" => drop(fill.words.insert(place.to_owned(), image.digest.clone())),
                "" => drop(fill.files.insert(place.to_owned(), image.digest.clone())),
                // What belongs to an image has its name, and its own behind a dot.
                part => {
                    let called = format!("{}.{part}", image.name);
                    let row = self.lab.images.get(&called);
                    let row = row.ok_or_else(|| {
                        Unfilled::Lacks(format!("`{{{place}}}`: there is no image `{called}`"))
                    })?;
                    fill.files.insert(place.to_owned(), row.image.digest.clone());
                }
            }
        }
        Ok(fill)
    }

    /// A hook that could not even be begun is told, too.
    fn never_begun(&mut self, name: &MachineName, point: Point, hook: &Hook, why: &str, warned: bool) {
        self.change(Change::ProgramEnded {
            machine: name.clone(),
            job: Job::Hook { point, hook: hook.name.clone() },
            intent: 0,
            over: true,
            trouble: Some(why.to_owned()),
            warned,
            again: None,
        });
    }

    /// A hook reported.
    pub(crate) fn hooked(
        &mut self,
        name: &MachineName,
        (intent, nonce): (IntentId, &str),
        over: bool,
        result: Result<(), ProgramTrouble>,
    ) {
        let Some(running) = self.machine(name).and_then(|m| m.running.clone()) else { return };
        let Job::Hook { point, hook } = &running.job else { return };
        if running.intent != intent || (running.nonce != nonce && self.fence(Fence::Nonce)) {
            return; // of another run
        }
        let class = |lab| if lab { FailureClass::Lab } else { FailureClass::Health };
        let result = result.map_err(|trouble| (class(trouble.lab), cut(&trouble.text)));
        self.end_program(name, over, result.as_ref().err().map(|(_, said)| said.clone()), None);
        self.hook_ended(name, *point, hook, result);
    }

    /// What the end of a hook means for the turn.
    fn hook_ended(
        &mut self,
        name: &MachineName,
        point: Point,
        hook: &str,
        result: Result<(), (FailureClass, String)>,
    ) {
        let at = self.hooks(name, point).iter().position(|h| h.name == hook);
        if point == Point::OnFailure {
            return self.next_failure_hook(name, at.map_or(usize::MAX, |at| at.saturating_add(1)));
        }
        let Some(turn) = self.turn(name) else { return };
        if !matches!(turn.phase, Phase::Hook { point: now, .. } if now == point) {
            return;
        }
        let warns = at.and_then(|at| self.hooks(name, point).get(at)).is_some_and(Hook::only_warns);
        match result {
            Err((class, said)) if !warns => {
                self.fail_phase(name, class, &format!("hook {point} {hook}: {said}"));
            }
            _ => self.phase_done(name),
        }
    }

    // ── a failed turn ──

    /// A turn was given up. What its hooks find out is for people; the
    /// quarantine waits for none of it.
    pub(crate) fn begin_failure_hooks(&mut self, name: &MachineName, image: Option<&ImageRef>) {
        if self.machine(name).is_none_or(|m| m.running.is_some()) || !self.is_known(name) {
            return;
        }
        self.failure_hook(name, 0, image);
    }

    /// The others follow while nobody has anything else in mind with it.
    fn next_failure_hook(&mut self, name: &MachineName, index: usize) {
        let rests = self.machine(name).is_some_and(|m| m.stage == Stage::Free && m.running.is_none());
        if rests && self.is_known(name) {
            self.failure_hook(name, index, None);
        }
    }

    fn failure_hook(&mut self, name: &MachineName, index: usize, image: Option<&ImageRef>) {
        let Some(hook) = self.hooks(name, Point::OnFailure).get(index).cloned() else { return };
        let own = self.lab.default_image(name);
        if let Err(Unfilled::NoImage(why) | Unfilled::Lacks(why)) =
            self.run_hook(name, Point::OnFailure, &hook, image.or(own.as_ref()))
        {
            self.never_begun(name, Point::OnFailure, &hook, &why, true);
            self.next_failure_hook(name, index + 1);
        }
    }

    // ── any program ──

    /// Stores that a program is begun, which its effect follows. It may take
    /// `ms`, and then no longer than power may take to obey.
    fn begin_program(&mut self, name: &MachineName, job: Job, ms: u64) -> (IntentId, String) {
        if self.machine(name).is_some_and(|m| m.running.is_some()) {
            self.end_program(name, false, Some("another one is begun".to_owned()), None);
        }
        let nonce = self.nonce();
        let id = self.lab.machines.get(name).map_or(0, |m| m.intents) + 1;
        let may_land_until = self.now() + ms + REPORTED + self.limits(name).power_ms;
        // What it does to the machine may be as much as switching it on.
        let intent = Intent { id, want: Switch::On, may_land_until, open: false, twin: true };
        self.change(Change::ProgramBegun { machine: name.clone(), job, nonce: nonce.clone(), intent });
        (id, nonce)
    }

    /// How long after its beginning a program of the machine's may act at most.
    pub(crate) fn longest_program(&self, name: &MachineName) -> u64 {
        let Some(spec) = self.spec(name) else { return 0 };
        let hooks = spec.hooks.values().flatten().map(Hook::timeout_ms);
        let programmer = spec.programmer().map(|p| 3 * p.ms("timeout").unwrap_or(PROGRAM_MS));
        let longest = hooks.chain(programmer).max();
        longest.map_or(0, |ms| ms + REPORTED + spec.limits.power_ms)
    }

    fn end_program(
        &mut self,
        name: &MachineName,
        over: bool,
        trouble: Option<String>,
        again: Option<LabTime>,
    ) {
        let Some(running) = self.machine(name).and_then(|m| m.running.clone()) else { return };
        let warned = match &running.job {
            Job::Hook { point, hook } if trouble.is_some() => {
                let hook = self.hooks(name, *point).iter().find(|h| h.name == *hook);
                *point == Point::OnFailure || hook.is_some_and(Hook::only_warns)
            }
            _ => false,
        };
        let (machine, job, intent) = (name.clone(), running.job, running.intent);
        self.change(Change::ProgramEnded { machine, job, intent, over, trouble, warned, again });
    }

    /// Nobody waits for what runs for the machine any more, but for what a
    /// failed turn left to be found out.
    pub(crate) fn stop_program(&mut self, name: &MachineName, why: &str) {
        let Some(running) = self.machine(name).and_then(|m| m.running.clone()) else { return };
        if matches!(running.job, Job::Hook { point: Point::OnFailure, .. }) {
            return;
        }
        self.end_program(name, false, Some(why.to_owned()), None);
        self.effect(Effect::Stop { machine: name.clone(), intent: running.intent });
    }

    /// A program that was stopped is gone.
    pub(crate) fn program_gone(&mut self, name: &MachineName, intent: IntentId) {
        let now = self.now();
        let waits = |m: &Machine| {
            let mut all = m.legs.iter().flat_map(|leg| &leg.unsettled);
            all.any(|i| i.id == intent && i.may_land_until > now)
        };
        if self.machine(name).is_some_and(|m| waits(&m)) {
            self.change(Change::ProgramGone { machine: name.clone(), intent });
        }
    }

    /// A daemon that starts runs no program; that of its predecessor was ended
    /// with it, as far as anybody knows.
    pub(crate) fn programs_after_start(&mut self, name: &MachineName) {
        let Some(running) = self.machine(name).and_then(|m| m.running.clone()) else { return };
        self.end_program(name, false, Some(super::RESTARTED.to_owned()), None);
        if let Job::Hook { point: Point::OnFailure, hook } = running.job
            && let Some(at) = self.hooks(name, Point::OnFailure).iter().position(|h| h.name == hook)
        {
            self.next_failure_hook(name, at);
        }
    }

    // ── boards ──

    /// What writes the machine's flash, if a program of the lab's does.
    pub(crate) fn programmer(&self, name: &MachineName) -> Option<&DriverSpec> {
        self.spec(name)?.programmer()
    }

    fn reads_back(&self, name: &MachineName) -> bool {
        self.spec(name).is_some_and(|s| s.reads_back())
    }

    /// Whether a board has power while it is written.
    pub(crate) fn flash_power(&self, name: &MachineName) -> Switch {
        match self.programmer(name).and_then(|p| p.text("power")) {
            Some("off") => Switch::Off,
            _ => Switch::On,
        }
    }

    /// Whether the turn, which is off now, is about to switch on.
    pub(crate) fn switches_on(&self, name: &MachineName, next: &Phase, turn: &Turn) -> bool {
        match next {
            Phase::Settle => false,
            Phase::Flash { .. } => turn.goal != Goal::Off || self.flash_power(name) == Switch::On,
            _ => true,
        }
    }

    /// Whether the board is to be written in this turn. Without an image there
    /// is nothing to write: its flash has no zeroes that we could know of.
    pub(crate) fn needs_flash(&self, name: &MachineName, machine: &Machine, turn: &Turn) -> bool {
        if self.programmer(name).is_none() || turn.disks == DiskPlan::Leave {
            return false;
        }
        let Some(image) = &turn.image else { return false };
        let holds = |c: &Content| matches!(c, Content::ByCommand(p) if p.digest == image.digest);
        let current = machine.all_clean() && machine.disks.iter().all(|d| holds(&d.content));
        turn.disks == DiskPlan::Write || !current
    }

    pub(crate) fn begin_flash(&mut self, name: &MachineName, writing: bool) {
        if writing {
            let attempt = self.machine(name).map_or(0, |m| m.attempts) + 1;
            let nonce = self.nonce();
            self.change(Change::AttemptStarted { machine: name.clone(), attempt, nonce });
            if self.flash_power(name) == Switch::On {
                self.switch_all(name, Switch::On, Boot::Disk);
                return self.flash_progress(name); // without legs nobody will report
            }
        }
        self.observe_all(name);
        self.flash_progress(name);
    }

    /// Begins the programmer as soon as power is as it needs it and nothing
    /// else may act on the board.
    pub(crate) fn flash_progress(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let Some((turn, writing)) = machine.turn().and_then(|t| match t.phase {
            Phase::Flash { writing } => Some((t, writing)),
            _ => None,
        }) else {
            return;
        };
        let waits = turn.stalled.as_ref().is_some_and(|s| s.again > self.now());
        if machine.running.is_some() || machine.is_commanded() || waits {
            return;
        }
        let want = self.flash_power(name);
        let (other, word) = match want {
            Switch::On => (Switch::Off, "off"),
            Switch::Off => (Switch::On, "on"),
        };
        // A spare leg stays on where the board is to be off, and says nothing.
        if self.lab.ruling(&machine).any(|(_, l)| l.seen.is_some_and(|s| s.reading.shows(other))) {
            let text = format!("power reads {word} while its flash is written or read");
            return self.fail_phase(name, FailureClass::Power, &text);
        }
        let is = match want {
            Switch::On => self.lab.is_on(&machine),
            Switch::Off => self.lab.is_off(&machine, self.now()),
        };
        if is && (machine.settled() || !self.fence(Fence::MayLandUntil)) {
            self.begin_programmer(name, turn, writing);
        }
    }

    fn begin_programmer(&mut self, name: &MachineName, turn: &Turn, writing: bool) {
        let Some(image) = target(turn, Default::default()) else {
            return self.fail_phase(name, FailureClass::Image, "there is no image to write");
        };
        let programs = 1 + u64::from(self.reads_back(name)) + u64::from(writing);
        let Some(ms) = self.programmer(name).map(|p| p.ms("timeout").unwrap_or(PROGRAM_MS)) else {
            return self.fail_phase(name, FailureClass::Disk, "nothing writes its flash any more");
        };
        if writing && self.fence(Fence::DiskBeforeEffect) {
            let attempt = turn.attempt.as_ref().map_or(0, |a| a.number);
            self.change(Change::DiskWriting { machine: name.clone(), disk: 0, attempt });
        }
        let ms = programs * ms;
        let (job, write) = if writing { (Job::Write, true) } else { (Job::ReadBack, false) };
        let (intent, nonce) = self.begin_program(name, job, ms);
        let (machine, until) = (name.clone(), self.now() + ms);
        self.effect(Effect::Program { machine, intent, nonce, image, write, until });
    }

    /// A programmer reported.
    pub(crate) fn programmed(
        &mut self,
        name: &MachineName,
        (intent, nonce): (IntentId, &str),
        over: bool,
        result: Result<Option<ReadBack>, ProgramTrouble>,
    ) {
        let Some(running) = self.machine(name).and_then(|m| m.running.clone()) else { return };
        let hook = matches!(running.job, Job::Hook { .. });
        if hook || running.intent != intent || (running.nonce != nonce && self.fence(Fence::Nonce)) {
            return; // of another run
        }
        let Some(turn) = self.turn(name).filter(|t| matches!(t.phase, Phase::Flash { .. })) else { return };
        match result {
            Err(ProgramTrouble { lab: true, text }) => {
                // Not the board's fault: the same again, as long as the phase lasts.
                let again = self.now() + AGAIN;
                self.end_program(name, over, Some(cut(&text)), Some(again));
                self.ask_later(name, AGAIN);
            }
            Err(ProgramTrouble { lab: false, text }) => {
                let text = cut(&text);
                self.end_program(name, over, Some(text.clone()), None);
                self.fail_phase(name, FailureClass::Disk, &text);
            }
            Ok(read) => {
                self.end_program(name, over, None, None);
                self.flash_written(name, &turn, nonce, read);
            }
        }
    }

    fn flash_written(&mut self, name: &MachineName, turn: &Turn, nonce: &str, read: Option<ReadBack>) {
        let (Some(image), Some(attempt)) = (&turn.image, &turn.attempt) else { return };
        let Some(read) = read.filter(|_| self.reads_back(name)) else {
            // The inventory may have changed since it was begun.
            if turn.reservation.is_some_and(|id| self.wants_clean(id)) {
                let text = "nothing reads its flash back any more, and it was to be handed over clean";
                return self.fail_phase(name, FailureClass::Disk, text);
            }
            // Nobody knows what is on it now, but that it is nobody's.
            self.change(Change::DiskUsed { machine: name.clone(), disk: 0, by: None });
            return self.phase_done(name);
        };
        if read.image_bytes == 0 || read.read_bytes < read.image_bytes {
            let (got, of) = (read.read_bytes, read.image_bytes);
            let text = format!("{got} bytes were read back of an image of {of}");
            return self.fail_phase(name, FailureClass::Disk, &text);
        }
        let proof = Box::new(CommandProof {
            digest: image.digest.clone(),
            attempt: attempt.number,
            nonce: nonce.to_owned(),
            by: cut(&read.by),
            image_bytes: read.image_bytes,
            read_bytes: read.read_bytes,
            at: self.now(),
            wall: self.moment.wall,
        });
        self.change(Change::DiskByCommand { machine: name.clone(), disk: 0, proof });
        self.phase_done(name);
    }

    // ── behind hooks ──

    /// Waits until no hook may act any more and power was read after that,
    /// and then asks the agent whether it is still the one that proved.
    pub(crate) fn look_progress(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let Some(attempt) = machine.turn().and_then(|t| t.attempt.as_ref()) else { return };
        if !machine.settled() && self.fence(Fence::MayLandUntil) {
            // One that is not over yet is looked behind when it is; to read
            // power until then would be to ask as fast as it answers.
            return self.look_behind_programs(name, &machine);
        }
        if attempt.done >= attempt.step {
            self.tell_step(name, Work::Look, "look behind the hooks");
        }
    }

    /// A program that is over shows what it did when power is read: no time has
    /// to pass for that.
    pub(crate) fn look_behind_programs(&mut self, name: &MachineName, machine: &Machine) {
        let now = self.now();
        let over = |i: &Intent| i.want == Switch::On && !i.open && i.may_land_until <= now;
        if machine.legs.iter().flat_map(|leg| &leg.unsettled).any(over) {
            self.observe_if_idle(name);
        }
    }

    /// Reads power, unless somebody just did.
    fn observe_if_idle(&mut self, name: &MachineName) {
        if self.lab.asks_again(name).is_none() {
            self.observe_all(name);
        }
    }

    /// Nothing that hooks did goes behind what was proven.
    pub(crate) fn hooks_are_over(&mut self, name: &MachineName) {
        if self.machine(name).is_some_and(|m| m.meddled) {
            self.change(Change::NotMeddled { machine: name.clone() });
        }
        self.disks_are_done(name);
    }
}
