//! What a `POST /reservations` asks for, in the core's terms.

use super::App;
use super::error::{Refusal, usage};
use pitstop_core::reservation as core;
use pitstop_wire::Selector;
use pitstop_wire::api::{CleanLevel, HoldKind, Reserve, RoleAsk, Time, Until, Want};
use pitstop_wire::text::one_line;

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
pub async fn ask(app: &App, body: &Reserve, now: Time) -> Result<core::Ask, Refusal> {
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
        roles: roles(app, body).await?,
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

async fn roles(app: &App, body: &Reserve) -> Result<Vec<core::Role>, Refusal> {
    if body.roles.is_empty() {
        let select = body.select.as_deref().unwrap_or_default();
        let count = body.count.unwrap_or(1);
        return Ok(vec![core::Role {
            name: "machine".to_owned(),
            select: selector(app, select).await?,
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
            select: selector(app, select).await?,
            count: count.unwrap_or(1),
        });
    }
    Ok(roles)
}

/// Which machines. Rows are looked at only where it names what was found.
async fn selector(app: &App, text: &str) -> Result<Selector, Refusal> {
    match app.known.act_by(&app.desk.inventory(), text)? {
        Some(selector) => Ok(selector),
        None => app.known.act(&*app.desk.snapshot().await?, text),
    }
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
