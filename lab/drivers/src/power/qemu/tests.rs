use super::*;
use crate::console;
use crate::testing::{EndQemu, driver, leg, none, site};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

/// A machine whose console is connected; a kernel is not needed: firmware
/// says enough.
fn vm(dir: &std::path::Path) -> (Site, LegSpec) {
    let leg = leg(driver("qemu", json!({"memory": 32 << 20, "disk": 1 << 20})));
    let site = site(dir, leg.clone(), Some(driver("unix", none())), driver("power", none()));
    (site, leg)
}

#[tokio::test]
async fn the_first_byte_of_the_firmware_is_heard_and_the_machine_outlives_its_driver() {
    let dir = tempfile::tempdir().unwrap();
    let (site, leg) = vm(dir.path());
    let _end = EndQemu(site.state.clone());
    let power = make(&site, &leg).unwrap();
    let main = console::unix::make(&site, "main").unwrap();
    main.open().await.err().expect("there is no socket before the machine is on");
    let hear = tokio::spawn(async move {
        let mut line = loop {
            match main.open().await {
                Ok(line) => break line,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut heard = Vec::new();
        let mut buf = [0; 256];
        while !String::from_utf8_lossy(&heard).contains("SeaBIOS (version") {
            let n = line.read(&mut buf).await.unwrap();
            assert!(n > 0, "the line ended after {heard:?}");
            heard.extend(&buf[..n]);
        }
    });
    power.set(Switch::On, &PowerOn::Disk).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), hear).await.unwrap().unwrap();

    // Another driver, as after a restart, finds the same process.
    let pid = std::fs::read_to_string(site.state.join("qemu.pid")).unwrap();
    let again = make(&site, &leg).unwrap();
    assert_eq!(again.read().await.unwrap(), Reading::On);
    again.set(Switch::On, &PowerOn::Disk).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(site.state.join("qemu.pid")).unwrap(),
        pid,
        "a second QEMU was started"
    );
    again.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(again.read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn a_machine_that_does_not_answer_is_neither_on_nor_off_and_can_be_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (site, leg) = vm(dir.path());
    let _end = EndQemu(site.state.clone());
    let power = make(&site, &leg).unwrap();
    power.set(Switch::On, &PowerOn::Disk).await.unwrap();
    // Its monitor's socket is gone, but it runs and holds its disk.
    std::fs::remove_file(site.state.join("qmp.sock")).unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Unknown);
    let error = power.set(Switch::On, &PowerOn::Disk).await.unwrap_err();
    assert!(error.answer.contains("lock") || error.answer.contains("pid"), "two QEMUs on one disk: {error}");
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn a_start_that_was_given_up_leaves_no_process_behind_a_leg_that_reads_off() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    // A QEMU that is long in setting itself up: no process number yet, and
    // nobody listens.
    let program = dir.path().join("slow-qemu");
    std::fs::write(&program, "#!/bin/sh\necho $$ > started.new && mv started.new started\nexec sleep 600\n")
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let leg = leg(driver("qemu", json!({"program": program, "memory": 32 << 20, "disk": 1 << 20})));
    let site = site(dir.path(), leg.clone(), Some(driver("unix", none())), driver("power", none()));
    let power = make(&site, &leg).unwrap();
    let on = {
        let power = power.clone();
        tokio::spawn(async move { power.set(Switch::On, &PowerOn::Disk).await })
    };
    let started = site.state.join("started");
    let deadline = Instant::now() + Duration::from_secs(60);
    let pid = loop {
        match std::fs::read_to_string(&started) {
            Ok(pid) => break pid.trim().parse().unwrap(),
            Err(_) => assert!(Instant::now() < deadline, "it was never started"),
        }
        sleep(LOOK).await;
    };
    let launcher = Verified::find(pid, |_| true).expect("it runs");
    on.abort();
    assert!(launcher.ended(Duration::from_secs(60)).await, "it lives on, and would come up later");
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn a_machine_that_was_never_let_go_is_ended_by_off() {
    let dir = tempfile::tempdir().unwrap();
    let (site, leg) = vm(dir.path());
    let _end = EndQemu(site.state.clone());
    let power = make(&site, &leg).unwrap();
    site.make_state(DRIVER).unwrap();
    Build::of(&site, &leg.driver).unwrap().start(&PowerOn::Disk).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Unknown, "its processors stand still");
    let error = power.set(Switch::On, &PowerOn::Disk).await.unwrap_err();
    assert!(error.answer.contains("interrupted"), "{error}");
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
}
