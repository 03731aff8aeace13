//! The history, as a list and as it happens.

use super::program::Running;
use serde_json::Value;

/// `events --follow`, which goes on over restarts of the daemon.
pub struct Follow {
    from: Running,
}

impl Follow {
    pub fn start(from: Running) -> Self {
        Self { from }
    }

    /// The next event.
    pub fn next(&mut self) -> Value {
        let line = self.from.line().unwrap_or_else(|| panic!("the stream ended: {}", self.from.stderr()));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

/// Kind of an event.
pub fn kind(event: &Value) -> &str {
    event["kind"].as_str().unwrap()
}

/// Their numbers.
pub fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|e| e["number"].as_u64().unwrap()).collect()
}

/// Events of this kind about this machine.
pub fn of_kind<'e>(events: &'e [Value], machine: &str, wanted: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["machine"] == machine && kind(e) == wanted).collect()
}

/// The phase that an event begins: `off`, `boot-agent`, `disk writing`, …
pub fn phase(event: &Value) -> Option<String> {
    match kind(event) {
        "turn-started" => Some("off".to_owned()),
        "phase-entered" => {
            let phase = &event["data"]["phase"];
            let name = phase["phase"].as_str().unwrap();
            Some(match phase["writing"].as_bool() {
                Some(true) => format!("{name} writing"),
                Some(false) => format!("{name} proving"),
                None => name.to_owned(),
            })
        }
        _ => None,
    }
}
