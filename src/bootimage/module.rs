//! One kernel module: reading its file, however it is packed, and what it says about itself.

use std::io::Read;
use std::path::Path;

use super::BootImageError;
use super::elf::Elf;
use super::modinfo::{name_of, needs};
use super::pipe;
use super::tree;

/// Largest module, unpacked, in bytes. The largest of a Debian kernel, amdgpu, has 12 MB.
pub(super) const MAX_MODULE: u64 = 64 << 20;
/// What a module's file may end with.
pub(super) const ENDINGS: [&str; 4] = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"];

/// A module as a boot image needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Below `/lib/modules/VERSION`, with the ending `.ko`.
    pub(super) path: String,
    /// Its name, with `_`.
    pub(super) name: String,
    /// Must be loaded before it.
    pub(super) depends: Vec<String>,
    /// Should be loaded before it, where they exist (`softdep=pre:` of modprobe.d(5)).
    pub(super) hopes: Vec<String>,
    /// The ELF file, not compressed: not every kernel can unpack modules itself, and the whole initrd is
    /// compressed better than its parts. A signature at its end stays.
    pub(super) bytes: Vec<u8>,
}

/// Reads the module in `file`, which is called `path` below the kernel's modules.
pub(super) fn read(file: &Path, path: &str) -> Result<Module, BootImageError> {
    let bytes = unpacked(file)?;
    let bad = |why: &str| BootImageError::BadModule { file: file.to_owned(), why: why.to_owned() };
    let elf = Elf::parse(&bytes).ok_or_else(|| bad("not an ELF file of 64 bits, little-endian"))?;
    let info = elf.section(".modinfo").ok_or_else(|| bad("no .modinfo section"))?;
    let (depends, hopes) = needs(info).map_err(|why| bad(&why))?;
    let (stem, _) = split_ending(path).ok_or_else(|| bad("its name does not end as modules' names do"))?;
    let name = name_of(stem.rsplit('/').next().unwrap_or(stem)).ok_or_else(|| bad("its name is none"))?;
    Ok(Module { path: format!("{stem}.ko"), name, depends, hopes, bytes })
}

/// A path without the ending of modules, and the ending.
pub(super) fn split_ending(path: &str) -> Option<(&str, &'static str)> {
    ENDINGS.iter().find_map(|ending| Some((path.strip_suffix(ending)?, *ending)))
}

fn unpacked(file: &Path) -> Result<Vec<u8>, BootImageError> {
    let opened = tree::open_regular(file)?;
    let reading = BootImageError::file("read", file);
    let bytes = match split_ending(&file.to_string_lossy()).map_or(".ko", |(_, ending)| ending) {
        ".ko.xz" => return pipe::through("xz", &["-dc"], opened, MAX_MODULE, file),
        ".ko.gz" => return pipe::through("gzip", &["-dc"], opened, MAX_MODULE, file),
        ".ko.zst" => zstd::stream::read::Decoder::new(opened).and_then(|frame| at_most(frame, MAX_MODULE)),
        _ => at_most(opened, MAX_MODULE),
    };
    let too_big = || BootImageError::TooBig { file: file.to_owned(), kind: "a module", limit: MAX_MODULE };
    bytes.map_err(reading)?.ok_or_else(too_big)
}

/// Everything, or `None` if it is more than `limit` bytes.
pub(super) fn at_most(from: impl Read, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::testing::module;
    use super::*;
    use std::process::Command;

    #[test]
    fn each_way_of_packing_gives_the_same_module() {
        let dir = tempfile::tempdir().unwrap();
        let elf = module("depends=virtio\0");
        let plain = dir.path().join("virtio-net.ko");
        std::fs::write(&plain, &elf).unwrap();
        std::fs::write(dir.path().join("virtio-net.ko.zst"), zstd::encode_all(&elf[..], 3).unwrap()).unwrap();
        for program in ["xz", "gzip"] {
            assert!(Command::new(program).args(["-k", "-f"]).arg(&plain).status().unwrap().success());
        }
        for ending in ENDINGS {
            let name = format!("virtio-net{ending}");
            let read = read(&dir.path().join(&name), &format!("kernel/{name}")).unwrap();
            assert_eq!(read.path, "kernel/virtio-net.ko", "the initrd holds it unpacked");
            assert_eq!(read.name, "virtio_net");
            assert_eq!(read.depends, ["virtio"]);
            assert_eq!(read.bytes, elf, "{ending}");
        }
    }

    #[test]
    fn a_file_that_unpacks_without_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let bomb = dir.path().join("bomb.ko.zst");
        let zeroes = std::io::repeat(0).take(MAX_MODULE + 1);
        std::fs::write(&bomb, zstd::encode_all(zeroes, 1).unwrap()).unwrap();
        assert!(matches!(read(&bomb, "bomb.ko.zst"), Err(BootImageError::TooBig { .. })));
    }

    #[test]
    fn garbage_is_no_module() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.ko", "a.ko.zst", "a.ko.xz", "a.ko.gz"] {
            let file = dir.path().join(name);
            std::fs::write(&file, b"\x7fELF, honestly").unwrap();
            assert!(read(&file, name).is_err(), "{name}");
        }
    }
}
