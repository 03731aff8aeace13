//! `power.redfish`: a computer system of a BMC (Redfish, DSP0266 and the
//! schema ComputerSystem of DSP2046).

mod medium;
#[cfg(test)]
mod tests;

use super::{Power, PowerLimits, PowerOn};
use crate::child::shown;
use crate::error::{DriverError, Task};
use crate::redfish::{self, Resource, Service, Session};
use crate::site::Site;
use crate::web::tls;
use hyper::{Method, StatusCode};
use pitstop_core::event::Nudge;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::agent::Secret;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const DRIVER: &str = "power.redfish";
/// How long a reading may take as a whole: less than is waited for one, so
/// that it says itself what it waited for.
const READING: Duration = Duration::from_secs(14);
/// Systems that are looked at to find one by its `Id`.
const MAX_SYSTEMS: usize = 64;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "redfish",
    fields: &[
        redfish::ADDRESS,
        redfish::USER,
        redfish::PASSWORD,
        FieldSchema::optional(
            "system",
            FieldKind::Label,
            "which system, where the BMC has several: its `Id`, or its path as in `/redfish/v1/Systems/1`",
        )
        .or(""),
        tls::TLS,
        tls::CA,
        tls::FINGERPRINT,
        FieldSchema::optional(
            "boot_device",
            FieldKind::OneOf(&["set", "leave"]),
            "whether the BMC is told what to boot from (`set`, unless said), or the firmware's own order is right",
        ),
        FieldSchema::optional(
            "efi",
            FieldKind::Bool,
            "whether a boot device is for UEFI (`true`) or legacy boot (`false`); as it is unless said",
        ),
        redfish::TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
    ],
    unique: &[Unique { what: "system of a BMC", fields: &["address", "system"] }],
    ..DriverSchema::EMPTY
};

struct Redfish {
    machine: String,
    service: Arc<Service>,
    system: Option<String>,
    sets_boot_device: bool,
    efi: Option<bool>,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let service = Service::of(DRIVER, site, spec)?;
    let mut limits = PowerLimits::of(site, leg);
    if spec.controller.is_none() {
        // Machines on one BMC stand in one queue even if nobody said so.
        limits.queue = format!("redfish://{}", service.address());
    }
    Ok(Arc::new(Redfish {
        machine: site.name().to_owned(),
        service: Arc::new(service),
        system: spec.text("system").filter(|system| !system.is_empty()).map(str::to_owned),
        sets_boot_device: spec.text("boot_device") != Some("leave"),
        efi: spec.flag("efi"),
        limits,
    }))
}

impl Redfish {
    async fn switch(&self, want: Switch, on: &PowerOn) -> Result<(), DriverError> {
        let word = if want == Switch::On { "on" } else { "off" };
        let mut session = self.service.session(&format!("switch {} {word}", self.machine)).await?;
        let done = self.switch_in(&mut session, want, on).await;
        session.end().await;
        done
    }

    async fn switch_in(&self, session: &mut Session, want: Switch, on: &PowerOn) -> Result<(), DriverError> {
        let system = self.system(session).await?;
        if want == Switch::On {
            self.boot_from(session, &system, on).await?;
        }
        reset(session, &system, want).await
    }

    /// The light of the system, or where it has none that of its chassis
    /// (`LocationIndicatorActive`; before 2020 `IndicatorLED`).
    async fn light(&self, session: &mut Session, on: bool) -> Result<(), DriverError> {
        let system = self.system(session).await?;
        let mut chassis = Vec::new();
        for path in
            system.json.get("Links").map(|links| redfish::references(links, "Chassis")).unwrap_or_default()
        {
            chassis.push(session.get(&path).await?);
        }
        for resource in std::iter::once(&system).chain(&chassis) {
            let change = if resource.json.get("LocationIndicatorActive").is_some() {
                json!({"LocationIndicatorActive": on})
            } else if resource.json.get("IndicatorLED").is_some() {
                json!({"IndicatorLED": if on { "Blinking" } else { "Off" }})
            } else {
                continue;
            };
            let told = session.tell(Method::PATCH, &resource.path, &change, resource.etag.clone()).await?;
            return told.map_err(|refusal| session.refused(&refusal));
        }
        Err(session.failed("the BMC tells of no light").permanent())
    }

    async fn state(&self) -> Result<Reading, DriverError> {
        let attempted = format!("read the power of {}", self.machine);
        let reading = async {
            let mut session = self.service.session(&attempted).await?;
            let read = self.state_in(&mut session).await;
            session.end().await;
            read
        };
        match timeout(READING, reading).await {
            Ok(read) => read,
            Err(_) => {
                let late = format!("the BMC was asked for {} s and is not done", READING.as_secs());
                Err(self.service.failed(&attempted, late).next("is it busy, or the network slow?"))
            }
        }
    }

