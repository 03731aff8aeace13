//! Bodies of the HTTP API, `/api/v1`.
//!
//! Objects carry `schema`, such as `pitstop.machine/1`; within a version
//! fields are only added. Times are RFC 3339 in UTC, durations seconds.
//! Requests refuse fields they do not know: a misspelt limit that is
//! silently ignored is a board that vanishes at the wrong time.

mod care;
mod check;
mod event;
mod image;
mod machine;
mod report;
mod request;
mod reservation;
mod status;
mod stream;
mod time;
mod why;

pub use care::{Backup, Fsck, FsckFinding, Restore};
pub use check::{Checked, CheckedPart, Heard, Sign, Signs};
pub use event::{Event, Events};
pub use image::{Image, Images};
pub use machine::{
    AgentState, Clean, CutState, Differs, DiskState, Found, FoundDisk, HealthState, Holder, LegState,
    Machine, Machines, PauseState, Shown, State, TurnState,
};
pub use report::{Report, ReportBy, ReportLine};
pub use request::{
    Beat, ConsoleRequest, Drain, Enrol, Extend, FlipRequest, ForceReason, IdentifyRequest, PowerDo,
    PowerRequest, PressRequest, Reimage, Release, Reload, Reserve, RoleAsk, RunRequest, Until,
};
pub use reservation::{
    CleanLevel, End, EndKind, Hold, HoldKind, Member, Reservation, ReservationState, Reservations, Role, Want,
};
pub use status::{Alert, CircuitState, Counts, Done, Enrolled, NewMachine, Reloaded, Status, WhoAmI};
pub use stream::{Progress, Snapshot, Update};
pub use time::Time;
pub use why::{Why, WhyLine};

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Where the API lives on a listener.
pub const BASE: &str = "/api/v1";

/// The request header that makes a mutation safe to repeat.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The protocol of `run` and `console` connections after the HTTP upgrade.
pub const FRAMES: &str = "pitstop-frames/1";

/// Longest idempotency key, in bytes.
pub const MAX_KEY: usize = 128;

/// Which kind of object this is, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, examples("pitstop.machine/1"))]
pub struct Schema(pub Cow<'static, str>);

impl Schema {
    /// A schema of this build.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}
