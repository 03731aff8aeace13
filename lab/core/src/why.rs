//! Why: the reason chain of a reservation or a machine, with what to do next.

use crate::Lab;
use crate::id::ReservationId;
use crate::machine::{FailureClass, Health, Machine, Purpose, Stage};
use crate::queue::{Claims, clean_of};
use crate::reservation::{End, Reservation, Role, Status};
use crate::time::LabTime;
use pitstop_wire::agent::AgentKind;
use pitstop_wire::selector::Facts;
use pitstop_wire::text::machines;
use pitstop_wire::{MachineName, Selector};

/// An answer to "why?".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Why {
    /// The state in one sentence.
    pub summary: String,
    /// The reasons, most telling first.
    pub reasons: Vec<Reason>,
}

/// One reason, and the command that does something about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What is the case.
    pub text: String,
    /// What to do next, as a command.
    pub next: Option<String>,
}

impl Why {
    fn say(&mut self, text: impl Into<String>) {
        self.reasons.push(Reason { text: text.into(), next: None });
    }

    fn tell(&mut self, text: impl Into<String>, next: impl Into<String>) {
        self.reasons.push(Reason { text: text.into(), next: Some(next.into()) });
    }
}

/// Of a machine whose parts the inventory changed.
fn strange(name: &MachineName) -> String {
    format!(
        "{name} has other legs or disks in the inventory than it was enrolled with: it is new once it is at rest and its last power command is over"
    )
}

/// Most machines listed one by one.
const LISTED: usize = 10;

impl Lab {
    /// Why a reservation waits, or what became of it, as seen at `now`.
    pub fn why_reservation(&self, id: ReservationId, now: LabTime) -> Option<Why> {
        let row = self.reservation(id)?;
        let mut why = Why::default();
        let since = |at| words(now - at);
        let asks: Vec<String> =
            row.ask.roles.iter().map(|r| format!("{} of `{}`", r.count, r.select)).collect();
        let asks = asks.join(" and ");
        match &row.status {
            Status::Waiting => {
                why.summary = format!("{id} {} waits {} for {asks}", row.owner, since(row.created));
                self.why_waiting(row, now, &mut why);
            }
            Status::Preparing => {
                why.summary = format!("{id} is being prepared for {}: {asks}", row.owner);
                for member in &row.members {
                    match self.machine(&member.machine) {
                        Some(m) if !member.ready => {
                            why.tell(self.phase_line(m, now), format!("pitstop why {}", m.name));
                        }
                        _ => why.say(format!("{} is ready", member.machine)),
                    }
                }
            }
            Status::Ready { unclaimed_until } => {
                why.summary = format!(
                    "{id} is ready for {}, and kept {} more for its holder to come",
                    row.owner,
                    words(*unclaimed_until - now)
                );
                why.tell("its holder takes it by using it", format!("pitstop reserve --resume {id}"));
            }
            Status::Active => {
                let end = row.ends.map(|at| format!(", {} left", words(at - now)));
                why.summary = format!("{id} is in use by {}{}", row.owner, end.unwrap_or_default());
            }
            Status::Ended { at, why: end } => {
                why.summary =
                    format!("{id} of {} ended {} ago: {}", row.owner, since(*at), row.end_words(end));
            }
        }
        for name in &row.failed_on {
            why.tell(format!("{name} failed it"), format!("pitstop why {name}"));
        }
        Some(why)
    }

