//! Who is asked is known before anything is said.

use super::*;

#[tokio::test]
async fn a_certificate_is_known_or_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::tls().await;
    crate::power::conformance::obeys(redfish(dir.path(), &bmc, none()).as_ref()).await;
    bmc.state.lock().unwrap().log.clear();
    let pin = bmc.fingerprint.clone().unwrap();
    let with_colons: Vec<_> =
        pin.to_uppercase().as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    redfish(dir.path(), &bmc, json!({"fingerprint": with_colons.join(":")})).read().await.unwrap();
    bmc.state.lock().unwrap().log.clear();
    let authority = dir.path().join("ca.pem");
    std::fs::write(&authority, &Bmc::signed().await.certificate).unwrap();
    for extra in [
        json!({"fingerprint": "0".repeat(64)}),
        json!({"fingerprint": null}),
        json!({"fingerprint": null, "ca": authority}),
    ] {
        let error = redfish(dir.path(), &bmc, extra).read().await.unwrap_err();
        assert!(error.permanent && error.answer.contains("not trusted"), "{error}");
        assert!(error.next.as_ref().unwrap().contains(&format!("`fingerprint = \"{pin}\"`")), "{error}");
    }
    assert!(bmc.state.lock().unwrap().log.is_empty(), "nothing was asked, and no password told");
}

#[tokio::test]
async fn a_certificate_may_be_signed_by_an_authority_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::signed().await;
    let authority = dir.path().join("ca.pem");
    let extra = json!({"ca": authority, "tls": null});
    let error = redfish(dir.path(), &bmc, extra.clone()).read().await.unwrap_err();
    assert!(error.answer.contains("ca.pem cannot be read"), "{error}");
    std::fs::write(&authority, "no certificate").unwrap();
    let error = redfish(dir.path(), &bmc, extra.clone()).read().await.unwrap_err();
    assert!(error.answer.contains("holds no certificate"), "{error}");
    std::fs::write(&authority, &bmc.certificate).unwrap();
    assert_eq!(redfish(dir.path(), &bmc, extra).read().await.unwrap(), Reading::Off);
    // One for another host is not.
    let named = format!("localhost:{}", bmc.address.rsplit_once(':').unwrap().1);
    let extra = json!({"ca": authority, "tls": null, "address": named});
    let error = redfish(dir.path(), &bmc, extra).read().await.unwrap_err();
    assert!(error.answer.contains("not trusted"), "{error}");
    // Whoever speaks no TLS gets no password.
    let plain = Bmc::plain(|_, _| None).await;
    let error = redfish(dir.path(), &plain, json!({"tls": null})).read().await.unwrap_err();
    assert!(error.answer.contains("no TLS") && !error.permanent, "{error}");
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|_, _| None).await;
    for extra in [
        json!({"fingerprint": "0".repeat(64)}),
        json!({"ca": "/ca.pem"}),
        json!({"tls": null, "ca": "/ca.pem", "fingerprint": "0".repeat(64)}),
        json!({"tls": null, "fingerprint": "00:11"}),
        json!({"address": "bmc"}),
    ] {
        assert!(made(dir.path(), &bmc, extra.clone()).err().unwrap().permanent, "{extra}");
    }
}
