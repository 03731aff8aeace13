mod certificates;
mod media;
mod sessions;

use super::*;
use crate::testing::redfish::{Bmc, PASSWORD, RESET, SESSIONS, SYSTEM, Says};
use crate::testing::{driver, leg, none, site};
use std::path::Path;

fn redfish(dir: &Path, bmc: &Bmc, extra: Value) -> Arc<dyn Power> {
    made(dir, bmc, extra).unwrap()
}

fn made(dir: &Path, bmc: &Bmc, extra: Value) -> Result<Arc<dyn Power>, DriverError> {
    let mut fields = bmc.fields(dir);
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    fields.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let leg = leg(driver("redfish", fields));
    make(&site(dir, leg.clone(), None, driver("power", none())), &leg)
}

fn network() -> PowerOn {
    PowerOn::Network { url: "http://192.0.2.1/".into() }
}

/// Waits until the BMC has no session left.
async fn logged_out(bmc: &Bmc) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !bmc.state.lock().unwrap().sessions.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "a session is left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn login(path: &str) -> bool {
    path == format!("POST {SESSIONS}")
}

#[tokio::test]
async fn it_obeys_by_links_alone_and_leaves_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|_, _| None).await;
    crate::power::conformance::obeys(redfish(dir.path(), &bmc, none()).as_ref()).await;
    let state = bmc.state.lock().unwrap();
    assert!(state.begun > 0 && state.sessions.is_empty());
    assert!(!state.log.iter().any(|line| line.contains("PushPowerButton") || line.contains("Graceful")));
}

#[tokio::test]
async fn each_refusal_names_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let says = async |trick: fn(&str) -> Option<Says>, words: &str, permanent: bool| {
        let bmc = Bmc::plain(move |heard, _| trick(&heard.what)).await;
        let power = redfish(dir.path(), &bmc, none());
        let error = power.set(Switch::On, &PowerOn::Disk).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.permanent, permanent, "{error}");
        assert!(
            !error.to_string().contains("2b9e70") && !error.to_string().contains(char::is_control),
            "{error}"
        );
        assert!(error.attempted.contains("m1"), "{error}");
        logged_out(&bmc).await;
    };
    says(|w| login(w).then(|| Says::error(401, "Wrong.")), "must be what the BMC has", true).await;
    says(|w| login(w).then(|| Says::error(403, "Wrong.")), "must be what the BMC has", true).await;
    says(|w| login(w).then(|| Says::error(503, "Later.")), "no session left", false).await;
    says(|w| login(w).then(|| Says::error(400, "The session limit is exceeded.")), "no session left", false)
        .await;
    says(|w| login(w).then(|| Says(507, Vec::new(), String::new())), "who else is logged in", false).await;
    // Some repeat what they did not like.
    says(
        |w| login(w).then(|| Says::error(400, &format!("`{PASSWORD}`\r\n\u{1b}[2J is odd"))),
        "`…`[2J is odd",
        false,
    )
    .await;
    says(|w| login(w).then(|| Says(201, Vec::new(), String::new())), "without a token", false).await;
    says(|w| w.starts_with("PATCH").then(|| Says::error(403, "No.")), "boot_device = \"leave\"", true).await;
    says(|w| w.ends_with(RESET).then(|| Says::error(403, "No.")), "may switch the machine", true).await;
    says(|w| w.ends_with(SYSTEM).then(|| Says::error(404, "No.")), "`system` one of its systems", true).await;
    says(|w| w.ends_with(SYSTEM).then(|| Says(200, Vec::new(), "<html>".into())), "no JSON: <html>", false)
        .await;
    says(|w| w.ends_with("/v1/").then(|| Says(404, Vec::new(), String::new())), "a BMC with Redfish", true)
        .await;
    let missing = Bmc::plain(|_, _| None).await;
    let power = redfish(dir.path(), &missing, json!({"password": {"file": dir.path().join("none")}}));
    assert!(power.read().await.unwrap_err().answer.contains("cannot be read"));
}

#[tokio::test]
async fn only_what_is_offered_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let offers = |offered: &'static [&'static str]| {
        Bmc::plain(move |_, state| {
            state.system["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] =
                json!(offered);
            None
        })
    };
    let bmc = offers(&["ForceOn", "PushPowerButton", "GracefulShutdown"]).await;
    let power = redfish(dir.path(), &bmc, none());
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(bmc.state.lock().unwrap().told(), [format!("POST {RESET} {{\"ResetType\":\"ForceOn\"}}")]);
    let error = power.set(Switch::Off, &PowerOn::Own).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("does not offer ForceOff, but: ForceOn"), "{error}");
    // One that offers only what is not so yet.
    let bmc = offers(&["On"]).await;
    redfish(dir.path(), &bmc, none()).set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert!(bmc.state.lock().unwrap().told().is_empty());
}

