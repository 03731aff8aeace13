//! A machine's drivers, made from the inventory.

use super::act::Fixtures;
use crate::daemon::boot::Media;
use pitstop_core::inventory::{Inventory, LegSpec, MachineSpec, Point};
use pitstop_core::machine::Switch;
use pitstop_drivers::host::Hosts;
use pitstop_drivers::program::{HookProgram, HookPrograms, Programmer};
use pitstop_drivers::{Boot, Console, DriverError, Factories, Power, Site};
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentParams;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

/// Where this daemon keeps things and how machines reach it.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory with one directory per machine.
    pub machines: PathBuf,
    /// Where the boot agent's kernel and initrd are.
    pub agent: PathBuf,
    /// The `pitstop` program.
    pub program: PathBuf,
    /// Address under which machines reach this daemon, without a port.
    pub address: String,
    /// Port of the machines' listener.
    pub agents_port: u16,
    /// Port of the boot files' listener, where there is one.
    pub boot_port: Option<u16>,
    /// SHA-256 of the CA's certificate, hexadecimal.
    pub ca: String,
}

/// A console's name, and its driver or why there is none.
pub type NamedConsole = (String, Result<Arc<dyn Console>, DriverError>);

/// One machine's drivers.
pub struct Rig {
    /// What the inventory says.
    pub spec: Arc<MachineSpec>,
    /// Where its drivers work.
    pub site: Site,
    legs: Vec<LegRig>,
    boot: Result<Arc<dyn Boot>, DriverError>,
    consoles: Vec<NamedConsole>,
    fixtures: Fixtures,
    hooks: HookPrograms,
    programmer: Option<Result<Arc<Programmer>, DriverError>>,
    /// Written to while the machine is nudged, read while a command is given: a
    /// reset must not come between an on and the machine's first boot, and its
    /// legs wait for each other no more than they did.
    nudged: tokio::sync::RwLock<()>,
}

/// One leg and its driver.
pub struct LegRig {
    /// What the inventory says.
    pub spec: LegSpec,
    power: Result<Arc<dyn Power>, DriverError>,
    memory: Mutex<Memory>,
}

/// What saves the hardware from being hurried. Lost at a restart, when it is
/// waited for once more.
#[derive(Debug, Default)]
struct Memory {
    off_since: Option<Instant>,
}

impl Rig {
    /// Makes the drivers. One that cannot be made fails when it is used.
    pub fn new(
        factories: &Factories,
        spec: &MachineSpec,
        inventory: &Inventory,
        hosts: &Arc<Hosts>,
        places: &Places,
    ) -> Self {
        let spec = Arc::new(spec.clone());
        let address = spec.server.map_or_else(|| places.address.clone(), |server| server.to_string());
        let site = Site {
            spec: spec.clone(),
            state: places.machines.join(spec.name.as_str()),
            program: places.program.clone(),
            agent: places.agent.clone(),
            boot_port: places.boot_port,
            address,
            hosts: hosts.clone(),
            controllers: Arc::new(inventory.controllers.clone()),
        };
        let leg = |leg: &LegSpec| LegRig::new(leg.clone(), factories.power(&site, leg));
        let legs = spec.legs.iter().map(leg).collect();
        let consoles =
            spec.consoles.keys().map(|name| (name.clone(), factories.console(&site, name))).collect();
        let fixtures = Fixtures::of(factories, &site);
        Self {
            legs,
            boot: factories.boot(&site),
            consoles,
            fixtures,
            hooks: factories.hooks(&site),
            programmer: factories.programmer(&site),
            spec,
            site,
            nudged: Default::default(),
        }
    }

    /// A rig of given drivers.
    pub fn of(site: Site, legs: Vec<LegRig>, boot: Arc<dyn Boot>) -> Self {
        Self {
            spec: site.spec.clone(),
            site,
            legs,
            boot: Ok(boot),
            consoles: Vec::new(),
            fixtures: Fixtures::default(),
            hooks: HookPrograms::default(),
            programmer: None,
            nudged: Default::default(),
        }
    }

    /// Whether it is what the inventory says now.
    fn fits(&self, spec: &MachineSpec, inventory: &Inventory) -> bool {
        *self.spec == *spec
            && *self.site.controllers == inventory.controllers
            && self.site.hosts.fit(&inventory.hosts, &hosts_of(spec))
    }

    /// Why drivers could not be made.
    fn faults(&self) -> Vec<DriverError> {
        let legs = self.legs.iter().filter_map(|leg| leg.power.as_ref().err());
        let consoles = self.consoles.iter().filter_map(|(_, console)| console.as_ref().err());
        legs.chain(consoles)
            .chain(self.boot.as_ref().err())
            .chain(self.fixtures.faults())
            .chain(self.hooks.values().filter_map(|hook| hook.as_ref().err()))
            .chain(self.programmer.as_ref().and_then(|programmer| programmer.as_ref().err()))
            .cloned()
            .chain(self.blind())
            .collect()
    }

    /// Why what shows that it is up could never be seen.
    fn blind(&self) -> Option<DriverError> {
        let watched = !matches!(self.spec.ready.driver.as_str(), "agent" | "power");
        watched.then(|| pitstop_drivers::factories().evidence(&self.site).err()).flatten()
    }

    /// A leg by its index.
    pub fn leg(&self, index: usize) -> Option<&LegRig> {
        self.legs.get(index)
    }

    /// Held by who nudges the machine, and by who gives it a command.
    pub(super) fn nudged(&self) -> &tokio::sync::RwLock<()> {
        &self.nudged
    }

