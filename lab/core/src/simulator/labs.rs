//! Inventories to simulate: small machines with short limits.

use crate::inventory::model::{
    AfterBuild, DiskContent, DiskMatch, DiskSpec, DriverSpec, HealthCheck, Idle, Inventory, LegSpec, Limits,
    MachineSpec, OtherDisks, Sources, Verify,
};
use pitstop_wire::MachineName;
use pitstop_wire::selector::TagValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The image every simulated machine has by default.
pub(crate) const IMAGES: [&str; 2] = ["debian", "yocto"];

/// A lab in which neighbours differ: two legs here, two disks there, other
/// policies, some warm.
pub(super) fn inventory(machines: usize, seed: u64) -> Inventory {
    let mut inventory = Inventory::default();
    for n in 0..machines {
        let kind = (seed as usize + n) % 7;
        if let Ok(name) = MachineName::new(&format!("m{n}")) {
            inventory.machines.insert(name.clone(), machine(name, n, kind));
        }
    }
    inventory
}

/// The lab's machine number `n`, of one of seven kinds.
fn machine(name: MachineName, n: usize, kind: usize) -> MachineSpec {
    let mut spec = plain(name);
    spec.tags.insert("half".to_owned(), TagValue::from(if n.is_multiple_of(2) { "even" } else { "odd" }));
    match kind {
        1 => spec.legs.insert(0, leg("mains")),
        2 => spec.disks.push(disk("scratch", DiskContent::Zero)),
        3 => spec.after_build = Some(AfterBuild::PowerOff),
        4 => spec.idle = Some(Idle::Warm { max_age_ms: 1_200_000 }),
        5 => spec.legs[0].readback = false,
        6 => {
            let run = vec!["check".to_owned()];
            spec.health = Some(HealthCheck { every_ms: 1_800_000, run, within_ms: 120_000 });
        }
        _ => {}
    }
    spec
}

/// A power leg that can be read back.
pub(crate) fn leg(name: &str) -> LegSpec {
    LegSpec {
        name: name.into(),
        driver: DriverSpec::named("sim"),
        min_off_ms: 0,
        readback: true,
        usage: None,
    }
}

/// A disk that needs no telling apart.
pub(crate) fn disk(name: &str, content: DiskContent) -> DiskSpec {
    DiskSpec { name: name.into(), matching: DiskMatch::default(), content, verify: Verify::Full }
}

/// A machine with one leg, one disk, the agent's evidence and short limits.
pub fn plain(name: MachineName) -> MachineSpec {
    MachineSpec {
        name,
        n: None,
        class: None,
        tags: BTreeMap::new(),
        location: None,
        note: None,
        circuit: None,
        image: Some(IMAGES[0].to_owned()),
        legs: vec![leg("power")],
        consoles: BTreeMap::new(),
        boot: DriverSpec::named("sim"),
        disks: vec![disk("root", DiskContent::Image)],
        other_disks: OtherDisks::Quarantine,
        ready: DriverSpec::named("agent"),
        reimage: DriverSpec::named("agent"),
        shell: None,
        switches: BTreeMap::new(),
        buttons: BTreeMap::new(),
        shared: false,
        policy: None,
        after_build: None,
        idle: None,
        on_agent_lost: None,
        limits: Limits {
            power_ms: 10_000,
            firmware_ms: 60_000,
            attach_ms: 30_000,
            reimage_ms: 300_000,
            handover_ms: 60_000,
            evidence_ms: 30_000,
            claim_ms: 60_000,
        },
        health: None,
        sources: Arc::new(Sources::nowhere()),
    }
}
