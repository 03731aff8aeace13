//! A connection to the monitor of one QEMU. QEMU serves one at a time and
//! lets others wait in silence, so connections are short.

use super::qmp::{Decoder, Said, command};
use pitstop_wire::text::brief;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long any answer may take; a busy host takes seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// An open monitor.
pub struct Monitor {
    stream: UnixStream,
    decoder: Decoder,
}

impl Monitor {
    /// Connects. `Ok(None)`: nobody listens there.
    pub async fn connect(path: &Path) -> Result<Option<Self>, String> {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e.to_string()),
        };
        let mut monitor = Self { stream, decoder: Decoder::default() };
        match monitor.said().await {
            Ok(Said::Greeting) => {}
            Ok(other) => return Err(format!("{other:?} instead of a greeting")),
            // It ended between listening and greeting.
            Err(Silence::Closed) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        }
        monitor.ask("qmp_capabilities").await?;
        Ok(Some(monitor))
    }

    /// Gives a command and waits for its answer.
    pub async fn ask(&mut self, name: &str) -> Result<Value, String> {
        let failed = |e: &dyn std::fmt::Display| format!("{name}: {e}");
        self.stream.write_all(&command(name)).await.map_err(|e| failed(&e))?;
        loop {
            match self.said().await.map_err(|e| failed(&e))? {
                Said::Answer(answer) => return answer.map_err(|e| failed(&e)),
                Said::Event(_) | Said::Greeting => {}
            }
        }
    }

    /// The run state: `running`, `paused`, `prelaunch`, …
    pub async fn status(&mut self) -> Result<String, String> {
        let answer = self.ask("query-status").await?;
        answer
            .get("status")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| format!("no status in {}", brief(&answer.to_string(), 200)))
    }

    async fn said(&mut self) -> Result<Said, Silence> {
        let mut buf = [0; 4096];
        loop {
            if let Some(said) = self.decoder.next().map_err(|e| Silence::Other(e.to_string()))? {
                return Ok(said);
            }
            match timeout(ANSWER, self.stream.read(&mut buf)).await {
                Ok(Ok(0)) => return Err(Silence::Closed),
                Ok(Ok(n)) => self.decoder.push(&buf[..n]),
                Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionReset => return Err(Silence::Closed),
                Ok(Err(e)) => return Err(Silence::Other(e.to_string())),
                Err(_) => return Err(Silence::Other(format!("no answer within {} s", ANSWER.as_secs()))),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the monitor hung up")]
    Closed,
    #[error("{0}")]
    Other(String),
}
