//! `pitstop switch`, `pitstop press` and `pitstop identify`: what stands
//! beside a machine, or shines on it.

use super::fail::Fail;
use super::times::duration;
use super::{Context, Result};
use pitstop_client::{EventQuery, EventStream};
use pitstop_wire::api::{Done, FlipRequest, IdentifyRequest, Machine, PressRequest, Update};
use pitstop_wire::{ApiError, Code};
use std::time::Duration;

/// How long it is waited for. The programs behind it have limits of their own.
const LIMIT: Duration = Duration::from_secs(90);

#[derive(Debug, clap::Args)]
pub struct Flip {
    /// The machine.
    machine: String,
    /// The switch; all of them are listed unless said.
    switch: Option<String>,
    /// Where to.
    #[arg(requires = "switch")]
    position: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub struct Press {
    /// The machine.
    machine: String,
    /// The button; all of them are listed unless said.
    button: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Override the holder (admins); needs --reason.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why; told to the holder and kept.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Give up waiting after that long: exit code 6.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct Identify {
    /// The machine.
    machine: String,
    /// Have it stop.
    #[arg(long)]
    off: bool,
}

impl How {
    fn force(&self) -> Option<String> {
        if self.force { self.reason.clone() } else { None }
    }
}

pub async fn flip(cx: &mut Context, args: &Flip) -> Result {
    let machine = super::pick::machine(cx, Some(&args.machine)).await?;
    let Some(switch) = &args.switch else { return list(cx, &machine).await };
    let Some(position) = &args.position else {
        let row = cx.client.machine(&machine).await?;
        let positions = row.switches.get(switch).map(|all| all.join(", "));
        let hint =
            positions.map_or_else(|| format!("pitstop switch {machine}"), |all| format!("it has {all}"));
        return Err(Fail::usage(format!("where is {switch} of {machine} to be put?")).hint(hint));
    };
    let mut news = listen(cx, &machine).await?;
    let ask = FlipRequest { switch: switch.clone(), position: position.clone(), force: args.how.force() };
    let done = cx.client.flip(&machine, &ask, cx.key.clone()).await?;
    follow(cx, &machine, &mut news, done, &args.how).await
}

pub async fn press(cx: &mut Context, args: &Press) -> Result {
    let machine = super::pick::machine(cx, Some(&args.machine)).await?;
    let Some(button) = &args.button else { return list(cx, &machine).await };
    let mut news = listen(cx, &machine).await?;
    let ask = PressRequest { button: button.clone(), force: args.how.force() };
    let done = cx.client.press(&machine, &ask, cx.key.clone()).await?;
    follow(cx, &machine, &mut news, done, &args.how).await
}

pub async fn identify(cx: &mut Context, args: &Identify) -> Result {
    let machine = super::pick::machine(cx, Some(&args.machine)).await?;
    let done = cx.client.identify(&machine, &IdentifyRequest { on: !args.off }).await?;
    cx.out.object(&done, &machine, |out| out.line(&done.text))
}

async fn list(cx: &Context, machine: &str) -> Result {
    let row: Machine = cx.client.machine(machine).await?;
    cx.out.object(&row, machine, |out| {
        if row.switches.is_empty() && row.buttons.is_empty() {
            out.line(&format!("{machine} has no switches and no buttons"))?;
        }
        for (name, positions) in &row.switches {
            out.line(&format!("switch {name}  {}", positions.join(" | ")))?;
        }
        row.buttons.iter().try_for_each(|name| out.line(&format!("button {name}")))
    })
}

/// Listened to before it is asked for: none of its records is missed.
pub async fn listen(cx: &Context, machine: &str) -> Result<EventStream> {
    let query = EventQuery { machine: Some(machine.to_owned()), ..EventQuery::default() };
    let mut news = cx.client.events(query).await?;
    news.next().await?;
    Ok(news)
}

async fn follow(cx: &Context, machine: &str, news: &mut EventStream, done: Done, how: &How) -> Result {
    let done = wait(machine, news, done, how.timeout).await?;
    cx.out.object(&done, machine, |out| out.line(&done.text))
}

/// Waits for the end of what was begun.
pub async fn wait(
    machine: &str,
    news: &mut EventStream,
    done: Done,
    timeout: Option<Duration>,
) -> Result<Done> {
    let what = done.answer.get("what").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let limit = timeout.unwrap_or(LIMIT);
    let ended = tokio::time::timeout(limit, async {
        loop {
            let Update::Record(event) = news.next().await?.update else { continue };
            match event.kind.as_str() {
                "act-done" if event.text.starts_with(&what) => return Ok(None),
                "act-failed" if event.text.contains(&what) => return Ok(Some(event.text)),
                _ => {}
            }
        }
    });
    let failed = |code, text: String| {
        Fail::from(
            ApiError::new(code, format!("{machine}: {text}")).hint(format!("pitstop events {machine}")),
        )
    };
    match ended.await {
        Ok(Ok(None)) => Ok(Done { text: format!("{machine}  {what}"), ..done }),
        Ok(Ok(Some(text))) => Err(failed(Code::MachineFailed, text.trim_start_matches("✗ ").to_owned())),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            Err(failed(Code::TimedOut, format!("{what}: not known to be done in {} s", limit.as_secs())))
        }
    }
}
