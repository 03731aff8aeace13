use super::*;
use crate::power::conformance::obeys;
use crate::testing::uhubctl::Hub;
use crate::testing::{driver, leg, none, site};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

fn port(fields: Value) -> Result<Arc<dyn Power>, DriverError> {
    let mut all = json!({"hub": "1-1.4", "port": 2});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let leg = leg(driver("usb-hub", all));
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

#[tokio::test]
async fn a_port_is_switched_and_read_on_both_hubs_that_a_hub_is() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path());
    obeys(port(json!({"command": hub.command()})).unwrap().as_ref()).await;
    assert!(
        hub.log().contains("-l 1-1.4 -p 2 -a off\n") && hub.log().contains("-l 1-1.4 -p 2\n"),
        "{}",
        hub.log()
    );
    let other = port(json!({"command": hub.command(), "port": 3, "repeat": 20})).unwrap();
    other.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(hub.file("on-3").exists() && !hub.file("on-2").exists());
    other.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert!(hub.log().ends_with("-l 1-1.4 -p 3 -a on\n-l 1-1.4 -p 3 -a off -r 20\n"), "{}", hub.log());
}

#[tokio::test]
async fn a_hub_that_accepts_and_does_nothing_still_reads_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path());
    let power = port(json!({"command": hub.command()})).unwrap();
    std::fs::write(hub.file("stuck"), "").unwrap();
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off, "accepted is not done");
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::new(dir.path());
    let says = async |fields: Value, words: &str, permanent: bool| {
        let mut all = json!({"command": hub.command()});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let power = port(all).unwrap();
        for error in
            [power.set(Switch::Off, &PowerOn::Own).await.unwrap_err(), power.read().await.unwrap_err()]
        {
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.permanent, permanent, "{error}");
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    };
    says(json!({"hub": "7-2"}), "No compatible devices detected at location 7-2!", false).await;
    says(json!({"port": 9}), "said nothing of port 9 of 1-1.4", false).await;
    says(json!({"command": "/nonexistent/uhubctl"}), "is it installed", true).await;
    std::fs::write(hub.file("permission"), "").unwrap();
    says(none(), "permission problems", true).await;
    std::fs::remove_file(hub.file("permission")).unwrap();
    std::fs::write(hub.file("unreadable"), "").unwrap();
    let power = port(json!({"command": hub.command()})).unwrap();
    let error = power.read().await.unwrap_err();
    assert!(error.answer.contains("cannot read port 2 status"), "{error}");
    std::fs::remove_file(hub.file("unreadable")).unwrap();
    std::fs::write(hub.file("refuses"), "").unwrap();
    let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("the hub did not obey: Operation not permitted"), "{error}");
    std::fs::remove_file(hub.file("refuses")).unwrap();
    let script = |body: &str| {
        let file = dir.path().join("odd");
        std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        file
    };
    says(json!({"command": script("printf '\\033[2J<html>'")}), "said nothing of port 2", false).await;
    says(json!({"command": script("sleep 600"), "timeout": 300}), "killed", false).await;
}

/// The program itself, as far as it goes without such a hub.
#[tokio::test]
async fn a_hub_that_is_not_there_is_no_hub_that_is_off() {
    let power = port(json!({"hub": "99-9.9.9", "command": "/usr/sbin/uhubctl"})).unwrap();
    power.set(Switch::Off, &PowerOn::Own).await.unwrap_err();
    power.read().await.unwrap_err();
}

#[test]
fn only_what_every_hub_calls_off_is_off() {
    let hub = |line: &str| format!("Current status for hub 1-1 [0bda:5411 power off]\n  Port 1: {line}\n");
    let read = |lines: &[&str]| states(&lines.iter().map(|line| hub(line)).collect::<String>(), 1);
    for (lines, wanted) in [
        (&["0100 power"][..], vec![Some(true)]),
        (&["0503 power highspeed enable connect [0781:5567 switched off]"], vec![Some(true)]),
        (&["0000 off"], vec![Some(false)]),
        (&["0000 off [0781:5567 power]"], vec![Some(false)]),
        // A USB 3 hub: 02a0 has power, 00a0 has none.
        (&["0000 off", "02a0 power 5gbps Rx.Detect"], vec![Some(false), Some(true)]),
        (&["0000 off", "00a0 off"], vec![Some(false), Some(false)]),
        (&["1000 indicator"], vec![None]),
        (&["0100"], vec![None]),
        (&["poweroff"], vec![None]),
    ] {
        assert_eq!(read(lines), Some(wanted), "{lines:?}");
    }
    for output in [
        "",
        "  Port 1: 0000 off\n",
        "Current status for hub 1-1 [x]\n",
        "Current status for hub 1-1 [x]\n  Port 11: 0000 off\n",
    ] {
        assert_eq!(states(output, 1), None, "{output}");
    }
    let half = hub("0000 off") + "Current status for hub 2-1 [x]\n";
    assert_eq!(states(&half, 1), None, "the other half could not be read");
}

/// What uhubctl 2.5.0 printed of a hub with a tablet in its second port (a
/// virtual machine's: QEMU 7.2 `usb-hub,port-power=on`, Linux 6.1).
#[test]
fn what_the_program_prints_is_understood() {
    const HUB: &str = "Current status for hub 1-1 [0409:55aa QEMU QEMU USB Hub 314159-0000:00:04.0-1, USB 1.10, 8 ports, ppps]\n";
    for (line, state) in [
        (
            "  Port 2: 0103 power enable connect [0627:0001 QEMU QEMU USB Tablet 28754-0000:00:04.0-1.2]\n",
            true,
        ),
        ("  Port 2: 0000 off\n", false),
        ("  Port 2: 0100 power\n", true),
        ("  Port 2: 0103 power enable connect []\n", true),
    ] {
        assert_eq!(states(&format!("{HUB}{line}"), 2), Some(vec![Some(state)]), "{line}");
    }
    // Its ninth port, which it has not.
    assert_eq!(states(HUB, 9), None);
}

#[test]
fn what_cannot_work_is_refused() {
    for fields in [
        json!({"hub": ""}),
        json!({"hub": "1-"}),
        json!({"hub": "1-1..4"}),
        json!({"hub": "-a"}),
        json!({"hub": "1-1.4 -a on"}),
        json!({"port": 0}),
        json!({"port": 15}),
        json!({"port": "2,3"}),
    ] {
        assert!(port(fields.clone()).err().unwrap().permanent, "{fields}");
    }
    port(json!({"hub": "2"})).unwrap();
    let queue =
        |hub: &str, number: i64| port(json!({"hub": hub, "port": number})).unwrap().limits().queue.clone();
    assert_eq!(queue("1-1.4", 1), queue("1-1.4", 2));
    assert_ne!(queue("1-1.4", 1), queue("1-1.3", 1), "a hub that hangs holds up no other");
}
