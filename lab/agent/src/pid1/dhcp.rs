//! The DHCP client's states (RFC 2131 §4.4), without sockets and clock.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::dhcp_packet::{Answer, Ask, Kind, Mac, decode, encode};

/// Pauses before sending again. The first are short: a switch port that just came up loses packets.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Requests for one offer before looking for another.
const REQUESTS: usize = 4;
/// Pause between two tries to extend a lease.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

/// An address for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) dns: Vec<Ipv4Addr>,
}

/// What the card is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Broadcast this.
    Send(Vec<u8>),
    /// Use this address.
    Use(Lease),
    /// The address is no longer ours.
    Lose(Lease),
}

#[derive(Debug, Clone)]
enum State {
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    Bound { lease: Lease, expires: Option<Duration>, renewing: bool },
}

/// One card's client. Times are since its start.
pub(super) struct Client {
    mac: Mac,
    xid: u32,
    state: State,
    tries: usize,
    wake: Option<Duration>,
}

impl Client {
    /// A client that wants to send at once.
    pub(super) fn new(mac: Mac, xid: u32) -> Self {
        Self { mac, xid, state: State::Selecting, tries: 0, wake: Some(Duration::ZERO) }
    }

    /// When [`Client::tick`] is due; `None`: never (a lease for ever).
    pub(super) fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// It is time. `jitter` moves the next pause, by up to a quarter; any number will do.
    pub(super) fn tick(&mut self, now: Duration, jitter: u32) -> Vec<Act> {
        let mut acts = Vec::new();
        if let State::Bound { lease, expires: Some(expires), .. } = &self.state
            && now >= *expires
        {
            acts.push(Act::Lose(lease.clone()));
            self.start_over();
        }
        if matches!(self.state, State::Requesting { .. }) && self.tries >= REQUESTS {
            self.start_over();
        }
        let ask = match &mut self.state {
            State::Selecting => Ask::Discover,
            State::Requesting { address, server } => Ask::Request { address: *address, server: *server },
            State::Bound { lease, renewing, .. } => {
                *renewing = true;
                Ask::Renew { address: lease.address }
            }
        };
        let secs = u16::try_from(now.as_secs()).unwrap_or(u16::MAX);
        acts.push(Act::Send(encode(ask, self.mac, self.xid, secs)));
        let pause = match &self.state {
            State::Bound { expires, .. } => {
                expires.map_or(RENEW_PAUSE, |end| RENEW_PAUSE.min(end.saturating_sub(now)))
            }
            _ => PAUSES[self.tries.min(PAUSES.len() - 1)],
        };
        self.tries += 1;
        self.wake = Some(now + pause + pause.mul_f64(f64::from(jitter) / f64::from(u32::MAX) / 4.0));
        acts
    }

    /// Bytes arrived.
    pub(super) fn packet(&mut self, now: Duration, bytes: &[u8]) -> Option<Act> {
        let answer = decode(bytes, self.mac, self.xid)?;
        match (&self.state, answer.kind) {
            (State::Selecting, Kind::Offer) => {
                self.state = State::Requesting { address: answer.address, server: answer.server? };
                self.tries = 0;
                self.wake = Some(now);
                None
            }
            (State::Requesting { address, .. }, Kind::Ack) if *address == answer.address => {
                Some(Act::Use(self.bind(now, answer)))
            }
            (State::Requesting { .. }, Kind::Nak) => {
                self.start_over();
                // Not at once: a server that refuses what it offers would be asked without a pause.
                self.wake = Some(now + PAUSES[1]);
                None
            }
            (State::Bound { lease, renewing: true, .. }, Kind::Ack) if lease.address == answer.address => {
                self.bind(now, answer);
                None
            }
            (State::Bound { lease, renewing: true, .. }, Kind::Nak) => {
                let lost = Act::Lose(lease.clone());
                self.start_over();
                self.wake = Some(now);
                Some(lost)
            }
            _ => None,
        }
    }

    fn start_over(&mut self) {
        self.state = State::Selecting;
        self.tries = 0;
        self.xid = self.xid.wrapping_add(1);
    }

