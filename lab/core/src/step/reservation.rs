//! Reservations from the queue to their end.

use super::{ENDED_KEPT, MACHINES_PER_RESERVATION, Step};
use crate::event::Caller;
use crate::id::ReservationId;
use crate::inventory::model::{Extend, Lease};
use crate::lab::RowKey;
use crate::machine::{Failure, FailureClass, Health, ImageRef, Stage};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, End, Hold, Reservation, Status, Want};
use crate::why::words;
use pitstop_wire::selector::Term;
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a selector may ask about that changes by itself: a machine that is
/// not so now may be so when its turn comes.
const VOLATILE: [&str; 4] = ["state", "clean", "health", "holder"];

/// The most machines one reservation may ask for.
const MOST_MACHINES: usize = 1_000;

impl Step<'_> {
    pub(crate) fn reserve(
        &mut self,
        caller: &Caller,
        mut ask: Ask,
        image: Option<&str>,
    ) -> Result<Value, ApiError> {
        let wanted: usize = ask.roles.iter().map(|r| r.count as usize).sum();
        if wanted == 0 || wanted > MOST_MACHINES || ask.roles.iter().any(|r| r.count == 0) {
            return Err(ApiError::new(Code::Usage, format!("{wanted} machines were asked for"))
                .hint(format!("ask for 1 to {MOST_MACHINES}")));
        }
        if let Hold::Session { silence } = ask.hold
            && !(1_000..=3_600_000).contains(&silence)
        {
            return Err(ApiError::new(Code::Usage, "a session's silence is 1 s to 1 h"));
        }
        if !caller.admin && ask.priority > 50 {
            return Err(ApiError::new(Code::NotAllowed, "priorities over 50 are the admins'"));
        }
        ask.limit = self.lease_for(&ask)?;
        ask.image = image.map(|name| self.image(name)).transpose()?;
        // A board is written by a program, and what runs there needs no seed.
        let boards = self.lab.inventory.machines.values().any(|spec| spec.programmer().is_some());
        if ask.image.as_ref().is_some_and(|image| !ask.want.can_have(image)) && !boards {
            let name = image.unwrap_or_default();
            return Err(ApiError::new(
                Code::Conflict,
                format!("image `{name}` has no seed area for the host agent"),
            )
            .hint("add it with --seed, or ask for --want agent"));
        }
        self.can_ever_serve(&ask)?;
        let reservation = ReservationId(self.lab.meta.reservations + 1);
        self.change(Change::Queued { reservation, owner: caller.user.clone(), ask: Box::new(ask) });
        self.look_at_queue();
        Ok(json!({ "reservation": reservation.to_string() }))
    }

    /// What the policy says of how long a reservation may last.
    fn lease(&self, hold: Hold) -> Option<&Lease> {
        self.lab.inventory.policies.get(hold.role()).and_then(|p| p.lease.as_ref())
    }

    /// For how long: as long as was asked for, else by the policy. What is
    /// held by time always has an end; a session ends with its beats.
    fn lease_for(&self, ask: &Ask) -> Result<Option<u64>, ApiError> {
        let lease = self.lease(ask.hold);
        let usual = match ask.hold {
            Hold::Time => Some(Lease::DEFAULT_MS),
            Hold::Session { .. } => None,
        };
        let limit = ask.limit.or(lease.map(|l| l.default_ms)).or(usual);
        let Some(lease) = lease.filter(|l| limit.is_some_and(|ms| ms > l.max_ms)) else { return Ok(limit) };
        let asked = words(limit.unwrap_or_default());
        let most = words(lease.max_ms);
        Err(ApiError::new(Code::NotAllowed, format!("{asked} is longer than a reservation may last: {most}"))
            .hint(format!("policy.{}.lease.max in the inventory", ask.hold.role())))
    }

    /// An image by name.
    pub(crate) fn image(&self, name: &str) -> Result<ImageRef, ApiError> {
        if let Some(row) = self.lab.images.get(name) {
            return Ok(row.image.clone());
        }
        let near = pitstop_wire::nearest(name, self.lab.images.keys().map(String::as_str));
        let error = ApiError::new(Code::NotFound, format!("there is no image `{name}`"));
        Err(match near {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("pitstop image ls; pitstop image add NAME FILE"),
        })
    }

    /// A request that no machine of the inventory can ever serve is refused
    /// at once, rather than left to wait for ever.
    fn can_ever_serve(&self, ask: &Ask) -> Result<(), ApiError> {
        self.roles_match(ask)?;
        if ask.roles.len() > 1 && !self.lab.could_serve(ask, |_| true, |_| None) {
            let text = "each role could be served, but not all of them at once";
            return Err(ApiError::new(Code::NotFound, text).hint("pitstop ls"));
        }
        self.too_many_for_circuits(ask)
    }

    /// More machines than their circuits ever bear.
    fn too_many_for_circuits(&self, ask: &Ask) -> Result<(), ApiError> {
        let Some(text) = self.lab.never_fits(ask) else { return Ok(()) };
        Err(ApiError::new(Code::NotFound, text).hint("ask for fewer machines, or for some on other circuits"))
    }

    fn roles_match(&self, ask: &Ask) -> Result<(), ApiError> {
        for role in &ask.roles {
            let matching = self
                .lab
                .machines
                .values()
                .filter(|m| self.lab.suits(m, role, ask, true))
                .take(role.count as usize);
            let found = matching.count();
            if found < role.count as usize {
                let (what, hint) = self.lab.nearly(role, ask, found);
                return Err(ApiError::new(Code::NotFound, what).hint(hint));
            }
        }
        Ok(())
    }

    fn owned(
        &self,
        caller: &Caller,
        id: ReservationId,
        force: Option<&str>,
    ) -> Result<Arc<Reservation>, ApiError> {
        let row = self.lab.reservations.get(&id).cloned();
        let row = row.ok_or_else(|| {
            ApiError::new(Code::NotFound, format!("there is no reservation {id}")).hint("pitstop status")
        })?;
        if row.owner == caller.user {
            return Ok(row);
        }
        if caller.admin && force.is_some_and(|why| !why.trim().is_empty()) {
            return Ok(row);
        }
        Err(ApiError::new(Code::Held, format!("{id} is {}'s", row.owner))
            .holder(row.owner.to_string())
            .hint("admins: --force --reason TEXT"))
    }

    fn alive(&self, caller: &Caller, id: ReservationId) -> Result<Arc<Reservation>, ApiError> {
        let row = self.owned(caller, id, None)?;
        match &row.status {
            Status::Ended { why, .. } => {
                Err(ApiError::new(Code::Conflict, format!("{id} has ended: {}", why.words())))
            }
            _ => Ok(row),
        }
    }

    pub(crate) fn claim_by(&mut self, caller: &Caller, id: ReservationId) -> Result<Value, ApiError> {
        let row = self.alive(caller, id)?;
        if row.status != Status::Active {
            self.claim(id)?;
        }
        Ok(json!({ "reservation": id.to_string() }))
    }

    /// The holder came: all its machines go into his hands at once.
    pub(crate) fn claim(&mut self, id: ReservationId) -> Result<(), ApiError> {
        let row = self.lab.reservations.get(&id).cloned();
        let Some(row) = row.filter(|r| matches!(r.status, Status::Ready { .. })) else {
            return Err(ApiError::new(Code::Conflict, format!("{id} is not ready yet"))
                .hint(format!("pitstop why {id}")));
        };
        self.change(Change::Claimed { reservation: id });
        for member in &row.members {
            self.hand_over(&member.machine, id);
        }
        Ok(())
    }

    /// Into the holder's hands. A bare machine is off and proven until now;
    /// from here on its holder may boot it from whatever he likes.
    fn hand_over(&mut self, name: &MachineName, id: ReservationId) {
        self.mark_used(name, Some(id));
        self.change(Change::InUse { machine: name.clone() });
    }

    pub(crate) fn beat(&mut self, caller: &Caller, id: ReservationId) -> Result<Value, ApiError> {
        let row = self.alive(caller, id)?;
        let Hold::Session { silence } = row.ask.hold else {
            return Err(ApiError::new(Code::Conflict, format!("{id} is held by time and needs no beats")));
        };
        let due = self.now() + silence;
        self.lab.beats.insert(id, due);
        self.lab.derive(&RowKey::Reservation(id));
        Ok(json!({ "reservation": id.to_string(), "state": row.state() }))
    }

    pub(crate) fn extend(
        &mut self,
        caller: &Caller,
        id: ReservationId,
        more: Option<u64>,
    ) -> Result<Value, ApiError> {
        let row = self.alive(caller, id)?;
        let Some(ends) = row.ends else {
            let why = match row.ask.limit {
                Some(_) => "its time starts when its machines are ready",
                None => "it lasts as long as its session",
            };
            return Err(ApiError::new(Code::Conflict, format!("{id} has no end to move")).hint(why));
        };
        let usual = self.lease(row.ask.hold).map_or(Lease::DEFAULT_MS, |l| l.default_ms);
        let wanted = self.now() + more.unwrap_or(usual);
        if wanted <= ends {
            // Who asks for more time must not lose some.
            let left = words(ends - self.now());
            let text = format!("{id} lasts longer than that already: {left} more");
            return Err(ApiError::new(Code::Conflict, text).hint("to give it up: pitstop release"));
        }
        if let Some(lease) = self.lease(row.ask.hold) {
            let waits = self.somebody_waits_for(&row);
            let never = lease.extend == Extend::Never || (lease.extend == Extend::WhileNobodyWaits && waits);
            if never {
                return Err(ApiError::new(Code::NotAllowed, format!("{id} cannot be extended now"))
                    .hint("somebody waits, or the policy says never"));
            }
            let last = row.began.unwrap_or(self.now()) + lease.max_ms;
            if wanted > last {
                let most = words(lease.max_ms);
                let text = format!("{id} may last {most} in all; {} are left", words(last - self.now()));
                return Err(ApiError::new(Code::NotAllowed, text)
                    .hint(format!("policy.{}.lease.max in the inventory", row.ask.hold.role())));
            }
        }
        self.change(Change::Extended { reservation: id, ends: wanted });
        Ok(json!({ "reservation": id.to_string() }))
    }

    /// Whether a reservation in the queue could use one of this one's machines.
    fn somebody_waits_for(&self, row: &Reservation) -> bool {
        let mine = || row.members.iter().filter_map(|m| self.lab.machines.get(&m.machine));
        let could =
            |ask: &Ask| mine().any(|m| ask.roles.iter().any(|role| self.lab.suits(m, role, ask, true)));
        self.lab.queue().any(|waiting| could(&waiting.ask))
    }

    pub(crate) fn release(
        &mut self,
        caller: &Caller,
        id: ReservationId,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        let row = self.owned(caller, id, force)?;
        // Released twice is released: the answer may have been lost.
        if !row.ended() {
            let by = match force {
                Some(why) if row.owner != caller.user => format!("{} ({why})", caller.user),
                _ => caller.user.to_string(),
            };
            self.end(id, End::Released { by });
        }
        Ok(
            json!({ "reservation": id.to_string(), "machines": row.members.iter().map(|m| &m.machine).collect::<Vec<_>>() }),
        )
    }

    /// The one way a reservation ends: its row and all its machines in one
    /// step, so that no half of it stays behind.
    pub(crate) fn end(&mut self, id: ReservationId, why: End) {
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        if row.ended() {
            return;
        }
        self.change(Change::Ended { reservation: id, why });
        for member in &row.members {
            if self.has(&member.machine, id) {
                self.take_back(&member.machine, row.ask.hold.role());
            }
        }
        self.forget_old_reservations();
    }

    fn has(&self, machine: &MachineName, id: ReservationId) -> bool {
        self.lab.machines.get(machine).is_some_and(|m| m.reservation() == Some(id))
    }

    fn forget_old_reservations(&mut self) {
        while self.lab.ended.len() > ENDED_KEPT {
            let Some((_, id)) = self.lab.ended.pop_first() else { return };
            self.change(Change::ReservationForgotten { reservation: id });
        }
    }

    /// One machine of a reservation is prepared; with the last one all are.
    pub(crate) fn member_ready(&mut self, id: ReservationId, name: &MachineName) {
        let Some(before) = self.lab.reservations.get(&id).cloned() else { return };
        self.change(Change::MemberReady { reservation: id, machine: name.clone() });
        if before.status == Status::Active {
            // A holder's own reimage: back into his hands.
            return self.hand_over(name, id);
        }
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        if row.members.len() < row.wanted() || !row.members.iter().all(|m| m.ready) {
            return;
        }
        let unclaimed_until = self.now() + self.limits(name).claim_ms;
        let ends = row.ask.limit.map(|ms| self.now() + ms);
        self.change(Change::ReservationReady { reservation: id, unclaimed_until, ends });
    }

    /// A machine failed its reservation: another one is found, or the
    /// reservation goes back to its place, or it has tried enough.
    pub(crate) fn member_failed(
        &mut self,
        id: ReservationId,
        name: &MachineName,
        failure: &Failure,
        blame_image: bool,
    ) {
        self.change(Change::MemberDropped { reservation: id, machine: name.clone(), failed: true });
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        if row.ended() {
            return;
        }
        let reason = format!("{name}: {} in {}: {}", failure.class.name(), failure.phase, failure.evidence);
        if blame_image {
            return self.end(id, End::Failed { class: FailureClass::Image, reason });
        }
        if row.members.is_empty() {
            // With others it would be one with another image than theirs.
            self.take_successor(id);
        }
        if row.status == Status::Active || row.failed_on.len() >= MACHINES_PER_RESERVATION {
            return self.end(id, End::Failed { class: failure.class, reason });
        }
        if !self.replace_member(id) {
            for member in &row.members {
                let machine = member.machine.clone();
                let role = row.ask.hold.role();
                self.change(Change::MemberDropped {
                    reservation: id,
                    machine: machine.clone(),
                    failed: false,
                });
                self.take_back(&machine, role);
            }
            self.change(Change::Requeued { reservation: id });
            self.take_successor(id);
        }
    }
}

