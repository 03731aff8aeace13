//! The ledger: what machines were used for, what failed, and what that cost,
//! added up from records. `report` reads a stretch of history into one;
//! metrics keep one that grows.

use crate::id::ReservationId;
use crate::machine::{FailureClass, Health, Machine};
use crate::record::{Change, Record};
use crate::reservation::End;
use crate::time::LabTime;
use pitstop_wire::{MachineName, UserName};
use std::collections::BTreeMap;

/// Everything added up, by machine and by user.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    machines: BTreeMap<MachineName, Account>,
    users: BTreeMap<UserName, Usage>,
    /// Whether users are left out: every wait of theirs is remembered, for ever.
    machines_only: bool,
    open: BTreeMap<ReservationId, Open>,
    began: Option<LabTime>,
    newest: LabTime,
}

/// What one machine did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Times it was handed to a holder.
    pub hand_overs: u64,
    /// How long holders had it, in milliseconds.
    pub used_ms: u64,
    /// Turns that ended well at the first try.
    pub good: u64,
    /// Turns that ended well after a try that failed: the machine flickers.
    pub flaky: u64,
    /// Turns that were given up.
    pub failed: u64,
    /// What failures cost, by what failed.
    pub costs: BTreeMap<FailureClass, Cost>,
    state: Now,
}

/// What failures of one class cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tries that failed.
    pub tries: u64,
    /// How long those took, in milliseconds.
    pub tries_ms: u64,
    /// Quarantines.
    pub quarantines: u64,
    /// How long the machine was out of use for them, in milliseconds.
    pub out_ms: u64,
}

impl Cost {
    /// All time lost, in milliseconds.
    pub fn lost_ms(&self) -> u64 {
        self.tries_ms + self.out_ms
    }

    /// Adds what others cost.
    pub fn add(&mut self, other: &Self) {
        self.tries += other.tries;
        self.tries_ms += other.tries_ms;
        self.quarantines += other.quarantines;
        self.out_ms += other.out_ms;
    }
}

/// Stretches that have begun and not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Now {
    try_since: Option<LabTime>,
    tries_failed: u64,
    used_since: Option<LabTime>,
    out: Option<(FailureClass, LabTime)>,
}

/// What one user did.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Reservations he asked for.
    pub reservations: u64,
    /// Those that ended since the lab failed them.
    pub failed: u64,
    /// How long he waited for machines that were ready in the end, in
    /// milliseconds, in no order.
    pub waits: Vec<u64>,
    /// How long he had machines, in milliseconds: one after the other or at once.
    pub used_ms: u64,
}

#[derive(Debug, Clone)]
struct Open {
    owner: UserName,
    asked: LabTime,
    machines: u64,
    claimed: Option<LabTime>,
}

impl Ledger {
    /// A ledger of machines alone, which does not grow with time.
    pub fn of_machines() -> Self {
        Self { machines_only: true, ..Self::default() }
    }

    /// Adds a record. They come in order, without a gap.
    pub fn add(&mut self, record: &Record) {
        self.began.get_or_insert(record.at);
        self.newest = record.at;
        if let Some(id) = record.change.reservation().filter(|_| !self.machines_only) {
            self.add_reservation(id, record);
        }
        if let Change::MachineForgotten { machine } = &record.change {
            // What it did still counts; it is in no state any more.
            if let Some(account) = self.machines.get_mut(machine) {
                account.close(record.at);
            }
        } else if let Some(name) = record.change.machine() {
            self.machines.entry(name.clone()).or_default().add(record);
        }
    }

