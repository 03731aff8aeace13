//! The archive that a kernel unpacks into its first file system: cpio, format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::collections::BTreeMap;

use super::BootImageError;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
/// Archives are padded to whole blocks, as cpio itself does.
const BLOCK: usize = 512;

#[derive(Debug)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    body: Vec<u8>,
}

/// An archive in the making. Everything belongs to root and is from 1970, and the order is that of the
/// names, so the same content gives the same bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// A directory. Those above it are made as well, with mode 0755.
    pub(super) fn dir(&mut self, path: &str, mode: u32) -> Result<(), BootImageError> {
        self.put(path, DIRECTORY | mode, (0, 0), Vec::new())
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, mode: u32, body: Vec<u8>) -> Result<(), BootImageError> {
        self.put(path, REGULAR | mode, (0, 0), body)
    }

    /// A symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<(), BootImageError> {
        self.put(path, SYMLINK | 0o777, (0, 0), target.as_bytes().to_vec())
    }

    /// A character device; needs no root, since it is only written down.
    pub(super) fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), BootImageError> {
        self.put(path, CHARACTER | mode, (major, minor), Vec::new())
    }

    fn put(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        body: Vec<u8>,
    ) -> Result<(), BootImageError> {
        let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !path.split('/').all(good) || path == TRAILER {
            return Err(BootImageError::BadPath(path.to_owned()));
        }
        for (at, _) in path.match_indices('/') {
            let parent = Entry { mode: DIRECTORY | 0o755, device: (0, 0), body: Vec::new() };
            self.entries.entry(path[..at].to_owned()).or_insert(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, device, body });
        Ok(())
    }

    /// The bytes of the archive, not compressed.
    pub(super) fn encode(&self) -> Result<Vec<u8>, BootImageError> {
        let mut out = Vec::with_capacity(self.entries.values().map(|e| e.body.len() + 256).sum());
        // A directory's name is a prefix of what is in it, so the order of names puts it first.
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut out, number, path, entry)?;
        }
        append(&mut out, 0, TRAILER, &Entry { mode: 0, device: (0, 0), body: Vec::new() })?;
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        Ok(out)
    }
}

fn append(out: &mut Vec<u8>, number: u32, path: &str, entry: &Entry) -> Result<(), BootImageError> {
    let too_large = |_| BootImageError::FileTooLarge(path.to_owned());
    let size = u32::try_from(entry.body.len()).map_err(too_large)?;
    let name = u32::try_from(path.len() + 1).map_err(too_large)?;
    let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    let (owner, group, time, on_major, on_minor, checksum) = (0, 0, 0, 0, 0, 0);
    let (major, minor) = entry.device;
    out.extend_from_slice(MAGIC.as_bytes());
    for field in [
        number, entry.mode, owner, group, links, time, size, on_major, on_minor, major, minor, name, checksum,
    ] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(&entry.body);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Unpacked, unpack};
    use super::*;

    #[test]
    fn what_goes_in_comes_out_with_parents_before_children() {
        let mut archive = Archive::default();
        archive.file("lib/modules/6.1/virtio.ko", 0o644, b"odd".to_vec()).unwrap();
        archive.dir("lib/modules", 0o700).unwrap();
        archive.character_device("dev/console", 0o600, 5, 1).unwrap();
        archive.symlink("bin/sh", "busybox").unwrap();
        let entries = unpack(&archive.encode().unwrap());
        let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "bin",
                "bin/sh",
                "dev",
                "dev/console",
                "lib",
                "lib/modules",
                "lib/modules/6.1",
                "lib/modules/6.1/virtio.ko"
            ]
        );
        let of = |name: &str| entries.iter().find(|e| e.name == name).unwrap();
        assert_eq!(of("lib/modules").mode, 0o040_700, "said after it was made as a parent");
        assert_eq!(of("lib/modules/6.1/virtio.ko").body, b"odd");
        assert_eq!(of("bin/sh").mode, 0o120_777);
        let Unpacked { mode, device, .. } = of("dev/console");
        assert_eq!((*mode, *device), (0o020_600, (5, 1)));
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"hi".to_vec()).unwrap();
        let bytes = archive.encode().unwrap();
        let head = concat!(
            "070701", "00000001", "000081a4", "00000000", "00000000", "00000001", "00000000", "00000002",
            "00000000", "00000000", "00000000", "00000000", "00000002", "00000000", "a\0"
        );
        assert_eq!(&bytes[..112], head.as_bytes());
        assert_eq!(&bytes[112..116], b"hi\0\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn the_order_of_making_changes_nothing() {
        let mut one = Archive::default();
        one.file("b/x", 0o644, vec![1]).unwrap();
        one.file("a", 0o644, vec![2]).unwrap();
        let mut two = Archive::default();
        two.file("a", 0o644, vec![2]).unwrap();
        two.file("b/x", 0o644, vec![1]).unwrap();
        assert_eq!(one.encode().unwrap(), two.encode().unwrap());
    }

    #[test]
    fn names_that_lead_elsewhere_or_end_the_archive_are_refused() {
        for bad in ["", "/init", "a//b", "../etc", "a/./b", "a\0b", "TRAILER!!!", "dir/"] {
            let error = Archive::default().file(bad, 0o644, Vec::new()).unwrap_err();
            assert!(matches!(error, BootImageError::BadPath(_)), "{bad:?}");
        }
    }
}
