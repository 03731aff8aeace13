//! Descriptors that the runtime watches.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{ErrorKind, Read as _, Result};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// A file (a terminal, in practice) that is to be read and written without
/// blocking; it must be in non-blocking mode already.
pub fn file(file: File) -> Result<AsyncFd<File>> {
    // SAFETY: a `File` owns a valid descriptor, nothing in this project gets
    // at it mutably inside an `AsyncFd`, so it stays open and the same.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// Reads what a terminal has. That its other end is closed (`EIO`, see
/// pty(7)) is the end of what there is to read, not an error.
pub(crate) fn poll_read(
    file: &AsyncFd<File>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<Result<()>> {
    loop {
        let mut ready = ready!(file.poll_read_ready(cx))?;
        let free = buf.initialize_unfilled();
        match ready.try_io(|file| file.get_ref().read(free)) {
            Ok(Ok(n)) => {
                buf.advance(n);
                return Poll::Ready(Ok(()));
            }
            Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
            Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
            Ok(Err(e)) => return Poll::Ready(Err(e)),
            Err(_would_block) => {}
        }
    }
}

/// A descriptor that becomes readable when something is over.
pub(crate) fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above; an `OwnedFd` cannot be replaced through a reference.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
