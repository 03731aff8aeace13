//! The file tree inside: the host's, read-only, with a /proc, /tmp and /dev of its own. A tenant's
//! `rm -rf /` or `dd of=/dev/sda` on a simulated machine must not reach the host, least of all when root
//! started the lab.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move, mount_remount,
};

/// Where the machine's disk file is inside.
pub(super) const DISK: &str = "/tmp/disk";
const NEW_DEV: &str = "/tmp/.dev";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const PRIVATE: [&str; 3] = ["/proc", "/tmp", "/dev"];

pub(super) fn furnish(disk: Option<&Path>) -> Result<(), String> {
    // Opened before the private /tmp hides it: state directories of demos and tests live under /tmp.
    let disk = disk.map(open_path).transpose()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(refused("a private file tree", "/"))?;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", strict, None::<&CStr>)
        .map_err(refused("a process list of its own", "/proc"))?;
    mount("tmpfs", "/tmp", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777,size=256m"))
        .map_err(refused("a private directory", "/tmp"))?;
    if let Some(file) = disk {
        bind(&format!("/proc/self/fd/{}", file.as_raw_fd()), DISK)?;
    }
    private_dev()?;
    read_only_rest()?;
    std::env::set_current_dir("/tmp").map_err(|e| format!("/tmp of the sandbox: {e}"))
}

fn refused(what: &'static str, at: &'static str) -> impl Fn(rustix::io::Errno) -> String {
    move |e| format!("this host refuses {what} to commands of simulated machines (mount {at}: {e})")
}

fn open_path(disk: &Path) -> Result<File, String> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::PATH.bits().cast_signed())
        .open(disk)
        .map_err(|e| format!("the machine's disk {}: {e}", disk.display()))
}

/// Binds one file over a new empty one.
fn bind(from: &str, to: &str) -> Result<(), String> {
    File::create(to).map_err(|e| format!("{to} of the sandbox: {e}"))?;
    mount_bind(from, to)
        .map_err(|e| format!("this host refuses {to} to a sandbox (bind mount of {from}: {e})"))
}

fn private_dev() -> Result<(), String> {
    let io = |e: std::io::Error| format!("/dev of the sandbox: {e}");
    fs::create_dir(NEW_DEV).map_err(io)?;
    mount("tmpfs", NEW_DEV, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"mode=755,size=1m"))
        .map_err(refused("devices of its own", "/dev"))?;
    for name in DEVICES {
        let host = format!("/dev/{name}");
        if Path::new(&host).exists() {
            bind(&host, &format!("{NEW_DEV}/{name}"))?;
        }
    }
    for (link, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, format!("{NEW_DEV}/{link}")).map_err(io)?;
    }
    fs::create_dir(format!("{NEW_DEV}/shm")).map_err(io)?;
    mount_move(NEW_DEV, "/dev").map_err(refused("devices of its own", "/dev"))?;
    fs::remove_dir(NEW_DEV).map_err(io)
}

/// Makes every mount that came from the host read-only. Flags that the host locked must be repeated, or
/// the kernel refuses the whole change.
fn read_only_rest() -> Result<(), String> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    for (at, flags) in table.lines().filter_map(host_mount) {
        let flags = flags | MountFlags::BIND | MountFlags::RDONLY;
        match mount_remount(&at, flags, "") {
            // Hidden under another mount: nobody can reach it.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL | rustix::io::Errno::ACCESS) => {
            }
            Err(e) => {
                return Err(format!(
                    "this host refuses a read-only file tree to a sandbox (remount {at}: {e})"
                ));
            }
        }
    }
    Ok(())
}

/// Mount point and flags of a line of mountinfo (proc(5)), unless the mount is writable by others already
/// or one of our own.
fn host_mount(line: &str) -> Option<(String, MountFlags)> {
    let mut fields = line.split(' ').skip(4);
    let at = unescape(fields.next()?);
    if PRIVATE.iter().any(|own| Path::new(&at).starts_with(own)) {
        return None;
    }
    let mut flags = MountFlags::empty();
    for option in fields.next()?.split(',') {
        flags |= match option {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "ro" => return None,
            _ => MountFlags::empty(),
        };
    }
    Some((at, flags))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_keeps_its_locked_flags_and_own_mounts_are_left_alone() {
        let line = "36 35 98:0 / /mnt/my\\040disk rw,nosuid,relatime shared:1 - ext4 /dev/root rw";
        let (at, flags) = host_mount(line).unwrap();
        assert_eq!(at, "/mnt/my disk");
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::RELATIME);
        assert!(host_mount("1 2 0:1 / /proc/sys rw - proc proc rw").is_none());
        assert!(host_mount("1 2 0:1 / /tmp rw - tmpfs tmpfs rw").is_none());
        assert!(host_mount("1 2 0:1 / /sys ro,nosuid - sysfs sysfs rw").is_none());
        assert!(host_mount("1 2 0:1 / /tmpx rw - ext4 x rw").is_some());
    }
}
