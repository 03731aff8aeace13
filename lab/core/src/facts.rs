//! What a machine is, as its boot agent found it: the *baseline*, and how a
//! later report differs from it.
//!
//! A report is a stranger's words. Whoever boots in a machine's place may say
//! what he likes, so it is bounded, stripped and checked before anything is
//! done with it; and a report that is too odd to be one is none.

mod difference;

pub use difference::{Difference, differences, meant_by};

use crate::inventory::units;
use pitstop_wire::agent::{Hardware, SeenDisk, is_placeholder};
use pitstop_wire::selector::{Number, TagValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most disks that a machine is believed to have. One more, and it could hide
/// behind the bound.
const MOST_DISKS: usize = 128;
/// Most network cards that are kept.
const MOST_MACS: usize = 64;
/// Most versions of firmware that are kept.
const MOST_FIRMWARE: usize = 16;
/// Longest name, number or version, in characters.
const LONGEST: usize = 96;
/// Longest path of a device, in bytes.
const LONGEST_PATH: usize = 1024;
/// Largest disk that is believed, in bytes (an exbibyte).
const LARGEST_DISK: u64 = 1 << 60;
/// Most memory that is believed, in bytes (a pebibyte).
const MOST_MEMORY: u64 = 1 << 50;
/// Most processors that are believed.
const MOST_CPUS: u32 = 1 << 16;
const GIB: f64 = (1u64 << 30) as f64;

/// What a machine was found to be when it was enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// What was found.
    pub facts: Hardware,
    /// What selectors see of it. Kept, and not made anew: a later version may
    /// make other tags of the same facts.
    pub tags: BTreeMap<String, TagValue>,
}

impl Baseline {
    /// The baseline that these facts are.
    pub fn of(facts: Hardware) -> Self {
        Self { tags: tags(&facts), facts }
    }
}

/// A report that may be kept: bounded, without control characters, and with
/// numbers that can be.
///
/// # Errors
/// Why this is no report, in words.
pub fn cleaned(report: Hardware) -> Result<Hardware, String> {
    let Hardware { disks, macs, memory, cpus, cores, arch, serial, uuid, model, firmware } = report;
    if disks.len() > MOST_DISKS {
        return Err(format!("{} disks; more than {MOST_DISKS} are not believed", disks.len()));
    }
    if memory > MOST_MEMORY || cpus > MOST_CPUS || cores > MOST_CPUS {
        return Err(format!("{memory} bytes of memory, {cpus} processors, {cores} cores: that cannot be"));
    }
    let mut macs: Vec<String> = macs.iter().filter_map(|mac| units::mac(mac).ok()).collect();
    macs.sort();
    macs.dedup();
    macs.truncate(MOST_MACS);
    let number = |text: Option<String>| text.as_deref().and_then(short).filter(|text| !is_placeholder(text));
    let firmware = firmware.iter().filter_map(|(name, version)| Some((short(name)?, short(version)?)));
    Ok(Hardware {
        disks: disks.into_iter().map(cleaned_disk).collect::<Result<_, _>>()?,
        macs,
        memory,
        cpus,
        cores,
        arch: short(&arch).unwrap_or_default(),
        serial: number(serial),
        uuid: number(uuid).map(|uuid| uuid.to_ascii_lowercase()),
        model: model.as_deref().and_then(short),
        firmware: firmware.take(MOST_FIRMWARE).collect(),
    })
}

fn cleaned_disk(disk: SeenDisk) -> Result<SeenDisk, String> {
    let SeenDisk { path, bytes, serial, bus, wwn, model, firmware } = disk;
    // Cut or stripped it would be the path of another device.
    if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
        return Err("the path of a disk is no path".to_owned());
    }
    if bytes > LARGEST_DISK {
        return Err(format!("disk {path} of {bytes} bytes: that cannot be"));
    }
    let text = |text: Option<String>| text.as_deref().and_then(short);
    Ok(SeenDisk {
        path,
        bytes,
        serial: text(serial).filter(|serial| !is_placeholder(serial)),
        bus: short(&bus).unwrap_or_default(),
        wwn: text(wwn),
        model: text(model),
        firmware: text(firmware),
    })
}

/// A name or number without what a terminal would obey, cut to a length that
/// does no harm; `None` where nothing is left.
fn short(text: &str) -> Option<String> {
    let plain = |c: &char| !c.is_control() && !is_directional(*c);
    let text: String = text.trim().chars().filter(plain).take(LONGEST).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A number that was kept whole: one that was cut finds no disk.
pub(crate) fn whole(number: &str) -> Option<String> {
    (number.chars().count() < LONGEST).then(|| number.to_owned())
}

/// Characters that turn the direction of what stands behind them.
fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The baseline with what was not known before and is now. What was known
/// stays as it was: only a person accepts another.
#[must_use]
pub fn filled(baseline: &Hardware, now: &Hardware) -> Hardware {
    let known = |was: u64, is: u64| if was == 0 { is } else { was };
    let text = |was: &Option<String>, is: &Option<String>| was.clone().or_else(|| is.clone());
    let mut firmware = now.firmware.clone();
    firmware.extend(baseline.firmware.clone());
    let disk = |disk: &SeenDisk| match difference::same_disk(disk, &now.disks) {
        Some(is) => SeenDisk {
            serial: text(&disk.serial, &is.serial),
            wwn: text(&disk.wwn, &is.wwn),
            model: text(&disk.model, &is.model),
            firmware: text(&disk.firmware, &is.firmware),
            ..disk.clone()
        },
        None => disk.clone(),
    };
    Hardware {
        disks: baseline.disks.iter().map(disk).collect(),
        macs: if baseline.macs.is_empty() { now.macs.clone() } else { baseline.macs.clone() },
        memory: known(baseline.memory, now.memory),
        cpus: known(baseline.cpus.into(), now.cpus.into()) as u32,
        cores: known(baseline.cores.into(), now.cores.into()) as u32,
        arch: if baseline.arch.is_empty() { now.arch.clone() } else { baseline.arch.clone() },
        serial: text(&baseline.serial, &now.serial),
        uuid: text(&baseline.uuid, &now.uuid),
        model: text(&baseline.model, &now.model),
        firmware,
    }
}

/// What selectors see of facts.
fn tags(facts: &Hardware) -> BTreeMap<String, TagValue> {
    let number = |n: f64| Number::new(n).filter(|n| n.get() > 0.0).map(TagValue::Number);
    let text = |text: &Option<String>| text.clone().map(TagValue::Text);
    let cores = if facts.cores > 0 { facts.cores } else { facts.cpus };
    let all = [
        ("ram", number(ram(facts.memory))),
        ("cores", number(f64::from(cores))),
        ("arch", Some(TagValue::Text(facts.arch.clone())).filter(|_| !facts.arch.is_empty())),
        ("model", text(&facts.model)),
        ("serial", text(&facts.serial)),
        ("bios", text(&facts.firmware.get("bios").cloned())),
        ("nics", number(facts.macs.len() as f64)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// Memory in GiB as it is sold. The kernel keeps some for itself and tells of
/// the rest: it is rounded up to an eighth of the next power of two.
fn ram(bytes: u64) -> f64 {
    let step = (bytes.checked_next_power_of_two().unwrap_or(bytes) / 8).max(1);
    (bytes.div_ceil(step) * step) as f64 / GIB
}

#[cfg(test)]
mod tests;
