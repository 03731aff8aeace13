//! Which events met which states: what was never tried is not known to work.

use crate::Lab;
use crate::event::{Event, Fact, Report, Request};
use crate::lab::Timer;
use crate::machine::{Health, Machine, Phase, Purpose, Stage};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{Hello, Outcome};

/// States of a machine. Turns follow: a purpose and a phase each.
const RESTING: [&str; 11] = [
    "free",
    "new",
    "quarantined",
    "drained",
    "retired",
    "warm",
    "ready",
    "in use",
    "cycling",
    "checking",
    "(no machine)",
];
const PURPOSES: [&str; 4] = ["prepare", "turnaround", "prove", "look"];
const PHASES: [&str; 17] = [
    "off",
    "boot agent",
    "verify",
    "write",
    "hook (off)",
    "hook (agent)",
    "look",
    "flash",
    "read back",
    "seed",
    "hand off",
    "serve",
    "evidence",
    "check",
    "settle",
    "rest",
    "start",
];
const NOBODY: usize = 10;
const STATES: usize = RESTING.len() + PURPOSES.len() * PHASES.len();

/// Kinds of events.
const EVENTS: [&str; 60] = [
    "start",
    "start (restored)",
    "daemon drains",
    "deadline",
    "gap",
    "reserve",
    "claim",
    "beat",
    "extend",
    "release",
    "power",
    "run",
    "reimage",
    "drain",
    "undrain",
    "enrol",
    "prove",
    "image added",
    "image removed",
    "reload",
    "switched",
    "switch failed",
    "read on",
    "read off",
    "read unknown",
    "stale fact",
    "attach",
    "attach (stale)",
    "resume",
    "resume (stale)",
    "seen",
    "proven",
    "differs",
    "seeded",
    "serving",
    "failed",
    "image failed",
    "lost",
    "stale report",
    "repeated report",
    "report from the future",
    "boot request (lane)",
    "boot request (firmware)",
    "image trusted",
    "well",
    "not well",
    "switch or button",
    "switched or pressed",
    "up, says its console",
    "panics",
    "says",
    "wires to be checked",
    "wires: beat",
    "wires: look",
    "wires checked",
    "hook ended",
    "hook failed",
    "programmed",
    "not programmed",
    "program gone",
];

/// How often each event met each state.
#[derive(Debug, Clone)]
pub struct Pairs(Box<[[u64; EVENTS.len()]; STATES]>);

impl Default for Pairs {
    fn default() -> Self {
        Self(Box::new([[0; EVENTS.len()]; STATES]))
    }
}

impl Pairs {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (row, others) in self.0.iter_mut().zip(other.0.iter()) {
            for (count, more) in row.iter_mut().zip(others) {
                *count += more;
            }
        }
    }

    /// All pairs with how often they met.
    pub fn all(&self) -> impl Iterator<Item = (String, &'static str, u64)> + '_ {
        self.0.iter().enumerate().flat_map(|(state, row)| {
            row.iter().enumerate().map(move |(event, count)| (state_name(state), EVENTS[event], *count))
        })
    }

    /// Counts an event that is about to be decided about.
    pub(super) fn count(&mut self, lab: &Lab, now: LabTime, event: &Event) {
        let kind = kind(lab, event);
        let mut of = |name: &MachineName| self.0[lab.machine(name).map_or(NOBODY, |m| state(m))][kind] += 1;
        match event {
            Event::Fact {
                fact:
                    Fact::Power { machine, .. }
                    | Fact::Read { machine, .. }
                    | Fact::Checked { machine, .. }
                    | Fact::Acted { machine, .. }
                    | Fact::Hooked { machine, .. }
                    | Fact::Programmed { machine, .. }
                    | Fact::Gone { machine, .. }
                    | Fact::Witnessed { machine, .. }
                    | Fact::Said { machine, .. },
                ..
            }
            | Event::Agent { machine, .. }
            | Event::BootRequest { machine, .. } => of(machine),
            Event::Hello(hello) => of(hello.machine()),
            Event::Start { .. }
            | Event::StartRestored { .. }
            | Event::Drain
            | Event::Gap(_)
            | Event::Request(_, Request::Reload(_)) => {
                lab.machines().for_each(|m| of(&m.name));
            }
            Event::Tick => {
                let due = lab.timers.iter().take_while(|(at, _)| *at <= now);
                for (_, timer) in due {
                    match timer {
                        Timer::Machine(name) => of(name),
                        Timer::Image(_) | Timer::Circuit(_) => {}
                        Timer::Reservation(id) => {
                            let row = lab.reservation(*id);
                            row.iter().flat_map(|r| &r.members).for_each(|m| of(&m.machine));
                        }
                    }
                }
            }
            Event::Request(_, request) => match request {
                Request::Claim(id)
                | Request::Beat(id)
                | Request::Extend { reservation: id, .. }
                | Request::Release { reservation: id, .. } => {
                    let members = lab.reservation(*id).map(|r| r.members.as_slice()).unwrap_or_default();
                    members.iter().for_each(|m| of(&m.machine));
                    if members.is_empty() {
                        self.0[NOBODY][kind] += 1;
                    }
                }
                Request::Power { machine, .. }
                | Request::Run { machine, .. }
                | Request::Fixture { machine, .. }
                | Request::Reimage { machine, .. }
                | Request::Drain { machine, .. }
                | Request::Undrain(machine)
                | Request::WiringBegin(machine)
                | Request::WiringBeat(machine)
                | Request::WiringLook(machine)
                | Request::WiringEnd(machine)
                | Request::Prove(machine) => of(machine),
                Request::Enrol { listed, .. } => listed.iter().for_each(of),
                _ => self.0[NOBODY][kind] += 1,
            },
        }
    }
}

