use super::*;
use crate::power::conformance::obeys;
use crate::testing::libvirt::Libvirt as Daemon;
use crate::testing::{driver, leg, none, site};
use rustix::process::Signal;
use serde_json::{Value, json};

fn domain(fields: Value) -> Result<Arc<dyn Power>, DriverError> {
    let leg = leg(driver("libvirt", fields));
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

#[tokio::test]
async fn a_domain_is_started_and_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let libvirt = Daemon::start(dir.path());
    let power = domain(json!({"uri": libvirt.uri(), "domain": "test"})).unwrap();
    obeys(power.as_ref()).await;
    // What is paused or saved holds the last tenant's memory.
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(libvirt.virsh(&["suspend", "test"]).0);
    assert_eq!(power.read().await.unwrap(), Reading::On);
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(libvirt.virsh(&["managedsave", "test"]).0);
    assert_eq!(power.read().await.unwrap(), Reading::Off);
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    let (_, info) = libvirt.virsh(&["dominfo", "test"]);
    assert!(
        info.contains("running") && info.lines().any(|l| l.starts_with("Managed save:") && l.ends_with("no")),
        "{info}"
    );
}

#[tokio::test]
async fn a_domain_is_found_by_its_uuid_too() {
    let dir = tempfile::tempdir().unwrap();
    let libvirt = Daemon::start(dir.path());
    let (_, uuid) = libvirt.virsh(&["domuuid", "test"]);
    let power = domain(json!({"uri": libvirt.uri(), "domain": uuid.trim()})).unwrap();
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let libvirt = Daemon::start(dir.path());
    let says = async |fields: Value, words: &str, permanent: bool| {
        let power = domain(fields).unwrap();
        for error in
            [power.set(Switch::Off, &PowerOn::Own).await.unwrap_err(), power.read().await.unwrap_err()]
        {
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.permanent, permanent, "{error}");
        }
    };
    // The machine is called m1, and so is its domain unless said.
    says(json!({"uri": libvirt.uri()}), "failed to get domain 'm1'", true).await;
    says(json!({"uri": libvirt.uri(), "domain": "x; reboot"}), "failed to get domain 'x; reboot'", true)
        .await;
    let nosuch = libvirt.uri().replacen("test+", "nosuch+", 1);
    says(json!({"uri": nosuch}), "no connection driver available", true).await;
    let test = json!({"uri": libvirt.uri(), "domain": "test", "timeout": 1000});
    libvirt.signal(Signal::STOP);
    says(test.clone(), "not done within 1 s", false).await;
    libvirt.signal(Signal::CONT);
    drop(libvirt);
    says(test, "Failed to connect socket", false).await;
}

#[test]
fn only_what_is_shut_off_is_off() {
    for state in ["running", "idle", "paused", "in shutdown", "pmsuspended"] {
        assert_eq!(reading(state), Reading::On, "{state}");
    }
    for state in ["crashed", "no state", "", "off", "shut off?", "<html>"] {
        assert_eq!(reading(state), Reading::Unknown, "{state}");
    }
    assert_eq!(reading("shut off"), Reading::Off);
}

/// What virsh says against a QEMU that the test hypervisor never does.
#[test]
fn what_a_person_must_end_is_told_from_what_passes() {
    let dir = tempfile::tempdir().unwrap();
    let leg = leg(driver("libvirt", none()));
    let site = site(dir.path(), leg.clone(), None, driver("power", none()));
    let libvirt = Libvirt {
        machine: "m1".into(),
        uri: DEFAULT_URI.into(),
        domain: "m1".into(),
        programs: Programs::new(DRIVER, &site, &leg.driver).unwrap(),
        limits: PowerLimits::of(&site, &leg),
    };
    for (said, words, permanent) in [
        (
            "error: failed to get domain 'm1'\nerror: Domain not found: no domain with matching name 'm1'\n",
            "no domain with",
            true,
        ),
        (
            "error: failed to get domain 'm1'\nerror: Disconnected from qemu:///system due to end of file\n",
            "Disconnected",
            false,
        ),
        (
            "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied\n",
            "Permission denied",
            true,
        ),
        (
            "error: failed to connect to the hypervisor\nerror: authentication unavailable: no polkit agent available\n",
            "polkit",
            true,
        ),
        (
            "error: failed to connect to the hypervisor\nerror: End of file while reading data: ssh: connect to host h port 22: No route to host: Input/output error\n",
            "No route",
            false,
        ),
        (
            "error: Failed to destroy domain 'm1'\nerror: Failed to terminate process 7 with SIGKILL: Device or resource busy\n",
            "resource busy",
            false,
        ),
        ("\n\u{1b}[2J\u{7}nonsense\nmore", "nonsense", false),
        ("", "it printed nothing", false),
    ] {
        let error = libvirt.explain("switch m1 off", said);
        assert!(error.answer.contains(words), "{error}");
        assert_eq!(error.permanent, permanent, "{error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    for fields in
        [json!({"domain": ""}), json!({"domain": "--help"}), json!({"domain": "12"}), json!({"uri": ""})]
    {
        assert!(domain(fields.clone()).err().unwrap().permanent, "{fields}");
    }
}

#[test]
fn one_domain_is_one_machine_even_where_nobody_says_its_name() {
    let lab = |fields: &str| {
        let machine = |name: &str, fields: &str| {
            format!(
                "[machine.{name}]\npower.libvirt = {{ {fields} }}\nconsole = {{}}\nboot.power = {{}}\nready.agent = {{}}\n"
            )
        };
        let text = format!("format = 1\n{}{}", machine("m1", ""), machine("m2", fields));
        pitstop_core::inventory::Inventory::parse_str("lab.toml", &text, crate::factories()).map(drop)
    };
    for fields in ["domain = \"m1\"", "domain = \"m1\", uri = \"qemu:///system\""] {
        let error = lab(fields).unwrap_err().to_string();
        assert!(error.contains("domain `m1 qemu:///system` is used by `m1` and `m2`"), "{error}");
    }
    lab("").unwrap();
    lab("domain = \"m1\", uri = \"qemu+ssh://host7/system\"").unwrap();
}
