//! Words for the core's small enums, so that a renamed variant is a compile
//! error here and not a changed API.

use pitstop_core::machine::{Goal, Purpose, Switch};
use pitstop_core::record::Actor;
use pitstop_wire::agent::AgentKind;

pub fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Prepare => "prepare",
        Purpose::Turnaround => "turnaround",
        Purpose::Prove => "prove",
        Purpose::Look => "look",
    }
}

pub fn goal(goal: Goal) -> &'static str {
    match goal {
        Goal::Off => "off",
        Goal::Agent => "agent",
        Goal::Image => "image",
    }
}

pub fn switch(switch: Switch) -> &'static str {
    match switch {
        Switch::On => "on",
        Switch::Off => "off",
    }
}

pub fn agent_kind(kind: AgentKind) -> &'static str {
    match kind {
        AgentKind::Boot => "boot",
        AgentKind::Host => "host",
    }
}

pub fn actor(actor: &Actor) -> String {
    match actor {
        Actor::User(name) => name.to_string(),
        Actor::Machine(name) => format!("machine {name}"),
        Actor::Driver => "driver".to_owned(),
        Actor::Time => "time".to_owned(),
        Actor::Lab => "lab".to_owned(),
    }
}
