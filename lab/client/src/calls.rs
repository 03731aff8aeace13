//! One method per call of the API.

use crate::http::Call;
use crate::{Client, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pitstop_wire::MachineName;
use pitstop_wire::api::{
    Beat, Checked, Done, Drain, Enrol, Enrolled, Events, Extend, FlipRequest, IdentifyRequest, Image, Images,
    Machine, Machines, PowerRequest, PressRequest, Reimage, Release, Reload, Reloaded, Report, ReportBy,
    Reservation, Reservations, Reserve, Signs, Status, WhoAmI, Why,
};

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Text as part of a path or query.
pub(crate) fn escaped(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, PLAIN)
}

impl Client {
    /// Who the daemon takes us for.
    pub async fn whoami(&self) -> Result<WhoAmI> {
        self.call(&Call::get("/whoami")).await
    }

    /// The lab in one screen.
    pub async fn status(&self) -> Result<Status> {
        self.call(&Call::get("/status")).await
    }

    /// Machines that match a selector; all without one.
    pub async fn machines(&self, select: &str) -> Result<Machines> {
        self.call(&Call::get(format!("/machines?select={}", escaped(select)))).await
    }

    /// One machine.
    pub async fn machine(&self, name: &str) -> Result<Machine> {
        self.call(&Call::get(format!("/machines/{}", escaped(name)))).await
    }

    /// Reservations that are not over, or all that are remembered.
    pub async fn reservations(&self, ended: bool) -> Result<Reservations> {
        self.call(&Call::get(format!("/reservations?ended={ended}"))).await
    }

    /// One reservation.
    pub async fn reservation(&self, id: &str) -> Result<Reservation> {
        self.call(&Call::get(format!("/reservations/{}", escaped(id)))).await
    }

    /// Why a machine or reservation is where it is.
    pub async fn why(&self, about: &str) -> Result<Why> {
        self.call(&Call::get(format!("/why/{}", escaped(about)))).await
    }

    /// Asks for machines. With the same `key`, the same reservation.
    pub async fn reserve(&self, ask: &Reserve, key: Option<String>) -> Result<Reservation> {
        self.call(&Call::post("/reservations", ask)?.key(key)).await
    }

    /// The holder is there: the reservation becomes active.
    pub async fn claim(&self, id: &str) -> Result<Reservation> {
        self.call(&Call::post(format!("/reservations/{}/claim", escaped(id)), &Beat {})?).await
    }

    /// The session lives. Not repeated: the next beat comes anyway.
    pub async fn beat(&self, id: &str) -> Result<Done> {
        let mut call = Call::post(format!("/reservations/{}/beat", escaped(id)), &Beat {})?;
        call.key = None;
        self.call(&call).await
    }

    /// More time.
    pub async fn extend(&self, id: &str, until: &Extend, key: Option<String>) -> Result<Reservation> {
        self.call(&Call::post(format!("/reservations/{}/extend", escaped(id)), until)?.key(key)).await
    }

    /// Gives a reservation back.
    pub async fn release(&self, id: &str, release: &Release, key: Option<String>) -> Result<Reservation> {
        self.call(&Call::post(format!("/reservations/{}/release", escaped(id)), release)?.key(key)).await
    }

    /// Switches a machine's power.
    pub async fn power(&self, machine: &str, what: &PowerRequest, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{}/power", escaped(machine)), what)?.key(key)).await
    }

    /// Flips a switch beside a machine.
    pub async fn flip(&self, machine: &str, what: &FlipRequest, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{}/switch", escaped(machine)), what)?.key(key)).await
    }

    /// Presses a button beside a machine.
    pub async fn press(&self, machine: &str, what: &PressRequest, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{}/press", escaped(machine)), what)?.key(key)).await
    }

