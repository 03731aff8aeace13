//! Health checks: a command in the machine's own image, and how it ended.

use crate::daemon::agents::{Agents, RunLink};
use pitstop_core::event::Fact;
use pitstop_wire::MachineName;
use pitstop_wire::run::{Command, End, FromRun, Stream, ToRun};

/// Bytes of the command's output that are kept as evidence: its last.
const TAIL: usize = 1_500;

/// A health check to be run.
pub(super) struct Check {
    pub machine: MachineName,
    pub nonce: String,
    pub run: Vec<String>,
}

impl Check {
    /// Runs it, or takes part in it if it runs already. `None`: the agent is
    /// not connected, or not any more; whoever asks when it is back goes on.
    pub async fn run(self, agents: &Agents) -> Option<Fact> {
        // The agent knows a command by its name: one of this attempt is not
        // begun twice, however often the daemon starts.
        let id = format!("check-{}", self.nonce);
        let mut link = agents.link(&self.machine, &id, &self.nonce)?;
        let command = Command { argv: self.run.clone(), env: Vec::new(), cwd: None, stdin: false };
        let start = ToRun::Start { id: id.clone(), command, stdout: 0, stderr: 0 };
        link.send.send((start, Vec::new())).await.ok()?;
        let (end, tail) = outcome(&mut link, &id).await?;
        let result = match end {
            End::Exit { code: 0 } => Ok(()),
            End::Exit { code } => Err(self.said(&format!("ended with {code}"), &tail)),
            End::Signal { signal } => Err(self.said(&format!("was ended by signal {signal}"), &tail)),
            End::Failed { reason } => Err(self.said(&format!("did not run: {reason}"), &tail)),
        };
        Some(Fact::Checked { machine: self.machine, nonce: self.nonce, result })
    }

    fn said(&self, how: &str, tail: &[u8]) -> String {
        let program = self.run.first().map(String::as_str).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail);
        match tail.trim() {
            "" => format!("{program} {how}"),
            tail => format!("{program} {how}: {tail}"),
        }
    }
}

/// Listens until the end; how it ended, and the last it printed.
async fn outcome(link: &mut RunLink, id: &str) -> Option<(End, Vec<u8>)> {
    let (mut tail, mut stdout, mut stderr) = (Vec::new(), 0, 0);
    while let Some((message, body)) = link.receive.recv().await {
        match message {
            FromRun::Output { stream, offset, .. } => {
                let seen = match stream {
                    Stream::Stdout => &mut stdout,
                    Stream::Stderr => &mut stderr,
                };
                *seen = offset + body.len() as u64;
                tail.extend_from_slice(&body);
                tail.drain(..tail.len().saturating_sub(TAIL));
                let seen = ToRun::Seen { id: id.to_owned(), stdout, stderr, end: false };
                link.send.send((seen, Vec::new())).await.ok()?;
            }
            FromRun::Ended { end, .. } => return Some((end, tail)),
            FromRun::Started { .. } | FromRun::Taken { .. } => {}
        }
    }
    None
}
