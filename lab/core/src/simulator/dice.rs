//! Chance, so that a run can be cut down.
//!
//! There is no stream of random numbers. Every draw is a hash of the seed,
//! of who draws, of what about, and of how often he has drawn about that
//! before. So a fault that is taken out of a run, or a client who stays at
//! home, changes no other draw: what is left happens as it did, as far as it
//! does not follow from what was taken out. That is all that shrinking needs,
//! and a run is still nothing but its seed and the list of what is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

macro_rules! chances {
    ($($(#[$doc:meta])* $kind:ident $id:ident $name:literal $odds:literal,)*) => {
        /// Everything that may happen or not: faults, and what people do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub(crate) enum Chance {
            $($(#[$doc])* $id,)*
        }

        impl Chance {
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// In words.
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// It happens one time in so many.
            pub fn odds(self) -> u64 {
                match self { $(Self::$id => $odds,)* }
            }

            /// Whether this is a fault, rather than somebody's doing.
            pub fn is_fault(self) -> bool {
                match self { $(Self::$id => chances!(@ $kind),)* }
            }
        }
    };
    (@ fault) => { true };
    (@ deed) => { false };
}

chances! {
    // ── power ──
    /// A command is answered with an error, and obeyed all the same or not.
    fault PowerRefused "power refused" 80,
    /// Accepted, without effect.
    fault PowerLost "power lost" 80,
    /// Obeyed when its runner has given up, as late as the limit allows.
    fault PowerLate "power late" 80,
    /// Obeyed twice.
    fault PowerTwice "power twice" 40,
    /// A leg is not to be read this time.
    fault PowerUnreadable "power unreadable" 100,
    /// A leg goes off and on by itself for a while.
    fault LegFlaps "leg flaps" 400,
    /// A leg obeys nobody for up to an hour.
    fault LegStuck "leg stuck" 500,
    /// A leg with a spare one in front of it neither answers nor obeys.
    fault LegDead "leg dead" 40,
    /// A controller makes its machines wait for minutes.
    fault ControllerBusy "controller busy" 500,
    /// A controller refuses commands for minutes.
    fault ControllerRefuses "controller refuses" 500,
    /// A controller has no session left for minutes: nothing is read either.
    fault ControllerFull "controller session-full" 500,

    // ── boot ──
    fault NeverBoots "never boots" 60,
    /// It boots its own disk, whatever it was told to.
    fault WrongDisk "boots from the wrong disk" 60,
    fault Panics "panics at boot" 80,
    fault BootsSlowly "boots slowly" 60,
    fault Reboots "reboots by itself" 50,

    // ── agents ──
    fault AgentSilent "agent silent" 60,
    fault AgentLate "agent late" 60,
    /// The same parameters are used by a second agent.
    fault AgentTwice "agent twice" 60,
    fault AgentDies "agent dies" 200,
    fault AgentSlowToReturn "agent slow to return" 4,
    /// Every result may also be copied, and the copy wander.
    fault MessageStrays "message strays" 10,
    /// A message is overtaken by later ones.
    fault MessageReordered "message reordered" 40,
    fault LinkCut "link cut" 100,
    /// A result of a step that nobody was told.
    fault StepFromFuture "step from the future" 100,
    /// A result that answers something else.
    fault ResultMixedUp "result mixed up" 150,
    /// A proof in which an item is missing.
    fault ProofIncomplete "proof incomplete" 100,
    fault DiskError "disk error" 80,
    fault DiskSlow "disk slow" 80,
    /// While it is off, somebody puts another disk in the place of one.
    fault DiskSwapped "disk swapped" 150,
    /// Another machine is plugged in where it was.
    fault MachineSwapped "machine swapped" 300,
    fault ImageCorrupt "image corrupt" 300,
    /// For a while an image comes up nowhere.
    fault ImageDead "image comes up nowhere" 150,
    fault CheckFails "health check fails" 4,

    // ── programs of the lab's ──
    fault HookFails "hook fails" 12,
    fault HookHostDown "hook's host is down" 4,
    /// A hook resets its board or switches it on.
    fault HookBoots "hook boots its board" 6,
    /// A hook or programmer does not end in time.
    fault ProgramHangs "program hangs" 15,
    /// And what it was to do is done after that.
    fault ProgramLingers "program lingers" 2,
    fault ProgramFails "programmer fails" 15,
    /// Not the board's fault.
    fault LabTrouble "the lab's own disk is full" 10,

    // ── daemon ──
    fault KilledBefore "killed before commit" 1_500,
    fault KilledAfter "killed after commit" 1_500,
    /// The daemon was not killed but stopped, and goes on later.
    fault Stopped "daemon stopped, not dead" 4,
    fault ToTheWrongDaemon "asks the stopped daemon" 3,
    fault CommitFailed "commit failed" 1_200,
    fault CommitUnknown "commit unknown" 1_500,
    fault LoopStopped "loop stopped" 2_000,
    fault ClockStep "wall clock stepped" 3,

    /// A backup is put in the place of the database.
    fault Restored "backup put back" 15,
    deed BacksUp "backs up" 4,

    // ── people ──
    fault ClientSilent "client silent" 150,
    deed Visit "visit" 1,
    deed RepeatsKey "repeats its key" 8,
    deed ReusesKey "reuses its key" 10,
    /// Nobody answers: whoever waits leaves as soon as somebody does.
    deed LosesHeart "loses heart" 3,
    deed ChangesMind "changes its mind" 10,
    deed ComesLate "comes late" 12,
    deed Switches "switches power" 3,
    deed Reimages "reimages" 6,
    deed Extends "extends" 5,
    deed Runs "runs a command" 5,
    deed Vanishes "vanishes" 4,
    deed ReleasesTwice "releases twice" 4,
    deed Drains "drains" 8,
    deed Undrains "undrains" 2,
    deed Proves "proves" 2,
    deed ProvesGood "proves a good one" 30,
    deed Enrols "enrols" 2,
    deed Forces "forces a release" 20,
    deed Reloads "reloads" 10,
    deed ForgetsImage "forgets an image" 15,
    deed Trusts "trusts an image" 20,
    deed RestoresImages "adds the images again" 2,
    deed Repairs "switches a machine out of use" 3,
    deed Nudges "resets its machine" 6,
    /// What was swapped is put back.
    deed PutsRight "puts back what was swapped" 3,
    deed Accepts "accepts what a machine is now" 4,
    deed ChecksWires "checks wires" 40,
    /// The program that checks is killed.
    deed CheckDies "a check is cut off" 12,
}

/// What a number is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pick {
    Delay,
    Duration,
    Pause,
    Kind,
    Ask,
    Work,
    Network,
    Which,
    Wiring,
}

const CHANCES: usize = Chance::ALL.len();
const TOPICS: usize = CHANCES + Pick::Wiring as usize + 1;

/// Who draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Who(u16);

impl Who {
    pub const DAEMON: Self = Self(0);
    pub const ADMIN: Self = Self(1);
    pub const WORLD: Self = Self(2);

    pub fn controller(n: usize) -> Self {
        Self(8 + (n % 120) as u16)
    }

    pub fn board(n: usize) -> Self {
        Self(128 + (n % 384) as u16)
    }

    pub fn client(n: usize) -> Self {
        Self(512 + n as u16)
    }

    /// The number of the board this is.
    pub fn board_number(self) -> usize {
        usize::from(self.0.saturating_sub(128))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("the daemon"),
            1 => f.write_str("the admin"),
            2..8 => f.write_str("the world"),
            n @ 8..128 => write!(f, "controller {}", n - 8),
            n @ 128..512 => write!(f, "board {}", n - 128),
            n => write!(f, "client {}", n - 512),
        }
    }
}

/// Something that happened by chance, and can be taken out of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decision {
    who: Who,
    chance: Chance,
    nth: u32,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.who, self.chance.name(), self.nth)
    }
}

