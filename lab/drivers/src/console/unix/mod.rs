//! `console.unix`: a socket, as QEMU gives one for a serial port.

use super::{Console, Line};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixStream;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "unix",
    fields: &[FieldSchema::optional(
        "path",
        FieldKind::Path,
        "the socket; that of the machine's own QEMU unless said",
    )],
    unique: &[Unique { what: "serial port", fields: &["path"] }],
    ..DriverSchema::EMPTY
};

struct Unix {
    path: PathBuf,
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let given = site.spec.consoles.get(console).and_then(|c| c.text("path"));
    let path = match given {
        Some(path) => path.into(),
        None => site.socket("console.unix", &format!("console-{console}.sock"))?,
    };
    Ok(Arc::new(Unix { path }))
}

impl Console for Unix {
    fn pause(&self) -> std::time::Duration {
        super::CHEAP
    }

    fn only_while_on(&self) -> bool {
        true
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.path).await.map_err(|e| {
                let error =
                    DriverError::new("console.unix", format!("connect to {}", self.path.display()), &e);
                match e.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                        error.next("a virtual machine has its console while it is on")
                    }
                    _ => error,
                }
            })?;
            Ok(Box::new(stream) as Box<dyn Line>)
        })
    }
}

impl Line for UnixStream {
    fn send_break(&mut self) -> Result<(), DriverError> {
        Err(DriverError::new("console.unix", "send a break", "a socket has none").permanent())
    }
}
