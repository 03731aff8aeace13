//! The daemon in the simulated world: loop, store and death.

use super::dice::{Chance, Pick, Who};
use super::labs::IMAGES;
use super::power::Order;
use super::restored::Backups;
use super::{Happening, Sim, trace};
use crate::Lab;
use crate::effect::Effect;
use crate::event::{Answer, Event, Fact, Moment, Report, Request};
use crate::fence::{Fence, Fences};
use crate::id::Epoch;
use crate::inventory::model::Inventory;
use crate::lab::{Meta, Outcome, Row, RowKey, Rows};
use crate::machine::{Health, ImageRef};
use crate::record::{Actor, Change};
use crate::time::LabTime;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// With effects waiting to leave, a death is this many times as likely.
const DANGEROUS: u64 = 10;
/// How long the loop may be away before silence is no evidence (ms).
const LONGEST_ABSENCE: u64 = 1_000;
/// How long a daemon is believed to have been down at most (ms).
const LONGEST_DOWN: i64 = 30 * 24 * 3_600_000;
/// While deadlines run the loop wakes at least this often (ms).
const BREATH: u64 = 500;

/// The daemon and what it keeps on disk.
pub(super) struct Daemon {
    pub fences: Fences,
    /// The running daemon's lab.
    pub lab: Option<Lab>,
    /// Its lab time minus the world's: what a wall clock that was stepped
    /// while no daemon ran has left.
    pub skew: i64,
    /// The inventory of its newest commit.
    inventory: Arc<Inventory>,
    /// A daemon that was stopped, and believes that it still leads.
    zombie: Option<Zombie>,
    /// Commands that the stopped daemon's lanes had not sent.
    pub asleep: Vec<Order>,
    /// The store does not take commits, or the loop does not run.
    silence: Option<Silence>,
    started: bool,
    /// The database.
    pub store: Store,
    pub backups: Backups,
}

/// What is on disk.
#[derive(Clone, Default)]
pub(super) struct Store {
    meta: Meta,
    rows: BTreeMap<RowKey, Row>,
    /// The fold of all committed records.
    pub shadow: Lab,
    /// Rows that changed since they were compared with it.
    pub changed: BTreeSet<RowKey>,
}

struct Zombie {
    lab: Lab,
    skew: i64,
    stopped: u64,
    awake: bool,
}

/// A time in which nothing is decided.
struct Silence {
    since: u64,
    why: Why,
    /// What is decided about when it is over.
    kept: Vec<Event>,
}

/// What is committed at once.
enum Batch {
    /// A daemon takes the lab over.
    Start,
    /// Events; these of them are true whether or not they are stored.
    Events(Vec<Event>),
}

enum Why {
    /// The loop does not run; it wanted to sleep for so long.
    Stopped { asked: Option<u64> },
    /// A commit failed, and the store is not tried again yet.
    Refused,
    /// Nobody knows whether a batch was written: it was. These wait for it.
    Limbo { effects: Vec<Effect> },
}

impl Store {
    fn write(&mut self, lab: &Lab, out: &Outcome) -> Result<(), String> {
        for record in &out.records {
            if record.number != self.shadow.meta.records + 1 {
                return Err(format!("history forked at record {}", record.number));
            }
            drain_stands(&self.shadow, &record.change, &record.actor)?;
            self.shadow.apply_rows(record);
        }
        if !out.records.is_empty() {
            self.meta = lab.meta.clone();
        }
        self.changed.extend(out.touched.iter().cloned());
        for key in &out.touched {
            let before = match lab.row(key) {
                Some(row) => self.rows.insert(key.clone(), row),
                None => self.rows.remove(key),
            };
            if let (Some(Row::Reservation(old)), RowKey::Reservation(id)) = (before, key)
                && old.ended()
                && lab.reservation(*id).is_some_and(|r| !r.ended())
            {
                return Err(format!("{id} had ended, and lives again"));
            }
        }
        Ok(())
    }

    pub fn row(&self, key: &RowKey) -> Option<&Row> {
        self.rows.get(key)
    }

    /// The lab's own row.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How many reservations there ever were.
    pub fn reservations(&self) -> u64 {
        self.meta.reservations
    }

    pub fn rows(&self) -> Rows {
        Rows { meta: self.meta.clone(), rows: self.rows.values().cloned().collect() }
    }
}

