//! Lab time.
//!
//! Deadlines live in lab time: milliseconds that the daemon drives from
//! CLOCK_BOOTTIME, stores with each commit and continues on start. It never
//! runs backwards, so a step of the wall clock moves no deadline. Wall time
//! only labels records.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};

/// A moment of lab time, in milliseconds since the lab was first opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabTime(pub u64);

impl Add<u64> for LabTime {
    type Output = Self;
    fn add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl Sub for LabTime {
    type Output = u64;
    /// Milliseconds since `earlier`; 0 if that is later.
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Wall time in milliseconds since the epoch. A label, never compared.
pub type WallMs = i64;
