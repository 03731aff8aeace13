//! Clients: they come, use, and leave, and remember what they were told.

use crate::action::Death;
use crate::daemon::Heard;
use crate::world::{Told, World};
use pitstop_core::event::{Answer, Caller, Event, PowerAction, Request};
use pitstop_core::id::{ReservationId, SecretHash};
use pitstop_wire::UserName;
use serde_json::Value;

impl World {
    fn caller(&self, client: usize, key: Option<&str>) -> Caller {
        let user = self.setting.asks[client].user.clone();
        Caller { user, admin: false, key: key.map(|k| (k.to_owned(), SecretHash::of(k))) }
    }

    fn ask(&mut self, caller: Caller, request: Request, death: Death) -> Reply {
        match self.deliver(Event::Request(caller, request), death) {
            Heard::Answer(Answer::Api(Ok(value))) => Reply::Yes(value),
            Heard::Answer(_) => Reply::No,
            Heard::Nothing => Reply::Silence,
            Heard::Same => Reply::Same,
        }
    }

    /// Asks under one key, so that asking again is not asking twice.
    pub(crate) fn reserve(&mut self, client: usize, death: Death) -> bool {
        let asks = &self.setting.asks[client];
        let request = Request::Reserve { ask: Box::new(asks.ask.clone()), image: asks.image.clone() };
        let reply = self.ask(self.caller(client, Some("key")), request, death);
        if let Reply::Yes(value) = &reply
            && let Some(id) = reservation(value)
        {
            self.clients[client].told = Told::Accepted(id);
        }
        reply.counts()
    }

    pub(crate) fn claim(&mut self, client: usize, death: Death) -> bool {
        let Told::Accepted(id) = self.clients[client].told else { return false };
        let reply = self.ask(self.caller(client, None), Request::Claim(id), death);
        if let Reply::Yes(_) = reply {
            self.clients[client].told = Told::Claimed(id);
        }
        reply.counts()
    }

    pub(crate) fn release(&mut self, client: usize, death: Death) -> bool {
        let (Told::Accepted(id) | Told::Claimed(id)) = self.clients[client].told else { return false };
        let request = Request::Release { reservation: id, force: None };
        let reply = self.ask(self.caller(client, None), request, death);
        if let Reply::Yes(_) = reply {
            self.clients[client].told = Told::Released(id);
        }
        reply.counts()
    }

    pub(crate) fn switch(&mut self, client: usize, action: PowerAction, death: Death) -> bool {
        self.clients[client].switches -= 1;
        let request = Request::Power { machine: self.setting.machine.clone(), action, force: None };
        self.acts(client, request, death)
    }

    pub(crate) fn reimage(&mut self, client: usize, death: Death) -> bool {
        self.clients[client].reimages -= 1;
        let request = Request::Reimage { machine: self.setting.machine.clone(), image: None };
        self.acts(client, request, death)
    }

    fn acts(&mut self, client: usize, request: Request, death: Death) -> bool {
        let reply = self.ask(self.caller(client, None), request, death);
        if let (Reply::Yes(_), Told::Accepted(id)) = (&reply, self.clients[client].told) {
            self.clients[client].told = Told::Claimed(id);
        }
        reply.counts()
    }

    pub(crate) fn prove(&mut self, death: Death) -> bool {
        self.proofs -= 1;
        let request = Request::Prove(self.setting.machine.clone());
        self.ask(admin(), request, death).counts()
    }
}

enum Reply {
    Yes(Value),
    No,
    Silence,
    Same,
}

impl Reply {
    /// Whether this makes a state of its own: a refusal changes nothing.
    fn counts(&self) -> bool {
        !matches!(self, Self::No | Self::Same)
    }
}

/// The lab's admin.
pub(crate) fn admin() -> Caller {
    Caller { user: user("admin"), admin: true, key: None }
}

/// A user by a name that is valid.
pub(crate) fn user(name: &str) -> UserName {
    UserName::new(name).unwrap_or_else(|_| unreachable!("a fixed and valid name"))
}

fn reservation(value: &Value) -> Option<ReservationId> {
    value.get("reservation")?.as_str()?.parse().ok()
}
