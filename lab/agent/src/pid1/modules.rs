//! Kernel modules, loaded in the order the boot image gives: a module before those that need it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::say::Say;

const ROOT: &str = "/lib/modules";
/// MODULE_INIT_COMPRESSED_FILE of finit_module(2), Linux 5.17.
const COMPRESSED: i32 = 4;

/// Loads what the list names. Nothing here is fatal: a missing network driver shows itself soon enough,
/// with its line on the console above.
pub(super) fn load_all(list: &Path, say: &Say) {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return say.line(&format!("{}: {e}", list.display())),
    };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut loaded = 0;
    for path in paths(&text, &release) {
        match load(&path) {
            Ok(()) => loaded += 1,
            // Built in or loaded already; or for hardware that this machine does not have.
            Err(Errno::EXIST | Errno::NODEV) => {}
            // "Unknown symbol": the list names it before a module that it needs.
            Err(Errno::NOENT) if path.exists() => {
                say.line(&format!("module {}: needs a module that was not loaded before it", path.display()));
            }
            Err(e) => say.line(&format!("module {}: {e}", path.display())),
        }
    }
    say.line(&format!("{loaded} modules loaded"));
}

fn load(path: &Path) -> Result<(), Errno> {
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let file = File::open(path).map_err(io)?;
    let flags = if path.extension().is_some_and(|end| end == "ko") { 0 } else { COMPRESSED };
    finit_module(&file, c"", flags)
}

/// The files of a list: absolute, or below `/lib/modules`, or below that of the running kernel.
fn paths(list: &str, release: &str) -> Vec<PathBuf> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let below = Path::new(ROOT).join(line);
            if below.exists() || line.starts_with('/') {
                below
            } else {
                Path::new(ROOT).join(release).join(line)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_list_is_kept_and_comments_are_no_modules() {
        let list = "# first the ring\nkernel/virtio_ring.ko\n\n/lib/modules/x/virtio.ko  # core\n";
        let expected = ["/lib/modules/6.1.0/kernel/virtio_ring.ko", "/lib/modules/x/virtio.ko"];
        assert_eq!(paths(list, "6.1.0"), expected.map(PathBuf::from));
    }
}
