//! A CD that boots the agent, under BIOS and under UEFI: kernel, initrd and GRUB, and a block for what one
//! machine is told, which the daemon fills in while it serves the file.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use pitstop_drivers::boot::medium::{BLOCK_FILE, empty_block, has_block};

use super::elf::Machine;
use super::module::at_most;
use super::{BootImageError, INITRD, KERNEL, MEDIUM, pipe, tree};

/// What GRUB does. Where it cannot start the kernel, the machine goes off: that is seen at once.
const CONFIGURATION: &str = "\
set timeout=0
set pager=0
source /pitstop/machine.cfg
if [ -n \"$pitstop_words\" ]; then
  echo \"pitstop: the boot agent is loaded from this medium\"
  linux /boot/vmlinuz $pitstop_append $pitstop_words
  initrd /boot/initrd
  boot
  echo \"pitstop: the boot agent could not be started\"
else
  echo \"pitstop: this medium boots only where the daemon serves it\"
fi
sleep 10
halt
";
/// What the configuration needs, and what GRUB looks for by itself. All of its modules would double the CD,
/// and some BMCs copy it first.
const MODULES: &str = "normal linux configfile test echo sleep halt boot iso9660 fat search search_fs_file \
search_fs_uuid search_label part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_gpt part_msdos \
part_plan part_sun part_sunpc";
/// More than any kernel and initrd with GRUB.
const MAX_BYTES: u64 = 1 << 30;
/// A sector of a CD (ECMA-119, section 6.1.2).
const SECTOR: usize = 2048;

/// Makes the CD.
///
/// # Errors
/// A program is missing or fails, or what it made does not boot everywhere.
pub(super) fn make(machine: Machine, kernel: &[u8], initrd: &[u8]) -> Result<Vec<u8>, BootImageError> {
    if machine != Machine::X86_64 {
        return Err(BootImageError::Medium(format!("there is none for {machine} yet, only for x86_64")));
    }
    let dir = tempfile::tempdir().map_err(BootImageError::file("make a temporary directory for", MEDIUM))?;
    let (root, iso) = (dir.path().join("root"), dir.path().join(MEDIUM));
    let block = empty_block();
    for (path, bytes) in [
        (&format!("boot/{KERNEL}")[..], kernel),
        (&format!("boot/{INITRD}"), initrd),
        ("boot/grub/grub.cfg", CONFIGURATION.as_bytes()),
        (BLOCK_FILE, &block),
    ] {
        let file = root.join(path);
        let put = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, bytes));
        put.map_err(BootImageError::file("write", &file))?;
    }
    run_grub(&root, &iso)?;
    let made = at_most(tree::open_regular(&iso)?, MAX_BYTES).map_err(BootImageError::file("read", &iso))?;
    let made = made.ok_or_else(|| BootImageError::Medium("it has more bytes than any".to_owned()))?;
    check(&made).map_err(BootImageError::Medium)?;
    Ok(made)
}

fn run_grub(root: &Path, iso: &Path) -> Result<(), BootImageError> {
    let modules = format!("--install-modules={MODULES}");
    let args: [&OsStr; 11] = [
        "--output".as_ref(),
        iso.as_ref(),
        modules.as_ref(),
        "--fonts=".as_ref(),
        "--locales=".as_ref(),
        "--themes=".as_ref(),
        "--compress=no".as_ref(),
        root.as_ref(),
        "--".as_ref(),
        "-volid".as_ref(),
        "PITSTOP".as_ref(),
    ];
    let nothing = fs::File::open("/dev/null").map_err(BootImageError::file("open", "/dev/null"))?;
    match pipe::through("grub-mkrescue", &args, nothing, 1 << 20, Path::new(MEDIUM)) {
        Ok(_) => Ok(()),
        Err(e @ BootImageError::Program { .. }) => Err(BootImageError::Medium(e.to_string())),
        Err(e) => Err(e),
    }
}

/// Whether the CD is what is wanted. `grub-mkrescue` makes one for those firmwares that it has GRUB for, and
/// is content with it.
fn check(iso: &[u8]) -> Result<(), String> {
    let platforms = platforms(iso).ok_or("grub-mkrescue made no bootable CD")?;
    for (platform, name) in [(BIOS, "BIOS"), (EFI, "UEFI")] {
        if !platforms.contains(&platform) {
            return Err(format!("grub-mkrescue made a CD that does not boot under {name}"));
        }
    }
    has_block(iso)
}

const BIOS: u8 = 0;
const EFI: u8 = 0xef;

/// What firmwares a CD is for ("El Torito" Bootable CD-ROM Format Specification 1.0, section 2).
fn platforms(iso: &[u8]) -> Option<Vec<u8>> {
    let record = iso.get(17 * SECTOR..18 * SECTOR)?;
    if !record.starts_with(b"\0CD001\x01EL TORITO SPECIFICATION") {
        return None;
    }
    let catalog = u32::from_le_bytes(record.get(0x47..0x4b)?.try_into().ok()?);
    let entries = iso.get(usize::try_from(catalog).ok()?.checked_mul(SECTOR)?..)?;
    let mut entries = entries.chunks_exact(32);
    let validation = entries.next()?;
    let first = entries.next()?;
    if validation[0] != 1 || first[0] != 0x88 {
        return None;
    }
    let mut found = vec![validation[1]];
    // A header for each further firmware, and the entries it counts; 0x91 is the last.
    while let Some(header) = entries.next().filter(|entry| matches!(entry[0], 0x90 | 0x91)) {
        found.push(header[1]);
        let count = u16::from_le_bytes([header[2], header[3]]);
        if header[0] == 0x91 || (count > 0 && entries.nth(usize::from(count) - 1).is_none()) {
            break;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cd_boots_where_its_catalog_says() {
        let mut iso = vec![0; 64 * SECTOR];
        assert_eq!(platforms(&iso), None);
        iso[17 * SECTOR..17 * SECTOR + 30].copy_from_slice(b"\0CD001\x01EL TORITO SPECIFICATION");
        iso[17 * SECTOR + 0x47] = 40;
        assert_eq!(platforms(&iso), None, "its catalog has nothing");
        let at = 40 * SECTOR;
        (iso[at], iso[at + 32]) = (1, 0x88);
        assert_eq!(platforms(&iso), Some(vec![BIOS]));
        assert!(check(&iso).unwrap_err().contains("under UEFI"));
        (iso[at + 64], iso[at + 65], iso[at + 66]) = (0x91, EFI, 1);
        assert_eq!(platforms(&iso), Some(vec![BIOS, EFI]));
        assert!(check(&iso).unwrap_err().contains("no block"), "and nobody could be told anything");
        let far = u32::MAX.to_le_bytes();
        iso[17 * SECTOR + 0x47..17 * SECTOR + 0x4b].copy_from_slice(&far);
        assert_eq!(platforms(&iso), None, "a catalog behind the end");
    }

    #[test]
    fn grub_makes_a_cd_for_both_firmwares_with_one_block() {
        let iso = make(Machine::X86_64, &super::super::testing::kernel(), b"initrd").unwrap();
        assert_eq!(platforms(&iso), Some(vec![BIOS, EFI]));
        let other = make(Machine::Aarch64, b"", b"").unwrap_err().to_string();
        assert!(other.contains("none for aarch64"), "{other}");
    }
}
