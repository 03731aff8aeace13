//! Times as people say and read them.

use super::Result;
use super::fail::Fail;
use pitstop_wire::api::Time;
use std::time::Duration;

/// A length of time: `12s`, `41m`, `1h58m`, `3d`.
pub fn short(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..86_400 if s % 3_600 < 60 => format!("{}h", s / 3_600),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long ago that was.
pub fn ago(at: Time) -> String {
    short(Time::now().since(at))
}

/// How long until then; rounded up, so that a fresh 2 h reads as 2h.
pub fn left(at: Time) -> String {
    short(at.since(Time::now()).div_ceil(1_000) * 1_000)
}

/// A moment on the user's own clock: `14:21` today, with the day otherwise.
pub fn clock(at: Time) -> String {
    let zone = jiff::tz::TimeZone::system();
    let local = |t: Time| jiff::Timestamp::from_millisecond(t.0).map(|t| t.to_zoned(zone.clone()));
    match (local(at), local(Time::now())) {
        (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M").to_string(),
        (Ok(at), _) => at.strftime("%Y-%m-%d %H:%M").to_string(),
        _ => at.to_string(),
    }
}

/// The same with seconds, for histories.
pub fn clock_seconds(at: Time) -> String {
    let zone = jiff::tz::TimeZone::system();
    let local = |t: Time| jiff::Timestamp::from_millisecond(t.0).map(|t| t.to_zoned(zone.clone()));
    match (local(at), local(Time::now())) {
        (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M:%S").to_string(),
        (Ok(at), _) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => at.to_string(),
    }
}

/// A moment on the user's own clock, always with the day and as long.
pub fn to_the_second(at: Time) -> String {
    let zone = jiff::tz::TimeZone::system();
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(at) => at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at.to_string(),
    }
}

/// Reads `90m`, `1h30m`. Without a unit nobody knows what is meant.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` needs a unit: {text}s, {text}m, {text}h"));
    }
    let length = humantime::parse_duration(text).map_err(|e| format!("{e}; say 90s, 30m, 1h30m, 2d"))?;
    if length.as_secs() == 0 {
        return Err("at least 1s".to_owned());
    }
    Ok(length)
}

/// Reads `18:00` (the next one, on the user's clock) or RFC 3339.
pub fn moment(text: &str) -> std::result::Result<Time, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    let wrong = || format!("`{text}` is no moment; say 18:00 or 2026-11-22T18:00:00Z");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let (hour, minute): (i8, i8) = (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
    let clock = jiff::civil::Time::new(hour, minute, 0, 0).map_err(|_| wrong())?;
    let now = jiff::Zoned::now();
    let at = |date: jiff::civil::Date| {
        date.to_datetime(clock).to_zoned(now.time_zone().clone()).map_err(|_| wrong())
    };
    let mut then = at(now.date())?;
    if then <= now {
        then = at(now.date().tomorrow().map_err(|_| wrong())?)?;
    }
    Ok(Time(then.timestamp().as_millisecond()))
}

/// Reads where a history begins: a record's number, `2h` or `2h ago`,
/// `today`, `yesterday`, a date, or RFC 3339.
pub fn since(text: &str) -> Result<String> {
    if text.parse::<u64>().is_ok() || text.parse::<Time>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Some(midnight) = day(text) {
        return Ok(midnight.to_string());
    }
    let length = duration(text.strip_suffix("ago").unwrap_or(text).trim()).map_err(|_| {
        Fail::usage(format!("--since: `{text}` is no time")).hint(
            "say 2h, '2h ago', today, yesterday, 2026-11-22, 2026-11-22T18:00:00Z, or a record's number",
        )
    })?;
    let ms = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    Ok(Time(Time::now().0.saturating_sub(ms)).to_string())
}

/// The beginning of a day on the user's clock.
fn day(text: &str) -> Option<Time> {
    let now = jiff::Zoned::now();
    let date = match text {
        "today" => now.date(),
        "yesterday" => now.date().yesterday().ok()?,
        other => other.parse::<jiff::civil::Date>().ok().filter(|_| other.len() == 10)?,
    };
    let midnight = date.to_zoned(now.time_zone().clone()).ok()?;
    Some(Time(midnight.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_since_that_people_try_are_taken_and_others_are_listed() {
        for text in ["17", "2h", "2h ago", "90m", "today", "yesterday", "2026-11-22", "2026-11-22T18:00:00Z"]
        {
            assert!(since(text).is_ok(), "{text}");
        }
        let back = |text: &str| Time::now().since(since(text).unwrap().parse::<Time>().unwrap());
        assert!(back("2h ago").abs_diff(7_200_000) < 60_000);
        assert!(back("yesterday") >= 23 * 3_600_000 && back("yesterday") <= 50 * 3_600_000);
        for text in
            ["soon", "ago", "90", "2026-13-01", "-2h"].into_iter().filter(|t| t.parse::<u64>().is_err())
        {
            let Err(Fail::Said(error)) = since(text) else { panic!("{text} was taken") };
            assert!(error.hint.is_some_and(|h| h.contains("yesterday") && h.contains("'2h ago'")), "{text}");
        }
    }

    #[test]
    fn lengths_are_short_and_have_units() {
        let table = [
            (900, "0s"),
            (12_000, "12s"),
            (41 * 60_000, "41m"),
            (7_080_000, "1h58m"),
            (7_200_000, "2h"),
            (3 * 86_400_000, "3d"),
        ];
        for (ms, text) in table {
            assert_eq!(short(ms), text);
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_the_units() {
        assert!(duration("90").unwrap_err().contains("90m"));
        assert!(duration("0s").is_err());
        assert!(duration("soon").is_err());
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5_400));
    }

    #[test]
    fn a_clock_time_is_the_next_one() {
        let now = Time::now();
        let then = moment("18:00").unwrap();
        assert!(then > now && then.since(now) <= 25 * 3_600_000);
        assert!(moment("25:00").is_err());
        assert!(moment("later").is_err());
    }
}
