//! As much of ELF as is needed to look at modules and static programs: 64 bits, little-endian
//! (System V ABI, chapter 4; the header is 64 bytes, a section header 64, a program header 56).

use std::fmt;

use serde::{Deserialize, Serialize};

const HEADER: usize = 64;
const SECTION: usize = 64;
const SEGMENT: usize = 56;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Machine {
    /// 64-bit PC.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// The processor of a kernel that a boot loader starts: an x86 bzImage (Documentation/arch/x86/boot.rst,
/// "HdrS" at 0x202) or an arm64 Image (Documentation/arch/arm64/booting.rst, "ARM\x64" at 56).
pub(super) fn kernel_machine(kernel: &[u8]) -> Option<Machine> {
    if kernel.get(0x202..0x206) == Some(b"HdrS") {
        Some(Machine::X86_64)
    } else if kernel.get(56..60) == Some(b"ARM\x64") {
        Some(Machine::Aarch64)
    } else {
        None
    }
}

/// A file that begins like ELF. Nothing else in it is believed: whatever points outside is absent.
#[derive(Debug)]
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        // 2: 64 bits; 1: little-endian; 1: the version of ELF.
        (bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01\x01")).then_some(Self { bytes })
    }

    pub(super) fn machine(&self) -> Option<Machine> {
        match self.u16(18)? {
            EM_X86_64 => Some(Machine::X86_64),
            EM_AARCH64 => Some(Machine::Aarch64),
            _ => None,
        }
    }

    /// Whether a dynamic linker must start it. `None` when its segments cannot be read.
    pub(super) fn wants_interpreter(&self) -> Option<bool> {
        let (table, entry, count) = (self.u64(32)?, self.u16(54)?, self.u16(56)?);
        if usize::from(entry) != SEGMENT || count == 0 {
            return None;
        }
        for index in 0..usize::from(count) {
            let segment = self.slice(table.checked_add((index * SEGMENT) as u64)?, SEGMENT as u64)?;
            if u32_at(segment, 0)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    }

    /// The content of the first section of that name.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let (table, entry) = (self.u64(40)?, self.u16(58)?);
        let (count, names) = (self.u16(60)?, self.u16(62)?);
        if usize::from(entry) != SECTION || names >= count {
            return None;
        }
        let header =
            |index: u16| self.slice(table.checked_add(u64::from(index) * SECTION as u64)?, SECTION as u64);
        let content = |header: &[u8]| self.slice(u64_at(header, 24)?, u64_at(header, 32)?);
        let names = content(header(names)?)?;
        (0..count).find_map(|index| {
            let header = header(index)?;
            let rest = names.get(u32_at(header, 0)? as usize..)?.strip_prefix(name.as_bytes())?;
            (rest.first() == Some(&0)).then(|| content(header)).flatten()
        })
    }

    fn slice(&self, from: u64, len: u64) -> Option<&'a [u8]> {
        let from = usize::try_from(from).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        u64_at(self.bytes, at)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{module, program};
    use super::*;

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        let bytes = module("name=virtio\0");
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.section(".modinfo"), Some(&b"name=virtio\0"[..]));
        assert_eq!(elf.section(".mod"), None);
        assert_eq!(elf.section("modinfo"), None);
        assert_eq!(elf.machine(), Some(Machine::X86_64));
    }

    #[test]
    fn only_a_program_with_an_interpreter_wants_one() {
        assert_eq!(Elf::parse(&program(false)).unwrap().wants_interpreter(), Some(false));
        assert_eq!(Elf::parse(&program(true)).unwrap().wants_interpreter(), Some(true));
        assert_eq!(Elf::parse(&module("")).unwrap().wants_interpreter(), None, "a module is no program");
    }

    /// Every byte of the headers, set to every extreme: nothing may panic or read elsewhere.
    #[test]
    fn lying_headers_are_absent_content() {
        for good in [module("depends=a\0"), program(true)] {
            for at in 0..good.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bytes = good.clone();
                    bytes[at] = value;
                    if let Some(elf) = Elf::parse(&bytes) {
                        assert!(elf.section(".modinfo").is_none_or(|s| s.len() <= bytes.len()));
                        let _either = elf.wants_interpreter();
                    }
                }
            }
            for len in 0..good.len() {
                if let Some(elf) = Elf::parse(&good[..len]) {
                    assert!(elf.section(".modinfo").is_none_or(|s| s.len() < len));
                }
            }
        }
    }

    #[test]
    fn kernels_are_known_by_their_boot_headers() {
        let mut x86 = vec![0; 0x300];
        x86[0x202..0x206].copy_from_slice(b"HdrS");
        let mut arm = vec![0; 64];
        arm[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(kernel_machine(&x86), Some(Machine::X86_64));
        assert_eq!(kernel_machine(&arm), Some(Machine::Aarch64));
        assert_eq!(kernel_machine(b"root:x:0:0"), None);
    }
}
