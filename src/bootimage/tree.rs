//! The tree of an unpacked kernel package: which kernel is in it, and its modules.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::BootImageError;
use super::manifest::Compression;
use super::modinfo::name_of;
use super::module::{self, at_most, split_ending};
use super::order::Found;

/// Largest kernel, in bytes.
const MAX_KERNEL: u64 = 128 << 20;
/// Largest list or configuration.
const MAX_TEXT: u64 = 8 << 20;
/// Debian's largest kernel has 4,200 modules in 700 directories, five deep.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;

/// One kernel in a tree.
#[derive(Debug)]
pub(super) struct KernelTree {
    /// Without symbolic links.
    root: PathBuf,
    version: String,
    kernel: PathBuf,
    /// Directory of its modules, without symbolic links.
    modules: Option<PathBuf>,
    /// Path below `modules` by name.
    index: BTreeMap<String, String>,
    builtin: Vec<String>,
}

impl KernelTree {
    /// Finds the kernel, the one of `version` if there are several.
    pub(super) fn open(root: &Path, version: Option<&str>) -> Result<Self, BootImageError> {
        let root = root.canonicalize().map_err(BootImageError::file("read", root))?;
        let kernels = kernels(&root)?;
        let versions = || kernels.keys().cloned().collect::<Vec<_>>();
        let (version, kernel) = match (version, kernels.len()) {
            (_, 0) => return Err(BootImageError::NoKernel(root)),
            (Some(wanted), _) => {
                kernels.get_key_value(wanted).ok_or_else(|| BootImageError::NoSuchKernel {
                    root: root.clone(),
                    wanted: wanted.to_owned(),
                    versions: versions(),
                })?
            }
            (None, 1) => kernels.first_key_value().ok_or_else(|| BootImageError::NoKernel(root.clone()))?,
            (None, _) => return Err(BootImageError::SeveralKernels { root, versions: versions() }),
        };
        let mut tree = Self {
            version: version.clone(),
            kernel: kernel.clone(),
            modules: None,
            index: BTreeMap::new(),
            builtin: Vec::new(),
            root,
        };
        tree.read_modules()?;
        Ok(tree)
    }

    /// As `uname -r` says it.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn kernel_path(&self) -> PathBuf {
        self.kernel.clone()
    }

    /// The bytes of the kernel.
    pub(super) fn kernel(&self) -> Result<Vec<u8>, BootImageError> {
        read_bounded(&self.kernel, "a kernel", MAX_KERNEL)
    }

    /// What the kernel has under that name.
    pub(super) fn module(&self, name: &str) -> Result<Found, BootImageError> {
        if let (Some(modules), Some(path)) = (&self.modules, self.index.get(name)) {
            return Ok(Found::Module(module::read(&modules.join(path), path)?));
        }
        let builtin = self.builtin.binary_search_by(|known| known.as_str().cmp(name)).is_ok();
        Ok(if builtin { Found::BuiltIn } else { Found::Nothing })
    }

    /// What the kernel can unpack. Without its configuration: gzip, which all kernels have had for long.
    pub(super) fn compression(&self) -> Result<Compression, BootImageError> {
        let beside = self.modules.iter().map(|modules| modules.join("config"));
        for file in beside.chain([self.root.join(format!("boot/config-{}", self.version))]) {
            let Some(file) = inside(&self.root, &file)? else { continue };
            let config = read_bounded(&file, "a kernel's configuration", MAX_TEXT)?;
            let has = |option: &str| config.split(|&b| b == b'\n').any(|line| line == option.as_bytes());
            return Ok(match () {
                () if has("CONFIG_RD_ZSTD=y") => Compression::Zstd,
                () if has("CONFIG_RD_GZIP=y") => Compression::Gzip,
                () => Compression::None,
            });
        }
        Ok(Compression::Gzip)
    }

    fn read_modules(&mut self) -> Result<(), BootImageError> {
        for place in ["lib/modules", "usr/lib/modules"] {
            if let Some(dir) = inside(&self.root, &self.root.join(place).join(&self.version))? {
                let mut files = Vec::new();
                walk(&dir, "", 0, &mut files)?;
                for path in files {
                    self.remember(path);
                }
                if let Some(list) = inside(&self.root, &dir.join("modules.builtin"))? {
                    let list = read_bounded(&list, "a list of modules", MAX_TEXT)?;
                    let list = String::from_utf8_lossy(&list);
                    self.builtin = list.lines().filter_map(module_name).collect();
                    self.builtin.sort_unstable();
                }
                self.modules = Some(dir);
                return Ok(());
            }
        }
        // A kernel with everything built in has no modules.
        Ok(())
    }

    /// Of two modules with one name that in `updates` counts, as depmod has it, else the first by path.
    fn remember(&mut self, path: String) {
        let Some(name) = module_name(&path) else { return };
        let rank = |path: &str| (!path.starts_with("updates/"), path.to_owned());
        match self.index.get(&name) {
            Some(known) if rank(known) <= rank(&path) => {}
            _ => {
                self.index.insert(name, path);
            }
        }
    }
}

