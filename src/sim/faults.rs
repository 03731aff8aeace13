//! What goes wrong with a simulated machine, as people write it:
//! `KIND[:ARGUMENT][*COUNT]`. With a count it goes wrong so often, then heals.

use pitstop_wire::text::brief;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A fault and how often it still strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How often it still does; `None`: always.
    pub left: Option<u32>,
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The machine loses its power so long after it was switched on.
    PowerLost(Duration),
    /// A power command is accepted and nothing happens.
    PowerIgnored,
    /// A power command is accepted and happens so much later.
    PowerLate(Duration),
    /// Firmware hangs.
    NeverBoots,
    /// The kernel panics, whatever is booted.
    Panic,
    /// The agent is never started.
    AgentSilent,
    /// The agent is started so much later.
    AgentLate(Duration),
    /// The agent is started twice with the same parameters.
    AgentTwice,
    /// One bit of the disk flips after it was written, before it is read back.
    ImageCorrupt,
    /// Nothing comes out of the serial line.
    ConsoleMute,
    /// The state of the power cannot be read.
    Unreadable,
    /// Another disk is in the place of its first one.
    DiskSwapped,
    /// Another machine is plugged in here, with its own disks.
    MachineSwapped,
    /// A part of its memory is gone.
    MemoryLost,
}

const KINDS: &str = "power-lost[:MS], power-ignored, power-late:MS, never-boots, panic, agent-silent, \
                     agent-late:MS, agent-twice, image-corrupt, console-mute, unreadable, disk-swapped, \
                     machine-swapped, memory-lost";

/// Not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no fault; there are {KINDS}; `*N` behind one makes it strike N times", brief(.0, 60))]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let bad = || ParseFaultError(text.to_owned());
        let (rest, left) = match text.split_once('*') {
            Some((rest, count)) => (rest, Some(count.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (name, ms) = match rest.split_once(':') {
            Some((name, ms)) => (name, Some(Duration::from_millis(ms.parse().map_err(|_| bad())?))),
            None => (rest, None),
        };
        let kind = match (name, ms) {
            ("power-lost", ms) => FaultKind::PowerLost(ms.unwrap_or_default()),
            ("power-late", Some(ms)) => FaultKind::PowerLate(ms),
            ("agent-late", Some(ms)) => FaultKind::AgentLate(ms),
            ("power-ignored", None) => FaultKind::PowerIgnored,
            ("never-boots", None) => FaultKind::NeverBoots,
            ("panic", None) => FaultKind::Panic,
            ("agent-silent", None) => FaultKind::AgentSilent,
            ("agent-twice", None) => FaultKind::AgentTwice,
            ("image-corrupt", None) => FaultKind::ImageCorrupt,
            ("console-mute", None) => FaultKind::ConsoleMute,
            ("unreadable", None) => FaultKind::Unreadable,
            ("disk-swapped", None) => FaultKind::DiskSwapped,
            ("machine-swapped", None) => FaultKind::MachineSwapped,
            ("memory-lost", None) => FaultKind::MemoryLost,
            _ => return Err(bad()),
        };
        Ok(Self { kind, left })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FaultKind::PowerLost(after) => write!(f, "power-lost:{}", after.as_millis())?,
            FaultKind::PowerIgnored => f.write_str("power-ignored")?,
            FaultKind::PowerLate(by) => write!(f, "power-late:{}", by.as_millis())?,
            FaultKind::NeverBoots => f.write_str("never-boots")?,
            FaultKind::Panic => f.write_str("panic")?,
            FaultKind::AgentSilent => f.write_str("agent-silent")?,
            FaultKind::AgentLate(by) => write!(f, "agent-late:{}", by.as_millis())?,
            FaultKind::AgentTwice => f.write_str("agent-twice")?,
            FaultKind::ImageCorrupt => f.write_str("image-corrupt")?,
            FaultKind::ConsoleMute => f.write_str("console-mute")?,
            FaultKind::Unreadable => f.write_str("unreadable")?,
            FaultKind::DiskSwapped => f.write_str("disk-swapped")?,
            FaultKind::MachineSwapped => f.write_str("machine-swapped")?,
            FaultKind::MemoryLost => f.write_str("memory-lost")?,
        }
        self.left.map_or(Ok(()), |n| write!(f, "*{n}"))
    }
}

/// All that goes wrong at the moment.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.0.clear();
    }

    /// If a fault that `pick` knows is there, it strikes now.
    pub fn strike<T>(&mut self, pick: impl Fn(&FaultKind) -> Option<T>) -> Option<T> {
        let (at, found) = self.0.iter().enumerate().find_map(|(at, f)| pick(&f.kind).map(|t| (at, t)))?;
        if let Some(left) = &mut self.0[at].left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.0.remove(at);
            }
        }
        Some(found)
    }

    /// Whether `kind` strikes now.
    pub fn hits(&mut self, kind: &FaultKind) -> bool {
        self.strike(|k| (k == kind).then_some(())).is_some()
    }

    /// Whether `kind` is there; it does not count as a strike.
    pub fn has(&self, kind: &FaultKind) -> bool {
        self.0.iter().any(|f| f.kind == *kind)
    }

    /// As people write them.
    pub fn list(&self) -> Vec<String> {
        self.0.iter().map(Fault::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        for text in
            ["power-lost:0", "power-ignored*2", "power-late:2000", "agent-late:5*1", "panic", "unreadable"]
        {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for text in ["", "\u{1b}[2J", "pancake", "power-late", "panic:5", "panic*x", "power-late:soon"] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("no fault") && !error.contains(char::is_control), "{error:?}");
        }
    }

    /// Else a machine would be refused that can break so, or started and die of a fault that it does not know.
    #[test]
    fn the_inventory_takes_exactly_the_faults_there_are() {
        let words = pitstop_drivers::power::sim::FAULTS;
        let all =
            words.iter().flat_map(|word| ["", ":5", ":x", "*2", ":5*2", "*x", ":"].map(|end| (word, end)));
        for (word, end) in all {
            let text = format!("{}{end}", word.name);
            assert_eq!(word.fits(&text), text.parse::<Fault>().is_ok(), "{text}");
        }
        let listed = KINDS.split(", ").map(|kind| kind.split([':', '[']).next().unwrap_or_default().trim());
        assert!(listed.eq(words.iter().map(|word| word.name)));
    }

    #[test]
    fn a_counted_fault_heals_by_itself() {
        let mut faults = Faults::default();
        faults.add("panic*2".parse().unwrap());
        assert!(faults.has(&FaultKind::Panic));
        assert!(faults.hits(&FaultKind::Panic) && faults.hits(&FaultKind::Panic));
        assert!(!faults.hits(&FaultKind::Panic));
        faults.add("panic".parse().unwrap());
        assert!((0..5).all(|_| faults.hits(&FaultKind::Panic)));
        faults.heal();
        assert!(!faults.hits(&FaultKind::Panic));
    }
}
