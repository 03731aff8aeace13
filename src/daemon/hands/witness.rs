//! What shows that a machine is up that runs no agent of ours: a line on its
//! console, an ssh server that answers, a program that says so.

use super::Inner;
use super::front::Answer;
use pitstop_drivers::{Evidence, factories};
use pitstop_wire::MachineName;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two questions to a machine that is not up yet.
const AGAIN: Duration = Duration::from_secs(1);

/// What was seen; or why nothing ever can be. A console is listened to from
/// the call on, not from when the answer is first waited for.
pub(super) fn watch(inner: Arc<Inner>, machine: MachineName) -> Answer<'static, Result<String, String>> {
    let rig = inner.rigs.get(&machine);
    let evidence = match &rig {
        Some(rig) => factories().evidence(&rig.site).map_err(|e| e.to_string()),
        None => Err(format!("{machine} is not in the inventory")),
    };
    match evidence {
        Err(why) => Box::pin(async { Err(why) }),
        Ok(Evidence::Line { console, line }) => {
            let said = inner.attention.says(&machine, &console, line);
            Box::pin(async move { Ok(format!("console {console} says: {}", said.await?)) })
        }
        Ok(Evidence::Asked(asked)) => Box::pin(async move {
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