fn module_name(path: &str) -> Option<String> {
    let (stem, _) = split_ending(path)?;
    name_of(stem.rsplit('/').next()?)
}

/// Kernels by version: Debian has them in `boot`, others beside their modules.
fn kernels(root: &Path) -> Result<BTreeMap<String, PathBuf>, BootImageError> {
    let mut found = BTreeMap::new();
    for place in ["usr/lib/modules", "lib/modules"] {
        for version in names(root, place)? {
            if let Some(file) = inside(root, &root.join(place).join(&version).join("vmlinuz"))? {
                found.insert(version, file);
            }
        }
    }
    for name in names(root, "boot")? {
        if let Some(version) = name.strip_prefix("vmlinuz-").filter(|version| !version.is_empty()) {
            // Itself, not what a link of that name points to: see `open_regular`.
            if let Some(boot) = inside(root, &root.join("boot"))? {
                found.insert(version.to_owned(), boot.join(&name));
            }
        }
    }
    Ok(found)
}

/// Names in a directory of the tree that are safe to repeat; none if it is not there.
fn names(root: &Path, place: &str) -> Result<Vec<String>, BootImageError> {
    let Some(dir) = inside(root, &root.join(place))? else { return Ok(Vec::new()) };
    let reading = || BootImageError::file("read", dir.as_path());
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(reading())? {
        if names.len() >= MAX_FILES {
            return Err(BootImageError::HugeTree(dir));
        }
        names.extend(entry.map_err(reading())?.file_name().into_string().ok().filter(|name| plain(name)));
    }
    Ok(names)
}

/// The path without links, if it exists; an error if it leads out of the tree. `/lib` may well be a link to
/// `/usr/lib`; a link to another system's `/etc` is none of a package.
fn inside(root: &Path, path: &Path) -> Result<Option<PathBuf>, BootImageError> {
    match path.canonicalize() {
        Ok(real) if real.starts_with(root) => Ok(Some(real)),
        Ok(_) => Err(BootImageError::NotInTree {
            file: path.to_owned(),
            what: "a link that leads out of the tree",
        }),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(BootImageError::file("read", path)(e)),
    }
}

/// Names that go into the list of modules and the initrd: no space, no newline, no comment sign.
fn plain(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    name.len() <= 128 && !name.starts_with('.') && name.bytes().all(good)
}

/// Collects the paths of all modules. Links (`build`, `source`) are not followed; what is named like no file
/// of a kernel cannot be a module that is wanted.
fn walk(dir: &Path, below: &str, depth: usize, files: &mut Vec<String>) -> Result<(), BootImageError> {
    if depth > MAX_DEPTH {
        return Err(BootImageError::HugeTree(dir.to_owned()));
    }
    let reading = || BootImageError::file("read", dir);
    for entry in fs::read_dir(dir).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let kind = entry.file_type().map_err(reading())?;
        let Some(name) = entry.file_name().into_string().ok().filter(|name| plain(name)) else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if kind.is_dir() {
            walk(&entry.path(), &path, depth + 1, files)?;
        } else if kind.is_file() && split_ending(&path).is_some() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(BootImageError::HugeTree(dir.to_owned()));
        }
    }
    Ok(())
}

/// Opens a regular file that is itself and no link; a pipe with that name does not hang us.
pub(super) fn open_regular(path: &Path) -> Result<File, BootImageError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => {
            return Err(BootImageError::NotInTree { file: path.to_owned(), what: "a symbolic link" });
        }
        Err(e) => return Err(BootImageError::file("open", path)(e.into())),
    };
    let meta = file.metadata().map_err(BootImageError::file("look at", path))?;
    if meta.is_file() {
        Ok(file)
    } else {
        Err(BootImageError::NotInTree { file: path.to_owned(), what: "no regular file" })
    }
}

fn read_bounded(path: &Path, kind: &'static str, limit: u64) -> Result<Vec<u8>, BootImageError> {
    let bytes = at_most(open_regular(path)?, limit).map_err(BootImageError::file("read", path))?;
    bytes.ok_or_else(|| BootImageError::TooBig { file: path.to_owned(), kind, limit })
}