    async fn state_in(&self, session: &mut Session) -> Result<Reading, DriverError> {
        let system = self.system(session).await?;
        match &system.json["PowerState"] {
            // The BMC itself does not know, or it is neither: on its way.
            Value::Null if system.json.get("PowerState").is_some() => Ok(Reading::Unknown),
            Value::String(word) => match word.as_str() {
                "On" => Ok(Reading::On),
                "Off" => Ok(Reading::Off),
                "PoweringOn" | "PoweringOff" | "Paused" => Ok(Reading::Unknown),
                odd => {
                    Err(session.failed(format!("its power state, `{}`, is neither on nor off", shown(odd))))
                }
            },
            _ => Err(session
                .failed(format!("{} tells no power state", system.path))
                .next("some BMCs do not until they were restarted")),
        }
    }

    /// The system that the inventory means.
    async fn system(&self, session: &mut Session) -> Result<Resource, DriverError> {
        if let Some(path) = self.system.as_ref().filter(|system| system.starts_with('/')) {
            return session.get(path).await;
        }
        let Some(collection) = session.root.link(&["Systems"]) else {
            return Err(session.failed("the BMC tells of no systems").permanent());
        };
        let mut found = Vec::new();
        let mut page = Some(collection);
        while let Some(path) = page.take().filter(|_| found.len() < MAX_SYSTEMS) {
            let collection = session.get(&path).await?;
            let more = collection.links("Members");
            // An empty page that leads to another could lead on for ever.
            page = collection.json["Members@odata.nextLink"].as_str().and_then(redfish::path);
            page = page.filter(|_| !more.is_empty());
            found.extend(more);
        }
        self.choose(session, &found).await
    }

    async fn choose(&self, session: &mut Session, found: &[String]) -> Result<Resource, DriverError> {
        let wanted = match (&self.system, found) {
            (None, [only]) => return session.get(only).await,
            (None, []) => return Err(session.failed("the BMC has no system").permanent()),
            (None, _) => {
                let (count, names) = (found.len(), shown(&found.join(", ")));
                return Err(session
                    .failed(format!("the BMC has {count} systems: {names}"))
                    .permanent()
                    .next("say which with `system`"));
            }
            (Some(wanted), _) => wanted,
        };
        for path in found.iter().take(MAX_SYSTEMS) {
            let system = session.get(path).await?;
            if system.json["Id"].as_str() == Some(wanted) {
                return Ok(system);
            }
        }
        let names = shown(&found.join(", "));
        Err(session
            .failed(format!("the BMC has no system `{wanted}`; it has: {names}"))
            .permanent()
            .next("`system` is its `Id`, or its path"))
    }

    /// Chooses what the next boot starts from. It holds for one boot, by the
    /// specification; some BMCs keep it, so the disk is chosen as well.
    async fn boot_from(
        &self,
        session: &mut Session,
        system: &Resource,
        on: &PowerOn,
    ) -> Result<(), DriverError> {
        let target = match on {
            PowerOn::Own => return Ok(()),
            PowerOn::Disk => "Hdd",
            PowerOn::Network { .. } => "Pxe",
            PowerOn::Medium { .. } => "Cd",
            PowerOn::Kernel { .. } | PowerOn::Agent(_) => {
                return Err(session.failed("a BMC cannot hand over a kernel").permanent());
            }
        };
        if !self.sets_boot_device {
            return Ok(());
        }
        self.set_target(session, system, target).await.map_err(|e| {
            let answer = format!("the boot device cannot be set: {}", e.answer);
            let next = e.next.iter().map(|next| format!("{next}; ")).collect::<String>();
            let next = format!("{next}`boot_device = \"leave\"` where the firmware's own order is right");
            DriverError { answer, ..e }.next(next)
        })
    }

    async fn set_target(
        &self,
        session: &mut Session,
        system: &Resource,
        target: &str,
    ) -> Result<(), DriverError> {
        let boot = &system.json["Boot"];
        let offered = redfish::words(boot.get("BootSourceOverrideTarget@Redfish.AllowableValues"));
        if let Some(offered) = offered.filter(|offered| !offered.contains(&target)) {
            let offered = shown(&offered.join(", "));
            return Err(session
                .failed(format!("the BMC does not offer {target}, but: {offered}"))
                .permanent());
        }
        let mut change = json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target});
        if let (Some(efi), Some(_)) = (self.efi, boot.get("BootSourceOverrideMode")) {
            change["BootSourceOverrideMode"] = json!(if efi { "UEFI" } else { "Legacy" });
        }
        let change = json!({"Boot": change});
        let told = session.tell(Method::PATCH, &system.path, &change, system.etag.clone()).await?;
        let told = match told {
            // It changed between reading and writing (RFC 9110, section 13.1.1).
            Err(refusal) if refusal.status == StatusCode::PRECONDITION_FAILED => {
                let system = session.get(&system.path).await?;
                session.tell(Method::PATCH, &system.path, &change, system.etag.clone()).await?
            }
            told => told,
        };
        told.map_err(|refusal| session.refused(&refusal))
    }
}

