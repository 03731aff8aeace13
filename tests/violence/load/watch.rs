//! Those who only look: their reads are never refused for long, and the stream
//! of events tells everything once.

use super::Shared;
use pitstop_client::api::Update;
use pitstop_client::{Code, EventQuery};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Follows the events across all restarts.
pub async fn follow(shared: Arc<Shared>) {
    let client = shared.client.clone().with_patience(Duration::from_secs(120));
    let Ok(mut stream) = client.events(EventQuery::default()).await else {
        return shared.book.violation("events cannot be followed".to_owned());
    };
    let mut newest = 0;
    while !shared.over() {
        let Ok(next) = tokio::time::timeout(Duration::from_millis(200), stream.next()).await else {
            continue;
        };
        match next {
            Ok(item) => {
                if let Update::Record(event) = item.update {
                    if event.number <= newest {
                        shared.book.violation(format!("event {} was told after {newest}", event.number));
                    }
                    newest = event.number;
                }
            }
            Err(e) => return shared.book.violation(format!("the events stay away: {e}")),
        }
    }
}

/// Looks at the whole lab again and again.
pub async fn look(shared: Arc<Shared>) {
    while !shared.over() {
        match shared.client.machines("").await {
            Ok(_) => {}
            Err(e) if e.code == Code::NotKnown => {}
            Err(e) => shared.book.violation(format!("machines cannot be listed: {e}")),
        }
        sleep(Duration::from_millis(150)).await;
    }
}
