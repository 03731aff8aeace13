//! The lab in one screen.

use super::machine::{shown, state};
use super::reservation::reservation;
use pitstop_core::Lab;
use pitstop_core::circuit::CircuitUse;
use pitstop_core::experience::{Pause, Trouble};
use pitstop_core::lab::NamedImage;
use pitstop_core::machine::Health;
use pitstop_core::time::LabTime;
use pitstop_core::why::{doubt, words};
use pitstop_wire::api::{Alert, CircuitState, Counts, Image, Images, Schema, Shown, Snapshot, State, Status};
use pitstop_wire::text::machines;
use pitstop_wire::{MachineName, UserName};
use std::collections::{BTreeMap, BTreeSet};

/// The lab as this user sees it.
pub fn status(lab: &Lab, you: &UserName) -> Status {
    let inventory = lab.inventory();
    Status {
        schema: Schema::new("pitstop.status/1"),
        lab: inventory.lab.name.clone(),
        zone: inventory.lab.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: lab.meta().epoch.0,
        you: you.clone(),
        counts: counts(lab),
        mine: (lab.reservations())
            .filter(|r| r.owner == *you && !r.ended())
            .map(|r| reservation(lab, r))
            .collect(),
        alerts: alerts(lab),
        queue: lab.queue().map(|r| reservation(lab, r)).collect(),
        circuits: lab.circuit_states().map(circuit).collect(),
    }
}

fn circuit(c: CircuitUse<'_>) -> CircuitState {
    CircuitState {
        name: c.name.to_owned(),
        on: c.on,
        max_on: c.limits.max_on,
        starting: c.starting,
        max_starting: c.limits.max_starting,
        waiting: c.waiting,
    }
}

fn counts(lab: &Lab) -> Counts {
    let mut counts = Counts { machines: lab.machines().len(), ..Counts::default() };
    for m in lab.machines() {
        let place = match shown(m) {
            // A warm machine that waits for whoever comes is as good as free.
            Shown::Ready if m.reservation().is_none() => &mut counts.free,
            Shown::Free => &mut counts.free,
            Shown::Held | Shown::Ready => &mut counts.held,
            Shown::Booting | Shown::Imaging | Shown::Proving | Shown::Checking => &mut counts.busy,
            Shown::Failed => &mut counts.failed,
            Shown::Drained | Shown::Retired => &mut counts.drained,
            Shown::New => &mut counts.new,
        };
        *place += 1;
    }
    counts
}

fn alerts(lab: &Lab) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for m in lab.machines() {
        if let Health::Quarantined { failure, .. } = &m.health {
            alerts.push(Alert {
                machine: Some(m.name.clone()),
                text: format!("{} failed in {}: {}", m.name, failure.phase, failure.evidence),
                next: Some(format!("pitstop why {}", m.name)),
            });
        }
    }
    alerts.extend(paused(lab));
    for image in lab.images() {
        alerts.extend(doubts(image, lab.meta().now).into_iter().map(|text| Alert {
            machine: None,
            text,
            next: Some(format!("pitstop image show {}", image.image.name)),
        }));
    }
    alerts.extend(missing_images(lab));
    let new = lab.machines().filter(|m| state(m) == State::New).count();
    if new > 0 {
        let are = if new == 1 { "machine is" } else { "machines are" };
        alerts.push(Alert {
            machine: None,
            text: format!("{new} {are} new: observed only, until an admin enrols"),
            next: Some("pitstop admin enrol state=new".to_owned()),
        });
    }
    alerts
}

/// Images that the inventory names and nobody added, or somebody removed.
fn missing_images(lab: &Lab) -> impl Iterator<Item = Alert> {
    let there: BTreeSet<&str> = lab.images().map(|i| i.image.name.as_str()).collect();
    // How many, and how many of them boards.
    let mut missing: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for spec in lab.inventory().machines.values() {
        if let Some(image) = spec.image.as_deref().filter(|image| !there.contains(image)) {
            let (all, boards) = missing.entry(image).or_default();
            *all += 1;
            *boards += usize::from(spec.programmer().is_some());
        }
    }
    let then = |(all, boards): (usize, usize)| match boards {
        0 => "their disks get zeroes",
        n if n == all => "they are not written",
        _ => "their disks get zeroes, and boards are not written",
    };
    missing.into_iter().map(move |(image, n)| Alert {
        machine: None,
        text: format!("there is no image `{image}`, which is that of {}: {}", machines(n.0), then(n)),
        next: Some(format!("pitstop image add {image} FILE")),
    })
}

/// What is held against an image, for each class that it is not handed out on.
fn doubts(image: &NamedImage, now: LabTime) -> Vec<String> {
    let words = |(class, trouble): (&String, &Trouble)| {
        let on = if class.is_empty() { String::new() } else { format!(" on class {class}") };
        Some(format!("{}{on}", doubt(&image.image.name, trouble, trouble.suspect?, now)))
    };
    image.trouble.iter().filter_map(words).collect()
}

/// Classes of which much failed at once, each once.
fn paused(lab: &Lab) -> Vec<Alert> {
    let mut classes: BTreeMap<&str, (Pause, &MachineName, usize)> = BTreeMap::new();
    for m in lab.machines().filter(|m| m.health == Health::Good) {
        let class = lab.spec(&m.name).and_then(|s| s.class.as_deref());
        if let (Some(pause), Some(class)) = (m.pause, class) {
            classes.entry(class).or_insert((pause, &m.name, 0)).2 += 1;
        }
    }
    let alert = |(class, (pause, machine, n)): (&str, (Pause, &MachineName, usize))| Alert {
        machine: None,
        text: format!(
            "{} of class {class} paused: too much of it failed at {} within an hour; more in {}",
            machines(n),
            pause.cause.name(),
            words(pause.until - lab.meta().now)
        ),
        next: Some(format!("pitstop why {machine}")),
    };
    classes.into_iter().map(alert).collect()
}

/// Everything, for those who follow.
pub fn snapshot(lab: &Lab) -> Snapshot {
    Snapshot {
        schema: Schema::new("pitstop.snapshot/1"),
        lab: lab.inventory().lab.name.clone(),
        zone: lab.inventory().lab.zone.clone(),
        machines: lab.machines().map(|m| super::machine::machine(lab, m)).collect(),
        reservations: lab.reservations().filter(|r| !r.ended()).map(|r| reservation(lab, r)).collect(),
        images: images(lab).images,
    }
}

/// Images that may be asked for.
pub fn images(lab: &Lab) -> Images {
    let images = lab.images().map(|i| Image {
        schema: Schema::new("pitstop.image/1"),
        name: i.image.name.clone(),
        digest: i.image.digest.clone(),
        bytes: i.bytes,
        seed: i.image.seed.is_some(),
        default_of: (lab.inventory().machines.values())
            .filter(|m| m.image.as_deref() == Some(i.image.name.as_str()))
            .count(),
        suspected: doubts(i, lab.meta().now),
    });
    Images { schema: Schema::new("pitstop.images/1"), images: images.collect() }
}

/// The store cannot be written.
pub fn read_only(reason: &str) -> Alert {
    Alert {
        machine: None,
        text: format!("read-only: nothing can be stored, so nothing is decided ({reason})"),
        next: None,
    }
}

/// Journals of consoles cannot be written.
pub fn unstored(consoles: usize, why: &str) -> Alert {
    let on = if consoles == 1 { "a console".to_owned() } else { format!("{consoles} consoles") };
    Alert { machine: None, text: format!("what is said on {on} is shown, and not kept: {why}"), next: None }
}
