//! Power: the lane that sends, the hardware that acts, the runner that reads
//! back, and time.

use crate::action::{Arrival, Boots, Death, Look, Sending};
use crate::daemon::Heard;
use crate::fault::Fault;
use crate::world::{At, Credentials, Order, World};
use pitstop_core::effect::Boot;
use pitstop_core::event::{Answer, BootAnswer, Event, Fact};
use pitstop_core::fence::Fence;
use pitstop_core::id::Epoch;
use pitstop_core::machine::{Reading, Switch};
use pitstop_core::time::LabTime;

impl World {
    /// A newer command ends the older one's runner; what was sent is not
    /// undone by that.
    pub(crate) fn supersede(&mut self, epoch: Epoch) {
        self.orders.retain_mut(|order| {
            if order.epoch == epoch
                && let At::Sent { watched, .. } = &mut order.at
            {
                *watched = false;
            }
            order.epoch != epoch || matches!(order.at, At::Sent { flying: true, .. })
        });
    }

    /// What power reads now.
    fn reading(&self) -> Reading {
        if self.board.on { Reading::On } else { Reading::Off }
    }

    pub(crate) fn send(&mut self, index: usize, sending: Sending, death: Death) -> bool {
        let paid = match sending {
            Sending::Accepted => true,
            Sending::Lost => self.faults.spend(Fault::PowerLost),
            Sending::Refused | Sending::RefusedAndLands => self.faults.spend(Fault::PowerRefused),
        };
        let mut order = self.orders[index].clone();
        if self.now >= order.until {
            self.orders.remove(index);
            return paid
                && self.said(&order, Err("its time was over before it was sent".into()), false, death);
        }
        if self.reading().shows(order.want) {
            // Nothing is sent that could act later.
            self.orders.remove(index);
            let nothing_sent = sending == Sending::Accepted;
            return nothing_sent && self.said(&order, Ok(self.reading()), true, death);
        }
        if order.boot == Boot::Agent && order.want == Switch::On {
            match self.parameters(&order, death) {
                Heard::Answer(Answer::Boot(BootAnswer::Agent(params))) => {
                    order.credentials = Some(params.into());
                }
                Heard::Answer(_) => {
                    self.remove_order(&order);
                    return self.said(&order, Err("no boot parameters".into()), false, Death::None);
                }
                Heard::Nothing => {
                    self.remove_order(&order);
                    return paid;
                }
                Heard::Same => return false,
            }
        } else if death != Death::None {
            return false; // nothing is asked of the daemon here
        }
        paid && self.sent(order, sending)
    }

    /// The broken variant, which lets effects go before it commits: they were
    /// sent when it died. An on that needs parameters asks the daemon first.
    pub(crate) fn send_unrecorded(&mut self, epoch: Epoch) {
        let reading = self.reading();
        let lane = |o: &&mut Order| o.epoch == epoch && o.at == At::Lane;
        for order in self.orders.iter_mut().filter(lane) {
            if order.boot != Boot::Agent && !reading.shows(order.want) {
                order.at = At::Sent { flying: true, watched: false };
            }
        }
    }

    /// Asked of the daemon that gave the order; one that is stopped is mute.
    fn parameters(&mut self, order: &Order, death: Death) -> Heard {
        if order.epoch != self.lab.meta().epoch {
            return Heard::Nothing;
        }
        let machine = self.setting.machine.clone();
        self.deliver(Event::BootRequest { machine, lane: true }, death)
    }

    fn remove_order(&mut self, order: &Order) {
        self.orders.retain(|o| (o.epoch, o.intent) != (order.epoch, order.intent));
    }

    fn sent(&mut self, mut order: Order, sending: Sending) -> bool {
        let accepted = matches!(sending, Sending::Accepted | Sending::Lost);
        let flying = matches!(sending, Sending::Accepted | Sending::RefusedAndLands);
        let read_back = self.setting.fences.stands(Fence::ReadBack);
        order.at = At::Sent { flying, watched: accepted && read_back };
        order.slow = false;
        if let Some(row) = self.orders.iter_mut().find(|o| (o.epoch, o.intent) == (order.epoch, order.intent))
        {
            *row = order.clone();
        }
        self.tidy_orders();
        if !accepted {
            return self.said(&order, Err("the device answered an error".into()), false, Death::None);
        }
        if !read_back {
            // The broken variant believes what was accepted.
            let reading = if order.want == Switch::On { Reading::On } else { Reading::Off };
            return self.said(&order, Ok(reading), true, Death::None);
        }
        true
    }

    /// A runner is done: what it says reaches the daemon.
    fn said(
        &mut self,
        order: &Order,
        result: Result<Reading, String>,
        witnessed: bool,
        death: Death,
    ) -> bool {
        self.report(self.power_fact(order, result, witnessed), death)
    }

    fn power_fact(&self, order: &Order, result: Result<Reading, String>, witnessed: bool) -> Event {
        let (machine, intent, want) = (self.setting.machine.clone(), order.intent, order.want);
        let fact = Fact::Power { machine, leg: 0, intent, want, result, witnessed };
        Event::Fact { epoch: order.epoch, fact }
    }

    /// Whether the runner has seen what it waits for, or has no more time.
    pub(crate) fn may_read_back(&self, order: &Order) -> bool {
        self.up && (self.reading().shows(order.want) || self.now >= order.until)
    }

