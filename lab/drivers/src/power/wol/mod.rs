//! `power.wol`: a magic packet wakes the machine, a program of the site's
//! own puts it off.
//!
//! The packet is six bytes of ones and sixteen times the card's address,
//! perhaps with a password behind it (AMD, *Magic Packet Technology*,
//! publication 20213). Nobody answers it, and no machine can be put off by
//! one.
//!
//! **Silence is not off.** A machine that does not answer a ping may hang,
//! may have a firewall, may be in its firmware or may have lost its cable,
//! and while it does any of that a tenant's system may still run on it. So
//! `status` is read as `power.command` reads it but for one thing: its exit
//! code alone can say that the machine is on, never that it is off. For off
//! it needs evidence that it can put into words, which `is_off` finds.

#[cfg(test)]
mod tests;

use super::programs::{self, Codes, HOST, IS_OFF, IS_ON, Programs, Status, TIMEOUT};
use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use crate::secret::Place;
use crate::site::Site;
use pitstop_core::inventory::LegSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Reads, Unique};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::agent::Secret;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::sleep;

const DRIVER: &str = "power.wol";
/// The discard port, where no program mistakes the packet for its own.
const DEFAULT_PORT: u16 = 9;
/// Ethernet may lose a packet, and a machine that is awake does not mind
/// another one: together they are one command.
const PACKETS: u32 = 3;
/// Time between them: what lost the first, a full queue say, may be over.
const APART: Duration = Duration::from_millis(100);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "wol",
    fields: &[
        FieldSchema::required("mac", FieldKind::Mac, "address of the network card that wakes the machine"),
        FieldSchema::optional(
            "broadcast",
            FieldKind::Text,
            "IPv4 address the packet is sent to: the broadcast address of the machine's network; 255.255.255.255 unless said",
        ),
        FieldSchema::optional(
            "port",
            FieldKind::Int { min: 1, max: 65_535 },
            "UDP port it is sent to, 9 unless said",
        ),
        FieldSchema::optional(
            "interface",
            FieldKind::Text,
            "network interface it is sent through, as in `eth1`; the routes decide unless said",
        ),
        FieldSchema::optional(
            "password",
            FieldKind::Secret,
            "SecureOn password of the card: `aa:bb:cc:dd:ee:ff`, or `192.0.2.1` for one of four bytes",
        ),
        FieldSchema::required(
            "off",
            FieldKind::Argv(&[]),
            "switches off, by ssh as a rule: exit code 0 = accepted",
        ),
        FieldSchema::optional(
            "status",
            FieldKind::Argv(&[]),
            "reads the state: exit code 0 = on, anything else = unknown, unless `is_on` and `is_off` say how",
        ),
        IS_ON,
        IS_OFF,
        TIMEOUT,
        FieldSchema::optional("controller", FieldKind::ControllerRef, "the device whose queue it stands in"),
        HOST,
    ],
    unique: &[Unique { what: "card to wake", fields: &["mac"] }],
    reads: Reads::By("status"),
    ..DriverSchema::EMPTY
};

struct Wol {
    machine: String,
    mac: [u8; 6],
    target: SocketAddrV4,
    interface: Option<String>,
    password: Option<Place>,
    programs: Programs,
    off: Vec<String>,
    status: Status,
    limits: PowerLimits,
}

/// Makes the driver.
pub fn make(site: &Site, leg: &LegSpec) -> Result<Arc<dyn Power>, DriverError> {
    let spec = &leg.driver;
    let wrong = |what: String| DriverError::in_inventory(DRIVER, format!("wake {}", site.name()), what);
    let mac = spec.text("mac").unwrap_or_default();
    let mac = hex(mac).ok_or_else(|| wrong(format!("`{mac}` is no hardware address")))?;
    let broadcast = match spec.text("broadcast") {
        None => Ipv4Addr::BROADCAST,
        Some(text) => text.parse().map_err(|_| wrong(format!("`broadcast` is no IPv4 address: `{text}`")))?,
    };
    let port = match spec.int("port") {
        None => DEFAULT_PORT,
        Some(port) => u16::try_from(port).map_err(|_| wrong(format!("{port} is no port")))?,
    };
    let interface = spec.text("interface").map(str::to_owned);
    if let Some(odd) = interface.as_ref().filter(|name| name.is_empty() || name.len() >= libc::IFNAMSIZ) {
        return Err(wrong(format!("`{odd}` is no name of an interface")));
    }
    Ok(Arc::new(Wol {
        machine: site.name().to_owned(),
        mac,
        target: SocketAddrV4::new(broadcast, port),
        interface,
        password: Place::of(spec, "password"),
        programs: Programs::new(DRIVER, site, spec)?,
        off: programs::argv(spec, "off").ok_or_else(|| wrong("`off` names no program".to_owned()))?,
        status: Status::of(spec, Codes::OnlyOn).map_err(wrong)?,
        limits: PowerLimits::of(site, leg),
    }))
}

/// The bytes of `aa:bb:cc:dd:ee:ff`.
fn hex(text: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| {
        let two = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        two.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// The bytes of a SecureOn password, as ether-wake takes it.
fn password_bytes(Secret(text): &Secret) -> Option<Vec<u8>> {
    let dotted = || text.parse().ok().map(|four: Ipv4Addr| four.octets().to_vec());
    hex(text).map(|six| six.to_vec()).or_else(dotted)
}

impl Wol {
    async fn switch(&self, want: Switch) -> Result<(), DriverError> {
        match want {
            Switch::On => self.wake().await,
            Switch::Off => self.programs.accepted(&self.off).await,
        }
    }

    async fn wake(&self) -> Result<(), DriverError> {
        let attempted = format!("wake {}", self.machine);
        let mut packet = [[0xff; 6], self.mac].concat();
        packet.extend(self.mac.repeat(15));
        if let Some(place) = &self.password {
            let password = place.read(DRIVER, &attempted).await?;
            packet.extend(password_bytes(&password).ok_or_else(|| {
                DriverError::new(DRIVER, &*attempted, "`password` is none that a network card has")
                    .permanent()
                    .next("six bytes as in `aa:bb:cc:dd:ee:ff`, or four as in `192.0.2.1`")
            })?);
        }
        self.send(&packet).await.map_err(|e| self.explain(&attempted, &e))
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.set_broadcast(true)?;
        for nth in 0..PACKETS {
            if nth > 0 {
                sleep(APART).await;
            }
            socket.send_to(packet, self.target).await?;
        }
        Ok(())
    }

    fn explain(&self, attempted: &str, error: &io::Error) -> DriverError {
        let failed =
            DriverError::new(DRIVER, attempted, format!("{} cannot be sent to: {error}", self.target));
        match (error.raw_os_error(), &self.interface) {
            (Some(libc::ENODEV), Some(name)) => failed.next(format!("is there an interface `{name}`?")),
            (Some(libc::EPERM | libc::EACCES), _) => failed
                .permanent()
                .next("the daemon may not send there: its firewall, or CAP_NET_RAW for `interface`"),
            (Some(libc::ENETUNREACH), _) => failed
                .next("there is no route: `broadcast` or `interface` must be of a network this host is in"),
            _ => failed,
        }
    }
}

impl Power for Wol {
    fn set<'a>(&'a self, want: Switch, _on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(self.switch(want))
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(self.status.read(&self.programs))
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
