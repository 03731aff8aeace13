//! Programs of the lab's in the simulated world: hooks that boot machines
//! behind everybody's back, and programmers that write boards, or hang.
//!
//! What is assumed of them, and no more: one that is known to be over does
//! nothing later; any other may act until its time and a little more is over,
//! also when the daemon that began it is dead.

use super::board::DiskTruth;
use super::dice::{Chance, Pick, Who};
use super::{Happening, Sim};
use crate::effect::{Boot, Effect};
use crate::event::{Fact, ProgramTrouble, ReadBack};
use crate::id::{Epoch, IntentId};
use crate::machine::Switch;
use crate::time::LabTime;
use pitstop_wire::MachineName;

/// A program that was begun.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub number: u64,
    pub epoch: Epoch,
    pub intent: IntentId,
    machine: MachineName,
    nonce: String,
    what: What,
    /// It does not end by itself.
    hangs: bool,
    /// Its daemon waits for it.
    waited: bool,
}

#[derive(Debug, Clone)]
enum What {
    Hook,
    Flash { image: String, write: bool },
}

/// How much longer than its time a program may act that nobody could end (ms):
/// what its intent leaves it, but for a moment.
const LINGERS: u64 = 19_000;

impl Sim {
    /// A hook or a programmer is begun, or ended from outside.
    pub(super) fn program(&mut self, effect: Effect, epoch: Epoch, lab_now: LabTime) {
        let (machine, intent, nonce, until, what) = match effect {
            Effect::Hook { machine, intent, nonce, until, .. } => (machine, intent, nonce, until, What::Hook),
            Effect::Program { machine, intent, nonce, image, write, until } => {
                (machine, intent, nonce, until, What::Flash { image, write })
            }
            Effect::Stop { machine, intent } => return self.stop_run(&machine, intent, epoch),
            _ => return,
        };
        let Some(board) = self.board_of(&machine) else { return };
        let who = Who::board(board);
        let left = until - lab_now;
        let hangs = self.happens(who, Chance::ProgramHangs);
        let (number, waited) = (self.sequence + 1, true);
        let takes = self.dice.between(who, Pick::Work, 50, left.clamp(51, 15_000));
        let boots = matches!(what, What::Hook) && self.happens(who, Chance::HookBoots);
        if boots {
            let latest = if hangs { left + LINGERS } else { takes };
            let at = self.dice.between(who, Pick::Delay, 1, latest.max(2));
            self.at(at, Happening::HookBoots { board, run: number });
        }
        if let What::Flash { write: true, .. } = what
            && let Some(flash) = self.boards[board].disks.first_mut()
        {
            flash.partial = true;
        }
        self.at(if hangs { left } else { takes }, Happening::ProgramEnds { board, run: number });
        self.boards[board].runs.push(Run { number, epoch, intent, machine, nonce, what, hangs, waited });
    }

    /// Nobody waits for it any more. It is killed, and now and then that is
    /// known.
    fn stop_run(&mut self, machine: &MachineName, intent: IntentId, epoch: Epoch) {
        let Some(board) = self.board_of(machine) else { return };
        let found = |r: &Run| r.intent == intent && r.epoch == epoch && r.machine == *machine;
        let Some(at) = self.boards[board].runs.iter().position(found) else { return };
        if self.dice.below(Who::board(board), Pick::Kind, 2) == 0 {
            self.boards[board].runs.remove(at);
            let fact = Fact::Gone { machine: machine.clone(), intent };
            return self.at(5, Happening::Fact(epoch, Box::new(fact)));
        }
        self.boards[board].runs[at].waited = false;
    }

    /// The daemon of these is dead: they end with it, or when their time is
    /// over.
    pub(super) fn orphan_runs(&mut self, epoch: Epoch) {
        for board in 0..self.boards.len() {
            let mut runs = std::mem::take(&mut self.boards[board].runs);
            for run in runs.iter_mut().filter(|run| run.epoch == epoch) {
                run.waited = false;
            }
            runs.retain(|run| run.epoch != epoch || self.dice.below(Who::board(board), Pick::Kind, 2) == 0);
            self.boards[board].runs = runs;
        }
    }

