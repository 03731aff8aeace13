//! Every event in every state.
//!
//! A run leads to what is likely. Some states last a moment only, and some
//! events hardly ever meet them: so each kind of event is put to a copy of the
//! lab in each state that a run comes to, true or not, and the copy is thrown
//! away. What is checked needs no world: rows that are the fold of the
//! records, nothing changed that would not be stored, no effect without its
//! intent, and every invariant of the rows. Every wait must be explained, too.

use super::Sim;
use super::board::DISK;
use super::clients::admin;
use super::pairs::{Pairs, state};
use crate::effect::Effect;
use crate::event::{
    Act, Answer, Caller, Event, Fact, Floor, Moment, Nudge, PowerAction, ProgramTrouble, ReadBack, Report,
    Request,
};
use crate::id::{Entropy, Epoch};
use crate::lab::{Lab, Row, RowKey, Timer};
use crate::machine::{Machine, Reading, Switch};
use crate::reservation::Status;
use crate::saying::Saying;
use crate::time::LabTime;
use pitstop_wire::Selector;
use pitstop_wire::agent::{AgentKind, DiskProof, Hardware, Hello, Outcome, Secret, Welcome};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Sim {
    /// Puts every event to the states that were not met before in this run.
    pub(super) fn probe(&mut self, touched: &BTreeSet<RowKey>) {
        let Some(lab) = self.daemon.lab.take() else { return };
        for key in touched {
            let RowKey::Machine(name) = key else { continue };
            let Some(machine) = lab.machine(name) else { continue };
            if !self.probed.insert((state(machine), machine.agent.is_some())) {
                continue;
            }
            let now = self.lab_now();
            if let Err(text) = explained(&lab, now) {
                self.daemon.lab = Some(lab);
                return self.violation(text);
            }
            for (at, event) in events(&lab, machine, now) {
                self.report.checks += 1;
                let moment = Moment { now: at, wall: self.now as i64, entropy: Entropy([7; 32]) };
                if let Err(text) = put(&lab, &moment, event.clone(), &mut self.report.probed) {
                    let what = format!("{name} is told {event:?}, which nothing led to: {text}");
                    self.daemon.lab = Some(lab);
                    return self.violation(what);
                }
            }
        }
        self.daemon.lab = Some(lab);
    }
}

/// Whether it can be said of every machine what it does, and of every wait what it waits for.
fn explained(lab: &Lab, now: LabTime) -> Result<(), String> {
    for m in lab.machines() {
        let why = lab.why_machine(&m.name, now).ok_or_else(|| format!("nothing is known of {}", m.name))?;
        if m.turn().is_some() && !why.reasons.iter().any(|r| r.text.contains("limit in")) {
            return Err(format!("nobody is told how long {} may take: {why:?}", m.name));
        }
    }
    for row in lab.reservations().filter(|r| matches!(r.status, Status::Waiting | Status::Preparing)) {
        let why =
            lab.why_reservation(row.id, now).ok_or_else(|| format!("nothing is known of {}", row.id))?;
        let one = row.ask.roles.len() == 1 && row.ask.roles[0].count == 1;
        let free = |text: &str| text.ends_with(" is free");
        if why.reasons.is_empty() || (one && !lab.draining() && why.reasons.iter().any(|r| free(&r.text))) {
            return Err(format!("nobody is told why {} waits: {why:?}", row.id));
        }
    }
    Ok(())
}

/// Puts one event to a copy.
fn put(lab: &Lab, moment: &Moment, event: Event, pairs: &mut Pairs) -> Result<(), String> {
    pairs.count(lab, moment.now, &event);
    let mut copy = lab.clone();
    let hello = matches!(event, Event::Hello(_));
    let out = copy.step(moment, event);
    if hello && matches!(out.answer, Answer::Welcome(Welcome::Accepted { .. })) {
        return Err("an agent was let in without its token or key".into());
    }
    crate::invariant::check(&copy)?;

    let mut folded = lab.clone();
    out.records.iter().for_each(|record| folded.follow(record));
    if folded.rows() != copy.rows() {
        return Err("the rows are not the fold of the records".into());
    }
    let differs = |row: &Row| !out.touched.contains(&row.key()) && lab.row(&row.key()).as_ref() != Some(row);
    if let Some(row) = copy.rows().rows.into_iter().find(differs) {
        return Err(format!("{:?} changed, and would not be stored", row.key()));
    }
    for effect in &out.effects {
        let (machine, leg, intent) = match effect {
            Effect::Power { machine, leg, intent, .. } => (machine, *leg, intent),
            // Of one without legs nobody can say more than that it runs.
            Effect::Hook { machine, intent, .. } | Effect::Program { machine, intent, .. }
                if copy.machine(machine).is_some_and(|m| !m.legs.is_empty()) =>
            {
                (machine, 0, intent)
            }
            _ => continue,
        };
        let leg = copy.machine(machine).and_then(|m| m.legs.get(leg));
        if !leg.is_some_and(|l| l.unsettled.iter().any(|i| i.id == *intent)) {
            return Err(format!("{machine} is switched, and nobody will know: {effect:?}"));
        }
    }
    Ok(())
}

