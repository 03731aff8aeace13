//! Boot requests: what a machine gets to boot when it asks.

use super::Step;
use crate::event::{Answer, BootAnswer};
use crate::id::SecretHash;
use crate::machine::{FailureClass, Phase, Stage};
use crate::record::Change;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentKind, AgentParams, Secret};

impl Step<'_> {
    /// The attempt's parameters are given out once. A second request means
    /// that somebody else listens, or that the machine fell over: either way
    /// the token cannot be trusted and the attempt is burned.
    pub(crate) fn boot_request(&mut self, name: &MachineName, lane: bool) -> Answer {
        Answer::Boot(match self.machine(name) {
            None => BootAnswer::Refused("there is no such machine".into()),
            Some(machine) => match &machine.stage {
                Stage::Turn(turn) => match turn.phase {
                    Phase::BootAgent => self.boot_agent(name, lane),
                    Phase::Disk { .. } | Phase::Seed | Phase::Serve => self.burn(name),
                    Phase::Evidence => BootAnswer::Disk,
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

    fn burn(&mut self, name: &MachineName) -> BootAnswer {
        self.change(Change::AttemptBurned { machine: name.clone() });
        let text = "boot parameters were asked for a second time: the attempt is burned";
        self.fail_phase(name, FailureClass::Boot, text);
        BootAnswer::Refused(text.into())
    }
}
