//! labgrid, through the program that speaks to it in its own way.

use crate::common::daemon::note_pid;
use crate::common::load::Round;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A private coordinator and its clients.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts them, with so many places of so many resources each.
    ///
    /// # Errors
    /// What labgrid said.
    pub fn start(scratch: &Path, places: usize, resources: usize) -> Result<Self> {
        let python = std::env::var_os("LABGRID_PYTHON").context("start this with benches/allocation/run")?;
        let folder = scratch.join("labgrid");
        std::fs::create_dir(&folder)?;
        let log = File::create(folder.join("client.log"))?;
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/allocation/with_labgrid.py"))
            .arg(&folder)
            .args([places.to_string(), resources.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        note_pid(child.id())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("no standard output")?);
        let mut peer = Self { child, stdin, stdout: BufReader::new(stdout) };
        if peer.answer().is_err() {
            let said = std::fs::read_to_string(folder.join("client.log"))?;
            bail!("labgrid does not start:\n{said}");
        }
        Ok(peer)
    }

    /// Lets so many clients acquire and release; the round, and processor
    /// seconds of the coordinator.
    ///
    /// # Errors
    /// It died.
    pub fn cycles(&mut self, clients: usize, time: Duration) -> Result<(Round, f64)> {
        let stdin = self.stdin.as_mut().context("labgrid has ended")?;
        writeln!(stdin, "cycles {clients} {}", time.as_secs_f64())?;
        let answer = self.answer()?;
        let number = |name: &str| answer[name].as_f64().with_context(|| format!("no {name}"));
        let list = |name: &str| -> Vec<f64> {
            answer[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let round = Round {
            cycles: answer["cycles"].as_u64().context("no cycles")?,
            seconds: number("seconds")?,
            reserve_ms: list("reserve_ms"),
            release_ms: list("release_ms"),
        };
        Ok((round, number("cpu_seconds")?))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("labgrid's clients ended");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input has it stop the coordinator.
        self.stdin = None;
        let _ = self.child.wait();
    }
}
