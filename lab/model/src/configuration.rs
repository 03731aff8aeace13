//! What is checked: who uses the lab, where it starts, and what may go wrong.

use crate::action::{Action, Death, Move};
use crate::agents::DISK;
use crate::clients::{admin, user};
use crate::fault::{Fault, Faults};
use crate::world::{Asks, Board, Client, Setting, Told, World};
use pitstop_core::Lab;
use pitstop_core::event::{Event, Request};
use pitstop_core::fence::Fences;
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::ImageRef;
use pitstop_core::reservation::{Ask, CleanLevel, Hold, Role, Want};
use pitstop_core::simulator::plain_machine;
use pitstop_core::time::LabTime;
use pitstop_wire::{MachineName, Selector};
use std::sync::Arc;

/// The images that may be asked for. The first is the machine's own.
const IMAGES: [&str; 2] = ["debian", "yocto"];
/// How long a reservation lasts, in milliseconds.
const LIMIT: u64 = 600_000;

/// A bounded world to be searched through.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Who uses the lab.
    pub clients: Vec<Wish>,
    /// Where it starts.
    pub start: Start,
    /// Most faults in all.
    pub total: u8,
    /// Which, and of each kind how many at most.
    pub kinds: Vec<(Fault, u8)>,
    /// How often the admin has a quarantined machine proven.
    pub proofs: u8,
}

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// In which condition.
    pub want: Want,
    /// Which image; `None`: the machine's own.
    pub image: Option<&'static str>,
    /// How often he switches power while he holds the machine.
    pub switches: u8,
    /// How often he has it written again.
    pub reimages: u8,
}

/// Where a search begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A machine of which nothing is known.
    Unknown,
    /// A machine that was proven and rests.
    Proven,
    /// The first client holds the machine.
    Held,
}

impl Configuration {
    /// The bounds in words.
    pub fn bounds(&self) -> String {
        let start = match self.start {
            Start::Unknown => "machine unknown",
            Start::Proven => "machine proven",
            Start::Held => "machine held",
        };
        let clients: Vec<String> = self.clients.iter().map(|c| c.words()).collect();
        let kinds: Vec<String> = (self.kinds.iter())
            .map(|(kind, most)| if *most < self.total { format!("{} ≤ {most}", kind.name()) } else { kind.name().into() })
            .collect();
        let faults = if self.total == 0 { "no faults".into() } else { format!("≤ {} of {}", self.total, kinds.join(", ")) };
        format!("{start}; {}; {faults}", clients.join(", "))
    }

    /// The state it begins in.
    pub fn world(&self, fences: Fences) -> World {
        let mut world = self.opened(fences);
        match self.start {
            Start::Unknown => {}
            Start::Proven => {
                world.act_now(Move::Prove);
                world.run();
            }
            Start::Held => {
                world.act_now(Move::Reserve(0));
                world.run();
                world.act_now(Move::Claim(0));
            }
        }
        world.proofs = self.proofs;
        world.faults = Faults::new(self.total, &self.kinds);
        world
    }

    /// A daemon's first start, with the images that may be asked for.
    fn opened(&self, fences: Fences) -> World {
        let machine = MachineName::new("m").unwrap_or_else(|_| unreachable!("a fixed and valid name"));
        let spec = plain_machine(machine.clone());
        let power_ms = spec.limits.power_ms;
        let mut inventory = Inventory::default();
        inventory.machines.insert(machine.clone(), spec);
        let asks: Vec<Asks> = self.clients.iter().zip(["ann", "bob", "eve"]).map(|(c, n)| c.asks(n)).collect();
        let clients = asks.iter().map(|a| Client { told: Told::Nothing, switches: a.switches, reimages: a.reimages });
        let clients = clients.collect();
        let inventory = Arc::new(inventory);
        let setting = Arc::new(Setting { fences, inventory, machine, power_ms, asks });
        let mut world = World {
            setting,
            now: LabTime(1_000),
            draws: 0,
            lab: Lab::default(),
            up: false,
            stopped: None,
            board: Board::default(),
            agent: None,
            orders: Vec::new(),
            questions: Vec::new(),
            strays: Vec::new(),
            clients,
            proofs: 1,
            faults: Faults::new(0, &[]),
            wrong: None,
        };
        world.restart();
        for name in IMAGES {
            let image = ImageRef { name: name.into(), digest: format!("b3:{name}"), seed: Some((0, 4096)) };
            world.report(Event::Request(admin(), Request::NameImage { image, bytes: DISK }), Death::None);
        }
        world.run();
        world
    }
}

