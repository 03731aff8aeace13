//! Clients: they come, wait, use, forget, repeat themselves and vanish.

use super::Sim;
use super::board::Happening;
use super::labs::IMAGES;
use crate::event::{Answer, Caller, Event, PowerAction, Request};
use crate::id::{ReservationId, SecretHash};
use crate::machine::Health;
use crate::reservation::{Ask, CleanLevel, Hold, Role, Status, Want};
use crate::time::LabTime;
use pitstop_wire::{MachineName, Selector, UserName};
use serde_json::Value;

/// Silence after which a simulated session is lost, in milliseconds.
const SILENCE: u64 = 20_000;

/// A client and where it is.
pub(super) struct Client {
    user: UserName,
    doing: Doing,
    keys: u64,
}

enum Doing {
    Nothing,
    /// Asked, and not answered yet.
    Asking {
        key: String,
        ask: Box<Ask>,
        image: Option<String>,
    },
    Waiting(ReservationId),
    Using {
        id: ReservationId,
        until: LabTime,
    },
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self { user: user(&format!("user{number}")), doing: Doing::Nothing, keys: 0 }
    }
}

fn user(name: &str) -> UserName {
    UserName::new(name).unwrap_or_else(|_| unreachable!("a fixed and valid name"))
}

/// The lab's admin.
pub(super) fn admin() -> Caller {
    Caller { user: user("admin"), admin: true, key: None }
}

impl Sim {
    pub(super) fn client_acts(&mut self, client: usize) {
        self.settle_tenants();
        let pause = match self.clients[client].doing {
            Doing::Nothing => self.rng.u64(500..120_000),
            Doing::Asking { .. } => self.rng.u64(200..5_000),
            Doing::Waiting(_) | Doing::Using { .. } => 5_000,
        };
        if self.calm && matches!(self.clients[client].doing, Doing::Nothing) {
            return;
        }
        self.at(pause, Happening::Client(client));
        match std::mem::replace(&mut self.clients[client].doing, Doing::Nothing) {
            Doing::Nothing => self.client_begins(client),
            Doing::Asking { key, ask, image } => self.client_asks(client, key, ask, image),
            Doing::Waiting(id) => self.client_waits(client, id),
            Doing::Using { id, until } => self.client_uses(client, id, until),
        }
        if self.rng.u64(0..40) == 0 {
            self.admin_acts();
        }
    }

    fn client_begins(&mut self, client: usize) {
        let select = ["", "half=even", "half=odd"][self.rng.usize(0..3)];
        let Ok(select) = select.parse::<Selector>() else { return };
        let count = if self.rng.u64(0..5) == 0 { 2 } else { 1 };
        let want = [Want::Bare, Want::Agent, Want::Image][self.rng.usize(0..3)];
        let session = self.rng.bool();
        let image = self.rng.bool().then(|| IMAGES[self.rng.usize(0..2)].to_owned());
        let patience = (self.rng.u64(0..4) == 0).then(|| self.rng.u64(10_000..1_800_000));
        let ask = Ask {
            roles: vec![Role { name: "machine".into(), select, count }],
            image: None,
            want,
            hold: if session { Hold::Session { silence: SILENCE } } else { Hold::Time },
            limit: Some(self.rng.u64(60_000..1_800_000)),
            clean: if self.rng.u64(0..8) == 0 { CleanLevel::Any } else { CleanLevel::Proven },
            priority: self.rng.i32(0..3),
            reason: None,
            patience,
            agent_lost: None,
        };
        self.clients[client].keys += 1;
        let key = format!("key{}", self.clients[client].keys);
        self.client_asks(client, key, Box::new(ask), image);
    }

    fn client_asks(&mut self, client: usize, key: String, ask: Box<Ask>, image: Option<String>) {
        let request = Request::Reserve { ask: ask.clone(), image: image.clone() };
        let doing = match self.ask(client, Some(&key), request) {
            None => Doing::Asking { key, ask, image },
            Some(Err(_)) => Doing::Nothing,
            Some(Ok(value)) => match reservation(&value) {
                Some(id) => {
                    self.acknowledged(id);
                    Doing::Waiting(id)
                }
                None => Doing::Nothing,
            },
        };
        self.clients[client].doing = doing;
    }

    /// An acknowledged reservation exists from now on, whatever crashes.
    fn acknowledged(&mut self, id: ReservationId) {
        let known = self.daemon.shadow.reservation(id).is_some();
        if !known {
            self.violation(format!("{id} was acknowledged and is not in the store"));
        }
    }

