//! `console.serial`: a serial port of this host, or of a bench host.

mod pace;

use super::{Console, Line};
use crate::child::RunError;
use crate::error::{DriverError, Task};
use crate::host::{Bench, Host, Stream};
use crate::site::Site;
use crate::watched;
use pace::Paced;
use pitstop_core::inventory::DriverSpec;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use rustix::fs::{OFlags, fcntl_setfl};
use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_serial::{FlowControl, SerialPort as _};

const DRIVER: &str = "console.serial";
const DEFAULT_BAUD: u32 = 115_200;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "serial",
    fields: &[
        FieldSchema::optional("device", FieldKind::Path, "the port, as in /dev/ttyS1"),
        FieldSchema::optional("by_id", FieldKind::Text, "name in /dev/serial/by-id"),
        FieldSchema::optional("by_path", FieldKind::Text, "name in /dev/serial/by-path"),
        FieldSchema::optional("usb", FieldKind::Text, "USB interface the port belongs to, as in 1-1.2:1.0"),
        FieldSchema::optional(
            "baud",
            FieldKind::Int { min: 50, max: 12_000_000 },
            "bits per second, 115200 unless said",
        ),
        FieldSchema::optional("rtscts", FieldKind::Bool, "hardware flow control; off unless said"),
        FieldSchema::optional(
            "char_delay",
            FieldKind::Duration,
            "pause behind each byte that is typed, for boot loaders that lose what comes faster; none unless said",
        ),
        FieldSchema::optional(
            "dtr",
            FieldKind::Bool,
            "what DTR is set to when the port is opened; on unless said",
        ),
        FieldSchema::optional(
            "rts",
            FieldKind::Bool,
            "what RTS is set to when the port is opened; on unless said",
        ),
        FieldSchema::optional("host", FieldKind::HostRef, "the bench host it is plugged into"),
    ],
    unique: &[
        Unique { what: "serial port", fields: &["device"] },
        Unique { what: "serial port", fields: &["by_id"] },
        Unique { what: "serial port", fields: &["by_path"] },
        Unique { what: "serial port", fields: &["usb"] },
    ],
    ..DriverSchema::EMPTY
};

struct Serial {
    machine: String,
    bench: Bench,
    place: Place,
    baud: u32,
    /// Hardware flow control. Off unless asked for: one stray 0x13 in the
    /// noise of a boot would stop the line for ever.
    rtscts: bool,
    char_delay: Option<Duration>,
    /// Levels of the control lines, where the inventory says any: on some
    /// boards they are wired to reset or to the boot mode.
    dtr: Option<bool>,
    rts: Option<bool>,
}

/// How the port is named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Path(PathBuf),
    Usb(String),
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let spec = site.spec.consoles.get(console).cloned().unwrap_or_default();
    let place = place(&spec).ok_or_else(|| {
        DriverError::new(
            DRIVER,
            format!("use {console} of {}", site.name()),
            "the inventory names no port, or several",
        )
        .permanent()
        .next("write exactly one of device, by_id, by_path, usb")
    })?;
    let baud = spec.int("baud").and_then(|b| u32::try_from(b).ok()).unwrap_or(DEFAULT_BAUD);
    let bench = Bench::of(DRIVER, site, &spec)?;
    let (dtr, rts) = (spec.flag("dtr"), spec.flag("rts"));
    if matches!(bench, Bench::There(_)) && (dtr.is_some() || rts.is_some()) {
        return Err(DriverError::new(
            DRIVER,
            format!("use {console} of {}", site.name()),
            "dtr and rts cannot be set on a bench host",
        )
        .permanent()
        .next("plug the port into this host, or leave them out"));
    }
    Ok(Arc::new(Serial {
        machine: site.name().to_owned(),
        bench,
        place,
        baud,
        rtscts: spec.flag("rtscts") == Some(true),
        char_delay: spec.ms("char_delay").filter(|ms| *ms > 0).map(Duration::from_millis),
        dtr,
        rts,
    }))
}

fn place(spec: &DriverSpec) -> Option<Place> {
    let path =
        |dir: &str, name: &str| (!name.contains('/')).then(|| Place::Path(PathBuf::from(dir).join(name)));
    let named = [
        spec.text("device").map(|d| Some(Place::Path(d.into()))),
        spec.text("by_id").map(|name| path("/dev/serial/by-id", name)),
        spec.text("by_path").map(|name| path("/dev/serial/by-path", name)),
        spec.text("usb").map(|name| (!name.contains('/')).then(|| Place::Usb(name.to_owned()))),
    ];
    let mut named = named.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(place), None) => place,
        _ => None,
    }
}

