//! No way of leaving leaves a session behind.

use super::*;

#[tokio::test]
async fn a_session_ends_also_when_the_work_failed() {
    let dir = tempfile::tempdir().unwrap();
    let bmc =
        Bmc::plain(|heard, _| heard.what.ends_with(RESET).then(|| Says::error(500, "Not today."))).await;
    let error = redfish(dir.path(), &bmc, none()).set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("Not today.") && !error.permanent, "{error}");
    logged_out(&bmc).await;
    assert_eq!(bmc.state.lock().unwrap().begun, 1);
}

/// Drops a reading once the BMC was asked `what`, which it answers or not.
async fn dropped_at(what: fn(&str) -> bool, answered: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (asked, mut heard_of) = tokio::sync::mpsc::unbounded_channel();
    let bmc = Bmc::plain(move |heard, _| {
        if !what(&heard.what) {
            return None;
        }
        asked.send(()).unwrap();
        (!answered).then_some(Says(0, Vec::new(), String::new()))
    })
    .await;
    let power = redfish(dir.path(), &bmc, none());
    let reading = tokio::spawn(async move { power.read().await });
    heard_of.recv().await.unwrap();
    reading.abort();
    logged_out(&bmc).await;
    assert_eq!(bmc.state.lock().unwrap().begun, 1);
}

#[tokio::test]
async fn a_session_ends_also_when_nobody_waits_any_more() {
    dropped_at(|what| what == format!("GET {SYSTEM}"), false).await;
}

#[tokio::test]
async fn a_session_that_comes_about_after_nobody_waits_ends_too() {
    dropped_at(login, true).await;
}

#[tokio::test]
async fn a_logout_that_failed_is_tried_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut tries = 0;
    let bmc = Bmc::plain(move |heard, _| {
        let first = heard.what.starts_with("DELETE") && tries == 0;
        tries += i32::from(first);
        first.then(|| Says::error(503, "Busy."))
    })
    .await;
    assert_eq!(redfish(dir.path(), &bmc, none()).read().await.unwrap(), Reading::Off);
    logged_out(&bmc).await;
}

/// One session too many is refused, as by a real one. Each round leaves in
/// every way there is.
#[tokio::test]
async fn a_bmc_of_four_sessions_never_runs_out() {
    const FEW: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let (asked, mut heard_of) = tokio::sync::mpsc::unbounded_channel();
    let bmc = Bmc::plain(move |heard, state| {
        if login(&heard.what) && state.sessions.len() == FEW {
            return Some(Says::error(503, "The session limit is reached."));
        }
        if heard.what == format!("PATCH {SYSTEM}") {
            return Some(Says::error(400, "No."));
        }
        if heard.what == format!("POST {RESET}") {
            asked.send(()).unwrap();
            return Some(Says(0, Vec::new(), String::new()));
        }
        None
    })
    .await;
    let power = redfish(dir.path(), &bmc, none());
    for _ in 0..3 * FEW {
        power.read().await.unwrap();
        let error = power.set(Switch::On, &PowerOn::Disk).await.unwrap_err();
        assert!(error.answer.contains("the boot device cannot be set"), "{error}");
        let switching = power.clone();
        let switching = tokio::spawn(async move { switching.set(Switch::Off, &PowerOn::Own).await });
        heard_of.recv().await.unwrap();
        switching.abort();
        // Whoever is cut off does not wait for it; whoever comes next would.
        logged_out(&bmc).await;
    }
    assert_eq!(bmc.state.lock().unwrap().begun, 9 * u32::try_from(FEW).unwrap());
}

#[tokio::test]
async fn a_bmc_that_never_answers_is_late_and_keeps_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let hang = |what: &str| what == format!("GET {SYSTEM}");
    let bmc =
        Bmc::plain(move |heard, _| hang(&heard.what).then_some(Says(0, Vec::new(), String::new()))).await;
    let error = redfish(dir.path(), &bmc, json!({"timeout": 200})).read().await.unwrap_err();
    assert!(error.answer.contains("no answer within 0.2 s") && !error.permanent, "{error}");
    logged_out(&bmc).await;
}

#[tokio::test]
async fn without_sessions_user_and_password_go_along() {
    let dir = tempfile::tempdir().unwrap();
    for status in [404, 405, 501] {
        let bmc = Bmc::plain(move |heard, _| login(&heard.what).then(|| Says::error(status, "What?"))).await;
        crate::power::conformance::obeys(redfish(dir.path(), &bmc, none()).as_ref()).await;
    }
    let bmc = Bmc::plain(|_, state| {
        state.root["Links"] = json!(null);
        None
    })
    .await;
    assert_eq!(redfish(dir.path(), &bmc, none()).read().await.unwrap(), Reading::Off);
    assert_eq!(bmc.state.lock().unwrap().begun, 0);
}

#[tokio::test]
async fn the_root_is_also_for_those_who_say_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|heard, _| {
        (heard.what == "GET /redfish/v1/" && heard.header("authorization").is_empty())
            .then(|| Says::error(401, "Who are you?"))
    })
    .await;
    assert_eq!(redfish(dir.path(), &bmc, none()).read().await.unwrap(), Reading::Off);
}
