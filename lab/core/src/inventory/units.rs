//! Texts that carry a unit: durations, sizes, hardware addresses. Errors say what was expected.

/// Ten years: longer than any lease, short enough to be added to any time.
const MAX_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// `"30s"`, `"1h 30m"` in milliseconds.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("a unit, `\"{0}s\"` or `\"{0}m\"`", text.trim()));
    }
    let duration = humantime::parse_duration(text)
        .map_err(|_| "a duration such as `\"30s\"`, `\"8m\"`, `\"1h30m\"`".to_owned())?;
    let ms = u64::try_from(duration.as_millis()).ok().filter(|ms| *ms <= MAX_MS);
    let ms = ms.ok_or("at most ten years".to_owned())?;
    if ms == 0 && !duration.is_zero() { Err("at least a millisecond".to_owned()) } else { Ok(ms) }
}

/// `"512M"`, `"400GB"` in bytes. One letter and `KiB` count by 1024 as memory does, `KB` by 1000 as disks are sold.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "a size such as `\"512M\"`, `\"2GiB\"`, `\"400GB\"`";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let unit = unit.trim_start();
    let power = match unit.chars().next() {
        None => return Err(format!("a unit, `\"{number}M\"`")),
        Some('B') => 0,
        Some('K' | 'k') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        Some(_) => return Err(EXPECTED.to_owned()),
    };
    let base: u64 = match (unit.get(1..), power) {
        (Some(""), _) | (Some("iB"), 1..) => 1024,
        (Some("B"), 1..) => 1000,
        _ => return Err(EXPECTED.to_owned()),
    };
    base.checked_pow(power)
        .and_then(|factor| number.checked_mul(factor))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| "at most 8 EiB".to_owned())
}

/// `"bmc.lab"`, `"bmc.lab:624"`, `"[2001:db8::1]:624"` as `host:port` in lower case, so that one device has one name.
pub(super) fn address(text: &str, usual: Option<u16>) -> Result<String, String> {
    let expected = || match usual {
        Some(port) => format!("`\"host\"`, or `\"host:port\"` where the port is not {port}"),
        None => "`\"host:port\"`".to_owned(),
    };
    let (host, given) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(expected)?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(expected)?) })
    } else if text.matches(':').count() > 1 {
        (text, None)
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    // It may become an argument of a program: nothing that could be an option.
    let fits = !host.is_empty() && !host.starts_with('-') && host.chars().all(allowed);
    let port: Option<u16> = match given {
        Some(port) => port.parse().ok().filter(|port| *port != 0),
        None => usual,
    };
    let (Some(port), true) = (port, fits) else { return Err(expected()) };
    let host = host.to_ascii_lowercase();
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// `aa:bb:cc:dd:ee:ff`, in lower case.
pub(crate) fn mac(text: &str) -> Result<String, String> {
    let expected = || "a hardware address, `\"3c:52:82:6a:10:03\"`".to_owned();
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte =
        |part: &&str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+'));
    let octets: Vec<u8> = parts.iter().filter_map(byte).collect();
    if parts.len() != 6 || octets.len() != 6 {
        return Err(expected());
    }
    if octets.first().is_some_and(|first| first & 1 == 1) || octets.iter().all(|octet| *octet == 0) {
        return Err("the address of one network card, not a group address or zeroes".to_owned());
    }
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"))
}

/// `19:00-08:00`.
pub(super) fn hours(text: &str) -> Result<String, String> {
    let time = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let number = |text: &str| {
            text.parse::<u8>().ok().filter(|_| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()))
        };
        Some((number(hours)? < 24) && (number(minutes)? < 60))
    };
    let good = text
        .split_once('-')
        .is_some_and(|(from, to)| time(from) == Some(true) && time(to) == Some(true) && from != to);
    if good { Ok(text.to_owned()) } else { Err("hours of a day, `\"19:00-08:00\"`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        let is = |text: &str, told: &str| assert_eq!(address(text, Some(623)).as_deref(), Ok(told));
        is("A.lab", "a.lab:623");
        is("a.lab:624", "a.lab:624");
        is("192.0.2.7:1", "192.0.2.7:1");
        is("fe80::1%eth0", "[fe80::1%eth0]:623");
        is("[2001:DB8::1]:6", "[2001:db8::1]:6");
        for bad in ["", "-x", "a b", "a:", "a:0", "a:70000", "[::1", "[::1]x", ":5", "a;b", "http://a", "u@a"]
        {
            assert!(address(bad, Some(623)).is_err(), "{bad}");
        }
        assert!(address("a.lab", None).is_err());
        assert_eq!(address("a.lab:5", None).as_deref(), Ok("a.lab:5"));
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        assert_eq!(duration_ms("30").unwrap_err(), "a unit, `\"30s\"` or `\"30m\"`");
        for bad in ["", "s", "-5s", "5 parsecs", "5us", "100y", "99999999999999999999s"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        for (text, size) in [
            ("8M", 8 << 20),
            ("2GiB", 2 << 30),
            ("400GB", 400_000_000_000),
            ("512B", 512),
            ("4 K", 4096),
            ("1k", 1024),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for bad in ["", "8", "M", "8X", "8MX", "8Bi", "8BB", "8iB", "-1M", "1.5G", "99999999T", "8ä", "8Mä"]
        {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses_are_of_one_card() {
        assert_eq!(mac("3C-52-82-6A-10-03").as_deref(), Ok("3c:52:82:6a:10:03"));
        for bad in [
            "",
            "3c:52:82:6a:10",
            "3c:52:82:6a:10:0",
            "3c:52:82:6a:10:+3",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "3c:52:82:6a:10:03:04",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quiet_hours() {
        assert!(hours("19:00-08:00").is_ok());
        for bad in ["", "19-8", "24:00-08:00", "19:60-08:00", "08:00-08:00", "+9:00-08:00"] {
            assert!(hours(bad).is_err(), "{bad}");
        }
    }
}
