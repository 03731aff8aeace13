//! Modules, programs, kernels and trees for tests, and a reader of archives.

use std::fs;
use std::path::Path;

/// An ELF file with the sections of a module: names and `.modinfo`.
pub(super) fn module(info: &str) -> Vec<u8> {
    let names = b"\0.shstrtab\0.modinfo\0";
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&1_u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
    let names_at = bytes.len() as u64;
    bytes.extend_from_slice(names);
    let info_at = bytes.len() as u64;
    bytes.extend_from_slice(info.as_bytes());
    let table = bytes.len() as u64;
    let mut header = |name: u32, at: u64, len: u64| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&header);
    };
    header(0, 0, 0);
    header(1, names_at, names.len() as u64);
    header(11, info_at, info.len() as u64);
    bytes[40..48].copy_from_slice(&table.to_le_bytes());
    for (at, value) in [(58, 64_u16), (60, 3), (62, 1)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// An ELF program with one segment, which may name an interpreter.
pub(super) fn program(interpreter: bool) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, value) in [(16, 3_u16), (18, 62), (54, 56), (56, 1)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[64] = if interpreter { 3 } else { 1 };
    bytes
}

/// The beginning of an x86 kernel.
pub(super) fn kernel() -> Vec<u8> {
    let mut bytes = vec![0x90; 1024];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes
}

/// Writes a file and the directories above it.
pub(super) fn put(root: &Path, path: &str, bytes: &[u8]) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

/// A file in an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) name: String,
    pub(super) mode: u32,
    pub(super) device: (u32, u32),
    pub(super) body: Vec<u8>,
}

/// Reads an archive as the kernel does, and checks its form on the way.
pub(super) fn unpack(mut archive: &[u8]) -> Vec<Unpacked> {
    let mut entries = Vec::new();
    loop {
        assert_eq!(&archive[..6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&archive[6 + 8 * index..14 + 8 * index]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        assert_eq!(field(5), 0, "no time");
        let (size, name) = (field(6) as usize, field(11) as usize);
        let body = (110 + name).next_multiple_of(4);
        assert_eq!(archive[110 + name - 1], 0);
        let entry = Unpacked {
            name: String::from_utf8(archive[110..110 + name - 1].to_vec()).unwrap(),
            mode: field(1),
            device: (field(9), field(10)),
            body: archive[body..body + size].to_vec(),
        };
        if entry.name == "TRAILER!!!" {
            return entries;
        }
        entries.push(entry);
        archive = &archive[(body + size).next_multiple_of(4)..];
    }
}
