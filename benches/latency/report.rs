//! The table and the file.

use crate::common::{Place, quantile};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// One thing that was measured, and what it may be at most.
pub struct Line {
    what: String,
    unit: &'static str,
    samples: Vec<f64>,
    /// Which quantile the limit is about.
    judged: f64,
    limit: f64,
}

impl Line {
    /// Milliseconds, judged by their median.
    pub fn median(what: String, samples: Vec<f64>, limit: f64) -> Self {
        Self { what, unit: "ms", samples, judged: 0.5, limit }
    }

    /// Milliseconds, judged by what one in a hundred exceeds.
    pub fn high(what: String, samples: Vec<f64>, limit: f64) -> Self {
        Self { what, unit: "ms", samples, judged: 0.99, limit }
    }

    /// One number.
    pub fn single(what: String, value: f64, unit: &'static str, limit: f64) -> Self {
        Self { what, unit, samples: vec![value], judged: 0.5, limit }
    }

    fn at(&self, q: f64) -> f64 {
        quantile(&self.samples, q)
    }

    fn met(&self) -> bool {
        self.at(self.judged) < self.limit
    }

    fn json(&self) -> Value {
        let r = |q| (self.at(q) * 1_000.0).round() / 1_000.0;
        json!({
            "what": self.what, "unit": self.unit, "samples": self.samples.len(), "min": r(0.0),
            "median": r(0.5), "p99": r(0.99), "max": r(1.0),
            "judged": if self.judged > 0.5 { "p99" } else { "median" }, "limit": self.limit, "met": self.met(),
        })
    }
}

/// Everything that was measured.
pub struct Found {
    /// Where.
    pub place: Place,
    /// Load of the computer before and after.
    pub loads: (f64, f64),
    /// What.
    pub lines: Vec<Line>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.loads;
        writeln!(f, "{}; load {before} before, {after} after\n", self.place)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["WHAT", "SAMPLES", "MEDIAN", "P99", "MAX", "UNIT", "LIMIT", ""]);
        for line in &self.lines {
            let number = |q: f64| format!("{:.2}", line.at(q));
            table.add_row([
                line.what.clone(),
                line.samples.len().to_string(),
                number(0.5),
                number(0.99),
                number(1.0),
                line.unit.to_owned(),
                format!("{} < {}", if line.judged > 0.5 { "p99" } else { "median" }, line.limit),
                if line.met() { "met" } else { "MISSED" }.to_owned(),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{table}")
    }
}

impl Found {
    /// Writes `latency.json` into `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let value = json!({
            "bench": "latency", "place": self.place.json(),
            "load": { "before": self.loads.0, "after": self.loads.1 },
            "lines": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "quick": crate::common::quick(),
        });
        let path = dir.join("latency.json");
        std::fs::write(&path, format!("{value:#}\n"))?;
        println!("figures: {}", path.display());
        Ok(())
    }
}
