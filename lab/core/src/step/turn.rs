//! The turn: its phases, in which order they come, how they fail.
//!
//! ```text
//!   off ─▶ boot agent ─▶ disk … ─┬─▶ rest ──────────────────────┐
//!    │                           ├─▶ serve (RAM) ───────────────┤
//!    │                           └─▶ seed ─▶ hand off ─▶ evidence ─(check)─▶ settle ─▶ done
//!    └── nothing to do on disks ────────────────────────────────┘
//! ```
//!
//! Where the machine has hooks, a phase for each stands between: before the
//! first off of a turnaround, between off and power on (and off is read once
//! more behind them), when the boot agent has attached, and when the disks are
//! proven (`look` then asks whether it is still the same agent). Of a board
//! that `reimage.command` writes, `flash` stands for boot agent and disk.
//!
//! Any failure goes back to `off` with a fresh attempt, a bounded number of
//! times, counted in the row so that a crash does not forget it.

use super::agent::cut;
use super::circuit::started;
use super::{Step, TRIES};
use crate::effect::{Boot, Effect};
use crate::fence::Fence;
use crate::id::{ReservationId, SecretHash};
use crate::inventory::Point;
use crate::inventory::model::{AfterBuild, DiskContent, Idle};
use crate::machine::{
    Content, DiskPlan, Failure, FailureClass, Goal, Health, ImageRef, Machine, Phase, Purpose, Stage, Switch,
    Turn,
};
use crate::record::Change;
use crate::reservation::Ask;
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentKind, AgentParams, DiskMatch, ImageMode, ImageWork, Secret, ToAgent, Work};

