//! DHCP messages (RFC 2131 §2, RFC 2132), as far as a client needs them.

use std::net::Ipv4Addr;

/// Hardware address of an Ethernet card.
pub(super) type Mac = [u8; 6];

const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Fixed part with the magic.
const FIXED: usize = 240;
/// Relays and servers may drop what is shorter than a BOOTP message (RFC 1542 §2.1).
const SHORTEST: usize = 300;
/// Answer by broadcast: we have no address a unicast could be sent to.
const BROADCAST: u16 = 0x8000;

const OPT_MASK: u8 = 1;
const OPT_ROUTER: u8 = 3;
const OPT_DNS: u8 = 6;
const OPT_ADDRESS: u8 = 50;
const OPT_LEASE: u8 = 51;
const OPT_OVERLOAD: u8 = 52;
const OPT_KIND: u8 = 53;
const OPT_SERVER: u8 = 54;
const OPT_WANTED: u8 = 55;
const OPT_MAX_SIZE: u8 = 57;
const OPT_RENEW: u8 = 58;
const OPT_CLIENT: u8 = 61;
const PAD: u8 = 0;
const END: u8 = 255;

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Discover,
    /// Take an offer.
    Request {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Extend a lease, from whatever server (RFC 2131 §4.3.2, REBINDING).
    Renew {
        address: Ipv4Addr,
    },
}

/// Which kind of answer a server gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// What a server gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) address: Ipv4Addr,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) prefix: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) dns: Vec<Ipv4Addr>,
    /// Seconds; `u32::MAX` is for ever.
    pub(super) lease: u32,
    /// Seconds after which to renew, where the server says so.
    pub(super) renew: Option<u32>,
}

/// Encodes a client's message.
pub(super) fn encode(ask: Ask, mac: Mac, xid: u32, secs: u16) -> Vec<u8> {
    let mut out = vec![0; FIXED];
    // BOOTREQUEST, Ethernet, six bytes of address.
    out[..3].copy_from_slice(&[1, 1, 6]);
    out[4..8].copy_from_slice(&xid.to_be_bytes());
    out[8..10].copy_from_slice(&secs.to_be_bytes());
    out[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
    out[28..34].copy_from_slice(&mac);
    out[236..240].copy_from_slice(&MAGIC);
    let kind = if ask == Ask::Discover { 1 } else { 3 };
    out.extend_from_slice(&[OPT_KIND, 1, kind]);
    match ask {
        Ask::Discover => {}
        Ask::Request { address, server } => {
            for (option, value) in [(OPT_ADDRESS, address), (OPT_SERVER, server)] {
                out.extend_from_slice(&[option, 4]);
                out.extend_from_slice(&value.octets());
            }
        }
        Ask::Renew { address } => out[12..16].copy_from_slice(&address.octets()),
    }
    // The client identifier of firmware and iPXE, type and MAC (RFC 2132 §9.14): a server that leases by it
    // gives us the address that they had, from which the daemon expects us.
    out.extend_from_slice(&[OPT_CLIENT, 7, 1]);
    out.extend_from_slice(&mac);
    out.extend_from_slice(&[OPT_MAX_SIZE, 2, 0x05, 0xc0]);
    let wanted = [OPT_MASK, OPT_ROUTER, OPT_DNS, OPT_LEASE, OPT_RENEW];
    out.extend_from_slice(&[OPT_WANTED, wanted.len() as u8]);
    out.extend_from_slice(&wanted);
    out.push(END);
    out.resize(out.len().max(SHORTEST), PAD);
    out
}

/// Reads a server's message to this client; `None` if it is anything else.
pub(super) fn decode(bytes: &[u8], mac: Mac, xid: u32) -> Option<Answer> {
    let to_us = bytes.len() > FIXED
        && bytes[0] == 2
        && bytes[4..8] == xid.to_be_bytes()
        && bytes[28..34] == mac
        && bytes[236..240] == MAGIC;
    if !to_us {
        return None;
    }
    let mut answer = Answer {
        kind: Kind::Nak,
        address: address(&bytes[16..20])?,
        server: None,
        prefix: 24,
        gateway: None,
        dns: Vec::new(),
        lease: 3600,
        renew: None,
    };
    let (mut kind, mut overload) = (None, 0);
    options(&bytes[FIXED..], |option, value| take(&mut answer, &mut kind, &mut overload, option, value))?;
    // Options may go on in the fields for file and server name (RFC 2131 §4.1).
    let mut ignored = 0;
    if overload & 1 != 0 {
        options(&bytes[108..236], |o, v| take(&mut answer, &mut kind, &mut ignored, o, v))?;
    }
    if overload & 2 != 0 {
        options(&bytes[44..108], |o, v| take(&mut answer, &mut kind, &mut ignored, o, v))?;
    }
    answer.kind = kind?;
    let usable = answer.kind == Kind::Nak || !answer.address.is_unspecified();
    usable.then_some(answer)
}

fn take(answer: &mut Answer, kind: &mut Option<Kind>, overload: &mut u8, option: u8, value: &[u8]) {
    let number = || value.first_chunk().map(|b| u32::from_be_bytes(*b));
    match option {
        OPT_KIND => {
            *kind = match value.first() {
                Some(2) => Some(Kind::Offer),
                Some(5) => Some(Kind::Ack),
                Some(6) => Some(Kind::Nak),
                _ => None,
            }
        }
        OPT_OVERLOAD => *overload = value.first().copied().unwrap_or(0),
        OPT_SERVER => answer.server = address(value),
        OPT_MASK => answer.prefix = number().map_or(answer.prefix, |mask| mask.leading_ones() as u8),
        OPT_ROUTER => answer.gateway = address(value).filter(|a| !a.is_unspecified()),
        OPT_DNS => answer.dns = value.chunks_exact(4).filter_map(address).take(3).collect(),
        OPT_LEASE => answer.lease = number().unwrap_or(answer.lease),
        OPT_RENEW => answer.renew = number(),
        _ => {}
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b))
}

