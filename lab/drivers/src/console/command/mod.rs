//! `console.command`: a program that carries the line, here or on a bench
//! host: `["conserver-client", "{name}"]`, `["docker", "attach", …]`.

use super::{Console, Line};
use crate::error::{DriverError, Task};
use crate::host::Bench;
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use std::sync::Arc;

const DRIVER: &str = "console.command";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "command",
    fields: &[
        FieldSchema::required(
            "run",
            FieldKind::Argv(&[]),
            "the program: what it prints is what the machine says, what it reads is what is typed",
        ),
        FieldSchema::optional("host", FieldKind::HostRef, "the bench host it runs on"),
    ],
    unique: &[Unique { what: "console's program", fields: &["run"] }],
    ..DriverSchema::EMPTY
};

struct Talk {
    machine: String,
    bench: Bench,
    run: Vec<String>,
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let spec = site.spec.consoles.get(console).cloned().unwrap_or_default();
    let run: Vec<String> = spec.list("run").unwrap_or_default().into_iter().map(str::to_owned).collect();
    if run.is_empty() {
        return Err(DriverError::in_inventory(
            DRIVER,
            format!("use {console} of {}", site.name()),
            "`run` names no program",
        ));
    }
    Ok(Arc::new(Talk { machine: site.name().to_owned(), bench: Bench::of(DRIVER, site, &spec)?, run }))
}

impl Console for Talk {
    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async {
            let program = self.run.first().map_or("", String::as_str);
            let line = self.bench.talk(&self.run).await.map_err(|e| {
                e.into_driver(DRIVER, format!("run {program} on {} for {}", self.bench, self.machine))
            })?;
            Ok(Box::new(line) as Box<dyn Line>)
        })
    }
}
