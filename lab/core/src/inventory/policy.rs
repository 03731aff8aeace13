//! Policies: what happens when a build or a person is done.

use serde::{Deserialize, Serialize};

/// `[policy.NAME]`: what happens when a build or a person is done. `None` = not said, [`Policy::default`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Policy {
    /// When the proof is made.
    pub after_build: Option<AfterBuild>,
    /// What a clean machine does while nobody has it.
    pub idle: Option<Idle>,
    /// What silence of the host agent means while the machine is in use.
    pub on_agent_lost: Option<OnAgentLost>,
    /// Hold the machine after a failed build.
    pub on_failure: Option<OnFailure>,
    /// How long reservations last.
    pub lease: Option<Lease>,
    /// What happens when a reservation's time is over.
    pub at_end: Option<AtEnd>,
}

/// `after_build = "reimage" | "power-off" | "keep"`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterBuild {
    /// At once.
    #[default]
    Reimage,
    /// Off; the next prepare reimages first.
    PowerOff,
    /// Never. Only on machines marked `shared = true`, for reservations that accept a used disk.
    Keep,
}

/// `idle = "off" | "warm" | { warm = "4h" }`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Switched off.
    #[default]
    Off,
    /// Booted and proven, waiting for a holder.
    Warm {
        /// After this the machine is proven anew; milliseconds.
        max_age_ms: u64,
    },
}

impl Idle {
    /// How old a warm machine may get where the inventory says only `"warm"`: 4 hours.
    pub const DEFAULT_WARM_MS: u64 = 4 * 3_600_000;
}

/// `on_agent_lost = "ignore" | { fail_after = "15s" }`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnAgentLost {
    /// A fact, shown and nothing more.
    Ignore,
    /// The machine failed.
    FailAfter {
        /// Silence borne, in milliseconds.
        ms: u64,
    },
}

/// `on_failure = { hold = "2h", at_most = 2, may_take = ["firmware"] }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnFailure {
    /// How long the machine stays as the failed build left it, milliseconds.
    pub hold_ms: u64,
    /// Machines held that way at the same time.
    pub at_most: u32,
    /// Groups whose members may take the machine over.
    pub may_take: Vec<String>,
}

/// `lease = { default = "2h", max = "12h", extend = "while-nobody-waits" }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// When the reservation does not say, milliseconds.
    pub default_ms: u64,
    /// Longest, extensions included, milliseconds.
    pub max_ms: u64,
    /// Who may extend.
    pub extend: Extend,
}

impl Lease {
    /// How long a reservation held by time lasts where nobody says: 2 hours.
    pub const DEFAULT_MS: u64 = 2 * 3_600_000;
}

/// When a lease may be extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extend {
    /// Up to `max`.
    #[default]
    Always,
    /// Only while no other reservation waits for the machine.
    WhileNobodyWaits,
    /// Not at all.
    Never,
}

/// `at_end = { warn = ["30m", "10m"], quiet = "19:00-08:00", then = "power-off", keep_disk = "24h" }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AtEnd {
    /// How long before the end the holder is warned, milliseconds, longest first.
    pub warn_ms: Vec<u64>,
    /// Local hours without warnings, `HH:MM-HH:MM`.
    pub quiet: Option<String>,
    /// What then happens to the machine.
    pub then: AfterBuild,
    /// The disk stays as it is for so long, unless someone needs the machine; milliseconds.
    pub keep_disk_ms: Option<u64>,
}
