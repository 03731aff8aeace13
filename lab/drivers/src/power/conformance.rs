//! What every power driver must do, whatever it drives.

use super::fake::{Fake, Turn};
use super::{Power, PowerOn};
use crate::testing::{driver, leg, none, site};
use pitstop_core::machine::{Reading, Switch};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

/// Commands do what they say, say so, and saying it twice is no error. What
/// cannot be read is never off.
pub(crate) async fn obeys(power: &dyn Power) {
    let on = PowerOn::Disk;
    for want in [Switch::Off, Switch::On, Switch::On, Switch::Off, Switch::Off] {
        power.set(want, &on).await.unwrap();
        let shown = if want == Switch::On { Reading::On } else { Reading::Off };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while power.read().await.unwrap() != shown {
            assert!(tokio::time::Instant::now() < deadline, "never reads {shown:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(power.limits().at_once >= 1);
    assert!(!power.limits().queue.is_empty());
}

#[tokio::test]
async fn the_fake() {
    obeys(&Fake::new("q")).await;
}

#[tokio::test]
async fn the_fake_follows_its_script() {
    let fake = Fake::new("q");
    let late = Duration::from_millis(500);
    fake.script([
        Turn::Ignore,
        Turn::Refuse("no".into()),
        Turn::RefuseYetObey("no".into()),
        Turn::Late(late),
    ]);
    fake.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(fake.read().await.unwrap(), Reading::Off);
    fake.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert_eq!(fake.read().await.unwrap(), Reading::Off);
    fake.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert_eq!(fake.read().await.unwrap(), Reading::On);
    fake.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(fake.read().await.unwrap(), Reading::On, "it is late");
    fake.unreadable(true);
    fake.read().await.unwrap_err();
    fake.unreadable(false);
    while fake.read().await.unwrap() == Reading::On {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn commands(dir: &Path, extra: serde_json::Value) -> Arc<dyn Power> {
    let state = dir.join("state");
    let state = state.to_str().unwrap();
    let mut fields = json!({
        "on": ["sh", "-c", "touch \"$1\"", "sh", state],
        "off": ["rm", "-f", state],
        "status": ["test", "-e", state],
    });
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let leg = leg(driver("command", fields));
    super::command::make(&site(dir, leg.clone(), None, driver("power", none())), &leg).unwrap()
}

#[tokio::test]
async fn commands_by_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    obeys(commands(dir.path(), none()).as_ref()).await;
}

#[tokio::test]
async fn commands_by_what_they_print() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state").to_str().unwrap().to_owned();
    let print = "if [ -e \"$1\" ]; then echo power is on; else echo power is off; fi";
    let by_output =
        json!({"status": ["sh", "-c", print, "sh", file], "is_on": "is on$", "is_off": "is off$"});
    // `$` is the end of the text: the newline belongs to it.
    let by_output = serde_json::from_str(
        &by_output.to_string().replace("on$", "on\\\\s*$").replace("off$", "off\\\\s*$"),
    )
    .unwrap();
    obeys(commands(dir.path(), by_output).as_ref()).await;
}

#[tokio::test]
async fn a_command_that_prints_neither_or_fails_is_never_off() {
    let dir = tempfile::tempdir().unwrap();
    let odd = |script: &str| {
        commands(dir.path(), json!({"status": ["sh", "-c", script], "is_on": "on", "is_off": "off"}))
    };
    assert_eq!(odd("echo perhaps").read().await.unwrap(), Reading::Unknown);
    assert_eq!(odd("echo on off").read().await.unwrap(), Reading::Unknown);
    odd("echo off; exit 3").read().await.unwrap_err();
    let by_code = commands(dir.path(), json!({"status": ["sh", "-c", "echo I/O error on COM1; exit 9"]}));
    let error = by_code.read().await.unwrap_err();
    assert!(error.answer.contains("9: I/O error on COM1"), "{error}");
    let missing = commands(dir.path(), json!({"on": ["/nonexistent/switch"]}));
    assert!(missing.set(Switch::On, &PowerOn::Own).await.unwrap_err().permanent);
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("{}.5", 100_000 + std::process::id());
    let script = format!("sleep {mark} & sleep {mark}; echo never");
    let power = commands(dir.path(), json!({"on": ["sh", "-c", script], "timeout": 200}));
    let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("killed"), "{error}");
    let runs = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            pid.and_then(crate::process::command_line)
                .is_some_and(|line| line.first().is_some_and(|a| a == "sleep") && line.contains(&mark))
        })
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while runs() {
        assert!(std::time::Instant::now() < deadline, "its children live on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_shell_looks_at_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    let power = commands(dir.path(), json!({"on": ["true", format!("; touch {}", victim.display())]}));
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(!victim.exists());
}

#[tokio::test]
async fn a_machine_without_power_driver_is_neither_on_nor_off() {
    let dir = tempfile::tempdir().unwrap();
    let leg = leg(driver("none", none()));
    let power =
        super::none::make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg).unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Unknown);
    assert!(power.set(Switch::Off, &PowerOn::Own).await.unwrap_err().permanent);
}

