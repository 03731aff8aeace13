use super::*;
use crate::testing::{driver, leg, none, site};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// What a device answers: the status line's end, more headers, and a body.
type Answer = (&'static str, &'static str, String);

/// A device that is asked over HTTP: how it answers a request's first line
/// and its `Authorization`, knowing whether it is on.
struct Device {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn device(answer: fn(&str, &str, &AtomicBool) -> Answer) -> Device {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let on = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        loop {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let (mut first, mut proof, mut length) = (String::new(), String::new(), 0);
            stream.read_line(&mut first).await.unwrap();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let (name, value) = line.trim().split_once(": ").unwrap_or_default();
                match name.to_lowercase().as_str() {
                    "authorization" => value.clone_into(&mut proof),
                    "content-length" => length = value.parse().unwrap(),
                    "" => break,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let asked = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
            let (status, headers, body) = answer(&asked, &proof, &on);
            log.lock().unwrap().push(asked);
            let length = body.len();
            let reply = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
            stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
        }
    });
    Device { address, asked }
}

fn http(address: &str, extra: Value) -> Result<Arc<dyn Power>, DriverError> {
    with_readback(address, extra, true)
}

fn with_readback(address: &str, extra: Value, readback: bool) -> Result<Arc<dyn Power>, DriverError> {
    // As the inventory gives it.
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:80") };
    let mut fields = json!({"address": address});
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let leg = LegSpec { readback, ..leg(driver("http", fields)) };
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

fn ok(body: impl Into<String>) -> Answer {
    ("200 OK", "", body.into())
}

async fn whole(device: &Device, fields: Value) -> Vec<String> {
    let power = http(&device.address, fields).unwrap();
    crate::power::conformance::obeys(power.as_ref()).await;
    device.asked.lock().unwrap().clone()
}

#[tokio::test]
async fn a_shelly_of_the_first_generation() {
    let device = device(|asked, _, on| {
        match asked {
            "GET /relay/0?turn=on" => on.store(true, Ordering::SeqCst),
            "GET /relay/0?turn=off" => on.store(false, Ordering::SeqCst),
            "GET /relay/0" => {}
            _ => return ("404 Not Found", "", "no".into()),
        }
        let on = on.load(Ordering::SeqCst);
        ok(json!({"ison": on, "has_timer": false, "overpower": false}).to_string())
    })
    .await;
    whole(&device, json!({"profile": "shelly-gen1"})).await;
}

#[tokio::test]
async fn a_shelly_of_the_second_generation_with_its_digest() {
    let device = device(|asked, proof, on| {
        let challenge = "WWW-Authenticate: Digest qop=\"auth\", realm=\"shellyplus1-aabbcc\", nonce=\"60e05d8c\", algorithm=SHA-256\r\n";
        if !(proof.starts_with("Digest ") && proof.contains("username=\"admin\"") && proof.contains("SHA-256")) {
            return ("401 Unauthorized", challenge, String::new());
        }
        match asked {
            "GET /rpc/Switch.Set?id=1&on=true" => on.store(true, Ordering::SeqCst),
            "GET /rpc/Switch.Set?id=1&on=false" => on.store(false, Ordering::SeqCst),
            "GET /rpc/Switch.GetStatus?id=1" => {}
            _ => return ("404 Not Found", "", "no".into()),
        }
        ok(json!({"id": 1, "source": "http", "output": on.load(Ordering::SeqCst), "apower": 0.0}).to_string())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("word");
    std::fs::write(&file, "hunter2").unwrap();
    let fields =
        json!({"profile": "shelly-gen2", "outlet": "1", "user": "admin", "password": {"file": file}});
    whole(&device, fields).await;
}

#[tokio::test]
async fn a_tasmota_plug_that_names_its_only_relay_without_a_number() {
    // It says that all is well even to those it does not know.
    let device = device(|asked, _, on| {
        let Some(asked) = asked.strip_suffix("&user=admin&password=hunter%202") else {
            return ok(r#"{"WARNING":"Need user=<username>&password=<password>"}"#);
        };
        match asked {
            "GET /cm?cmnd=Power1%20On" => on.store(true, Ordering::SeqCst),
            "GET /cm?cmnd=Power1%20Off" => on.store(false, Ordering::SeqCst),
            "GET /cm?cmnd=Power1" => {}
            _ => return ok(r#"{"Command":"Unknown"}"#),
        }
        ok(json!({"POWER": if on.load(Ordering::SeqCst) { "ON" } else { "OFF" }}).to_string())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("word");
    std::fs::write(&file, "hunter 2\n").unwrap();
    let fields = json!({"profile": "tasmota", "outlet": "1", "user": "admin", "password": {"file": file}});
    whole(&device, fields).await;
    let stranger = http(&device.address, json!({"profile": "tasmota"})).unwrap();
    let error = stranger.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("Need user"), "a warning is no yes: {error}");
}

#[tokio::test]
async fn an_esphome_switch() {
    let device = device(|asked, _, on| match asked {
        "POST /switch/relay/turn_on" => {
            on.store(true, Ordering::SeqCst);
            ok("")
        }
        "POST /switch/relay/turn_off" => {
            on.store(false, Ordering::SeqCst);
            ok("")
        }
        "GET /switch/relay" => {
            let state = if on.load(Ordering::SeqCst) { "ON" } else { "OFF" };
            ok(json!({"id": "switch-relay", "value": state == "ON", "state": state}).to_string())
        }
        _ => ("404 Not Found", "", "no".into()),
    })
    .await;
    whole(&device, json!({"profile": "esphome", "outlet": "relay"})).await;
}

#[tokio::test]
async fn whatever_is_described() {
    let device = device(|asked, _, on| match asked {
        "PUT /power/on" => {
            on.store(true, Ordering::SeqCst);
            ok("done")
        }
        "PUT /power/off" => {
            on.store(false, Ordering::SeqCst);
            ok("done")
        }
        "GET /power" => {
            let state = if on.load(Ordering::SeqCst) { "closed" } else { "open" };
            ok(json!({"relays": [{"contact": state}]}).to_string())
        }
        _ => ("404 Not Found", "", "no".into()),
    })
    .await;
    let fields = json!({
        "on": "/power/on", "off": "/power/off", "status": "/power", "method": "PUT",
        "json": "relays.0.contact", "is_on": "^closed$", "is_off": "^open$"
    });
    whole(&device, fields).await;
}

#[tokio::test]
async fn a_device_that_refuses_lies_or_is_gone_says_so_and_is_never_off() {
    let fields = || json!({"on": "/on", "off": "/off", "status": "/s", "timeout": 300});
    let refuses = device(|_, _, _| ("403 Forbidden", "", "go away\u{1b}[2J".into())).await;
    let error = http(&refuses.address, fields()).unwrap().set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(
        error.permanent && error.answer.contains("go away") && !error.answer.contains('\u{1b}'),
        "{error}"
    );
    let busy = device(|_, _, _| ("503 Service Unavailable", "", String::new())).await;
    let error = http(&busy.address, fields()).unwrap().read().await.unwrap_err();
    assert!(!error.permanent && error.answer.contains("503"), "{error}");
    let nonsense = device(|_, _, _| ok("<html>hello")).await;
    http(&nonsense.address, fields()).unwrap().read().await.unwrap_err();
    let both = json!({"on": "/on", "off": "/off", "status": "/s", "is_on": "l", "is_off": "h"});
    http(&nonsense.address, both).unwrap().read().await.unwrap_err();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = http(&address, fields()).unwrap().read().await.unwrap_err();
    assert!(error.answer.contains("no answer within 0.3 s"), "{error}");
    drop(silent);
    let error = http(&address, fields()).unwrap().read().await.unwrap_err();
    assert!(error.answer.contains("refused"), "{error}");
    // Without `status` nothing is known, which is not off.
    let blind = with_readback(&nonsense.address, json!({"on": "/on", "off": "/off"}), false).unwrap();
    assert_eq!(blind.read().await.unwrap(), Reading::Unknown);
}

#[tokio::test]
async fn a_password_is_not_sent_to_whom_did_not_ask() {
    let device = device(|_, proof, _| {
        assert_eq!(proof, "", "nobody asked for it");
        ok("on")
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("word");
    std::fs::write(&file, "hunter2").unwrap();
    let fields = json!({"on": "/on", "off": "/off", "status": "/s", "user": "u", "password": {"file": file}});
    assert_eq!(http(&device.address, fields).unwrap().read().await.unwrap(), Reading::On);
}

/// Asks for a password, and repeats all it is sent.
fn repeats(status: &'static str, asked: &str, proof: &str) -> Answer {
    if proof.is_empty() && !asked.contains("password") {
        return ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"plug\"\r\n", String::new());
    }
    (status, "", format!("cannot do {asked} for {proof}, who is u:hunter 2"))
}

#[tokio::test]
async fn a_device_repeats_the_password_in_its_error() {
    let refuses = device(|asked, proof, _| repeats("500 Internal Server Error", asked, proof)).await;
    let agrees = device(|asked, proof, _| repeats("200 OK", asked, proof)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("word");
    std::fs::write(&file, "hunter 2").unwrap();
    for device in [&refuses, &agrees] {
        for kind in [
            json!({"profile": "tasmota"}),
            json!({"profile": "shelly-gen1"}),
            json!({"on": "/on", "off": "/off", "status": "/s"}),
            json!({"on": "/on", "off": "/off", "status": "/s", "json": "output"}),
        ] {
            let mut fields = json!({"user": "u", "password": {"file": file}});
            fields.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
            let error = http(&device.address, fields).unwrap().read().await.unwrap_err().to_string();
            assert!(error.contains("cannot do"), "it is still told what was said: {error}");
            for form in ["hunter 2", "hunter%202", "dTpodW50ZXIgMg"] {
                assert!(!error.contains(form), "{error}");
            }
        }
    }
}

#[test]
fn what_cannot_work_is_refused() {
    for (address, fields) in [
        ("plug", json!({"profile": "tasmota", "outlet": "0"})),
        ("plug", json!({})),
        ("plug", json!({"on": "/on", "off": "/off"})),
        ("plug", json!({"on": "on", "off": "/off", "status": "/s"})),
        ("plug", json!({"on": "/on x", "off": "/off", "status": "/s"})),
        ("plug", json!({"profile": "tasmota", "on": "/on"})),
        ("plug", json!({"profile": "shelly-gen1", "outlet": "0?turn=on"})),
        ("plug", json!({"profile": "esphome"})),
        ("plug", json!({"on": "/on", "off": "/off", "status": "/s", "is_on": "("})),
    ] {
        assert!(http(address, fields.clone()).err().unwrap().permanent, "{fields}");
    }
}

#[test]
fn one_outlet_has_one_machine_even_where_the_outlet_is_not_named() {
    use pitstop_core::inventory::Inventory;
    let lab = |second: &str| {
        let machine = |name: &str, power: &str| {
            format!(
                "[machine.{name}]\npower.http = {{ {power} }}\nconsole = {{}}\nboot.power = {{}}\nready.agent = {{}}\n"
            )
        };
        let first = machine("m1", "profile = \"shelly-gen2\", address = \"plug\"");
        let text = format!("format = 1\n{first}{}", machine("m2", second));
        Inventory::parse_str("lab.toml", &text, crate::factories()).map(drop)
    };
    let same = lab("profile = \"shelly-gen2\", address = \"PLUG:80\", outlet = 0").unwrap_err().to_string();
    assert!(same.contains("outlet `plug:80 0` is used by `m1` and `m2`"), "{same}");
    lab("profile = \"shelly-gen2\", address = \"plug\", outlet = 1").unwrap();
    lab("address = \"plug\", on = \"/other?on\", off = \"/other?off\"").unwrap();
}
