//! The one system call that has no safe wrapper.
#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;

/// Moves this process into a new namespace. Call it while there is one thread.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the danger of unshare is CLONE_FILES, which would make descriptors of one thread unknown to
    // another; only namespace flags are passed on.
    unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }
}
