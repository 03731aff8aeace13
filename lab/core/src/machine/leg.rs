//! A power leg: what was seen of it, and the commands that may still land.

use crate::id::IntentId;
use crate::time::LabTime;
use serde::{Deserialize, Serialize};

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// What a power leg was seen to be. Unknown is not off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// On.
    On,
    /// Off.
    Off,
    /// No answer, or one that says neither.
    Unknown,
    /// The leg cannot be read; the command was accepted and time has passed.
    Assumed(Switch),
}

impl Reading {
    /// Whether this may count as `want`.
    pub fn shows(self, want: Switch) -> bool {
        match self {
            Self::On => want == Switch::On,
            Self::Off => want == Switch::Off,
            Self::Assumed(s) => s == want,
            Self::Unknown => false,
        }
    }
}

/// One power leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Its name: `power`, `mains`.
    pub name: String,
    /// What the inventory means by that name, as a digest: another outlet
    /// under the old name is another leg, and nobody has enrolled it.
    #[serde(default)]
    pub identity: String,
    /// What was read last, and when.
    pub seen: Option<Seen>,
    /// Intents whose effect may still land, oldest first.
    pub unsettled: Vec<Intent>,
    /// What its device said to the newest command that did not work, until
    /// one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How often it was told off in vain since it last read off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_vain: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Leg {
    /// Whether a command that switches it off may still land.
    pub fn goes_off(&self) -> bool {
        self.unsettled.iter().any(|i| i.want == Switch::Off)
    }
}

/// A reading with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What.
    pub reading: Reading,
    /// When the answer was taken.
    pub at: LabTime,
    /// Since when the leg reads so; where it was switched on, since that was
    /// seen. A row of a version that did not know this says long ago.
    #[serde(default)]
    pub changed: LabTime,
}

/// A power command that was decided. It is stored before it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its number.
    pub id: IntentId,
    /// What was wanted.
    pub want: Switch,
    /// Until when the hardware may still act on it. Only time ends this:
    /// no fence reaches into a BMC.
    pub may_land_until: LabTime,
    /// Whether a runner of this daemon works on it; after a timeout, a
    /// cancel or a restart nobody does, and it waits for its time to pass.
    pub open: bool,
    /// It began while another command for the same was unsettled: which of
    /// the two is seen to land can never be told, so only time settles it.
    pub twin: bool,
}
