//! `GET /metrics`: the lab for Prometheus.
//!
//! Gauges are the rows of this moment; counters are added up from the records
//! since this daemon started. They are brought up to date when somebody looks,
//! so that nobody pays for metrics that nobody reads.

use super::error::Refusal;
use super::peer::Peer;
use super::{App, Shared, report, view};
use crate::store::RecordQuery;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use pitstop_core::Lab;
use pitstop_core::ledger::Ledger;
use pitstop_wire::{ApiError, Code};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use tokio::sync::Mutex;

/// The OpenMetrics text format, version 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was added up so far.
pub struct Metrics {
    sum: Mutex<(RecordQuery, Ledger)>,
}

impl Metrics {
    /// Counters that begin with the record after this one.
    pub fn after(record: u64) -> Self {
        Self { sum: Mutex::new((RecordQuery::after(record), Ledger::of_machines())) }
    }

    async fn read(&self, app: &App) -> Result<Ledger, ApiError> {
        let mut sum = self.sum.lock().await;
        let (query, ledger) = &mut *sum;
        report::catch_up(app, query, ledger).await?;
        Ok(ledger.clone())
    }
}

/// The lab for Prometheus.
pub async fn metrics(State(app): State<Shared>, _: Peer) -> Result<Response, Refusal> {
    let ledger = app.metrics.read(&app).await?;
    let lab = app.desk.snapshot().await?;
    let ledger = ledger.at(app.desk.now(), std::iter::empty());
    let mut registry = Registry::with_prefix("pitstop");
    gauges(&lab, &mut registry);
    counters(&ledger, &lab, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|e| ApiError::new(Code::Internal, format!("metrics cannot be written: {e}")))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

type Labels = Vec<(String, String)>;
type Count = Counter<f64, AtomicU64>;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn gauges(lab: &Lab, registry: &mut Registry) {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let machines = Family::<Labels, Gauge>::default();
    for m in lab.machines() {
        let state = view::machine::state(m);
        machines.get_or_create(&labels([("state", state.word())])).inc();
    }
    registry.register("machines", "Machines by state", machines);

    let mut by_state: BTreeMap<&str, i64> = BTreeMap::new();
    lab.reservations().filter(|r| !r.ended()).for_each(|r| *by_state.entry(r.state()).or_default() += 1);
    let reservations = Family::<Labels, Gauge>::default();
    for (state, n) in by_state {
        reservations.get_or_create(&labels([("state", state)])).set(n);
    }
    registry.register("reservations", "Reservations that are not over, by state", reservations);

    let suspected = Family::<Labels, Gauge>::default();
    for image in lab.images() {
        for (class, trouble) in &image.trouble {
            let on = labels([("image", &image.image.name), ("class", class)]);
            suspected.get_or_create(&on).set(i64::from(trouble.suspect.is_some()));
        }
    }
    registry.register("image_suspected", "Images that failed and did not work since", suspected);

    let paused: Gauge = Gauge::default();
    paused.set(number(lab.machines().filter(|m| m.pause.is_some()).count()));
    registry.register("machines_paused", "Machines whose class fails all at once", paused);

    let epoch: Gauge = Gauge::default();
    epoch.set(i64::try_from(lab.meta().epoch.0).unwrap_or(i64::MAX));
    registry.register("epoch", "How many times a daemon took this lab", epoch);
}

fn counters(ledger: &Ledger, lab: &Lab, registry: &mut Registry) {
    let turns = Family::<Labels, Count>::default();
    let handed = Family::<Labels, Count>::default();
    let used = Family::<Labels, Count>::default();
    let tries = Family::<Labels, Count>::default();
    let quarantines = Family::<Labels, Count>::default();
    let lost = Family::<Labels, Count>::default();
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    for (name, account) in ledger.machines() {
        let class = lab.spec(name).and_then(|s| s.class.as_deref()).unwrap_or_default();
        let machine = || [("machine", name.as_str()), ("class", class)];
        let with = |key, value| labels([machine()[0], machine()[1], (key, value)]);
        for (result, n) in [("good", account.good), ("flaky", account.flaky), ("failed", account.failed)] {
            if n > 0 {
                turns.get_or_create(&with("result", result)).inc_by(n as f64);
            }
        }
        if account.hand_overs > 0 {
            handed.get_or_create(&labels(machine())).inc_by(account.hand_overs as f64);
            used.get_or_create(&labels(machine())).inc_by(seconds(account.used_ms));
        }
        for (cause, cost) in &account.costs {
            let on = with("cause", cause.name());
            tries.get_or_create(&on).inc_by(cost.tries as f64);
            quarantines.get_or_create(&on).inc_by(cost.quarantines as f64);
            lost.get_or_create(&on).inc_by(seconds(cost.lost_ms()));
        }
    }
    registry.register("turns", "Turns that ended", turns);
    registry.register("hand_overs", "Machines handed to holders", handed);
    registry.register("used_seconds", "Time that holders had machines", used);
    registry.register("failed_tries", "Tries of a turn that failed", tries);
    registry.register("quarantines", "Machines put out of use", quarantines);
    registry.register("lost_seconds", "Time lost to failures", lost);
}
