//! Addresses of devices, as people write them.

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address; `port` where none
/// is written. What is given back is safe to be an argument: it is no option.
pub fn split(address: &str, port: u16) -> Option<(String, u16)> {
    let (host, given) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else if address.matches(':').count() > 1 {
        (address, None)
    } else {
        address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)))
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    let fits = !host.is_empty() && !host.starts_with('-') && host.chars().all(allowed);
    let port = match given {
        Some(text) => text.parse().ok().filter(|port| *port != 0)?,
        None => port,
    };
    fits.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        let is = |text: &str, host: &str, port| assert_eq!(split(text, 623), Some((host.to_owned(), port)));
        is("a.lab", "a.lab", 623);
        is("a.lab:624", "a.lab", 624);
        is("192.0.2.7:1", "192.0.2.7", 1);
        is("fe80::1%eth0", "fe80::1%eth0", 623);
        is("[2001:db8::1]:6", "2001:db8::1", 6);
        is("[2001:db8::1]", "2001:db8::1", 623);
        for bad in ["", "-x", "a b", "a:", "a:0", "a:70000", "[::1", "[::1]x", ":5", "a;b", "http://a"] {
            assert_eq!(split(bad, 623), None, "{bad}");
        }
    }
}
