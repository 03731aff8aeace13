//! The queue: priority, then age, all or nothing.
//!
//! Reservations are served in order. One that cannot be served in full keeps
//! its claim on the free machines it found (as a matching that later claims
//! may rearrange, never shrink), so that nobody behind it can starve it, and
//! nobody behind it waits for a machine it could do without. A claim is one to a
//! place on the machine's circuit as well, where that is limited.

mod claims;
mod fit;

pub(crate) use claims::Claims;

use crate::experience::Trouble;
use crate::id::ReservationId;
use crate::inventory::model::{AfterBuild, DiskContent, MachineSpec};
use crate::lab::Lab;
use crate::machine::{Content, DiskPlan, Goal, Health, ImageRef, Machine, Purpose, Stage};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, Reservation, Role, Status, Want};
use crate::step::Step;
use pitstop_wire::selector::{Facts, TagValue};
use pitstop_wire::{MachineName, Selector};
use std::borrow::Cow;
use std::sync::Arc;

/// A machine as selectors see it.
pub struct MachineFacts<'a> {
    machine: &'a Machine,
    spec: &'a MachineSpec,
    holder: Option<String>,
    /// As it will be handed over, where that is settled.
    clean: Option<&'static str>,
}

impl Facts for MachineFacts<'_> {
    fn tag(&self, key: &str) -> Option<&TagValue> {
        let found = self.machine.baseline.as_ref();
        // What somebody typed counts more than what was found.
        self.spec.tags.get(key).or_else(|| found?.tags.get(key))
    }

    fn name(&self) -> &str {
        self.machine.name.as_str()
    }

    fn special(&self, key: &str) -> Option<Cow<'_, str>> {
        match key {
            "name" => Some(self.machine.name.as_str().into()),
            "state" => Some(self.machine.state().into()),
            "clean" => Some(self.clean.unwrap_or_else(|| clean_of(self.machine, self.spec)).into()),
            "health" => Some(health_word(&self.machine.health).into()),
            "holder" => self.holder.clone().map(Cow::from),
            _ => None,
        }
    }

    fn any_tag_value(&self, word: &str) -> bool {
        let found = self.machine.baseline.iter().flat_map(|b| &b.tags);
        let untyped = found.filter(|(key, _)| !self.spec.tags.contains_key(*key)).map(|(_, v)| v);
        self.spec.tags.values().chain(untyped).any(|v| v.is(word))
    }
}

/// How clean the machine's disks are: what nobody proves is not proven,
/// though no disk be declared.
pub fn clean_of(machine: &Machine, spec: &MachineSpec) -> &'static str {
    let known = spec.runs_agent() || spec.programmer().is_some();
    if known { machine.clean() } else { "unknown" }
}

/// Health in one word.
pub fn health_word(health: &Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::New => "new",
        Health::Quarantined { .. } => "quarantined",
        Health::Drained { .. } => "drained",
        Health::Retired => "retired",
    }
}

impl Lab {
    /// The facts selectors look at.
    pub fn facts<'a>(&self, machine: &'a Machine, spec: &'a MachineSpec) -> MachineFacts<'a> {
        let holder =
            machine.reservation().and_then(|id| self.reservations.get(&id)).map(|r| r.owner.to_string());
        MachineFacts { machine, spec, holder, clean: None }
    }

