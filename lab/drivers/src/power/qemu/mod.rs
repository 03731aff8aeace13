//! `power.qemu`: a virtual machine in a process of its own.

/// How a QEMU guest on a user-mode network reaches the host's loopback.
pub const HOST: &str = "10.0.2.2";
