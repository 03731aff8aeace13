//! What a state is compared by: all that its future depends on, and nothing
//! else.
//!
//! Times count from now; what is only ever compared with something else is
//! kept as the answer to that comparison. Numbers, nonces and secrets are
//! renamed in the order they appear, since nothing depends on which they are.
//! Labels, evidence and counters of history are left out. Rows are taken
//! apart field by field without `..`, so that a new field does not compile
//! until somebody has said whether it matters.

use crate::fault::Fault;
use crate::world::{Agent, At, Credentials, Order, Token, World};
use pitstop_core::effect::Boot;
use pitstop_core::event::{Event, Fact, Report};
use pitstop_core::fence::Fence;
use pitstop_core::id::SecretHash;
use pitstop_core::machine::{
    self, Attempt, Content, Health, Intent, Leg, Machine, Phase, Reading, Seen, Stage, Turn,
};
use pitstop_core::reservation::{Member, Reservation, Status};
use pitstop_core::time::LabTime;
use pitstop_wire::agent::{Hello, ImageMode, Outcome, Work};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// A state's key.
pub fn of(world: &World) -> Vec<u64> {
    let mut key = Key { out: Vec::with_capacity(192), names: Vec::with_capacity(24), now: world.now };
    key.world(world);
    key.out
}

/// Nothing here.
const NONE: u64 = u64::MAX;
/// A silence that is longer is not told from this (ms): none is judged later.
const SILENCE: u64 = 60_000;

struct Key {
    out: Vec<u64>,
    /// Names in the order they appeared.
    names: Vec<u64>,
    now: LabTime,
}

impl Key {
    fn put(&mut self, value: u64) {
        self.out.push(value);
    }

    fn flag(&mut self, value: bool) {
        self.put(u64::from(value));
    }

    /// How long until then; what is over is over.
    fn until(&mut self, at: Option<LabTime>) {
        let value = at.map_or(NONE, |at| at - self.now);
        self.put(value);
    }

    /// A name, by when it appeared first.
    fn name(&mut self, what: &impl Hash) {
        let raw = raw(what);
        let index = self.names.iter().position(|n| *n == raw).unwrap_or_else(|| {
            self.names.push(raw);
            self.names.len() - 1
        });
        self.put(index as u64);
    }

    /// A word that means itself.
    fn word(&mut self, what: &impl Hash) {
        self.put(raw(what));
    }

    fn world(&mut self, w: &World) {
        self.flag(w.up);
        self.put(w.proofs.into());
        for kind in Fault::ALL {
            self.put(w.faults.left(kind).into());
        }
        self.put(w.wrong.is_some().into());
        self.board(w);
        match &w.agent {
            Some(agent) => self.agent(agent),
            None => self.put(NONE),
        }
        let epoch = w.lab.meta().epoch;
        self.put(w.orders.len() as u64);
        for order in &w.orders {
            self.flag(order.epoch == epoch);
            self.order(order, w.setting.power_ms);
        }
        self.put(w.strays.len() as u64);
        for stray in &w.strays {
            self.stray(stray, w);
        }
        self.put(w.questions.len() as u64);
        for question in &w.questions {
            self.flag(question.epoch == epoch);
            self.asked(question.asked, w);
        }
        for client in &w.clients {
            self.word(&client.told);
            self.put((u64::from(client.switches) << 8) | u64::from(client.reimages));
        }
        self.lab(w);
        // All that a stopped one can still do is to wake, and where its store
        // refuses it, it then only ends.
        self.flag(w.stopped.is_some());
        if let Some(stopped) = w.stopped.as_ref().filter(|_| !w.setting.fences.stands(Fence::Epoch)) {
            self.put(stopped.meta().records);
            self.until(stopped.next_deadline());
        }
    }

    fn board(&mut self, w: &World) {
        let b = &w.board;
        self.flag(b.on);
        self.word(&b.disk.base);
        self.put(u64::from(b.disk.partial) | u64::from(b.disk.touched) << 1 | u64::from(b.swapped) << 2);
        self.word(&b.disk.tenants);
        self.word(&b.tenant);
        self.credentials(b.seed.as_ref());
        self.token(b.rejoin.as_ref());
        // Only a machine that may boot again remembers what.
        if let Some((boot, credentials)) = b.last.as_ref().filter(|_| w.faults.may(Fault::Reboot) && b.on) {
            self.boot(*boot);
            self.credentials(credentials.as_ref());
        }
    }

