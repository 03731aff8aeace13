//! Out of a chroot without leaving it: in a mount namespace of its own, the directory that is `/` now becomes
//! the root of the whole tree, and what is above it is gone.

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::os::fd::AsFd;

/// Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT.
pub(super) fn make_root() -> Result<(), Errno> {
    crate::sys::unshare(UnshareFlags::NEWNS)?;
    let here = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // To enter the namespace one is in already has one effect: `/` is its root again, which is a mount and so
    // can be told to pass nothing on to the host. The chroot's own root can not.
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let flags = clone | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(&here, "", flags)?;
    fchdir(&here)?;
    move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&tree)?;
    // The old root ends up above the new one (pivot_root(2), NOTES).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