impl Serial {
    /// The device, which may come and go with a USB plug.
    fn device(&self) -> Result<PathBuf, String> {
        let interface = match &self.place {
            Place::Path(path) => return Ok(path.clone()),
            Place::Usb(interface) => PathBuf::from("/sys/bus/usb/devices").join(interface),
        };
        // Drivers differ: INTERFACE/ttyUSB0 or INTERFACE/tty/ttyACM0.
        for dir in [interface.clone(), interface.join("tty")] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("tty") && name.len() > 3 {
                    return Ok(PathBuf::from("/dev").join(name));
                }
            }
        }
        Err(format!("there is no serial port at {}", interface.display()))
    }

    fn here(&self) -> Result<Box<dyn Line>, DriverError> {
        let fail = |what: &dyn std::fmt::Display, e: &dyn std::fmt::Display| {
            DriverError::new(DRIVER, format!("open {what} for {}", self.machine), e)
        };
        let flow = if self.rtscts { FlowControl::Hardware } else { FlowControl::None };
        let device = self.device().map_err(|e| fail(&"the console", &e).next("is it plugged in?"))?;
        // Exclusive by default, and by a lock that binds root too.
        let mut port = tokio_serial::new(device.to_string_lossy(), self.baud)
            .flow_control(flow)
            .open_native()
            .map_err(|e| fail(&device.display(), &e))?;
        let level = |name: &str, e: tokio_serial::Error| fail(&device.display(), &format!("{name}: {e}"));
        if let Some(on) = self.dtr {
            port.write_data_terminal_ready(on).map_err(|e| level("DTR cannot be set", e))?;
        }
        if let Some(on) = self.rts {
            port.write_request_to_send(on).map_err(|e| level("RTS cannot be set", e))?;
        }
        let port = watched::file_of(port);
        let port = fcntl_setfl(&port, OFlags::RDWR | OFlags::NONBLOCK)
            .map_err(Into::into)
            .and_then(|()| watched::file(port))
            .map_err(|e| fail(&device.display(), &e))?;
        Ok(self.paced(SerialLine { port, breaking: None }))
    }

    async fn there(&self, host: &Arc<Host>) -> Result<Box<dyn Line>, DriverError> {
        // The shell there looks for it: it may be elsewhere after each plug.
        let device = match &self.place {
            Place::Path(path) => path.display().to_string(),
            Place::Usb(interface) => format!("usb:{interface}"),
        };
        let open = host.serial(&device, self.baud, self.rtscts).await;
        let open = open.map_err(|e| {
            RunError::Host(e).into_driver(DRIVER, format!("open {device} for {}", self.machine))
        })?;
        Ok(self.paced(open))
    }

    fn paced(&self, line: impl Line + 'static) -> Box<dyn Line> {
        match self.char_delay {
            Some(pause) => Box::new(Paced::new(line, pause)),
            None => Box::new(line),
        }
    }
}

impl Console for Serial {
    fn pause(&self) -> Duration {
        match self.bench {
            Bench::Here => super::CHEAP,
            Bench::There(_) => super::DEAR,
        }
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async {
            match &self.bench {
                Bench::Here => self.here(),
                Bench::There(host) => self.there(host).await,
            }
        })
    }
}

/// How long the line is held in a break (tcsendbreak(3): 0.25 to 0.5 s).
const BREAK: Duration = Duration::from_millis(300);

impl Line for Stream {
    fn send_break(&mut self) -> Result<(), DriverError> {
        Stream::send_break(self).map_err(|e| DriverError::new("console", "send a break", e).permanent())
    }
}

struct SerialLine {
    port: AsyncFd<File>,
    /// The end of the break that is being sent. A timer, since sleeping here
    /// would hold up every other console.
    breaking: Option<Pin<Box<Sleep>>>,
}

impl Line for SerialLine {
    fn send_break(&mut self) -> Result<(), DriverError> {
        let begun = watched::set_break(&self.port, true);
        begun.map_err(|e| DriverError::new(DRIVER, "send a break", e))?;
        self.breaking = Some(Box::pin(tokio::time::sleep(BREAK)));
        Ok(())
    }
}

impl SerialLine {
    /// Ends a break whose time is over; else wakes whoever polls when it is.
    fn end_break(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        if let Some(end) = &mut self.breaking
            && end.as_mut().poll(cx).is_ready()
        {
            self.breaking = None;
            watched::set_break(&self.port, false)?;
        }
        Ok(())
    }
}

impl AsyncRead for SerialLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.end_break(cx)?;
        watched::poll_read(&self.port, cx, buf)
    }
}

impl AsyncWrite for SerialLine {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.end_break(cx)?;
        if self.breaking.is_some() {
            // What is sent during a break is a part of it: the key behind it
            // (SysRq) would be lost.
            return Poll::Pending;
        }
        watched::poll_write(&self.port, cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // A flush of a serial port waits until every byte has left it, and
        // blocks the thread for that; what was written leaves by itself.
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