/// Has a system switched, once. `Ok`: it was accepted, or is so already.
async fn reset(session: &mut Session, system: &Resource, want: Switch) -> Result<(), DriverError> {
    let kinds: &[&str] = match want {
        Switch::On => &["On", "ForceOn"],
        // Nothing that asks the machine itself, or pushes a button that may
        // switch it on: off is off.
        Switch::Off => &["ForceOff"],
    };
    let refused = match act(session, system, kinds).await? {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    // Many refuse what is so already, or do not offer it then.
    let word = if want == Switch::On { "On" } else { "Off" };
    match session.get(&system.path).await {
        Ok(now) if now.json["PowerState"] == word => Ok(()),
        _ => Err(refused),
    }
}

/// Has the first of these kinds of reset done that the BMC offers, once. The
/// inner error: it does not offer or does not do it.
async fn act(
    session: &mut Session,
    system: &Resource,
    kinds: &[&str],
) -> Result<Result<(), DriverError>, DriverError> {
    let action = &system.json["Actions"]["#ComputerSystem.Reset"];
    let Some(target) = action["target"].as_str().and_then(redfish::path) else {
        return Err(session
            .failed(format!("{} cannot be switched: it has no action to reset it", system.path))
            .permanent());
    };
    let offered = reset_types(session, action).await?;
    let kind = match &offered {
        None => kinds.first(),
        Some(offered) => kinds.iter().find(|kind| offered.iter().any(|o| o == *kind)),
    };
    let refused = match kind {
        Some(kind) => {
            let told = session.tell(Method::POST, &target, &json!({"ResetType": kind}), None).await?;
            let Err(refusal) = told else { return Ok(Ok(())) };
            let error = session.refused(&refusal);
            if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(error);
            }
            error
        }
        None => {
            let offered = shown(&offered.unwrap_or_default().join(", "));
            session
                .failed(format!("the BMC does not offer {}, but: {offered}", kinds.join(" or ")))
                .permanent()
        }
    };
    Ok(Err(refused))
}

/// The kinds of reset that the BMC offers, beside the action or in a resource
/// of its own (DSP0266, “Action info annotation”); `None`: it does not say.
async fn reset_types(session: &mut Session, action: &Value) -> Result<Option<Vec<String>>, DriverError> {
    let own = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
    if let Some(offered) = redfish::words(action.get("ResetType@Redfish.AllowableValues")) {
        return Ok(Some(own(offered)));
    }
    let Some(info) = action["@Redfish.ActionInfo"].as_str().and_then(redfish::path) else { return Ok(None) };
    let info = session.get(&info).await?;
    let parameters = info.json["Parameters"].as_array();
    let ours = parameters.into_iter().flatten().find(|parameter| parameter["Name"] == "ResetType");
    Ok(ours.and_then(|parameter| redfish::words(parameter.get("AllowableValues"))).map(own))
}

impl Power for Redfish {
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want, on))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.state())
    }

    fn nudges(&self) -> bool {
        true
    }

    fn nudge(&self, how: Nudge) -> Task<'_, ()> {
        Box::pin(async move {
            let (what, kinds): (_, &[&str]) = match how {
                Nudge::Soft => ("ask for the shutdown of", &["GracefulShutdown"]),
                Nudge::Reset => ("reset", &["ForceRestart"]),
                Nudge::Nmi => ("interrupt", &["Nmi"]),
            };
            let mut session = self.service.session(&format!("{what} {}", self.machine)).await?;
            let done = async {
                let system = self.system(&mut session).await?;
                act(&mut session, &system, kinds).await?
            };
            let done = done.await;
            session.end().await;
            done
        })
    }

    fn identify(&self, on: bool) -> Task<'_, String> {
        Box::pin(async move {
            let mut session =
                self.service.session(&format!("have the light of {} blink", self.machine)).await?;
            let done = self.light(&mut session, on).await;
            session.end().await;
            done.map(|()| if on { "its light blinks until `--off`" } else { "its light is off" }.to_owned())
        })
    }

    fn insert<'a>(&'a self, url: &'a Secret) -> Task<'a, ()> {
        Box::pin(self.put_in(url))
    }

    fn eject(&self) -> Task<'_, ()> {
        Box::pin(self.take_ours_out())
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
