//! How long after its deadline a session that stopped beating is over.

use crate::common::Daemon;
use crate::common::load::session;
use crate::grants::followed;
use crate::report::Line;
use anyhow::{Result, ensure};
use pitstop_client::api::Update;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The shortest silence there is.
const SILENCE: u64 = 1;
/// Between two sessions, so that each end is a commit of its own.
const APART: Duration = Duration::from_millis(40);

/// Sessions that never beat: from the moment each was to be heard of again
/// (counted from the request, so the commit of the reservation counts against
/// us) to when its end is heard of.
pub async fn sessions(daemon: &Daemon, times: usize) -> Result<Line> {
    let client = daemon.client();
    let mut stream = followed(&client).await?;
    let begin = async {
        let mut due = HashMap::new();
        for _ in 0..times {
            let asked = Instant::now();
            let got = client.reserve(&session("kind=bench", SILENCE), None).await?;
            due.insert(got.id, asked + Duration::from_secs(SILENCE));
            tokio::time::sleep(APART).await;
        }
        anyhow::Ok(due)
    };
    let hear = async {
        let mut ended = HashMap::new();
        while ended.len() < times {
            if let Update::Record(event) = stream.next().await?.update
                && event.kind == "ended"
                && let Some(id) = event.reservation
            {
                ended.insert(id, Instant::now());
            }
        }
        anyhow::Ok(ended)
    };
    let (due, ended) = tokio::try_join!(begin, hear)?;
    let mut samples = Vec::new();
    for (id, due) in due {
        let Some(at) = ended.get(&id) else { anyhow::bail!("{id} has not ended") };
        ensure!(*at >= due, "{id} ended before its time");
        samples.push(at.duration_since(due).as_secs_f64() * 1e3);
    }
    Ok(Line::high("lost session to ended, after its deadline".to_owned(), samples, 10.0))
}