#[tokio::test]
async fn what_is_offered_may_be_in_a_resource_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|heard, state| {
        state.system["Actions"]["#ComputerSystem.Reset"] =
            json!({"target": RESET, "@Redfish.ActionInfo": "/redfish/v1/info"});
        let parameters = json!([{"Name": "Else", "AllowableValues": ["On"]}, {"Name": "ResetType", "AllowableValues": ["ForceOn"]}]);
        (heard.what == "GET /redfish/v1/info").then(|| Says::json(200, &json!({"Parameters": parameters})))
    })
    .await;
    redfish(dir.path(), &bmc, none()).set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(bmc.state.lock().unwrap().told(), [format!("POST {RESET} {{\"ResetType\":\"ForceOn\"}}")]);
}

#[tokio::test]
async fn the_boot_device_is_set_for_what_is_to_boot() {
    let dir = tempfile::tempdir().unwrap();
    let set = async |extra: Value, on: &PowerOn| {
        let bmc = Bmc::plain(|_, _| None).await;
        redfish(dir.path(), &bmc, extra).set(Switch::On, on).await.unwrap();
        let state = bmc.state.lock().unwrap();
        let told: Vec<Value> = state
            .told()
            .iter()
            .filter_map(|line| line.strip_prefix(&format!("PATCH {SYSTEM} ")))
            .map(|body| serde_json::from_str(body).unwrap())
            .collect();
        told
    };
    let once = |target: &str| json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target}});
    assert_eq!(set(none(), &network()).await, [once("Pxe")]);
    assert_eq!(set(none(), &PowerOn::Disk).await, [once("Hdd")]);
    assert_eq!(set(none(), &PowerOn::Own).await, [] as [Value; 0]);
    assert_eq!(set(json!({"boot_device": "leave"}), &network()).await, [] as [Value; 0]);
    let mut efi = once("Pxe");
    efi["Boot"]["BootSourceOverrideMode"] = json!("UEFI");
    assert_eq!(set(json!({"efi": true}), &network()).await, [efi.clone()]);
    efi["Boot"]["BootSourceOverrideMode"] = json!("Legacy");
    assert_eq!(set(json!({"efi": false}), &network()).await, [efi]);
}

#[tokio::test]
async fn a_boot_device_that_is_not_offered_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|_, state| {
        state.system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] = json!(["None", "Usb"]);
        None
    })
    .await;
    let error = redfish(dir.path(), &bmc, none()).set(Switch::On, &network()).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("does not offer Pxe, but: None, Usb"), "{error}");
    assert!(bmc.state.lock().unwrap().told().is_empty(), "it was not switched on either");
    let kernel = PowerOn::Kernel {
        kernel: "k".into(),
        initrd: "i".into(),
        append: pitstop_wire::agent::Secret(String::new()),
    };
    assert!(redfish(dir.path(), &bmc, none()).set(Switch::On, &kernel).await.unwrap_err().permanent);
}

/// A BMC whose system changes by itself this many times before a write.
async fn restless(times: u32) -> Bmc {
    let mut version = 1;
    Bmc::plain(move |heard, state| {
        if heard.what == format!("GET {SYSTEM}") {
            return Some(Says(200, vec![("etag", format!("\"{version}\""))], state.system.to_string()));
        }
        if heard.what != format!("PATCH {SYSTEM}") {
            return None;
        }
        if version <= times {
            version += 1;
        }
        (heard.header("if-match") != format!("\"{version}\"")).then(|| Says::error(412, "It is another one."))
    })
    .await
}

#[tokio::test]
async fn a_system_is_changed_only_as_it_was_read_and_read_once_more() {
    let dir = tempfile::tempdir().unwrap();
    redfish(dir.path(), &restless(0).await, none()).set(Switch::On, &network()).await.unwrap();
    let bmc = restless(1).await;
    redfish(dir.path(), &bmc, none()).set(Switch::On, &network()).await.unwrap();
    assert_eq!(bmc.state.lock().unwrap().told().len(), 3, "twice written, once switched");
    let bmc = restless(9).await;
    let error = redfish(dir.path(), &bmc, none()).set(Switch::On, &network()).await.unwrap_err();
    assert!(error.answer.contains("412") && !error.permanent, "{error}");
    assert_eq!(bmc.state.lock().unwrap().told().len(), 2);
}