/// A drain is a person's word, and only a person takes it back.
fn drain_stands(before: &Lab, change: &Change, actor: &Actor) -> Result<(), String> {
    let (machine, health) = match change {
        Change::HealthSet { machine, health } | Change::MachineDeclared { machine, health, .. } => {
            (machine, health)
        }
        _ => return Ok(()),
    };
    let drained = before.machine(machine).is_some_and(|m| matches!(m.health, Health::Drained { .. }));
    let by_person = matches!(actor, Actor::User(_));
    // A machine that left the inventory was taken out by who edited it.
    if !drained || by_person || matches!(health, Health::Drained { .. } | Health::Retired) {
        return Ok(());
    }
    Err(format!("{machine} was drained by a person, and made {health:?} by {actor:?}"))
}

impl Daemon {
    pub fn new(fences: Fences, inventory: Arc<Inventory>) -> Self {
        Self {
            fences,
            lab: None,
            skew: 0,
            inventory,
            zombie: None,
            asleep: Vec::new(),
            silence: None,
            started: false,
            store: Store::default(),
            backups: Backups::default(),
        }
    }

    /// Whether a daemon is stopped, and not dead.
    pub fn has_zombie(&self) -> bool {
        self.zombie.is_some()
    }
}

impl Sim {
    // ── time ──

    pub(super) fn lab_now(&self) -> LabTime {
        LabTime(self.now.saturating_add_signed(self.daemon.skew))
    }

    /// When the running daemon must judge next, in the world's time.
    pub(super) fn next_tick(&self) -> Option<u64> {
        let lab = self.daemon.lab.as_ref().filter(|_| self.daemon.silence.is_none())?;
        Some(lab.next_deadline()?.0.saturating_add_signed(-self.daemon.skew))
    }

    fn moment(&mut self, now: LabTime) -> Moment {
        self.draws += 1;
        let wall = self.now as i64 + self.wall_offset;
        Moment { now, wall, entropy: crate::id::Entropy(self.dice.bytes(self.draws)) }
    }

    /// Where the lab's time goes on after a start: by the wall clock, which
    /// somebody may have set meanwhile.
    fn continue_time(&mut self) {
        let meta = &self.daemon.store.meta;
        if meta.records == 0 {
            return;
        }
        let away = (self.now as i64 + self.wall_offset - meta.wall).clamp(0, LONGEST_DOWN);
        self.daemon.skew = meta.now.0 as i64 + away - self.now as i64;
    }

    // ── start and death ──

    pub(super) fn restart(&mut self) {
        if self.daemon.lab.is_some() {
            return;
        }
        if self.happens(Who::DAEMON, Chance::ClockStep) {
            let ms = self.dice.between(Who::DAEMON, Pick::Duration, 1_000, 7_200_000) as i64;
            let back = self.dice.below(Who::DAEMON, Pick::Kind, 2) == 0;
            self.wall_offset += if back { -ms } else { ms };
        }
        self.check_fold();
        self.check_acknowledged();
        let restored = self.put_back();
        self.continue_time();
        self.daemon.lab = Some(Lab::from_rows(self.daemon.store.rows()).with_fences(self.daemon.fences));
        self.daemon.inventory = self.file.clone();
        let enrol = !std::mem::replace(&mut self.daemon.started, true);
        self.starts += 1;
        let start = match restored {
            true => self.start_restored(enrol),
            false => Event::Start { inventory: self.file.clone(), enrol },
        };
        if let Some(out) = self.step(start) {
            self.commit(out, Batch::Start);
        }
        if self.daemon.lab.as_ref().is_some_and(|l| l.images().len() == 0) {
            self.add_images();
        }
        if self.daemon.zombie.is_some() {
            let wake = self.dice.between(Who::DAEMON, Pick::Delay, 100, 90_000);
            self.at(wake, Happening::ZombieWakes);
        }
    }

    pub(super) fn add_images(&mut self) {
        for name in IMAGES {
            let image = ImageRef { name: name.into(), digest: format!("b3:{name}"), seed: Some((0, 4096)) };
            let caller = super::clients::admin();
            self.deliver(Event::Request(caller, Request::NameImage { image, bytes: super::board::DISK }));
        }
    }

