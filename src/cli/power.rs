//! `pitstop power`: gives a command, and waits until it was read back.

use super::fail::Fail;
use super::times::duration;
use super::{Context, Result};
use pitstop_client::EventStream;
use pitstop_wire::api::{Done, Event, LegState, Machine, PowerDo, PowerRequest, Update};
use pitstop_wire::{ApiError, Code, MachineName};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine (yours if there is only one), then on, off, cycle, soft, reset, nmi or status (the
    /// default).
    #[arg(required = true, num_args = 1..=2, value_names = ["MACHINE", "ACTION"])]
    words: Vec<String>,
    /// Override the holder (admins); needs --reason.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why; told to the holder and kept.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only give the command, and do not wait until it was read back.
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Give up waiting after that long: exit code 6. As long as the machine's limits allow unless said.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

/// What the daemon needs to notice that a command's time is over.
const SLACK: Duration = Duration::from_secs(15);
/// Where the daemon does not say how long a command may take.
const UNKNOWN_LIMIT: u64 = 180;

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let (named, action) = meant(&args.words)?;
    let machine = super::pick::machine(cx, named).await?;
    let Some(action) = action else { return status(cx, &machine).await };
    let force = if args.force { args.reason.clone() } else { None };
    let ask = PowerRequest { action, force };
    let done = if args.no_wait {
        cx.client.power(&machine, &ask, cx.key.clone()).await?
    } else {
        switch(cx, &machine, &ask, cx.key.clone(), args.timeout).await?
    };
    cx.out.object(&done, &machine, |out| out.line(&done.text))
}

/// Gives a command, and waits until it was read back.
pub async fn switch(
    cx: &Context,
    machine: &str,
    ask: &PowerRequest,
    key: Option<String>,
    timeout: Option<Duration>,
) -> Result<Done> {
    let name = MachineName::new(machine).map_err(|e| Fail::usage(e.to_string()))?;
    let mut news = super::fixture::listen(cx, machine).await?;
    if matches!(ask.action, PowerDo::Soft | PowerDo::Reset | PowerDo::Nmi) {
        // Nothing to read back: the leg stays as it is.
        let done = cx.client.power(machine, ask, key).await?;
        return super::fixture::wait(machine, &mut news, done, timeout).await;
    }
    let mut done = cx.client.power(machine, ask, key).await?;
    let seconds = done.answer.get("settled_within").and_then(serde_json::Value::as_u64);
    let limit = timeout.unwrap_or(Duration::from_secs(seconds.unwrap_or(UNKNOWN_LIMIT)) + SLACK);
    let mut watch = Watch::new(name, ask.action);
    let followed = tokio::time::timeout(limit, follow(cx, &mut news, &mut watch)).await;
    done.text = match followed {
        Ok(text) => text?,
        Err(_) => watch.late(limit)?,
    };
    Ok(done)
}

/// The machine, if one is named, and what is to be done; `None`: say what is.
fn meant(words: &[String]) -> Result<(Option<&str>, Option<PowerDo>)> {
    let action = |word: &str| match word {
        "on" => Some(Some(PowerDo::On)),
        "off" => Some(Some(PowerDo::Off)),
        "cycle" => Some(Some(PowerDo::Cycle)),
        "soft" => Some(Some(PowerDo::Soft)),
        "reset" => Some(Some(PowerDo::Reset)),
        "nmi" => Some(Some(PowerDo::Nmi)),
        "status" => Some(None),
        _ => None,
    };
    match words {
        [only] => Ok(match action(only) {
            Some(action) => (None, action),
            None => (Some(only), None),
        }),
        [machine, word] => match action(word) {
            Some(action) => Ok((Some(machine), action)),
            None => Err(Fail::usage(format!(
                "`{word}` is no power action; say on, off, cycle, soft, reset, nmi or status"
            ))
            .hint(format!("pitstop power {machine} cycle"))),
        },
        _ => Err(Fail::usage("on, off, cycle or status?")),
    }
}

async fn follow(cx: &Context, news: &mut EventStream, watch: &mut Watch) -> Result<String> {
    let mut row = Some(cx.client.machine(&watch.machine).await?);
    loop {
        if let Some(row) = row.take()
            && let Some(text) = watch.row(&row)?
        {
            return Ok(text);
        }
        match news.next().await?.update {
            Update::Record(event) => watch.record(&event)?,
            // A row from before the command says nothing of it.
            Update::Machine(now) if now.name == watch.machine && watch.begun => row = Some(*now),
            Update::Snapshot(all) => row = all.machines.into_iter().find(|m| m.name == watch.machine),
            _ => {}
        }
    }
}

/// A command under way, as records and rows tell of it.
pub struct Watch {
    machine: MachineName,
    action: PowerDo,
    /// Whether the daemon told of any command.
    begun: bool,
    /// Commands that somebody works on.
    open: usize,
    /// What a driver answered instead of doing it.
    trouble: Option<String>,
    legs: Vec<LegState>,
}

impl Watch {
    pub fn new(machine: MachineName, action: PowerDo) -> Self {
        Self { machine, action, begun: false, open: 0, trouble: None, legs: Vec::new() }
    }

    pub fn record(&mut self, event: &Event) -> Result {
        if event.machine.as_ref() != Some(&self.machine) {
            return Ok(());
        }
        self.begun |= event.kind.starts_with("power-");
        match event.kind.as_str() {
            "power-intended" => self.open += 1,
            "power-settled" => self.open = self.open.saturating_sub(1),
            "power-unsettled" => {
                self.open = self.open.saturating_sub(1);
                self.trouble = Some(event.text.clone());
            }
            "cycle-stopped" => return Err(self.failed(&event.text)),
            _ => {}
        }
        Ok(())
    }