/// Walks over options; `None` if one reaches beyond the end.
fn options(mut bytes: &[u8], mut each: impl FnMut(u8, &[u8])) -> Option<()> {
    while let [option, rest @ ..] = bytes {
        match *option {
            PAD => bytes = rest,
            END => return Some(()),
            option => {
                let (&len, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(len.into())?;
                each(option, value);
                bytes = rest;
            }
        }
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::pid1) const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];

    /// A server's message, as a server builds it.
    pub(in crate::pid1) fn reply(kind: u8, xid: u32, yours: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut out = vec![0; FIXED];
        out[..3].copy_from_slice(&[2, 1, 6]);
        out[4..8].copy_from_slice(&xid.to_be_bytes());
        out[16..20].copy_from_slice(&yours);
        out[28..34].copy_from_slice(&MAC);
        out[236..240].copy_from_slice(&MAGIC);
        out.extend_from_slice(&[OPT_KIND, 1, kind, OPT_SERVER, 4, 10, 0, 2, 2]);
        out.extend_from_slice(options);
        out.push(END);
        out
    }

    #[test]
    fn an_offer_is_read_with_mask_router_servers_and_times() {
        let options = [
            &[OPT_MASK, 4, 255, 255, 240, 0, PAD, OPT_ROUTER, 4, 10, 0, 2, 1, OPT_DNS, 8][..],
            &[1, 1, 1, 1, 8, 8, 8, 8, OPT_LEASE, 4, 0, 0, 0x0e, 0x10, OPT_RENEW, 4, 0, 0, 0, 60],
        ]
        .concat();
        let answer = decode(&reply(2, 7, [10, 0, 2, 15], &options), MAC, 7).unwrap();
        assert_eq!(answer.kind, Kind::Offer);
        assert_eq!(answer.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(answer.server, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!((answer.prefix, answer.lease, answer.renew), (20, 3600, Some(60)));
        assert_eq!(answer.gateway, Some(Ipv4Addr::new(10, 0, 2, 1)));
        assert_eq!(answer.dns.len(), 2);
    }

    #[test]
    fn answers_to_others_and_broken_ones_are_not_ours() {
        let good = reply(5, 7, [10, 0, 2, 15], &[]);
        assert!(decode(&good, MAC, 7).is_some());
        assert!(decode(&good, MAC, 8).is_none(), "another transaction");
        assert!(decode(&good, [9; 6], 7).is_none(), "another card");
        assert!(decode(&reply(5, 7, [0; 4], &[]), MAC, 7).is_none(), "no address");
        assert!(decode(&reply(5, 7, [10, 0, 2, 15], &[OPT_DNS, 200, 1]), MAC, 7).is_none(), "cut option");
        for cut in 0..good.len() {
            // Whatever is missing, nothing may fail but the reading.
            let _ = decode(&good[..cut], MAC, 7);
        }
    }

    #[test]
    fn options_may_go_on_in_the_file_field() {
        let mut packet = reply(5, 7, [10, 0, 2, 15], &[OPT_OVERLOAD, 1, 1]);
        packet[108..115].copy_from_slice(&[OPT_ROUTER, 4, 10, 9, 9, 9, END]);
        assert_eq!(decode(&packet, MAC, 7).unwrap().gateway, Some(Ipv4Addr::new(10, 9, 9, 9)));
    }

    #[test]
    fn requests_ask_for_a_broadcast_answer_and_are_as_long_as_bootp_wants() {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        let packet = encode(Ask::Request { address, server: Ipv4Addr::new(10, 0, 2, 2) }, MAC, 7, 3);
        assert_eq!(packet.len(), 300);
        assert_eq!(packet[10..12], [0x80, 0]);
        assert_eq!(packet[240..243], [OPT_KIND, 1, 3]);
        assert_eq!(packet[243..249], [OPT_ADDRESS, 4, 10, 0, 2, 15]);
        assert_eq!(packet[12..16], [0; 4]);
        let client = [&[OPT_CLIENT, 7, 1], &MAC[..]].concat();
        assert!(packet.windows(9).any(|w| w == client), "the address would not be the firmware's");
        assert_eq!(encode(Ask::Renew { address }, MAC, 7, 3)[12..16], [10, 0, 2, 15]);
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_is_usable_or_not_taken(
            kind in 0_u8..8,
            yours in any::<[u8; 4]>(),
            options in prop::collection::vec(any::<u8>(), 0..60),
            file in prop::collection::vec(any::<u8>(), 128),
        ) {
            let mut packet = reply(kind, 7, yours, &options);
            packet[108..236].copy_from_slice(&file);
            if let Some(answer) = decode(&packet, MAC, 7) {
                prop_assert!(answer.prefix <= 32 && answer.dns.len() <= 3);
                prop_assert!(answer.kind == Kind::Nak || !answer.address.is_unspecified());
                prop_assert_eq!(decode(&packet, MAC, 8), None);
            }
        }
    }
}
