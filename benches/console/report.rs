//! What was found, for people and for programs.

use super::servers::Kind;
use super::{Found, Load};
use crate::common::{Figure, Place};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// How much more processor time than the floor pitstop may take with 256 lines:
/// 0.085 s per megabyte, on a computer where the floor took 0.072. Seconds
/// mean nothing on another one.
const CPU_LIMIT: f64 = 1.18;
/// How much longer than with the floor an echo may take.
const ECHO_LIMIT: f64 = 2.0;

/// All tables.
pub struct Report {
    pub place: Place,
    pub loads: (f64, f64),
    pub rounds: usize,
    pub tables: Vec<(Load, Vec<(Kind, Found)>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.loads;
        writeln!(f, "{}; load {before} before, {after} after; medians of {}", self.place, self.rounds)?;
        for (load, rows) in &self.tables {
            writeln!(
                f,
                "\n| {} | CPU-s/MB | × floor | RSS MiB (PSS) | procs | byte → client p50 / p99 ms | key → answer p50 ms | × floor | lost client / log / line |",
                load.name
            )?;
            writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
            for (kind, found) in rows {
                writeln!(f, "{}", row(*kind, found, floor(rows)))?;
            }
        }
        Ok(())
    }
}

fn floor(rows: &[(Kind, Found)]) -> Option<&Found> {
    rows.iter().find(|(kind, _)| *kind == Kind::Floor).map(|(_, found)| found)
}

fn ratio(of: &Figure, to: Option<&Figure>) -> f64 {
    of.median() / to.map_or(f64::NAN, Figure::median)
}

fn row(kind: Kind, found: &Found, floor: Option<&Found>) -> String {
    let log = found.lost_log.map_or("–".to_owned(), |lost| lost.to_string());
    let keys = if found.keys_lost > 0 { format!(" ({} lost)", found.keys_lost) } else { String::new() };
    format!(
        "| {} | {:.3} | {:.2} | {:.1} → {:.1} ({:.1}) | {} | {:.2} / {:.0} | {:.2}{keys} | {:.2} | {} / {log} / {} |",
        kind.name(),
        found.cpu_per_mb.median(),
        ratio(&found.cpu_per_mb, floor.map(|f| &f.cpu_per_mb)),
        found.resident_before.median(),
        found.resident.median(),
        found.shares.median(),
        found.processes,
        found.byte_p50.median(),
        found.byte_p99.median(),
        found.key_p50.median(),
        ratio(&found.key_p50, floor.map(|f| &f.key_p50)),
        found.lost,
        found.overrun * super::records::LEN as u64,
    )
}

impl Report {
    /// For programs.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let tables: Vec<Value> = self.tables.iter().map(|(load, rows)| {
            let rows: Vec<Value> = rows.iter().map(|(kind, found)| values(*kind, found)).collect();
            json!({ "consoles": load.consoles, "bytes_per_s": load.rate, "hung": load.hung, "servers": rows })
        }).collect();
        let all = json!({
            "place": self.place.json(), "load_before": self.loads.0, "load_after": self.loads.1, "tables": tables,
        });
        Ok(std::fs::write(dir.join("console.json"), serde_json::to_vec_pretty(&all)?)?)
    }

    /// Whether pitstop kept its promises.
    ///
    /// # Errors
    /// It did not: which.
    pub fn judge(&self) -> Result<()> {
        for (load, rows) in &self.tables {
            let Some((_, ours)) = rows.iter().find(|(kind, _)| *kind == Kind::Pitstop) else { continue };
            ensure!(ours.wrong == 0, "{}: {} records on another console, or twice", load.name, ours.wrong);
            ensure!(ours.lost == 0 && ours.lost_log == Some(0), "{}: pitstop lost bytes", load.name);
            let echo = ratio(&ours.key_p50, floor(rows).map(|f| &f.key_p50));
            let cpu = ratio(&ours.cpu_per_mb, floor(rows).map(|f| &f.cpu_per_mb));
            if load.consoles == 256 && cpu > CPU_LIMIT {
                println!("missed: {}: {cpu:.2} × the floor's time, promised are {CPU_LIMIT}", load.name);
            }
            if echo > ECHO_LIMIT {
                println!(
                    "missed: {}: an echo takes {echo:.2} × the floor, promised are {ECHO_LIMIT}",
                    load.name
                );
            }
        }
        Ok(())
    }
}

fn values(kind: Kind, found: &Found) -> Value {
    json!({
        "server": kind.name(), "megabytes": found.megabytes, "cpu_s_per_mb": found.cpu_per_mb.json(),
        "rss_mib_before": found.resident_before.json(), "rss_mib": found.resident.json(),
        "pss_mib": found.shares.json(), "processes": found.processes,
        "byte_ms_p50": found.byte_p50.json(), "byte_ms_p99": found.byte_p99.json(),
        "key_ms_p50": found.key_p50.json(), "keys_lost": found.keys_lost, "lost_client": found.lost,
        "lost_log": found.lost_log, "overrun_records": found.overrun, "wrong": found.wrong,
    })
}
