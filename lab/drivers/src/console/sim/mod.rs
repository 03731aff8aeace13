//! `console.sim`: the pty of a simulated machine.

use super::pty::Pty;
use super::{Console, Line};
use crate::error::{DriverError, Task};
use crate::power::sim::config;
use crate::sim::{self, Config, protocol::console_file};
use crate::site::Site;
use pitstop_core::inventory::catalogue::DriverSchema;
use std::sync::Arc;

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema { name: "sim", with_power: &["sim"], ..DriverSchema::EMPTY };

struct Sim {
    site: Site,
    file: String,
    config: Config,
}

/// Makes the driver.
pub fn make(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    Ok(Arc::new(Sim { site: site.clone(), file: console_file(console), config: config(site) }))
}

impl Sim {
    async fn line(&self) -> Result<Box<dyn Line>, DriverError> {
        self.site.make_state("console.sim")?;
        // The line exists from the moment the machine does, powered or not.
        sim::ensure(&self.site.program, &self.site.state, &self.config).await?;
        Ok(Box::new(Pty::open(&self.site.state.join(&self.file), "console.sim")?))
    }
}

impl Console for Sim {
    fn pause(&self) -> std::time::Duration {
        super::CHEAP
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(self.line())
    }
}
