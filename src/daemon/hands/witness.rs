//! What shows that a machine is up that runs no agent of ours: a line on its
//! console, an ssh server that answers, a program that says so.

use super::Inner;
use super::front::Answer;
use pitstop_drivers::{Evidence, factories};
use pitstop_wire::MachineName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Between two questions to a machine that is not up yet.
const AGAIN: Duration = Duration::from_secs(1);

/// What was seen; or why nothing ever can be. A console is listened to from
/// the call on, not from when the answer is first waited for.
/// Nothing else is asked before the power-on that `on` tells of is done: what
/// answers before that is the last boot.
pub(super) fn watch(
    inner: Arc<Inner>,
    machine: MachineName,
    on: Option<watch::Receiver<bool>>,
) -> Answer<'static, Result<String, String>> {
    let rig = inner.rigs.get(&machine);
    let evidence = match &rig {
        Some(rig) => factories().evidence(&rig.site).map_err(|e| e.to_string()),
        None => Err(format!("{machine} is not in the inventory")),
    };
    match evidence {
        Err(why) => Box::pin(async { Err(why) }),
        Ok(Evidence::Line { console, line }) => {
            let mut said = inner.attention.says(&machine, &console, line.clone());
            Box::pin(async move {
                loop {
                    match said.await {
                        Ok(said) => return Ok(format!("console {console} says: {said}")),
                        // A reload may have opened it anew.
                        Err(e) => tracing::debug!(%machine, "console {console}: {e}"),
                    }
                    sleep(AGAIN).await;
                    said = inner.attention.says(&machine, &console, line.clone());
                }
            })
        }
        Ok(Evidence::Asked(asked)) => Box::pin(async move {
            if let Some(mut on) = on {
                // One that was superseded drops its end, and so will we be.
                let _ = on.wait_for(|done| *done).await;
            }
            loop {
                match asked.ask().await {
                    Ok(Some(said)) => return Ok(said),
                    Ok(None) => {}
                    Err(e) if e.permanent => return Err(e.to_string()),
                    Err(e) => tracing::debug!(%machine, "not up yet: {e}"),
                }
                sleep(AGAIN).await;
            }
        }),
    }
}
