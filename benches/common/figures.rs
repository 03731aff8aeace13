//! Numbers that were measured several times.

use serde_json::{Value, json};
use std::fmt;

/// The same thing, measured several times.
#[derive(Debug, Clone, Default)]
pub struct Figure {
    /// Every value, in the order they were measured.
    pub values: Vec<f64>,
}

impl Figure {
    /// One more.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value in the middle; NaN where nothing was measured.
    pub fn median(&self) -> f64 {
        quantile(&self.values, 0.5)
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        quantile(&self.values, 0.0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        quantile(&self.values, 1.0)
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let r = |x: f64| (x * 1_000.0).round() / 1_000.0;
        json!({
            "median": r(self.median()), "min": r(self.min()), "max": r(self.max()),
            "values": self.values.iter().map(|v| r(*v)).collect::<Vec<_>>(),
        })
    }
}

impl FromIterator<f64> for Figure {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let (median, min, max) = (self.median(), self.min(), self.max());
        write!(f, "{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

/// The value that so many of the values are not greater than (nearest rank);
/// the smallest for 0.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