    fn why_waiting(&self, row: &Reservation, now: LabTime, why: &mut Why) {
        let elders = self.claims_of_elders(row.id);
        for role in &row.ask.roles {
            let mut matching: Vec<&Machine> =
                (self.machines()).map(|m| &**m).filter(|m| self.suits(m, role, &row.ask, true)).collect();
            let good = matching.iter().filter(|m| m.health == Health::Good).count();
            // What keeps it waiting comes first: machines that nobody can get,
            // where the others are too few, else those that come by themselves.
            let short = good < role.count as usize;
            matching.sort_by_key(|m| match (m.health == Health::Good, &m.stage) {
                (true, Stage::Free) => 2,
                (good, _) => u8::from(good == short),
            });
            let total = self.machines().len();
            why.say(match matching.len() {
                1 => format!("1 of {} matches `{}`", machines(total), role.select),
                n => format!("{n} of {} match `{}`", machines(total), role.select),
            });
            for m in matching.iter().take(LISTED) {
                self.why_not_this(m, row, now, &elders, why);
            }
            if matching.len() > LISTED {
                why.say(format!("… and {} more", matching.len() - LISTED));
            }
            let facts: Vec<_> = self
                .machines()
                .filter_map(|m| Some(self.facts_for(&row.ask, m, self.spec(&m.name)?)))
                .collect();
            let any = Role { select: Selector::default(), ..role.clone() };
            let misses = role.select.near_misses(facts.iter().map(|f| f as &dyn Facts));
            if misses.total > misses.matching {
                let list: Vec<String> = misses.misses.iter().map(|(key, n)| format!("{n} {key}")).collect();
                why.say(format!("{} do not match: {}", misses.total - misses.matching, list.join(", ")));
            }
            let free_now = misses.relaxed.iter().find_map(|r| {
                let able =
                    |n: &str| self.machines.get(n).is_some_and(|m| self.suits(m, &any, &row.ask, false));
                let free = r.machines.iter().find(|n| self.free.contains(n.as_str()) && able(n))?;
                Some((r, free))
            });
            if let Some((relaxed, free)) = free_now {
                why.tell(
                    format!("without {}: {free} is free now", relaxed.term),
                    format!("pitstop reserve name={free}"),
                );
            }
        }
        if let Some(never) = self.never_fits(&row.ask) {
            why.tell(format!("it is never served: {never}"), format!("pitstop release {}", row.id));
        }
        let place = self.queue().position(|r| r.id == row.id).map_or(0, |p| p + 1);
        why.say(format!(
            "place {place} of {} in the queue; priority {}",
            self.waiting.len(),
            row.ask.priority
        ));
    }

    /// Machines that could serve one of its roles, were they free and well.
    pub fn could_have(&self, row: &Reservation) -> Vec<MachineName> {
        let suits = |m: &Machine| row.ask.roles.iter().any(|role| self.suits(m, role, &row.ask, true));
        self.machines().filter(|m| suits(m)).map(|m| m.name.clone()).collect()
    }

    fn why_not_this(&self, m: &Machine, row: &Reservation, now: LabTime, elders: &Claims<'_>, why: &mut Why) {
        let name = &m.name;
        if let Some(id) = m.reservation() {
            let holder = self.reservation(id);
            let owner = holder.map(|r| r.owner.to_string()).unwrap_or_default();
            let till = holder.and_then(|r| r.ends).map(|at| format!(", {} left", words(at - now)));
            return why.tell(
                format!("{name} is held by {owner} ({id}{})", till.unwrap_or_default()),
                format!("pitstop show {id}"),
            );
        }
        match (&m.health, &m.stage) {
            (Health::Quarantined { failure, .. }, _) => why.tell(
                format!(
                    "{name} is quarantined: {} in {}: {}",
                    failure.class.name(),
                    failure.phase,
                    failure.evidence
                ),
                format!("pitstop admin prove {name}"),
            ),
            (Health::Drained { by, reason, at }, _) => why.tell(
                format!("{name} was drained by {by} {} ago: \"{reason}\"", words(now - *at)),
                format!("pitstop admin undrain {name}"),
            ),
            (Health::New, _) => {
                why.tell(
                    format!("{name} is new: nobody has enrolled it"),
                    format!("pitstop admin enrol name={name}"),
                );
            }
            (_, Stage::Turn(_)) => why.tell(self.phase_line(m, now), format!("pitstop why {name}")),
            (_, Stage::Free) if self.changed_parts(m) => why.say(strange(name)),
            (_, Stage::Free) if m.pause.is_some() => self.why_paused(m, now, why),
            (_, Stage::Free) if m.wiring.is_some() => self.why_checked(m, now, why),
            (_, Stage::Free) if self.why_no_image(m, row, now, why) => {}
            (_, Stage::Free) if m.proof_asked => {
                why.tell(format!("{name} is to be proven first"), format!("pitstop why {name}"));
            }
            (_, Stage::Free) if self.why_not_written(m, row, why) => {}
            (_, Stage::Free) => match elders.whose(name) {
                Some(elder) => why.tell(
                    format!("{name} is kept for {elder}, which is before"),
                    format!("pitstop why {elder}"),
                ),
                None if self.why_no_place(m, row, elders, now, why) => {}
                None => why.say(format!("{name} is free")),
            },
            _ => why.say(format!("{name} is {}", m.state())),
        }
    }