    /// What the selector of a reservation looks at. Who accepts nothing but
    /// proven disks gets proven ones whatever is on them now: `clean=proven`
    /// asks for what he gets anyway, and must not wait for a proof that only
    /// the grant would make.
    pub(crate) fn facts_for<'a>(
        &self,
        ask: &Ask,
        machine: &'a Machine,
        spec: &'a MachineSpec,
    ) -> MachineFacts<'a> {
        let clean = match ask.clean {
            CleanLevel::Proven => Some("proven"),
            CleanLevel::ByCommand if spec.reads_back() => Some("by-command"),
            _ => None,
        };
        MachineFacts { clean, ..self.facts(machine, spec) }
    }

    /// Free machines that may serve a role now. One that failed this very
    /// reservation was quarantined for it; if it is free again it was proven.
    fn candidates<'a>(&'a self, row: &'a Reservation, role: usize) -> impl Iterator<Item = &'a MachineName> {
        let ask = &row.ask;
        let warm = |fit: bool| {
            let fits =
                move |n: &&MachineName| self.machines.get(*n).is_some_and(|m| self.warm_for(m, ask) == fit);
            self.warm.iter().filter(fits)
        };
        let cold = self.free.iter().filter(|n| !self.warm.contains(*n));
        // One that waits with this very image first; one with another last.
        (warm(true).chain(cold).chain(warm(false))).filter(move |n| {
            self.machines.get(*n).is_some_and(|m| self.suits(m, &ask.roles[role], ask, false))
        })
    }

    /// Whether the machine waits booted with just what is asked for.
    fn warm_for(&self, machine: &Machine, ask: &Ask) -> bool {
        let Stage::Ready { reservation: None, image: Some(warm), .. } = &machine.stage else { return false };
        let wanted = ask.image.clone().or_else(|| self.default_image(&machine.name));
        ask.want == Want::Image
            && wanted.is_some_and(|i| i.digest == warm.digest)
            && machine.agent.as_ref().is_some_and(|a| a.lost.is_none())
    }

    /// The machine's default image, if the image store has it.
    pub(crate) fn default_image(&self, name: &MachineName) -> Option<ImageRef> {
        let image = self.inventory.machines.get(name)?.image.as_ref()?;
        self.images.get(image).map(|i| i.image.clone())
    }

    /// Suspected images that one machine may try.
    fn trials(&self) -> usize {
        let trouble = self.images.values().flat_map(|row| row.trouble.values());
        trouble.filter(|t| t.suspect.is_some_and(|s| s.trial)).count()
    }

    /// How an image failed on machines of a class. Only one that has its name
    /// now: another one is nobody's trouble any more.
    pub(crate) fn trouble(&self, image: &ImageRef, class: &str) -> Option<&Trouble> {
        let row = self.images.get(&image.name).filter(|row| row.image.digest == image.digest);
        row.and_then(|row| row.trouble.get(class))
    }

    /// Whether an image is not to be handed out on machines like this one.
    pub(crate) fn is_suspect(&self, image: &ImageRef, spec: &MachineSpec) -> bool {
        self.trouble(image, spec.class.as_deref().unwrap_or_default()).is_some_and(|t| t.suspect.is_some())
    }

    /// Whether a machine like this may be given with an image: it is not
    /// suspected, or its next try is due.
    pub(crate) fn may_try(&self, image: &ImageRef, spec: &MachineSpec, want: Want) -> bool {
        let trouble = self.trouble(image, spec.class.as_deref().unwrap_or_default());
        trouble.is_none_or(|t| t.allows(want == Want::Image))
    }

    /// Whether nothing speaks against the image that an ask is about.
    pub(crate) fn may_be_given(&self, ask: &Ask, spec: &MachineSpec) -> bool {
        let own = || spec.image.as_ref().and_then(|i| self.images.get(i)).map(|row| &row.image);
        let wanted = ask.image.as_ref().or_else(|| own().filter(|_| ask.want == Want::Image));
        wanted.is_none_or(|image| self.may_try(image, spec, ask.want))
    }

    /// Whether there is an image that a board could be written with for an ask.
    pub(crate) fn may_be_written(&self, ask: &Ask, spec: &MachineSpec) -> bool {
        let own = || spec.image.as_ref().and_then(|i| self.images.get(i)).map(|row| &row.image);
        ask.image.as_ref().or_else(own).is_some_and(|image| self.may_try(image, spec, ask.want))
    }

    /// The machine's default image, where nothing speaks against it.
    pub(crate) fn trusted_image(&self, name: &MachineName) -> Option<ImageRef> {
        let spec = self.inventory.machines.get(name)?;
        self.default_image(name).filter(|image| !self.is_suspect(image, spec))
    }

    /// Why no more than `found` machines can ever serve a role, and what
    /// would help.
    pub(crate) fn nearly(&self, role: &Role, ask: &Ask, found: usize) -> (String, String) {
        let wanted = role.count as usize;
        let select = &role.select;
        let count = |role: &Role, ask: &Ask| {
            self.machines.values().filter(|m| self.suits(m, role, ask, true)).count()
        };
        let loose = Ask { want: Want::Bare, clean: CleanLevel::Any, image: None, ..ask.clone() };
        let matching = count(role, &loose);
        if matching >= wanted {
            return self.incapable(role, ask, (found, matching), count);
        }
        let what = match found {
            0 if select.terms().is_empty() => "there is no machine".to_owned(),
            0 => format!("no machine matches `{select}`"),
            n if select.terms().is_empty() => format!("there are only {n} of {wanted} machines"),
            n => format!("only {n} of {wanted} machines match `{select}`"),
        };
        let any = Role { select: Selector::default(), ..role.clone() };
        let able = |m: &&Arc<Machine>| self.suits(m, &any, ask, true);
        let facts: Vec<MachineFacts<'_>> = (self.machines.values().filter(able))
            .filter_map(|m| Some(self.facts_for(ask, m, self.inventory.machines.get(&m.name)?)))
            .collect();
        let misses = select.near_misses(facts.iter().map(|f| f as &dyn Facts));
        let enough = misses.relaxed.iter().find(|r| found + r.count >= wanted);
        let hint = match (enough, found) {
            (Some(r), 0) if wanted == 1 => {
                let machine = r.machines.first().map(String::as_str).unwrap_or("another");
                format!("without {}: {machine} would do", r.term)
            }
            (Some(r), _) => format!("without {}: {} more would do", r.term, r.count),
            (None, 0) => "pitstop ls".to_owned(),
            (None, n) => format!("ask for at most {n}"),
        };
        (what, hint)
    }

    /// Enough machines match; but what is asked for they cannot give.
    fn incapable(
        &self,
        role: &Role,
        ask: &Ask,
        (found, matching): (usize, usize),
        count: impl Fn(&Role, &Ask) -> usize,
    ) -> (String, String) {
        let there = match (matching, role.select.terms().is_empty()) {
            (1, true) => "there is 1 machine".to_owned(),
            (n, true) => format!("there are {n} machines"),
            (1, false) => format!("1 machine matches `{}`", role.select),
            (n, false) => format!("{n} machines match `{}`", role.select),
        };
        let what = |lack: &str| {
            let but = if found == 0 { "none of them".to_owned() } else { format!("only {found} of them") };
            format!("{there}, but {but} {lack}")
        };
        let enough = |ask: &Ask| count(role, ask) >= role.count as usize;
        if ask.want == Want::Image && enough(&Ask { want: Want::Agent, ..ask.clone() }) {
            let has = if found < 2 { "has an image of its own" } else { "have images of their own" };
            return (what(has), "name one: --image NAME (pitstop image ls)".to_owned());
        }
        if ask.image.is_some() && enough(&Ask { image: None, ..ask.clone() }) {
            let can = "can be given an image (no agent on it, or no disk)";
            return (what(can), "leave out --image".to_owned());
        }
        if enough(&Ask { clean: CleanLevel::Any, ..ask.clone() }) {
            let can = "can be proven clean (no agent on it, or a disk that the inventory does not know)";
            return (what(can), "--clean any takes a used disk".to_owned());
        }
        let runs = if found < 2 { "runs an agent" } else { "run agents" };
        (what(runs), "--want bare needs none".to_owned())
    }
}

