//! A look at every part of a machine, for whoever wires a lab: nothing is
//! switched, nothing is typed, nothing is decided.

use super::{Inner, LabHands, Rig, leg};
use pitstop_core::machine::Reading;
use pitstop_drivers::{DriverError, Switch};
use pitstop_wire::MachineName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a look at one part may take, with the wait for its controller.
/// Less than a client waits for an answer.
const LOOK: Duration = Duration::from_secs(20);

const OFF: &str = "off";
const WHILE_ON: &str = "there while the machine is on";

/// What was seen of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `power`, `mains`, `console main`, `boot`.
    pub part: String,
    /// Its driver, as the inventory writes it.
    pub driver: String,
    /// What it said, or what is wrong.
    pub result: Result<String, String>,
    /// How long that took.
    pub took: Duration,
}

impl LabHands {
    /// Looks at all parts of a machine at once. `None`: there is no such
    /// machine.
    pub async fn examine(&self, machine: &MachineName) -> Option<Vec<Seen>> {
        let rig = self.inner.rigs.get(machine)?;
        let mut looks = JoinSet::new();
        let legs = rig.spec.legs.len();
        for at in 0..legs {
            let (inner, machine) = (self.inner.clone(), machine.clone());
            looks.spawn(async move { (at, inner.examine_leg(&machine, at).await) });
        }
        for (at, (name, switch)) in rig.fixtures().switches().enumerate() {
            let (name, switch) = (name.clone(), switch.clone());
            looks.spawn(async move { (legs + at, examine_switch(&name, switch).await) });
        }
        let (inner, machine) = (self.inner.clone(), machine.clone());
        let began = Instant::now();
        inner.attention.ready(&machine, LOOK).await;
        let took = began.elapsed();
        let mut seen: Vec<(usize, Seen)> = looks.join_all().await;
        seen.sort_by_key(|(at, _)| *at);
        let mut seen: Vec<Seen> = seen.into_iter().map(|(_, seen)| seen).collect();
        let off = legs > 0 && seen.iter().take(legs).all(|leg| leg.result.as_deref() == Ok(OFF));
        for (name, line) in inner.attention.lines(&machine) {
            let result = if off && comes_and_goes(&rig, &name) { Ok(WHILE_ON.to_owned()) } else { line };
            let driver = rig.spec.consoles.get(&name).map(|spec| spec.driver.clone()).unwrap_or_default();
            seen.push(Seen {
                part: format!("console {name}"),
                driver: format!("console.{driver}"),
                result,
                took,
            });
        }
        let boot = rig.boot().and_then(|boot| boot.look()).map_err(|e| e.to_string());
        let driver = format!("boot.{}", rig.spec.boot.driver);
        seen.push(Seen { part: "boot".to_owned(), driver, result: boot, took: Duration::ZERO });
        Some(seen)
    }
}

impl LabHands {
    /// Has the machine's light blink, or stop: the first of its legs that has
    /// one. `None`: there is no such machine.
    pub async fn identify(&self, machine: &MachineName, on: bool) -> Option<Result<String, String>> {
        let rig = self.inner.rigs.get(machine)?;
        let mut last = format!("{machine} has nothing that blinks");
        for at in 0..rig.spec.legs.len() {
            let Some(Ok(power)) = rig.leg(at).map(|part| part.power()) else { continue };
            let look = async {
                let _turn = self.inner.runners.turn(power.limits()).await;
                power.identify(on).await
            };
            match timeout(LOOK, look).await {
                Ok(Ok(told)) => return Some(Ok(told)),
                Ok(Err(e)) => last = e.to_string(),
                Err(_) => last = format!("no answer within {} s", LOOK.as_secs()),
            }
        }
        Some(Err(last))
    }
}

async fn examine_switch(name: &str, switch: Result<Arc<Switch>, DriverError>) -> Seen {
    let began = Instant::now();
    let read = async {
        match switch.map_err(|e| e.to_string())?.position().await {
            Ok(Some(position)) => Ok(position),
            Ok(None) => Ok("cannot be read; taken for where it was put".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    };
    let result = match timeout(LOOK, read).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", LOOK.as_secs())),
    };
    let (part, driver) = (format!("switch {name}"), "switch.command".to_owned());
    Seen { part, driver, result, took: began.elapsed() }
}

fn comes_and_goes(rig: &Rig, console: &str) -> bool {
    let found = rig.consoles().iter().find(|(name, _)| name == console);
    found.is_some_and(|(_, driver)| driver.as_ref().is_ok_and(|driver| driver.only_while_on()))
}

impl Inner {
    async fn examine_leg(&self, machine: &MachineName, at: usize) -> Seen {
        let began = Instant::now();
        let rig = self.rigs.get(machine);
        let part = rig.as_ref().and_then(|rig| rig.leg(at));
        let name = part.map(|part| part.spec.name.clone()).unwrap_or_default();
        let driver = part.map(|part| part.spec.driver.driver.clone()).unwrap_or_default();
        let result = match part {
            None => Err("the inventory has changed meanwhile".to_owned()),
            Some(part) => match part.power() {
                Err(e) => Err(e.to_string()),
                Ok(_) if !part.spec.readback => {
                    Ok("cannot be read back; taken for what it was told".to_owned())
                }
                Ok(power) => {
                    let look = async {
                        let _turn = self.runners.turn(power.limits()).await;
                        timeout(leg::READ, power.read()).await
                    };
                    match timeout(LOOK, look).await {
                        Ok(Ok(read)) => told(read),
                        Ok(Err(_)) => Err(format!("no answer within {} s", leg::READ.as_secs())),
                        Err(_) => Err(format!(
                            "not asked within {} s: others wait for {} too",
                            LOOK.as_secs(),
                            power.limits().queue
                        )),
                    }
                }
            },
        };
        Seen { part: name, driver: format!("power.{driver}"), result, took: began.elapsed() }
    }
}

fn told(read: Result<Reading, DriverError>) -> Result<String, String> {
    match read {
        Ok(Reading::On) => Ok("on".to_owned()),
        Ok(Reading::Off) => Ok(OFF.to_owned()),
        Ok(Reading::Unknown | Reading::Assumed(_)) => {
            Err("it cannot tell whether it is on or off".to_owned())
        }
        Err(e) => Err(e.to_string()),
    }
}