    fn die(&mut self, lab: Option<Lab>) {
        self.report.kills += 1;
        self.daemon.silence = None;
        // One that was stopped before its start was stored never led.
        let led = lab.is_some_and(|l| l.meta.epoch == self.daemon.store.meta.epoch);
        if led && self.daemon.zombie.is_none() && self.happens(Who::DAEMON, Chance::Stopped) {
            // What it had not committed, it forgets: it goes on with what
            // the store held then.
            let mut lab = Lab::from_rows(self.daemon.store.rows()).with_fences(self.daemon.fences);
            lab.is_about(&self.daemon.inventory);
            lab.derive_all();
            let (skew, stopped) = (self.daemon.skew, self.now);
            self.daemon.zombie = Some(Zombie { lab, skew, stopped, awake: false });
        }
        if self.daemon.zombie.is_none() {
            self.orphan_runs(self.daemon.store.meta.epoch);
        }
        self.all_disconnected();
        self.nobody_answers();
        // Now and then for longer than any phase, or a holder who may claim, has.
        let long = self.dice.below(Who::DAEMON, Pick::Kind, 8) == 0;
        let naked = !self.daemon.fences.stands(Fence::IntentFirst);
        let (low, high) = match long {
            // What nobody recorded must land while the next daemon is at work.
            _ if naked => (200, 2_000),
            true => (60_000, 3_600_000),
            false => (200, 60_000),
        };
        let down = self.dice.between(Who::DAEMON, Pick::Duration, low, high);
        self.at(down, Happening::Restart);
    }

    // ── who is asked ──

    pub(super) fn is_running(&self, epoch: Epoch) -> bool {
        self.daemon.lab.as_ref().is_some_and(|l| l.meta.epoch == epoch)
    }

    /// Whether the daemon of this epoch is stopped, and its lanes with it.
    pub(super) fn is_asleep(&self, epoch: Epoch) -> bool {
        self.daemon.zombie.as_ref().is_some_and(|z| !z.awake && z.lab.meta.epoch == epoch)
    }

    /// A lane asks the daemon it belongs to.
    pub(super) fn ask_daemon(&mut self, epoch: Epoch, event: Event) -> Option<Answer> {
        if self.is_running(epoch) {
            return self.deliver(event);
        }
        match &self.daemon.zombie {
            Some(zombie) if zombie.lab.meta.epoch == epoch => self.zombie_takes(event),
            _ => None,
        }
    }

    /// A runner reports to its daemon; where that is gone, to whoever leads.
    pub(super) fn fact(&mut self, epoch: Epoch, fact: Fact) {
        let event = Event::Fact { epoch, fact };
        match &self.daemon.zombie {
            Some(z) if z.awake && z.lab.meta.epoch == epoch => drop(self.zombie_takes(event)),
            _ => drop(self.route(event)),
        }
    }

    /// Somebody out there sends this to the daemon, or to who was it.
    pub(super) fn route(&mut self, event: Event) -> Option<Answer> {
        let awake = self.daemon.zombie.as_ref().is_some_and(|z| z.awake);
        if awake && self.happens(Who::DAEMON, Chance::ToTheWrongDaemon) {
            return self.zombie_takes(event);
        }
        self.deliver(event)
    }

    // ── decisions ──

    /// Queued beats are taken before deadlines are judged.
    pub(super) fn tick(&mut self) {
        self.beats_due();
        let now = self.lab_now();
        if self.next_tick().is_some() && self.daemon.lab.as_ref().and_then(|l| l.next_deadline()) <= Some(now)
        {
            self.deliver(Event::Tick);
        }
    }

    /// Steps, commits, checks, answers and lets effects go, in this order;
    /// or dies somewhere in between. `None`: no answer was heard.
    pub(super) fn deliver(&mut self, event: Event) -> Option<Answer> {
        self.daemon.lab.as_ref()?;
        if let Some(silence) = &mut self.daemon.silence {
            let stopped = matches!(silence.why, Why::Stopped { .. });
            if stopped || keeps(&event) {
                silence.kept.push(event);
            }
            return None;
        }
        if self.happens(Who::DAEMON, Chance::LoopStopped) {
            self.fall_silent(LONGEST_ABSENCE + 100, 300_000, vec![event], |lab, now| Why::Stopped {
                asked: lab.next_deadline().map(|due| (due - now).min(BREATH)),
            });
            return None;
        }
        let again = keeps(&event).then(|| event.clone());
        let out = self.step(event)?;
        self.commit(out, Batch::Events(again.into_iter().collect()))
    }

