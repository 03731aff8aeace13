//! Asks a daemon once more for what another one answered.

use crate::book::{Ack, Call};
use crate::load::say;
use fastrand::Rng;
use pitstop_client::api::ReservationState;
use pitstop_client::{Client, Code};

/// Asked at the same time.
const AT_ONCE: usize = 8;
/// So many of the new answers are asked for, and of the old ones.
const NEW: usize = 60;
const OLD: usize = 12;
/// An answer is remembered under its key until 20,000 others were; some of those nobody was told of.
const REMEMBERED: usize = 10_000;

/// The newest answers, and some of those that were asked for before.
pub fn choose(acks: &[Ack], checked: usize, rng: &mut Rng) -> Vec<Ack> {
    let (old, new) = acks.split_at(checked.min(acks.len()));
    let old = &old[old.len().saturating_sub(REMEMBERED)..];
    let mut chosen = newest(new, NEW);
    if !old.is_empty() {
        chosen.extend((0..OLD).map(|_| old[rng.usize(..old.len())].clone()));
    }
    chosen
}

/// So many at most, the newest.
pub fn newest(acks: &[Ack], most: usize) -> Vec<Ack> {
    acks[acks.len().saturating_sub(most)..].to_vec()
}

/// Asks for each again, under its key. What is answered otherwise.
pub async fn ask(client: &Client, acks: Vec<Ack>) -> Vec<String> {
    let mut wrong = Vec::new();
    for some in acks.chunks(AT_ONCE) {
        let mut asked = tokio::task::JoinSet::new();
        for ack in some {
            let (client, ack) = (client.clone(), ack.clone());
            asked.spawn(async move { again(&client, &ack).await.err() });
        }
        wrong.extend(asked.join_all().await.into_iter().flatten());
    }
    wrong
}

async fn again(client: &Client, ack: &Ack) -> Result<(), String> {
    let answer = match say(client, &ack.call, &ack.id, ack.key.clone()).await {
        Ok(answer) => answer,
        // Who has it no more cannot come for it again.
        Err(e) if matches!(ack.call, Call::Claim) && e.code == Code::Conflict => return Ok(()),
        // One that ended long ago is in the history alone.
        Err(e) if e.code == Code::NotFound && !matches!(ack.call, Call::Power(..)) => return Ok(()),
        Err(e) => return Err(format!("{ack:?} is answered now with: {e}")),
    };
    let Some(row) = answer else { return Ok(()) };
    if row.id != ack.id {
        return Err(format!("{ack:?} is answered now with {}", row.id));
    }
    if matches!(ack.call, Call::Release) && row.state != ReservationState::Ended {
        return Err(format!("{} was given back, and is {}", ack.id, row.state.word()));
    }
    Ok(())
}