fn state_name(state: usize) -> String {
    match state.checked_sub(RESTING.len()) {
        None => RESTING[state].to_owned(),
        Some(turn) => format!("{}: {}", PURPOSES[turn / PHASES.len()], PHASES[turn % PHASES.len()]),
    }
}

pub(super) fn state(machine: &Machine) -> usize {
    match &machine.stage {
        Stage::Free => match machine.health {
            Health::Good if machine.wiring.is_some() => 9,
            Health::Good => 0,
            Health::New => 1,
            Health::Quarantined { .. } => 2,
            Health::Drained { .. } => 3,
            Health::Retired => 4,
        },
        Stage::Ready { reservation: None, .. } => 5,
        Stage::Ready { .. } => 6,
        Stage::InUse { cycling: false, .. } => 7,
        Stage::InUse { .. } => 8,
        Stage::Turn(turn) => {
            let purpose = match turn.purpose {
                Purpose::Prepare => 0,
                Purpose::Turnaround => 1,
                Purpose::Prove => 2,
                Purpose::Look => 3,
            };
            let phase = match turn.phase {
                Phase::Off => 0,
                Phase::Start { .. } => 11,
                Phase::BootAgent => 1,
                Phase::Disk { writing: false, .. } => 2,
                Phase::Disk { .. } => 3,
                Phase::Hook { point, .. } => 4 + usize::from(point.has_agent()),
                Phase::AfterHooks => 6,
                Phase::Flash { writing: true } => 7,
                Phase::Flash { .. } => 8,
                Phase::Seed => 9,
                Phase::HandOff => 10,
                Phase::Serve => 11,
                Phase::Evidence => 12,
                Phase::Check => 13,
                Phase::Settle => 14,
                Phase::Rest => 15,
            };
            RESTING.len() + purpose * PHASES.len() + phase
        }
    }
}

