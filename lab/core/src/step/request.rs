//! Requests of people and CI: idempotency first, then one function each.

use super::circuit::Room;
use super::{KEYS_KEPT, Step};
use crate::event::{Answer, Caller, Request};
use crate::machine::{Health, Stage};
use crate::record::Change;
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::{Value, json};

impl Step<'_> {
    pub(crate) fn request(&mut self, caller: &Caller, request: Request) -> Answer {
        self.actor = caller.actor();
        if let Some((key, hash)) = &caller.key
            && let Some(known) = self.lab.keys.get(&(caller.user.clone(), key.clone()))
        {
            return Answer::Api(match known.request == *hash {
                true => Ok(known.answer.clone()),
                false => Err(ApiError::new(
                    Code::KeyReused,
                    format!("the idempotency key `{key}` was used for another request"),
                )
                .hint("use a new key for a new request")),
            });
        }
        let before = self.records.len();
        let answer = self.answer(caller, request);
        // Only what changed something is remembered: a refusal may become
        // a yes, and a beat is as good said twice.
        if let (Ok(value), Some((key, hash))) = (&answer, &caller.key)
            && self.records.len() > before
        {
            self.change(Change::KeyRemembered {
                owner: caller.user.clone(),
                key: key.clone(),
                request: *hash,
                answer: value.clone(),
            });
            self.forget_old_keys();
        }
        Answer::Api(answer)
    }

    fn forget_old_keys(&mut self) {
        while self.lab.key_ages.len() > KEYS_KEPT {
            let Some((_, (owner, key))) = self.lab.key_ages.pop_first() else { return };
            self.change(Change::KeyForgotten { owner, key });
        }
    }

    fn answer(&mut self, caller: &Caller, request: Request) -> Result<Value, ApiError> {
        match request {
            Request::Reserve { ask, image } => self.reserve(caller, *ask, image.as_deref()),
            Request::Claim(id) => self.claim_by(caller, id),
            Request::Beat(id) => self.beat(caller, id),
            Request::Extend { reservation, more } => self.extend(caller, reservation, more),
            Request::Release { reservation, force } => self.release(caller, reservation, force.as_deref()),
            Request::Power { machine, action, force } => {
                self.power_by_hand(caller, &machine, action, force.as_deref())
            }
            Request::Fixture { machine, act, force } => self.act(caller, &machine, act, force.as_deref()),
            Request::Run { machine, command } => self.run_started(caller, &machine, &command),
            Request::Reimage { machine, image } => self.holder_reimage(caller, &machine, image.as_deref()),
            Request::Drain { machine, reason } => {
                admin(caller, "drain machines")?;
                self.drain(caller, &machine, reason)
            }
            Request::Undrain(machine) => {
                admin(caller, "undrain machines")?;
                self.undrain(&machine)
            }
            Request::Enrol { select, listed } => {
                admin(caller, "enrol machines")?;
                self.enrol(&select, &listed)
            }
            Request::Prove(machine) => {
                admin(caller, "prove machines")?;
                self.prove(&machine)
            }
            Request::WiringBegin(machine) => {
                admin(caller, "check wires")?;
                self.begin_wiring(caller, &machine)
            }
            Request::WiringBeat(machine) => self.beat_wiring(caller, &machine),
            Request::WiringLook(machine) => self.look_wiring(caller, &machine),
            Request::WiringEnd(machine) => self.end_wiring_by(caller, &machine),
            Request::NameImage { image, bytes } => {
                admin(caller, "add images")?;
                let answer = json!({ "image": image.name, "digest": image.digest });
                self.image_replaced(&image);
                self.change(Change::ImageNamed { image, bytes });
                Ok(answer)
            }
            Request::TrustImage(name) => {
                admin(caller, "trust images")?;
                self.image(&name)?;
                self.change(Change::ImageTrusted { image: name.clone() });
                Ok(json!({ "image": name }))
            }
            Request::ForgetImage(name) => {
                admin(caller, "remove images")?;
                self.image(&name)?;
                self.forget_image(name)
            }
            Request::Reload(inventory) => {
                admin(caller, "reload the inventory")?;
                self.declare(inventory, false);
                Ok(json!({ "machines": self.lab.inventory.machines.len() }))
            }
        }
    }

    fn forget_image(&mut self, name: String) -> Result<Value, ApiError> {
        let used = self
            .lab
            .reservations
            .values()
            .find(|r| !r.ended() && r.ask.image.as_ref().is_some_and(|i| i.name == name));
        if let Some(r) = used {
            return Err(ApiError::new(Code::Conflict, format!("{} asks for image `{name}`", r.id))
                .hint("release it first"));
        }
        self.change(Change::ImageForgotten { name: name.clone() });
        Ok(json!({ "image": name }))
    }

    fn drain(&mut self, caller: &Caller, name: &MachineName, reason: String) -> Result<Value, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        if machine.health == Health::Retired {
            return Err(ApiError::new(Code::Conflict, format!("{name} is retired")));
        }
        if machine.health == Health::New {
            // Nobody gets it anyway; and to put it back would be to enrol it.
            return Err(ApiError::new(Code::Conflict, format!("{name} is new: nobody has enrolled it")));
        }
        let health = Health::Drained { by: caller.user.to_string(), reason, at: self.now() };
        self.change(Change::HealthSet { machine: name.clone(), health });
        if let Stage::Ready { reservation: None, .. } = machine.stage {
            self.take_back(name, "ci");
        }
        Ok(json!({ "machine": name, "health": "drained", "in_use": machine.reservation().is_some() }))
    }

    fn undrain(&mut self, name: &MachineName) -> Result<Value, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        if !matches!(machine.health, Health::Drained { .. }) {
            return Err(ApiError::new(Code::Conflict, format!("{name} is not drained: {}", machine.state())));
        }
        if machine.stage == Stage::Free && self.lab.changed_parts(&machine) {
            self.is_settled(&machine)?;
            self.declare_new(name);
            return Ok(json!({ "machine": name, "health": "new" }));
        }
        self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
        let failed = machine.stage == Stage::Free && machine.failures > 0;
        if failed {
            // It would be in quarantine, were it not for the drain. Without a
            // place it waits for one: that it is put back is not undone.
            self.change(Change::ProofAsked { machine: name.clone() });
            self.begin_asked_proofs();
        }
        Ok(json!({ "machine": name, "health": "good", "proving": failed }))
    }

    /// A proving turn now, as an admin asks.
    fn prove(&mut self, name: &MachineName) -> Result<Value, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        let resting = matches!(machine.stage, Stage::Free) && machine.wiring.is_none();
        if !resting || !matches!(machine.health, Health::Quarantined { .. } | Health::Good) {
            return Err(ApiError::new(
                Code::Conflict,
                format!("{name} cannot be proven now: {}", machine.state()),
            )
            .hint("quarantined and free machines can"));
        }
        if !self.is_known(name) {
            let text = format!("{name} has other legs or disks in the inventory than it was enrolled with");
            return Err(ApiError::new(Code::Conflict, text)
                .hint("it is new as soon as its last power command is over; then: pitstop admin enrol"));
        }
        match self.room_for(&machine) {
            Room::Now => self.begin_proof(name, &machine),
            Room::Soon => {
                self.change(Change::ProofAsked { machine: name.clone() });
                let waits = self.lab.who_has_places(&machine, self.now());
                return Ok(json!({ "machine": name, "waits": waits }));
            }
            Room::No => return Err(self.no_room(&machine, "proven")),
        }
        Ok(json!({ "machine": name }))
    }
}

fn admin(caller: &Caller, what: &str) -> Result<(), ApiError> {
    if caller.admin {
        return Ok(());
    }
    Err(ApiError::new(Code::NotAllowed, format!("only admins may {what}; you are {}", caller.user)))
}
