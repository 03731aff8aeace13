//! The API's own description, OpenAPI 3.1, made from the types it uses.

use axum::Json;
use pitstop_wire::ApiError;
use pitstop_wire::api::{
    BASE, Beat, Checked, ConsoleRequest, Done, Drain, Enrol, Enrolled, Event, Events, FlipRequest,
    IDEMPOTENCY_KEY, IdentifyRequest, Image, Images, Machine, Machines, PowerRequest, PressRequest, Progress,
    Reimage, Release, Reload, Reloaded, Report, Reservation, Reservations, Reserve, RunRequest, Signs,
    Snapshot, Status, Until, Update, WhoAmI, Why,
};
use std::sync::OnceLock;
use utoipa::OpenApi;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::{
    ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi as Document, PathItem, PathsBuilder,
    Required, ResponseBuilder,
};

#[derive(OpenApi)]
#[openapi(components(schemas(
    ApiError,
    Beat,
    Checked,
    ConsoleRequest,
    Done,
    Drain,
    Enrol,
    Enrolled,
    Event,
    Events,
    FlipRequest,
    IdentifyRequest,
    Image,
    Images,
    Machine,
    Machines,
    PowerRequest,
    PressRequest,
    Progress,
    Reimage,
    Release,
    Reload,
    Report,
    Reloaded,
    Reservation,
    Reservations,
    Reserve,
    RunRequest,
    Signs,
    Snapshot,
    Status,
    Until,
    Update,
    WhoAmI,
    Why
)))]
struct Bodies;

/// `GET /openapi.json`
pub async fn document() -> Json<&'static Document> {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    Json(DOCUMENT.get_or_init(describe))
}

/// One operation: method, path, what it does, names of its bodies.
type Row =
    (HttpMethod, &'static str, &'static str, Option<&'static str>, &'static str, &'static [&'static str]);

const OPERATIONS: &[Row] = {
    use HttpMethod::{Delete, Get, Post, Put};
    &[
        (Get, "/whoami", "Who the daemon takes you for", None, "WhoAmI", &[]),
        (Get, "/status", "The lab in one screen", None, "Status", &[]),
        (Get, "/machines", "Machines that match a selector", None, "Machines", &["select"]),
        (Get, "/machines/{name}", "One machine", None, "Machine", &[]),
        (Post, "/machines/{name}/power", "Switch its power (holder)", Some("PowerRequest"), "Done", &[]),
        (
            Post,
            "/machines/{name}/switch",
            "Flip a switch beside it (holder)",
            Some("FlipRequest"),
            "Done",
            &[],
        ),
        (Post, "/machines/{name}/identify", "Have its light blink", Some("IdentifyRequest"), "Done", &[]),
        (
            Post,
            "/machines/{name}/press",
            "Press a button beside it (holder)",
            Some("PressRequest"),
            "Done",
            &[],
        ),
        (Post, "/machines/{name}/reimage", "Write its disks again (holder)", Some("Reimage"), "Done", &[]),
        (
            Post,
            "/machines/{name}/run",
            "Run a command (holder); upgrades to pitstop-frames/1",
            Some("RunRequest"),
            "",
            &[],
        ),
        (
            Post,
            "/machines/{name}/console",
            "Attach to a console; upgrades to pitstop-frames/1",
            Some("ConsoleRequest"),
            "",
            &[],
        ),
        (
            Post,
            "/machines/{name}/check",
            "Look at each of its parts; switches nothing (admin)",
            Some("Beat"),
            "Checked",
            &[],
        ),
        (
            Post,
            "/machines/{name}/wiring",
            "Have it for oneself to check its wires, as long as one beats (admin)",
            Some("Beat"),
            "Done",
            &[],
        ),
        (Post, "/machines/{name}/wiring/beat", "The check lives", Some("Beat"), "Done", &[]),
        (
            Post,
            "/machines/{name}/wiring/look",
            "Boot our agent, which reports and writes nothing, within a check",
            Some("Beat"),
            "Done",
            &[],
        ),
        (Post, "/machines/{name}/wiring/end", "Put it back", Some("Beat"), "Done", &[]),
        (
            Post,
            "/signs",
            "What machines show of themselves, to find out wires (admin)",
            Some("Beat"),
            "Signs",
            &[],
        ),
        (Post, "/machines/{name}/drain", "Take it out (admin)", Some("Drain"), "Done", &[]),
        (Post, "/machines/{name}/undrain", "Put it back (admin)", Some("Beat"), "Done", &[]),
        (Post, "/machines/{name}/prove", "Send it through a proving turn (admin)", Some("Beat"), "Done", &[]),
        (Get, "/why/{about}", "Why a machine or reservation is where it is", None, "Why", &[]),
        (Get, "/reservations", "Reservations that are not over, or all", None, "Reservations", &["ended"]),
        (Post, "/reservations", "Ask for machines", Some("Reserve"), "Reservation", &[]),
        (Get, "/reservations/{id}", "One reservation", None, "Reservation", &[]),
        (Post, "/reservations/{id}/claim", "The holder is there", Some("Beat"), "Reservation", &[]),
        (Post, "/reservations/{id}/beat", "The session lives", Some("Beat"), "Done", &[]),
        (Post, "/reservations/{id}/extend", "More time", Some("Until"), "Reservation", &[]),
        (Post, "/reservations/{id}/release", "Give it back", Some("Release"), "Reservation", &[]),
        (
            Post,
            "/enrol",
            "Accept new machines, and those that are not what they were (admin)",
            Some("Enrol"),
            "Enrolled",
            &[],
        ),
        (Post, "/reload", "Read the inventory again (admin)", Some("Reload"), "Reloaded", &[]),
        (Get, "/backup", "The database as of now (admin), an SQLite file", None, "", &[]),
        (Get, "/images", "Images that may be asked for", None, "Images", &[]),
        (Get, "/images/{name}", "One image", None, "Image", &[]),
        (
            Put,
            "/images/{name}",
            "Add an image (admin); the body is the file, raw or zstd",
            Some(""),
            "Image",
            &["seed", "replace"],
        ),
        (Post, "/images/{name}/trust", "Hand a suspected image out again (admin)", Some("Beat"), "Done", &[]),
        (Delete, "/images/{name}", "Remove an image (admin)", None, "Done", &[]),
        (Get, "/report", "What the lab did, and what failures cost", None, "Report", &["by", "since"]),
        (Get, "/metrics", "The lab for Prometheus, as OpenMetrics text", None, "", &[]),
        (
            Get,
            "/events",
            "The history; with follow=true a stream of server-sent events",
            None,
            "Events",
            &["since", "machine", "reservation", "last", "story", "follow", "last_event_id"],
        ),
        (Get, "/openapi.json", "This document", None, "", &[]),
    ]
};

