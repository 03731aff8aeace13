//! Machines for the drivers' own tests.

pub mod bmc;
pub mod console_server;
pub mod libvirt;
pub mod pdu;
pub mod pdudaemon;
pub mod redfish;
pub mod sshd;
pub mod sushy;
pub mod uhubctl;

use crate::site::Site;
use pitstop_core::inventory::{DriverSpec, LegSpec, MachineSpec};
use pitstop_wire::MachineName;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// A driver with these fields.
pub fn driver(name: &str, fields: Value) -> DriverSpec {
    let fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    DriverSpec { driver: name.to_owned(), fields: Arc::new(fields), ..DriverSpec::default() }
}

/// A leg called `power`.
pub fn leg(driver: DriverSpec) -> LegSpec {
    LegSpec { name: "power".into(), driver, min_off_ms: 0, readback: true, usage: None }
}

/// A site in `dir` for a machine with this leg, console `main` and boot.
pub fn site(dir: &Path, leg: LegSpec, console: Option<DriverSpec>, boot: DriverSpec) -> Site {
    let spec = MachineSpec {
        legs: vec![leg],
        consoles: console.into_iter().map(|c| ("main".to_owned(), c)).collect(),
        boot,
        ..blank()
    };
    Site {
        spec: Arc::new(spec),
        state: dir.join("m1"),
        program: "/nonexistent/pitstop".into(),
        agent: dir.join("agent"),
        boot_port: Some(8069),
        address: "127.0.0.1".into(),
        hosts: Arc::default(),
        controllers: Arc::default(),
    }
}

fn blank() -> MachineSpec {
    let text = r#"
        format = 1
        [machine.m1]
        power.none = {}
        console = {}
        boot.power = {}
        ready.agent = {}
    "#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inventory.toml");
    std::fs::write(&path, text).unwrap();
    let inventory = pitstop_core::inventory::Inventory::load(&path, crate::factories());
    inventory.unwrap().machines.remove(&MachineName::new("m1").unwrap()).unwrap()
}

/// No fields.
pub fn none() -> Value {
    json!({})
}

/// Ends the virtual machine of a site when a test ends, however it ends.
pub struct EndQemu(pub std::path::PathBuf);

impl Drop for EndQemu {
    fn drop(&mut self) {
        let file = self.0.join("qemu.pid");
        let pid = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let ours = |line: &[String]| line.iter().any(|a| *a == file.to_string_lossy());
        if let Some(process) = pid.and_then(|pid| crate::process::Verified::find(pid, ours)) {
            process.signal(rustix::process::Signal::KILL).unwrap();
        }
    }
}
