//! Clients: they come, wait, use, forget, repeat themselves and vanish.
//!
//! A client does not poll: it is woken when its reservation changes, or when
//! it planned to do something. That it beats is a flag; the beats themselves
//! are sent only when its session would end without one.

use super::dice::{Chance, Pick, Who};
use super::labs::IMAGES;
use super::{Happening, Sim};
use crate::event::{Act, Answer, Caller, Event, Nudge, PowerAction, Request};
use crate::id::{ReservationId, SecretHash};
use crate::lab::Timer;
use crate::reservation::{Ask, CleanLevel, Hold, Reservation, Role, Status, Want};
use crate::time::LabTime;
use pitstop_wire::{ApiError, Code, Selector, UserName};
use serde_json::Value;
use std::sync::Arc;

/// A client and where it is.
pub(super) struct Client {
    user: UserName,
    doing: Doing,
    visit: u32,
    keys: u32,
    /// Which of its wake-ups counts.
    wake: u64,
    /// Whose session it keeps alive.
    beats: Option<ReservationId>,
    /// Until when it is not heard.
    silent_until: u64,
}

#[derive(Clone)]
enum Doing {
    Away,
    /// Asked, and not answered yet.
    Asking(Box<Asking>),
    /// In the queue, or being prepared; loses heart then.
    Waiting(ReservationId, u64),
    /// Has its machines until then.
    Using(ReservationId, u64),
    /// Wants to be rid of it.
    Leaving(ReservationId),
}

#[derive(Clone)]
struct Asking {
    key: String,
    ask: Ask,
    image: Option<String>,
    /// A hash of both, as the daemon makes one of a body.
    hash: SecretHash,
}

impl Asking {
    fn new(key: String, ask: Ask, image: Option<String>) -> Self {
        let hash = SecretHash::of(&format!("{ask:?} {image:?}"));
        Self { key, ask, image, hash }
    }

