//! Keys: those that are typed, and a break with no terminal at all.

use crate::cli::fail::Fail;
use crate::cli::{Context, Result};
use pitstop_wire::api::ConsoleRequest;
use pitstop_wire::console::{FromConsole, ToConsole};
use pitstop_wire::{ApiError, Code, MachineName};
use std::io::Read as _;
use tokio::sync::mpsc;

/// Reads keys in a thread of its own: a read of a terminal cannot be
/// cancelled.
pub fn read() -> mpsc::Receiver<Vec<u8>> {
    let (send, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if send.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}

/// Sends a break, and behind it a key. The line sends them in that order, so
/// there is no pause in which the kernel could stop listening.
pub async fn send(cx: &Context, machine: &MachineName, ask: ConsoleRequest, key: Option<char>) -> Result {
    let ask = ConsoleRequest { write: true, last: Some(0), ..ask };
    let mut link = cx.client.console(machine, ask).await?;
    link.say(ToConsole::Break, Vec::new()).await;
    if let Some(key) = key {
        link.say(ToConsole::Input, key.to_string().into_bytes()).await;
    }
    link.finish();
    while let Some(frame) = link.next().await? {
        match frame.message {
            FromConsole::Refused { reason } => {
                let error = ApiError::new(Code::Conflict, format!("{machine} got no break: {reason}"));
                return Err(Fail::Said(error));
            }
            FromConsole::Closed { reason } => {
                return Err(Fail::internal(format!("the console of {machine} was closed: {reason}")));
            }
            _ => {}
        }
    }
    let key = key.map(|key| format!(" and {key}")).unwrap_or_default();
    cx.out.say(&format!("break{key} sent to {machine}"));
    Ok(())
}