    /// The core decides.
    fn step(&mut self, event: Event) -> Option<Outcome> {
        let now = self.lab_now();
        let moment = self.moment(now);
        let what = self.config.trace.then(|| trace::shown(&event));
        let lab = self.daemon.lab.as_mut()?;
        self.report.pairs.count(lab, now, &event);
        let out = lab.step(&moment, event);
        self.report.steps += 1;
        self.check_step(&out);
        if self.config.probe {
            self.probe(&out.touched);
        }
        if let Some(what) = what {
            let lab = self.daemon.lab.as_ref()?;
            let states = trace::states(lab, &out.touched);
            let effects = out.effects.iter().map(trace::shown).collect();
            let answer = (out.answer != Answer::None).then(|| trace::shown(&out.answer));
            let (epoch, records) = (Some(lab.meta.epoch), out.records.clone());
            self.log(trace::Entry { at: self.now, what, epoch, records, effects, answer, states });
        }
        Some(out)
    }

    /// Stores what was decided, or does not.
    fn commit(&mut self, mut out: Outcome, batch: Batch) -> Option<Answer> {
        let answer = std::mem::replace(&mut out.answer, Answer::None);
        if out.records.is_empty() {
            self.perform_all(out.effects);
            return Some(answer);
        }
        let odds = if out.effects.is_empty() { 1 } else { DANGEROUS };
        let who = Who::DAEMON;
        // Without intents a death is dangerous between two effects only:
        // there it is made likely, so that the lack is found soon.
        let naked = !self.daemon.fences.stands(Fence::IntentFirst);
        let deaths = Chance::KilledBefore.odds() / odds / if naked && odds > 1 { 12 } else { 1 };
        if self.dice.happens_at(who, Chance::KilledBefore, deaths) {
            self.note(|| "killed before the commit".into());
            if naked {
                self.perform_all(out.effects); // they left, and nobody will know
            }
            let lab = self.daemon.lab.take();
            self.die(lab);
            return None;
        }
        if self.happens(who, Chance::CommitFailed) {
            return self.commit_failed(batch);
        }
        let lab = self.daemon.lab.take()?;
        self.check_commit(&lab, &out);
        let written = self.daemon.store.write(&lab, &out);
        self.daemon.inventory = lab.inventory.clone();
        self.daemon.lab = Some(lab);
        if let Err(text) = written {
            self.violation(text);
        }
        self.report.records += out.records.len() as u64;
        self.look_at_rows(&out);
        if matches!(batch, Batch::Events(_)) && self.happens(who, Chance::CommitUnknown) {
            let effects = out.effects;
            self.fall_silent(50, 30_000, Vec::new(), |_, _| Why::Limbo { effects });
            return None;
        }
        if self.dice.happens_at(who, Chance::KilledAfter, Chance::KilledAfter.odds() / odds) {
            self.note(|| "killed after the commit".into());
            let lab = self.daemon.lab.take();
            self.die(lab);
            return None;
        }
        self.perform_all(out.effects);
        Some(answer)
    }

    fn commit_failed<T>(&mut self, batch: Batch) -> Option<T> {
        match batch {
            Batch::Events(again) => {
                self.reopen();
                self.fall_silent(50, 120_000, again, |_, _| Why::Refused);
            }
            // A daemon that cannot take the lab over does not start.
            Batch::Start => {
                self.note(|| "the start could not be stored".into());
                self.daemon.lab = None;
                self.die(None);
            }
        }
        None
    }

    fn perform_all(&mut self, effects: Vec<Effect>) {
        let Some(epoch) = self.daemon.lab.as_ref().map(|l| l.meta.epoch) else { return };
        let now = self.lab_now();
        for effect in effects {
            self.perform(effect, epoch, now);
        }
    }

    /// The batch never happened: the lab as it is stored.
    fn reopen(&mut self) {
        let Some(old) = self.daemon.lab.take() else { return };
        let (rows, inventory) = (self.daemon.store.rows(), self.daemon.inventory.clone());
        self.daemon.lab = Some(Lab::reopen(rows, inventory, &old, self.lab_now()));
    }

    // ── silences ──

    fn fall_silent(&mut self, low: u64, high: u64, kept: Vec<Event>, why: impl FnOnce(&Lab, LabTime) -> Why) {
        let now = self.lab_now();
        let Some(lab) = &self.daemon.lab else { return };
        let why = why(lab, now);
        // Most are short.
        let short = self.dice.below(Who::DAEMON, Pick::Kind, 3) > 0;
        let most = if short { low.saturating_mul(8).min(high) } else { high };
        let ms = self.dice.between(Who::DAEMON, Pick::Duration, low, most);
        let words = match why {
            Why::Stopped { .. } => "the loop is stopped",
            Why::Refused => "the commit failed",
            Why::Limbo { .. } => "nobody knows whether it is committed",
        };
        self.note(|| format!("{words}, for {ms} ms"));
        self.daemon.silence = Some(Silence { since: self.now, why, kept });
        let epoch = self.daemon.lab.as_ref().map(|l| l.meta.epoch).unwrap_or_default();
        self.at(ms, Happening::SilenceEnds(epoch));
    }

