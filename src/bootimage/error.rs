//! Why a boot image could not be built.

use std::io;
use std::path::PathBuf;

use super::agent::HOW_TO_BUILD;
use super::elf::Machine;

/// Why a boot image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BootImageError {
    /// A file or directory could not be read or written.
    #[error("cannot {what} {}: {source}", file.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// A file is larger than anything of its kind.
    #[error("{} has more than {limit} bytes, too many for {kind}", file.display())]
    TooBig {
        /// The file.
        file: PathBuf,
        /// What it was taken for.
        kind: &'static str,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// Something that is no regular file, or a link that leads out of the tree.
    #[error("{} is {what}; nothing outside the kernel's tree is read", file.display())]
    NotInTree {
        /// The path.
        file: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No kernel in the tree.
    #[error(
        "{} holds no kernel: expected boot/vmlinuz-VERSION and lib/modules/VERSION, as in an unpacked package \
         (apt-get download linux-image-…; dpkg-deb -x FILE DIR)",
        .0.display()
    )]
    NoKernel(PathBuf),
    /// More than one kernel in the tree.
    #[error("{} holds several kernels ({}); say which one with --kernel-version", root.display(), versions.join(", "))]
    SeveralKernels {
        /// The tree.
        root: PathBuf,
        /// Their versions.
        versions: Vec<String>,
    },
    /// The kernel that was asked for is not in the tree.
    #[error("{} holds no kernel {wanted}; it has {}", root.display(), versions.join(", "))]
    NoSuchKernel {
        /// The tree.
        root: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        versions: Vec<String>,
    },
    /// The file is no kernel that machines can be started with.
    #[error("{} is neither an x86 bzImage nor an arm64 Image", .0.display())]
    NotAKernel(PathBuf),
    /// Kernel and program are for different processors.
    #[error("{} is for {program}, the kernel for {kernel}", file.display())]
    OtherMachine {
        /// The program.
        file: PathBuf,
        /// Its processor.
        program: Machine,
        /// The kernel's.
        kernel: Machine,
    },
    /// The tree has more files, or deeper ones, than any kernel.
    #[error("{} has more files or deeper directories than any kernel", .0.display())]
    HugeTree(PathBuf),
    /// A module is no module.
    #[error("{} is no kernel module: {why}", file.display())]
    BadModule {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A module that was asked for by name cannot be put in.
    #[error("module {name} was asked for, but {why}")]
    ModuleWanted {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// A name that was asked for is none of a module.
    #[error("{0:?} is no name of a module: letters, digits, _ and - only")]
    BadName(String),
    /// The modules are larger than a boot image can be.
    #[error("the modules have more than {limit} bytes together; name fewer with --modules")]
    TooManyModules {
        /// The most, in bytes.
        limit: u64,
    },
    /// No agent was found.
    #[error("no static pitstop-agent ({}); build it with\n  {HOW_TO_BUILD}\nor say where it is with --agent", tried.join("; "))]
    NoAgent {
        /// Where it was looked for, and what was there.
        tried: Vec<String>,
    },
    /// The file is no program that runs without libraries.
    #[error("{} {why}; the first process of a machine finds no libraries. Build the agent with\n  {HOW_TO_BUILD}", file.display())]
    NotStatic {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A helper program is missing or failed.
    #[error("{program} for {subject}: {why}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it worked on.
        subject: String,
        /// What came back.
        why: String,
    },
    /// No bootable CD came about.
    #[error(
        "no medium could be made: {0}. It needs grub-mkrescue, with GRUB for BIOS and for UEFI, xorriso and mtools \
         (apt-get install grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools)"
    )]
    Medium(String),
    /// Something cannot be in an initrd under that name.
    #[error("{0:?} cannot be the name of a file in the initrd")]
    BadPath(String),
    /// An initrd cannot hold a file this large (newc has 32 bits for a size).
    #[error("{0} is too large for an initrd")]
    FileTooLarge(String),
}

impl BootImageError {
    pub(super) fn file(what: &'static str, file: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::File { what, file, source }
    }
}