impl Step<'_> {
    /// Serves what can be served, in order.
    pub(crate) fn look_at_queue(&mut self) {
        // What is not granted now stays to be looked at by the next daemon.
        if !self.lab.queue_dirty || self.lab.draining {
            return;
        }
        self.lab.queue_dirty = false;
        self.begin_asked_proofs();
        if !self.lab.waiting.is_empty() && !self.lab.free.is_empty() {
            // Of those who want a suspected image one may try it; what the
            // others leave is looked at again. Where a grant was made on a
            // circuit, nobody waits there any more for another to go off.
            while self.serve() {}
        }
        self.make_room();
        self.lab.queue_dirty = false;
    }

    /// Grants what can be had now; whether it is to be looked at once more:
    /// some of it was held back, or an image was tried (who waits for that one
    /// too has no claim any more), or places were given away.
    fn serve(&mut self) -> bool {
        let trials = self.lab.trials();
        let places = self.lab.inventory.circuits.values().any(|c| c.max_on.is_some());
        let (mut held_back, mut granted) = (false, false);
        let servable = self.lab.servable();
        for of_one in servable.chunk_by(|a, b| a.0 == b.0) {
            let Some(row) = self.lab.reservations.get(&of_one[0].0).cloned() else { continue };
            let suits = |(_, name, role): &(ReservationId, MachineName, usize)| {
                let machine = self.lab.machines.get(name);
                machine.is_some_and(|m| self.lab.suits(m, &row.ask.roles[*role], &row.ask, false))
            };
            if !of_one.iter().all(suits) {
                // It may have another machine: before those who came after it.
                held_back = true;
                break;
            }
            for (id, name, role) in of_one {
                self.grant(*id, name, *role);
            }
            granted = true;
        }
        held_back || self.lab.trials() < trials || (granted && places)
    }

    /// A failed member's place goes to a free machine, if there is one that
    /// no elder reservation keeps.
    pub(crate) fn replace_member(&mut self, id: ReservationId) -> bool {
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return false };
        if row.wanted() == 1 || self.lab.draining {
            return false; // it simply goes back to its place
        }
        let kept = self.lab.kept_for_elders(id);
        for (role, wanted) in row.ask.roles.iter().enumerate() {
            let has = row.members.iter().filter(|m| m.role == role).count();
            if has >= wanted.count as usize {
                continue;
            }
            let claims = self.lab.claims_of_elders(id);
            let place = |n: &MachineName| {
                let m = self.lab.machines.get(n);
                m.is_some_and(|m| self.lab.place_behind(&claims, m))
            };
            let found = self.lab.candidates(&row, role).find(|n| !kept.contains_key(*n) && place(n)).cloned();
            let Some(name) = found else { return false };
            self.grant(id, &name, role);
        }
        true
    }

    fn grant(&mut self, id: ReservationId, name: &MachineName, role: usize) {
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        let Some(machine) = self.machine(name) else { return };
        debug_assert!(matches!(row.status, Status::Waiting | Status::Preparing | Status::Ready { .. }));
        self.change(Change::Granted { reservation: id, machine: name.clone(), role });
        if self.lab.warm_for(&machine, &row.ask) {
            self.change(Change::WarmTaken { machine: name.clone(), reservation: id });
            return self.member_ready(id, name);
        }
        let own = match row.ask.want {
            Want::Image => self.lab.default_image(name),
            // It is written, not booted: zeroes do as well as one in doubt.
            Want::Bare | Want::Agent if self.programmer(name).is_none() => self.lab.trusted_image(name),
            // A board has no zeroes that we could know of.
            Want::Bare | Want::Agent => self.lab.default_image(name),
        };
        let image = row.ask.image.clone().or(own);
        if let Some(image) = &image {
            self.image_tried(name, image, row.ask.want);
        }
        let goal = match row.ask.want {
            Want::Bare => Goal::Off,
            Want::Agent => Goal::Agent,
            Want::Image => Goal::Image,
        };
        let disks = self.prepare_plan(name, &machine, &row);
        self.begin_turn(name, Purpose::Prepare, goal, Some(id), image, disks);
    }

    /// What the hand-over needs of the disks: a proof, unless the machine is
    /// off and proven since, or the reservation takes it as it is.
    fn prepare_plan(&self, name: &MachineName, machine: &Arc<Machine>, row: &Reservation) -> DiskPlan {
        let role = row.ask.hold.role();
        let keep =
            self.spec(name).is_some_and(|s| self.lab.inventory.after_build(s, role) == AfterBuild::Keep);
        let as_it_is = match row.ask.want {
            // Its own system is to come up: there must be one.
            Want::Image => {
                machine.disks.iter().all(|d| matches!(d.content, Content::Used { .. } | Content::Proven(_)))
            }
            Want::Bare | Want::Agent => {
                !machine.disks.iter().any(|d| matches!(d.content, Content::Writing { .. }))
            }
        };
        if keep && row.ask.clean == CleanLevel::Any && row.ask.image.is_none() && as_it_is {
            return DiskPlan::Leave;
        }
        let any_image = row.ask.image.is_none();
        if row.ask.want == Want::Bare
            && machine.all_clean()
            && (any_image || self.holds_image(name, machine, row))
        {
            return DiskPlan::Leave;
        }
        DiskPlan::Prove
    }

    /// Whether every disk that takes an image was proven to hold the one
    /// that was asked for.
    fn holds_image(&self, name: &MachineName, machine: &Machine, row: &Reservation) -> bool {
        let digest = row.ask.image.as_ref().map(|i| &i.digest);
        (0..machine.disks.len()).all(|disk| {
            match (&machine.disks[disk].content, self.disk_spec(name, disk)) {
                (Content::Proven(c), Some(spec)) => {
                    spec.content == DiskContent::Zero || c.digest.as_ref() == digest
                }
                (Content::ByCommand(c), Some(_)) => Some(&c.digest) == digest,
                _ => false,
            }
        })
    }
}

#[cfg(test)]
mod tests;