fn describe() -> Document {
    let mut document = Bodies::openapi();
    document.info = InfoBuilder::new()
        .title("pitstop")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Runs a lab of physical test machines. Served over a Unix socket; you are who the kernel says you are."))
        .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()))
        .build();
    let mut paths = PathsBuilder::new();
    for row in OPERATIONS {
        let (method, path, ..) = row;
        paths = paths.path(format!("{BASE}{path}"), PathItem::new(method.clone(), operation(row)));
    }
    document.paths = paths.build();
    document
}

fn operation((method, path, summary, body, answer, query): &Row) -> utoipa::openapi::path::Operation {
    let text = || Schema::Object(ObjectBuilder::new().schema_type(Type::String).build());
    let parameter = |name: &str, place: ParameterIn, required: Required| {
        ParameterBuilder::new().name(name).parameter_in(place).required(required).schema(Some(text()))
    };
    let json = |name: &str| ContentBuilder::new().schema(Some(Ref::from_schema_name(name))).build();
    let mut operation = OperationBuilder::new().summary(Some(*summary));
    for part in path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')) {
        operation = operation.parameter(parameter(part, ParameterIn::Path, Required::True));
    }
    for name in *query {
        operation = operation.parameter(parameter(name, ParameterIn::Query, Required::False));
    }
    if *method != HttpMethod::Get {
        operation = operation.parameter(parameter(IDEMPOTENCY_KEY, ParameterIn::Header, Required::False));
    }
    match body {
        Some("") => {
            let bytes = ContentBuilder::new().schema(Some(text())).build();
            operation = operation.request_body(Some(
                RequestBodyBuilder::new().content("application/octet-stream", bytes).build(),
            ));
        }
        Some(name) => {
            operation = operation.request_body(Some(
                RequestBodyBuilder::new().content("application/json", json(name)).build(),
            ));
        }
        None => {}
    }
    let ok = ResponseBuilder::new().description("Done");
    let ok = if answer.is_empty() { ok } else { ok.content("application/json", json(answer)) };
    let refused = ResponseBuilder::new()
        .description("Refused; `code` says why")
        .content("application/json", json("ApiError"));
    operation.response("200", ok).response("default", refused).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_that_is_named_is_described() {
        let document = serde_json::to_value(describe()).unwrap();
        assert_eq!(document["openapi"].as_str().unwrap().get(..3), Some("3.1"));
        assert_eq!(document["info"]["title"], "pitstop");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut todo = vec![&document];
        let mut seen = 0;
        while let Some(value) = todo.pop() {
            if let Some(name) = value.get("$ref").and_then(|r| r.as_str()) {
                let name = name.strip_prefix("#/components/schemas/").unwrap();
                assert!(schemas.contains_key(name), "{name} is named and not described");
                seen += 1;
            }
            match value {
                serde_json::Value::Object(map) => todo.extend(map.values()),
                serde_json::Value::Array(list) => todo.extend(list),
                _ => {}
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
