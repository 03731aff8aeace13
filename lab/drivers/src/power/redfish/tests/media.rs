//! A CD in the machine's drive.

use super::*;
use crate::boot::medium::SERVED;
use crate::testing::redfish::{Heard, State};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const DRIVES: &str = "/redfish/v1/drives";
const CD: &str = "/redfish/v1/drives/2";
const MANAGER: &str = "/redfish/v1/m/1";
const INSERT: &str = "/redfish/v1/do/insert";
const EJECT: &str = "/redfish/v1/do/eject";
const TASK: &str = "/redfish/v1/todo/7";
const KEY: &str = "key-5ad1";

fn url() -> Secret {
    Secret(format!("http://192.0.2.1:8069{SERVED}{KEY}/agent.iso"))
}

/// What a test has the drive do with what it is told: `None`, as always.
type Quirk = Box<dyn FnMut(&Heard, &mut Value) -> Option<Says> + Send>;

/// A BMC whose system has a drive for floppies and one for CDs, and what the
/// latter holds.
async fn with_drive(quirk: Quirk) -> (Bmc, Arc<Mutex<Value>>) {
    with_drive_of(None, quirk).await
}

/// The same; `servers`: the drives are those of what manages these systems.
async fn with_drive_of(servers: Option<Value>, mut quirk: Quirk) -> (Bmc, Arc<Mutex<Value>>) {
    let drive = Arc::new(Mutex::new(json!({
        "MediaTypes": ["CD", "DVD"],
        "Image": null,
        "Inserted": false,
        "Actions": {"#VirtualMedia.InsertMedia": {"target": INSERT}, "#VirtualMedia.EjectMedia": {"target": EJECT}},
    })));
    let kept = drive.clone();
    let bmc = Bmc::plain(move |heard, state: &mut State| {
        let mut drive = kept.lock().unwrap();
        match &servers {
            None => state.system["VirtualMedia"] = json!({"@odata.id": DRIVES}),
            Some(_) => state.system["Links"] = json!({"ManagedBy": [{"@odata.id": MANAGER}]}),
        }
        state.system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] =
            json!(["None", "Hdd", "Cd"]);
        if let Some(says) = quirk(heard, &mut drive) {
            return Some(says);
        }
        let (method, path) = heard.what.split_once(' ').unwrap();
        Some(match (method, path) {
            ("GET", MANAGER) => {
                let links = json!({"ManagerForServers": servers});
                Says::json(200, &json!({"VirtualMedia": {"@odata.id": DRIVES}, "Links": links}))
            }
            ("GET", DRIVES) => Says::json(
                200,
                &json!({"Members": [{"@odata.id": "/redfish/v1/drives/1"}, {"@odata.id": CD}]}),
            ),
            ("GET", "/redfish/v1/drives/1") => {
                Says::json(200, &json!({"MediaTypes": ["Floppy", "USBStick"]}))
            }
            ("GET", CD) => Says::json(200, &drive),
            ("POST", INSERT) if drive["Inserted"] == true => Says::error(409, "There is one in it."),
            ("POST", INSERT) => {
                (drive["Inserted"], drive["Image"]) = (json!(true), heard.body["Image"].clone());
                Says(204, Vec::new(), String::new())
            }
            ("POST", EJECT) => {
                (drive["Inserted"], drive["Image"]) = (json!(false), json!(null));
                Says(204, Vec::new(), String::new())
            }
            _ => return None,
        })
    })
    .await;
    (bmc, drive)
}

fn asked(bmc: &Bmc, what: &str) -> Vec<Value> {
    let state = bmc.state.lock().unwrap();
    let lines = state.log.iter().filter_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
    lines.map(|body| serde_json::from_str(body).unwrap()).collect()
}

#[tokio::test]
async fn a_cd_goes_into_the_drive_for_cds_and_the_machine_boots_from_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (bmc, drive) = with_drive(Box::new(|_, _| None)).await;
    let power = redfish(dir.path(), &bmc, none());
    power.insert(&url()).await.unwrap();
    let words = json!({"Image": url().0, "Inserted": true, "WriteProtected": true});
    assert_eq!(asked(&bmc, &format!("POST {INSERT}")), [words]);
    power.set(Switch::On, &PowerOn::Medium { url: url() }).await.unwrap();
    let once = json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Cd"}});
    assert_eq!(asked(&bmc, &format!("PATCH {SYSTEM}")), [once]);
    power.eject().await.unwrap();
    assert_eq!(drive.lock().unwrap()["Inserted"], false);
    power.eject().await.unwrap();
    assert_eq!(asked(&bmc, &format!("POST {EJECT}")).len(), 1, "what is out is not taken out");
    logged_out(&bmc).await;
}

