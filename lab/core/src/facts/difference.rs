//! How what a machine is now differs from what was enrolled, and whether
//! anything may still be written there.

use crate::inventory::model::{DiskMatch, DiskSpec};
use pitstop_wire::agent::{Hardware, SeenDisk};

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What, how it was, how it is.
    pub text: String,
    /// Another machine, another disk, or a part of the memory gone: nothing is
    /// written there. Else it is only told.
    pub grave: bool,
}

/// What differs between what was enrolled and what is there now. What was not
/// known, or is not told any more, is no difference, but for the numbers that
/// tell one machine or disk from another.
pub fn differences(disks: &[DiskSpec], was: &Hardware, is: &Hardware) -> Vec<Difference> {
    let mut found = Found(Vec::new());
    machine(was, is, &mut found);
    strange_disks(was, is, &mut found);
    for disk in disks {
        meant(disk, was, is, &mut found);
    }
    memory(was.memory, is.memory, &mut found);
    counted("processor cores", was.cores, is.cores, &mut found);
    counted("processors", was.cpus, is.cpus, &mut found);
    cards(was, is, &mut found);
    for (name, was) in &was.firmware {
        if let Some(is) = is.firmware.get(name).filter(|is| *is != was) {
            found.told(format!("firmware {name} is {is}, was {was}"));
        }
    }
    found.0
}

struct Found(Vec<Difference>);

impl Found {
    fn grave(&mut self, text: String) {
        self.0.push(Difference { text, grave: true });
    }

    fn told(&mut self, text: String) {
        self.0.push(Difference { text, grave: false });
    }
}

/// The same machine? Its serial number says, else its UUID, else what it is
/// called. One that had a number and has none is another.
fn machine(was: &Hardware, is: &Hardware, found: &mut Found) {
    let none = "none";
    let same = match (&was.serial, &is.serial) {
        (Some(was), Some(is)) => Some(was == is),
        _ => match (&was.uuid, &is.uuid) {
            (Some(was), Some(is)) => Some(was == is),
            _ => None,
        },
    };
    let now = |number: &Option<String>| number.clone().unwrap_or_else(|| none.to_owned());
    match (&was.serial, &was.uuid) {
        (Some(serial), _) if same != Some(true) => {
            found.grave(format!("its serial number is {}, was {serial}: another machine", now(&is.serial)));
        }
        (None, Some(uuid)) if same != Some(true) => {
            found.grave(format!("its UUID is {}, was {uuid}: another machine", now(&is.uuid)));
        }
        (Some(serial), _) if is.serial.is_none() => {
            found.told(format!("its serial number is not told any more, was {serial}"));
        }
        _ => {}
    }
    let changed = |was: &str, is: &str| !was.is_empty() && !is.is_empty() && was != is;
    if changed(&was.arch, &is.arch) {
        found.grave(format!("its architecture is {}, was {}: another machine", is.arch, was.arch));
    }
    if let (Some(was), Some(is)) = (&was.model, &is.model)
        && was != is
    {
        let text = format!("it is called {is}, was {was}");
        if same.is_some() { found.told(text) } else { found.grave(text + ": another machine") }
    }
}

/// Disks that were not enrolled, and those that are gone.
fn strange_disks(was: &Hardware, is: &Hardware, found: &mut Found) {
    let (mut left, mut strange): (Vec<&SeenDisk>, Vec<&SeenDisk>) = (was.disks.iter().collect(), Vec::new());
    // Those that are known by number first, so that one without does not take
    // the place of another.
    let (sure, rest): (Vec<_>, Vec<_>) =
        is.disks.iter().partition(|disk| left.iter().any(|was| by_number(was, disk) == Some(true)));
    for disk in sure.into_iter().chain(rest) {
        match left.iter().position(|was| is_same(was, disk)) {
            Some(at) => told_of_disk(left.remove(at), disk, found),
            None => strange.push(disk),
        }
    }
    for disk in strange {
        found.grave(format!("disk {} is none of those that were enrolled", named(disk)));
    }
    for disk in left {
        found.told(format!("disk {} is gone", named(disk)));
    }
}

fn told_of_disk(was: &SeenDisk, is: &SeenDisk, found: &mut Found) {
    if was.bytes != is.bytes {
        found.told(format!("disk {} has {} bytes, had {}", named(is), is.bytes, was.bytes));
    }
    if let (Some(was), Some(now)) = (&was.firmware, &is.firmware)
        && was != now
    {
        found.told(format!("firmware of disk {} is {now}, was {was}", named(is)));
    }
}