    /// The loop runs again, or the store takes commits: one batch of how long
    /// that was, of everything that waited, and of what is due.
    pub(super) fn silence_ends(&mut self, epoch: Epoch) {
        if !self.is_running(epoch) {
            return;
        }
        let Some(silence) = self.daemon.silence.take() else { return };
        self.note(|| "the loop goes on".into());
        let away = self.now - silence.since;
        let gap = match silence.why {
            Why::Stopped { asked } => {
                asked.map(|asked| away.saturating_sub(asked)).filter(|ms| *ms > LONGEST_ABSENCE)
            }
            Why::Refused => Some(away),
            Why::Limbo { effects } => {
                self.perform_all(effects);
                Some(away).filter(|ms| *ms > LONGEST_ABSENCE)
            }
        };
        let beats = self.beats_meanwhile();
        let events = gap.map(Event::Gap).into_iter().chain(beats).chain(silence.kept);
        self.batch(events.collect());
    }

    fn batch(&mut self, events: Vec<Event>) {
        let again = events.iter().filter(|e| keeps(e)).cloned().collect();
        let mut all: Option<Outcome> = None;
        let mut add = |out: Outcome| match &mut all {
            None => all = Some(out),
            Some(all) => {
                all.records.extend(out.records);
                all.touched.extend(out.touched);
                all.effects.extend(out.effects);
            }
        };
        for event in events {
            if let Some(out) = self.step(event) {
                add(out);
            }
        }
        let due = self.daemon.lab.as_ref().and_then(|l| l.next_deadline());
        if due.is_some_and(|due| due <= self.lab_now())
            && let Some(out) = self.step(Event::Tick)
        {
            add(out);
        }
        if let Some(out) = all {
            self.commit(out, Batch::Events(again));
        }
    }

    // ── the other daemon ──

    /// The stopped daemon goes on with what it was about to do.
    pub(super) fn zombie_wakes(&mut self) {
        let Some(zombie) = &mut self.daemon.zombie else { return };
        zombie.awake = true;
        let away = self.now - zombie.stopped;
        self.note(|| "a stopped daemon goes on".into());
        for order in std::mem::take(&mut self.daemon.asleep) {
            self.at(1, Happening::Command(Box::new(order)));
        }
        if away > LONGEST_ABSENCE && self.zombie_takes(Event::Gap(away)).is_none() {
            return;
        }
        self.zombie_takes(Event::Tick);
        self.at(300_000, Happening::ZombieEnds);
    }

    pub(super) fn zombie_ends(&mut self) {
        if self.daemon.zombie.as_ref().is_some_and(|z| z.awake) {
            self.daemon.zombie = None;
        }
    }

    /// The stopped daemon decides. Its first commit is refused, since another
    /// one leads; until then it answers from what it knew.
    fn zombie_takes(&mut self, event: Event) -> Option<Answer> {
        let mut zombie = self.daemon.zombie.take()?;
        let now = LabTime(self.now.saturating_add_signed(zombie.skew));
        let moment = self.moment(now);
        self.note(|| format!("to the stopped daemon: {}", trace::shown(&event)));
        let out = zombie.lab.step(&moment, event);
        let epoch = zombie.lab.meta.epoch;
        let leads = self.daemon.store.meta.epoch == epoch;
        if !out.records.is_empty() && !leads && self.daemon.fences.stands(Fence::Epoch) {
            self.note(|| "it is refused, and ends itself".into());
            self.daemon.asleep.clear();
            return None;
        }
        // Where its successor never got so far, it leads still.
        self.check_commit(&zombie.lab, &out);
        if let Err(text) = self.daemon.store.write(&zombie.lab, &out) {
            self.violation(text);
            return None;
        }
        self.look_at_rows(&out);
        self.daemon.zombie = Some(zombie);
        for effect in out.effects {
            self.perform(effect, epoch, now);
        }
        Some(out.answer)
    }
}

/// What is true whether or not it was decided about, and said only once. An
/// agent repeats its results until they are acknowledged.
fn keeps(event: &Event) -> bool {
    matches!(event, Event::Fact { .. } | Event::Gap(_) | Event::Agent { report: Report::Lost, .. })
}
