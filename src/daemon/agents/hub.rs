//! Who is connected, and who gets to hear what.

use super::origin::Origins;
use super::pool::Pool;
use crate::daemon::hands::{Answer, Front};
use pitstop_core::event::Report;
use pitstop_image::ImageStore;
use pitstop_wire::MachineName;
use pitstop_wire::agent::ToAgent;
use pitstop_wire::api::Progress;
use pitstop_wire::run::{FromRun, ToRun};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, mpsc, watch};

/// Messages of one command that wait for its caller. The agent holds back
/// by itself; a caller who is this far behind attaches again.
const ROUTE: usize = 64;
/// Messages towards one command that wait for the connection.
const TOWARDS: usize = 16;

/// All agents of the lab.
#[derive(Clone)]
pub struct Agents {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub front: Arc<dyn Front>,
    pub images: Arc<ImageStore>,
    pub pool: Pool,
    pub origins: Origins,
    progress: broadcast::Sender<Progress>,
    machines: Mutex<HashMap<MachineName, Seat>>,
}

/// What is known of one machine's connections.
#[derive(Default)]
struct Seat {
    current: Option<Member>,
    /// Connections whose hello is being decided about.
    pending: Vec<Member>,
    /// A session that ended while another hello was pending: to be reported
    /// as lost if that one is refused.
    owed: Option<Who>,
    progress: Option<Progress>,
}

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub machine: MachineName,
    pub nonce: String,
    pub boot_id: String,
}

/// What a session is told by others.
#[derive(Debug)]
pub(super) enum Order {
    /// Say this.
    Say(Box<ToAgent>),
    /// Say goodbye and close.
    Bye(String),
    /// A newer connection took over.
    Replaced,
}

/// That a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// After the goodbye, or without it if that takes too long.
    Dismissed,
    /// At once.
    Replaced,
}

/// Where a command's messages go, by the command.
pub(super) type Routes = HashMap<String, mpsc::Sender<(FromRun, Vec<u8>)>>;

/// A session as the hub knows it.
#[derive(Clone)]
pub(super) struct Member {
    /// Distinguishes connections of one machine.
    pub id: u64,
    pub who: Who,
    pub orders: mpsc::UnboundedSender<Order>,
    /// Ends the session whatever its writer does: a peer that does not read
    /// would never come to the order.
    pub cut: watch::Sender<Option<Cut>>,
    pub runs: mpsc::Sender<(ToRun, Vec<u8>)>,
    pub routes: Arc<Mutex<Routes>>,
    pub gone: watch::Receiver<bool>,
}

/// Both directions of one command. Dropping it lets the agent keep what the
/// caller has not seen.
#[derive(Debug)]
pub struct RunLink {
    /// Towards the command.
    pub send: mpsc::Sender<(ToRun, Vec<u8>)>,
    /// From it. Ends when the agent's connection does, or the caller is too
    /// far behind; what was not seen is kept by the agent.
    pub receive: mpsc::Receiver<(FromRun, Vec<u8>)>,
}

impl Agents {
    /// A hub without connections. Progress of disk work is published on
    /// `progress`; whoever is slow misses some.
    pub fn new(
        front: Arc<dyn Front>,
        images: Arc<ImageStore>,
        progress: broadcast::Sender<Progress>,
    ) -> Self {
        let machines = Mutex::default();
        let (pool, origins) = (Pool::default(), Origins::default());
        Self { inner: Arc::new(Inner { front, images, pool, origins, progress, machines }) }
    }

    /// The images that it serves.
    pub fn images(&self) -> Arc<ImageStore> {
        Arc::clone(&self.inner.images)
    }

    /// The boot parameters of this attempt go to this address: its boot agent
    /// must come from there.
    pub fn given(&self, machine: &MachineName, nonce: &str, to: IpAddr) {
        self.inner.origins.give(machine, nonce, to);
    }

    /// Says something to the agent of this attempt, if it is connected.
    pub fn tell(&self, machine: &MachineName, nonce: &str, message: &ToAgent) {
        self.inner.each(machine, |member| {
            if member.who.nonce == nonce {
                member.order(Order::Say(Box::new(message.clone())));
            }
        });
    }

    /// Ends every session of the machine.
    pub fn dismiss(&self, machine: &MachineName, reason: &str) {
        self.inner.each(machine, |member| member.order(Order::Bye(reason.to_owned())));
    }

    /// How far the machine's agent is with its disk, if it is at one.
    pub fn progress(&self, machine: &MachineName) -> Option<Progress> {
        self.inner.seats().get(machine)?.progress.clone()
    }

    /// Whether an agent of this attempt is connected.
    pub fn connected(&self, machine: &MachineName, nonce: &str) -> bool {
        let seats = self.inner.seats();
        seats.get(machine).and_then(|s| s.current.as_ref()).is_some_and(|m| m.who.nonce == nonce)
    }