#[tokio::test]
async fn a_command_is_sent_once_and_accepted_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let task = || Says(202, vec![("location", "/redfish/v1/TaskService/TaskMonitors/1".into())], "{}".into());
    let bmc = Bmc::plain(move |heard, _| heard.what.ends_with(RESET).then(task)).await;
    let power = redfish(dir.path(), &bmc, none());
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off, "the BMC lies");
    assert_eq!(bmc.state.lock().unwrap().told().len(), 1);
}

#[tokio::test]
async fn what_is_so_already_may_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refuses = |heard: &crate::testing::redfish::Heard| {
        heard.what.ends_with(RESET).then(|| Says::error(409, "It is so already."))
    };
    let bmc = Bmc::plain(move |heard, _| refuses(heard)).await;
    let power = redfish(dir.path(), &bmc, none());
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("It is so already.") && !error.permanent, "{error}");
}

#[tokio::test]
async fn what_is_not_known_is_never_off() {
    let dir = tempfile::tempdir().unwrap();
    let reads = async |state: Value| {
        let bmc = Bmc::plain(move |_, known| {
            known.system["PowerState"] = state.clone();
            None
        })
        .await;
        redfish(dir.path(), &bmc, none()).read().await
    };
    for word in ["PoweringOn", "PoweringOff", "Paused"] {
        assert_eq!(reads(json!(word)).await.unwrap(), Reading::Unknown);
    }
    assert_eq!(reads(json!(null)).await.unwrap(), Reading::Unknown);
    for odd in [json!("off"), json!(0), json!({"Off": "Off"}), json!("")] {
        reads(odd).await.unwrap_err();
    }
    let silent = Bmc::plain(|heard, state| {
        (heard.what == format!("GET {SYSTEM}")).then(|| Says::json(200, &state.system))
    })
    .await;
    assert!(redfish(dir.path(), &silent, none()).read().await.unwrap_err().answer.contains("no power state"));
}

#[tokio::test]
async fn among_several_systems_the_inventory_chooses() {
    let dir = tempfile::tempdir().unwrap();
    let chassis = || {
        Bmc::plain(|heard, _| match heard.what.as_str() {
            "GET /redfish/v1/machines" => Some(Says::json(
                200,
                &json!({"Members": [{"@odata.id": "/redfish/v1/m/1"}], "Members@odata.nextLink": "/redfish/v1/machines?skip=1"}),
            )),
            "GET /redfish/v1/machines?skip=1" => {
                Some(Says::json(200, &json!({"Members": [{"@odata.id": "/redfish/v1/m/2"}]})))
            }
            "GET /redfish/v1/m/1" => Some(Says::json(200, &json!({"Id": "left", "PowerState": "Off"}))),
            "GET /redfish/v1/m/2" => Some(Says::json(200, &json!({"Id": "right", "PowerState": "On"}))),
            _ => None,
        })
    };
    let bmc = chassis().await;
    let read = async |extra: Value| redfish(dir.path(), &bmc, extra).read().await;
    assert_eq!(read(json!({"system": "right"})).await.unwrap(), Reading::On);
    assert_eq!(read(json!({"system": "/redfish/v1/m/1"})).await.unwrap(), Reading::Off);
    let error = read(none()).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("/redfish/v1/m/1, /redfish/v1/m/2"), "{error}");
    let error = read(json!({"system": "middle"})).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("no system `middle`"), "{error}");
    logged_out(&bmc).await;
}

#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = Bmc::plain(|_, _| None).await;
    let there = format!("http://{}/redfish/v1/machines/blade", elsewhere.address);
    let fails = async |trick: crate::testing::redfish::Trick| {
        let bmc = Bmc::plain(trick).await;
        redfish(dir.path(), &bmc, none()).set(Switch::On, &PowerOn::Own).await.unwrap_err();
        logged_out(&bmc).await;
    };
    let place = there.clone();
    fails(Box::new(move |heard, _| {
        (heard.what == "GET /redfish/v1/machines")
            .then(|| Says::json(200, &json!({"Members": [{"@odata.id": place}]})))
    }))
    .await;
    let place = there.clone();
    fails(Box::new(move |heard, _| {
        (heard.what == "GET /redfish/v1/machines")
            .then(|| Says(307, vec![("location", place.clone())], String::new()))
    }))
    .await;
    let place = there.clone();
    fails(Box::new(move |_, state| {
        state.system["Actions"]["#ComputerSystem.Reset"]["target"] = json!(place);
        None
    }))
    .await;
    for odd in [json!(7), json!([[[]]]), json!({"@odata.id": {"@odata.id": "/"}}), json!("x")] {
        fails(Box::new(move |_, state| {
            state.root["Systems"] = odd.clone();
            state.system = odd.clone();
            None
        }))
        .await;
    }
    let deep = "[".repeat(100_000);
    fails(Box::new(move |heard, _| {
        heard.what.ends_with("machines").then(|| Says(200, Vec::new(), deep.clone()))
    }))
    .await;
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    fails(Box::new(move |heard, _| {
        heard.what.ends_with("machines").then(|| Says(200, Vec::new(), long.clone()))
    }))
    .await;
    assert!(elsewhere.state.lock().unwrap().log.is_empty());
}

