//! Every network card with a cable gets an address by DHCP; the first lease is enough to go on.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::dhcp::{Act, Client, Lease};
use super::dhcp_packet::Mac;
use crate::hardware;
use crate::netlink;
use crate::say::Say;

/// How often to look for cards and cables before there is an address, and after.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often to say what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(15);
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// Routes of several cards are told apart by metric.
const METRIC: u32 = 100;

/// Starts looking for cards, for ever: some drivers take seconds to show theirs. Leases arrive in the
/// receiver, as `card address`.
pub(super) fn bring_up(say: Say) -> std::io::Result<Receiver<String>> {
    if let Err(e) = netlink::loopback_up() {
        say.line(&format!("loopback: {e}"));
    }
    let (leases, receiver) = channel();
    std::thread::Builder::new().name("agent-cards".into()).spawn(move || watch(&say, &leases))?;
    Ok(receiver)
}

/// Waits for the first lease, aloud. Without one there is nothing to do, and how long that may take is for
/// the daemon to say, which can power the machine off.
pub(super) fn first_lease(leases: &Receiver<String>, say: &Say) {
    loop {
        match leases.recv_timeout(SAY_EVERY) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let names: Vec<String> = hardware::cards().iter().map(|card| describe(card)).collect();
                let cards = if names.is_empty() { "no network card found".into() } else { names.join(", ") };
                say.line(&format!("waiting for an address: {cards}"));
            }
        }
    }
}

fn describe(card: &Path) -> String {
    format!("{} {}", name_of(card), if has_cable(card) { "asks for one" } else { "has no link" })
}

fn name_of(card: &Path) -> String {
    card.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn has_cable(card: &Path) -> bool {
    fs::read_to_string(card.join("carrier")).is_ok_and(|text| text.trim() == "1")
}

fn watch(say: &Say, leases: &Sender<String>) {
    let began = Instant::now();
    let mut known = BTreeSet::new();
    loop {
        for card in hardware::cards() {
            if known.insert(card.clone()) {
                let (voice, leases) = (say.clone(), leases.clone());
                let serve = move || {
                    if let Err(why) = serve(&card, &voice, &leases) {
                        voice.line(&format!("{}: {why}", name_of(&card)));
                    }
                };
                if let Err(e) = std::thread::Builder::new().name("agent-dhcp".into()).spawn(serve) {
                    say.line(&format!("no thread for a network card: {e}"));
                }
            }
        }
        std::thread::sleep(if began.elapsed() < Duration::from_secs(60) { LOOK.0 } else { LOOK.1 });
    }
}

/// Serves one card for ever.
fn serve(card: &Path, say: &Say, leases: &Sender<String>) -> Result<(), String> {
    let name = name_of(card);
    let read = |file: &str| fs::read_to_string(card.join(file)).map_err(|e| format!("{file}: {e}"));
    let index: u32 = read("ifindex")?.trim().parse().map_err(|e| format!("ifindex: {e}"))?;
    let mac = parse_mac(read("address")?.trim()).ok_or("its address is not that of an Ethernet card")?;
    netlink::link_up(index).map_err(|e| format!("does not come up: {e}"))?;
    wait_for_cable(card);
    let socket = dhcp_socket(&name).map_err(|e| format!("no socket for DHCP: {e}"))?;
    // Not from the kernel's random pool: it may not be ready, and DHCP need not wait for it. The card's
    // address keeps two machines' transactions apart.
    let began = Instant::now();
    let mut dice = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]) ^ began_nanos();
    let mut client = Client::new(mac, dice);
    loop {
        let mut acts = Vec::new();
        if client.wake().is_some_and(|due| began.elapsed() >= due) {
            // A linear congruential step (Knuth, MMIX's high half) spreads the pauses well enough.
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            acts = client.tick(began.elapsed(), dice);
        } else if let Some(packet) = receive(&socket, client.wake(), began)? {
            acts.extend(client.packet(began.elapsed(), &packet));
        }
        for act in acts {
            obey(act, &name, index, &socket, say, leases);
        }
    }
}

fn began_nanos() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos())
}

fn wait_for_cable(card: &Path) {
    while !has_cable(card) {
        std::thread::sleep(LOOK.0);
    }
}

fn obey(act: Act, name: &str, index: u32, socket: &UdpSocket, say: &Say, leases: &Sender<String>) {
    match act {
        Act::Send(packet) => {
            let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
            if let Err(e) = socket.send_to(&packet, to) {
                say.line(&format!("{name}: DHCP is not sent: {e}"));
            }
        }
        Act::Use(lease) => match configure(index, &lease) {
            Ok(()) => {
                say.line(&format!("{name}: address {}/{}", lease.address, lease.prefix));
                // Nobody waits after the first.
                let _ = leases.send(format!("{name} {}", lease.address));
            }
            Err(e) => say.line(&format!("{name}: address {} is not taken: {e}", lease.address)),
        },
        Act::Lose(lease) => {
            say.line(&format!("{name}: the lease of {} is over", lease.address));
            if let Err(e) = netlink::remove_address(index, lease.address, lease.prefix) {
                say.line(&format!("{name}: address {} stays: {e}", lease.address));
            }
        }
    }
}

fn configure(index: u32, lease: &Lease) -> Result<(), Errno> {
    netlink::add_address(index, lease.address, lease.prefix)?;
    if let Some(gateway) = lease.gateway {
        netlink::default_route(index, gateway, METRIC + index)?;
    }
    if !lease.dns.is_empty() {
        let text: String = lease.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        let written: std::io::Result<()> =
            fs::create_dir_all("/etc").and_then(|()| fs::write("/etc/resolv.conf", text));
        written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    }
    Ok(())
}

/// A socket on one card that needs no address there (`SO_BINDTODEVICE` and broadcasts).
fn dhcp_socket(card: &str) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(card.as_bytes()))?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)))?;
    Ok(socket.into())
}

/// Waits for a packet until `wake`.
fn receive(socket: &UdpSocket, wake: Option<Duration>, began: Instant) -> Result<Option<Vec<u8>>, String> {
    let left = wake.map(|due| due.saturating_sub(began.elapsed()).max(Duration::from_millis(1)));
    socket.set_read_timeout(left).map_err(|e| format!("DHCP socket: {e}"))?;
    let mut buffer = vec![0; 2048];
    match socket.recv(&mut buffer) {
        Ok(len) => {
            buffer.truncate(len);
            Ok(Some(buffer))
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        // The card lost its link for a moment.
        Err(_) => {
            std::thread::sleep(LOOK.0);
            Ok(None)
        }
    }
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ethernet_addresses_are_used() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(parse_mac("80:00:02:08:fe:80:00:00"), None, "InfiniBand has longer ones");
        assert_eq!(parse_mac(""), None);
    }

    #[test]
    fn card_names_come_from_their_path() {
        assert_eq!(name_of(Path::new("/sys/class/net/eth0")), "eth0");
    }
}
