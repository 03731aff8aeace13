//! The fences, each with a switch.
//!
//! A daemon runs with all of them, always. The simulator takes single ones
//! away to show that it then finds the violation that the fence is there to
//! prevent: a check that cannot fail proves nothing.

/// One of the rules that keep a machine from being handed over wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// Facts of an earlier daemon are not obeyed.
    Epoch,
    /// Agents of an earlier attempt are not obeyed.
    Nonce,
    /// Records are committed before effects leave.
    IntentFirst,
    /// Power is what was read back, not what was accepted.
    ReadBack,
    /// Nobody gets a machine while a power effect may still land on it.
    MayLandUntil,
    /// A disk counts as written or used before the effect leaves.
    DiskBeforeEffect,
    /// Only what was enrolled is written.
    Baseline,
}

impl Fence {
    /// All fences.
    pub const ALL: [Self; 7] = [
        Self::Epoch,
        Self::Nonce,
        Self::IntentFirst,
        Self::ReadBack,
        Self::MayLandUntil,
        Self::DiskBeforeEffect,
        Self::Baseline,
    ];

    /// The fence's name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Nonce => "nonce",
            Self::IntentFirst => "intent-first",
            Self::ReadBack => "read-back",
            Self::MayLandUntil => "may-land-until",
            Self::DiskBeforeEffect => "disk-before-effect",
            Self::Baseline => "baseline",
        }
    }
}

/// Which fences stand. The default is all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fences {
    missing: Option<Fence>,
}

impl Fences {
    /// All but one. For the simulator only.
    pub fn without(fence: Fence) -> Self {
        Self { missing: Some(fence) }
    }

    /// Whether `fence` stands.
    pub fn stands(self, fence: Fence) -> bool {
        self.missing != Some(fence)
    }
}
