//! `GET /events?follow=true`: the event stream (server-sent events).
//!
//! It begins with `snapshot`, or, with a `Last-Event-ID` this store knows,
//! with the records since. An id that is not known is answered by `reset`
//! and a snapshot. `record` carries an id; `machine`, `reservation` and
//! `gone` follow the records that caused them and show the row as it is now.

use super::{Event, Image, Machine, Reservation, Schema};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The lab at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// `pitstop.snapshot/1`
    pub schema: Schema,
    /// The lab's name.
    pub lab: String,
    /// Its time zone.
    pub zone: String,
    /// Every machine, by name.
    pub machines: Vec<Machine>,
    /// Every reservation that is not over, oldest first.
    pub reservations: Vec<Reservation>,
    /// Every image.
    pub images: Vec<Image>,
}

/// One message of the stream. The tag is the SSE event's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "kebab-case")]
pub enum Update {
    /// Forget everything: a snapshot follows.
    Reset,
    /// The lab as it is.
    Snapshot(Box<Snapshot>),
    /// Something became true.
    Record(Box<Event>),
    /// A machine as it is now.
    Machine(Box<Machine>),
    /// A reservation as it is now.
    Reservation(Box<Reservation>),
    /// A machine or reservation is not there any more, by its name.
    Gone(String),
    /// How far an agent's work is; unnumbered, may be dropped.
    Progress(Progress),
}

/// How far an agent's work on a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The machine.
    pub machine: String,
    /// `write` or `prove`.
    pub phase: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Update {
    /// The SSE event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Snapshot(_) => "snapshot",
            Self::Record(_) => "record",
            Self::Machine(_) => "machine",
            Self::Reservation(_) => "reservation",
            Self::Gone(_) => "gone",
            Self::Progress(_) => "progress",
        }
    }

    /// The SSE event's data.
    pub fn data(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Reset => Ok("null".to_owned()),
            Self::Snapshot(x) => serde_json::to_string(x),
            Self::Record(x) => serde_json::to_string(x),
            Self::Machine(x) => serde_json::to_string(x),
            Self::Reservation(x) => serde_json::to_string(x),
            Self::Gone(x) => serde_json::to_string(x),
            Self::Progress(x) => serde_json::to_string(x),
        }
    }

    /// Reads an SSE event; `Ok(None)` for a name this build does not know.
    pub fn read(name: &str, data: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match name {
            "reset" => Self::Reset,
            "snapshot" => Self::Snapshot(serde_json::from_str(data)?),
            "record" => Self::Record(serde_json::from_str(data)?),
            "machine" => Self::Machine(serde_json::from_str(data)?),
            "reservation" => Self::Reservation(serde_json::from_str(data)?),
            "gone" => Self::Gone(serde_json::from_str(data)?),
            "progress" => Self::Progress(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_comes_back_by_its_name() {
        for update in [Update::Reset, Update::Gone("R-1".into())] {
            assert_eq!(Update::read(update.name(), &update.data().unwrap()).unwrap(), Some(update));
        }
        assert_eq!(Update::read("of-next-year", "{}").unwrap(), None);
    }
}
