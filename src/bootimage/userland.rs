//! A shell and small tools for commands that run in RAM.

use super::BootImageError;
use super::cpio::Archive;

/// Names under which busybox is found. One it was not built with says so when it is called.
const APPLETS: &[&str] = &[
    "ash",
    "basename",
    "cat",
    "chmod",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "lsmod",
    "md5sum",
    "mkdir",
    "mknod",
    "mount",
    "mv",
    "nc",
    "od",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "vi",
    "wc",
    "wget",
    "which",
    "xargs",
];

/// Adds busybox and its names.
pub(super) fn add(archive: &mut Archive, busybox: Vec<u8>) -> Result<(), BootImageError> {
    archive.file("bin/busybox", 0o755, busybox)?;
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/tmp:/bin/sh\n".to_vec())?;
    archive.file("etc/group", 0o644, b"root:x:0:\n".to_vec())
}
