//! What a `POST /reservations` asks for, in the core's terms.

use super::App;
use super::error::{Refusal, usage};
use pitstop_core::reservation as core;
use pitstop_wire::api::{CleanLevel, HoldKind, Reserve, RoleAsk, Time, Until, Want};

/// Longest anything may last, in seconds: a year. What is longer is a
/// mistake in units.
const LONGEST: u64 = 366 * 24 * 3_600;
/// A session's silence, unless said.
const DEFAULT_SILENCE: u64 = 30;
/// Unless said; only admins go higher.
const DEFAULT_PRIORITY: i32 = 50;
const MAX_REASON: usize = 500;
const MAX_ROLES: usize = 32;

/// The core's ask; the image goes by name beside it.
pub fn ask(app: &App, body: &Reserve, now: Time) -> Result<core::Ask, Refusal> {
    let session = body.hold == Some(HoldKind::Session);
    let hold = match (session, body.silence) {
        (true, silence) => {
            core::Hold::Session { silence: seconds("silence", silence.unwrap_or(DEFAULT_SILENCE))? }
        }
        (false, None) => core::Hold::Time,
        (false, Some(_)) => return Err(usage("`silence` is for `\"hold\": \"session\"`")),
    };
    let limit = length(Until { length: body.length, until: body.until }, now)?;
    if body.reason.as_ref().is_some_and(|r| r.len() > MAX_REASON) {
        return Err(usage(format!("a `reason` has at most {MAX_REASON} bytes")));
    }
    Ok(core::Ask {
        roles: roles(app, body)?,
        image: None,
        want: want(body),
        hold,
        limit,
        clean: match body.clean {
            None | Some(CleanLevel::Proven) => core::CleanLevel::Proven,
            Some(CleanLevel::ByCommand) => core::CleanLevel::ByCommand,
            Some(CleanLevel::Any) => core::CleanLevel::Any,
        },
        priority: body.priority.unwrap_or(DEFAULT_PRIORITY),
        reason: body.reason.as_ref().map(|r| one_line(r)),
        patience: body.timeout.map(|s| seconds("timeout", s)).transpose()?,
        agent_lost: body.agent_lost.map(|s| seconds("agent_lost", s)).transpose()?,
    })
}

fn want(body: &Reserve) -> core::Want {
    match (body.want, &body.image) {
        (Some(Want::Bare), _) | (None, None) => core::Want::Bare,
        (Some(Want::Agent), _) => core::Want::Agent,
        (Some(Want::Image), _) | (None, Some(_)) => core::Want::Image,
    }
}

fn roles(app: &App, body: &Reserve) -> Result<Vec<core::Role>, Refusal> {
    let inventory = app.desk.inventory();
    if body.roles.is_empty() {
        let select = body.select.as_deref().unwrap_or_default();
        let count = body.count.unwrap_or(1);
        return Ok(vec![core::Role {
            name: "machine".to_owned(),
            select: app.known.act(&inventory, select)?,
            count,
        }]);
    }
    if body.select.is_some() || body.count.is_some() {
        return Err(usage("either `select` and `count`, or `roles`"));
    }
    if body.roles.len() > MAX_ROLES {
        return Err(usage(format!("at most {MAX_ROLES} roles")));
    }
    let mut roles: Vec<core::Role> = Vec::new();
    for RoleAsk { name, select, count } in &body.roles {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.is_empty() || name.len() > 63 || !plain {
            return Err(usage(format!(
                "`{}` is no role name: letters, digits, - and _",
                name.escape_debug()
            )));
        }
        if roles.iter().any(|r| r.name == *name) {
            return Err(usage(format!("role `{name}` is there twice")));
        }
        roles.push(core::Role {
            name: name.clone(),
            select: app.known.act(&inventory, select)?,
            count: count.unwrap_or(1),
        });
    }
    Ok(roles)
}

/// How long from now, in milliseconds.
pub fn length(until: Until, now: Time) -> Result<Option<u64>, Refusal> {
    match until {
        Until { length: None, until: None } => Ok(None),
        Until { length: Some(s), until: None } => seconds("for", s).map(Some),
        Until { length: None, until: Some(at) } if at <= now => {
            Err(usage(format!("`until` {at} is not in the future")))
        }
        Until { length: None, until: Some(at) } => seconds("until", at.since(now).div_ceil(1_000)).map(Some),
        Until { length: Some(_), until: Some(_) } => Err(usage("either `for` or `until`")),
    }
}

fn seconds(field: &str, s: u64) -> Result<u64, Refusal> {
    if (1..=LONGEST).contains(&s) {
        return Ok(s * 1_000);
    }
    Err(usage(format!("`{field}`: {s} s; it is 1 s to a year")))
}

/// Reasons are shown in other people's terminals.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        let now = Time(1_000_000);
        let s = |length, until| length_ms(length, until, now);
        assert_eq!(s(Some(60), None), Some(Some(60_000)));
        assert_eq!(s(None, Some(Time(1_000_001))), Some(Some(1_000)), "never shorter than asked");
        assert_eq!(s(None, None), Some(None));
        for (length, until) in [
            (Some(0), None),
            (Some(u64::MAX), None),
            (None, Some(now)),
            (Some(1), Some(Time(2_000_000))),
            (None, Some(Time(i64::MAX))),
        ] {
            assert_eq!(s(length, until), None, "{length:?} {until:?}");
        }
    }

    fn length_ms(length: Option<u64>, until: Option<Time>, now: Time) -> Option<Option<u64>> {
        super::length(Until { length, until }, now).ok()
    }
}
