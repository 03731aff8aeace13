use super::*;
use crate::testing::bmc::{Bmc as Simulator, PASSWORD};
use crate::testing::{driver, leg, none, site};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;

fn ipmi(dir: &Path, bmc: &Simulator, extra: Value) -> Arc<dyn Power> {
    let mut fields = bmc.fields();
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let leg = leg(driver("ipmi", fields));
    make(&site(dir, leg.clone(), None, driver("power", none())), &leg).unwrap()
}

fn network() -> PowerOn {
    PowerOn::Network { url: "http://192.0.2.1/".into() }
}

#[tokio::test]
async fn the_boot_device_is_set_for_what_is_to_boot() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Simulator::start(dir.path());
    let power = ipmi(dir.path(), &bmc, none());
    power.set(Switch::On, &network()).await.unwrap();
    assert_eq!(bmc.log(), "boot pxe\npower 1\n");
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    power.set(Switch::On, &PowerOn::Disk).await.unwrap();
    // ipmi_sim's word for the disk is `default`.
    assert!(bmc.log().ends_with("power 0\nboot default\npower 1\n"), "{}", bmc.log());
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(bmc.log().ends_with("power 1\npower 1\n"), "{}", bmc.log());
    let left = ipmi(dir.path(), &bmc, json!({"boot_device": "leave"}));
    left.set(Switch::On, &network()).await.unwrap();
    assert!(bmc.log().ends_with("power 1\npower 1\npower 1\n"), "{}", bmc.log());
}

#[tokio::test]
async fn a_light_blinks_and_stops_and_a_reset_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Simulator::start(dir.path());
    let power = ipmi(dir.path(), &bmc, none());
    assert!(power.identify(true).await.unwrap().contains("240 s"));
    power.identify(false).await.unwrap();
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    power.nudge(Nudge::Reset).await.unwrap();
    assert!(bmc.log().ends_with("power 1\nreset 1\n"), "{}", bmc.log());
}

#[tokio::test]
async fn a_bmc_that_accepts_and_does_nothing_still_reads_off() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Simulator::start(dir.path());
    std::fs::write(bmc.file("lies"), "").unwrap();
    let power = ipmi(dir.path(), &bmc, none());
    power.set(Switch::On, &PowerOn::Disk).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn each_refusal_names_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Simulator::start(dir.path());
    std::fs::write(bmc.file("wrong"), "not-it").unwrap();
    let says = async |extra: Value, words: &str, permanent: bool| {
        let power = ipmi(dir.path(), &bmc, extra);
        let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
        assert!(error.answer.contains(words), "{error}");
        assert_eq!(error.permanent, permanent, "{error}");
        assert!(!error.to_string().contains(PASSWORD) && !error.to_string().contains("not-it"), "{error}");
    };
    says(json!({"password": {"file": bmc.file("wrong")}}), "does not take the password", true).await;
    says(json!({"user": "nobody"}), "no such user", true).await;
    says(json!({"cipher": 17}), "cipher suite", true).await;
    std::fs::write(bmc.file("guest"), "guest").unwrap();
    let guest = json!({"user": "guest", "password": {"file": bmc.file("guest")}, "privilege": "user"});
    says(guest, "may not do that", true).await;
    says(json!({"password": {"file": bmc.file("none")}}), "cannot be read", false).await;
    std::fs::write(bmc.file("refuses"), "").unwrap();
    says(none(), "failed", false).await;
    bmc.signal(Signal::STOP);
    says(none(), "does not answer", false).await;
    bmc.signal(Signal::CONT);
}