#[tokio::test]
async fn what_is_in_the_drive_makes_room_and_what_is_somebody_elses_stays_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (bmc, drive) = with_drive(Box::new(|_, _| None)).await;
    let power = redfish(dir.path(), &bmc, none());
    let foreign = json!("http://192.0.2.9/debian.iso");
    (drive.lock().unwrap()["Inserted"], drive.lock().unwrap()["Image"]) = (json!(true), foreign.clone());
    power.eject().await.unwrap();
    assert_eq!(drive.lock().unwrap()["Image"], foreign, "a person's own CD");
    power.insert(&url()).await.unwrap();
    assert_eq!(drive.lock().unwrap()["Image"], url().0);
    assert_eq!(asked(&bmc, &format!("POST {EJECT}")).len(), 1);
    // Whose it is, is not told everywhere.
    drive.lock().unwrap()["Image"] = json!(null);
    power.eject().await.unwrap();
    assert_eq!(drive.lock().unwrap()["Inserted"], false);
}

#[tokio::test]
async fn a_bmc_that_misses_words_or_dislikes_them_is_asked_in_others() {
    let dir = tempfile::tempdir().unwrap();
    let told = async |picky: fn(&Value) -> Option<&'static str>| {
        let quirk = move |heard: &Heard, _: &mut Value| {
            let error = picky(&heard.body).filter(|_| heard.what == format!("POST {INSERT}"))?;
            Some(Says::error(400, &format!("The parameter {error} is the trouble.")))
        };
        let (bmc, drive) = with_drive(Box::new(quirk)).await;
        let done = redfish(dir.path(), &bmc, none()).insert(&url()).await;
        assert_eq!(drive.lock().unwrap()["Inserted"], json!(done.is_ok()));
        (done, asked(&bmc, &format!("POST {INSERT}")))
    };
    let (done, asked) =
        told(|body| body.get("TransferProtocolType").is_none().then_some("TransferProtocolType")).await;
    done.unwrap();
    assert_eq!((asked.len(), &asked[1]["TransferProtocolType"]), (2, &json!("HTTP")));
    let (done, asked) =
        told(|body| ["WriteProtected", "Inserted"].into_iter().find(|word| body.get(word).is_some())).await;
    done.unwrap();
    assert_eq!(asked.last().unwrap(), &json!({"Image": url().0}));
    let (done, asked) = told(|_| Some("TransferMethod")).await;
    let error = done.unwrap_err();
    assert!(error.answer.contains("400") && error.next.unwrap().contains("`server`"), "{}", error.answer);
    assert_eq!(asked.len(), 4, "it is not asked for ever");
    let (done, asked) = told(|_| Some("Colour")).await;
    done.unwrap_err();
    assert_eq!(asked.len(), 1, "there is nothing to be said otherwise");
}

#[tokio::test]
async fn a_protocol_that_is_offered_is_named_and_one_that_is_not_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let offers = async |protocols: Value| {
        let quirk = move |_: &Heard, drive: &mut Value| {
            drive["Actions"]["#VirtualMedia.InsertMedia"]["TransferProtocolType@Redfish.AllowableValues"] =
                protocols.clone();
            None
        };
        let (bmc, _) = with_drive(Box::new(quirk)).await;
        let done = redfish(dir.path(), &bmc, none()).insert(&url()).await;
        (done, asked(&bmc, &format!("POST {INSERT}")))
    };
    let (done, asked) = offers(json!(["CIFS", "HTTP"])).await;
    done.unwrap();
    assert_eq!(asked[0]["TransferProtocolType"], "HTTP");
    let (done, asked) = offers(json!(["CIFS", "NFS"])).await;
    let error = done.unwrap_err();
    assert!(error.permanent && error.answer.contains("by HTTP, but by: CIFS, NFS"), "{error}");
    assert!(asked.is_empty());
}

#[tokio::test]
async fn one_that_accepts_and_fetches_on_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut looks = 0;
    let (bmc, _) = with_drive(Box::new(move |heard, drive| match heard.what.as_str() {
        what if what == format!("POST {INSERT}") => {
            drive["Image"] = heard.body["Image"].clone();
            Some(Says::json(202, &json!({"@odata.id": TASK})))
        }
        what if what == format!("GET {CD}") && drive["Image"].is_string() => {
            looks += 1;
            drive["Inserted"] = json!(looks > 3);
            None
        }
        what if what == format!("GET {TASK}") => Some(Says::json(200, &json!({"TaskState": "Running"}))),
        _ => None,
    }))
    .await;
    redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap();
    let state = bmc.state.lock().unwrap();
    assert!(state.log.iter().any(|line| line == &format!("GET {TASK}")), "nobody looked at the task");
}

