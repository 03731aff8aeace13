//! What a boot image is made of.

use serde::{Deserialize, Serialize};

use super::elf::Machine;
use super::{BUDGET, DEFAULT_MODULES};

/// The number of this form of the manifest.
pub(super) const FORMAT: u32 = 1;

/// How an initrd is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard; since Linux 5.9.
    Zstd,
    /// gzip.
    Gzip,
    /// The kernel can unpack neither.
    None,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNote {
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 in 64 hexadecimal digits.
    pub blake3: String,
}

impl FileNote {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_string() }
    }
}

/// A module of the default list that was not put in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// `manifest.json` of a boot image. It has no times and no paths of the machine that built it, so the same
/// input gives the same manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Form of this file.
    pub format: u32,
    /// The processor it is for.
    pub machine: Machine,
    /// The kernel, as `uname -r` says it.
    pub version: String,
    /// The kernel's file.
    pub kernel: FileNote,
    /// The initrd's file.
    pub initrd: FileNote,
    /// Size of the initrd unpacked, in bytes.
    pub unpacked: u64,
    /// How the initrd is compressed.
    pub compression: Compression,
    /// The agent in it.
    pub agent: FileNote,
    /// Modules in the order of loading, below `/lib/modules/VERSION`.
    pub modules: Vec<String>,
    /// Wanted modules that are part of the kernel.
    pub builtin: Vec<String>,
    /// Modules of the default list that this kernel cannot load.
    pub left_out: Vec<Left>,
    /// The CD's file, where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<FileNote>,
}

impl Manifest {
    /// What somebody should think about before using it, in whole sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let bytes = self.kernel.bytes + self.initrd.bytes;
        if bytes > BUDGET {
            warnings.push(format!(
                "kernel and initrd have {bytes} bytes, more than {BUDGET}: every machine fetches them at every \
                 boot; name fewer modules with --modules"
            ));
        }
        let usable = |names: &[&str]| {
            let ends =
                |path: &String| names.iter().any(|n| path.replace('-', "_").ends_with(&format!("/{n}.ko")));
            self.modules.iter().any(ends) || self.builtin.iter().any(|name| names.contains(&name.as_str()))
        };
        let default =
            |name: &str| DEFAULT_MODULES.iter().position(|known| *known == name).unwrap_or_default();
        let (cards, disks) = (default("virtio_net"), default("virtio_blk"));
        if !usable(&DEFAULT_MODULES[cards..disks]) {
            warnings.push(
                "no usual network card's module is in it; the agent can dial only if the kernel has its own"
                    .into(),
            );
        }
        if !usable(&DEFAULT_MODULES[disks..]) {
            warnings.push(
                "no usual disk's module is in it; the agent sees only disks whose drivers the kernel has"
                    .into(),
            );
        }
        warnings
    }
}