/// The disk that a name of the inventory means must be the one it meant.
/// Where a path says which, the agent is told the serial number as well: what
/// paths a kernel gives may change from boot to boot.
fn meant(spec: &DiskSpec, was: &Hardware, is: &Hardware, found: &mut Found) {
    if spec.matching.path.is_some() {
        return;
    }
    let (Some(was), Some(is)) = (meant_by(&spec.matching, was), meant_by(&spec.matching, is)) else { return };
    // One that was never enrolled is named already.
    if !is_same(was, is) && by_number(was, is).is_some() {
        found.grave(format!("disk {} of the inventory is {}, was {}", spec.name, named(is), named(was)));
    }
}

/// The one disk that the inventory's keys fit, as the agent chooses it.
pub fn meant_by<'h>(matching: &DiskMatch, hardware: &'h Hardware) -> Option<&'h SeenDisk> {
    let DiskMatch { path, serial, bus, min, max, by: _ } = matching;
    let fits = |disk: &&SeenDisk| {
        path.as_ref().is_none_or(|path| *path == disk.path)
            && serial.as_ref().is_none_or(|serial| disk.serial.as_ref() == Some(serial))
            && bus.as_ref().is_none_or(|bus| *bus == disk.bus)
            && min.is_none_or(|min| disk.bytes >= min)
            && max.is_none_or(|max| disk.bytes <= max)
    };
    let mut fitting = hardware.disks.iter().filter(fits);
    fitting.next().filter(|_| fitting.next().is_none())
}

/// Which of `disks` a disk of the baseline is.
pub(super) fn same_disk<'d>(was: &SeenDisk, disks: &'d [SeenDisk]) -> Option<&'d SeenDisk> {
    let sure = disks.iter().find(|is| by_number(was, is) == Some(true));
    sure.or_else(|| {
        // Without a number two may look alike, and neither is known to be it.
        let mut alike = disks.iter().filter(|is| is_same(was, is));
        alike.next().filter(|_| alike.next().is_none())
    })
}

/// Whether these are the same disk by their numbers, as far as both have any.
fn by_number(was: &SeenDisk, is: &SeenDisk) -> Option<bool> {
    let both = |was: &Option<String>, is: &Option<String>| Some(was.as_ref()? == is.as_ref()?);
    match (both(&was.serial, &is.serial), both(&was.wwn, &is.wwn)) {
        (None, None) => None,
        (serial, wwn) => Some(serial.unwrap_or(true) && wwn.unwrap_or(true)),
    }
}

/// Whether this is that disk. One that had a number and has none is another;
/// one that had none is known by what else there is of it.
fn is_same(was: &SeenDisk, is: &SeenDisk) -> bool {
    by_number(was, is).unwrap_or_else(|| {
        let model = |disk: &SeenDisk| disk.model.clone();
        was.serial.is_none()
            && was.wwn.is_none()
            && was.bytes == is.bytes
            && was.bus == is.bus
            && (was.model.is_none() || is.model.is_none() || model(was) == model(is))
    })
}

/// A disk in words.
fn named(disk: &SeenDisk) -> String {
    let number = disk.serial.as_ref().map(|serial| format!("serial {serial}"));
    let number = number.or_else(|| disk.wwn.clone()).unwrap_or_else(|| "without a number".to_owned());
    let model = disk.model.as_ref().map(|model| format!(", {model}")).unwrap_or_default();
    format!("{} ({number}{model}, {} bytes)", disk.path, disk.bytes)
}

/// Less by more than a sixteenth is a part that broke or was taken: who asked
/// for a machine with that much must not get this one. Anything less may be
/// what another kernel keeps for itself.
fn memory(was: u64, is: u64, found: &mut Found) {
    if was == 0 || is == 0 {
        return;
    }
    let text = format!("it has {} MiB of memory, had {}", is >> 20, was >> 20);
    if is < was - was / 16 {
        found.grave(text);
    } else if is.abs_diff(was) > was / 64 {
        found.told(text);
    }
}

fn counted(what: &str, was: u32, is: u32, found: &mut Found) {
    if was != is && was != 0 && is != 0 {
        found.told(format!("it has {is} {what}, had {was}"));
    }
}

fn cards(was: &Hardware, is: &Hardware, found: &mut Found) {
    if was.macs.is_empty() {
        return;
    }
    for mac in is.macs.iter().filter(|mac| !was.macs.contains(mac)) {
        found.told(format!("network card {mac} is new"));
    }
    for mac in was.macs.iter().filter(|mac| !is.macs.contains(mac)) {
        found.told(format!("network card {mac} is gone"));
    }
}