    /// A machine's phase with its time and limit.
    fn phase_line(&self, m: &Machine, now: LabTime) -> String {
        let Some(turn) = m.turn() else { return format!("{} is {}", m.name, m.state()) };
        let usual = m.usual.of(&turn.phase);
        let usual = (!usual.is_none()).then(|| format!(" (usually {})", words(u64::from(usual.ms))));
        format!(
            "{} is {}: {} for {}{}, limit in {}",
            m.name,
            match turn.purpose {
                Purpose::Prepare => "being prepared",
                Purpose::Turnaround => "being cleaned",
                Purpose::Prove => "being proven",
                Purpose::Look => "being looked at",
            },
            turn.phase.name(),
            words(now - turn.phase_since),
            usual.unwrap_or_default(),
            words(turn.deadline - now),
        )
    }

    /// What is the matter with a machine at `now`. History is added by the caller,
    /// who has the records.
    pub fn why_machine(&self, name: &MachineName, now: LabTime) -> Option<Why> {
        let m = self.machine(name)?;
        let mut why = Why {
            summary: format!("{name} is {} for {}", m.state(), words(now - m.since)),
            ..Why::default()
        };
        if let Some(turn) = m.turn() {
            why.say(self.phase_line(m, now));
            if turn.failed > 0 {
                why.say(format!("try {} of {}", turn.failed + 1, crate::step::TRIES));
            }
            self.why_programs(m, turn, &mut why);
            if let Some(place) = self.limit_place(name, turn) {
                why.say(place);
            }
        }
        if let (None, Some(running)) = (m.turn(), &m.running) {
            why.say(self.runs(m, &running.job));
        }
        if let Some(id) = m.reservation() {
            let owner = self.reservation(id).map(|r| r.owner.to_string()).unwrap_or_default();
            why.tell(format!("held by {owner} ({id})"), format!("pitstop show {id}"));
        }
        self.why_silent(m, now, &mut why);
        self.why_checked(m, now, &mut why);
        match &m.health {
            Health::Good => {}
            Health::New => {
                why.tell("new: nobody has enrolled it", format!("pitstop admin enrol name={name}"));
            }
            Health::Quarantined { failure, at, again } => {
                why.tell(
                    format!(
                        "quarantined {} ago: {} failure in phase {}: {}",
                        words(now - *at),
                        failure.class.name(),
                        failure.phase,
                        failure.evidence
                    ),
                    format!("pitstop admin prove {name}"),
                );
                if failure.class == FailureClass::Drift {
                    self.why_drifted(m, &mut why);
                } else {
                    self.why_not_proven(m, *again, now, &mut why);
                }
            }
            Health::Drained { by, reason, at } => why.tell(
                format!("drained by {by} {} ago: \"{reason}\"", words(now - *at)),
                format!("pitstop admin undrain {name}"),
            ),
            Health::Retired => why.say("it is not in the inventory any more"),
        }
        if self.changed_parts(m) {
            why.say(strange(name));
        }
        if m.pause.is_some() && m.health == Health::Good {
            self.why_paused(m, now, &mut why);
        }
        self.why_its_image(m, now, &mut why);
        self.why_different(m, &mut why);
        self.why_circuit(m, now, &mut why);
        self.why_cut(m, now, &mut why);
        for leg in &m.legs {
            let seen = match leg.seen {
                Some(seen) => format!("{:?} {} ago", seen.reading, words(now - seen.at)).to_lowercase(),
                None => "never read".into(),
            };
            why.say(match leg.name.as_str() {
                "power" => format!("power: {seen}"),
                name => format!("power leg {name}: {seen}"),
            });
            for intent in &leg.unsettled {
                why.say(format!(
                    "  a command `{:?}` may still act for {}",
                    intent.want,
                    words(intent.may_land_until - now)
                ));
            }
        }
        if !m.disks.is_empty() {
            why.say(format!("disks: {}", self.spec(&m.name).map_or_else(|| m.clean(), |s| clean_of(m, s))));
        }
        Some(why)
    }

