//! What the machine's firmware says of it: SMBIOS as the kernel shows it, or
//! the device tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pitstop_wire::agent::is_placeholder;

use crate::hardware::text;

/// The machine as a whole.
#[derive(Debug, Default)]
pub(crate) struct System {
    pub serial: Option<String>,
    pub uuid: Option<String>,
    pub model: Option<String>,
    pub firmware: BTreeMap<String, String>,
}

/// What is below `root` is `/sys`.
pub(crate) fn system(root: &Path) -> System {
    let dmi = |file: &str| text(&root.join("sys/class/dmi/id").join(file));
    let tree = |file: &str| text(&root.join("sys/firmware/devicetree/base").join(file));
    let number = |number: &String| !is_placeholder(number);
    // A machine whose maker filled in none is known by its board: whoever
    // takes that out has another machine.
    let serials = ["product_serial", "board_serial", "chassis_serial"];
    let serial = serials.iter().find_map(|file| dmi(file).filter(number));
    System {
        serial: serial.or_else(|| tree("serial-number").filter(number)),
        uuid: dmi("product_uuid").filter(number),
        model: model(dmi).or_else(|| tree("model")),
        firmware: firmware(dmi, tree),
    }
}

/// Maker and name of the product, or of the board where those are placeholders.
fn model(dmi: impl Fn(&str) -> Option<String>) -> Option<String> {
    let called = |file: &str| dmi(file).filter(|text| !is_placeholder(text));
    let named = |maker: &str, name: &str| {
        let name = called(name)?;
        Some(match called(maker) {
            Some(maker) => format!("{maker} {name}"),
            None => name,
        })
    };
    named("sys_vendor", "product_name").or_else(|| named("board_vendor", "board_name"))
}

fn firmware(
    dmi: impl Fn(&str) -> Option<String>,
    tree: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let date = dmi("bios_date").map(|date| format!(" ({date})")).unwrap_or_default();
    let all = [
        ("bios", dmi("bios_version").map(|version| version + &date)),
        ("ec", dmi("ec_firmware_release")),
        ("u-boot", tree("chosen/u-boot,version")),
    ];
    all.into_iter().filter_map(|(name, version)| Some((name.to_owned(), version?))).collect()
}

/// Processor cores, by the threads that share one; 0: the kernel does not say.
pub(crate) fn cores(root: &Path) -> u32 {
    let Ok(cpus) = fs::read_dir(root.join("sys/devices/system/cpu")) else { return 0 };
    let shared = |cpu: fs::DirEntry| {
        let topology = cpu.path().join("topology");
        ["core_cpus_list", "thread_siblings_list"].iter().find_map(|file| text(&topology.join(file)))
    };
    let cores: BTreeSet<String> = cpus.flatten().filter_map(shared).collect();
    u32::try_from(cores.len()).unwrap_or(0)
}