    fn client_waits(&mut self, client: usize, id: ReservationId) {
        self.beat(client, id);
        if self.daemon.lab.is_none() {
            // Some lose heart when nobody answers, and leave when they can.
            let stays = self.rng.bool();
            self.clients[client].doing =
                if stays { Doing::Waiting(id) } else { Doing::Using { id, until: self.now } };
            return;
        }
        let Some(lab) = &self.daemon.lab else { return };
        let status = lab.reservation(id).map(|r| r.status.clone());
        self.clients[client].doing = match status {
            Some(Status::Ready { .. }) => match self.ask(client, None, Request::Claim(id)) {
                Some(Ok(_)) => {
                    self.told_ready(id);
                    self.settle_tenants();
                    let until = self.now + self.rng.u64(1_000..900_000);
                    Doing::Using { id, until }
                }
                _ => Doing::Waiting(id),
            },
            None | Some(Status::Ended { .. }) => Doing::Nothing,
            Some(Status::Active) => Doing::Using { id, until: self.now },
            _ if self.calm || self.rng.u64(0..40) == 0 => self.client_leaves(client, id),
            _ => Doing::Waiting(id),
        };
    }

    fn client_uses(&mut self, client: usize, id: ReservationId, until: LabTime) {
        let Some(lab) = &self.daemon.lab else {
            self.clients[client].doing = Doing::Using { id, until };
            return;
        };
        let Some(row) = lab.reservation(id).filter(|r| !r.ended()).cloned() else {
            self.clients[client].doing = Doing::Nothing;
            return;
        };
        self.beat(client, id);
        if row.members.is_empty() {
            // It wanted to leave the queue and got no answer: again.
            self.clients[client].doing = self.client_leaves(client, id);
            return;
        }
        if self.rng.u64(0..20) == 0 {
            let member = &row.members[self.rng.usize(0..row.members.len())];
            let action = [PowerAction::On, PowerAction::Off, PowerAction::Cycle][self.rng.usize(0..3)];
            let machine = member.machine.clone();
            self.ask(client, None, Request::Power { machine, action, force: None });
        }
        if self.rng.u64(0..60) == 0 {
            let machine = row.members[0].machine.clone();
            self.ask(client, None, Request::Reimage { machine, image: None });
        }
        let done = until <= self.now || self.calm;
        self.clients[client].doing = match done {
            true => self.client_leaves(client, id),
            false => Doing::Using { id, until },
        };
    }

    /// Releases, or vanishes without a word.
    fn client_leaves(&mut self, client: usize, id: ReservationId) -> Doing {
        if self.rng.u64(0..3) == 0 {
            return Doing::Nothing;
        }
        let release = || Request::Release { reservation: id, force: None };
        if self.ask(client, None, release()).is_none() {
            return Doing::Using { id, until: self.now };
        }
        if self.rng.u64(0..4) == 0 {
            self.ask(client, None, release());
        }
        Doing::Nothing
    }

    fn beat(&mut self, client: usize, id: ReservationId) {
        let session = self.daemon.lab.as_ref().and_then(|l| l.beat_due(id)).is_some();
        if session {
            self.ask(client, None, Request::Beat(id));
        }
    }

    fn ask(
        &mut self,
        client: usize,
        key: Option<&str>,
        request: Request,
    ) -> Option<Result<Value, pitstop_wire::ApiError>> {
        let key = key.map(|k| (k.to_owned(), SecretHash::of(k)));
        let caller = Caller { user: self.clients[client].user.clone(), admin: false, key };
        match self.deliver(Event::Request(caller, request)) {
            Some(Answer::Api(answer)) => Some(answer),
            _ => None,
        }
    }

    /// The admin brings machines back, and takes some out for a while.
    pub(super) fn admin_acts(&mut self) {
        let Some(lab) = &self.daemon.lab else { return };
        let machines: Vec<(MachineName, Health)> =
            lab.machines().map(|m| (m.name.clone(), m.health.clone())).collect();
        for (machine, health) in machines {
            let request = match health {
                Health::Quarantined { .. } => Request::Prove(machine),
                Health::Drained { .. } => Request::Undrain(machine),
                Health::Good if !self.calm && self.rng.u64(0..20) == 0 => {
                    Request::Drain { machine, reason: "fan noise".into() }
                }
                _ => continue,
            };
            self.deliver(Event::Request(admin(), request));
        }
    }
}

fn reservation(value: &Value) -> Option<ReservationId> {
    value.get("reservation")?.as_str()?.parse().ok()
}
