//! What is checked: who uses the lab, where it starts, and what may go wrong.

use crate::action::{Action, Death, Move};
use crate::agents::DISK;
use crate::clients::{admin, user};
use crate::fault::{Fault, Faults};
use crate::oracle;
use crate::world::{Asks, Board, Client, Setting, Told, World};
use pitstop_core::Lab;
use pitstop_core::event::{Event, Request};
use pitstop_core::fence::{Fence, Fences};
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
        let kinds: Vec<String> =
            (self.kinds.iter())
                .map(|(kind, most)| {
                    if *most < self.total {
                        format!("{} ≤ {most}", kind.name())
                    } else {
                        kind.name().into()
                    }
                })
                .collect();
        let faults = if self.total == 0 {
            "no faults".into()
        } else {
            format!("≤ {} of {}", self.total, kinds.join(", "))
        };
        format!("{start}; {}; {faults}", clients.join(", "))
    }

    /// What must be reachable in it.
    pub fn goals(&self) -> Vec<&'static str> {
        let wants = |want| self.clients.iter().any(|c| c.want == want);
        let goals = [
            (oracle::IMAGE_HELD, wants(Want::Image)),
            (oracle::BARE_HELD, wants(Want::Bare)),
            (oracle::FREE_AGAIN, true),
            (oracle::FAULTS_SURVIVED, true),
        ];
        goals.into_iter().filter(|(_, expected)| *expected).map(|(goal, _)| goal).collect()
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
        let asks: Vec<Asks> =
            self.clients.iter().zip(["ann", "bob", "eve"]).map(|(c, n)| c.asks(n)).collect();
        let clients =
            asks.iter().map(|a| Client { told: Told::Nothing, switches: a.switches, reimages: a.reimages });
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
                Move::Reserve(_)
                    | Move::Claim(_)
                    | Move::Release(_)
                    | Move::Switch(..)
                    | Move::Reimage(_)
                    | Move::Prove
                    | Move::Wait
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

/// Each of these kinds of fault, as often as all together may happen.
fn each(most: u8, kinds: &[Fault]) -> Vec<(Fault, u8)> {
    kinds.iter().map(|kind| (*kind, most)).collect()
}

/// All but what somebody does at the bench: that has a search of its own.
const ANY: [Fault; 13] = [
    Fault::Crash,
    Fault::Stop,
    Fault::LongDown,
    Fault::PowerLate,
    Fault::PowerLost,
    Fault::PowerRefused,
    Fault::Unread,
    Fault::Stray,
    Fault::Cut,
    Fault::Slow,
    Fault::DiskError,
    Fault::Reboot,
    Fault::WrongBoot,
];

/// Faults of power, and deaths.
const POWERS: [Fault; 7] = [
    Fault::Crash,
    Fault::Stop,
    Fault::LongDown,
    Fault::PowerLate,
    Fault::PowerLost,
    Fault::PowerRefused,
    Fault::Unread,
];

/// Faults of messages and agents, and deaths.
const MESSAGES: [Fault; 7] =
    [Fault::Crash, Fault::Stray, Fault::Cut, Fault::Slow, Fault::DiskError, Fault::Reboot, Fault::WrongBoot];

/// What the others are variants of: two clients, one fault of any kind.
fn plain(name: &'static str, about: &'static str) -> Configuration {
    Configuration {
        name,
        about,
        clients: vec![Wish::for_a(Want::Image), Wish::for_a(Want::Bare)],
        start: Start::Unknown,
        total: 1,
        kinds: each(1, &ANY),
        proofs: 1,
    }
}

/// What is checked every time.
pub fn usual() -> Vec<Configuration> {
    let (image, bare) = (Wish::for_a(Want::Image), Wish::for_a(Want::Bare));
    vec![
        Configuration {
            start: Start::Held,
            clients: vec![Wish { switches: 1, reimages: 1, ..image }, bare],
            ..plain("holder", "a holder switches power and has his machine written again, another waits")
        },
        Configuration {
            start: Start::Held,
            total: 2,
            kinds: each(2, &ANY),
            ..plain("two-faults", "from one holder to the next, two faults of any kind")
        },
        plain("one-fault", "from the first turn to the last, one fault of any kind"),
        Configuration {
            start: Start::Proven,
            clients: vec![Wish { image: Some("yocto"), ..image }, bare],
            ..plain("other-image", "a proven machine is wanted with another image, and bare")
        },
        Configuration {
            start: Start::Proven,
            clients: vec![Wish { switches: 2, ..bare }, bare],
            ..plain("bare", "a holder switches power of his bare machine, another waits")
        },
        Configuration {
            clients: vec![Wish::for_a(Want::Agent), bare],
            ..plain("agent", "the agent serves from RAM, and then a bare machine is wanted")
        },
        Configuration {
            start: Start::Proven,
            kinds: each(1, &[Fault::Swap]),
            ..plain("swapped", "another disk is put in the place of the one that was enrolled")
        },
        Configuration {
            total: 0,
            kinds: Vec::new(),
            ..plain("no-fault", "from the first turn to the last, and nothing goes wrong")
        },
    ]
}

/// What is checked by command.
pub fn deep() -> Vec<Configuration> {
    vec![
        Configuration {
            start: Start::Held,
            total: 3,
            kinds: each(3, &ANY),
            ..plain("three-faults", "from one holder to the next, three faults of any kind")
        },
        Configuration {
            total: 2,
            kinds: each(2, &POWERS),
            ..plain("power", "from the first turn to the last, two faults of power")
        },
        Configuration {
            total: 2,
            kinds: each(2, &MESSAGES),
            ..plain("messages", "from the first turn to the last, two faults of messages and agents")
        },
    ]
}

/// In which world the lack of a fence shows, and which property breaks there.
pub fn shows_lack_of(fence: Fence) -> (Configuration, &'static str) {
    let (name, property) = match fence {
        Fence::Epoch => ("one-fault", oracle::HISTORY),
        Fence::Nonce => ("one-fault", oracle::CLEAN),
        Fence::IntentFirst => ("bare", oracle::POWER),
        Fence::ReadBack => ("no-fault", oracle::POWER),
        Fence::MayLandUntil => ("one-fault", oracle::POWER),
        Fence::DiskBeforeEffect => ("holder", oracle::CLEAN),
        Fence::Baseline => ("swapped", oracle::ENROLLED),
    };
    let configuration = usual().into_iter().find(|c| c.name == name);
    (configuration.unwrap_or_else(|| plain(name, "")), property)
}