    /// Its power was cut in front of a leg that did not obey.
    fn why_cut(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let Some(cut) = &m.cut else { return };
        let spare = self.spec(&m.name).and_then(|s| s.legs.get(s.spare_leg()?));
        let spare = spare.map_or("its spare leg", |leg| leg.name.as_str());
        why.say(format!(
            "{spare} was switched off {} ago, since {}; it is on again before the machine is",
            words(now - cut.since),
            cut.reason
        ));
    }

    /// An agent that was there and is silent: no command runs on the machine.
    fn why_silent(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let name = &m.name;
        let Some((agent, lost)) = m.agent.as_ref().and_then(|a| Some((a, a.lost?))) else { return };
        let kind = match agent.kind {
            AgentKind::Boot => "boot",
            AgentKind::Host => "host",
        };
        let mut text = format!("its {kind} agent is not connected since {} ago", words(now - lost));
        let Stage::InUse { .. } = m.stage else { return why.say(text) };
        if self.is_off(m, now) && !m.legs.is_empty() {
            text.push_str(": power is off");
            if agent.kind == AgentKind::Host {
                return why.tell(text, format!("pitstop power {name} on"));
            }
        }
        text.push_str("; a fresh start gives it back, and erases the disks");
        why.tell(text, format!("pitstop reimage {name}"));
    }

    /// Where the limit of the present phase is set.
    fn limit_place(&self, name: &MachineName, turn: &crate::machine::Turn) -> Option<String> {
        use crate::machine::Phase;
        let key = match turn.phase {
            Phase::Off | Phase::HandOff | Phase::Rest | Phase::Settle | Phase::AfterHooks => "power",
            Phase::Start { .. } => {
                return Some("the limit is what all machines of its circuit may take, one by one".to_owned());
            }
            Phase::BootAgent => "attach",
            Phase::Disk { .. } | Phase::Flash { .. } => "reimage",
            Phase::Hook { point, .. } => return self.hook_place(name, point),
            Phase::Seed | Phase::Serve => "handover",
            Phase::Check => return self.check_place(name),
            Phase::Evidence => "evidence",
        };
        let spec = self.spec(name)?;
        let sources = &spec.sources;
        if turn.phase == Phase::Evidence && spec.ready.ms("within").is_some() {
            let place = sources.of("ready").map_or_else(|| sources.machine.to_string(), ToString::to_string);
            return Some(format!("the limit is `within` of ready.{}, set at {place}", spec.ready.driver));
        }
        let mut text = match sources.of(&format!("timeout.{key}")) {
            Some(place) => format!("the limit timeout.{key} is set at {place}"),
            None => format!("the limit timeout.{key} is the default; the machine is at {}", sources.machine),
        };
        if turn.phase == Phase::BootAgent && spec.fetch_ms() > 0 {
            let (fetch, driver) = (words(spec.fetch_ms()), &spec.boot.driver);
            text += &format!("; {fetch} of it are `fetch` of boot.{driver}");
        }
        Some(text)
    }
}

impl Reservation {
    /// Why it ended, in words. What never was its holder's is not released
    /// but given up.
    pub fn end_words(&self, end: &End) -> String {
        match end {
            End::Released { by } if self.began.is_none() => format!("cancelled by {by}"),
            other => other.words(),
        }
    }
}

/// A length of time as people say it: `41m`, `2h 5m`.
pub fn words(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 if ms > 0 => format!("{ms}ms"),
        0..=119 => format!("{s}s"),
        120..=7_199 => format!("{}m", s / 60),
        7_200..=172_799 => format!("{}h {}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d", s / 86_400),
    }
}

mod circuit;
mod experience;
mod facts;
mod program;
pub use experience::doubt;

#[cfg(test)]
mod tests;