    /// A link to the machine's agent for one command. `None`: no agent of
    /// this attempt is connected.
    pub fn link(&self, machine: &MachineName, run: &str, nonce: &str) -> Option<RunLink> {
        let member = {
            let seats = self.inner.seats();
            let seat = seats.get(machine)?;
            // One that was accepted a moment ago may not be the current one
            // yet; one that is refused yet is told nothing.
            let mut all = seat.pending.iter().rev().chain(&seat.current);
            all.find(|m| m.who.nonce == nonce)?.clone()
        };
        let (to_caller, receive) = mpsc::channel(ROUTE);
        // A caller who comes back takes over from his older self.
        lock(&member.routes).insert(run.to_owned(), to_caller);
        let (send, mut from_caller) = mpsc::channel::<(ToRun, Vec<u8>)>(TOWARDS);
        let run = run.to_owned();
        tokio::spawn(async move {
            let mut gone = member.gone.clone();
            loop {
                let message = tokio::select! {
                    message = from_caller.recv() => message,
                    _ = gone.wait_for(|gone| *gone) => None,
                };
                let Some((message, body)) = message else { break };
                // Nobody speaks for another command than the one asked for.
                if message.id() != run || member.runs.send((message, body)).await.is_err() {
                    break;
                }
            }
        });
        Some(RunLink { send, receive })
    }
}

impl Inner {
    fn seats(&self) -> MutexGuard<'_, HashMap<MachineName, Seat>> {
        lock(&self.machines)
    }

    fn each(&self, machine: &MachineName, act: impl Fn(&Member)) {
        if let Some(seat) = self.seats().get(machine) {
            seat.pending.iter().chain(&seat.current).for_each(act);
        }
    }

    /// A connection whose hello goes to the loop now.
    pub(super) fn enter(&self, member: Member) {
        self.seats().entry(member.who.machine.clone()).or_default().pending.push(member);
    }

    /// The loop accepted it: it replaces the older connection.
    pub(super) fn accepted(&self, member: &Member) {
        let mut seats = self.seats();
        let seat = seats.entry(member.who.machine.clone()).or_default();
        seat.pending.retain(|m| m.id != member.id);
        seat.owed = None;
        seat.progress = None;
        if let Some(older) = seat.current.replace(member.clone()) {
            older.order(Order::Replaced);
        }
    }

    /// The loop refused it, or it went away before the loop answered.
    pub(super) fn refused(&self, member: &Member) {
        let mut seats = self.seats();
        let Some(seat) = seats.get_mut(&member.who.machine) else { return };
        seat.pending.retain(|m| m.id != member.id);
        if seat.pending.is_empty()
            && let Some(who) = seat.owed.take()
        {
            self.report(who, Report::Lost);
        }
        Self::tidy(&mut seats, &member.who.machine);
    }

    /// An accepted connection is gone. It is reported as lost, unless a newer
    /// one took over, or is about to: then the loop would hear "resumed"
    /// before "lost" and believe the second.
    pub(super) fn left(&self, member: &Member) {
        let mut seats = self.seats();
        let Some(seat) = seats.get_mut(&member.who.machine) else { return };
        if seat.current.as_ref().is_none_or(|m| m.id != member.id) {
            return;
        }
        seat.current = None;
        seat.progress = None;
        if seat.pending.is_empty() {
            self.report(member.who.clone(), Report::Lost);
        } else {
            seat.owed = Some(member.who.clone());
        }
        Self::tidy(&mut seats, &member.who.machine);
    }

    fn tidy(seats: &mut HashMap<MachineName, Seat>, machine: &MachineName) {
        if seats.get(machine).is_some_and(|s| s.current.is_none() && s.pending.is_empty()) {
            seats.remove(machine);
        }
    }

    pub(super) fn report(&self, who: Who, report: Report) {
        drop(self.tell_loop(who, report));
    }

    /// Reports; ready when that has been decided about.
    pub(super) fn tell_loop(&self, who: Who, report: Report) -> Answer<'static, ()> {
        self.front.agent(who.machine, who.nonce, who.boot_id, report)
    }

    pub(super) fn progress(&self, member: &Member, phase: String, done: u64, total: u64) {
        let progress = Progress { machine: member.who.machine.to_string(), phase, done, total };
        if let Some(seat) = self.seats().get_mut(&member.who.machine) {
            seat.progress = Some(progress.clone());
        }
        // Nobody watches: that is fine.
        let _ = self.progress.send(progress);
    }

    pub(super) fn no_progress(&self, machine: &MachineName) {
        if let Some(seat) = self.seats().get_mut(machine) {
            seat.progress = None;
        }
    }
}

impl Member {
    fn order(&self, order: Order) {
        let cut = match &order {
            Order::Say(_) => None,
            Order::Bye(_) => Some(Cut::Dismissed),
            Order::Replaced => Some(Cut::Replaced),
        };
        if cut.is_some() {
            self.cut.send_replace(cut);
        }
        // It has just gone: whoever comes next is told again.
        let _ = self.orders.send(order);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
