//! The HTTP API: one file per resource. Handlers turn HTTP into requests to
//! the desk and rows into bodies; they decide nothing.

mod admin;
mod ask;
mod backup;
mod body;
mod check;
mod console;
mod error;
mod events;
mod extract;
mod images;
mod listen;
mod machines;
mod metrics;
mod openapi;
mod past;
mod peer;
mod report;
mod reservations;
mod room;
mod run;
pub mod select;
#[cfg(test)]
mod tests;
mod view;

pub use backup::PREFIX as BACKUP_PREFIX;
pub use error::Refusal;
pub use listen::{ListenError, Listener};
pub use metrics::Metrics;
pub use run::Runs;
pub use view::event::event as event_view;

use crate::daemon::Desk;
use crate::daemon::hands::{Answer, LabHands, Seen};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use pitstop_wire::MachineName;
use pitstop_wire::api::BASE;
use std::sync::Arc;

/// Largest request body, in bytes: the longest command line and environment.
const MAX_BODY: usize = 2 << 20;

/// What the handlers share.
pub struct App {
    /// Where everything is asked and read.
    pub desk: Desk,
    /// Commands on machines.
    pub runs: Arc<dyn Runs>,
    /// Looks at the parts of machines.
    pub examiner: Arc<dyn Examiner>,
    /// How often machines asked what to boot.
    pub boot_asks: Arc<crate::daemon::boot::Asks>,
    /// Consoles of machines.
    pub consoles: crate::daemon::consoles::Consoles,
    /// Where images are kept.
    pub images: Arc<pitstop_image::ImageStore>,
    /// Reads the inventory again.
    pub inventory: Arc<dyn InventorySource>,
    /// What selectors may name, by inventory.
    pub known: select::KnownCache,
    /// What is counted for `/metrics`.
    pub metrics: Metrics,
    /// How far agents are with disks; may be dropped.
    pub progress: tokio::sync::broadcast::Sender<pitstop_wire::api::Progress>,
    /// The daemon is about to end: streams end, and whoever follows one comes
    /// back to the next daemon.
    pub closing: tokio_util::sync::CancellationToken,
    /// The data directory: where copies are made before they are sent.
    pub data: std::path::PathBuf,
}

/// Looks at every part of a machine.
pub trait Examiner: Send + Sync {
    /// What is seen; `None`: there is no such machine.
    fn examine<'a>(&'a self, machine: &'a MachineName) -> Answer<'a, Option<Vec<Seen>>>;

    /// Has the machine's light blink, or stop; what it does then, or why not.
    /// `None`: there is no such machine.
    fn identify<'a>(
        &'a self,
        machine: &'a MachineName,
        on: bool,
    ) -> Answer<'a, Option<Result<String, String>>>;
}

impl Examiner for LabHands {
    fn examine<'a>(&'a self, machine: &'a MachineName) -> Answer<'a, Option<Vec<Seen>>> {
        Box::pin(Self::examine(self, machine))
    }

    fn identify<'a>(
        &'a self,
        machine: &'a MachineName,
        on: bool,
    ) -> Answer<'a, Option<Result<String, String>>> {
        Box::pin(Self::identify(self, machine, on))
    }
}

/// Reads the inventory again.
pub trait InventorySource: Send + Sync {
    /// The inventory as it is on disk now.
    ///
    /// # Errors
    /// Everything that is wrong with it, as one text with places.
    fn read(&self) -> Result<pitstop_core::inventory::Inventory, String>;
}

type Shared = Arc<App>;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let v1 = |path: &str| format!("{BASE}{path}");
    Router::new()
        .route(&v1("/whoami"), get(machines::whoami))
        .route(&v1("/status"), get(machines::status))
        .route(&v1("/machines"), get(machines::list))
        .route(&v1("/machines/{name}"), get(machines::one))
        .route(&v1("/machines/{name}/power"), post(machines::power))
        .route(&v1("/machines/{name}/switch"), post(machines::flip))
        .route(&v1("/machines/{name}/identify"), post(check::identify))
        .route(&v1("/machines/{name}/press"), post(machines::press))
        .route(&v1("/machines/{name}/reimage"), post(machines::reimage))
        .route(&v1("/machines/{name}/run"), post(run::run))
        .route(&v1("/machines/{name}/console"), post(console::console))
        .route(&v1("/machines/{name}/check"), post(check::check))
        .route(&v1("/machines/{name}/wiring"), post(admin::wiring_begin))
        .route(&v1("/machines/{name}/wiring/beat"), post(admin::wiring_beat))
        .route(&v1("/machines/{name}/wiring/look"), post(admin::wiring_look))
        .route(&v1("/machines/{name}/wiring/end"), post(admin::wiring_end))
        .route(&v1("/signs"), post(check::signs))
        .route(&v1("/machines/{name}/drain"), post(admin::drain))
        .route(&v1("/machines/{name}/undrain"), post(admin::undrain))
        .route(&v1("/machines/{name}/prove"), post(admin::prove))
        .route(&v1("/why/{about}"), get(machines::why))
        .route(&v1("/reservations"), get(reservations::list).post(reservations::reserve))
        .route(&v1("/reservations/{id}"), get(reservations::one))
        .route(&v1("/reservations/{id}/claim"), post(reservations::claim))
        .route(&v1("/reservations/{id}/beat"), post(reservations::beat))
        .route(&v1("/reservations/{id}/extend"), post(reservations::extend))
        .route(&v1("/reservations/{id}/release"), post(reservations::release))
        .route(&v1("/enrol"), post(admin::enrol))
        .route(&v1("/reload"), post(admin::reload))
        .route(&v1("/backup"), get(backup::backup))
        .route(&v1("/images"), get(images::list))
        .route(&v1("/images/{name}"), get(images::one).put(images::add).delete(images::remove))
        .route(&v1("/images/{name}/trust"), post(images::trust))
        .route(&v1("/report"), get(report::report))
        .route(&v1("/metrics"), get(metrics::metrics))
        .route("/metrics", get(metrics::metrics))
        .route(&v1("/events"), get(events::events))
        .route(&v1("/openapi.json"), get(openapi::document))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}