    fn add_reservation(&mut self, id: ReservationId, record: &Record) {
        if let Change::Queued { owner, ask, .. } = &record.change {
            let machines = ask.roles.iter().map(|r| u64::from(r.count)).sum();
            let open = Open { owner: owner.clone(), asked: record.at, machines, claimed: None };
            self.users.entry(owner.clone()).or_default().reservations += 1;
            self.open.insert(id, open);
            return;
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        let user = self.users.entry(open.owner.clone()).or_default();
        match &record.change {
            Change::ReservationReady { .. } => user.waits.push(record.at - open.asked),
            Change::Claimed { .. } => open.claimed = Some(record.at),
            Change::Ended { why, .. } => {
                user.failed += u64::from(matches!(why, End::Failed { .. }));
                user.used_ms += open.claimed.map_or(0, |at| (record.at - at) * open.machines);
                self.open.remove(&id);
            }
            _ => {}
        }
    }

    /// How things stand at `now`: stretches that have not ended count until
    /// then. `rows` say what a machine was in already when the ledger began.
    #[must_use]
    pub fn at<'m>(&self, now: LabTime, rows: impl Iterator<Item = &'m Machine>) -> Self {
        let mut ledger = self.clone();
        let began = self.began.unwrap_or(now);
        for machine in rows {
            let account = ledger.machines.entry(machine.name.clone()).or_default();
            if let (Health::Quarantined { failure, at, .. }, None) = (&machine.health, account.state.out) {
                account.state.out = Some((failure.class, (*at).max(began)));
            }
        }
        ledger.machines.values_mut().for_each(|account| account.close(now));
        for open in ledger.open.values() {
            if let (Some(at), Some(user)) = (open.claimed, ledger.users.get_mut(&open.owner)) {
                user.used_ms += (now - at) * open.machines;
            }
        }
        ledger.newest = ledger.newest.max(now);
        ledger
    }

    /// Every machine that has a record.
    pub fn machines(&self) -> impl Iterator<Item = (&MachineName, &Account)> {
        self.machines.iter()
    }

    /// Every user who asked for machines.
    pub fn users(&self) -> impl Iterator<Item = (&UserName, &Usage)> {
        self.users.iter()
    }

    /// The time that the ledger covers, in milliseconds.
    pub fn span(&self) -> u64 {
        self.began.map_or(0, |at| self.newest - at)
    }
}

impl Account {
    fn add(&mut self, record: &Record) {
        let at = record.at;
        match &record.change {
            Change::TurnStarted { .. } => {
                self.end_use(at);
                (self.state.try_since, self.state.tries_failed) = (Some(at), 0);
            }
            Change::PhaseFailed { failure, .. } => {
                let cost = self.costs.entry(failure.class).or_default();
                cost.tries += 1;
                cost.tries_ms += self.state.try_since.map_or(0, |since| at - since);
                self.state.try_since = Some(at);
                self.state.tries_failed += 1;
            }
            Change::MachineReady { .. } => self.end_turn(true),
            Change::Freed { good, .. } => {
                self.end_use(at);
                self.end_turn(*good);
            }
            Change::InUse { .. } => {
                self.hand_overs += 1;
                self.state.used_since = Some(at);
            }
            Change::HealthSet { health, .. } => self.health_set(health, at),
            Change::QuarantineExcused { .. } => self.excused(),
            _ => {}
        }
    }

    /// The quarantine it is in was the image's fault.
    fn excused(&mut self) {
        let Some((class, _)) = &mut self.state.out else { return };
        let before = std::mem::replace(class, FailureClass::Image);
        if let Some(cost) = self.costs.get_mut(&before) {
            cost.quarantines = cost.quarantines.saturating_sub(1);
        }
        self.costs.entry(FailureClass::Image).or_default().quarantines += 1;
    }

    fn health_set(&mut self, health: &Health, at: LabTime) {
        match health {
            // Said again with another time to be proven at, as older versions did: nothing new.
            Health::Quarantined { at: since, .. } if *since != at => {}
            Health::Quarantined { failure, .. } => {
                self.end_out(at);
                self.costs.entry(failure.class).or_default().quarantines += 1;
                self.state.out = Some((failure.class, at));
            }
            _ => self.end_out(at),
        }
    }

    fn end_turn(&mut self, good: bool) {
        // A machine that keeps its disks is freed without a turn.
        if self.state.try_since.take().is_none() {
            return;
        }
        match (good, self.state.tries_failed) {
            (true, 0) => self.good += 1,
            (true, _) => self.flaky += 1,
            (false, _) => self.failed += 1,
        }
    }

    fn end_use(&mut self, at: LabTime) {
        if let Some(since) = self.state.used_since.take() {
            self.used_ms += at - since;
        }
    }

    fn end_out(&mut self, at: LabTime) {
        if let Some((class, since)) = self.state.out.take() {
            self.costs.entry(class).or_default().out_ms += at - since;
        }
    }