#[tokio::test]
async fn on_the_bmc_itself_one_is_sent_on() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|heard, _| {
        let host = heard.header("host");
        match heard.what.as_str() {
            "GET /redfish/v1/machines" => Some(Says(
                308,
                vec![("location", format!("http://{host}/redfish/v1/machines/"))],
                String::new(),
            )),
            "GET /redfish/v1/machines/" => {
                Some(Says::json(200, &json!({"Members": [{"@odata.id": SYSTEM}]})))
            }
            _ => None,
        }
    })
    .await;
    assert_eq!(redfish(dir.path(), &bmc, none()).read().await.unwrap(), Reading::Off);
}

#[tokio::test]
async fn machines_on_one_bmc_stand_in_one_queue() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|_, _| None).await;
    let queue = |extra: Value| redfish(dir.path(), &bmc, extra).limits().queue.clone();
    assert_eq!(queue(json!({"system": "1"})), queue(json!({"system": "2"})));
    assert_eq!(queue(json!({"address": "bmc:443"})), "redfish://bmc:80");
}

#[test]
fn one_system_has_one_machine() {
    use pitstop_core::inventory::Inventory;
    let lab = |second: &str| {
        let machine = |name: &str, power: &str| {
            format!(
                "[machine.{name}]\npower.redfish = {{ {power} }}\nconsole = {{}}\nboot.power = {{}}\nready.agent = {{}}\n"
            )
        };
        let first = machine("m1", "address = \"bmc\"");
        let text = format!("format = 1\n{first}{}", machine("m2", second));
        Inventory::parse_str("lab.toml", &text, crate::factories()).map(drop)
    };
    let same = lab("address = \"BMC:443\"").unwrap_err().to_string();
    assert!(same.contains("is used by `m1` and `m2`"), "{same}");
    lab("address = \"bmc\", system = 2").unwrap();
    lab("address = \"other\"").unwrap();
}

/// What the field's own emulator does when it is told to, lies or refuses.
#[tokio::test]
async fn the_emulator() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = crate::testing::sushy::Sushy::start(dir.path());
    let make_with = |extra: Value| {
        let mut fields = bmc.fields();
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let leg = leg(driver("redfish", fields));
        make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg).unwrap()
    };
    let power = make_with(none());
    power.set(Switch::On, &network()).await.unwrap();
    assert_eq!(bmc.log(), "boot pxe\npower 1\n");
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    power.set(Switch::On, &PowerOn::Disk).await.unwrap();
    assert!(bmc.log().ends_with("power 0\nboot hdd\npower 1\n"), "{}", bmc.log());
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    assert!(power.identify(true).await.unwrap().contains("blinks"));
    power.identify(false).await.unwrap();
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    power.nudge(Nudge::Reset).await.unwrap();
    assert!(bmc.log().ends_with("power 1\nreset 1\n"), "{}", bmc.log());
    power.set(Switch::Off, &PowerOn::Own).await.unwrap();
    std::fs::write(bmc.file("lies"), "").unwrap();
    power.set(Switch::On, &PowerOn::Own).await.unwrap();
    assert_eq!(power.read().await.unwrap(), Reading::Off);
    std::fs::write(bmc.file("refuses"), "").unwrap();
    let error = power.set(Switch::On, &PowerOn::Own).await.unwrap_err();
    assert!(error.answer.contains("the chassis refuses") && !error.permanent, "{error}");
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "not-it").unwrap();
    let error = make_with(json!({"password": {"file": wrong}})).read().await.unwrap_err();
    assert!(
        error.permanent && error.answer.contains("401") && !error.to_string().contains("not-it"),
        "{error}"
    );
    let error = make_with(json!({"system": "other"})).read().await.unwrap_err();
    assert!(error.permanent && error.answer.contains("no system `other`"), "{error}");
}
