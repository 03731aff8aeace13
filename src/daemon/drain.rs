//! The end of a daemon that was asked to end: a short pause, as seen from
//! outside.
//!
//! Nothing is granted any more; whoever asks for machines is taken into the
//! queue, and served by the next daemon. Power commands that are on their way
//! to the hardware are waited for, so that few are left that only time can
//! settle. Everything else is stopped where it is: machines in use stay with
//! their holders, commands on them go on, turns are taken up again.

use super::Desk;
use pitstop_core::Lab;
use pitstop_core::id::IntentId;
use pitstop_wire::MachineName;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long power commands are waited for. What is not done by then is left
/// as an intent, which the next daemon waits out.
pub const COMMANDS: Duration = Duration::from_secs(4);
/// After so long a daemon that was asked to end gives up waiting.
pub const LIMIT: Duration = Duration::from_secs(10);

type Command = (MachineName, IntentId);

/// Has no more granted, and waits for the power commands that are under way.
pub async fn drain(desk: &Desk) {
    desk.drain();
    let waited = tokio::time::timeout(COMMANDS, commands_end(desk)).await;
    if waited.is_err() {
        tracing::info!("power commands are still under way; the next daemon looks what became of them");
    }
}

async fn commands_end(desk: &Desk) {
    // To miss none: subscribe, then look.
    let mut news = desk.subscribe();
    let Ok(lab) = desk.snapshot().await else { return };
    // Those that turns begin meanwhile are not waited for: there is no end to them.
    let first: BTreeSet<Command> = under_way(&lab).collect();
    let mut open = first.len();
    while open > 0 {
        use tokio::sync::broadcast::error::RecvError;
        if let Err(RecvError::Closed) = news.recv().await {
            return;
        }
        let Ok(lab) = desk.snapshot().await else { return };
        open = under_way(&lab).filter(|command| first.contains(command)).count();
    }
}

/// Power commands that a runner works on.
fn under_way(lab: &Lab) -> impl Iterator<Item = Command> + use<'_> {
    let of = |m: &std::sync::Arc<pitstop_core::machine::Machine>| {
        let open = m.legs.iter().flat_map(|leg| &leg.unsettled).filter(|i| i.open);
        open.map(|i| (m.name.clone(), i.id)).collect::<Vec<_>>()
    };
    lab.machines().flat_map(of)
}
