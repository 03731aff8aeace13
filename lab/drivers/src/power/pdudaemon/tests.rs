use super::*;
use crate::power::conformance::obeys;
use crate::testing::pdudaemon::Pdudaemon as Daemon;
use crate::testing::{driver, leg, none, site};
use pitstop_core::inventory::DriverSpec;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn outlet(address: &str, fields: Value) -> Result<Arc<dyn Power>, DriverError> {
    let mut all = json!({"address": address, "hostname": "bench", "outlet": "1"});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let leg = leg(driver("pdudaemon", all));
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

#[tokio::test]
async fn an_outlet_is_switched_by_pdudaemon_and_read_by_the_sites_own_program() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let status = json!({"outlet": "4", "status": ["test", "-e", daemon.file("on-4")]});
    let power = outlet(&daemon.address, status).unwrap();
    obeys(power.as_ref()).await;
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(daemon.file("on-4").exists() && !daemon.file("on-1").exists());
    let blind = outlet(&daemon.address, none()).unwrap();
    assert_eq!(blind.read().await.unwrap(), Reading::Unknown, "what nothing reads is not off");
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let says = async |fields: Value, words: &str| {
        let error =
            outlet(&daemon.address, fields).unwrap().set(Switch::On, &PowerOn::Own).await.unwrap_err();
        assert!(error.to_string().contains(words) && !error.permanent, "{error}");
    };
    says(json!({"hostname": "nosuch"}), "has no PDU of that `hostname`").await;
    says(json!({"hostname": "dead"}), "or the PDU did not obey").await;
    daemon.signal(Signal::STOP);
    says(json!({"timeout": 300}), "no answer within 0.3 s").await;
    daemon.signal(Signal::CONT);
    let address = daemon.address.clone();
    drop(daemon);
    let error = outlet(&address, none()).unwrap().set(Switch::Off, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("refused") && !error.permanent, "{error}");
}

#[tokio::test]
async fn another_web_server_at_that_address_has_accepted_nothing() {
    for (status, body, permanent) in [
        ("200 OK", "<html>\u{1b}[2Jwelcome", false),
        ("200 OK", "", false),
        ("404 Not Found", "no", true),
        ("503 Service Unavailable", "busy", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let reply = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        let error = outlet(&address, none()).unwrap().set(Switch::On, &PowerOn::Own).await.unwrap_err();
        assert_eq!(error.permanent, permanent, "{error}");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}

#[tokio::test]
async fn a_pdu_is_a_controller_with_one_queue_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let device = driver("pdudaemon", json!({"address": daemon.address, "hostname": "bench"}));
    let spec = DriverSpec { controller: Some("bench".into()), ..driver("outlet", json!({"outlet": "7"})) };
    let leg = leg(spec);
    let mut site = site(dir.path(), leg.clone(), None, driver("power", none()));
    site.controllers = Arc::new([("bench".to_owned(), device)].into());
    let power = crate::factories().power(&site, &leg).unwrap();
    assert_eq!(power.limits().queue, "bench");
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert!(daemon.file("on-7").exists());
    let queue = |hostname: &str| {
        let power = outlet("pdud.lab:16421", json!({"hostname": hostname, "outlet": "3"})).unwrap();
        power.limits().queue.clone()
    };
    assert_eq!(queue("a"), queue("a"));
    assert_ne!(queue("a"), queue("b"), "a PDU that hangs holds up no other");
}

#[test]
fn what_cannot_work_is_refused() {
    for fields in [
        json!({"hostname": ""}),
        json!({"outlet": ""}),
        json!({"outlet": "1; reboot"}),
        json!({"outlet": "1&port=2"}),
        json!({"status": ["x"], "is_on": "("}),
        json!({"status": ["x"], "is_on": "on"}),
        json!({"is_on": "on", "is_off": "off"}),
    ] {
        assert!(outlet("pdud.lab:16421", fields.clone()).err().unwrap().permanent, "{fields}");
    }
}