    fn boot(&mut self, boot: Boot) {
        self.put(match boot {
            Boot::Agent => 0,
            Boot::Disk | Boot::AsIs => 1,
        });
    }

    fn credentials(&mut self, credentials: Option<&Credentials>) {
        match credentials {
            Some(c) => {
                self.name(&c.nonce);
                self.name(&c.token.hash);
            }
            None => self.put(NONE),
        }
    }

    fn token(&mut self, token: Option<&Token>) {
        match token {
            Some(token) => self.name(&token.hash),
            None => self.put(NONE),
        }
    }

    fn agent(&mut self, agent: &Agent) {
        let Agent { kind, credentials, boot_id, key, attached, link, doing, results, slow } = agent;
        self.word(kind);
        self.credentials(Some(credentials));
        self.name(boot_id);
        self.name(&key.hash);
        self.put(u64::from(*attached) | u64::from(*slow) << 1);
        self.word(link);
        match doing {
            Some((step, work)) => {
                self.put(*step);
                self.work(work);
            }
            None => self.put(NONE),
        }
        self.put(results.len() as u64);
        for (step, outcome) in results {
            self.put(*step);
            self.outcome(outcome);
        }
    }

    fn work(&mut self, work: &Work) {
        match work {
            Work::Look => self.put(0),
            Work::Image(image) => {
                self.put(if image.mode == ImageMode::Write { 1 } else { 2 });
                self.word(&image.digest);
                self.word(&image.find.serial);
            }
            Work::Seed { params, .. } => {
                self.put(3);
                self.name(&params.nonce);
                self.name(&SecretHash::of(&params.token.0));
            }
            Work::Serve => self.put(4),
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Seen(seen) => {
                self.put(0);
                self.word(&seen.disks.first().map(|d| &d.serial));
            }
            Outcome::Proven(proof) => {
                self.put(1);
                self.word(&proof.digest);
                self.word(&proof.serial);
            }
            Outcome::Differs { .. } => self.put(2),
            Outcome::Seeded => self.put(3),
            Outcome::Serving => self.put(4),
            Outcome::Failed { .. } => self.put(5),
        }
    }

    fn order(&mut self, order: &Order, linger: u64) {
        let Order { intent, want, boot, credentials, epoch: _, until, holder, at, slow } = order;
        self.name(&("intent", intent));
        self.word(want);
        self.boot(*boot);
        self.credentials(credentials.as_ref());
        let flies = matches!(at, At::Sent { flying: true, .. });
        let runs = matches!(at, At::Lane | At::Sent { watched: true, .. });
        self.until(runs.then_some(*until));
        self.until(flies.then_some(*until + linger));
        self.word(holder);
        self.word(at);
        self.flag(*slow);
    }

    fn stray(&mut self, stray: &Event, w: &World) {
        match stray {
            Event::Fact { epoch, fact } => {
                self.flag(*epoch == w.lab.meta().epoch);
                self.fact(fact, w);
            }
            Event::Hello(Hello::Attach { nonce, boot_id, token, kind, key_hash, .. }) => {
                self.put(2);
                self.word(kind);
                self.name(nonce);
                self.name(boot_id);
                self.name(&SecretHash::of(&token.0));
                match SecretHash::from_hex(key_hash) {
                    Some(hash) => self.name(&hash),
                    None => self.put(NONE),
                }
            }
            Event::Hello(Hello::Resume { nonce, boot_id, key, .. }) => {
                self.put(3);
                self.name(nonce);
                self.name(boot_id);
                self.name(&SecretHash::of(&key.0));
            }
            Event::Agent { nonce, boot_id, report, .. } => {
                self.put(4);
                self.name(nonce);
                self.name(boot_id);
                match report {
                    Report::Done { step, outcome } => {
                        self.put(*step);
                        self.outcome(outcome);
                    }
                    Report::Lost => self.put(NONE),
                }
            }
            // No others stray.
            other => self.word(&format!("{other:?}")),
        }
    }