/// An event of each kind that can be made about a machine, and when it comes.
fn events(lab: &Lab, machine: &Machine, now: LabTime) -> Vec<(LabTime, Event)> {
    let due = lab.due.get(&Timer::Machine(machine.name.clone())).map(|at| (now.max(*at), Event::Tick));
    let others = about_the_lab(lab)
        .into_iter()
        .chain(from_people(lab, machine))
        .chain(from_hands(lab, machine, now))
        .chain(from_agents(machine));
    due.into_iter().chain(others.map(|event| (now, event))).collect()
}

fn about_the_lab(lab: &Lab) -> Vec<Event> {
    let inventory = Arc::clone(lab.inventory());
    let floor = Floor { epoch: lab.meta().epoch, reservations: lab.meta().reservations };
    vec![
        Event::Start { inventory: Arc::clone(&inventory), enrol: false },
        Event::StartRestored { inventory: Arc::clone(&inventory), enrol: false, floor },
        Event::Drain,
        Event::Gap(60_000),
        Event::Request(admin(), Request::Reload(inventory)),
    ]
}

fn from_people(lab: &Lab, m: &Machine) -> Vec<Event> {
    let machine = || m.name.clone();
    let reservation = m.reservation().and_then(|id| lab.reservation(id));
    let holder =
        reservation.map_or_else(admin, |r| Caller { user: r.owner.clone(), admin: false, key: None });
    let mut requests = vec![
        Request::Power { machine: machine(), action: PowerAction::Cycle, force: None },
        Request::Fixture { machine: machine(), act: Act::Nudge(Nudge::Reset), force: None },
        Request::Run { machine: machine(), command: "true".into() },
        Request::Reimage { machine: machine(), image: None },
    ];
    if let Some(r) = reservation {
        requests.extend([
            Request::Claim(r.id),
            Request::Beat(r.id),
            Request::Extend { reservation: r.id, more: Some(60_000) },
            Request::Release { reservation: r.id, force: None },
        ]);
    }
    let by_admin = [
        Request::Power { machine: machine(), action: PowerAction::Off, force: Some("it smells".into()) },
        Request::Drain { machine: machine(), reason: "to look at it".into() },
        Request::Undrain(machine()),
        Request::Enrol { select: Selector::default(), listed: vec![machine()] },
        Request::Prove(machine()),
        Request::WiringBegin(machine()),
        Request::WiringBeat(machine()),
        Request::WiringLook(machine()),
        Request::WiringEnd(machine()),
    ];
    let by_holder = requests.into_iter().map(|r| Event::Request(holder.clone(), r));
    by_holder.chain(by_admin.into_iter().map(|r| Event::Request(admin(), r))).collect()
}

fn from_hands(lab: &Lab, m: &Machine, now: LabTime) -> Vec<Event> {
    let epoch = lab.meta().epoch;
    let machine = || m.name.clone();
    let fact = |fact| Event::Fact { epoch, fact };
    let mut events = Vec::new();
    for reading in [Reading::On, Reading::Off, Reading::Unknown] {
        events.push(fact(Fact::Read { machine: machine(), leg: 0, asked: now, reading }));
    }
    // The command that is under way; else one that was over long ago.
    let open = m.legs.first().and_then(|l| l.unsettled.first());
    let (intent, want) = open.map_or((0, Switch::On), |i| (i.id, i.want));
    let reads = if want == Switch::On { Reading::On } else { Reading::Off };
    let power =
        |result, witnessed| Fact::Power { machine: machine(), leg: 0, intent, want, result, witnessed };
    events.extend([
        fact(power(Ok(reads), true)),
        fact(power(Ok(reads), false)),
        fact(power(Ok(Reading::Unknown), false)),
        fact(power(Err("no answer".into()), false)),
        Event::Fact { epoch: Epoch(0), fact: power(Ok(reads), true) },
    ]);
    let nonce = m.turn().and_then(|t| t.attempt.as_ref()).map(|a| a.nonce.clone()).unwrap_or_default();
    for result in [Ok(()), Err("it is hot".to_owned())] {
        events.push(fact(Fact::Checked { machine: machine(), nonce: nonce.clone(), result }));
    }
    events.extend(from_programs(m).into_iter().map(fact));
    let turn = m.turn().map_or((0, 0), |t| (t.number, t.failed));
    for result in [Ok("READY".to_owned()), Err("no such console".to_owned())] {
        events.push(fact(Fact::Witnessed { machine: machine(), turn, result }));
    }
    for (begun, result) in
        [(true, Ok(())), (true, Err("no answer".to_owned())), (false, Err("late".to_owned()))]
    {
        let act = Act::Nudge(Nudge::Reset);
        events.push(fact(Fact::Acted { machine: machine(), intent, act, begun, result }));
    }
    for saying in [Saying::KernelPanic, Saying::Login] {
        let (nonce, line) = (Some(nonce.clone()), "Kernel panic".to_owned());
        events.push(fact(Fact::Said { machine: machine(), nonce, saying, line }));
    }
    events.push(Event::BootRequest { machine: machine(), lane: true });
    events.push(Event::BootRequest { machine: machine(), lane: false });
    events
}

