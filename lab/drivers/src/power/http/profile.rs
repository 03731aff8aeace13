//! What to ask which kind of device.

use super::{Meaning, ask};
use crate::web::Ask;
use hyper::Method;
use pitstop_core::inventory::DriverSpec;

/// The kinds there are.
pub const NAMES: &[&str] = &["generic", "shelly-gen1", "shelly-gen2", "tasmota", "esphome"];

/// The three things that a device is asked.
pub struct Profile {
    pub on: Ask,
    pub off: Ask,
    /// `None`: it cannot tell.
    pub status: Option<Ask>,
    pub meaning: Meaning,
    /// Whether an answer to `on` and `off` tells the state too.
    pub answers: bool,
}

impl Profile {
    /// The profile that the inventory names, with its outlet.
    ///
    /// # Errors
    /// Something is missing, or stands where the profile decides.
    pub fn of(spec: &DriverSpec) -> Result<Self, String> {
        let name = spec.text("profile").unwrap_or("generic");
        if name == "generic" {
            return generic(spec);
        }
        for field in ["on", "off", "status", "method", "on_body", "off_body", "json", "is_on", "is_off"] {
            if spec.text(field).is_some() {
                return Err(format!("`{field}` is what the profile {name} knows by itself"));
            }
        }
        let outlet = spec.text("outlet").filter(|outlet| !outlet.is_empty());
        if let Some(odd) =
            outlet.filter(|o| !o.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
        {
            return Err(format!("`{odd}` is no outlet: letters, digits, `-` and `_`"));
        }
        match name {
            // shelly-api-docs.shelly.cloud/gen1: /relay/0?turn=on
            "shelly-gen1" => {
                let path = format!("/relay/{}", outlet.unwrap_or("0"));
                by_get(spec, format!("{path}?turn=on"), format!("{path}?turn=off"), path, &["ison"])
            }
            // shelly-api-docs.shelly.cloud/gen2: Switch.Set, Switch.GetStatus
            "shelly-gen2" => {
                let id = outlet.unwrap_or("0");
                let set = |on: bool| format!("/rpc/Switch.Set?id={id}&on={on}");
                by_get(spec, set(true), set(false), format!("/rpc/Switch.GetStatus?id={id}"), &["output"])
            }
            // tasmota.github.io/docs/Commands: Power<x>; the answer names it POWER or POWER<x>.
            "tasmota" => {
                let x = outlet.unwrap_or_default();
                if x == "0" {
                    return Err(
                        "outlet 0 of a tasmota device is all of its relays; they count from 1".to_owned()
                    );
                }
                let command = |word: &str| format!("/cm?cmnd=Power{x}{word}");
                let tells = [&*format!("POWER{x}"), "POWER"];
                let profile = by_get(spec, command("%20On"), command("%20Off"), command(""), &tells)?;
                Ok(Self { answers: true, ..profile })
            }
            // esphome.io/web-api: POST /switch/<id>/turn_on
            _ => {
                let id = outlet.ok_or("an esphome device has its switches by name: `outlet = \"relay\"`")?;
                let path = format!("/switch/{id}");
                Ok(Self {
                    on: ask(&Method::POST, format!("{path}/turn_on")),
                    off: ask(&Method::POST, format!("{path}/turn_off")),
                    status: Some(ask(&Method::GET, path)),
                    meaning: Meaning::of(spec, &["state"])?,
                    answers: false,
                })
            }
        }
    }
}

fn by_get(
    spec: &DriverSpec,
    on: String,
    off: String,
    status: String,
    json: &[&str],
) -> Result<Profile, String> {
    Ok(Profile {
        on: ask(&Method::GET, on),
        off: ask(&Method::GET, off),
        status: Some(ask(&Method::GET, status)),
        meaning: Meaning::of(spec, json)?,
        answers: false,
    })
}

fn generic(spec: &DriverSpec) -> Result<Profile, String> {
    let method = match spec.text("method") {
        Some("POST") => Method::POST,
        Some("PUT") => Method::PUT,
        _ => Method::GET,
    };
    let path = |field: &str| match spec.text(field) {
        Some(path) if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(path.to_owned())
        }
        Some(path) => Err(format!("`{field}` is a path and begins with `/`: `{path}`")),
        None => Err(format!("the generic profile needs `{field}`, the path that is asked")),
    };
    let switch = |field: &str, body: &str| {
        Ok::<_, String>(Ask { body: spec.text(body).map(str::to_owned), ..ask(&method, path(field)?) })
    };
    let status = spec.text("status").map(|_| path("status")).transpose()?;
    let json: Vec<&str> = spec.text("json").into_iter().collect();
    Ok(Profile {
        on: switch("on", "on_body")?,
        off: switch("off", "off_body")?,
        status: status.map(|path| ask(&Method::GET, path)),
        meaning: Meaning::of(spec, &json)?,
        answers: false,
    })
}
