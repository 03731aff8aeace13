//! How long events wait until what they caused has left: the lab's own share
//! of a turn. Told in one line per event to whoever asks for it with
//! `PITSTOP_LOG=info,pitstop::loop=debug`, and not measured otherwise.

use pitstop_core::effect::Effect;
use pitstop_core::event::{Event, Fact, Report, Request};
use pitstop_core::lab::Outcome;
use pitstop_wire::MachineName;
use std::time::Instant;

/// The name under which the log is asked for these lines.
const TARGET: &str = "pitstop::loop";

/// When an event was put on the queue; unknown while nobody wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(Option<Instant>);

impl Arrival {
    /// Now.
    pub fn now() -> Self {
        Self(tracing::enabled!(target: TARGET, tracing::Level::DEBUG).then(Instant::now))
    }

    /// It was decided about before, and the store did not take it: what
    /// passed since is the store's time, not the lab's.
    pub const UNKNOWN: Self = Self(None);
}

/// An event's wait.
pub struct Lag {
    event: &'static str,
    came: Instant,
    machine: Option<MachineName>,
    records: usize,
    effects: usize,
}

impl Lag {
    /// Of an event that is about to be stepped.
    pub fn of(event: &Event, came: Arrival) -> Option<Self> {
        let Arrival(Some(came)) = came else { return None };
        Some(Self { event: name(event), came, machine: None, records: 0, effects: 0 })
    }

    /// What came of it.
    pub fn led_to(&mut self, outcome: &Outcome) {
        (self.records, self.effects) = (outcome.records.len(), outcome.effects.len());
        let recorded = outcome.records.iter().find_map(|record| record.change.machine());
        self.machine = recorded.or_else(|| outcome.effects.first().map(machine)).cloned();
    }

    /// It has left. An event that led to nothing is not worth a line.
    pub fn tell(&self) {
        if self.records + self.effects == 0 {
            return;
        }
        tracing::debug!(
            target: TARGET,
            event = self.event,
            machine = self.machine.as_ref().map_or("-", |name| name.as_str()),
            records = self.records,
            effects = self.effects,
            micros = u64::try_from(self.came.elapsed().as_micros()).unwrap_or(u64::MAX),
            "decided"
        );
    }
}

fn machine(effect: &Effect) -> &MachineName {
    match effect {
        Effect::Power { machine, .. }
        | Effect::Observe { machine, .. }
        | Effect::Tell { machine, .. }
        | Effect::Check { machine, .. }
        | Effect::Act { machine, .. }
        | Effect::Witness { machine, .. }
        | Effect::Hook { machine, .. }
        | Effect::Program { machine, .. }
        | Effect::Stop { machine, .. }
        | Effect::Dismiss { machine, .. } => machine,
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Start { .. } | Event::StartRestored { .. } => "start",
        Event::Drain => "drain",
        Event::Tick => "deadline",
        Event::Gap(_) => "gap",
        Event::Request(_, Request::Reserve { .. }) => "reserve",
        Event::Request(_, Request::Claim(_)) => "claim",
        Event::Request(_, Request::Release { .. }) => "release",
        Event::Request(..) => "request",
        Event::Fact { fact: Fact::Power { .. }, .. } => "power-done",
        Event::Fact { fact: Fact::Read { .. }, .. } => "power-read",
        Event::Fact { fact: Fact::Said { .. }, .. } => "console-said",
        Event::Fact { fact: Fact::Checked { .. }, .. } => "health-checked",
        Event::Fact { fact: Fact::Witnessed { .. }, .. } => "witnessed",
        Event::Fact { fact: Fact::Acted { .. }, .. } => "switched-or-pressed",
        Event::Fact { fact: Fact::Hooked { .. }, .. } => "hook-ended",
        Event::Fact { fact: Fact::Programmed { .. }, .. } => "programmed",
        Event::Fact { fact: Fact::Gone { .. }, .. } => "program-gone",
        Event::Hello(_) => "hello",
        Event::Agent { report: Report::Done { .. }, .. } => "step-done",
        Event::Agent { report: Report::Lost, .. } => "agent-lost",
        Event::BootRequest { .. } => "boot-request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_core::event::Answer;
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What the log has after an event that led to `effects`.
    fn logged(filter: &str, effects: Vec<Effect>) -> String {
        let paper = Paper::default();
        let writer = paper.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            if let Some(mut lag) = Lag::of(&Event::Tick, Arrival::now()) {
                lag.led_to(&Outcome {
                    records: vec![],
                    touched: BTreeSet::new(),
                    effects,
                    answer: Answer::None,
                });
                lag.tell();
            }
        });
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn whoever_asks_is_told_how_long_an_effect_took_and_nobody_else() {
        let machine = MachineName::new("m1").unwrap();
        let effect = Effect::Observe { machine, leg: 0 };
        let line = logged("info,pitstop::loop=debug", vec![effect.clone()]);
        for part in ["event=\"deadline\"", "machine=\"m1\"", "records=0", "effects=1", "micros="] {
            assert!(line.contains(part), "{part} is not in {line:?}");
        }
        assert_eq!(logged("info,pitstop::loop=debug", vec![]), "", "it led to nothing");
        assert_eq!(logged("info", vec![effect]), "");
    }
}