impl End {
    /// Why a reservation ended, in words.
    pub fn words(&self) -> String {
        match self {
            Self::Released { by } => format!("released by {by}"),
            Self::Expired => "its time was over".into(),
            Self::Lost => "its session stopped beating".into(),
            Self::Restored => "the lab was restored from a backup".into(),
            Self::Unclaimed => "it was ready and nobody came for it".into(),
            Self::TimedOut => "it waited as long as it was told to".into(),
            Self::Failed { class, reason } => format!("{} failure: {reason}", class.name()),
        }
    }
}

impl crate::Lab {
    /// Whether a machine may serve a role: `ever` asks whether it could if
    /// it were free and healthy, otherwise whether it can now.
    pub(crate) fn suits(
        &self,
        machine: &crate::machine::Machine,
        role: &crate::reservation::Role,
        ask: &Ask,
        ever: bool,
    ) -> bool {
        let Some(spec) = self.inventory.machines.get(&machine.name) else { return false };
        let healthy = match machine.health {
            Health::Good => true,
            Health::New | Health::Quarantined { .. } | Health::Drained { .. } => ever,
            Health::Retired => false,
        };
        let agent = spec.runs_agent();
        let board = spec.programmer().is_some();
        let at_rest = matches!(machine.stage, Stage::Free | Stage::Ready { reservation: None, .. });
        let here = ever || (at_rest && machine.wiring.is_none());
        // Most machines are busy: what follows costs more.
        if !(healthy && here) {
            return false;
        }
        // An undeclared disk that was seen is one that no proof covers.
        let extra = machine.hardware.as_ref().is_some_and(|h| h.disks.len() > machine.disks.len());
        let provable = agent && (!extra || machine.disks.is_empty());
        let image = ask.image.is_some() || spec.image.as_ref().is_some_and(|i| self.images.contains_key(i));
        let written = board && image && (ever || self.may_be_written(ask, spec));
        let clean = match ask.clean {
            // One whose writing was cut off is not to be had at all.
            CleanLevel::Any => ever || !board || written || !machine.is_half_written(),
            CleanLevel::ByCommand => provable || (written && spec.reads_back()),
            CleanLevel::Proven => provable,
        };
        // Our agent writes an image, to a disk, or a programmer does: whatever else is wanted of the machine.
        let writable = ask.image.is_none() || board || (agent && !machine.disks.is_empty());
        let seed = !agent || ask.image.as_ref().is_none_or(|i| ask.want.can_have(i));
        // A suspected image may be a good one when this machine's turn comes.
        let trusted = ever || self.may_be_given(ask, spec);
        let able = match ask.want {
            Want::Bare => true,
            Want::Agent => agent,
            Want::Image => !agent || image,
        };
        let facts = self.facts_for(ask, machine, spec);
        // Whose disks are proven for him never gets any that are not.
        let settled = |key: &str| key == "clean" && ask.clean == CleanLevel::Proven;
        let may_become = |term: &Term| ever && VOLATILE.contains(&term.key()) && !settled(term.key());
        let matches = || role.select.terms().iter().all(|t| may_become(t) || t.holds(&facts));
        clean && able && writable && seed && trusted && matches()
    }
}
