//! Shares of a listener: no single source may take all places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who holds how many places.
pub struct Shares {
    each: usize,
    loopback: usize,
    taken: Mutex<HashMap<Source, usize>>,
}

/// One place, given back when dropped.
pub struct Share {
    of: Arc<Shares>,
    source: Source,
}

/// What counts as one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// This host. Simulated machines and all machines on a user-mode network
    /// come from here.
    Loopback,
    /// One address; of IPv6 one network, since a host may use all of its
    /// addresses (RFC 4291 §2.5.1).
    Remote(IpAddr),
}

impl Shares {
    /// `each` places for a source, `loopback` for this host.
    pub fn new(each: usize, loopback: usize) -> Arc<Self> {
        Arc::new(Self { each, loopback, taken: Mutex::default() })
    }

    /// A place for a connection from there; `None`: it has its share.
    pub fn take(self: &Arc<Self>, from: IpAddr) -> Option<Share> {
        let source = Source::of(from);
        let most = if source == Source::Loopback { self.loopback } else { self.each };
        let mut taken = self.taken();
        let count = taken.entry(source).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Share { of: self.clone(), source })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Self::Remote(Ipv6Addr::from_bits(network).into())
            }
            v4 => Self::Remote(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_source_leaves_places_for_the_others() {
        let shares = Shares::new(2, 5);
        let take = |from: &str| shares.take(from.parse().unwrap());
        let held: Vec<_> = (0..2).map(|_| take("192.0.2.1").unwrap()).collect();
        assert!(take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none());
        let _other = take("192.0.2.2").expect("another source has its own share");
        drop(held);
        assert!(take("192.0.2.1").is_some(), "places are given back");
        let _six: Vec<_> = ["2001:db8::1", "2001:db8::2"].into_iter().map(|a| take(a).unwrap()).collect();
        assert!(take("2001:db8::3").is_none(), "one host may use many addresses of its network");
        assert!(take("2001:db8:0:1::1").is_some());
        let local: Vec<_> = (0..5).map(|_| take("127.0.0.1").unwrap()).collect();
        assert!(take("::1").is_none() && local.len() == 5);
    }
}
