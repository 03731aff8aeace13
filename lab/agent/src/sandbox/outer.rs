//! The helper that makes the namespaces and stays outside as the parent of their first process.

use std::process::{Command, ExitCode, Stdio};

use rustix::io::Errno;
use rustix::process::{Signal, getgid, getuid, set_parent_process_death_signal};
use rustix::stdio::stdin;
use rustix::thread::UnshareFlags;

use super::chroot;
use super::protocol::{FromInit, send};

pub(super) fn main() -> ExitCode {
    match enter().and_then(|()| stay()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // If even this fails, whoever started the helper sees it die and says so.
            let _ = send(stdin(), &FromInit::Refused { reason }, &[]);
            ExitCode::FAILURE
        }
    }
}

fn enter() -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("prctl(PDEATHSIG): {e}"))?;
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let kinds = [
        (UnshareFlags::NEWUSER, "user"),
        (UnshareFlags::NEWNS, "mount"),
        (UnshareFlags::NEWPID, "PID"),
        (UnshareFlags::NEWNET, "network"),
        (UnshareFlags::NEWUTS, "UTS (host name)"),
        (UnshareFlags::NEWIPC, "IPC"),
    ];
    for (flag, name) in kinds {
        unshare(flag, uid).map_err(|e| {
            format!(
                "this host refuses {name} namespaces (unshare: {e}); commands on simulated machines need them: \
                 see user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns, or the container's \
                 seccomp profile"
            )
        })?;
        if flag == UnshareFlags::NEWUSER {
            map_user(uid, gid)?;
        }
    }
    Ok(())
}

/// The kernel gives no user namespace to a process in a chroot, not even to root (EPERM, user_namespaces(7)).
/// Root can turn the chroot into a file tree of its own first, and ask again.
fn unshare(flag: UnshareFlags, uid: u32) -> Result<(), rustix::io::Errno> {
    match crate::sys::unshare(flag) {
        Err(refused @ Errno::PERM) if flag == UnshareFlags::NEWUSER && uid == 0 => {
            // What stood in the way of this detour is not what has to be mended.
            chroot::make_root().and_then(|()| crate::sys::unshare(flag)).map_err(|_| refused)
        }
        other => other,
    }
}

/// Makes this user root inside. One user is all that an unprivileged process may map.
fn map_user(uid: u32, gid: u32) -> Result<(), String> {
    let files = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ];
    for (file, text) in files {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, text)
            .map_err(|e| format!("this host refuses to map a user into a namespace ({path}: {e})"))?;
    }
    Ok(())
}

/// Starts the first process inside, this program again, and waits for its end.
fn stay() -> Result<(), String> {
    let failed = |e: std::io::Error| format!("the first process of the sandbox did not start: {e}");
    Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::inherit())
        .spawn()
        .and_then(|mut child| child.wait())
        .map_err(failed)?;
    Ok(())
}