    fn close(&mut self, now: LabTime) {
        self.end_use(now);
        self.end_out(now);
    }

    /// Turns that ended.
    pub fn turns(&self) -> u64 {
        self.good + self.flaky + self.failed
    }

    /// What all failures cost together.
    pub fn cost(&self) -> Cost {
        let mut all = Cost::default();
        self.costs.values().for_each(|c| all.add(c));
        all
    }

    /// Adds another machine's account.
    pub fn merge(&mut self, other: &Self) {
        self.hand_overs += other.hand_overs;
        self.used_ms += other.used_ms;
        self.good += other.good;
        self.flaky += other.flaky;
        self.failed += other.failed;
        for (class, cost) in &other.costs {
            self.costs.entry(*class).or_default().add(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Request;
    use crate::reservation::Want;
    use crate::step::tests::bench::{Bench, ask, name};

    fn ledger(b: &Bench) -> Ledger {
        let mut ledger = Ledger::default();
        b.records.iter().for_each(|r| ledger.add(r));
        ledger.at(LabTime(b.now), b.lab.machines().map(|m| &**m))
    }

    fn account(b: &Bench) -> Account {
        ledger(b).machines().next().unwrap().1.clone()
    }

    #[test]
    fn a_good_machine_has_lost_time() {
        let mut b = Bench::new(&["m0"]);
        let id = b.hold("ada", ask("", Want::Image));
        b.live(600_000);
        b.release("ada", id);
        b.live(60_000);
        let account = account(&b);
        assert_eq!((account.good, account.flaky, account.failed), (2, 0, 0));
        assert_eq!((account.hand_overs, account.used_ms), (1, 600_000));
        assert_eq!(account.cost(), Cost::default());
        let ledger = ledger(&b);
        let (_, ada) = ledger.users().next().unwrap();
        assert_eq!((ada.reservations, ada.used_ms, ada.waits.len()), (1, 600_000, 1));
    }

    #[test]
    fn a_try_that_failed_is_not_seen_where_the_next_went_well() {
        let mut b = Bench::new(&["m0"]);
        b.reserve("ada", ask("", Want::Image));
        b.board(&name("m0")).dead = true;
        b.obey();
        b.pass(101_000);
        b.board(&name("m0")).dead = false;
        b.live(60_000);
        let account = account(&b);
        assert_eq!((account.good, account.flaky, account.failed), (0, 1, 0));
        let cost = account.costs[&FailureClass::Boot];
        assert_eq!((cost.tries, cost.tries_ms, cost.quarantines), (1, 100_000, 0));
    }

    #[test]
    fn a_quarantine_that_lasts_costs_nothing_yet() {
        let mut b = Bench::new(&["m0"]);
        b.board(&name("m0")).dead = true;
        b.reserve("ada", ask("", Want::Bare));
        b.live(260_000);
        let before = account(&b).costs[&FailureClass::Boot];
        assert_eq!((before.tries, before.quarantines), (2, 1));
        b.live(60_000);
        assert_eq!(account(&b).costs[&FailureClass::Boot].out_ms, before.out_ms + 60_000);
        b.board(&name("m0")).dead = false;
        b.ok("admin", Request::Prove(name("m0")));
        b.live(1_000);
        let after = account(&b).cost().out_ms;
        b.live(3_600_000);
        assert!(account(&b).cost().out_ms <= after + 1_000, "it is well, and still counts as out of use");
    }

    #[test]
    fn a_stretch_of_history_knows_nothing_of_what_was_before() {
        let mut b = Bench::new(&["m0"]);
        b.board(&name("m0")).dead = true;
        b.reserve("ada", ask("", Want::Bare));
        b.live(260_000);
        let later = b.records.len();
        b.ok("admin", Request::Prove(name("m0")));
        let mut ledger = Ledger::default();
        b.records[later..].iter().for_each(|r| ledger.add(r));
        b.pass(10_000);
        let ledger = ledger.at(LabTime(b.now), b.lab.machines().map(|m| &**m));
        let (_, account) = ledger.machines().next().unwrap();
        assert_eq!(account.costs[&FailureClass::Boot].out_ms, 10_000);
    }
}
