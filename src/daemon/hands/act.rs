//! Switches and buttons of a machine. One at a time: two that move at once
//! are two people at one bench.

use super::Rig;
use pitstop_core::event::Act;
use pitstop_drivers::{Button, DriverError, Factories, Site, Switch};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What stands beside a machine.
#[derive(Default)]
pub struct Fixtures {
    switches: BTreeMap<String, Result<Arc<Switch>, DriverError>>,
    buttons: BTreeMap<String, Result<Arc<Button>, DriverError>>,
    busy: Mutex<()>,
}

impl Fixtures {
    /// Makes the drivers. One that cannot be made fails when it is used.
    pub fn of(factories: &Factories, site: &Site) -> Self {
        Self { switches: factories.switches(site), buttons: factories.buttons(site), busy: Mutex::default() }
    }

    /// Why drivers could not be made.
    pub fn faults(&self) -> impl Iterator<Item = &DriverError> {
        let switches = self.switches.values().filter_map(|switch| switch.as_ref().err());
        switches.chain(self.buttons.values().filter_map(|button| button.as_ref().err()))
    }

    /// The switches, by name.
    pub fn switches(&self) -> impl Iterator<Item = (&String, &Result<Arc<Switch>, DriverError>)> {
        self.switches.iter()
    }
}

/// An act that was not done, as far as anybody knows.
pub struct Undone {
    /// Why.
    pub why: String,
    /// Whether it was begun, and may act later.
    pub begun: bool,
}

impl Undone {
    /// Nothing was begun.
    pub fn before(why: impl ToString) -> Self {
        Self { why: why.to_string(), begun: false }
    }

    /// Whoever asked may not have the machine any more.
    pub fn late() -> Self {
        Self::before("its time was over before it was begun")
    }

    /// It failed. What is known to have ended does nothing later.
    pub fn failed(error: &DriverError) -> Self {
        Self { why: error.to_string(), begun: !error.over }
    }

    /// It was begun; how it ended is not known.
    pub fn perhaps(why: impl ToString) -> Self {
        Self { why: why.to_string(), begun: true }
    }
}

impl Rig {
    /// Does it, unless it is too late once it is its turn.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn act(&self, act: &Act, in_time: impl Fn() -> bool) -> Result<(), Undone> {
        let fixtures = self.fixtures();
        let _busy = fixtures.busy.lock().await;
        if !in_time() {
            return Err(Undone::late());
        }
        let gone = || Undone::before(format!("it has nothing to {act}"));
        let done = match act {
            Act::Flip { switch, position } => {
                let switch = fixtures.switches.get(switch).ok_or_else(gone)?;
                switch.as_ref().map_err(Undone::before)?.set(position).await
            }
            Act::Press { button } => {
                let button = fixtures.buttons.get(button).ok_or_else(gone)?;
                button.as_ref().map_err(Undone::before)?.press().await
            }
            Act::Nudge(_) => return Err(gone()),
        };
        done.map_err(|e| Undone::failed(&e))
    }

    /// Puts every switch where a machine that is to boot has it, and lets every
    /// button go, whatever its last holder did: an SD card that is still the
    /// host's is no disk, and a button may be pressed since a daemon died.
    ///
    /// # Errors
    /// One that does not move.
    pub(super) async fn go_home(&self) -> Result<(), String> {
        let fixtures = self.fixtures();
        let _busy = fixtures.busy.lock().await;
        for switch in fixtures.switches.values() {
            let switch = switch.as_ref().map_err(ToString::to_string)?;
            if let Some(home) = switch.home() {
                switch.set(home).await.map_err(|e| e.to_string())?;
            }
        }
        for button in fixtures.buttons.values() {
            let button = button.as_ref().map_err(ToString::to_string)?;
            button.let_go().await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