    fn request(&self) -> Request {
        Request::Reserve { ask: Box::new(self.ask.clone()), image: self.image.clone() }
    }
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            user: user(&format!("user{number}")),
            doing: Doing::Away,
            visit: 0,
            keys: 0,
            wake: 0,
            beats: None,
            silent_until: 0,
        }
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
    pub(super) fn wake_client(&mut self, client: usize, ms: u64) {
        self.clients[client].wake += 1;
        let wake = self.clients[client].wake;
        self.at(ms, Happening::Client(client, wake));
    }

    /// A client's reservation changed.
    pub(super) fn reservation_changed(&mut self, row: &Reservation) {
        let Some(client) = self.owners.get(&row.id).copied() else { return };
        let mine = match &self.clients[client].doing {
            Doing::Waiting(id, _) | Doing::Using(id, _) | Doing::Leaving(id) => *id == row.id,
            _ => false,
        };
        let who = Who::client(client);
        if row.ended() {
            self.owners.remove(&row.id);
            if mine {
                self.clients[client].doing = Doing::Away;
                self.go_away(client);
            }
        } else if mine && matches!(row.status, Status::Ready { .. }) {
            let late = self.happens(who, Chance::ComesLate);
            let (low, high) = if late { (20_000, 100_000) } else { (20, 2_000) };
            let ms = self.dice.between(who, Pick::Pause, low, high);
            self.wake_client(client, ms);
        }
    }

    /// The daemon is gone.
    pub(super) fn nobody_answers(&mut self) {
        for client in 0..self.clients.len() {
            let who = Who::client(client);
            if let Doing::Waiting(id, _) = self.clients[client].doing
                && self.happens(who, Chance::LosesHeart)
            {
                self.clients[client].doing = Doing::Leaving(id);
                let pause = self.dice.between(who, Pick::Pause, 200, 5_000);
                self.wake_client(client, pause);
            }
        }
    }

    fn go_away(&mut self, client: usize) {
        self.clients[client].doing = Doing::Away;
        self.clients[client].beats = None;
        let pause = self.dice.between(Who::client(client), Pick::Pause, 500, 180_000);
        self.wake_client(client, pause);
    }

    pub(super) fn client_acts(&mut self, client: usize, wake: u64) {
        if self.clients[client].wake != wake {
            return;
        }
        match self.clients[client].doing.clone() {
            Doing::Away if self.dice.calm => {}
            Doing::Away => self.client_comes(client),
            Doing::Asking(asking) => self.client_asks(client, asking),
            Doing::Waiting(id, until) => self.client_waits(client, id, until),
            Doing::Using(id, until) => self.client_uses(client, id, until),
            Doing::Leaving(id) => self.client_releases(client, id),
        }
    }

    fn client_comes(&mut self, client: usize) {
        let who = Who::client(client);
        self.clients[client].visit += 1;
        self.dice.chapter(who, self.clients[client].visit);
        if !self.happens(who, Chance::Visit) {
            return self.go_away(client);
        }
        self.clients[client].keys += 1;
        let key = format!("key{}", self.clients[client].keys);
        let image = [None, Some(IMAGES[0]), Some(IMAGES[1])];
        let image = self.dice.one(who, Pick::Ask, &image).map(str::to_owned);
        let ask = self.thing_to_ask(who);
        self.client_asks(client, Box::new(Asking::new(key, ask, image)));
    }

    fn thing_to_ask(&mut self, who: Who) -> Ask {
        let dice = &mut self.dice;
        let role = |name: &str, select: &str, count| Role {
            name: name.into(),
            select: select.parse().unwrap_or_else(|_| Selector::default()),
            count,
        };
        let roles = match dice.below(who, Pick::Ask, 12) {
            0 => vec![role("left", "half=even", 1), role("right", "half=odd", 1)],
            1 | 2 => vec![role("machine", "", 2)],
            n => vec![role("machine", ["", "half=even", "half=odd"][n as usize % 3], 1)],
        };
        let silence = dice.one(who, Pick::Ask, &[20_000, 60_000, 300_000]);
        let session = dice.below(who, Pick::Ask, 2) == 0;
        let (limit, waits) = (
            dice.between(who, Pick::Ask, 60_000, 1_800_000),
            dice.between(who, Pick::Ask, 10_000, 1_800_000),
        );
        Ask {
            roles,
            image: None,
            want: dice.one(who, Pick::Ask, &[Want::Bare, Want::Agent, Want::Image, Want::Image]),
            hold: if session { Hold::Session { silence } } else { Hold::Time },
            limit: (dice.below(who, Pick::Ask, 4) > 0).then_some(limit),
            clean: match dice.below(who, Pick::Ask, 5) {
                0 => CleanLevel::Any,
                1 => CleanLevel::ByCommand,
                _ => CleanLevel::Proven,
            },
            priority: dice.below(who, Pick::Ask, 3) as i32,
            reason: None,
            patience: (dice.below(who, Pick::Ask, 4) == 0).then_some(waits),
            agent_lost: dice.one(who, Pick::Ask, &[None, None, Some(5_000), Some(60_000)]),
        }
    }

    fn client_asks(&mut self, client: usize, asking: Box<Asking>) {
        let who = Who::client(client);
        let key = Some((asking.key.clone(), asking.hash));
        let answer = match self.daemon.lab {
            Some(_) => self.ask(client, key, asking.request()),
            None => None,
        };
        match answer {
            // Not known: the same again, under the same key.
            None if self.dice.calm && self.dice.below(who, Pick::Kind, 4) == 0 => self.go_away(client),
            None => {
                self.clients[client].doing = Doing::Asking(asking);
                let pause = self.dice.between(who, Pick::Pause, 200, 5_000);
                self.wake_client(client, pause);
            }
            Some(Err(_)) => self.go_away(client),
            Some(Ok(value)) => match reservation(&value) {
                Some(id) => self.client_has(client, id, &asking),
                None => self.violation(format!("a reservation was acknowledged without its number: {value}")),
            },
        }
    }

    /// Its reservation was acknowledged: it exists from now on.
    fn client_has(&mut self, client: usize, id: ReservationId, asking: &Asking) {
        let who = Who::client(client);
        self.acknowledged_reserve(id);
        self.owners.insert(id, client);
        let session = matches!(asking.ask.hold, Hold::Session { .. });
        self.clients[client].beats = session.then_some(id);
        let soon = self.happens(who, Chance::ChangesMind);
        let (low, high) = if soon { (10, 60_000) } else { (600_000, 5_400_000) };
        let until = self.now + self.dice.between(who, Pick::Pause, low, high);
        self.clients[client].doing = Doing::Waiting(id, until);
        self.wake_client(client, until - self.now);
        self.repeats_itself(client, id, asking);
        // It may have been served or have ended in the same step.
        let row = self.daemon.lab.as_ref().and_then(|l| l.reservation(id)).cloned();
        match row {
            Some(row) => self.reservation_changed(&row),
            None if self.daemon.lab.is_some() => self.go_away(client),
            None => {}
        }
    }

    /// A key stands for one request, and for one answer.
    fn repeats_itself(&mut self, client: usize, id: ReservationId, asking: &Asking) {
        let who = Who::client(client);
        if self.happens(who, Chance::RepeatsKey) {
            match self.ask_leader(client, asking) {
                None => {}
                Some(answer) if answer.as_ref().ok().and_then(reservation) == Some(id) => {}
                Some(answer) => self.violation(format!("{id} was asked for again under its key: {answer:?}")),
            }
        }
        if self.happens(who, Chance::ReusesKey) {
            let ask = Ask { priority: asking.ask.priority + 1, ..asking.ask.clone() };
            let other = Asking::new(asking.key.clone(), ask, asking.image.clone());
            match self.ask_leader(client, &other) {
                None => {}
                Some(Err(error)) if error.code == Code::KeyReused => {}
                Some(answer) => self.violation(format!("{id}'s key did for another request: {answer:?}")),
            }
        }
    }

    /// Whoever leads knows all keys; a stopped daemon knows those it had.
    fn ask_leader(&mut self, client: usize, asking: &Asking) -> Option<Result<Value, ApiError>> {
        let key = Some((asking.key.clone(), asking.hash));
        let caller = Caller { user: self.clients[client].user.clone(), admin: false, key };
        match self.deliver(Event::Request(caller, asking.request())) {
            Some(Answer::Api(answer)) => Some(answer),
            _ => None,
        }
    }

    fn client_waits(&mut self, client: usize, id: ReservationId, until: u64) {
        let who = Who::client(client);
        let row = self.seen_by_client(id);
        let loses_heart = until <= self.now || self.dice.calm;
        match row.as_ref().map(|r| &r.status) {
            // Nobody answers: it looks again, and leaves when it can.
            None if self.daemon.lab.is_none() => self.wake_client(client, 5_000),
            None | Some(Status::Ended { .. }) => self.go_away(client),
            Some(Status::Ready { .. } | Status::Active) => match self.ask(client, None, Request::Claim(id)) {
                Some(Ok(_)) => {
                    self.acknowledged_claim(id);
                    let until = self.now + self.dice.between(who, Pick::Pause, 1_000, 900_000);
                    self.clients[client].doing = Doing::Using(id, until);
                    self.next_deed(client, until);
                }
                _ => self.wake_client(client, 3_000),
            },
            Some(_) if loses_heart => self.client_leaves(client, id),
            Some(_) => self.wake_client(client, until - self.now),
        }
    }

    fn seen_by_client(&self, id: ReservationId) -> Option<Arc<Reservation>> {
        self.daemon.lab.as_ref()?.reservation(id).cloned()
    }

    fn next_deed(&mut self, client: usize, until: u64) {
        let pause = self.dice.between(Who::client(client), Pick::Pause, 1_000, 200_000);
        self.wake_client(client, pause.min(until.saturating_sub(self.now)));
    }

    fn client_uses(&mut self, client: usize, id: ReservationId, until: u64) {
        if self.daemon.lab.is_none() {
            return self.wake_client(client, 3_000);
        }
        let Some(row) = self.seen_by_client(id).filter(|r| !r.ended()) else { return self.go_away(client) };
        if until <= self.now || self.dice.calm || row.members.is_empty() {
            return self.client_leaves(client, id);
        }
        self.does_something(client, &row);
        if matches!(&self.clients[client].doing, Doing::Using(still, _) if *still == id) {
            self.next_deed(client, until);
        }
    }

    fn does_something(&mut self, client: usize, row: &Reservation) {
        let who = Who::client(client);
        let which = self.dice.below(who, Pick::Which, row.members.len() as u64) as usize;
        let machine = row.members[which].machine.clone();
        if self.happens(who, Chance::Switches) {
            let actions = [PowerAction::On, PowerAction::Off, PowerAction::Cycle];
            let action = self.dice.one(who, Pick::Kind, &actions);
            self.ask(client, None, Request::Power { machine: machine.clone(), action, force: None });
        }
        if self.happens(who, Chance::Nudges) {
            let act = Act::Nudge(Nudge::Reset);
            self.ask(client, None, Request::Fixture { machine: machine.clone(), act, force: None });
        }
        if self.happens(who, Chance::Runs) {
            let command = "make check".to_owned();
            self.ask(client, None, Request::Run { machine: machine.clone(), command });
        }
        if self.happens(who, Chance::Extends) {
            let more = self.dice.between(who, Pick::Duration, 60_000, 1_800_000);
            let request = Request::Extend { reservation: row.id, more: Some(more) };
            if let Some(Ok(_)) = self.ask(client, None, request) {
                self.acknowledged_extension(row.id);
            }
        }
        if self.happens(who, Chance::Reimages) {
            let image = self.dice.one(who, Pick::Kind, &[None, Some(IMAGES[0]), Some(IMAGES[1])]);
            self.ask(client, None, Request::Reimage { machine, image: image.map(str::to_owned) });
        }
    }

    /// Releases, or vanishes without a word.
    fn client_leaves(&mut self, client: usize, id: ReservationId) {
        if self.happens(Who::client(client), Chance::Vanishes) {
            // Its last beat was heard a moment ago.
            if self.clients[client].beats == Some(id) {
                self.ask(client, None, Request::Beat(id));
            }
            return self.go_away(client);
        }
        self.clients[client].doing = Doing::Leaving(id);
        self.client_releases(client, id);
    }

    fn client_releases(&mut self, client: usize, id: ReservationId) {
        let who = Who::client(client);
        let release = || Request::Release { reservation: id, force: None };
        match self.ask(client, None, release()) {
            None => {
                let pause = self.dice.between(who, Pick::Pause, 200, 5_000);
                self.wake_client(client, pause);
            }
            Some(answer) => {
                if answer.is_ok() {
                    self.acknowledged_release(id);
                }
                if self.happens(who, Chance::ReleasesTwice) {
                    self.ask(client, None, release());
                }
                self.go_away(client);
            }
        }
    }

    // ── beats ──

    /// The beats of those who are there, whose sessions would end now.
    pub(super) fn beats_due(&mut self) {
        for (client, id) in self.beating() {
            let who = Who::client(client);
            if self.clients[client].silent_until > self.now {
                continue;
            }
            if self.happens(who, Chance::ClientSilent) {
                let ms = self.dice.between(who, Pick::Duration, 1_000, 400_000);
                self.clients[client].silent_until = self.now + ms;
                continue;
            }
            self.ask(client, None, Request::Beat(id));
        }
    }

    /// The beats that came while nothing was decided.
    pub(super) fn beats_meanwhile(&self) -> Vec<Event> {
        let heard = |c: &&Client| c.silent_until <= self.now;
        let beat = |c: &Client| {
            let caller = Caller { user: c.user.clone(), admin: false, key: None };
            c.beats.map(|id| Event::Request(caller, Request::Beat(id)))
        };
        self.clients.iter().filter(heard).filter_map(beat).collect()
    }

    /// Who keeps a session alive that is due.
    fn beating(&self) -> Vec<(usize, ReservationId)> {
        let now = self.lab_now();
        let Some(lab) = &self.daemon.lab else { return Vec::new() };
        let due = |(at, timer): &(LabTime, Timer)| match timer {
            Timer::Reservation(id) if *at <= now && lab.beat_due(*id).is_some_and(|b| b <= now) => Some(*id),
            _ => None,
        };
        let client = |id: ReservationId| {
            let client = *self.owners.get(&id)?;
            (self.clients[client].beats == Some(id)).then_some((client, id))
        };
        lab.timers.iter().take_while(|(at, _)| *at <= now).filter_map(due).filter_map(client).collect()
    }

    fn ask(
        &mut self,
        client: usize,
        key: Option<(String, SecretHash)>,
        request: Request,
    ) -> Option<Result<Value, ApiError>> {
        let caller = Caller { user: self.clients[client].user.clone(), admin: false, key };
        match self.route(Event::Request(caller, request)) {
            Some(Answer::Api(answer)) => Some(answer),
            _ => None,
        }
    }
}

fn reservation(value: &Value) -> Option<ReservationId> {
    value.get("reservation")?.as_str()?.parse().ok()
}