/// A simulated machine's control socket, without the machine.
async fn control(dir: &Path) {
    use crate::sim::{Reply, Request, protocol::SOCKET};
    std::fs::create_dir_all(dir).unwrap();
    let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
    tokio::spawn(async move {
        let mut on = false;
        loop {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let reply = match serde_json::from_str(&line).unwrap() {
                Request::On { .. } => {
                    on = true;
                    Reply::default()
                }
                Request::Off { .. } => {
                    on = false;
                    Reply::default()
                }
                Request::Read { .. } => Reply { on: Some(on), ..Reply::default() },
                _ => Reply::default(),
            };
            let answer = serde_json::to_string(&reply).unwrap() + "\n";
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn a_simulated_machine() {
    let dir = tempfile::tempdir().unwrap();
    let leg = leg(driver("sim", none()));
    let site = site(dir.path(), leg.clone(), None, driver("sim", none()));
    control(&site.state).await;
    obeys(super::sim::make(&site, &leg).unwrap().as_ref()).await;
}

#[tokio::test]
async fn a_simulated_machine_without_process_is_off_unless_its_disk_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let leg = leg(driver("sim", json!({"extra": ["root"]})));
    let site = site(dir.path(), leg.clone(), None, driver("sim", none()));
    let power = super::sim::make(&site, &leg).unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
    std::fs::create_dir_all(&site.state).unwrap();
    let disk = std::fs::File::create(site.state.join("disk-root.img")).unwrap();
    rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Unknown);
    // A program that is not there is an error, and no machine.
    power.set(Switch::On, &PowerOn::Disk).await.unwrap_err();
    let kernel = PowerOn::Kernel {
        kernel: "k".into(),
        initrd: "i".into(),
        append: pitstop_wire::agent::Secret(String::new()),
    };
    assert!(power.set(Switch::On, &kernel).await.unwrap_err().permanent);
}

#[tokio::test]
async fn a_virtual_machine() {
    let dir = tempfile::tempdir().unwrap();
    let leg = leg(driver("qemu", json!({"memory": 32 << 20, "disk": 1 << 20})));
    let site = site(dir.path(), leg.clone(), None, driver("power", none()));
    let _end = crate::testing::EndQemu(site.state.clone());
    obeys(super::qemu::make(&site, &leg).unwrap().as_ref()).await;
}

#[tokio::test]
async fn a_bmc() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = crate::testing::bmc::Bmc::start(dir.path());
    let leg = leg(driver("ipmi", bmc.fields()));
    let site = site(dir.path(), leg.clone(), None, driver("power", none()));
    obeys(super::ipmi::make(&site, &leg).unwrap().as_ref()).await;
}

#[tokio::test]
async fn a_bmc_with_redfish() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = crate::testing::sushy::Sushy::start(dir.path());
    let leg = leg(driver("redfish", bmc.fields()));
    let site = site(dir.path(), leg.clone(), None, driver("power", none()));
    obeys(super::redfish::make(&site, &leg).unwrap().as_ref()).await;
}
