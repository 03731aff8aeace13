//! What experience says: how long a phase usually takes, how often a machine
//! was found wanting, which image fails wherever it goes, and which class of
//! machines fails all at once.

use crate::machine::{Failure, FailureClass, Phase};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use serde::{Deserialize, Serialize};

/// How long each phase took when it ended well, on one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usual {
    /// Switched off and read back, at the beginning.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub off: Span,
    /// From power-on until the boot agent had looked round.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub boot_agent: Span,
    /// A disk read and compared.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub verify: Span,
    /// A disk written and read back.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub write: Span,
    /// A hook.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub hook: Span,
    /// The hand-over.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub hand_over: Span,
    /// From power-on until the image's host agent attached.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub evidence: Span,
    /// The health check.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub check: Span,
    /// Until no power effect could land any more.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub settle: Span,
    /// Switched off and read back, at the end.
    #[serde(skip_serializing_if = "Span::is_none")]
    pub rest: Span,
}

impl Usual {
    /// How long a phase usually takes.
    pub fn of(&self, phase: &Phase) -> Span {
        if matches!(phase, Phase::Start { .. }) {
            return Span::default();
        }
        let mut all = *self;
        *all.slot(phase)
    }

    /// A phase ended well after `ms`.
    pub(crate) fn took(&mut self, phase: &Phase, ms: u64) {
        // To wait for others says nothing of it.
        if !matches!(phase, Phase::Start { .. }) {
            self.slot(phase).add(ms);
        }
    }

    fn slot(&mut self, phase: &Phase) -> &mut Span {
        match phase {
            Phase::Off | Phase::Start { .. } => &mut self.off,
            Phase::BootAgent => &mut self.boot_agent,
            Phase::Disk { writing: false, .. } | Phase::Flash { writing: false } => &mut self.verify,
            Phase::Disk { writing: true, .. } | Phase::Flash { writing: true } => &mut self.write,
            Phase::Hook { .. } | Phase::AfterHooks => &mut self.hook,
            Phase::Seed | Phase::HandOff | Phase::Serve => &mut self.hand_over,
            Phase::Evidence => &mut self.evidence,
            Phase::Check => &mut self.check,
            Phase::Settle => &mut self.settle,
            Phase::Rest => &mut self.rest,
        }
    }
}

/// A moving mean of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The mean in milliseconds.
    pub ms: u32,
    /// Over how many.
    pub n: u32,
}

impl Span {
    /// Whether nothing is known.
    pub fn is_none(&self) -> bool {
        self.n == 0
    }

    fn add(&mut self, ms: u64) {
        // A daemon that was away in the middle makes one time very long: it
        // must not spoil the mean.
        let most = if self.n == 0 { u64::MAX } else { u64::from(self.ms) * 4 + 1_000 };
        let ms = ms.min(most).min(u64::from(u32::MAX)) as i64;
        let weight = i64::from(self.n.saturating_add(1).min(8));
        self.ms = (i64::from(self.ms) + (ms - i64::from(self.ms)) / weight) as u32;
        self.n = self.n.saturating_add(1);
    }
}

/// A machine was put out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// When.
    pub at: LabTime,
    /// What kind of thing failed.
    pub class: FailureClass,
}

/// Quarantines that are remembered: those of the last day, and no more than
/// these.
pub(crate) const QUARANTINES_KEPT: usize = 12;
/// How long one counts (ms).
pub(crate) const QUARANTINE_COUNTS: u64 = DAY;
pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const MINUTE: u64 = 60_000;

/// Remembers a quarantine and forgets old ones.
pub(crate) fn remember(list: &mut Vec<Quarantine>, new: Quarantine) {
    list.retain(|q| new.at - q.at < QUARANTINE_COUNTS);
    list.push(new);
    let old = list.len().saturating_sub(QUARANTINES_KEPT);
    list.drain(..old);
}

/// How long a machine that was quarantined now rests before it is proven, in
/// milliseconds: longer each time within a day. A flickering one, which is
/// proven and fails its next tenant again, is tried ever less often, too.
pub fn rest_before_proof(quarantines: &[Quarantine], now: LabTime) -> u64 {
    let recent = quarantines.iter().filter(|q| now - q.at < QUARANTINE_COUNTS).count();
    doubled(5 * MINUTE, recent)
}

/// `first`, doubled for every try after the first, and 12 hours at most.
pub(crate) fn doubled(first: u64, tries: usize) -> u64 {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (first << doublings).min(12 * HOUR)
}

/// A machine is not given to anybody for a while, since too many of its class
/// failed at once: that is rarely the machines' fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What all of them failed at.
    pub cause: FailureClass,
    /// Until when.
    pub until: LabTime,
}

/// An image failed on machines of one class, and has not worked there since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// On which machines.
    pub machines: Vec<MachineName>,
    /// How it failed last.
    pub failure: Failure,
    /// Since there were two of them: it is not handed out.
    pub suspect: Option<Suspect>,
}

/// An image is not handed out on machines of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Since when.
    pub since: LabTime,
    /// When one machine may try it again.
    pub again: LabTime,
    /// One machine may try it now.
    pub trial: bool,
    /// One was given with it, and how that goes is not known yet.
    pub trying: bool,
    /// Machines that tried it and failed.
    pub tries: u32,
}

impl Trouble {
    /// Whether a machine may be given with this image. Where it is written
    /// and not booted, it matters only that it can be written.
    pub fn allows(&self, boots: bool) -> bool {
        let harmless = !boots && self.failure.class != FailureClass::Image;
        harmless || self.suspect.is_none_or(|s| s.trial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantined(at: u64) -> Quarantine {
        Quarantine { at: LabTime(at), class: FailureClass::Boot }
    }

    #[test]
    fn one_outage_spoils_the_usual_time() {
        let mut usual = Usual::default();
        for _ in 0..20 {
            usual.took(&Phase::BootAgent, 40_000);
        }
        assert_eq!(usual.of(&Phase::BootAgent).ms, 40_000);
        usual.took(&Phase::BootAgent, 3 * HOUR);
        assert!(usual.of(&Phase::BootAgent).ms < 60_000, "{usual:?}");
        assert!(usual.of(&Phase::Evidence).is_none());
    }

    #[test]
    fn a_machine_that_always_fails_is_proven_as_often_as_on_its_first_day() {
        let mut list = Vec::new();
        let (mut now, mut proofs) = (0, Vec::new());
        while now < 10 * 24 * HOUR {
            remember(&mut list, quarantined(now));
            let rest = rest_before_proof(&list, LabTime(now));
            proofs.push(rest);
            now += rest;
        }
        assert_eq!(proofs[..3], [5 * MINUTE, 10 * MINUTE, 20 * MINUTE]);
        assert!(proofs.len() < 80, "{} proofs in ten days", proofs.len());
        assert!(list.len() <= QUARANTINES_KEPT);
        assert_eq!(rest_before_proof(&list[..1], LabTime(now + 48 * HOUR)), 5 * MINUTE, "it never forgets");
    }

    #[test]
    fn a_rest_overflows() {
        assert_eq!(doubled(5 * MINUTE, usize::MAX), 12 * HOUR);
        assert_eq!(doubled(5 * MINUTE, 0), 5 * MINUTE);
    }
}
