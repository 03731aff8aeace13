//! From asking to having, and from one holder to the next.

use crate::common::Daemon;
use crate::common::load::{ask, millis};
use crate::report::Line;
use anyhow::{Result, ensure};
use pitstop_client::api::{Release, ReservationState, Update};
use pitstop_client::{Client, EventQuery, EventStream};
use std::time::Instant;

/// One client alone: from the request to the answer that names the machine.
pub async fn reserve(daemon: &Daemon, times: usize) -> Result<Line> {
    let client = daemon.client();
    let mut samples = Vec::new();
    for _ in 0..times {
        let asked = Instant::now();
        let got = client.reserve(&ask("kind=bench"), None).await?;
        samples.push(millis(asked));
        ensure!(got.state == ReservationState::Ready, "{} is {}", got.id, got.state.word());
        client.release(&got.id, &Release::default(), None).await?;
    }
    Ok(Line::high("reserve to granted, 1,000 machines".to_owned(), samples, 20.0))
}

/// Somebody waits for a machine that another gives back: from the request to
/// give it back to when the one who waits hears that it is his.
pub async fn hand_over(daemon: &Daemon, times: usize) -> Result<Line> {
    let client = daemon.client();
    let only = ask("name=m0500");
    let mut stream = followed(&client).await?;
    let mut holder = client.reserve(&only, None).await?;
    ensure!(holder.state == ReservationState::Ready, "{} is {}", holder.id, holder.state.word());
    let mut samples = Vec::new();
    for _ in 0..times {
        let next = client.reserve(&only, None).await?;
        ensure!(next.state == ReservationState::Waiting, "{} is {}", next.id, next.state.word());
        let release = Release::default();
        let given = Instant::now();
        let (released, heard) =
            tokio::join!(client.release(&holder.id, &release, None), granted(&mut stream, &next.id, given));
        released?;
        samples.push(heard?);
        holder = next;
    }
    client.release(&holder.id, &Release::default(), None).await?;
    Ok(Line::high("release to next holder granted".to_owned(), samples, 10.0))
}

/// What happens from now on.
pub async fn followed(client: &Client) -> Result<EventStream> {
    let query = EventQuery::default();
    let mut stream = client.events(query).await?;
    // It begins with what is: from there on nothing is missed.
    while !matches!(stream.next().await?.update, Update::Snapshot(_)) {}
    Ok(stream)
}

async fn granted(stream: &mut EventStream, id: &str, since: Instant) -> Result<f64> {
    loop {
        if let Update::Record(event) = stream.next().await?.update
            && event.kind == "reservation-ready"
            && event.reservation.as_deref() == Some(id)
        {
            return Ok(millis(since));
        }
    }
}
