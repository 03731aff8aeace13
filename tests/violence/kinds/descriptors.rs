//! The daemon runs out of file descriptors, and idle connections take those
//! that are left. It lives through it, and serves again once there are some.

use super::Harm;
use crate::arena::Arena;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Descriptors that are left to it.
const LEFT: usize = 6;
/// Connections that want one.
const IDLE: usize = 100;

/// Takes them, and gives them back.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    let id = arena.lab.pid();
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or("no process")?;
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).map_err(|e| e.to_string())?.count();
    let few = u64::try_from(open + LEFT).unwrap_or(u64::MAX);
    let limit = |now| prlimit(Some(pid), Resource::Nofile, now).map_err(|e| format!("prlimit: {e}"));
    // The most that may be had is the same for it as for us, and stays.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = limit(Rlimit { current: Some(few), maximum })?;
    let idle = connections(arena, IDLE);
    // Longer than the sessions' silence: whom nobody can hear is not silent.
    let deaf = crate::load::SILENCE * 1_000;
    arena.work(deaf..deaf + deaf / 2);
    if !arena.lab.runs() {
        return Err(format!("the daemon died of too few descriptors:\n{}", arena.lab.log()));
    }
    limit(before)?;
    let count = idle.0.len() + idle.1.len();
    drop(idle);
    let after = arena.until_served()?;
    if !arena.lab.log().contains("cannot be accepted") {
        return Err("the daemon never ran out of descriptors: this shows nothing".to_owned());
    }
    Ok(format!(
        "{LEFT} descriptors left and {count} idle connections, served again after {} ms",
        after.as_millis()
    ))
}

/// As many idle connections to each listener as can be had.
fn connections(arena: &Arena, each: usize) -> (Vec<UnixStream>, Vec<TcpStream>) {
    let socket = arena.lab.path("sock");
    let people = (0..each).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], arena.machines_port()));
    let wait = Duration::from_secs(1);
    let machines = (0..each).map_while(|_| TcpStream::connect_timeout(&at, wait).ok()).collect();
    (people, machines)
}
