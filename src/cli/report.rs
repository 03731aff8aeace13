//! `pitstop report`

use super::out::{Format, Tone};
use super::table::{Column, Field, Table};
use super::times::{clock, short};
use super::{Context, Result};
use pitstop_wire::api::{Report, ReportBy, ReportLine};

pub const HELP: &str = "\
Examples
  pitstop report
  pitstop report --by cause --since 7d
  pitstop report --by user -o csv";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the lines are about.
    #[arg(long, value_enum, default_value = "machine")]
    by: By,
    /// From then on: 30d, '2h ago', yesterday, 2026-11-22, or RFC 3339; 30 days unless said.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    Machine,
    Class,
    Cause,
    User,
}

impl From<By> for ReportBy {
    fn from(by: By) -> Self {
        match by {
            By::Machine => Self::Machine,
            By::Class => Self::Class,
            By::Cause => Self::Cause,
            By::User => Self::User,
        }
    }
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let since = args.since.as_deref().map(super::times::since).transpose()?;
    let report = cx.client.report(args.by.into(), since.as_deref()).await?;
    let table = match report.by {
        ReportBy::Machine | ReportBy::Class => &MACHINES,
        ReportBy::Cause => &CAUSES,
        ReportBy::User => &USERS,
    };
    title(cx, &report)?;
    cx.out.list(&report, &report.lines, table)
}

fn title(cx: &Context, report: &Report) -> Result {
    match cx.out.format {
        Format::Table | Format::Wide => cx.out.line(&format!("since {}", clock(report.since))),
        _ => Ok(()),
    }
}

fn time(seconds: f64) -> String {
    if seconds <= 0.0 { "–".to_owned() } else { short((seconds * 1_000.0) as u64) }
}

fn number(n: u64) -> String {
    if n == 0 { "–".to_owned() } else { n.to_string() }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |s| format!("{:.1} %", s * 100.0))
}

fn exact(value: Option<f64>) -> String {
    value.map(|v| format!("{v:.3}")).unwrap_or_default()
}

/// A figure that is good news if it is nothing.
fn bad(text: String) -> (String, Tone) {
    let tone = if text == "–" { Tone::Dim } else { Tone::Bad };
    (text, tone)
}

const CSV: &[Field<ReportLine>] = &[
    ("name", |l| l.name.clone()),
    ("machines", |l| l.machines.to_string()),
    ("reservations", |l| l.reservations.to_string()),
    ("hand_overs", |l| l.hand_overs.to_string()),
    ("used_seconds", |l| format!("{:.3}", l.used)),
    ("turns", |l| l.turns.to_string()),
    ("failed_tries", |l| l.failed_tries.to_string()),
    ("failed", |l| l.failed.to_string()),
    ("quarantines", |l| l.quarantines.to_string()),
    ("flake_rate", |l| exact(l.flake_rate)),
    ("mtbf_seconds", |l| exact(l.mtbf)),
    ("lost_seconds", |l| format!("{:.3}", l.lost)),
    ("ready_p50_seconds", |l| exact(l.ready_p50)),
    ("ready_p95_seconds", |l| exact(l.ready_p95)),
];

const NAME: Column<ReportLine> =
    Column { title: "NAME", wide: false, cell: |l, _| (l.name.clone(), Tone::Plain) };
const COUNT: Column<ReportLine> =
    Column { title: "MACHINES", wide: false, cell: |l, _| (number(l.machines), Tone::Plain) };
const USED: Column<ReportLine> =
    Column { title: "USED", wide: false, cell: |l, _| (time(l.used), Tone::Plain) };
const TRIES: Column<ReportLine> =
    Column { title: "FAILED TRIES", wide: false, cell: |l, _| bad(number(l.failed_tries)) };
const QUARANTINES: Column<ReportLine> =
    Column { title: "QUARANTINES", wide: false, cell: |l, _| bad(number(l.quarantines)) };
const LOST: Column<ReportLine> = Column { title: "LOST", wide: false, cell: |l, _| bad(time(l.lost)) };

static MACHINES: Table<ReportLine> = Table {
    name: |l| l.name.clone(),
    csv: CSV,
    columns: &[
        NAME,
        Column { title: "MACHINES", wide: true, cell: |l, _| (number(l.machines), Tone::Plain) },
        Column { title: "HANDED", wide: false, cell: |l, _| (number(l.hand_overs), Tone::Plain) },
        USED,
        Column { title: "TURNS", wide: false, cell: |l, _| (number(l.turns), Tone::Plain) },
        Column { title: "FLAKY", wide: false, cell: |l, _| (percent(l.flake_rate), Tone::Plain) },
        TRIES,
        QUARANTINES,
        Column { title: "MTBF", wide: false, cell: |l, _| (time(l.mtbf.unwrap_or(0.0)), Tone::Plain) },
        LOST,
    ],
};

static CAUSES: Table<ReportLine> =
    Table { name: |l| l.name.clone(), csv: CSV, columns: &[NAME, COUNT, TRIES, QUARANTINES, LOST] };

static USERS: Table<ReportLine> = Table {
    name: |l| l.name.clone(),
    csv: CSV,
    columns: &[
        NAME,
        Column { title: "RESERVATIONS", wide: false, cell: |l, _| (number(l.reservations), Tone::Plain) },
        USED,
        Column {
            title: "READY p50",
            wide: false,
            cell: |l, _| (time(l.ready_p50.unwrap_or(0.0)), Tone::Plain),
        },
        Column {
            title: "READY p95",
            wide: false,
            cell: |l, _| (time(l.ready_p95.unwrap_or(0.0)), Tone::Plain),
        },
        Column { title: "LAB FAILED", wide: false, cell: |l, _| bad(number(l.failed)) },
    ],
};