fn kind(lab: &Lab, event: &Event) -> usize {
    use crate::machine::Switch;
    let name = match event {
        Event::Start { .. } => "start",
        Event::StartRestored { .. } => "start (restored)",
        Event::Drain => "daemon drains",
        Event::Tick => "deadline",
        Event::Gap(_) => "gap",
        Event::Request(_, request) => request_name(request),
        Event::Fact { epoch, .. } if *epoch != lab.meta().epoch => "stale fact",
        Event::Fact { fact: Fact::Power { want, result, .. }, .. } => match result {
            Ok(reading) if reading.shows(*want) => "switched",
            _ => "switch failed",
        },
        Event::Fact { fact: Fact::Read { reading, .. }, .. } => match reading {
            r if r.shows(Switch::On) => "read on",
            r if r.shows(Switch::Off) => "read off",
            _ => "read unknown",
        },
        Event::Fact { fact: Fact::Acted { .. }, .. } => "switched or pressed",
        Event::Fact { fact: Fact::Witnessed { .. }, .. } => "up, says its console",
        Event::Fact { fact: Fact::Hooked { result: Ok(()), .. }, .. } => "hook ended",
        Event::Fact { fact: Fact::Hooked { .. }, .. } => "hook failed",
        Event::Fact { fact: Fact::Programmed { result: Ok(_), .. }, .. } => "programmed",
        Event::Fact { fact: Fact::Programmed { .. }, .. } => "not programmed",
        Event::Fact { fact: Fact::Gone { .. }, .. } => "program gone",
        Event::Fact { fact: Fact::Checked { result, .. }, .. } => match result {
            Ok(()) => "well",
            Err(_) => "not well",
        },
        Event::Fact { fact: Fact::Said { saying, .. }, .. } if saying.ends_the_boot() => "panics",
        Event::Fact { fact: Fact::Said { .. }, .. } => "says",
        Event::Hello(hello) => hello_name(lab, hello),
        Event::Agent { machine, nonce, boot_id, report } => report_name(lab, machine, nonce, boot_id, report),
        Event::BootRequest { lane: true, .. } => "boot request (lane)",
        Event::BootRequest { .. } => "boot request (firmware)",
    };
    EVENTS.iter().position(|e| *e == name).unwrap_or_default()
}

fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Reserve { .. } => "reserve",
        Request::Claim(_) => "claim",
        Request::Beat(_) => "beat",
        Request::Extend { .. } => "extend",
        Request::Release { .. } => "release",
        Request::Power { .. } => "power",
        Request::Run { .. } => "run",
        Request::Fixture { .. } => "switch or button",
        Request::Reimage { .. } => "reimage",
        Request::Drain { .. } => "drain",
        Request::Undrain(_) => "undrain",
        Request::Enrol { .. } => "enrol",
        Request::Prove(_) => "prove",
        Request::NameImage { .. } => "image added",
        Request::ForgetImage(_) => "image removed",
        Request::Reload(_) => "reload",
        Request::TrustImage(_) => "image trusted",
        Request::WiringBegin(_) => "wires to be checked",
        Request::WiringBeat(_) => "wires: beat",
        Request::WiringLook(_) => "wires: look",
        Request::WiringEnd(_) => "wires checked",
    }
}

fn hello_name(lab: &Lab, hello: &Hello) -> &'static str {
    let machine = lab.machine(hello.machine());
    match hello {
        Hello::Attach { nonce, .. } => {
            let attempt = machine.and_then(|m| m.turn()).and_then(|t| t.attempt.as_ref());
            let host = machine.and_then(|m| m.agent.as_ref());
            match attempt.is_some_and(|a| a.nonce == *nonce) || host.is_some_and(|a| a.nonce == *nonce) {
                true => "attach",
                false => "attach (stale)",
            }
        }
        Hello::Resume { nonce, boot_id, .. } => {
            let own = |a: &crate::machine::Agent| a.nonce == *nonce && a.boot_id == *boot_id;
            match machine.and_then(|m| m.agent.as_ref()).is_some_and(own) {
                true => "resume",
                false => "resume (stale)",
            }
        }
    }
}

fn report_name(
    lab: &Lab,
    machine: &MachineName,
    nonce: &str,
    boot_id: &str,
    report: &Report,
) -> &'static str {
    let Some(row) = lab.machine(machine) else { return "stale report" };
    if !row.agent.as_ref().is_some_and(|a| a.nonce == nonce && a.boot_id == boot_id) {
        return "stale report";
    }
    let Report::Done { step, outcome } = report else { return "lost" };
    let attempt = row.turn().and_then(|t| t.attempt.as_ref());
    match attempt {
        Some(a) if *step > a.step => "report from the future",
        Some(a) if *step <= a.done || *step < a.step => "repeated report",
        _ => match outcome {
            Outcome::Seen(_) => "seen",
            Outcome::Proven(_) => "proven",
            Outcome::Differs { .. } => "differs",
            Outcome::Seeded => "seeded",
            Outcome::Serving => "serving",
            Outcome::Failed { image: true, .. } => "image failed",
            Outcome::Failed { .. } => "failed",
        },
    }
}