    /// Has a machine's light blink, or stop.
    pub async fn identify(&self, machine: &str, what: &IdentifyRequest) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{}/identify", escaped(machine)), what)?).await
    }

    /// A turn back to the same holder.
    pub async fn reimage(&self, machine: &str, what: &Reimage, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{}/reimage", escaped(machine)), what)?.key(key)).await
    }

    /// Takes a machine out.
    pub async fn drain(&self, machine: &MachineName, reason: &str, key: Option<String>) -> Result<Done> {
        let body = Drain { reason: reason.to_owned() };
        self.call(&Call::post(format!("/machines/{machine}/drain"), &body)?.key(key)).await
    }

    /// Puts a drained machine back.
    pub async fn undrain(&self, machine: &MachineName, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{machine}/undrain"), &Beat {})?.key(key)).await
    }

    /// Looks at every part of a machine; switches nothing.
    pub async fn check(&self, machine: &MachineName) -> Result<Checked> {
        self.call(&Call::post(format!("/machines/{machine}/check"), &Beat {})?).await
    }

    /// Has a machine for oneself, to check its wires.
    pub async fn begin_wiring(&self, machine: &MachineName) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{machine}/wiring"), &Beat {})?).await
    }

    /// The check lives. Not repeated: the next beat comes anyway.
    pub async fn beat_wiring(&self, machine: &MachineName) -> Result<Done> {
        let mut call = Call::post(format!("/machines/{machine}/wiring/beat"), &Beat {})?;
        call.key = None;
        self.call(&call).await
    }

    /// Boots our agent, which reports.
    pub async fn look_wiring(&self, machine: &MachineName) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{machine}/wiring/look"), &Beat {})?).await
    }

    /// The check is over: the machine is put back.
    pub async fn end_wiring(&self, machine: &MachineName) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{machine}/wiring/end"), &Beat {})?).await
    }

    /// What machines show of themselves.
    pub async fn signs(&self) -> Result<Signs> {
        self.call(&Call::post("/signs".to_owned(), &Beat {})?).await
    }

    /// Sends a quarantined machine through a proving turn.
    pub async fn prove(&self, machine: &MachineName, key: Option<String>) -> Result<Done> {
        self.call(&Call::post(format!("/machines/{machine}/prove"), &Beat {})?.key(key)).await
    }

    /// Accepts new machines, or says which that would be.
    pub async fn enrol(&self, what: &Enrol, key: Option<String>) -> Result<Enrolled> {
        self.call(&Call::post("/enrol", what)?.key(key)).await
    }

    /// Reads the inventory again.
    pub async fn reload(&self, what: &Reload, key: Option<String>) -> Result<Reloaded> {
        self.call(&Call::post("/reload", what)?.key(key)).await
    }

    /// Images that may be asked for.
    pub async fn images(&self) -> Result<Images> {
        self.call(&Call::get("/images")).await
    }

    /// One image.
    pub async fn image(&self, name: &str) -> Result<Image> {
        self.call(&Call::get(format!("/images/{}", escaped(name)))).await
    }

    /// What the lab did since a moment (RFC 3339; 30 days unless said).
    pub async fn report(&self, by: ReportBy, since: Option<&str>) -> Result<Report> {
        let since = since.map(|at| format!("&since={}", escaped(at))).unwrap_or_default();
        self.call(&Call::get(format!("/report?by={}{since}", by.word()))).await
    }

    /// Says that a suspected image is good after all.
    pub async fn trust_image(&self, name: &str, key: Option<String>) -> Result<Done> {
        let path = format!("/images/{}/trust", escaped(name));
        self.call(&Call::post(path, &Beat {})?.key(key)).await
    }

    /// Removes an image.
    pub async fn remove_image(&self, name: &str, key: Option<String>) -> Result<Done> {
        self.call(&Call::delete(format!("/images/{}", escaped(name)))?.key(key)).await
    }

    /// The history, once.
    pub async fn history(&self, query: &crate::EventQuery) -> Result<Events> {
        self.call(&Call::get(format!("/events?{}", query.text()))).await
    }

    /// The API's own description.
    pub async fn openapi(&self) -> Result<serde_json::Value> {
        self.call(&Call::get("/openapi.json")).await
    }
}
