//! What may go wrong, and how often.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Fault {
    /// The daemon is killed: after a commit and before its effects, before a
    /// commit, or between two events.
    Crash,
    /// The daemon is stopped, believed dead, and wakes under its successor.
    Stop,
    /// It takes an hour until the daemon runs again.
    LongDown,
    /// A power command lands late, or waits in its lane.
    PowerLate,
    /// A power command is accepted and does nothing.
    PowerLost,
    /// A power command is answered with an error; it may land all the same.
    PowerRefused,
    /// A reading says nothing.
    Unread,
    /// A message is overtaken by whatever happens next, or arrives twice, the
    /// second time at any later moment.
    Stray,
    /// An agent's connection breaks, with what was on its way.
    Cut,
    /// An agent boots, dials or works slowly, or never ends.
    Slow,
    /// A disk cannot be written.
    DiskError,
    /// The machine reboots by itself.
    Reboot,
    /// The machine boots its own disk where it was to boot our agent.
    WrongBoot,
    /// While the machine is off, somebody puts another disk in the place of
    /// its own.
    Swap,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::Stop,
        Self::LongDown,
        Self::PowerLate,
        Self::PowerLost,
        Self::PowerRefused,
        Self::Unread,
        Self::Stray,
        Self::Cut,
        Self::Slow,
        Self::DiskError,
        Self::Reboot,
        Self::WrongBoot,
        Self::Swap,
    ];

    /// The kind in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Stop => "stop",
            Self::LongDown => "long-down",
            Self::PowerLate => "power-late",
            Self::PowerLost => "power-lost",
            Self::PowerRefused => "power-refused",
            Self::Unread => "unread",
            Self::Stray => "stray",
            Self::Cut => "cut",
            Self::Slow => "slow",
            Self::DiskError => "disk-error",
            Self::Reboot => "reboot",
            Self::WrongBoot => "wrong-boot",
            Self::Swap => "swap",
        }
    }
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    total: u8,
    kinds: [u8; Fault::ALL.len()],
}

impl Faults {
    /// At most `total` faults, of each of these kinds at most so many.
    pub fn new(total: u8, kinds: &[(Fault, u8)]) -> Self {
        let mut faults = Self { total, kinds: [0; Fault::ALL.len()] };
        for (kind, most) in kinds {
            faults.kinds[*kind as usize] = *most;
        }
        faults
    }

    /// How many more faults of this kind there may be.
    pub fn left(&self, kind: Fault) -> u8 {
        self.kinds[kind as usize].min(self.total)
    }

    /// Whether one more may happen.
    pub fn may(&self, kind: Fault) -> bool {
        self.left(kind) > 0
    }

    /// Whether these two may happen at once.
    pub fn may_both(&self, first: Fault, second: Fault) -> bool {
        let mut then = *self;
        then.spend(first) && then.may(second)
    }

    /// One more happens; `false` if it may not.
    pub fn spend(&mut self, kind: Fault) -> bool {
        if !self.may(kind) {
            return false;
        }
        self.total -= 1;
        self.kinds[kind as usize] -= 1;
        true
    }

    /// Whether any fault may still happen.
    pub fn any(&self) -> bool {
        Fault::ALL.into_iter().any(|kind| self.may(kind))
    }
}
