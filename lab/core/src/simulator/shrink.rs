//! Makes a run that went wrong smaller: leaves out what happened by chance,
//! half of it at first, as long as the same thing still goes wrong.

use super::{Config, Decision, Report, run};
use std::collections::BTreeSet;

/// Most runs spent on one violation.
const MOST_RUNS: usize = 4_000;

/// The smallest run found in which the same goes wrong, and its report.
/// `None`: nothing goes wrong in this one.
pub fn shrink(config: &Config, mut progress: impl FnMut(usize, usize)) -> Option<(Config, Report)> {
    let mut best = Config { trace: true, ..config.clone() };
    let mut report = run(&best);
    let wrong = family(report.violation.as_deref()?);
    let mut runs = 1;
    let mut part = report.happened.len().div_ceil(2).max(1);
    loop {
        let before = report.happened.len();
        let mut from = 0;
        while from < report.happened.len() && runs < MOST_RUNS {
            let to = (from + part).min(report.happened.len());
            let fewer = without(&best, &report.happened[from..to]);
            let tried = run(&fewer);
            runs += 1;
            if tried.violation.as_deref().map(family).as_ref() == Some(&wrong) && is_smaller(&tried, &report)
            {
                (best, report) = (fewer, tried);
                progress(runs, report.happened.len());
            } else {
                from = to;
            }
        }
        if part == 1 && report.happened.len() == before || runs >= MOST_RUNS {
            return Some((best, report));
        }
        part = part.div_ceil(2);
    }
}

/// Leaving one thing out may let others happen instead.
fn is_smaller(tried: &Report, report: &Report) -> bool {
    tried.happened.len() < report.happened.len()
}

fn without(config: &Config, these: &[Decision]) -> Config {
    let left_out: BTreeSet<Decision> = config.left_out.iter().chain(these).copied().collect();
    Config { left_out: left_out.into_iter().collect(), ..config.clone() }
}

/// What went wrong, without the numbers that are others in every run.
fn family(violation: &str) -> String {
    violation.chars().filter(|c| !c.is_ascii_digit()).collect()
}
