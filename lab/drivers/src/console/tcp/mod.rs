//! `console.tcp`: a port of a console server that carries bytes and nothing
//! else (ser2net's `raw`, a terminal server's raw port, QEMU's TCP chardev).

use super::{Console, Line};
use crate::address;
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use socket2::{SockRef, TcpKeepalive};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const DRIVER: &str = "console.tcp";
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a console server may be silent before it is asked whether it is
/// there, and how long it may then take: a cable that was pulled is noticed
/// within a minute, though the machine says nothing.
const IDLE: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(40);

/// Where a console server has the line.
pub const ADDRESS: FieldSchema = FieldSchema::required(
    "address",
    FieldKind::Address { port: None },
    "the console server and its port: `conserver.lab:3001`",
);

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "tcp",
    fields: &[ADDRESS],
    unique: &[Unique { what: "serial port", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

/// A port of a console server.
pub struct Port {
    driver: &'static str,
    machine: String,
    host: String,
    port: u16,
}

struct Tcp(Port);

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    Ok(Arc::new(Tcp(Port::of(DRIVER, site, console)?)))
}

impl Port {
    /// The one that a console names.
    ///
    /// # Errors
    /// It names none that could be; permanent.
    pub fn of(driver: &'static str, site: &Site, console: &str) -> Result<Self, DriverError> {
        let given = site.spec.consoles.get(console).and_then(|spec| spec.text("address")).unwrap_or_default();
        let Some((host, port)) = address::split(given) else {
            let what = format!("`{given}` is no address with a port");
            return Err(DriverError::new(driver, format!("use {console} of {}", site.name()), what)
                .permanent()
                .next("write `host:port`"));
        };
        Ok(Self { driver, machine: site.name().to_owned(), host, port })
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or not in time.
    pub async fn connect(&self) -> Result<TcpStream, DriverError> {
        let Self { driver, machine, host, port } = self;
        let failed = |e: &dyn std::fmt::Display| {
            DriverError::new(driver, format!("open the console of {machine} at {host}:{port}"), e)
        };
        let stream = match timeout(CONNECT, TcpStream::connect((host.as_str(), *port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(failed(&e).next("does the console server run, and have that port?")),
            Err(_) => {
                let late = format!("no connection within {} s", CONNECT.as_secs());
                return Err(failed(&late).next("is the console server up?"));
            }
        };
        // A key that is pressed is on its way at once.
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        let socket = SockRef::from(&stream);
        let probes = TcpKeepalive::new().with_time(IDLE).with_interval(IDLE / 4).with_retries(4);
        socket.set_tcp_keepalive(&probes).map_err(|e| failed(&e))?;
        socket.set_tcp_user_timeout(Some(GONE)).map_err(|e| failed(&e))?;
        Ok(stream)
    }
}

impl Console for Tcp {
    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(self.0.connect().await?) as Box<dyn Line>) })
    }
}

impl Line for TcpStream {
    fn send_break(&mut self) -> Result<(), DriverError> {
        Err(DriverError::new(DRIVER, "send a break", "a raw connection has none")
            .permanent()
            .next("a console server that speaks telnet or RFC 2217 has one"))
    }
}