#[tokio::test]
async fn a_task_that_fails_says_why_and_no_error_has_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let (bmc, _) = with_drive(Box::new(|heard, _| match heard.what.as_str() {
        what if what == format!("POST {INSERT}") => Some(Says::json(202, &json!({"@odata.id": TASK}))),
        what if what == format!("GET {TASK}") => Some(Says::json(
            200,
            &json!({"TaskState": "Exception", "Messages": [{"Message": "The server is not reachable."}]}),
        )),
        _ => None,
    }))
    .await;
    let error = redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap_err();
    assert!(error.answer.contains("Exception: The server is not reachable."), "{error}");
    assert!(error.attempted.contains("m1") && error.driver == "power.redfish", "{error}");
    let (bmc, _) = with_drive(Box::new(|heard, _| {
        let wrong = format!("cannot fetch {}", heard.body["Image"]);
        (heard.what == format!("POST {INSERT}")).then(|| Says::error(500, &wrong))
    }))
    .await;
    let error = redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap_err();
    assert!(error.answer.contains("cannot fetch \"…\"") && !error.to_string().contains(KEY), "{error}");
    logged_out(&bmc).await;
}

#[tokio::test]
async fn the_drive_of_what_manages_the_system_is_its_own_only_where_it_manages_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let other = json!({"@odata.id": "/redfish/v1/machines/other"});
    let own = json!({"@odata.id": SYSTEM});
    let (bmc, drive) = with_drive_of(Some(json!([own])), Box::new(|_, _| None)).await;
    redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap();
    assert_eq!(drive.lock().unwrap()["Inserted"], true);
    let (bmc, drive) = with_drive_of(Some(json!([own, other])), Box::new(|_, _| None)).await;
    let error = redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("no virtual drive"), "{error}");
    assert_eq!(drive.lock().unwrap()["Inserted"], false, "it may be another machine's");
}

#[tokio::test]
async fn a_bmc_without_drives_is_told_from_one_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = Bmc::plain(|_, _| None).await;
    let error = redfish(dir.path(), &bmc, none()).insert(&url()).await.unwrap_err();
    assert!(error.permanent && error.answer.contains("no virtual drive for CDs"), "{error}");
    logged_out(&bmc).await;
}

/// A server that has one CD.
async fn serve(file: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let found = head[..read].starts_with(b"GET /boot/medium/");
            let (status, body) = if found { ("200 OK", file) } else { ("404 Not Found", &b""[..]) };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
        }
    });
    format!("http://{address}")
}

/// What the field's own emulator does: it copies the whole CD before it answers.
#[tokio::test]
async fn the_emulator_fetches_for_longer_than_a_call_may_take() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = crate::testing::sushy::Sushy::start(dir.path());
    let mut fields = bmc.fields();
    fields["timeout"] = json!(5_000);
    let leg = leg(driver("redfish", fields));
    let power = make(&site(dir.path(), leg.clone(), None, driver("power", none())), &leg).unwrap();
    let server = serve(b"a CD").await;
    let url = Secret(format!("{server}{SERVED}{KEY}/agent.iso"));
    std::fs::write(bmc.file("slow-fetch"), "7").unwrap();
    let begun = std::time::Instant::now();
    power.insert(&url).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(7), "it was not slow");
    std::fs::remove_file(bmc.file("slow-fetch")).unwrap();
    let held = std::fs::read_to_string(bmc.file("cd")).unwrap();
    assert_eq!(std::fs::read(held.trim()).unwrap(), b"a CD");
    power.set(Switch::On, &PowerOn::Medium { url: url.clone() }).await.unwrap();
    assert!(bmc.log().ends_with("boot cd\npower 1\n"), "{}", bmc.log());
    power.insert(&url).await.unwrap();
    power.eject().await.unwrap();
    assert_eq!(std::fs::read_to_string(bmc.file("cd")).unwrap().trim(), "none");
    power.eject().await.unwrap();
    let gone = Secret(format!("{server}/elsewhere/{KEY}.iso"));
    let error = power.insert(&gone).await.unwrap_err();
    assert!(error.answer.contains("Cannot download virtual media: got error 404"), "{error}");
    assert!(!error.to_string().contains(KEY), "{error}");
}
