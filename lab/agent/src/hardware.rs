//! A real machine, as `/sys` and `/proc` show it.

use std::fs;
use std::path::{Path, PathBuf};

use pitstop_wire::agent::{Hardware, SeenDisk};

use crate::facts;
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
        found(Path::new("/"))
    }

    fn place(&self) -> Place {
        Place::Here { home: self.home.clone() }
    }
}

/// The machine whose `/sys` and `/proc` are below `root`.
fn found(root: &Path) -> Result<Hardware, PlatformError> {
    let system = facts::system(root);
    Ok(Hardware {
        disks: disks(&root.join("sys/block"))?,
        macs: cards_of(root).into_iter().filter_map(|card| text(&card.join("address"))).collect(),
        memory: memory(&fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default()),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        cores: facts::cores(root),
        arch: std::env::consts::ARCH.to_owned(),
        serial: system.serial,
        uuid: system.uuid,
        model: system.model,
        firmware: system.firmware,
    })
}

/// A file of `/sys`, in one line and without what a terminal would obey. What
/// the device tree has ends with a zero byte.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text: String = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect();
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
            wwn: ["wwid", "device/wwid"].iter().find_map(|file| text(&sys.join(file))),
            // Where it is called something at all: `name` is what an MMC has.
            model: ["device/model", "device/name"].iter().find_map(|file| text(&sys.join(file))),
            firmware: ["device/firmware_rev", "device/rev", "device/fwrev"]
                .iter()
                .find_map(|file| text(&sys.join(file))),
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
        let text = String::from_utf8_lossy(page.get(4..)?.get(..len)?);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
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
    cards_of(Path::new("/"))
}

fn cards_of(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("sys/class/net")) else { return Vec::new() };
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

    /// A machine's files as data: `path = content`, one a line.
    fn tree(lines: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/block")).unwrap();
        for line in lines.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (path, content) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content = content.replace("\\0", "\0").replace("\\e", "\u{1b}");
            fs::write(path, content + "\n").unwrap();
        }
        dir
    }

    #[test]
    fn a_server_is_known_by_what_its_firmware_says() {
        let tree = tree(include_str!("testdata/server.tree"));
        let found = found(tree.path()).unwrap();
        assert_eq!(found.serial.as_deref(), Some("7XK2M93"));
        assert_eq!(found.uuid.as_deref(), Some("4c4c4544-0058-4b10-8032-b7c04f4d3933"));
        assert_eq!(found.model.as_deref(), Some("Dell Inc. PowerEdge R640"));
        assert_eq!(found.firmware["bios"], "2.19.1 (06/04/2023)");
        assert_eq!((found.memory >> 20, found.cores), (63_975, 2), "two threads of a core are one core");
        // Those that are hardware: not what the kernel made up.
        assert_eq!(found.macs, ["e4:43:4b:6a:10:03", "e4:43:4b:6a:10:04"]);
        let disks: Vec<_> = (found.disks.iter())
            .map(|d| (d.path.as_str(), d.serial.as_deref(), d.wwn.as_deref(), d.firmware.as_deref()))
            .collect();
        assert_eq!(
            disks,
            [
                ("/dev/nvme0n1", Some("S3Z8NB0K512345"), Some("eui.0025385b71b0a2c1"), Some("EPK9CB5Q")),
                ("/dev/sda", None, Some("naa.5000c500a1b2c3d4"), Some("N004")),
            ]
        );
        assert_eq!(found.disks[0].model.as_deref(), Some("SAMSUNG MZQLB960HAJR-00007"));
    }

    #[test]
    fn a_board_whose_firmware_was_never_filled_in_is_known_by_its_mainboard() {
        let tree = tree(include_str!("testdata/placeholder.tree"));
        let found = found(tree.path()).unwrap();
        assert_eq!(found.serial.as_deref(), Some("M80-C4007301234"));
        assert_eq!(found.uuid, None, "the sample of a maker of firmware");
        assert_eq!(found.model.as_deref(), Some("ASRock J3455M"));
    }

    #[test]
    fn a_board_with_a_device_tree_is_known_by_it() {
        let tree = tree(include_str!("testdata/board.tree"));
        let found = found(tree.path()).unwrap();
        assert_eq!(found.serial.as_deref(), Some("100000003d1d1c36"));
        assert_eq!(found.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
        assert_eq!(found.firmware["u-boot"], "2023.01");
        assert_eq!(found.disks[0].serial.as_deref(), Some("0x1b534d45"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_reported() {
        let tree = tree("sys/class/dmi/id/product_serial = \\e[2JABC\\0D");
        assert_eq!(found(tree.path()).unwrap().serial.as_deref(), Some("[2JABCD"));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_one_all_the_same() {
        let found = found(tree("").path()).unwrap();
        assert_eq!((found.serial, found.uuid, found.model, found.cores), (None, None, None, 0));
        assert!(found.firmware.is_empty() && found.disks.is_empty() && !found.arch.is_empty());
    }

    #[test]
    fn memory_is_told_in_bytes() {
        assert_eq!(memory("MemTotal:         512 kB\nMemFree: 1 kB\n"), 524_288);
        assert_eq!(memory("nonsense"), 0);
    }
}