    pub(crate) fn read_back(&mut self, index: usize, arrival: Arrival, death: Death) -> bool {
        if let At::Sent { watched, .. } = &mut self.orders[index].at {
            *watched = false;
        }
        let order = self.orders[index].clone();
        let event = self.power_fact(&order, Ok(self.reading()), true);
        self.tidy_orders();
        self.arrive(event, arrival, death)
    }

    /// Reaches the daemon now, or is overtaken.
    pub(crate) fn arrive(&mut self, event: Event, arrival: Arrival, death: Death) -> bool {
        if arrival != Arrival::Prompt {
            if !self.faults.spend(Fault::Stray) {
                return false;
            }
            self.strays.push(event.clone());
        }
        arrival == Arrival::Late || self.report(event, death)
    }

    pub(crate) fn look(&mut self, index: usize, look: Look, death: Death) -> bool {
        let question = self.questions.remove(index);
        let (reading, arrival) = match look {
            Look::Seen(arrival) => (self.reading(), arrival),
            Look::Unknown if self.faults.spend(Fault::Unread) => (Reading::Unknown, Arrival::Prompt),
            Look::Unknown => return false,
        };
        let fact =
            Fact::Read { machine: self.setting.machine.clone(), leg: 0, asked: question.asked, reading };
        self.arrive(Event::Fact { epoch: question.epoch, fact }, arrival, death)
    }

    pub(crate) fn land(&mut self, index: usize, boots: Boots) -> bool {
        let paid = boots == Boots::AsTold || self.faults.spend(Fault::WrongBoot);
        let order = &mut self.orders[index];
        if let At::Sent { flying, .. } = &mut order.at {
            *flying = false;
        }
        order.slow = false;
        let (want, boot, credentials) = (order.want, order.boot, order.credentials.clone());
        self.tidy_orders();
        match (self.board.on, want) {
            (false, Switch::On) => {
                self.board.on = true;
                match boots {
                    Boots::AsTold => self.power_up(boot, credentials),
                    Boots::ItsDisk => self.power_up(Boot::Disk, None),
                }
            }
            (true, Switch::Off) => self.power_down(),
            _ => {}
        }
        paid
    }

    /// Power comes on, or the machine boots again under power.
    pub(crate) fn power_up(&mut self, boot: Boot, credentials: Option<Credentials>) {
        self.board.boots += 1;
        self.board.last = Some((boot, credentials.clone()));
        if boot == Boot::Agent {
            self.board.tenant = None; // his system does not run: ours does
        }
        self.board.tenant_writes();
        self.boot(boot, credentials);
    }

    fn power_down(&mut self) {
        // What ran until now could write until now.
        self.board.tenant_writes();
        self.board.on = false;
        self.board.tenant = None;
        self.stop_agent();
    }

    fn tidy_orders(&mut self) {
        self.orders.retain(|o| o.at != At::Sent { flying: false, watched: false });
    }

    pub(crate) fn slow_order(&mut self, index: usize) -> bool {
        self.orders[index].slow = true;
        self.faults.spend(Fault::PowerLate)
    }

    // ── time ──

    /// Whether a deadline of the lab is due.
    pub(crate) fn is_due(&self) -> bool {
        self.up && self.lab.next_deadline().is_some_and(|at| at <= self.now)
    }

    /// Whether nothing happens by itself now: then time passes.
    pub(crate) fn waits(&self) -> bool {
        let rests = |order: &Order| match order.at {
            At::Lane => order.slow && self.now < order.until,
            At::Sent { flying, watched } => {
                let late = order.slow && self.now < self.lands_before(order);
                let reports = watched && self.may_read_back(order);
                (!flying || late) && !(reports && order.epoch == self.lab.meta().epoch)
            }
        };
        let current = self.lab.meta().epoch;
        self.orders.iter().all(|o| rests(o) || (o.epoch != current && o.at == At::Lane))
            && self.questions.iter().all(|q| q.epoch != current)
            && (!self.agent_acts() || self.agent.as_ref().is_some_and(|a| a.slow))
    }

    /// The last moment at which the hardware may act on an order.
    fn lands_before(&self, order: &Order) -> LabTime {
        order.until + self.setting.power_ms
    }

    /// When something is due next: of the daemon, a runner, or hardware that
    /// has waited as long as it may.
    pub(crate) fn next_moment(&self) -> Option<LabTime> {
        let lab = self.lab.next_deadline().filter(|_| self.up);
        let of = |order: &Order| {
            let until = Some(order.until)
                .filter(|at| *at > self.now && order.at != At::Sent { flying: true, watched: false });
            let lands = Some(self.lands_before(order)).filter(|_| order.may_land() && order.at != At::Lane);
            until.into_iter().chain(lands).min()
        };
        self.orders.iter().filter_map(of).chain(lab).min()
    }

    pub(crate) fn wait(&mut self) -> bool {
        let Some(at) = self.next_moment() else { return false };
        self.now = self.now.max(at);
        // Hardware that has waited as long as it may waits no longer.
        while let Some(order) = self
            .orders
            .iter()
            .position(|o| matches!(o.at, At::Sent { flying: true, .. }) && self.lands_before(o) <= self.now)
        {
            self.land(order, Boots::AsTold);
        }
        // What a stopped daemon has not sent in time it never sends.
        let (now, current) = (self.now, self.lab.meta().epoch);
        self.orders.retain(|o| o.epoch == current || o.at != At::Lane || now < o.until);
        true
    }
}