    fn fact(&mut self, fact: &Fact, w: &World) {
        match fact {
            Fact::Power { machine: _, leg: _, intent, want, result, witnessed } => {
                self.name(&("intent", intent));
                self.word(want);
                self.reading(result.as_ref().ok().copied());
                self.flag(*witnessed);
            }
            Fact::Read { machine: _, leg: _, asked, reading } => {
                self.asked(*asked, w);
                self.reading(Some(*reading));
            }
            // Nobody checks the machine, flips anything or listens to it.
            other @ (Fact::Checked { .. }
            | Fact::Said { .. }
            | Fact::Acted { .. }
            | Fact::Hooked { .. }
            | Fact::Programmed { .. }
            | Fact::Gone { .. }
            | Fact::Witnessed { .. }) => self.word(&format!("{other:?}")),
        }
    }

    fn reading(&mut self, reading: Option<Reading>) {
        self.word(&reading);
    }

    /// When a reading was asked for: older than the newest one, and after the
    /// time of which commands?
    fn asked(&mut self, asked: LabTime, w: &World) {
        let Some(row) = w.row() else { return self.put(NONE) };
        for leg in &row.legs {
            self.flag(leg.seen.is_some_and(|s| asked < s.at));
            for intent in &leg.unsettled {
                self.flag(intent.may_land_until <= asked);
            }
        }
        // What is asked later is younger than this, whenever that is.
        self.flag(asked < w.now);
    }

    fn lab(&mut self, w: &World) {
        if let Some(row) = w.row() {
            self.machine(row, w);
        }
        self.put(w.lab.reservations().len() as u64);
        for row in w.lab.reservations() {
            self.reservation(row);
        }
        if w.up {
            self.until(w.lab.asks_again(&w.setting.machine));
        }
        // What a start would take for the time that nobody was there.
        if !w.up || w.faults.may(Fault::Crash) || w.faults.may(Fault::Stop) {
            self.put(w.now - w.lab.meta().now);
        }
    }

    fn machine(&mut self, m: &Machine, w: &World) {
        let Machine {
            name: _,
            health,
            stage,
            since: _,
            legs,
            disks,
            agent,
            hardware,
            baseline,
            // Nobody checks wires here.
            wiring: _,
            attempts,
            intents: _,
            turns: _,
            failures: _,
            // Words of failures only.
            usual: _,
            quarantines,
            // The one machine has no class, and no health check.
            pause: _,
            worked: _,
            checked: _,
            // It hangs on no circuit.
            circuit: _,
            proof_asked,
            cut,
            running,
            meddled,
        } = m;
        match running {
            Some(machine::Running { job, nonce, intent }) => {
                self.word(job);
                self.name(nonce);
                self.name(&("intent", intent));
            }
            None => self.put(NONE),
        }
        self.flag(*meddled);
        self.put(match health {
            Health::Good => 0,
            Health::New => 1,
            Health::Quarantined { failure: _, at: _, again: _ } => 2,
            Health::Drained { by: _, reason: _, at: _ } => 3,
            Health::Retired => 4,
        });
        if let Health::Quarantined { failure, at: _, again } = health {
            // One that the image is blamed for is proven with zeroes.
            self.word(&failure.class);
            self.until(Some(*again));
        }
        self.flag(*proof_asked);
        self.flag(cut.is_some());
        // How long the next one rests. None is a day old within a search.
        self.put(quarantines.len() as u64);
        for leg in legs {
            self.leg(leg);
        }
        self.stage(stage);
        let attempt = m.turn().and_then(|t| t.attempt.as_ref()).map(|a| a.number);
        for disk in disks {
            match &disk.content {
                Content::Unknown => self.put(0),
                Content::Writing { attempt: _ } => self.put(1),
                // One that this very attempt proved cannot be proven twice.
                Content::Proven(certificate) => {
                    self.put(2);
                    self.word(&certificate.digest);
                    self.flag(Some(certificate.attempt) == attempt);
                    self.flag(certificate.attempt == *attempts);
                }
                Content::ByCommand(proof) => {
                    self.put(4);
                    self.word(&proof.digest);
                    self.flag(proof.attempt == *attempts);
                }
                Content::Used { by } => {
                    self.put(3);
                    self.word(by);
                }
            }
        }
        match agent {
            Some(agent) => self.session(agent, w),
            None => self.put(NONE),
        }
        // Which disk was enrolled, and which was seen last.
        let serial = |h: &pitstop_wire::agent::Hardware| h.disks.first().and_then(|d| d.serial.clone());
        self.word(&hardware.as_ref().map(serial));
        self.word(&baseline.as_ref().map(|b| serial(&b.facts)));
    }

