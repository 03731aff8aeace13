use super::*;
use crate::power::conformance::obeys;
use crate::testing::pdu::Pdu;
use crate::testing::{driver, leg, none, site};
use pitstop_core::inventory::DriverSpec;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

fn outlet(pdu: &Pdu, fields: Json) -> Result<Arc<dyn Power>, DriverError> {
    let mut all = json!({"address": pdu.address(), "community": pdu.secret("community")});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let leg = leg(driver("snmp", all));
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

/// snmpd answers a while after its start.
async fn up(pdu: &Pdu) {
    let power = outlet(pdu, json!({"profile": "apc", "outlet": "8"})).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while let Err(e) = power.read().await {
        assert!(tokio::time::Instant::now() < deadline, "{e}");
    }
}

#[tokio::test]
async fn each_profile_switches_its_own_outlet_and_reads_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let pdu = Pdu::start(dir.path());
    up(&pdu).await;
    for (at, profile) in NAMES.iter().filter(|name| **name != "oid").enumerate() {
        let number = at + 1;
        let power = outlet(&pdu, json!({"profile": profile, "outlet": number.to_string()})).unwrap();
        obeys(power.as_ref()).await;
        power.set(Switch::On, &PowerOn::Own).await.unwrap();
        let on = |n: usize| pdu.file(&format!("on-{n}")).exists();
        assert!(on(number) && !on(number + 1), "{profile} switched another outlet");
    }
}

#[tokio::test]
async fn objects_can_be_named_and_version_1_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let pdu = Pdu::start(dir.path());
    up(&pdu).await;
    let fields = json!({
        "oid": ".1.3.6.1.4.1.99999.1", "state_oid": "1.3.6.1.4.1.99999.2", "on": 70, "off": 80, "is_on": 7,
        "is_off": 8, "outlet": "3", "version": "1"
    });
    obeys(outlet(&pdu, fields).unwrap().as_ref()).await;
}

#[tokio::test]
async fn version_3_authenticates_and_encrypts() {
    let dir = tempfile::tempdir().unwrap();
    let pdu = Pdu::start(dir.path());
    up(&pdu).await;
    let user = |auth: Json, privacy: Json| {
        let mut all = json!({
            "address": pdu.address(), "profile": "apc-rpdu2", "outlet": "2", "user": "admin", "auth": "sha256"
        });
        let fields = all.as_object_mut().unwrap();
        fields.insert("auth_password".into(), auth);
        fields.insert("priv_password".into(), privacy);
        let leg = leg(driver("snmp", all));
        let dir = tempfile::tempdir().unwrap();
        make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg).unwrap()
    };
    obeys(user(pdu.secret("auth"), pdu.secret("priv")).as_ref()).await;
    // Each other's passwords.
    let error = user(pdu.secret("priv"), pdu.secret("priv")).read().await.unwrap_err();
    assert!(error.to_string().contains("passwords"), "{error}");
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let pdu = Pdu::start(dir.path());
    up(&pdu).await;
    let says = async |fields: Json, words: &str, permanent: bool| {
        let power = outlet(&pdu, fields).unwrap();
        let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
        assert!(error.answer.contains(words), "{error}");
        assert_eq!(error.permanent, permanent, "{error}");
    };
    let apc = |outlet: &str| json!({"profile": "apc-rpdu", "outlet": outlet});
    std::fs::write(pdu.file("looker"), "looker").unwrap();
    says(
        json!({"profile": "apc", "outlet": "1", "community": {"file": pdu.file("looker")}}),
        "read only",
        true,
    )
    .await;
    let missing = outlet(&pdu, apc("9")).unwrap().read().await.unwrap_err();
    assert!(missing.permanent && missing.answer.contains("no such outlet"), "{missing}");
    std::fs::write(pdu.file("refuses"), "").unwrap();
    says(apc("1"), "refused", false).await;
    std::fs::remove_file(pdu.file("refuses")).unwrap();
    std::fs::write(pdu.file("stuck"), "").unwrap();
    let stuck = outlet(&pdu, apc("1")).unwrap();
    stuck.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(stuck.read().await.unwrap(), Reading::Off, "accepted is not done");
    pdu.signal(Signal::STOP);
    says(apc("1"), "does not answer", false).await;
    pdu.signal(Signal::CONT);
}

#[test]
fn what_cannot_work_is_refused() {
    for fields in [
        json!({"outlet": "1"}),
        json!({"outlet": "x", "profile": "apc"}),
        json!({"outlet": "1;2", "profile": "apc"}),
        json!({"outlet": "1", "oid": "1.2.x"}),
        json!({"outlet": "1", "profile": "apc", "on": 3}),
        json!({"outlet": "1", "profile": "apc", "version": "3"}),
        json!({"outlet": "1", "profile": "apc", "version": "1", "user": "x"}),
        json!({"outlet": "1", "profile": "apc", "user": "x", "priv_password": {"env": "X"}}),
    ] {
        let mut all = json!({"address": "pdu.lab:161"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let leg = leg(driver("snmp", all));
        let dir = tempfile::tempdir().unwrap();
        let made = make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg);
        assert!(made.err().unwrap().permanent, "{fields}");
    }
}

#[tokio::test]
async fn an_outlet_of_a_controller_is_driven_by_the_controllers_driver() {
    let dir = tempfile::tempdir().unwrap();
    let pdu = Pdu::start(dir.path());
    up(&pdu).await;
    let device = driver(
        "snmp",
        json!({"address": pdu.address(), "profile": "apc-rpdu2", "community": pdu.secret("community"), "at_once": 2}),
    );
    let outlet = DriverSpec { controller: Some("pdu-a".into()), ..driver("outlet", json!({"outlet": "4"})) };
    let leg = leg(outlet);
    let mut site = site(dir.path(), leg.clone(), None, driver("power", none()));
    site.controllers = Arc::new([("pdu-a".to_owned(), device)].into());
    let power = crate::factories().power(&site, &leg).unwrap();
    assert_eq!((power.limits().queue.as_str(), power.limits().at_once), ("pdu-a", 2));
    obeys(power.as_ref()).await;
    // A queue is no device that could switch anything.
    site.controllers = Arc::new([("pdu-a".to_owned(), driver("queue", none()))].into());
    assert!(crate::factories().power(&site, &leg).err().unwrap().permanent);
}
