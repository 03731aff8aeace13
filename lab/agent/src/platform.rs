//! What differs between a machine and a simulated machine.

use std::path::{Path, PathBuf};

use pitstop_wire::agent::{DiskMatch, Hardware, SeenDisk};

use crate::sandbox::{Namespaces, Place};

/// Why the machine could not be looked at, or a disk not be told from the others.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The system refused.
    #[error("cannot read {what}: {source}")]
    Io {
        /// What was read.
        what: String,
        /// What came back.
        source: std::io::Error,
    },
    /// No disk fits.
    #[error("no disk fits {wanted}; this machine has {seen}")]
    NoDisk {
        /// The keys of the inventory.
        wanted: String,
        /// The disks there are.
        seen: String,
    },
    /// More than one disk fits, and guessing would erase the wrong one.
    #[error("{fitting} fit {wanted}; name the serial number or the path in the inventory")]
    ManyDisks {
        /// The keys of the inventory.
        wanted: String,
        /// The disks that fit.
        fitting: String,
    },
}

/// A machine as the agent sees it.
pub trait Platform: Send + Sync {
    /// New with every boot.
    fn boot_id(&self) -> String;
    /// Disks, network cards, memory, processors.
    ///
    /// # Errors
    /// The system does not tell.
    fn hardware(&self) -> Result<Hardware, PlatformError>;
    /// Where commands run.
    fn place(&self) -> Place;
    /// The one disk that fits.
    ///
    /// # Errors
    /// None or several fit.
    fn find_disk(&self, find: &DiskMatch) -> Result<SeenDisk, PlatformError> {
        choose(find, &self.hardware()?.disks)
    }
    /// A disk was written and is read back next. Disks of simulated machines fail here.
    fn written(&self, _disk: &Path) {}
}

/// A machine in a process: one disk, which is a file.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// The boot id of this boot.
    pub boot_id: String,
    /// The disk file.
    pub disk: PathBuf,
    /// The disk's serial number.
    pub serial: Option<String>,
    /// The network card's address.
    pub mac: String,
    /// Memory in bytes that the machine claims.
    pub memory: u64,
    /// Processors that it claims.
    pub cpus: u32,
    /// Where its commands run.
    pub namespaces: Namespaces,
}

impl Platform for Simulated {
    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn hardware(&self) -> Result<Hardware, PlatformError> {
        let what = self.disk.display().to_string();
        let meta = std::fs::metadata(&self.disk)
            .map_err(|source| PlatformError::Io { what: what.clone(), source })?;
        let disk = SeenDisk {
            path: what,
            bytes: meta.len(),
            serial: self.serial.clone(),
            bus: "virtio".into(),
            ..SeenDisk::default()
        };
        Ok(Hardware {
            disks: vec![disk],
            macs: vec![self.mac.clone()],
            memory: self.memory,
            cpus: self.cpus,
            ..Hardware::default()
        })
    }

    fn place(&self) -> Place {
        Place::Namespaces(self.namespaces.clone())
    }
}

/// The one disk that agrees with every given key.
fn choose(find: &DiskMatch, disks: &[SeenDisk]) -> Result<SeenDisk, PlatformError> {
    let fitting: Vec<&SeenDisk> = disks.iter().filter(|disk| fits(find, disk)).collect();
    let wanted = || serde_json::to_string(find).unwrap_or_default();
    match fitting.as_slice() {
        [disk] => Ok((*disk).clone()),
        [] => Err(PlatformError::NoDisk { wanted: wanted(), seen: list(disks.iter()) }),
        many => Err(PlatformError::ManyDisks { wanted: wanted(), fitting: list(many.iter().copied()) }),
    }
}

fn fits(find: &DiskMatch, disk: &SeenDisk) -> bool {
    find.path.as_ref().is_none_or(|path| same_path(path, &disk.path))
        && find.serial.as_ref().is_none_or(|serial| disk.serial.as_ref() == Some(serial))
        && find.bus.as_ref().is_none_or(|bus| *bus == disk.bus)
        && find.min_bytes.is_none_or(|min| disk.bytes >= min)
        && find.max_bytes.is_none_or(|max| disk.bytes <= max)
}

/// The inventory may use a stable name, `/dev/disk/by-path/…`, or a path relative to elsewhere.
fn same_path(wanted: &str, seen: &str) -> bool {
    let resolved = |path: &str| std::fs::canonicalize(path).ok();
    wanted == seen || resolved(wanted).is_some_and(|path| Some(path) == resolved(seen))
}

fn list<'a>(disks: impl Iterator<Item = &'a SeenDisk>) -> String {
    let list: Vec<String> = disks
        .map(|d| {
            let serial = d.serial.as_deref().unwrap_or("no serial");
            format!("{} ({}, {}, {} bytes)", d.path, d.bus, serial, d.bytes)
        })
        .collect();
    if list.is_empty() { "no disk".into() } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Vec<SeenDisk> {
        let disk = |path: &str, bytes, serial: Option<&str>, bus: &str| SeenDisk {
            path: path.into(),
            bytes,
            serial: serial.map(Into::into),
            bus: bus.into(),
            ..SeenDisk::default()
        };
        vec![disk("/dev/sda", 100, Some("A1"), "sata"), disk("/dev/sdb", 200, None, "sata")]
    }

    #[test]
    fn exactly_one_disk_must_fit_every_key() {
        let find = |change: fn(&mut DiskMatch)| {
            let mut find = DiskMatch::default();
            change(&mut find);
            choose(&find, &disks())
        };
        assert_eq!(find(|f| f.serial = Some("A1".into())).unwrap().path, "/dev/sda");
        assert_eq!(find(|f| f.min_bytes = Some(150)).unwrap().path, "/dev/sdb");
        assert!(matches!(find(|f| f.bus = Some("sata".into())), Err(PlatformError::ManyDisks { .. })));
        assert!(matches!(find(|_| ()), Err(PlatformError::ManyDisks { .. })), "no key is no permission");
        let none = find(|f| {
            f.serial = Some("A1".into());
            f.path = Some("/dev/sdb".into());
        });
        assert!(none.unwrap_err().to_string().contains("/dev/sda (sata, A1, 100 bytes)"));
    }
}
