//! `pitstop admin check --wiring`: whether the wires of a machine lead to it.
//!
//! The inventory says which outlet, which serial line and which address are a
//! machine's; a cable says what is so. The one way to tell is to switch the
//! machine and look who shows it. The machines must be out of use for that,
//! and are switched by the same commands that a person would give, so all that
//! holds for those holds here: nobody gets a machine that may yet be switched.

mod report;

use super::super::fail::{Fail, INTERRUPTED};
use super::super::power::switch;
use super::super::{Context, Result};
use pitstop_wire::api::{CheckedPart, PowerDo, PowerRequest, Sign, Signs, State};
use pitstop_wire::{ApiError, Code, MachineName};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a line is listened to that should say nothing.
const QUIET: Duration = Duration::from_secs(3);
/// How long others are listened to once the machine itself has shown itself.
const OTHERS: Duration = Duration::from_secs(2);
/// Between two looks. What is looked at has no stream of its own: the bytes of
/// consoles nobody watches.
const LOOK: Duration = Duration::from_millis(250);

const REASON: &str = "wiring check";

/// Between two beats; the daemon puts the machine back after five of them.
const BEAT: Duration = Duration::from_secs(3);

/// Checks the wires of one machine. However that ends, also where we are
/// killed, the daemon puts it back: it is off, and whoever waits may have it.
pub async fn check(
    cx: &Context,
    name: &MachineName,
    within: Duration,
    agent: bool,
) -> Result<Vec<CheckedPart>> {
    let begun = cx.client.begin_wiring(name).await?;
    let boots = begun.answer.get("agent").and_then(serde_json::Value::as_bool).unwrap_or_default();
    let progress = Progress { cx, name };
    let found = tokio::select! {
        found = look(&progress, within, agent && boots) => found,
        lost = beat(cx, name) => Err(lost),
        why = interrupted() => Err(why),
    };
    let ended = cx.client.end_wiring(name).await;
    if matches!(found, Err(Fail::Exit(_))) {
        progress.say("interrupted; it is switched off and put back");
    }
    let found = found?;
    ended?;
    Ok(found)
}

/// Tells the daemon that somebody is there, until it takes nobody for that
/// any more.
async fn beat(cx: &Context, name: &MachineName) -> Fail {
    loop {
        tokio::time::sleep(BEAT).await;
        match cx.client.beat_wiring(name).await {
            // One that is starting is told with the next beat.
            Err(e) if e.code.exit() != UNREACHABLE => return Fail::from(e),
            _ => {}
        }
    }
}

/// The exit code of a daemon that is not reached: a restart is a short pause.
const UNREACHABLE: u8 = 8;

/// Somebody wants us to end.
async fn interrupted() -> Fail {
    let watch = |kind| signal(kind).map_err(|e| Fail::internal(format!("signals cannot be watched: {e}")));
    let all = || Ok::<_, Fail>((watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?));
    let (mut interrupt, mut terminate) = match all() {
        Ok(both) => both,
        Err(fail) => return fail,
    };
    tokio::select! {
        _ = interrupt.recv() => Fail::Exit(INTERRUPTED),
        _ = terminate.recv() => Fail::Exit(TERMINATED),
    }
}

/// The shell's code for SIGTERM.
const TERMINATED: u8 = 143;

/// Tells people how far it is.
pub(super) struct Progress<'a> {
    pub cx: &'a Context,
    pub name: &'a MachineName,
}

impl Progress<'_> {
    pub fn say(&self, what: &str) {
        if self.cx.out.human() {
            self.cx.out.say(&format!("{}  {what}", self.name));
        }
    }
}

