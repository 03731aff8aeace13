use super::*;
use crate::power::conformance::obeys;
use crate::testing::{driver, leg, none, site};
use serde_json::{Value, json};
use std::path::Path;

const MAC: &str = "02:aa:bb:0c:dd:ee";

fn wol(fields: Value) -> Result<Arc<dyn Power>, DriverError> {
    let mut all = json!({"mac": MAC, "broadcast": "127.0.0.1", "off": ["true"]});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let leg = leg(driver("wol", all));
    let dir = tempfile::tempdir().unwrap();
    make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg)
}

/// A card that listens, and its port.
async fn card() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

async fn heard(card: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let limit = Duration::from_secs(60);
    let length = tokio::time::timeout(limit, card.recv(&mut bytes)).await.expect("a packet").unwrap();
    bytes.truncate(length);
    bytes
}

/// The packet, written out by hand.
fn magic() -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    for _ in 0..16 {
        bytes.extend([0x02, 0xaa, 0xbb, 0x0c, 0xdd, 0xee]);
    }
    bytes
}

#[tokio::test]
async fn the_magic_packet_is_sent_three_times() {
    let (card, port) = card().await;
    wol(json!({"port": port})).unwrap().set(Switch::On, &PowerOn::Own).await.unwrap();
    for _ in 0..PACKETS {
        assert_eq!(heard(&card).await, magic());
    }
    let mut more = [0; 1];
    assert!(card.try_recv(&mut more).is_err(), "one command is three packets");
}

#[tokio::test]
async fn a_password_stands_behind_it_and_is_shown_to_nobody_else() {
    let (card, port) = card().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("word");
    let power = wol(json!({"port": port, "interface": "lo", "password": {"file": file}})).unwrap();
    for (text, bytes) in
        [("00:22:44:66:88:AA\n", &[0x00, 0x22, 0x44, 0x66, 0x88, 0xaa][..]), ("192.0.2.1", &[192, 0, 2, 1])]
    {
        std::fs::write(&file, text).unwrap();
        power.set(Switch::On, &PowerOn::Own).await.unwrap();
        for _ in 0..PACKETS {
            assert_eq!(heard(&card).await, [&magic(), bytes].concat());
        }
    }
    for text in ["hunter2", "00:22:44:66:88", "00:22:44:66:88:aa:cc", "+0:22:44:66:88:aa"] {
        std::fs::write(&file, text).unwrap();
        let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
        assert!(error.permanent && !error.to_string().contains(text), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(!power.set(Switch::On, &PowerOn::Own).await.unwrap_err().permanent, "it may be written anew");
    assert!(card.try_recv(&mut [0; 1]).is_err(), "no packet goes without its password");
}

/// A machine that wakes by the packet and goes off by a word to the same
/// port, so that each finds what was said before it done.
fn sleeper(card: UdpSocket, state: &Path) -> tokio::task::JoinHandle<()> {
    let state = state.to_owned();
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        loop {
            let length = card.recv(&mut bytes).await.unwrap();
            let up = if bytes[..length] == magic()[..] { "1000" } else { "10" };
            std::fs::write(&state, format!("link {up}\n")).unwrap();
        }
    })
}

#[tokio::test]
async fn a_machine_wakes_and_is_put_off_and_off_is_put_into_words() {
    let (card, port) = card().await;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::write(&state, "link 1000\n").unwrap();
    let machine = sleeper(card, &state);
    // The link of its switch port tells: a card that sleeps has a slower one.
    let power = wol(json!({
        "port": port, "off": ["bash", "-c", format!("printf off >/dev/udp/127.0.0.1/{port}")],
        "status": ["cat", state], "is_on": "link 1000\\b", "is_off": "link 10\\b"
    }))
    .unwrap();
    obeys(power.as_ref()).await;
    machine.abort();
}

#[tokio::test]
async fn silence_is_not_off() {
    let reads = async |fields: Value| wol(fields).unwrap().read().await;
    assert_eq!(reads(json!({"status": ["true"]})).await.unwrap(), Reading::On);
    // ping exits with 1 when nothing came back, and with 2 when it could not be sent.
    let exits = |code: u8| json!({"status": ["sh", "-c", format!("exit {code}")]});
    assert_eq!(reads(exits(1)).await.unwrap(), Reading::Unknown);
    for code in [2, 9] {
        reads(exits(code)).await.unwrap_err();
    }
    assert_eq!(reads(none()).await.unwrap(), Reading::Unknown);
    let nonsense = json!({"status": ["echo", "perhaps"], "is_on": "up", "is_off": "down"});
    assert_eq!(reads(nonsense).await.unwrap(), Reading::Unknown);
    let failed = json!({"status": ["sh", "-c", "echo down; exit 1"], "is_on": "up", "is_off": "down"});
    reads(failed).await.unwrap_err();
    let hangs = json!({"status": ["sleep", "600"], "timeout": 200});
    assert!(reads(hangs).await.unwrap_err().answer.contains("killed"));
}

#[tokio::test]
async fn what_goes_wrong_is_named() {
    let says = async |fields: Value, want: Switch, words: &str, permanent: bool| {
        let error = wol(fields).unwrap().set(want, &PowerOn::Own).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.permanent, permanent, "{error}");
    };
    says(json!({"interface": "nosuch9"}), Switch::On, "is there an interface `nosuch9`?", false).await;
    says(json!({"off": ["sh", "-c", "echo no route; exit 255"]}), Switch::Off, "no route", false).await;
    says(json!({"off": ["/nonexistent/ssh"]}), Switch::Off, "is it installed", true).await;
}

#[test]
fn what_cannot_work_is_refused() {
    for fields in [
        json!({"mac": "02:aa:bb:0c:dd"}),
        json!({"mac": "02:aa:bb:0c:dd:e"}),
        json!({"broadcast": "lab.example"}),
        json!({"broadcast": "ff02::1"}),
        json!({"port": 70_000}),
        json!({"interface": ""}),
        json!({"interface": "a-name-that-is-too-long"}),
        json!({"off": []}),
        json!({"status": ["x"], "is_off": "off"}),
    ] {
        assert!(wol(fields.clone()).err().unwrap().permanent, "{fields}");
    }
}

#[test]
fn one_card_wakes_one_machine() {
    let machine = |name: &str, mac: &str| {
        format!(
            "[machine.{name}]\npower.wol = {{ mac = \"{mac}\", off = [\"x\"], readback = \"none\" }}\nconsole = {{}}\nboot.power = {{}}\nready.agent = {{}}\n"
        )
    };
    let text = format!("format = 1\n{}{}", machine("m1", MAC), machine("m2", &MAC.to_uppercase()));
    let error =
        pitstop_core::inventory::Inventory::parse_str("lab.toml", &text, crate::factories()).unwrap_err();
    assert!(error.to_string().contains("is used by `m1` and `m2`"), "{error}");
}
