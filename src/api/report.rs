//! What the lab did since a moment, added up from its history.

use super::error::{Answer, Refusal, usage};
use super::extract::Params;
use super::peer::Peer;
use super::{App, Shared};
use crate::store::RecordQuery;
use axum::Json;
use axum::extract::State;
use pitstop_core::Lab;
use pitstop_core::ledger::{Account, Cost, Ledger, Usage};
use pitstop_core::machine::FailureClass;
use pitstop_wire::ApiError;
use pitstop_wire::api::{Report, ReportBy, ReportLine, Schema, Time};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How far back a report looks where nobody says: 30 days, in milliseconds.
const USUAL: i64 = 30 * 86_400_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    #[serde(default)]
    by: ReportBy,
    since: Option<String>,
}

/// What the lab did, and what failures cost.
pub async fn report(State(app): State<Shared>, _: Peer, Params(query): Params<Query>) -> Answer<Report> {
    let until = app.desk.wall();
    let since = match query.since.as_deref().map(|s| (s, s.parse::<Time>())) {
        None => until - USUAL,
        Some((_, Ok(time))) => time.0,
        Some((text, Err(_))) => return Err(usage(format!("`since={text}` is not RFC 3339"))),
    };
    let lab = app.desk.snapshot().await?;
    let ledger = read(&app, RecordQuery { since: Some(since), ..RecordQuery::default() }).await?;
    let ledger = ledger.at(app.desk.now(), lab.machines().map(|m| &**m));
    let mut lines = match query.by {
        ReportBy::Machine => by_machine(&ledger),
        ReportBy::Class => by_class(&ledger, &lab),
        ReportBy::Cause => by_cause(&ledger),
        ReportBy::User => ledger.users().map(|(name, usage)| of_user(name.as_str(), usage)).collect(),
    };
    lines.sort_by(|a, b| b.lost.total_cmp(&a.lost).then(b.used.total_cmp(&a.used)));
    let schema = Schema::new("pitstop.report/1");
    Ok(Json(Report { schema, by: query.by, since: Time(since), until: Time(until), lines }))
}

/// Adds up the records that fit, page by page.
async fn read(app: &App, mut query: RecordQuery) -> Result<Ledger, Refusal> {
    let mut ledger = Ledger::default();
    catch_up(app, &mut query, &mut ledger).await?;
    Ok(ledger)
}

/// Adds the records that follow what was read last.
pub async fn catch_up(app: &App, query: &mut RecordQuery, ledger: &mut Ledger) -> Result<(), ApiError> {
    loop {
        let page = app.desk.records(query.clone()).await?;
        page.iter().for_each(|record| ledger.add(record));
        let Some(last) = page.last() else { return Ok(()) };
        query.after = Some(last.number);
        if page.len() < RecordQuery::MOST {
            return Ok(());
        }
    }
}

fn by_machine(ledger: &Ledger) -> Vec<ReportLine> {
    ledger.machines().map(|(name, account)| of_machines(name.as_str(), 1, account, ledger)).collect()
}

fn by_class(ledger: &Ledger, lab: &Lab) -> Vec<ReportLine> {
    let mut classes: BTreeMap<&str, (u64, Account)> = BTreeMap::new();
    for (name, account) in ledger.machines() {
        let class = lab.spec(name).and_then(|s| s.class.as_deref()).unwrap_or("-");
        let (machines, sum) = classes.entry(class).or_default();
        *machines += 1;
        sum.merge(account);
    }
    classes.iter().map(|(class, (n, account))| of_machines(class, *n, account, ledger)).collect()
}

fn of_machines(name: &str, machines: u64, account: &Account, ledger: &Ledger) -> ReportLine {
    let cost = account.cost();
    let turns = account.turns();
    let service = (machines * ledger.span()).saturating_sub(cost.out_ms);
    ReportLine {
        name: name.to_owned(),
        machines,
        hand_overs: account.hand_overs,
        used: seconds(account.used_ms),
        turns,
        failed_tries: cost.tries,
        failed: account.failed,
        quarantines: cost.quarantines,
        flake_rate: (turns > 0).then(|| account.flaky as f64 / turns as f64),
        mtbf: (cost.quarantines > 0).then(|| seconds(service) / cost.quarantines as f64),
        lost: seconds(cost.lost_ms()),
        ..ReportLine::default()
    }
}

fn by_cause(ledger: &Ledger) -> Vec<ReportLine> {
    let mut causes: BTreeMap<FailureClass, (u64, Cost)> = BTreeMap::new();
    for (class, cost) in ledger.machines().flat_map(|(_, account)| &account.costs) {
        let (machines, sum) = causes.entry(*class).or_default();
        *machines += 1;
        sum.add(cost);
    }
    let line = |(class, (machines, cost)): (&FailureClass, &(u64, Cost))| ReportLine {
        name: class.name().to_owned(),
        machines: *machines,
        failed_tries: cost.tries,
        quarantines: cost.quarantines,
        lost: seconds(cost.lost_ms()),
        ..ReportLine::default()
    };
    causes.iter().map(line).collect()
}

fn of_user(name: &str, usage: &Usage) -> ReportLine {
    let mut waits = usage.waits.clone();
    waits.sort_unstable();
    ReportLine {
        name: name.to_owned(),
        reservations: usage.reservations,
        failed: usage.failed,
        used: seconds(usage.used_ms),
        ready_p50: quantile(&waits, 50).map(seconds),
        ready_p95: quantile(&waits, 95).map(seconds),
        ..ReportLine::default()
    }
}

/// The smallest of sorted values that `percent` of them do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> Option<u64> {
    let place = (sorted.len() * percent).div_ceil(100);
    sorted.get(place.saturating_sub(1)).copied()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_nothing_is_zero() {
        assert_eq!(quantile(&[], 50), None);
        assert_eq!((quantile(&[7], 50), quantile(&[7], 95)), (Some(7), Some(7)));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&hundred, 50), quantile(&hundred, 95)), (Some(50), Some(95)));
    }
}