async fn look(progress: &Progress<'_>, within: Duration, agent: bool) -> Result<Vec<CheckedPart>> {
    let Progress { cx, name } = *progress;
    let began = Instant::now();
    progress.say("off, and listening to whoever speaks all the same");
    power(cx, name, PowerDo::Off).await?;
    let off = cx.client.signs().await?;
    tokio::time::sleep(QUIET).await;
    let quiet = cx.client.signs().await?;
    let mut watch = Watch::new(name, &off, &quiet);
    progress.say("on, and listening to all consoles");
    let on = Instant::now();
    power(cx, name, PowerDo::On).await?;
    let mut shown_at = None;
    loop {
        watch.see(&cx.client.signs().await?, on.elapsed());
        if watch.all_shown() {
            shown_at.get_or_insert_with(Instant::now);
        }
        if on.elapsed() > within || shown_at.is_some_and(|at: Instant| at.elapsed() > OTHERS) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    progress.say("off again");
    power(cx, name, PowerDo::Off).await?;
    let off = cx.client.signs().await?;
    tokio::time::sleep(QUIET).await;
    watch.silent(&off, &cx.client.signs().await?);
    let power = CheckedPart {
        part: "power".to_owned(),
        driver: String::new(),
        ok: true,
        says: "went off, on and off, read back each time".to_owned(),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let mut parts: Vec<CheckedPart> = std::iter::once(power).chain(watch.verdict(within)).collect();
    // With cables that lead elsewhere it would be another machine's report.
    if agent && parts.iter().all(|part| part.ok) {
        parts.push(report::report(progress).await?);
    }
    Ok(parts)
}

/// Switches the machine. Only of a new one the daemon wants a reason, which
/// for one that is held would override its holder: that nobody holds it, the
/// daemon sees to as long as the check lasts.
async fn power(cx: &Context, name: &MachineName, action: PowerDo) -> Result {
    let row = cx.client.machine(name.as_str()).await?;
    let force = match row.state {
        State::New => Some(REASON.to_owned()),
        State::Drained | State::Checking => None,
        _ => {
            let text = format!("the wires of {name} cannot be checked now: it is {}", row.shown.word());
            return Err(ApiError::new(Code::Conflict, text).into());
        }
    };
    let ask = PowerRequest { action, force };
    switch(cx, name.as_str(), &ask, None, None).await.map(drop)
}

/// A console, or with `None` the firmware that asks what to boot.
type Wire = (MachineName, Option<String>);

/// What showed itself when a machine was switched on.
struct Watch {
    machine: MachineName,
    /// Each wire and how much it had shown before.
    before: BTreeMap<Wire, u64>,
    /// Lines of the machine that spoke though it was off.
    loud: Vec<Wire>,
    /// What was shown, and how long after the command.
    shown: BTreeMap<Wire, Duration>,
}

impl Watch {
    fn new(machine: &MachineName, off: &Signs, quiet: &Signs) -> Self {
        let mut watch = Self {
            machine: machine.clone(),
            before: wires(quiet).collect(),
            loud: Vec::new(),
            shown: BTreeMap::new(),
        };
        watch.silent(off, quiet);
        // Who speaks by himself says nothing about this machine.
        let chatter = grown(off, quiet);
        watch.before.retain(|wire, _| wire.0 == *machine || !chatter.contains(wire));
        watch
    }

    /// Two looks while the machine is off.
    fn silent(&mut self, first: &Signs, second: &Signs) {
        self.loud.extend(grown(first, second).into_iter().filter(|wire| wire.0 == self.machine));
    }

    fn see(&mut self, signs: &Signs, after: Duration) {
        for (wire, now) in wires(signs) {
            if self.before.get(&wire).is_some_and(|before| now > *before) {
                self.shown.entry(wire).or_insert(after);
            }
        }
    }

    fn own(&self) -> impl Iterator<Item = &Wire> {
        self.before.keys().filter(|wire| wire.0 == self.machine)
    }

    fn all_shown(&self) -> bool {
        self.own().all(|wire| self.shown.contains_key(wire))
    }

    /// Who else showed himself, of those that nobody else can have switched.
    fn others(&self) -> Vec<&Wire> {
        self.shown.keys().filter(|wire| wire.0 != self.machine).collect()
    }

    fn verdict(&self, within: Duration) -> Vec<CheckedPart> {
        let mut parts: Vec<CheckedPart> = self.own().map(|wire| self.own_part(wire, within)).collect();
        parts.extend(self.others().into_iter().map(|wire| self.other_part(wire)));
        parts
    }

    fn own_part(&self, wire: &Wire, within: Duration) -> CheckedPart {
        let (did, then, verb) = match wire.1 {
            Some(_) => ("spoke", ", silent when off", "said nothing"),
            None => ("asked what to boot", "", "did not ask what to boot"),
        };
        let seconds = |t: &Duration| format!("{:.1} s", t.as_secs_f32());
        let (ok, says) = match (self.shown.get(wire), self.loud.contains(wire)) {
            (_, true) => {
                let text = "spoke while the power was off: it is another machine's, or the power is";
                (false, text.to_owned())
            }
            (Some(after), false) => (true, format!("{did} {} after power on{then}", seconds(after))),
            (None, false) => (false, format!("{verb} within {}{}", seconds(&within), self.instead())),
        };
        part(wire, &self.machine, ok, says, self.shown.get(wire))
    }

    fn other_part(&self, wire: &Wire) -> CheckedPart {
        let what = match wire.1 {
            Some(_) => "spoke",
            None => "asked what to boot",
        };
        let says = format!("{what} when {} was switched on: {}", self.machine, self.swapped(&wire.0));
        part(wire, &self.machine, false, says, self.shown.get(wire))
    }

    fn instead(&self) -> String {
        match self.others().first() {
            Some((machine, _)) => format!("; {machine} did instead"),
            None => "; is it plugged in, and does the machine start?".to_owned(),
        }
    }

    /// What must be swapped with another machine. The firmware that asks is
    /// the machine that was switched, whatever the cables are.
    fn swapped(&self, other: &MachineName) -> String {
        let asked = |machine: &MachineName| self.shown.contains_key(&(machine.clone(), None));
        let what = match (asked(&self.machine), asked(other)) {
            (true, false) => "their consoles are swapped",
            (false, true) => "their power is swapped",
            _ if self.own().any(|wire| self.shown.contains_key(wire)) => "both hang on this power",
            _ => "their power or their consoles are swapped",
        };
        format!("{what}: look at the cables of {} and {other}", self.machine)
    }
}

fn part(wire: &Wire, machine: &MachineName, ok: bool, says: String, after: Option<&Duration>) -> CheckedPart {
    let what = wire.1.as_ref().map_or_else(|| "boot".to_owned(), |console| format!("console {console}"));
    let part = if wire.0 == *machine { what } else { format!("{} {what}", wire.0) };
    let ms = after.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    CheckedPart { part, driver: String::new(), ok, says, ms }
}

/// Every wire and what it has shown; but for machines that somebody uses,
/// which show themselves at any time.
fn wires(signs: &Signs) -> impl Iterator<Item = (Wire, u64)> {
    signs.machines.iter().filter(|sign| sign.at_rest).flat_map(|sign: &Sign| {
        let console = |heard: &pitstop_wire::api::Heard| {
            ((sign.machine.clone(), Some(heard.console.clone())), heard.bytes)
        };
        let consoles: Vec<_> = sign.consoles.iter().map(console).collect();
        consoles.into_iter().chain(sign.asked.map(|asked| ((sign.machine.clone(), None), asked)))
    })
}

fn grown(first: &Signs, second: &Signs) -> Vec<Wire> {
    let before: BTreeMap<Wire, u64> = wires(first).collect();
    let more = |(wire, now): (Wire, u64)| (before.get(&wire).is_some_and(|was| now > *was)).then_some(wire);
    wires(second).filter_map(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_wire::api::{Heard, Schema};

    fn name(name: &str) -> MachineName {
        MachineName::new(name).unwrap()
    }

    /// Machines `m0`, `m1`, `m2`: what the console said and how often the firmware asked.
    fn signs(all: [(u64, u64); 3]) -> Signs {
        let sign = |(at, (bytes, asked)): (usize, (u64, u64))| Sign {
            machine: name(&format!("m{at}")),
            at_rest: true,
            asked: Some(asked),
            consoles: vec![Heard { console: "main".into(), bytes }],
        };
        let machines = all.into_iter().enumerate().map(sign).collect();
        Signs { schema: Schema::new("pitstop.signs/1"), machines }
    }

    /// What is said of m0, from what showed itself after it was switched on.
    fn verdict(shown: [(u64, u64); 3]) -> Vec<String> {
        let before = signs([(10, 1), (20, 2), (30, 3)]);
        let mut watch = Watch::new(&name("m0"), &before, &before);
        watch.see(&signs(shown), Duration::from_secs(2));
        watch.silent(&before, &before);
        let say = |part: CheckedPart| format!("{} {} {}", part.part, part.ok, part.says);
        watch.verdict(Duration::from_secs(60)).into_iter().map(say).collect()
    }

    #[test]
    fn a_machine_whose_wires_are_right() {
        let all = verdict([(99, 2), (20, 2), (30, 3)]);
        assert_eq!(all.len(), 2);
        assert!(all[0].starts_with("boot true asked what to boot 2.0 s after"), "{all:?}");
        assert!(all[1].starts_with("console main true spoke 2.0 s after"), "{all:?}");
    }

    #[test]
    fn swapped_outlets_and_swapped_consoles_are_told_apart() {
        let outlets = verdict([(10, 1), (99, 3), (30, 3)]);
        assert!(
            outlets.iter().any(|l| l.contains("m1 console main") && l.contains("power is swapped")),
            "{outlets:?}"
        );
        assert!(
            outlets.iter().any(|l| l.contains("said nothing") && l.contains("m1 did instead")),
            "{outlets:?}"
        );
        let consoles = verdict([(10, 2), (99, 2), (30, 3)]);
        assert!(
            consoles.iter().any(|l| l.contains("consoles are swapped") && l.contains("m0 and m1")),
            "{consoles:?}"
        );
        let both = verdict([(99, 2), (99, 3), (30, 3)]);
        assert!(both.iter().any(|l| l.contains("both hang on this power")), "{both:?}");
    }

    #[test]
    fn a_dead_line_and_one_that_speaks_though_all_is_off() {
        let dead = verdict([(10, 1), (20, 2), (30, 3)]);
        assert!(dead.iter().any(|l| l.contains("said nothing within 60.0 s; is it plugged in")), "{dead:?}");
        let (first, second) = (signs([(10, 1), (20, 2), (30, 3)]), signs([(11, 1), (21, 2), (30, 3)]));
        let mut watch = Watch::new(&name("m0"), &first, &second);
        watch.see(&signs([(99, 2), (99, 2), (30, 3)]), Duration::from_secs(2));
        let parts = watch.verdict(Duration::from_secs(60));
        assert!(parts.iter().any(|p| !p.ok && p.says.contains("while the power was off")), "{parts:?}");
        assert!(!parts.iter().any(|p| p.part.contains("m1")), "m1 chatters by itself: {parts:?}");
    }
}
