use super::*;
use crate::testing::{driver, leg, none, site};
use pitstop_wire::MachineName;
use serde_json::{Value, json};
use std::process::Command;

fn params() -> AgentParams {
    AgentParams {
        server: "192.0.2.1:7443".into(),
        ca: "ab".repeat(32),
        machine: MachineName::new("m1").unwrap(),
        nonce: "n1".into(),
        token: Secret("s3cr3t".into()),
    }
}

fn at(dir: &Path, fields: Value) -> Site {
    let power = leg(driver("redfish", json!({"address": "bmc:443"})));
    site(dir, power, None, driver("virtual-media", fields))
}

/// Something like a CD: bytes, the block at `block`, bytes.
fn cd(site: &Site, block: usize, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    bytes[block..block + BLOCK].copy_from_slice(&empty_block());
    std::fs::create_dir_all(&site.agent).unwrap();
    std::fs::write(site.agent.join(FILE), &bytes).unwrap();
    bytes
}

#[test]
fn the_block_is_filled_in_for_who_reads_it_in_whatever_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let site = at(dir.path(), none());
    let bytes = cd(&site, 6144, 20_000);
    let boot = make(&site).unwrap();
    let medium = boot.medium(&params()).unwrap();
    assert_eq!(medium.bytes(), 20_000);
    let mut whole = vec![0; 20_000];
    medium.read_at(&mut whole, 0).unwrap();
    assert_eq!((&whole[..6144], &whole[6144 + BLOCK..]), (&bytes[..6144], &bytes[6144 + BLOCK..]));
    let text = std::str::from_utf8(&whole[6144..6144 + BLOCK]).unwrap();
    assert!(
        text.contains("pitstop.token=s3cr3t") && text.contains("console=ttyS0") && !text.contains(MARK),
        "{text}"
    );
    for piece in [1, 7, 512, 2048, 6144, 19_999] {
        let mut again = Vec::new();
        for at in (0..whole.len()).step_by(piece) {
            let mut buffer = vec![0; piece.min(whole.len() - at)];
            medium.read_at(&mut buffer, at as u64).unwrap();
            again.extend(buffer);
        }
        assert!(again == whole, "in pieces of {piece}");
    }
    medium.read_at(&mut [0; 2], 19_999).unwrap_err();
    // Another one takes its name: this one stays what it was.
    std::fs::remove_file(site.agent.join(FILE)).unwrap();
    let mut later = vec![0; 20_000];
    medium.read_at(&mut later, 0).unwrap();
    assert!(later == whole);
}

#[test]
fn a_file_that_is_no_such_cd_is_said_before_anything_boots() {
    let dir = tempfile::tempdir().unwrap();
    let site = at(dir.path(), none());
    let says = |words: &str| {
        let boot = make(&site).unwrap();
        for error in [boot.look().unwrap_err(), boot.medium(&params()).unwrap_err()] {
            assert!(error.permanent && error.answer.contains(words), "{error}");
            assert!(
                error.to_string().contains("m1") && error.to_string().contains("image agent --medium"),
                "{error}"
            );
        }
    };
    says("No such file");
    std::fs::create_dir_all(site.agent.join(FILE)).unwrap();
    says("it is no file");
    std::fs::remove_dir(site.agent.join(FILE)).unwrap();
    std::fs::write(site.agent.join(FILE), b"short").unwrap();
    says("it has no block");
    let mut bytes = cd(&site, 2048, 20_000);
    bytes[10_240..10_240 + BLOCK].copy_from_slice(&empty_block());
    std::fs::write(site.agent.join(FILE), &bytes).unwrap();
    says("not as it was made");
    let mut bytes = cd(&site, 2048, 20_000);
    bytes[2048 + BLOCK - 1] = b'x';
    std::fs::write(site.agent.join(FILE), &bytes).unwrap();
    says("not as it was made");
    cd(&site, 2048, 20_000);
    assert!(make(&site).unwrap().look().unwrap().contains("http://127.0.0.1:8069"));
}

#[test]
fn what_the_inventory_says_must_be_of_use() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = |fields: Value, words: &str| {
        let error = make(&at(dir.path(), fields)).err().unwrap();
        assert!(error.permanent && error.to_string().contains(words), "{error}");
    };
    wrong(json!({"append": "quiet '; reboot"}), "apostrophe");
    wrong(json!({"append": "quiet\nreboot"}), "line end");
    wrong(json!({"fetch": 600_001}), "10m at most");
    for server in ["http://lab/", "", "lab:8069", "10.1.0.5:8069", "[2001:db8::1]"] {
        wrong(json!({ "server": server }), "no host");
    }
    wrong(json!({"address": "bmc.lab"}), "address `bmc.lab`");
    let site = at(dir.path(), json!({"append": "x".repeat(BLOCK)}));
    cd(&site, 0, 20_000);
    let error = make(&site).unwrap().medium(&params()).unwrap_err();
    assert!(error.answer.contains("does not fit"), "{error}");
    let boot = make(&at(dir.path(), json!({"server": "2001:db8::1", "address": "192.0.2.7"}))).unwrap();
    assert_eq!(boot.asks_from(), Some([192, 0, 2, 7].into()));
    let on = boot.medium(&params()).unwrap().power_on("/boot/medium/k/agent.iso");
    let url = "http://[2001:db8::1]:8069/boot/medium/k/agent.iso".to_owned();
    assert_eq!(on, PowerOn::Medium { url: Secret(url) });
    assert!(
        !format!("{on:?} {:?}", boot.medium(&params()).unwrap()).contains("/k/"),
        "its address is a secret"
    );
}

#[test]
fn parameters_go_onto_the_cd_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let boot = make(&at(dir.path(), none())).unwrap();
    assert_eq!(boot.delivery(), Delivery::Medium);
    boot.power_on(Target::Agent(Some(&params()))).unwrap_err();
    for target in [Target::Disk, Target::AsIs] {
        assert_eq!(boot.power_on(target).unwrap(), PowerOn::Disk);
    }
}

/// GRUB's own parser takes the block, whatever the inventory adds.
#[test]
fn the_boot_loader_understands_the_block() {
    let dir = tempfile::tempdir().unwrap();
    for append in [DEFAULT_APPEND, "a=\"b c\" d=$e; reboot && {x} `y` \\"] {
        let file = dir.path().join("machine.cfg");
        let text = block(append, &params()).unwrap();
        assert_eq!(text.len(), BLOCK);
        std::fs::write(&file, text).unwrap();
        let done = Command::new("grub-script-check").arg(&file).output().expect("the tests need grub-common");
        assert!(done.status.success(), "{append}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
