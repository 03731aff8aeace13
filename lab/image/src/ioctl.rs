//! The two block-device requests that have no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{self, NoArg, Opcode, Setter, opcode};

/// `_IO(0x12, 127)`, include/uapi/linux/fs.h.
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);
/// `_IO(0x12, 97)`, include/uapi/linux/fs.h.
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);

/// Makes `len` bytes from `offset` zero; both multiples of the logical block.
/// The kernel uses the device's write-zeroes command only where it promises
/// zeroes, and writes pages of zeroes otherwise.
pub(crate) fn zero_out(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads exactly `uint64_t range[2]` (start, length) from
    // its argument and keeps no pointer; the array outlives the call.
    unsafe { ioctl::ioctl(fd, Setter::<BLKZEROOUT, [u64; 2]>::new([offset, len]))? };
    Ok(())
}

/// Writes back and drops what the kernel caches of a block device.
pub(crate) fn flush_buffers(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    unsafe { ioctl::ioctl(fd, NoArg::<BLKFLSBUF>::new())? };
    Ok(())
}
