//! Descriptors that the runtime watches.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd, OwnedFd};
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

/// The file that something else was opened as, and owned.
pub(crate) fn file_of(opened: impl IntoRawFd) -> File {
    // SAFETY: what is given up by its owner is owned by nobody else.
    unsafe { File::from_raw_fd(opened.into_raw_fd()) }
}

/// Begins or ends a break on a serial port.
pub(crate) fn set_break(port: &AsyncFd<File>, on: bool) -> Result<()> {
    let request = if on { libc::TIOCSBRK } else { libc::TIOCCBRK };
    // SAFETY: the descriptor is open, and these requests take no argument.
    match unsafe { libc::ioctl(port.get_ref().as_raw_fd(), request) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Reads what a terminal has, with one call per piece. That its other end is closed (`EIO`, see
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
                // Less than there was room for: that was all, and what comes
                // next wakes us again. To ask for it would cost as much as the
                // read itself.
                if 0 < n && n < free.len() {
                    ready.clear_ready();
                }
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

/// Writes to a terminal.
pub(crate) fn poll_write(file: &AsyncFd<File>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
    loop {
        let mut ready = ready!(file.poll_write_ready(cx))?;
        if let Ok(done) = ready.try_io(|file| file.get_ref().write(bytes)) {
            return Poll::Ready(done);
        }
    }
}

/// A descriptor that becomes readable when something is over.
pub(crate) fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above; an `OwnedFd` cannot be replaced through a reference.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
