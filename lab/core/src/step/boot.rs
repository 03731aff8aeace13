//! Boot requests: what a machine gets to boot when it asks.

use super::Step;
use crate::event::{Answer, BootAnswer};
use crate::id::SecretHash;
use crate::machine::{FailureClass, Phase, Stage};
use crate::record::Change;
use crate::saying::Saying;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentKind, AgentParams, Secret};
use pitstop_wire::text::brief;

/// Characters of what a machine said that are kept in a record.
const LONGEST_LINE: usize = 300;

impl Step<'_> {
    /// The attempt's parameters are given out once. A second request means
    /// that somebody else listens, or that the machine fell over: either way
    /// the token cannot be trusted and the attempt is burned.
    pub(crate) fn boot_request(&mut self, name: &MachineName, lane: bool) -> Answer {
        if !lane {
            self.heard_of(name);
        }
        Answer::Boot(match self.machine(name) {
            None => BootAnswer::Refused("there is no such machine".into()),
            Some(machine) => match &machine.stage {
                Stage::Turn(turn) => match turn.phase {
                    Phase::BootAgent => self.boot_agent(name, lane),
                    Phase::Disk { .. } | Phase::AfterHooks | Phase::Seed | Phase::Serve => self.burn(name),
                    Phase::Hook { point, .. } if point.has_agent() && !self.runs_no_agent(name) => {
                        self.burn(name)
                    }
                    Phase::Evidence | Phase::Flash { .. } => BootAnswer::Disk,
                    Phase::Settle if turn.goal != crate::machine::Goal::Off => BootAnswer::Disk,
                    _ => BootAnswer::Refused("the machine is to be off".into()),
                },
                Stage::InUse { .. } | Stage::Ready { .. } if !lane => BootAnswer::Disk,
                _ => BootAnswer::Refused("nothing is to be booted now".into()),
            },
        })
    }

    fn boot_agent(&mut self, name: &MachineName, lane: bool) -> BootAnswer {
        let Some(attempt) = self.turn(name).and_then(|t| t.attempt) else {
            return BootAnswer::Refused("no attempt is under way".into());
        };
        // The lane that asks again never heard the answer: its commit was in
        // doubt. Nobody else did either, so the old token is worth nothing.
        if attempt.given && !lane {
            return self.burn(name);
        }
        let token = self.token();
        let hash = SecretHash::of(&token);
        self.change(Change::TokenIssued { machine: name.clone(), kind: AgentKind::Boot, token: hash });
        BootAnswer::Agent(AgentParams {
            server: String::new(),
            ca: String::new(),
            machine: name.clone(),
            nonce: attempt.nonce,
            token: Secret(token),
        })
    }

    /// The machine said something on its console. It is kept for whoever asks
    /// what happened; and where the boot that this turn waits for is known to
    /// come to nothing, there is nothing to wait for.
    pub(crate) fn said(&mut self, name: &MachineName, nonce: Option<&str>, saying: Saying, line: &str) {
        if self.machine(name).is_none() {
            return;
        }
        self.heard_of(name);
        let line: String = brief(line, LONGEST_LINE);
        // The history is everybody's to read, what a holder's machine says perhaps not.
        let quoted = if self.lab.may_quote_console(name) { line.clone() } else { String::new() };
        self.change(Change::ConsoleSaid { machine: name.clone(), saying, line: quoted });
        let Some(turn) = self.turn(name).filter(|_| saying.ends_the_boot()) else { return };
        // Of a phase that switches off it was to be expected, and what an
        // earlier attempt said says nothing of this one.
        let ours = turn.attempt.as_ref().is_some_and(|a| Some(a.nonce.as_str()) == nonce);
        if ours && turn.phase.runs() {
            self.fail_phase(name, FailureClass::Boot, &format!("{}: {line}", saying.words()));
        }
    }

    fn burn(&mut self, name: &MachineName) -> BootAnswer {
        self.change(Change::AttemptBurned { machine: name.clone() });
        let text = "boot parameters were asked for a second time: the attempt is burned";
        self.fail_phase(name, FailureClass::Boot, text);
        BootAnswer::Refused(text.into())
    }
}