/// What programs may say: of the run that is under way, and of another.
fn from_programs(m: &Machine) -> Vec<Fact> {
    let machine = || m.name.clone();
    let (intent, own) = m.running.as_ref().map_or((0, String::new()), |r| (r.intent, r.nonce.clone()));
    let mut facts = vec![Fact::Gone { machine: machine(), intent }];
    for nonce in [own, "of another run".to_owned()] {
        let no = |lab| Err(ProgramTrouble { lab, text: "exit 1".into() });
        for (over, result) in [(true, Ok(())), (true, no(false)), (true, no(true)), (false, no(false))] {
            let nonce = nonce.clone();
            facts.push(Fact::Hooked { machine: machine(), intent, nonce, over, result });
        }
        let read = ReadBack { by: "st-flash".into(), image_bytes: DISK, read_bytes: DISK };
        let short = ReadBack { read_bytes: DISK - 1, ..read.clone() };
        let no = |lab| Err(ProgramTrouble { lab, text: "no target".into() });
        for result in [Ok(Some(read)), Ok(Some(short)), Ok(None), no(false), no(true)] {
            let nonce = nonce.clone();
            facts.push(Fact::Programmed { machine: machine(), intent, nonce, over: true, result });
        }
    }
    facts
}

fn from_agents(m: &Machine) -> Vec<Event> {
    let attempt = m.turn().and_then(|t| t.attempt.as_ref());
    let nonce = m.agent.as_ref().map(|a| &a.nonce).or(attempt.map(|a| &a.nonce)).cloned().unwrap_or_default();
    let boot_id = m.agent.as_ref().map(|a| a.boot_id.clone()).unwrap_or_default();
    let mut events = Vec::new();
    for nonce in [nonce.clone(), "of another attempt".to_owned()] {
        for kind in [AgentKind::Boot, AgentKind::Host] {
            events.push(Event::Hello(attach(m, kind, nonce.clone())));
        }
        events.push(Event::Hello(Hello::Resume {
            protocol: (1, 1),
            version: "sim".into(),
            machine: m.name.clone(),
            nonce,
            boot_id: boot_id.clone(),
            key: Secret("guessed".into()),
        }));
    }
    let told = attempt.map_or(1, |a| a.step.max(1));
    let report = |nonce: &str, report| Event::Agent {
        machine: m.name.clone(),
        nonce: nonce.to_owned(),
        boot_id: boot_id.clone(),
        report,
    };
    let done = |step, outcome| Report::Done { step, outcome };
    for outcome in outcomes() {
        for step in [told, told - 1, told + 1] {
            events.push(report(&nonce, done(step, outcome.clone())));
        }
        events.push(report("of another attempt", done(told, outcome)));
    }
    events.push(report(&nonce, Report::Lost));
    events
}

fn attach(m: &Machine, kind: AgentKind, nonce: String) -> Hello {
    Hello::Attach {
        protocol: (1, 1),
        version: "sim".into(),
        kind,
        machine: m.name.clone(),
        nonce,
        boot_id: "probe".into(),
        token: Secret("guessed".into()),
        key_hash: super::agents::hash_hex("guessed"),
    }
}

/// All that an agent may say of a step, true or not.
fn outcomes() -> Vec<Outcome> {
    let failed = |image| Outcome::Failed { reason: "no such disk".into(), image };
    let proof = DiskProof {
        path: "/sim/0".into(),
        serial: None,
        device_bytes: DISK,
        digest: Some("b3:debian".into()),
        read_bytes: DISK,
        image_bytes: DISK / 2,
        zero_bytes: DISK / 2,
        written_bytes: 0,
        erase: "none".into(),
        took_ms: 1,
    };
    vec![
        Outcome::Seen(Box::new(Hardware { cpus: 1, ..Hardware::default() })),
        Outcome::Seen(Box::new(Hardware { serial: Some("another".into()), ..Hardware::default() })),
        Outcome::Proven(proof),
        Outcome::Differs { at: "byte 0".into() },
        Outcome::Seeded,
        Outcome::Serving,
        failed(false),
        failed(true),
    ]
}