    fn bind(&mut self, now: Duration, answer: Answer) -> Lease {
        let lease = Lease {
            address: answer.address,
            prefix: answer.prefix,
            gateway: answer.gateway,
            dns: answer.dns,
        };
        // A lease of a few seconds would keep a careless server busy with us.
        let lasts = Duration::from_secs(u64::from(answer.lease).max(60));
        let for_ever = answer.lease == u32::MAX;
        let renew = answer.renew.map_or(lasts / 2, |s| Duration::from_secs(s.into()));
        let renew = renew.clamp(Duration::from_secs(20), lasts.mul_f64(0.875));
        self.wake = (!for_ever).then_some(now + renew);
        let expires = (!for_ever).then_some(now + lasts);
        self.state = State::Bound { lease: lease.clone(), expires, renewing: false };
        self.tries = 0;
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::super::dhcp_packet::tests::{MAC, reply};
    use super::*;

    const OURS: [u8; 4] = [10, 0, 2, 15];
    const HOUR: [u8; 6] = [51, 4, 0, 0, 0x0e, 0x10];

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn kind(acts: &[Act]) -> u8 {
        match acts {
            [.., Act::Send(packet)] => packet[242],
            other => panic!("{other:?}"),
        }
    }

    fn bound() -> Client {
        let mut client = Client::new(MAC, 7);
        assert_eq!(kind(&client.tick(at(0), 0)), 1);
        assert_eq!(client.packet(at(0), &reply(2, 7, OURS, &[])), None);
        assert_eq!(client.wake(), Some(at(0)), "an offer is taken at once");
        assert_eq!(kind(&client.tick(at(0), 0)), 3);
        let Some(Act::Use(lease)) = client.packet(at(1), &reply(5, 7, OURS, &HOUR)) else { panic!() };
        assert_eq!(lease.address, Ipv4Addr::from(OURS));
        client
    }

    #[test]
    fn discovery_goes_on_with_longer_pauses_until_there_is_an_offer() {
        let mut client = Client::new(MAC, 7);
        let mut pauses = Vec::new();
        let mut now = at(0);
        for _ in 0..7 {
            assert_eq!(kind(&client.tick(now, 0)), 1);
            let next = client.wake().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn an_offer_whose_server_falls_silent_is_given_up() {
        let mut client = Client::new(MAC, 7);
        client.tick(at(0), 0);
        client.packet(at(0), &reply(2, 7, OURS, &[]));
        for _ in 0..4 {
            assert_eq!(kind(&client.tick(at(1), 0)), 3);
        }
        assert_eq!(kind(&client.tick(at(9), 0)), 1);
        assert!(client.packet(at(9), &reply(2, 7, OURS, &[])).is_none(), "late, of the old transaction");
        assert_eq!(kind(&client.tick(at(9), 0)), 1);
    }

    #[test]
    fn a_lease_is_renewed_at_half_time_and_lost_at_its_end() {
        let mut client = bound();
        assert_eq!(client.wake(), Some(at(1801)));
        assert_eq!(kind(&client.tick(at(1801), 0)), 3);
        assert_eq!(client.packet(at(1802), &reply(5, 7, OURS, &HOUR)), None);
        assert_eq!(client.wake(), Some(at(3602)));
        let acts = client.tick(at(1802 + 3600), 0);
        assert!(matches!(acts.as_slice(), [Act::Lose(_), Act::Send(_)]), "{acts:?}");
        assert_eq!(kind(&acts), 1);
    }

    #[test]
    fn a_refused_renewal_gives_the_address_up() {
        let mut client = bound();
        client.tick(at(1801), 0);
        assert!(matches!(client.packet(at(1801), &reply(6, 7, [0; 4], &[])), Some(Act::Lose(_))));
        assert_eq!(kind(&client.tick(at(1801), 0)), 1);
    }

    #[test]
    fn an_unasked_refusal_takes_no_address_away() {
        let mut client = bound();
        assert_eq!(client.packet(at(2), &reply(6, 7, [0; 4], &[])), None);
        assert_eq!(client.wake(), Some(at(1801)));
    }
}