impl Step<'_> {
    /// Sends a machine on a turn. Whatever turn it was on ends here.
    pub(crate) fn begin_turn(
        &mut self,
        name: &MachineName,
        purpose: Purpose,
        goal: Goal,
        reservation: Option<ReservationId>,
        image: Option<ImageRef>,
        disks: DiskPlan,
    ) {
        let deadline = self.off_deadline(name);
        let machine = name.clone();
        self.lab.retries.remove(name);
        self.stop_program(name, "the turn that it belonged to is over");
        let used = self.machine(name).is_some_and(|m| matches!(m.stage, Stage::InUse { .. }));
        self.change(Change::TurnStarted { machine, purpose, goal, reservation, image, disks, deadline });
        if used && purpose == Purpose::Turnaround && self.has_hooks(name, Point::BeforeRelease) {
            // Who had it is off it, and it is as he left it.
            self.dismiss(name, "released");
            return self.enter(name, Phase::Hook { point: Point::BeforeRelease, hook: 0 });
        }
        self.begin_off(name);
    }

    /// Back to rest, by the policy of the machine for what held it.
    pub(crate) fn turn_around(&mut self, name: &MachineName, role: &str) {
        let Some(machine) = self.machine(name) else { return };
        let Some(spec) = self.spec(name).filter(|_| self.is_known(name)) else {
            return self.leave_alone(name);
        };
        let policy = self.lab.inventory.after_build(spec, role);
        let hooked = self.has_hooks(name, Point::BeforeRelease);
        if policy == AfterBuild::Keep && machine.legs.is_empty() && machine.turn().is_none() && !hooked {
            // Nothing to switch and nothing to prove: it is free at once.
            self.dismiss(name, "released");
            self.change(Change::Freed { machine: name.clone(), good: true });
            self.came_to_rest(name);
            return;
        }
        let image = self.next_image(name, &machine);
        let warm = policy == AfterBuild::Reimage && self.stays_warm(name, role, image.as_ref());
        let goal = if warm { Goal::Image } else { Goal::Off };
        let disks = match policy {
            // Untouched and to rest: nothing to do. To be booted: it must
            // hold the image it is booted for.
            AfterBuild::Reimage if warm || !machine.all_clean() => DiskPlan::Prove,
            _ => DiskPlan::Leave,
        };
        self.begin_turn(name, Purpose::Turnaround, goal, None, image, disks);
    }

    /// Whether the machine's turnaround ends booted and waiting: its policy
    /// says warm, and there is an image that can be handed over.
    fn stays_warm(&self, name: &MachineName, role: &str, image: Option<&ImageRef>) -> bool {
        let healthy = self.lab.machines.get(name).is_some_and(|m| m.health == Health::Good);
        let warm = self.spec(name).is_some_and(|s| self.lab.inventory.idle(s, role) != Idle::Off);
        healthy && warm && image.is_some_and(|i| i.seed.is_some()) && self.lab.waiting.is_empty()
    }

    fn warm_until(&self, name: &MachineName) -> Option<LabTime> {
        match self.spec(name).map(|s| self.lab.inventory.idle(s, "ci")) {
            Some(Idle::Warm { max_age_ms }) => Some(self.now() + max_age_ms),
            _ => Some(self.now() + Idle::DEFAULT_WARM_MS),
        }
    }

    /// What the next holder wants on the disks: the image of the first in the
    /// queue whom the machine suits, else its own. To write another than the
    /// one that is waited for would be to write twice.
    fn next_image(&self, name: &MachineName, machine: &Machine) -> Option<ImageRef> {
        let suits = |ask: &Ask| ask.roles.iter().any(|role| self.lab.suits(machine, role, ask, true));
        let next = (!machine.disks.is_empty()).then(|| self.lab.queue().find(|r| suits(&r.ask))).flatten();
        let asked = next.and_then(|r| r.ask.image.clone()).filter(|i| !self.is_suspect(name, i));
        asked.or_else(|| self.lab.trusted_image(name))
    }

    fn off_deadline(&self, name: &MachineName) -> LabTime {
        // Long enough to wait out an intent that may still land, read power
        // after it, and switch again. A program may take longer than a command.
        let power_ms = self.limits(name).power_ms;
        let landing = self.machine(name).and_then(|m| self.landing(&m)).unwrap_or_default();
        let off = self.now() + 6 * power_ms + self.fetch_ms(name);
        off + landing.saturating_sub(4 * power_ms)
    }

    /// How long a device of the machine's own may take to fetch what our
    /// agent boots from, before power on (ms).
    pub(crate) fn fetch_ms(&self, name: &MachineName) -> u64 {
        self.spec(name).map_or(0, |s| s.fetch_ms())
    }

    /// Enters a phase and does what its beginning demands.
    pub(crate) fn enter(&mut self, name: &MachineName, phase: Phase) {
        let limits = self.limits(name);
        let now = self.now();
        let phase = match self.starts_for(name, &phase) {
            Some(then) if !self.may_start(name) => Phase::Start { then },
            _ => phase,
        };
        let deadline = match phase {
            Phase::Start { .. } => now + self.start_limit(name),
            Phase::Off | Phase::HandOff | Phase::Rest => self.off_deadline(name),
            Phase::BootAgent => {
                now + self.fetch_ms(name) + limits.power_ms + limits.firmware_ms + limits.attach_ms
            }
            Phase::Disk { .. } => now + limits.reimage_ms,
            Phase::Flash { .. } => self.off_deadline(name) + limits.reimage_ms,
            Phase::Hook { point, hook } => now + self.hook_ms(name, point, hook),
            Phase::AfterHooks => self.off_deadline(name),
            Phase::Seed | Phase::Serve => now + limits.handover_ms,
            Phase::Evidence => now + limits.power_ms + self.evidence_ms(name),
            Phase::Check => now + self.check_of(name).map_or(0, |c| c.within_ms),
            Phase::Settle => now + 4 * limits.power_ms + self.fetch_ms(name),
        };
        self.lab.retries.remove(name); // the change below retimes
        self.change(Change::PhaseEntered { machine: name.clone(), phase: phase.clone(), deadline });
        match phase {
            Phase::Off | Phase::HandOff | Phase::Rest => self.begin_off(name),
            Phase::Start { .. } => {} // its circuit's turn comes
            Phase::BootAgent => self.begin_attempt(name),
            Phase::Disk { disk, writing } => self.begin_disk(name, disk, writing),
            Phase::Flash { writing } => self.begin_flash(name, writing),
            Phase::Hook { point, hook } => self.begin_hook(name, point, hook),
            Phase::AfterHooks => self.look_progress(name),
            Phase::Seed => self.begin_seed(name),
            Phase::Serve => self.begin_serve(name),
            Phase::Evidence => {
                if self.programmer(name).is_some() {
                    // What was written runs from here on.
                    self.mark_used(name, self.turn(name).and_then(|t| t.reservation));
                }
                // A console is listened to before it is on, since its first
                // word may be the one; nothing else is asked before that.
                let listens = self.spec(name).is_some_and(|s| s.ready.driver == "console");
                if listens {
                    self.watch_for_evidence(name, deadline);
                }
                self.switch_all(name, Switch::On, Boot::Disk);
                if !listens {
                    self.watch_for_evidence(name, deadline);
                }
                self.power_progress(name); // without legs nobody will report
            }
            Phase::Check => self.begin_check(name),
            Phase::Settle => self.begin_settle(name),
        }
    }

    fn begin_off(&mut self, name: &MachineName) {
        self.dismiss(name, "the machine is switched off");
        self.switch_all(name, Switch::Off, Boot::Disk);
        self.power_progress(name);
    }

    /// Ends the session of the machine's agent: its key opens nothing more.
    pub(crate) fn dismiss(&mut self, name: &MachineName, reason: &str) {
        if self.machine(name).is_some_and(|m| m.agent.is_some()) {
            self.change(Change::AgentDismissed { machine: name.clone() });
            self.effect(Effect::Dismiss { machine: name.clone(), reason: reason.to_owned() });
        }
    }

    fn begin_attempt(&mut self, name: &MachineName) {
        let attempt = self.machine(name).map_or(0, |m| m.attempts) + 1;
        let nonce = self.nonce();
        self.change(Change::AttemptStarted { machine: name.clone(), attempt, nonce });
        self.switch_all(name, Switch::On, Boot::Agent);
    }

    fn begin_disk(&mut self, name: &MachineName, disk: usize, writing: bool) {
        let Some(turn) = self.turn(name) else { return };
        let Some(work) = self.disk_work(name, &turn, disk, writing) else {
            return self.fail_phase(name, FailureClass::Disk, "the disk is not in the inventory any more");
        };
        let attempt = turn.attempt.as_ref().map_or(0, |a| a.number);
        if writing && self.fence(Fence::DiskBeforeEffect) {
            self.change(Change::DiskWriting { machine: name.clone(), disk, attempt });
        }
        let what = if writing { "write" } else { "verify" };
        self.tell_step(name, Work::Image(work), &format!("{what} disk {disk}"));
    }

    fn disk_work(&self, name: &MachineName, turn: &Turn, disk: usize, writing: bool) -> Option<ImageWork> {
        let spec = self.disk_spec(name, disk)?;
        let mode = if writing { ImageMode::Write } else { ImageMode::Verify };
        Some(ImageWork {
            disk: spec.name.clone(),
            find: self.find(name, disk)?,
            digest: target(turn, spec.content),
            mode,
        })
    }

    pub(crate) fn begin_seed(&mut self, name: &MachineName) {
        let Some(turn) = self.turn(name) else { return };
        let (Some(attempt), Some(image)) = (&turn.attempt, &turn.image) else {
            return self.fail_phase(name, FailureClass::Image, "there is no image to hand over to");
        };
        let Some((offset, len)) = image.seed else {
            let text = format!("image {} has no seed area for the host agent", image.name);
            return self.fail_phase(name, FailureClass::Image, &text);
        };
        let Some(find) = self.boot_disk(name) else {
            return self.fail_phase(name, FailureClass::Disk, "no disk takes the image");
        };
        let nonce = attempt.nonce.clone();
        self.mark_used(name, turn.reservation);
        let token = self.token();
        let hash = SecretHash::of(&token);
        self.change(Change::TokenIssued { machine: name.clone(), kind: AgentKind::Host, token: hash });
        let params = AgentParams {
            server: String::new(),
            ca: String::new(),
            machine: name.clone(),
            nonce,
            token: Secret(token),
        };
        self.tell_step(name, Work::Seed { find, offset, len, params }, "seed");
    }

    fn begin_serve(&mut self, name: &MachineName) {
        let reservation = self.turn(name).and_then(|t| t.reservation);
        self.mark_used(name, reservation);
        self.tell_step(name, Work::Serve, "serve");
    }

    /// From here on the tenant's system may write: nothing is known of any
    /// disk any more. Committed before the hand-over leaves.
    pub(crate) fn mark_used(&mut self, name: &MachineName, by: Option<ReservationId>) {
        if !self.fence(Fence::DiskBeforeEffect) {
            return;
        }
        let Some(machine) = self.machine(name) else { return };
        for (disk, row) in machine.disks.iter().enumerate() {
            if row.content != (Content::Used { by }) {
                self.change(Change::DiskUsed { machine: name.clone(), disk, by });
            }
        }
    }

    /// The first disk that takes the image is the one to boot.
    fn boot_disk(&self, name: &MachineName) -> Option<DiskMatch> {
        let takes =
            |disk: &usize| self.disk_spec(name, *disk).is_some_and(|d| d.content == DiskContent::Image);
        let disks = self.lab.machines.get(name)?.disks.len();
        (0..disks).find(takes).and_then(|disk| self.find(name, disk))
    }

    fn begin_settle(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let shown = self.shown(name, &machine, self.settled_switch(&machine));
        if shown && (machine.settled() || !self.fence(Fence::MayLandUntil)) {
            self.phase_done(name);
        } else {
            self.observe_all(name);
        }
    }

    /// What power must read at the end of the machine's turn.
    pub(crate) fn settled_switch(&self, machine: &Machine) -> Switch {
        match machine.turn().map(|t| t.goal) {
            Some(Goal::Agent | Goal::Image) => Switch::On,
            _ => Switch::Off,
        }
    }

    /// Tells the agent the next step of its attempt.
    pub(crate) fn tell_step(&mut self, name: &MachineName, work: Work, what: &str) {
        let Some(attempt) = self.turn(name).and_then(|t| t.attempt) else { return };
        let step = attempt.step + 1;
        self.change(Change::StepTold { machine: name.clone(), step, what: what.to_owned() });
        let message = ToAgent::Do { step, work };
        self.effect(Effect::Tell { machine: name.clone(), nonce: attempt.nonce, message });
    }

    /// Says the open step again, to an agent that came back. `None` where the
    /// step cannot be said twice (a token is given out once): the caller
    /// begins the phase anew.
    pub(crate) fn open_work(&self, name: &MachineName) -> Option<Work> {
        let turn = self.turn(name)?;
        match turn.phase {
            Phase::BootAgent | Phase::AfterHooks => Some(Work::Look),
            Phase::Disk { disk, writing } => self.disk_work(name, &turn, disk, writing).map(Work::Image),
            Phase::Serve => Some(Work::Serve),
            _ => None,
        }
    }

    /// The phase is over: what comes next?
    pub(crate) fn phase_done(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let Some(turn) = machine.turn().cloned() else { return };
        match turn.phase {
            Phase::Off => {
                let next = self.after_off(name, &machine, &turn);
                let hooked = self.switches_on(name, &next, &turn) && !turn.prepared;
                if hooked && self.has_hooks(name, Point::BeforePower) {
                    return self.enter(name, Phase::Hook { point: Point::BeforePower, hook: 0 });
                }
                self.enter(name, next);
            }
            Phase::BootAgent => self.next_hook(name, Point::AfterAttach, 0),
            Phase::Hook { point, hook } => self.next_hook(name, point, hook + 1),
            Phase::Flash { writing: true } => self.next_hook(name, Point::AfterImage, 0),
            Phase::Flash { writing: false } | Phase::AfterHooks => self.hooks_are_over(name),
            Phase::Disk { disk, .. } => self.next_disk(name, &machine, &turn, disk + 1),
            Phase::Seed => self.enter(name, Phase::HandOff),
            Phase::HandOff => self.enter(name, Phase::Evidence),
            Phase::Evidence => {
                self.image_worked(name, true);
                let checks = turn.purpose == Purpose::Prove && self.check_of(name).is_some();
                self.enter(name, if checks { Phase::Check } else { Phase::Settle });
            }
            Phase::Serve | Phase::Check | Phase::Rest => self.enter(name, Phase::Settle),
            Phase::Start { then } => self.enter(name, started(then)),
            Phase::Settle => self.finish(name, &turn),
        }
    }

    /// What follows when the machine is off, but for hooks.
    fn after_off(&self, name: &MachineName, machine: &Machine, turn: &Turn) -> Phase {
        if self.needs_agent(name, machine, turn) {
            Phase::BootAgent
        } else if self.needs_flash(name, machine, turn) {
            Phase::Flash { writing: true }
        } else if turn.goal != Goal::Off {
            Phase::Evidence
        } else {
            Phase::Settle
        }
    }

    fn needs_agent(&self, name: &MachineName, machine: &Machine, turn: &Turn) -> bool {
        if self.runs_no_agent(name) {
            return false;
        }
        if turn.purpose == Purpose::Look {
            return true;
        }
        let prove = match turn.disks {
            DiskPlan::Leave => false,
            DiskPlan::Prove | DiskPlan::Write => !machine.disks.is_empty(),
        };
        prove || turn.goal != Goal::Off
    }

    /// Whether the machine never runs an agent of ours: another thing shows
    /// that it is ready, and nobody proves its disks.
    pub(crate) fn runs_no_agent(&self, name: &MachineName) -> bool {
        self.spec(name).is_some_and(|s| !s.runs_agent())
    }

    /// Whether that is its power alone.
    pub(crate) fn ready_by_power(&self, name: &MachineName) -> bool {
        self.spec(name).is_some_and(|s| s.ready.driver == "power")
    }

    /// Whether somebody watches for it.
    pub(crate) fn is_watched_for(&self, name: &MachineName) -> bool {
        self.runs_no_agent(name) && !self.ready_by_power(name)
    }

    /// How long the evidence may take once power is on: as `ready` says with
    /// `within`, or as long as an image would get.
    fn evidence_ms(&self, name: &MachineName) -> u64 {
        let limits = self.limits(name);
        let within = self.spec(name).and_then(|s| s.ready.ms("within"));
        within.unwrap_or(limits.firmware_ms + limits.evidence_ms)
    }

    fn watch_for_evidence(&mut self, name: &MachineName, until: LabTime) {
        if let Some(turn) = self.turn(name).filter(|_| self.is_watched_for(name)) {
            self.effect(Effect::Witness { machine: name.clone(), turn: (turn.number, turn.failed), until });
        }
    }

    /// Something was seen of a machine that runs no agent.
    pub(crate) fn witnessed(&mut self, name: &MachineName, turn: (u64, u32), result: Result<String, String>) {
        let Some(now) = self.turn(name) else { return };
        if now.phase != Phase::Evidence || turn != (now.number, now.failed) || !self.is_watched_for(name) {
            return; // of a boot that is over
        }
        match result {
            Ok(what) => {
                self.change(Change::EvidenceSeen { machine: name.clone(), what: cut(&what) });
                self.phase_done(name);
            }
            Err(why) => self.fail_phase(name, FailureClass::Boot, &why),
        }
    }

    pub(crate) fn next_disk(&mut self, name: &MachineName, machine: &Machine, turn: &Turn, disk: usize) {
        if turn.disks != DiskPlan::Leave
            && let Some(row) = machine.disks.get(disk)
        {
            let content = self.disk_spec(name, disk).map(|d| d.content);
            let wanted = target(turn, content.unwrap_or_default());
            let holds = matches!(&row.content, Content::Proven(c) if c.digest == wanted);
            let writing = turn.disks == DiskPlan::Write || !holds;
            return self.enter(name, Phase::Disk { disk, writing });
        }
        if turn.disks != DiskPlan::Leave && !machine.disks.is_empty() {
            return self.next_hook(name, Point::AfterImage, 0);
        }
        self.disks_are_done(name);
    }

    /// Every disk is as it should be: on to the turn's goal.
    pub(crate) fn disks_are_done(&mut self, name: &MachineName) {
        let Some(turn) = self.turn(name) else { return };
        let boards = self.programmer(name).is_some();
        match turn.goal {
            Goal::Off => self.enter(name, Phase::Rest),
            Goal::Agent => self.enter(name, Phase::Serve),
            Goal::Image if boards => self.enter(name, Phase::HandOff),
            Goal::Image => self.enter(name, Phase::Seed),
        }
    }

    fn finish(&mut self, name: &MachineName, turn: &Turn) {
        match turn.purpose {
            Purpose::Prepare => {
                self.change(Change::MachineReady { machine: name.clone(), until: None });
                if let Some(id) = turn.reservation {
                    self.member_ready(id, name);
                }
            }
            Purpose::Turnaround if turn.goal != Goal::Off => {
                let until = self.warm_until(name);
                self.change(Change::MachineReady { machine: name.clone(), until });
                if self.machine(name).is_some_and(|m| m.health != Health::Good) {
                    self.take_back(name, "ci"); // nobody may have it: no use in waiting warm
                }
            }
            Purpose::Prove => {
                self.proof_succeeded(name);
                if turn.goal != Goal::Off {
                    // Its image ran for the check: as after any use.
                    return self.turn_around(name, "ci");
                }
                self.change(Change::Freed { machine: name.clone(), good: true });
                self.came_to_rest(name);
            }
            Purpose::Turnaround | Purpose::Look => {
                self.change(Change::Freed { machine: name.clone(), good: true });
                self.came_to_rest(name);
            }
        }
    }

    /// A phase failed: again from the beginning, or give up.
    pub(crate) fn fail_phase(&mut self, name: &MachineName, class: FailureClass, evidence: &str) {
        let Some(turn) = self.turn(name) else { return };
        let failure = Failure { class, phase: turn.phase.name().to_owned(), evidence: evidence.to_owned() };
        self.stop_program(name, "the phase that it belonged to failed");
        self.change(Change::PhaseFailed { machine: name.clone(), failure: failure.clone() });
        // Who is not what was enrolled is not switched on once more to say so again.
        let over = turn.failed + 1 >= TRIES || class == FailureClass::Drift;
        if over || self.is_hopeless(name, &turn, class) {
            self.give_up(name, &turn, failure);
            return self.begin_failure_hooks(name, turn.image.as_ref());
        }
        match turn.phase {
            // The machine is still as its holder left it.
            Phase::Hook { point: Point::BeforeRelease, .. } => self.enter(name, turn.phase.clone()),
            _ => self.enter(name, Phase::Off),
        }
    }

    /// Starts the turn's phases over without counting a failure: the daemon
    /// was away, which is nobody's fault but its own.
    pub(crate) fn start_over(&mut self, name: &MachineName) {
        self.enter(name, Phase::Off);
    }

    /// Who holds the machine loses it, whatever stage it is in.
    pub(crate) fn take_back(&mut self, name: &MachineName, role: &str) {
        let Some(machine) = self.machine(name) else { return };
        if matches!(machine.stage, Stage::Free) {
            return;
        }
        if let Some(Stage::InUse { .. }) = Some(&machine.stage)
            && !self.fence(Fence::DiskBeforeEffect)
        {
            // The broken variant learns of the use only now.
            for disk in 0..machine.disks.len() {
                self.change(Change::DiskUsed { machine: name.clone(), disk, by: machine.reservation() });
            }
        }
        self.turn_around(name, role);
    }
}

/// What a disk is to hold at the end of the turn; `None`: all zero.
pub(crate) fn target(turn: &Turn, content: DiskContent) -> Option<String> {
    match content {
        DiskContent::Image => turn.image.as_ref().map(|i| i.digest.clone()),
        DiskContent::Zero => None,
    }
}