/// All chance of a run.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: u64,
    /// How often each has drawn about what.
    drawn: Vec<[u32; TOPICS]>,
    left_out: BTreeSet<Decision>,
    /// What happened, where a list is kept.
    pub happened: Option<Vec<Decision>>,
    counts: [u64; CHANCES],
    /// Nothing happens by chance any more.
    pub calm: bool,
}

impl Dice {
    pub fn new(seed: u64, left_out: &[Decision], keep: bool) -> Self {
        Self {
            seed,
            drawn: Vec::new(),
            left_out: left_out.iter().copied().collect(),
            happened: keep.then(Vec::new),
            counts: [0; CHANCES],
            calm: false,
        }
    }

    fn next(&mut self, who: Who, topic: usize) -> (u64, u32) {
        let row = usize::from(who.0);
        if row >= self.drawn.len() {
            self.drawn.resize(row + 1, [0; TOPICS]);
        }
        let nth = self.drawn[row][topic];
        self.drawn[row][topic] = nth + 1;
        let place = (u64::from(who.0) << 48) | ((topic as u64) << 32) | u64::from(nth);
        (mixed(self.seed ^ mixed(place)), nth)
    }

    /// Whether it happens now, at its odds or at others.
    pub fn happens_at(&mut self, who: Who, chance: Chance, odds: u64) -> bool {
        let (draw, nth) = self.next(who, chance as usize);
        if self.calm || !draw.is_multiple_of(odds) {
            return false;
        }
        let decision = Decision { who, chance, nth };
        if self.left_out.contains(&decision) {
            return false;
        }
        if let Some(list) = &mut self.happened {
            list.push(decision);
        }
        self.counts[chance as usize] += 1;
        true
    }

    /// A number below `bound`.
    pub fn below(&mut self, who: Who, pick: Pick, bound: u64) -> u64 {
        self.next(who, CHANCES + pick as usize).0 % bound.max(1)
    }

    /// A number between two.
    pub fn between(&mut self, who: Who, pick: Pick, low: u64, high: u64) -> u64 {
        low + self.below(who, pick, high.saturating_sub(low))
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, who: Who, pick: Pick, of: &[T]) -> T {
        of[self.below(who, pick, of.len() as u64) as usize]
    }

    /// From here on `who` draws as at the beginning of his chapter `number`,
    /// however much he drew before: one visit does not change the next.
    pub fn chapter(&mut self, who: Who, number: u32) {
        let visits = [Chance::Visit as usize];
        if let Some(row) = self.drawn.get_mut(usize::from(who.0)) {
            for (topic, count) in row.iter_mut().enumerate() {
                if !visits.contains(&topic) {
                    *count = number << 12;
                }
            }
        }
    }

    /// 32 bytes that nobody draws again.
    pub fn bytes(&self, number: u64) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
            part.copy_from_slice(&mixed(self.seed ^ mixed(number * 4 + n as u64 + 1)).to_le_bytes());
        }
        bytes
    }

    /// How often each fault struck.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        let of = |c: &Chance| (c.name(), self.counts[*c as usize]);
        Chance::ALL.iter().filter(|c| c.is_fault()).map(of).filter(|(_, n)| *n > 0).collect()
    }
}

/// A number that shares no visible trait with `x` (the finisher of SplitMix64).
fn mixed(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
