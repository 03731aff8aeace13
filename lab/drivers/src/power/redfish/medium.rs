//! A system's virtual drive (the schema VirtualMedia of DSP2046): the BMC
//! fetches a CD and shows it to the machine.

use super::Redfish;
use crate::boot::medium::SERVED;
use crate::child::shown;
use crate::error::DriverError;
use crate::redfish::{self, Refusal, Resource, Session};
use hyper::{Method, StatusCode};
use pitstop_wire::agent::Secret;
use serde_json::{Value, json};
use std::time::Duration;

/// Pause between two looks at a drive or a task.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often an insertion is put into other words for a BMC that does not
/// like those.
const WORDINGS: usize = 4;
/// Answers in a row that a BMC that fetches may fail to give.
const MISSES: u32 = 3;
/// States in which a task ends without having done it (the schema Task of DSP2046).
const FAILED: [&str; 4] = ["Exception", "Killed", "Cancelled", "Interrupted"];

impl Redfish {
    /// Puts the CD in; done when the drive says that it holds one.
    pub(super) async fn put_in(&self, url: &Secret) -> Result<(), DriverError> {
        let attempted = format!("insert the boot medium of {}", self.machine);
        let mut session = self.service.session(&attempted).await?;
        let done = self.put_in_by(&mut session, url).await;
        session.end().await;
        done
    }

    async fn put_in_by(&self, session: &mut Session, url: &Secret) -> Result<(), DriverError> {
        let mut drive = self.drive(session).await?;
        if holds(&drive) == Some(true) {
            // A drive that holds one takes no other.
            take_out(session, &drive).await?;
            drive = session.get(&drive.path).await?;
        }
        let task = match insert(session, &drive, url).await {
            Ok(task) => task?,
            // Some end the connection while they still fetch. The drive was
            // empty before: what it comes to hold is ours.
            Err(lost) if !lost.permanent && holds(&drive) == Some(false) => None,
            Err(lost) => return Err(lost),
        };
        until_it_holds(session, &drive.path, task, url).await
    }

    /// Takes a CD out that this daemon serves, or served; another one is
    /// somebody else's.
    pub(super) async fn take_ours_out(&self) -> Result<(), DriverError> {
        let attempted = format!("take the boot medium of {} out", self.machine);
        let mut session = self.service.session(&attempted).await?;
        let done = async {
            let drive = self.drive(&mut session).await?;
            let image = drive.json["Image"].as_str().unwrap_or_default();
            let foreign = !image.is_empty() && !image.contains(SERVED);
            if holds(&drive) == Some(false) || foreign {
                Ok(())
            } else {
                take_out(&mut session, &drive).await
            }
        };
        let done = done.await;
        session.end().await;
        done
    }

    /// The first drive for CDs: the system's own, or else that of what manages
    /// it, which is where it was before 2020.
    async fn drive(&self, session: &mut Session) -> Result<Resource, DriverError> {
        let system = self.system(session).await?;
        let mut collections: Vec<String> = system.link(&["VirtualMedia"]).into_iter().collect();
        let managers = system.json.get("Links").map(|links| redfish::references(links, "ManagedBy"));
        for path in managers.unwrap_or_default() {
            let manager = session.get(&path).await?;
            let servers =
                manager.json.get("Links").map(|links| redfish::references(links, "ManagerForServers"));
            // Of several systems, nobody says whose drive it is.
            if servers.is_none_or(|servers| servers.len() <= 1) {
                collections.extend(manager.link(&["VirtualMedia"]));
            }
        }
        for collection in collections {
            for path in session.get(&collection).await?.links("Members") {
                let drive = session.get(&path).await?;
                let takes = redfish::words(drive.json.get("MediaTypes")).unwrap_or_default();
                if takes.iter().any(|kind| matches!(*kind, "CD" | "DVD")) {
                    return Ok(drive);
                }
            }
        }
        Err(session
            .failed("the BMC has no virtual drive for CDs")
            .permanent()
            .next("some have it only with another licence; `boot.http` needs none"))
    }
}

/// Whether a drive holds something; `None`: it does not say.
fn holds(drive: &Resource) -> Option<bool> {
    drive.json.get("Inserted").and_then(Value::as_bool)
}

fn action<'a>(drive: &'a Resource, name: &str) -> Option<(&'a Value, String)> {
    let action = &drive.json["Actions"][name];
    Some((action, redfish::path(action["target"].as_str()?)?))
}

