//! Sessions: alive while they beat. A lab that does not run hears nobody, and
//! may not hold that against them.

use super::Voice;
use crate::book::Call;
use pitstop_client::Code;
use pitstop_client::api::{CleanLevel, HoldKind, Reserve, Want};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Silence after which a session is lost, in seconds: shorter than a daemon
/// is stopped for.
pub const SILENCE: u64 = 4;
const BEAT: Duration = Duration::from_millis(400);
/// A client that comes to beat so late cannot blame the lab.
const OWN_FAULT: Duration = Duration::from_millis(1_500);

/// One session after the other; some end, some are left to be lost.
pub async fn sessions(mut me: Voice) {
    while !me.over() {
        // Its client will die: the lab has to find out by itself, and soon.
        let dies = me.rng.u32(..5) == 0;
        let ask = Reserve {
            select: Some("kind=keep".to_owned()),
            want: Some(Want::Bare),
            clean: Some(CleanLevel::Any),
            hold: Some(HoldKind::Session),
            silence: Some(if dies { 1 } else { SILENCE }),
            ..Reserve::default()
        };
        let Ok(Some(row)) = me.ask(Call::Reserve(ask), "").await else { return };
        if dies {
            me.book().gives_back(&row.id);
        } else {
            me.book().beats(&row.id);
            let beats = me.rng.u32(5..40);
            beat(&mut me, &row.id, beats).await;
            me.give_back(&row.id).await;
        }
        me.pause(50..300).await;
    }
}

async fn beat(me: &mut Voice, id: &str, beats: u32) {
    for _ in 0..beats {
        if me.over() {
            return;
        }
        let before = Instant::now();
        sleep(BEAT).await;
        if before.elapsed() > OWN_FAULT {
            me.book().excuse(id);
        }
        match me.shared.client.beat(id).await {
            Ok(_) => {}
            Err(e) if e.code == Code::NotKnown => {}
            Err(e) => {
                if me.book().is_beating(id) {
                    me.book().violation(format!("{id} beats and is told: {e}"));
                }
                return;
            }
        }
    }
}
