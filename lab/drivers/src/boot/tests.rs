use super::*;
use crate::testing::{driver, leg, none, site};
use pitstop_wire::MachineName;
use serde_json::json;
use std::path::Path;

fn params() -> AgentParams {
    AgentParams {
        server: "10.0.2.2:7443".into(),
        ca: "ab".repeat(32),
        machine: MachineName::new("m1").unwrap(),
        nonce: "n1".into(),
        token: Secret("s3cr3t".into()),
    }
}

fn at(dir: &Path, power: &str, boot: pitstop_core::inventory::DriverSpec) -> Site {
    site(dir, leg(driver(power, none())), None, boot)
}

/// Parameters go where the delivery says, and nowhere else.
fn delivers(boot: &dyn Boot) {
    let params = params();
    let with = boot.power_on(Target::Agent(Some(&params)));
    match boot.delivery() {
        Delivery::PowerOn => {
            assert!(matches!(with.unwrap(), PowerOn::Agent(_) | PowerOn::Kernel { .. }));
            boot.power_on(Target::Agent(None)).expect_err("an agent without parameters cannot attach");
        }
        Delivery::Asked => assert!(matches!(with.unwrap(), PowerOn::Network { .. })),
        Delivery::Medium => drop(with.expect_err("they are on the CD, and on nothing else")),
        Delivery::Never => assert_eq!(with.unwrap(), PowerOn::Own),
    }
    for target in [Target::Disk, Target::AsIs] {
        let shown = format!("{:?}", boot.power_on(target).unwrap());
        assert!(!shown.contains("n1") && !shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn every_boot_path_delivers_parameters_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    delivers(sim(&at(dir.path(), "sim", driver("sim", none()))).unwrap().as_ref());
    delivers(sim(&at(dir.path(), "sim", driver("sim", json!({"delivery": "http"})))).unwrap().as_ref());
    delivers(http(&at(dir.path(), "qemu", driver("http", none()))).unwrap().as_ref());
    delivers(medium::make(&at(dir.path(), "redfish", driver("virtual-media", none()))).unwrap().as_ref());
    delivers(power(&at(dir.path(), "none", driver("power", none()))).unwrap().as_ref());
    let site = at(dir.path(), "qemu", driver("direct", none()));
    let direct = direct(&site).unwrap();
    assert!(
        direct
            .power_on(Target::Agent(Some(&params())))
            .unwrap_err()
            .to_string()
            .contains("pitstop image agent")
    );
    std::fs::create_dir(&site.agent).unwrap();
    std::fs::write(site.agent.join("vmlinuz"), "").unwrap();
    std::fs::write(site.agent.join("initrd"), "").unwrap();
    delivers(direct.as_ref());
}

#[test]
fn a_virtual_machine_asks_the_host_of_its_own_network() {
    let dir = tempfile::tempdir().unwrap();
    let vm = http(&at(dir.path(), "qemu", driver("http", none()))).unwrap();
    let url = PowerOn::Network { url: "http://10.0.2.2:8069/boot/m1/script".into() };
    assert_eq!(vm.power_on(Target::Disk).unwrap(), url);
    let real = http(&at(dir.path(), "none", driver("http", none()))).unwrap();
    let url = PowerOn::Network { url: "http://127.0.0.1:8069/boot/m1/script".into() };
    assert_eq!(real.power_on(Target::Disk).unwrap(), url);
    let mut site = at(dir.path(), "none", driver("http", none()));
    site.boot_port = None;
    assert!(http(&site).err().unwrap().permanent);
}

#[test]
fn the_token_is_on_no_debug_line() {
    let on = PowerOn::Kernel { kernel: "k".into(), initrd: "i".into(), append: kernel_words(&params()) };
    assert!(!format!("{on:?} {:?}", PowerOn::Agent(params())).contains("s3cr3t"));
    assert!(kernel_words(&params()).0.contains("pitstop.token=s3cr3t"));
}

#[test]
fn an_address_that_is_none_is_said_before_anybody_may_ask_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |address: &str| http(&at(dir.path(), "none", driver("http", json!({ "address": address }))));
    assert_eq!(at("192.0.2.17").unwrap().asks_from(), Some([192, 0, 2, 17].into()));
    assert_eq!(at("::ffff:192.0.2.17").unwrap().asks_from(), Some([192, 0, 2, 17].into()));
    for bad in ["", "m1.lab.example", "192.0.2.0/24", "192.0.2.17:80"] {
        assert!(at(bad).err().unwrap().permanent, "{bad}");
    }
}
