//! `console.pty`: a pseudo terminal of this host, as QEMU or another emulator
//! gives one for a serial port.

mod terminal;

use super::{Console, Line};
use crate::error::{DriverError, Task};
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use std::path::PathBuf;
use std::sync::Arc;
pub use terminal::Pty;

const DRIVER: &str = "console.pty";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "pty",
    fields: &[FieldSchema::required(
        "path",
        FieldKind::Path,
        "the terminal, as in /dev/pts/7; or a link that leads to it, since its number changes",
    )],
    unique: &[Unique { what: "serial port", fields: &["path"] }],
    ..DriverSchema::EMPTY
};

struct Terminal {
    path: PathBuf,
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let path = site.spec.consoles.get(console).and_then(|c| c.text("path")).ok_or_else(|| {
        let what = format!("use {console} of {}", site.name());
        DriverError::in_inventory(DRIVER, what, "`path` names no terminal")
    })?;
    Ok(Arc::new(Terminal { path: path.into() }))
}

impl Console for Terminal {
    fn pause(&self) -> std::time::Duration {
        super::CHEAP
    }

    fn only_while_on(&self) -> bool {
        true
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(Pty::open(&self.path, DRIVER)?) as Box<dyn Line>) })
    }
}
