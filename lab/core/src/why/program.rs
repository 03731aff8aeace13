//! Why, as far as programs of the lab's say: hooks, and what writes a board.

use super::{Why, words};
use crate::Lab;
use crate::inventory::model::DriverSpec;
use crate::inventory::{Hook, Point};
use crate::machine::{Job, Machine, Phase, Turn};
use pitstop_wire::MachineName;

impl Lab {
    /// What runs for the machine in this phase, or what that waits for.
    pub(super) fn why_programs(&self, m: &Machine, turn: &Turn, why: &mut Why) {
        if let Some(stalled) = &turn.stalled {
            why.say(format!("its programmer waits, which is not its fault: {}", stalled.why));
        }
        match (&m.running, &turn.phase) {
            (Some(running), _) => why.say(self.runs(m, &running.job)),
            (None, Phase::Flash { .. }) if turn.stalled.is_none() => {
                why.say("its programmer waits until power is as it needs it");
            }
            (None, Phase::AfterHooks) => {
                why.say("its hooks are over: its boot agent must show that it is still the same");
            }
            _ => {}
        }
        if m.meddled && turn.phase != Phase::AfterHooks {
            why.say("a hook ran since its disks were read: what was proven does not count until somebody has looked");
        }
    }

    pub(super) fn runs(&self, m: &Machine, job: &Job) -> String {
        let spec = self.spec(&m.name);
        match job {
            Job::Hook { point, hook } => {
                let all = spec.and_then(|s| s.hooks.get(point)).into_iter().flatten();
                let command = all.into_iter().find(|h| h.name == *hook).map(|h| &h.command);
                format!("{job} runs: {}", command.map(|c| program(c, "run")).unwrap_or_default())
            }
            Job::Write => {
                let programmer = spec.and_then(|s| s.programmer());
                format!("its flash is written: {}", programmer.map(|p| program(p, "run")).unwrap_or_default())
            }
            Job::ReadBack => {
                let programmer = spec.and_then(|s| s.programmer());
                format!(
                    "its flash is read back: {}",
                    programmer.map(|p| program(p, "read_back")).unwrap_or_default()
                )
            }
        }
    }

    /// Where the limit of a hook is set.
    pub(super) fn hook_place(&self, name: &MachineName, point: Point) -> Option<String> {
        let spec = self.spec(name)?;
        let hooks = spec.hooks.get(&point)?;
        let longest = words(hooks.iter().map(Hook::timeout_ms).max()?);
        let place = spec.sources.of(&format!("hook.{point}"));
        let place = place.map_or_else(|| spec.sources.machine.to_string(), ToString::to_string);
        Some(format!("the limit is `timeout` of the hook ({longest} at most), set at {place}"))
    }
}

/// The program of a command, and where it runs.
fn program(command: &DriverSpec, field: &str) -> String {
    let argv = command.list(field).unwrap_or_default();
    let program = argv.first().copied().unwrap_or("a program that left the inventory");
    format!("{program} on {}", command.host.as_deref().unwrap_or("the daemon's host"))
}
