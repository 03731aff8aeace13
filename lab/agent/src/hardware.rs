//! A real machine, as `/sys` and `/proc` show it.

use std::fs;
use std::path::{Path, PathBuf};

use pitstop_wire::agent::{Hardware, SeenDisk};

use crate::platform::{Platform, PlatformError};
use crate::sandbox::Place;

/// Block devices that are no disks of the machine.
const NO_DISKS: [&str; 7] = ["loop", "ram", "zram", "sr", "dm-", "md", "nbd"];
/// Parts of an eMMC that are devices of their own: boot partitions and the replay-protected block.
const MMC_PARTS: [&str; 3] = ["boot0", "boot1", "rpmb"];

/// The machine this program runs on.
#[derive(Debug, Clone)]
pub struct RealMachine {
    /// Working directory of commands that name none.
    pub home: Option<String>,
}

impl Platform for RealMachine {
    fn boot_id(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    }

    fn hardware(&self) -> Result<Hardware, PlatformError> {
        Ok(Hardware {
            disks: disks(Path::new("/sys/block"))?,
            macs: cards().into_iter().filter_map(|card| text(&card.join("address"))).collect(),
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        })
    }

    fn place(&self) -> Place {
        Place::Here { home: self.home.clone() }
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Every whole disk with a medium in it.
fn disks(sys_block: &Path) -> Result<Vec<SeenDisk>, PlatformError> {
    let io = |source| PlatformError::Io { what: sys_block.display().to_string(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(sys_block).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let part_of_mmc = MMC_PARTS.iter().any(|part| name.starts_with("mmcblk") && name.ends_with(part));
        if part_of_mmc || NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let sys = entry.path();
        // The kernel counts in 512 bytes here, whatever the device's own sectors are.
        let sectors: u64 = text(&sys.join("size")).and_then(|s| s.parse().ok()).unwrap_or(0);
        if sectors == 0 {
            continue;
        }
        let link = fs::canonicalize(&sys).unwrap_or_else(|_| sys.clone());
        found.push(SeenDisk {
            bytes: sectors.saturating_mul(512),
            serial: serial(&sys),
            bus: bus(&name, &link.to_string_lossy()).to_owned(),
            path: format!("/dev/{}", name.replace('!', "/")),
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// virtio keeps it at the disk, NVMe and MMC at the device; SCSI and SATA in a VPD page (SPC-4 §7.8.15:
/// four bytes of header, then the serial number).
fn serial(sys: &Path) -> Option<String> {
    let plain = ["serial", "device/serial"].iter().find_map(|file| text(&sys.join(file)));
    plain.or_else(|| {
        let page = fs::read(sys.join("device/vpd_pg80")).ok()?;
        let len = usize::from(*page.get(3)?);
        let text = String::from_utf8_lossy(page.get(4..)?.get(..len)?).trim().to_owned();
        (!text.is_empty()).then_some(text)
    })
}

fn bus(name: &str, link: &str) -> &'static str {
    match () {
        () if name.starts_with("nvme") => "nvme",
        () if name.starts_with("mmcblk") => "mmc",
        () if link.contains("/usb") => "usb",
        () if link.contains("/virtio") => "virtio",
        () if link.contains("/ata") => "sata",
        () => "scsi",
    }
}

/// Network cards that are hardware: everything but what the kernel made up itself.
pub(crate) fn cards() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut cards: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|path| path.join("device").exists()).collect();
    cards.sort();
    cards
}

/// MemTotal of /proc/meminfo, in bytes.
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_disks_with_a_medium_are_offered_for_erasing() {
        let dir = tempfile::tempdir().unwrap();
        let device = |name: &str, sectors: &str, serial: Option<&str>| {
            let at = dir.path().join(name);
            fs::create_dir_all(at.join("device")).unwrap();
            fs::write(at.join("size"), sectors).unwrap();
            if let Some(serial) = serial {
                fs::write(at.join("serial"), serial).unwrap();
            }
        };
        device("vda", "2048\n", Some("disk-1\n"));
        device("nvme0n1", "4096\n", None);
        device("mmcblk0", "16\n", None);
        device("mmcblk0boot0", "16\n", None);
        for name in ["loop0", "ram0", "zram0", "sr0", "dm-0", "md0"] {
            device(name, "16\n", None);
        }
        device("sdz", "0\n", None);
        fs::write(dir.path().join("nvme0n1/device/vpd_pg80"), b"\0\x80\0\x04 S42junk").unwrap();
        let found = disks(dir.path()).unwrap();
        let short: Vec<_> =
            found.iter().map(|d| (d.path.as_str(), d.bytes, d.serial.as_deref(), d.bus.as_str())).collect();
        assert_eq!(
            short,
            [
                ("/dev/mmcblk0", 8192, None, "mmc"),
                ("/dev/nvme0n1", 2 << 20, Some("S42"), "nvme"),
                ("/dev/vda", 1 << 20, Some("disk-1"), "scsi"),
            ]
        );
    }

    #[test]
    fn memory_is_told_in_bytes() {
        assert_eq!(memory("MemTotal:         512 kB\nMemFree: 1 kB\n"), 524_288);
        assert_eq!(memory("nonsense"), 0);
    }
}
