//! QEMU's lock on a disk image: whether somebody holds it.

use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::Path;

/// Whether some process has locks on the file, as every QEMU that uses it
/// does (record locks on single bytes, block/file-posix.c). A file that is
/// not there is held by nobody.
///
/// The file is locked as a whole for a moment, which fails if any byte is
/// locked by somebody else. So this must not run beside a start of QEMU.
pub fn held(path: &Path) -> std::io::Result<bool> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    // Released when the file is closed.
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
