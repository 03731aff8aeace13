//! The few requests of rtnetlink(7) that bring up a network: link up, address, default route. By hand,
//! because they are a hundred lines, and a crate for all of rtnetlink is two thousand.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_DHCP: u8 = 16;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;
const HEADER: usize = 16;

/// Brings up the loopback interface, which is number 1 in every network namespace.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    link_up(1)
}

/// Brings an interface up.
pub(crate) fn link_up(index: u32) -> Result<(), Errno> {
    request(&link_message(index))
}

/// Gives an interface an address.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
    request(&address_message(RTM_NEWADDR, index, address, prefix))
}

/// Takes an address away.
pub(crate) fn remove_address(index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
    request(&address_message(RTM_DELADDR, index, address, prefix))
}

/// Sets the default route of an interface. The metric keeps those of several interfaces apart.
pub(crate) fn default_route(index: u32, gateway: Ipv4Addr, metric: u32) -> Result<(), Errno> {
    // A gateway outside the interface's own net (cloud networks with /32 addresses) needs a link route.
    match request(&route_message(index, 0, None, Some(gateway), metric)) {
        Err(Errno::NETUNREACH) => {
            request(&route_message(index, 32, Some(gateway), None, metric))?;
            request(&route_message(index, 0, None, Some(gateway), metric))
        }
        other => other,
    }
}

fn message(kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out.extend_from_slice(body);
    for (kind, value) in attributes {
        // rtattr: length (with this header), kind, value, padded to four bytes.
        out.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let len = out.len() as u32;
    out[0..4].copy_from_slice(&len.to_ne_bytes());
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    out[8..12].copy_from_slice(&1u32.to_ne_bytes());
    out
}

/// ifinfomsg: family, padding, device type, index, flags, which flags change.
fn link_message(index: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [index, IFF_UP, IFF_UP] {
        body.extend_from_slice(&field.to_ne_bytes());
    }
    message(RTM_NEWLINK, 0, &body, &[])
}

/// ifaddrmsg: family, prefix length, flags, scope, index.
fn address_message(kind: u16, index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    let octets = address.octets();
    message(kind, NLM_F_CREATE | NLM_F_REPLACE, &body, &[(IFA_LOCAL, &octets), (IFA_ADDRESS, &octets)])
}

/// rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
fn route_message(
    index: u32,
    prefix: u8,
    to: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    metric: u32,
) -> Vec<u8> {
    const RTA_DST: u16 = 1;
    let scope = if gateway.is_some() { 0 } else { RT_SCOPE_LINK };
    let mut body = vec![AF_INET, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_DHCP, scope, RTN_UNICAST];
    body.extend_from_slice(&0u32.to_ne_bytes());
    let (index, metric) = (index.to_ne_bytes(), metric.to_ne_bytes());
    let (to, gateway) = (to.map(|a| a.octets()), gateway.map(|a| a.octets()));
    let mut attributes: Vec<(u16, &[u8])> = vec![(RTA_OIF, &index), (RTA_PRIORITY, &metric)];
    if let Some(to) = &to {
        attributes.push((RTA_DST, to));
    }
    if let Some(gateway) = &gateway {
        attributes.push((RTA_GATEWAY, gateway));
    }
    message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, &attributes)
}

fn request(message: &[u8]) -> Result<(), Errno> {
    // No protocol is protocol 0, which is NETLINK_ROUTE.
    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 4096];
    let (len, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    acknowledged(&answer[..len])
}

/// Reads the answer: an nlmsgerr whose error is 0 or a negative error number.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|b| b.first_chunk()).map(|b| u16::from_ne_bytes(*b));
    let error = answer.get(HEADER..HEADER + 4).and_then(|b| b.first_chunk()).map(|b| i32::from_ne_bytes(*b));
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_own_length_and_padded_attributes() {
        let message = route_message(3, 0, None, Some(Ipv4Addr::new(10, 0, 2, 2)), 103);
        assert_eq!(message.len(), 16 + 12 + 3 * 8);
        assert_eq!(message[0..4], (message.len() as u32).to_ne_bytes());
        assert_eq!(message[message.len() - 4..], [10, 0, 2, 2]);
        assert!(message.len().is_multiple_of(4));
        assert_eq!(link_message(1).len(), 32);
    }

    #[test]
    fn the_kernels_refusal_is_not_taken_for_success() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert_eq!(acknowledged(&answer), Ok(()));
        answer[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Err(Errno::PERM));
        assert_eq!(acknowledged(&answer[..10]), Err(Errno::PROTO));
    }
}
