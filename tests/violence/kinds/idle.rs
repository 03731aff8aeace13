//! Thousands of connections that say nothing, to each listener. Who has
//! something to say gets through, and machines that are connected stay so.

use super::Harm;
use crate::arena::Arena;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, getrlimit};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Connections to each listener, if so many files may be open here.
const EACH: usize = 5_000;
/// Files that are needed for something else.
const OTHERS: u64 = 1_000;
/// How long one of ours is tried for.
const WAIT: Duration = Duration::from_secs(2);

/// Nobody who has something to say waits for longer.
const LATEST: Duration = Duration::from_secs(10);

/// Opens them all, then looks for a place.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    let (people, machines) = (to_people(arena)?, to_machines(arena));
    let (p, m) = (people.len(), machines.len());
    // A lease, and a session of a new client, although all places are taken.
    let served = arena.until_served()?;
    if served > LATEST {
        return Err(format!("with {p} idle connections nobody is served for {} ms", served.as_millis()));
    }
    arena.work(1_000..2_000);
    drop((people, machines));
    let after = arena.until_served()?;
    let (served, after) = (served.as_millis(), after.as_millis());
    Ok(format!(
        "{p} idle connections of people and {m} of machines: served after {served} ms, and {after} ms after they left"
    ))
}

fn each() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    EACH.min(usize::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(EACH))
}

/// Without waiting: a full queue is a full queue.
fn to_people(arena: &Arena) -> Result<Vec<OwnedFd>, String> {
    let address = SocketAddrUnix::new(arena.lab.path("sock")).map_err(|e| e.to_string())?;
    let mut open = Vec::new();
    let mut tries = 0;
    while open.len() < each() && tries < 200 {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(|e| format!("no socket for idle connection {}: {e}", open.len()))?;
        match connect(&socket, &address) {
            Ok(()) => open.push(socket),
            Err(_) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    Ok(open)
}

fn to_machines(arena: &Arena) -> Vec<TcpStream> {
    let at = SocketAddr::from(([127, 0, 0, 1], arena.machines_port()));
    (0..each()).map_while(|_| TcpStream::connect_timeout(&at, WAIT).ok()).collect()
}
