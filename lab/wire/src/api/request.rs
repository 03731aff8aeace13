//! Bodies of requests that change something.

use super::reservation::{CleanLevel, HoldKind, Want};
use super::time::Time;
use crate::run::Command;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /reservations`: machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reserve {
    /// Which machines will do; with `roles` absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// How many of them; 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Machines of several kinds, all or nothing; instead of `select`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleAsk>,
    /// The image by name; absent: each machine's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// In which condition; `image` if an image is named, else `bare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub want: Option<Want>,
    /// What keeps it alive; `time` unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldKind>,
    /// Seconds of silence after which a session is lost; 30 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<u64>,
    /// Seconds it lasts once it holds machines. Unless said: what the policy
    /// says, else 2 hours for `time` and no limit for `session`.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The same as a moment; instead of `for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Higher goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// For people and the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How clean the disks must be; `proven` unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanLevel>,
    /// Seconds to wait before giving up; for ever unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Seconds of silence of the host agent in use after which the
    /// reservation fails; absent: silence is no failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_lost: Option<u64>,
}

/// So many machines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleAsk {
    /// Its name.
    pub name: String,
    /// Which machines will do.
    pub select: String,
    /// How many; 1 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// `POST /reservations/{id}/beat` and `…/claim`: nothing to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Beat {}

/// How long from now, one of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Until {
    /// Seconds from now.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// A moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// `POST /reservations/{id}/extend`; with neither, as long as the policy gives.
pub type Extend = Until;

/// An override of the holder, for the audit.
pub type ForceReason = Option<String>;

/// `POST /reservations/{id}/release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// Override the holder (admins), with this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: ForceReason,
}

/// What a holder does with power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerDo {
    /// On.
    On,
    /// Off.
    Off,
    /// Off, read back, on.
    Cycle,
    /// Its system is asked to shut down.
    Soft,
    /// It starts again, with power on all the time.
    Reset,
    /// A non-maskable interrupt.
    Nmi,
}

impl PowerDo {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Cycle => "cycle",
            Self::Soft => "soft",
            Self::Reset => "reset",
            Self::Nmi => "nmi",
        }
    }
}

/// `POST /machines/{name}/power`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// What to do.
    pub action: PowerDo,
    /// Override the holder (admins), with this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: ForceReason,
}

/// `POST /machines/{name}/switch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlipRequest {
    /// Which switch, by its name in the inventory.
    pub switch: String,
    /// Where to.
    pub position: String,
    /// Override the holder (admins), with this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: ForceReason,
}

/// `POST /machines/{name}/press`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PressRequest {
    /// Which button, by its name in the inventory.
    pub button: String,
    /// Override the holder (admins), with this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: ForceReason,
}

/// `POST /machines/{name}/identify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentifyRequest {
    /// Whether its light is to blink, or to stop.
    pub on: bool,
}

/// `POST /machines/{name}/reimage`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reimage {
    /// The image by name; absent: the one it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// `POST /machines/{name}/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Why.
    pub reason: String,
}

/// `POST /enrol`: accept new machines. Their disks will be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Which.
    pub select: String,
    /// How many the asker believes that to be; another number is refused.
    /// Absent: only say what would happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

/// `POST /reload`: read the inventory again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Only print the difference.
    pub dry_run: bool,
}

/// `POST /machines/{name}/run`: start a command, or attach to it again. The
/// answer is an upgrade to [`super::FRAMES`], then [`crate::run`] flows; the
/// daemon says `Start` itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Chosen by the caller; the same again attaches again.
    pub id: String,
    /// The command.
    #[schema(value_type = Object)]
    pub command: Command,
    /// Bytes of standard output the caller has.
    #[serde(default)]
    pub stdout: u64,
    /// Bytes of standard error the caller has.
    #[serde(default)]
    pub stderr: u64,
}

/// `POST /machines/{name}/console`: attach to a console. The answer is an
/// upgrade to [`super::FRAMES`], then [`crate::console`] flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleRequest {
    /// Which, where a machine has several; absent: the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// Take the keyboard: one writer at a time, the holder only.
    pub write: bool,
    /// Take it from whoever writes now.
    pub steal: bool,
    /// Why, for everybody on the console to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Replay from this byte of the journal on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Replay so many bytes of the journal's end; 16 KiB unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Replay so many lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Replay from so many milliseconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Replay from the newest power-on.
    pub since_boot: bool,
    /// Replay from where the machine was given to who has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub since_reserve: bool,
    /// Replay all there is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// End after the replay.
    pub no_follow: bool,
    /// Tell when the machine said it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub times: bool,
}