    /// The switches and buttons.
    pub(super) fn fixtures(&self) -> &Fixtures {
        &self.fixtures
    }

    /// A hook by its point and name.
    pub(super) fn hook(&self, point: Point, name: &str) -> Option<Result<&Arc<HookProgram>, &DriverError>> {
        self.hooks.get(&(point, name.to_owned())).map(Result::as_ref)
    }

    /// What writes the board, if a program does.
    pub(super) fn programmer(&self) -> Option<Result<&Arc<Programmer>, &DriverError>> {
        self.programmer.as_ref().map(Result::as_ref)
    }

    /// The boot driver.
    pub fn boot(&self) -> Result<&Arc<dyn Boot>, DriverError> {
        self.boot.as_ref().map_err(Clone::clone)
    }

    /// The consoles and their drivers.
    pub fn consoles(&self) -> &[NamedConsole] {
        &self.consoles
    }

    /// Parameters with what only the daemon knows: where it is, who it is.
    pub fn complete(&self, places: &Places, params: AgentParams) -> AgentParams {
        AgentParams { server: self.server(places), ca: places.ca.clone(), ..params }
    }

    /// `host:port` of the machines' listener as this machine reaches it.
    pub fn server(&self, places: &Places) -> String {
        let own = self.legs.iter().find_map(|leg| leg.power.as_ref().ok().and_then(|p| p.loopback()));
        let host = own.unwrap_or(&self.site.address);
        pitstop_drivers::address::join(host, places.agents_port)
    }
}

/// The bench hosts that a machine has anything on.
fn hosts_of(spec: &MachineSpec) -> Vec<&str> {
    let drivers = spec.legs.iter().map(|leg| &leg.driver).chain(spec.consoles.values());
    let hooks = spec.hooks.values().flatten().map(|hook| &hook.command);
    let others = spec.switches.values().chain(spec.buttons.values()).chain([&spec.ready, &spec.reimage]);
    let others = others.chain(hooks);
    drivers.chain(others).filter_map(|driver| driver.host.as_deref()).collect()
}

impl LegRig {
    /// A leg with its driver.
    pub fn new(spec: LegSpec, power: Result<Arc<dyn Power>, DriverError>) -> Self {
        Self { spec, power, memory: Mutex::default() }
    }

    /// The driver.
    pub fn power(&self) -> Result<&Arc<dyn Power>, DriverError> {
        self.power.as_ref().map_err(Clone::clone)
    }

    /// The leg was seen to be off or on.
    pub(super) fn saw(&self, state: Switch) {
        let mut memory = self.memory();
        match state {
            Switch::On => memory.off_since = None,
            Switch::Off => drop(memory.off_since.get_or_insert_with(Instant::now)),
        }
    }

    /// Since when the leg is known to be off.
    pub(super) fn off_since(&self) -> Option<Instant> {
        self.memory().off_since
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drivers of every machine.
pub struct Rigs {
    /// Where this daemon keeps things.
    pub places: Places,
    /// The CDs that are lent to their BMCs.
    pub media: Media,
    all: RwLock<HashMap<MachineName, Arc<Rig>>>,
    hosts: RwLock<Arc<Hosts>>,
}

impl Rigs {
    /// No machines yet.
    pub fn new(places: Places) -> Self {
        Self { places, media: Media::default(), all: RwLock::default(), hosts: RwLock::default() }
    }

    /// Takes over an inventory. A machine whose entry did not change keeps
    /// its drivers, and with them what they remember.
    pub fn load(&self, factories: &Factories, inventory: &Inventory) {
        let hosts = self.hosts(inventory);
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts.clone();
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *all);
        for (name, spec) in &inventory.machines {
            let kept = old.remove(name).filter(|rig| rig.fits(spec, inventory));
            let rig =
                kept.unwrap_or_else(|| Arc::new(Rig::new(factories, spec, inventory, &hosts, &self.places)));
            all.insert(name.clone(), rig);
        }
        self.media.keep(|name| all.contains_key(name));
    }

    /// The hosts of an inventory; those that did not change stay the same.
    fn hosts(&self, inventory: &Inventory) -> Arc<Hosts> {
        let old = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        Arc::new(Hosts::of(&inventory.hosts, &old))
    }

    /// Whether a driver of this inventory cannot be made. Machines that stay
    /// as they are, and those that had no driver before, are not looked at:
    /// they are no reason to refuse what changes about others.
    ///
    /// # Errors
    /// Every driver that cannot be made, one a line.
    pub fn check(&self, factories: &Factories, inventory: &Inventory) -> Result<(), String> {
        let hosts = self.hosts(inventory);
        let faults = |spec: &MachineSpec| {
            let had = self.get(&spec.name);
            if had.is_some_and(|rig| rig.fits(spec, inventory) || !rig.faults().is_empty()) {
                return Vec::new();
            }
            Rig::new(factories, spec, inventory, &hosts, &self.places).faults()
        };
        let all: Vec<String> = inventory.machines.values().flat_map(faults).map(|e| e.to_string()).collect();
        if all.is_empty() { Ok(()) } else { Err(all.join("\n")) }
    }

    /// Puts a rig in, or another in its place.
    pub fn insert(&self, rig: Rig) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(rig.spec.name.clone(), Arc::new(rig));
    }

    /// A machine's drivers.
    pub fn get(&self, machine: &MachineName) -> Option<Arc<Rig>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(machine).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Rig>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