impl Wish {
    /// Wants the machine like this, and then leaves it alone.
    pub fn for_a(want: Want) -> Self {
        Self { want, image: None, switches: 0, reimages: 0 }
    }

    fn words(&self) -> String {
        let mut words = format!("{:?}", self.want).to_lowercase();
        if let Some(image) = self.image {
            words += &format!(" {image}");
        }
        for (count, what) in [(self.switches, "power"), (self.reimages, "reimage")] {
            if count > 0 {
                words += &format!(" + {count} {what}");
            }
        }
        words
    }

    fn asks(&self, name: &str) -> Asks {
        let role = Role { name: "machine".into(), select: Selector::default(), count: 1 };
        let ask = Ask {
            roles: vec![role],
            image: None,
            want: self.want,
            hold: Hold::Time,
            limit: Some(LIMIT),
            clean: CleanLevel::Proven,
            priority: 0,
            reason: None,
            patience: None,
            agent_lost: None,
        };
        let image = self.image.map(str::to_owned);
        Asks { user: user(name), ask, image, switches: self.switches, reimages: self.reimages }
    }
}

impl World {
    fn act_now(&mut self, what: Move) {
        self.act(Action { what, death: Death::None });
    }

    /// What happens by itself happens, until nothing does without waiting.
    fn run(&mut self) {
        let by_itself = |a: &Action| {
            !matches!(
                a.what,
                Move::Reserve(_) | Move::Claim(_) | Move::Release(_) | Move::Switch(..) | Move::Reimage(_)
                    | Move::Prove | Move::Wait
            )
        };
        loop {
            let mut next = Vec::new();
            self.actions(&mut next);
            match next.into_iter().find(by_itself) {
                Some(action) => drop(self.act(action)),
                None => return,
            }
        }
    }
}

/// Every kind of fault, each as often as all together may happen.
fn any(most: u8) -> Vec<(Fault, u8)> {
    Fault::ALL.into_iter().map(|kind| (kind, most)).collect()
}

/// What is checked every time.
pub fn usual() -> Vec<Configuration> {
    let image = Wish::for_a(Want::Image);
    let bare = Wish::for_a(Want::Bare);
    let base = Configuration {
        name: "two-clients",
        about: "two clients, nothing goes wrong",
        clients: vec![image, bare],
        start: Start::Unknown,
        total: 0,
        kinds: any(0),
        proofs: 1,
    };
    vec![
        base.clone(),
        Configuration { name: "one-fault", total: 1, kinds: any(1), ..base.clone() },
        Configuration {
            name: "other-image",
            start: Start::Proven,
            clients: vec![Wish { image: Some("yocto"), ..image }, bare],
            total: 1,
            kinds: any(1),
            ..base.clone()
        },
        Configuration {
            name: "holder",
            start: Start::Held,
            clients: vec![Wish { switches: 1, reimages: 1, ..image }, bare],
            total: 1,
            kinds: any(1),
            ..base.clone()
        },
        Configuration {
            name: "bare-power",
            start: Start::Proven,
            clients: vec![Wish { switches: 2, ..bare }, bare],
            total: 1,
            kinds: any(1),
            ..base.clone()
        },
        Configuration {
            name: "agent",
            clients: vec![Wish::for_a(Want::Agent), bare],
            total: 1,
            kinds: any(1),
            ..base.clone()
        },
        Configuration {
            name: "power2",
            start: Start::Held,
            clients: vec![image, bare],
            total: 2,
            kinds: [Fault::Crash, Fault::PowerLate, Fault::PowerLost, Fault::PowerRefused, Fault::Unread, Fault::LongDown, Fault::Stop].map(|k| (k, 2)).to_vec(),
            ..base.clone()
        },
        Configuration {
            name: "messages2",
            start: Start::Held,
            clients: vec![image, bare],
            total: 2,
            kinds: [Fault::Crash, Fault::Stray, Fault::Cut, Fault::Slow, Fault::Reboot, Fault::DiskError].map(|k| (k, 2)).to_vec(),
            ..base.clone()
        },
        Configuration { name: "two", total: 2, kinds: any(2), ..base.clone() },
        Configuration { name: "two-held", start: Start::Held, total: 2, kinds: any(2), ..base.clone() },
    ]
}
