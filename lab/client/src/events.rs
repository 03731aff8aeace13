//! The event stream: server-sent events, followed across lost connections.

use crate::http::{Call, Failed};
use crate::retry::{Retry, worth_another_try};
use crate::sse::Parser;
use crate::{Client, Result};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pitstop_wire::api::Update;
use pitstop_wire::{ApiError, Code};
use std::time::Duration;

/// The daemon says something at least every 15 s; three times that is silence.
const SILENCE: Duration = Duration::from_secs(45);

/// Which part of the history.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// From this record on, or (RFC 3339) from this moment on.
    pub since: Option<String>,
    /// Only of this machine.
    pub machine: Option<String>,
    /// Only of this reservation.
    pub reservation: Option<String>,
    /// At most so many, the newest.
    pub last: Option<usize>,
    /// Only what belongs to the story, without its details.
    pub story: bool,
}

impl EventQuery {
    pub(crate) fn text(&self) -> String {
        let last = self.last.map(|n| n.to_string());
        let pairs = [
            ("since", self.since.as_deref()),
            ("machine", self.machine.as_deref()),
            ("reservation", self.reservation.as_deref()),
            ("last", last.as_deref()),
            ("story", self.story.then_some("true")),
        ];
        let said = pairs.into_iter().filter_map(|(k, v)| Some(format!("{k}={}", crate::calls::escaped(v?))));
        said.collect::<Vec<_>>().join("&")
    }
}

/// One message of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its id, where it has one: what a later connection goes on from.
    pub id: Option<String>,
    /// What it says.
    pub update: Update,
}

/// The stream. Comes back by itself after a lost connection, and says so
/// with [`Update::Reset`] and a snapshot where the daemon no longer knows
/// what we have.
pub struct EventStream {
    client: Client,
    query: EventQuery,
    last_id: Option<String>,
    body: Option<Incoming>,
    parser: Parser,
}

impl Client {
    /// Follows the lab.
    ///
    /// # Errors
    /// Where the daemon cannot be reached or refuses the query.
    pub async fn events(&self, query: EventQuery) -> Result<EventStream> {
        let mut stream =
            EventStream { client: self.clone(), query, last_id: None, body: None, parser: Parser::default() };
        stream.connect().await?;
        Ok(stream)
    }
}

impl EventStream {
    /// The next message.
    ///
    /// # Errors
    /// Where the daemon stays away for longer than the client's patience.
    pub async fn next(&mut self) -> Result<Item> {
        loop {
            while let Some(message) = self.parser.next() {
                if message.id.is_some() {
                    self.last_id.clone_from(&message.id);
                }
                let update = Update::read(&message.name, &message.data).map_err(|e| {
                    let what = format!("the daemon's event `{}` is not understood: {e}", message.name);
                    ApiError::new(Code::Internal, what)
                })?;
                if let Some(update) = update {
                    return Ok(Item { id: message.id, update });
                }
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<()> {
        let Some(body) = &mut self.body else { return self.connect().await };
        match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.parser.push(&data)?;
                }
                Ok(())
            }
            // The end, an error or silence: come back with the last id.
            _ => self.connect().await,
        }
    }

    async fn connect(&mut self) -> Result<()> {
        self.body = None;
        self.parser = Parser::default();
        let mut retry = Retry::new(self.client.patience());
        loop {
            let mut path = format!("/events?follow=true&{}", self.query.text());
            if let Some(id) = &self.last_id {
                path = format!("{path}&last_event_id={}", crate::calls::escaped(id));
            }
            let call = Call::get(path);
            match self.client.open(&call).await {
                Ok(response) => {
                    self.body = Some(response.into_body());
                    return Ok(());
                }
                Err(error) => {
                    let first =
                        self.last_id.is_none() && matches!(error, Failed::Connect(_)) && !self.client.met();
                    if first || !worth_another_try(&error) || !retry.pause(&error).await {
                        return Err(error.into_api(&call));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let query = EventQuery { machine: Some("a b&c".into()), last: Some(3), ..EventQuery::default() };
        assert_eq!(query.text(), "machine=a%20b%26c&last=3");
        assert_eq!(EventQuery { story: true, ..EventQuery::default() }.text(), "story=true");
    }
}