    /// What to say once it was read back and nothing may act any more.
    pub fn row(&mut self, row: &Machine) -> Result<Option<String>> {
        // Of the others nothing is to be read.
        self.legs = row.legs.iter().filter(|leg| !leg.aside).cloned().collect();
        if self.shown() {
            let settled = row.legs.iter().all(|leg| leg.unsettled == 0);
            return Ok(settled.then(|| self.text()));
        }
        match &self.trouble {
            // Off came, on did not; or neither, and nobody tries any more.
            Some(trouble) if self.open == 0 => Err(self.failed(trouble)),
            _ => Ok(None),
        }
    }

    /// Whether every leg reads as was wanted.
    fn shown(&self) -> bool {
        let want = if self.action == PowerDo::Off { "off" } else { "on" };
        self.legs.iter().all(|leg| leg.reading.strip_prefix("assumed-").unwrap_or(&leg.reading) == want)
    }

    fn text(&self) -> String {
        let readings: Vec<String> = (self.legs.iter())
            .map(|leg| match leg.reading.strip_prefix("assumed-") {
                Some(word) => format!("{} {word}, assumed: it cannot be read back", leg.name),
                None => format!("{} {}, read back", leg.name, leg.reading),
            })
            .collect();
        let cycled = if self.action == PowerDo::Cycle { "off and on again; " } else { "" };
        format!("{}  {cycled}{}", self.machine, readings.join("; "))
    }

    fn failed(&self, text: &str) -> Fail {
        let error = ApiError::new(
            Code::MachineFailed,
            format!("{}: power {}: {text}", self.machine, self.action.word()),
        );
        error.hint(format!("pitstop why {}", self.machine)).into()
    }

    /// Time is over.
    pub fn late(&self, limit: Duration) -> Result<String> {
        if self.shown() && !self.legs.is_empty() {
            return Ok(format!("{}; the command may still act", self.text()));
        }
        let seconds = limit.as_secs();
        let what = format!("{}: power {} was not read back in {seconds} s", self.machine, self.action.word());
        Err(ApiError::new(Code::TimedOut, what).hint(format!("pitstop why {}", self.machine)).into())
    }
}

async fn status(cx: &Context, machine: &str) -> Result {
    let m = cx.client.machine(machine).await?;
    cx.out.object(&m.legs, &m.name, |out| {
        m.legs.iter().try_for_each(|l| {
            let when = l.at.map(|at| format!(" (read {} ago)", super::times::ago(at))).unwrap_or_default();
            let aside = if l.aside { ", which says nothing of the machine now" } else { "" };
            out.line(&format!("{} {} {}{when}{aside}", m.name, l.name, l.reading))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, machine};
    use super::*;
    use pitstop_wire::api::Shown;

    fn watch(action: PowerDo) -> Watch {
        Watch::new(MachineName::new("m0").unwrap(), action)
    }

    fn row(reading: &str, unsettled: usize) -> Machine {
        let mut m = machine("m0", Shown::Held);
        m.legs[0].reading = reading.into();
        m.legs[0].unsettled = unsettled;
        m
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_machine_alone_is_looked_at_and_an_action_alone_is_done_to_ones_own() {
        assert_eq!(meant(&words("m0")).unwrap(), (Some("m0"), None));
        assert_eq!(meant(&words("off")).unwrap(), (None, Some(PowerDo::Off)));
        assert_eq!(meant(&words("m0 cycle")).unwrap(), (Some("m0"), Some(PowerDo::Cycle)));
        assert!(meant(&words("m0 explode")).is_err());
    }

    #[test]
    fn off_is_over_when_it_reads_off_and_nothing_may_act_any_more() {
        let mut w = watch(PowerDo::Off);
        assert_eq!(w.row(&row("on", 1)).unwrap(), None, "the command is on its way");
        assert_eq!(w.row(&row("off", 1)).unwrap(), None, "an `on` would be refused now");
        assert_eq!(w.row(&row("off", 0)).unwrap().as_deref(), Some("m0  power off, read back"));
        let said = watch(PowerDo::Off).row(&row("assumed-off", 0)).unwrap().unwrap();
        assert!(said.contains("assumed"), "what nobody read is not called read back: {said}");
    }

    #[test]
    fn a_cycle_is_not_over_at_its_off_and_one_that_stopped_is_a_failure() {
        let mut w = watch(PowerDo::Cycle);
        assert_eq!(w.row(&row("off", 0)).unwrap(), None);
        assert!(w.row(&row("on", 0)).unwrap().unwrap().contains("off and on again"));
        let Err(Fail::Said(error)) = w.record(&event("cycle-stopped", "it did not go off")) else { panic!() };
        assert_eq!(error.code, Code::MachineFailed);
    }

    #[test]
    fn a_driver_that_refuses_is_a_failure_as_soon_as_nobody_tries_any_more() {
        let mut w = watch(PowerDo::On);
        w.record(&event("power-unsettled", "superseded")).unwrap();
        w.record(&event("power-intended", "power on decided")).unwrap();
        assert_eq!(w.row(&row("off", 2)).unwrap(), None, "the one before was given up for this one");
        w.record(&event("power-unsettled", "no answer from 10.0.0.1")).unwrap();
        let Err(Fail::Said(error)) = w.row(&row("unknown", 2)) else { panic!("was taken for on") };
        assert!(error.message.contains("10.0.0.1") && error.code == Code::MachineFailed, "{error}");
        assert_eq!(w.late(Duration::from_secs(9)).err().map(|f| f.code(false)), Some(6));
    }
}