/// Has a CD inserted, in the words that this BMC takes; the task that does
/// it, where there is one. The inner error: the BMC will not. The outer one:
/// there was no answer, and it may be doing it all the same.
async fn insert(
    session: &mut Session,
    drive: &Resource,
    url: &Secret,
) -> Result<Result<Option<String>, DriverError>, DriverError> {
    let (method, path, mut body) = match action(drive, "#VirtualMedia.InsertMedia") {
        Some((_, path)) => {
            (Method::POST, path, json!({"Image": url.0, "Inserted": true, "WriteProtected": true}))
        }
        // Before 2018 there was no action.
        None => (Method::PATCH, drive.path.clone(), json!({"Image": url.0, "Inserted": true})),
    };
    let offered = action(drive, "#VirtualMedia.InsertMedia")
        .and_then(|(action, _)| redfish::words(action.get("TransferProtocolType@Redfish.AllowableValues")));
    if let Some(offered) = offered {
        if !offered.contains(&"HTTP") {
            let offered = shown(&offered.join(", "));
            return Ok(Err(session
                .failed(format!("the BMC fetches no medium by HTTP, but by: {offered}"))
                .permanent()
                .next("`boot.http` does without")));
        }
        body["TransferProtocolType"] = json!("HTTP");
    }
    let secrets = secrets(url);
    let mut wordings = 1;
    loop {
        let told = session.tell_patiently(method.clone(), &path, &body, &secrets).await?;
        let refusal = match told {
            Ok(task) => return Ok(Ok(task)),
            Err(refusal) => refusal,
        };
        if wordings == WORDINGS || !reword(&mut body, &refusal) {
            let error = session.refused(&refusal);
            let explained = error.next.is_some();
            let next = "its BMC must reach the daemon: `server` of boot.virtual-media says where";
            return Ok(Err(if explained { error } else { error.next(next) }));
        }
        wordings += 1;
    }
}

/// What no error may repeat: who has the address of the CD, or the key in it,
/// has the token.
fn secrets(url: &Secret) -> Vec<&str> {
    let key = url.0.split(SERVED).nth(1).and_then(|rest| rest.split('/').next());
    std::iter::once(url.0.as_str()).chain(key).collect()
}

/// Puts an insertion into the words that a BMC misses, or leaves those out
/// that it does not know. Whether there is anything left to try.
fn reword(body: &mut Value, refusal: &Refusal) -> bool {
    if !matches!(refusal.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) {
        return false;
    }
    let Some(body) = body.as_object_mut() else { return false };
    let names = |word: &str| refusal.said.contains(word);
    for (word, value) in [("TransferProtocolType", "HTTP"), ("TransferMethod", "Stream")] {
        if names(word) {
            if body.remove(word).is_none() {
                body.insert(word.to_owned(), json!(value));
            }
            return true;
        }
    }
    let odd = ["WriteProtected", "Inserted"].into_iter().find(|word| names(word));
    odd.is_some_and(|word| body.remove(word).is_some())
}

/// Waits until the drive holds what it was told to take. What accepted it may
/// still be fetching; the caller has the deadline.
async fn until_it_holds(
    session: &mut Session,
    path: &str,
    task: Option<String>,
    url: &Secret,
) -> Result<(), DriverError> {
    let (mut pause, mut missed) = (PAUSE.0, 0);
    loop {
        match session.get(path).await {
            Ok(drive) if holds(&drive) == Some(false) => missed = 0,
            // One that does not say cannot be waited for.
            Ok(_) => return Ok(()),
            // It may be busy fetching.
            Err(e) if !e.permanent && missed < MISSES => missed += 1,
            Err(e) => return Err(e),
        }
        if let Some(task) = &task {
            // A task that is over may be gone.
            let now = session.look(task).await.ok().flatten().unwrap_or_default();
            if let Some(state) = now["TaskState"].as_str().filter(|state| FAILED.contains(state)) {
                let said = redfish::task_messages(&now, &secrets(url));
                return Err(session.failed(format!("the BMC's task ended with {state}: {said}")));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn take_out(session: &mut Session, drive: &Resource) -> Result<(), DriverError> {
    let told = match action(drive, "#VirtualMedia.EjectMedia") {
        Some((_, path)) => session.tell(Method::POST, &path, &json!({}), None).await?,
        None => {
            let change = json!({"Image": null, "Inserted": false});
            session.tell(Method::PATCH, &drive.path, &change, drive.etag.clone()).await?
        }
    };
    let Err(refusal) = told else { return Ok(()) };
    // It may have been taken out meanwhile.
    match session.get(&drive.path).await {
        Ok(now) if holds(&now) == Some(false) => Ok(()),
        _ => Err(session.refused(&refusal)),
    }
}