    fn run(&self, board: usize, number: u64) -> Option<Run> {
        self.boards[board].runs.iter().find(|run| run.number == number).cloned()
    }

    /// A hook resets the board, or switches it on: what is on its disk runs.
    pub(super) fn hook_boots(&mut self, board: usize, run: u64) {
        if self.run(board, run).is_none() {
            return; // it was killed before
        }
        self.note(|| format!("a hook boots board {board}"));
        if self.boards[board].on() {
            self.stop_agents(board);
            self.power_up(board, Boot::Disk, None);
        }
        for leg in 0..self.boards[board].legs.len() {
            if !self.boards[board].legs[leg].on && self.boards[board].legs[leg].stuck_until <= self.now {
                self.set_leg(board, leg, Switch::On, Boot::Disk, None);
            }
        }
        let truth = &mut self.boards[board];
        truth.behind |= truth.on() && truth.disks.first().is_some_and(DiskTruth::boots);
    }

    /// A program comes to its end, or its time does.
    pub(super) fn program_ends(&mut self, board: usize, number: u64) {
        let Some(run) = self.run(board, number) else { return };
        let who = Who::board(board);
        let over = !run.hangs;
        if over {
            self.boards[board].runs.retain(|r| r.number != number);
        } else if self.happens(who, Chance::ProgramLingers) {
            let later = self.dice.between(who, Pick::Delay, 1, LINGERS);
            self.at(later, Happening::ProgramLands { board, run: number });
        }
        let Run { epoch, intent, machine, nonce, what, .. } = run.clone();
        let fact = match what {
            What::Hook => {
                let fails = self.happens(who, Chance::HookFails);
                let hostless = fails && self.happens(who, Chance::HookHostDown);
                let no = |lab, text: &str| Err(ProgramTrouble { lab, text: text.to_owned() });
                let result = match (over, fails) {
                    (false, _) => no(false, "not done in time"),
                    (true, true) => no(hostless, "exit 1"),
                    (true, false) => Ok(()),
                };
                Fact::Hooked { machine, intent, nonce, over, result }
            }
            What::Flash { image, write } => {
                let result = self.flashed(board, &image, write, over);
                Fact::Programmed { machine, intent, nonce, over, result }
            }
        };
        if run.waited {
            self.at(2, Happening::Fact(epoch, Box::new(fact)));
        }
    }

    /// A programmer that nobody waits for any more gets to its end after all.
    pub(super) fn program_lands(&mut self, board: usize, number: u64) {
        let Some(run) = self.run(board, number) else { return };
        self.boards[board].runs.retain(|r| r.number != number);
        if let What::Flash { image, write: true } = run.what {
            self.note(|| format!("a programmer of before writes board {board}"));
            self.write_flash(board, image);
        }
    }

    fn write_flash(&mut self, board: usize, image: String) {
        // Nothing is written to a board without power.
        if self.boards[board].on()
            && let Some(flash) = self.boards[board].disks.first_mut()
        {
            *flash = DiskTruth { base: Some(Some(image)), ..DiskTruth::default() };
        }
    }

    fn flashed(
        &mut self,
        board: usize,
        image: &str,
        write: bool,
        over: bool,
    ) -> Result<Option<ReadBack>, ProgramTrouble> {
        let who = Who::board(board);
        let no = |lab, text: &str| Err(ProgramTrouble { lab, text: text.to_owned() });
        if !over {
            return no(false, "not done in time");
        }
        if self.happens(who, Chance::LabTrouble) {
            return no(true, "no space left on the daemon's disk");
        }
        if self.happens(who, Chance::ProgramFails) || !self.boards[board].on() {
            return no(false, "the programmer finds no board");
        }
        if write {
            self.write_flash(board, image.to_owned());
        }
        let truth = &mut self.boards[board];
        let Some(flash) = truth.disks.first() else { return no(false, "no flash") };
        let equal = flash.base.as_ref().and_then(|b| b.as_deref()) == Some(image);
        if !equal || flash.partial || !flash.tenants.is_empty() {
            return no(false, "what was read back differs at byte 0");
        }
        truth.behind = false;
        let bytes = super::board::DISK;
        Ok(Some(ReadBack { by: "sim".into(), image_bytes: bytes, read_bytes: bytes }))
    }
}
