//! The boot agent's boot image: a kernel, and an initrd that holds the agent and the modules it needs.
//!
//! [`build`] takes them from an unpacked kernel package. It runs none of the package's programs, needs no
//! `depmod` and no root, and makes the same bytes from the same input; but for the medium, a CD with both on
//! it, in which GRUB's own programs write the time.
//!
//! A package is somebody else's work: every size and count in it is bounded, no symbolic link leads out of
//! it, and names that go into the initrd are checked.

mod agent;
mod cpio;
mod elf;
mod error;
mod manifest;
mod medium;
mod modinfo;
mod module;
mod order;
mod output;
mod pipe;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod userland;
mod wanted;

use std::path::{Path, PathBuf};

pub use agent::{HOW_TO_BUILD, find_agent};
pub use error::BootImageError;
pub use manifest::{Compression, FileNote, Left, Manifest};
pub use wanted::DEFAULT_MODULES;

use cpio::Archive;
use elf::Machine;
use order::Plan;
use tree::KernelTree;

/// Kernel and initrd together should stay below this many bytes: every machine fetches both at every boot.
pub const BUDGET: u64 = 16 << 20;

/// What the files in the output directory are called, as the boot drivers expect them.
pub const KERNEL: &str = "vmlinuz";
/// See [`KERNEL`].
pub const INITRD: &str = "initrd";
/// See [`KERNEL`].
pub const MEDIUM: &str = pitstop_drivers::boot::medium::FILE;
/// See [`KERNEL`].
pub const MANIFEST: &str = "manifest.json";

/// Where the kernel comes from.
#[derive(Debug, Clone)]
pub enum KernelSource {
    /// An unpacked package: `boot/vmlinuz-VERSION` and `lib/modules/VERSION`.
    Tree(PathBuf),
    /// Debian packages that belong together, unpacked with `dpkg-deb` for the time of the build.
    Debs(Vec<PathBuf>),
}

/// Which modules go in. What they depend on comes along.
#[derive(Debug, Clone, Default)]
pub struct Modules {
    /// Instead of [`DEFAULT_MODULES`]. Each must be there.
    pub only: Option<Vec<String>>,
    /// Besides these. Each must be there.
    pub also: Vec<String>,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Request {
    /// The kernel.
    pub kernel: KernelSource,
    /// Which of several kernels in the tree, as `uname -r` says it.
    pub version: Option<String>,
    /// The static agent; see [`find_agent`].
    pub agent: PathBuf,
    /// The modules.
    pub modules: Modules,
    /// A static busybox, so that commands that run in RAM find a shell.
    pub busybox: Option<PathBuf>,
    /// Whether a CD is made of them, for machines whose BMC shows them one.
    pub medium: bool,
    /// The directory that gets [`KERNEL`], [`INITRD`], [`MEDIUM`] and [`MANIFEST`]; made if it is not there.
    pub out: PathBuf,
}

/// Builds the boot image; returns what the manifest says. Only when everything is ready are the files in
/// the output directory replaced.
///
/// # Errors
/// See [`BootImageError`]; the output directory then holds what it held.
pub fn build(request: &Request) -> Result<Manifest, BootImageError> {
    match &request.kernel {
        KernelSource::Tree(root) => from_tree(root, request),
        KernelSource::Debs(files) => from_tree(unpack::debs(files)?.path(), request),
    }
}

fn from_tree(root: &Path, request: &Request) -> Result<Manifest, BootImageError> {
    let agent = agent::read(&request.agent)?;
    let tree = KernelTree::open(root, request.version.as_deref())?;
    let kernel = tree.kernel()?;
    let machine =
        elf::kernel_machine(&kernel).ok_or_else(|| BootImageError::NotAKernel(tree.kernel_path()))?;
    same_machine(machine, agent.machine, &request.agent)?;
    let plan = order::plan(&request.modules, |name| tree.module(name))?;
    let mut archive = skeleton(&agent.bytes, tree.version(), &plan)?;
    if let Some(busybox) = &request.busybox {
        let busybox = agent::read_static(busybox)?;
        same_machine(machine, busybox.machine, request.busybox.as_deref().unwrap_or(Path::new("busybox")))?;
        userland::add(&mut archive, busybox.bytes)?;
    }
    let unpacked = archive.encode()?;
    let compression = tree.compression()?;
    let initrd = output::compress(&unpacked, compression)?;
    let medium = if request.medium { Some(medium::make(machine, &kernel, &initrd)?) } else { None };
    let manifest = Manifest {
        format: manifest::FORMAT,
        machine,
        version: tree.version().to_owned(),
        kernel: FileNote::of(&kernel),
        initrd: FileNote::of(&initrd),
        unpacked: unpacked.len() as u64,
        compression,
        agent: FileNote::of(&agent.bytes),
        modules: plan.order.iter().map(|module| module.path.clone()).collect(),
        builtin: plan.builtin,
        left_out: plan.left_out,
        medium: medium.as_deref().map(FileNote::of),
    };
    output::write(&request.out, &kernel, &initrd, medium.as_deref(), &manifest)?;
    Ok(manifest)
}

fn same_machine(kernel: Machine, program: Machine, file: &Path) -> Result<(), BootImageError> {
    if kernel == program {
        return Ok(());
    }
    Err(BootImageError::OtherMachine { file: file.to_owned(), program, kernel })
}

/// What the agent finds when it starts.
fn skeleton(agent: &[u8], version: &str, plan: &Plan) -> Result<Archive, BootImageError> {
    let mut archive = Archive::default();
    for (dir, mode) in
        [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)]
    {
        archive.dir(dir, mode)?;
    }
    // The kernel opens it for the first process before anyone could mount devtmpfs.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, agent.to_vec())?;
    let mut list = String::new();
    for module in &plan.order {
        archive.file(&format!("lib/modules/{version}/{}", module.path), 0o644, module.bytes.clone())?;
        list.push_str(&module.path);
        list.push('\n');
    }
    archive.file("etc/modules.order", 0o644, list.into_bytes())?;
    Ok(archive)
}
