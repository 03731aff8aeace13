//! Why, as far as experience says: quarantines and when they end, classes
//! that are paused, images in doubt.

use super::{Why, words};
use crate::Lab;
use crate::experience::{Suspect, Trouble};
use crate::machine::{FailureClass, Machine, Phase};
use crate::reservation::{CleanLevel, Reservation, Want};
use crate::time::LabTime;
use pitstop_wire::MachineName;

impl Lab {
    pub(super) fn why_paused(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let Some(pause) = m.pause else { return };
        if pause.cause == FailureClass::Lab {
            return why.tell(
                format!(
                    "{} is paused for {}: the lab could not do its part",
                    m.name,
                    words(pause.until - now)
                ),
                format!("pitstop events {}", m.name),
            );
        }
        let class = self.spec(&m.name).and_then(|s| s.class.as_deref()).unwrap_or("its class");
        why.tell(
            format!(
                "{} is paused for {}: more than a fifth of class {class} failed at {} within an hour",
                m.name,
                words(pause.until - now),
                pause.cause.name()
            ),
            format!("pitstop admin prove {}", m.name),
        );
    }

    /// Whether a free machine is not given to a reservation since the image
    /// is in doubt.
    pub(super) fn why_no_image(&self, m: &Machine, row: &Reservation, now: LabTime, why: &mut Why) -> bool {
        let Some(spec) = self.spec(&m.name) else { return false };
        let own = (row.ask.want == Want::Image).then(|| self.default_image(&m.name)).flatten();
        let Some(image) = row.ask.image.clone().or(own) else { return false };
        if self.may_try(&image, spec, row.ask.want) {
            return false;
        }
        let Some((trouble, suspect)) = self.in_doubt(&image.name, &m.name) else { return false };
        why.tell(
            format!("{} is free, but {}", m.name, doubt(&image.name, trouble, suspect, now)),
            format!("pitstop image add {} FILE --replace", image.name),
        );
        true
    }

    /// Whether a free board is not given to a reservation since there is no
    /// image to write to it.
    pub(super) fn why_not_written(&self, m: &Machine, row: &Reservation, why: &mut Why) -> bool {
        let Some(spec) = self.spec(&m.name).filter(|s| s.programmer().is_some()) else { return false };
        let needed = row.ask.clean == CleanLevel::ByCommand || m.is_half_written();
        if !needed || self.may_be_written(&row.ask, spec) {
            return false;
        }
        let own = spec.image.as_deref().unwrap_or("NAME");
        why.tell(
            format!("{} is free, but there is no image that may be written to it", m.name),
            format!("pitstop image add {own} FILE"),
        );
        true
    }

    /// What speaks against a machine's own image.
    pub(super) fn why_its_image(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let Some(name) = self.spec(&m.name).and_then(|s| s.image.as_deref()) else { return };
        if let Some((trouble, suspect)) = self.in_doubt(name, &m.name) {
            why.tell(doubt(name, trouble, suspect, now), format!("pitstop image add {name} FILE --replace"));
        }
    }

    fn in_doubt(&self, image: &str, machine: &MachineName) -> Option<(&Trouble, Suspect)> {
        let class = self.spec(machine)?.class.as_deref().unwrap_or_default();
        let trouble = self.images.get(image)?.trouble.get(class)?;
        Some((trouble, trouble.suspect?))
    }

    pub(super) fn check_place(&self, name: &MachineName) -> Option<String> {
        let sources = &self.spec(name)?.sources;
        Some(match sources.of("health") {
            Some(place) => format!("the limit health.within is set at {place}"),
            None => format!("the limit health.within is the default; the machine is at {}", sources.machine),
        })
    }
}

/// What is held against an image, in a sentence.
pub fn doubt(image: &str, trouble: &Trouble, suspect: Suspect, now: LabTime) -> String {
    let list: Vec<&str> = trouble.machines.iter().map(MachineName::as_str).collect();
    let again = match suspect.trial {
        true => "one machine may try it now".to_owned(),
        false => format!("one machine may try it in {}", words(suspect.again - now)),
    };
    format!(
        "image {image} is suspected: it failed on {} ({}: {}); {again}",
        list.join(", "),
        trouble.failure.phase,
        trouble.failure.evidence
    )
}

/// When a quarantined machine is proven by itself.
pub(super) fn again(m: &Machine, again: LabTime, now: LabTime, why: &mut Why) {
    if m.turn().is_none() {
        let when = if again > now { format!("in {}", words(again - now)) } else { "now".to_owned() };
        why.say(format!("it is proven by itself {when}"));
    }
    if m.quarantines.len() > 1 {
        why.say(format!("it was quarantined {} times in the last day", m.quarantines.len()));
    }
    let usual = m.usual.of(&Phase::BootAgent);
    if !usual.is_none() {
        why.say(format!("its boot agent usually needs {}", words(u64::from(usual.ms))));
    }
}
