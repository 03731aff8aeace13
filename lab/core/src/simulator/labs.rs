//! Inventories to simulate: small machines with short limits.

use crate::inventory::model::{
    AfterBuild, DiskContent, DiskMatch, DiskSpec, DriverSpec, Idle, Inventory, LegSpec, Limits, MachineSpec,
    OtherDisks, Sources, Verify,
};
use pitstop_wire::MachineName;
use pitstop_wire::selector::TagValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The image every simulated machine has by default.
pub(super) const IMAGES: [&str; 2] = ["debian", "yocto"];

/// A lab in which neighbours differ: two legs here, two disks there, other
/// policies, some warm.
pub(super) fn inventory(machines: usize, seed: u64) -> Inventory {
    let mut inventory = Inventory::default();
    for n in 0..machines {
        let kind = (seed as usize + n) % 6;
        if let Ok(name) = MachineName::new(&format!("m{n}")) {
            inventory.machines.insert(name.clone(), machine(name, n, kind));
        }
    }
    inventory
}

fn machine(name: MachineName, n: usize, kind: usize) -> MachineSpec {
    let leg = |name: &str| LegSpec {
        name: name.into(),
        driver: DriverSpec::named("sim"),
        min_off_ms: 0,
        readback: true,
        usage: None,
    };
    let disk = |name: &str, content| DiskSpec {
        name: name.into(),
        matching: DiskMatch::default(),
        content,
        verify: Verify::Full,
    };
    let mut tags = BTreeMap::new();
    tags.insert("half".to_owned(), TagValue::from(if n.is_multiple_of(2) { "even" } else { "odd" }));
    MachineSpec {
        name,
        n: None,
        class: None,
        tags,
        location: None,
        note: None,
        circuit: None,
        image: Some(IMAGES[0].to_owned()),
        legs: if kind == 1 { vec![leg("mains"), leg("power")] } else { vec![leg("power")] },
        consoles: BTreeMap::new(),
        boot: DriverSpec::named("sim"),
        disks: match kind {
            2 => vec![disk("root", DiskContent::Image), disk("scratch", DiskContent::Zero)],
            _ => vec![disk("root", DiskContent::Image)],
        },
        other_disks: OtherDisks::Quarantine,
        ready: DriverSpec::named("agent"),
        reimage: DriverSpec::named("agent"),
        shell: None,
        switches: BTreeMap::new(),
        buttons: BTreeMap::new(),
        shared: false,
        policy: None,
        after_build: (kind == 3).then_some(AfterBuild::PowerOff),
        idle: (kind == 4).then_some(Idle::Warm { max_age_ms: 1_200_000 }),
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
        sources: Arc::new(Sources::nowhere()),
    }
}
