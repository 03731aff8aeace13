//! Addresses: of devices, as the inventory gives them, and where machines reach the daemon.

/// Host and port of `host:port` or `[v6]:port`, which is what a field of kind
/// [`Address`](pitstop_core::inventory::catalogue::FieldKind::Address) is.
pub fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

/// `host:port`, an IPv6 address in brackets (RFC 3986, section 3.2.2).
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_behind_the_last_colon() {
        assert_eq!(split("a.lab:624"), Some(("a.lab".to_owned(), 624)));
        assert_eq!(split("[2001:db8::1]:6"), Some(("2001:db8::1".to_owned(), 6)));
        assert_eq!(split("a.lab"), None);
    }
}