    fn leg(&mut self, leg: &Leg) {
        // That it was told off in vain leads nowhere without a spare leg, and
        // how long it has read so without a circuit: the machine has neither.
        let Leg { name: _, identity: _, seen, unsettled, answer: _, in_vain: _ } = leg;
        self.reading(seen.map(|Seen { reading, at: _, changed: _ }| reading));
        self.put(unsettled.len() as u64);
        for intent in unsettled {
            let Intent { id, want, may_land_until, open, twin } = intent;
            self.name(&("intent", id));
            self.word(want);
            self.until(Some(*may_land_until));
            self.put(u64::from(*open) | u64::from(*twin) << 1);
        }
    }

    fn stage(&mut self, stage: &Stage) {
        match stage {
            Stage::Free => self.put(0),
            Stage::Turn(turn) => {
                self.put(1);
                self.turn(turn);
            }
            Stage::Ready { reservation, until, image } => {
                self.put(2);
                self.word(reservation);
                self.until(*until);
                self.word(image);
            }
            Stage::InUse { reservation, image, cycling } => {
                self.put(3);
                self.word(reservation);
                self.word(image);
                self.flag(*cycling);
            }
        }
    }

    fn turn(&mut self, turn: &Turn) {
        let Turn {
            number: _,
            purpose,
            goal,
            reservation,
            image,
            disks,
            phase,
            phase_since: _,
            deadline,
            attempt,
            failed,
            started: _,
            prepared,
            stalled,
        } = turn;
        self.flag(*prepared);
        self.until(stalled.as_ref().map(|s| s.again));
        self.word(purpose);
        self.word(goal);
        self.word(reservation);
        self.word(image);
        self.word(disks);
        self.word(&std::mem::discriminant(phase));
        match phase {
            Phase::Disk { writing, .. } => self.flag(*writing),
            Phase::Start { then } => self.word(then),
            _ => self.flag(false),
        }
        self.until(Some(*deadline));
        self.put(u64::from(*failed));
        let Some(Attempt { number: _, nonce, expect, spent, given, step, done }) = attempt else {
            return self.put(NONE);
        };
        self.name(nonce);
        match expect {
            Some(expect) => {
                self.word(&expect.kind);
                self.name(&expect.token);
            }
            None => self.put(NONE),
        }
        for token in spent {
            self.known(token);
        }
        self.flag(*given);
        self.put(*step);
        self.put(*done);
    }

    /// A hash whose secret nobody in the world has opens nothing.
    fn known(&mut self, token: &SecretHash) {
        if self.names.contains(&raw(token)) {
            self.name(token);
        }
    }

    fn session(&mut self, agent: &machine::Agent, w: &World) {
        let machine::Agent { kind, version: _, nonce, boot_id, key, rejoin, lost, excused } = agent;
        self.word(kind);
        self.name(nonce);
        self.name(boot_id);
        self.name(key);
        for token in rejoin {
            self.known(token);
        }
        self.put(lost.map_or(NONE, |at| (w.now - at).min(SILENCE)));
        self.flag(*excused);
    }

    fn reservation(&mut self, row: &Reservation) {
        let Reservation {
            id,
            owner,
            ask: _, // its owner's, of the setting
            created: _,
            created_wall: _,
            status,
            members,
            failed_on,
            began: _,
            ends,
        } = row;
        self.put(id.0);
        self.word(owner);
        match status {
            Status::Waiting => self.put(0),
            Status::Preparing => self.put(1),
            Status::Ready { unclaimed_until } => {
                self.put(2);
                self.until(Some(*unclaimed_until));
            }
            Status::Active => self.put(3),
            Status::Ended { at: _, why: _ } => return self.put(4),
        }
        for Member { role: _, machine: _, ready } in members {
            self.flag(*ready);
        }
        self.put(failed_on.len() as u64);
        self.until(*ends);
    }
}

fn raw(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
