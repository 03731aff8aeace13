//! Descriptors that the runtime watches.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Result;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A file (a terminal, in practice) that is to be read and written without
/// blocking; it must be in non-blocking mode already.
pub fn file(file: File) -> Result<AsyncFd<File>> {
    // SAFETY: a `File` owns a valid descriptor, nothing in this project gets
    // at it mutably inside an `AsyncFd`, so it stays open and the same.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// A descriptor that becomes readable when something is over.
pub(crate) fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above; an `OwnedFd` cannot be replaced through a reference.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
