//! The host agent: the same program inside the booted image, where the tenant may be root.
//!
//! It finds the seed that the boot agent left, attaches with it, and overwrites the seed with the rejoin
//! token, so that the next boot of the tenant finds back with a new boot id. It touches nothing else on
//! any disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitstop_image::{DiskTarget, Seed, Target};
use pitstop_wire::agent::{AgentKind, AgentParams, Secret};
use serde::Deserialize;

use crate::params;
use crate::platform::Platform;
use crate::say::Say;
use crate::session::{Agent, KeepRejoin, Options, StartError};

/// Where the image says which area is the seed.
pub const CONFIG: &str = "/etc/pitstop/agent.toml";

/// Why a host agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No place is named and no partition is marked.
    #[error(
        "no seed area: name it in {CONFIG} (seed = \"/dev/vda:OFFSET:LEN\") or on the kernel command line \
         (pitstop.seed=), or make a partition named pitstop-seed"
    )]
    NoPlace,
    /// A place is named in a way that is not understood.
    #[error("{0:?} is no place of a seed: write DEVICE:OFFSET:LEN, in bytes")]
    BadPlace(String),
    /// The configuration is not understood.
    #[error("{file}: {why}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The disk cannot be used.
    #[error(transparent)]
    Target(#[from] pitstop_image::TargetError),
    /// The seed cannot be read or written.
    #[error("seed of {device}: {source}")]
    Seed {
        /// The disk.
        device: String,
        /// What came back.
        source: pitstop_image::seed::SeedError,
    },
    /// There is an area and nothing in it.
    #[error("the seed area of {0} is empty: this disk was not prepared for a reservation")]
    Empty(String),
    /// What is in it cannot be used. The text is not repeated: it holds a token.
    #[error("the seed of {0} does not hold an agent's parameters")]
    NotParams(String),
    /// The agent could not begin.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A seed area on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedPlace {
    /// The disk, or the file that stands for one.
    pub device: PathBuf,
    /// The area.
    pub area: Seed,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: Option<String>,
}

impl SeedPlace {
    /// Reads `DEVICE:OFFSET:LEN`.
    ///
    /// # Errors
    /// [`HostError::BadPlace`].
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let bad = || HostError::BadPlace(text.to_owned());
        let mut parts = text.rsplitn(3, ':');
        let mut number = || parts.next().and_then(|n| n.parse().ok()).ok_or_else(bad);
        let (len, offset) = (number()?, number()?);
        let device = parts.next().filter(|device| device.starts_with('/')).ok_or_else(bad)?;
        Ok(Self { device: device.into(), area: Seed { offset, len } })
    }

    /// Looks in the configuration, on the kernel command line, and for a partition made for it on the disks
    /// of this machine; in this order.
    ///
    /// # Errors
    /// There is none, or what names it is not understood.
    pub fn find(platform: &dyn Platform) -> Result<Self, HostError> {
        let config = read_config(Path::new(CONFIG))?;
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let named = config.seed.or_else(|| {
            let word = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("pitstop.seed="));
            word.map(str::to_owned)
        });
        match named {
            Some(named) => Self::parse(&named),
            None => Self::scan(platform),
        }
    }

    fn scan(platform: &dyn Platform) -> Result<Self, HostError> {
        let disks = platform.hardware().map(|h| h.disks).unwrap_or_default();
        for disk in disks {
            let device = PathBuf::from(&disk.path);
            // A disk that cannot be opened (a card reader's, a failing one) is not where we came from.
            let Ok(mut target) = DiskTarget::open_shared(&device) else { continue };
            if let Ok(Some(area)) = pitstop_image::seed::find(&mut target) {
                return Ok(Self { device, area });
            }
        }
        Err(HostError::NoPlace)
    }

    fn error(&self, source: pitstop_image::seed::SeedError) -> HostError {
        HostError::Seed { device: self.device.display().to_string(), source }
    }

    /// The parameters in the seed.
    ///
    /// # Errors
    /// The disk cannot be read, or the area holds no parameters.
    pub fn read(&self) -> Result<AgentParams, HostError> {
        let device = || self.device.display().to_string();
        let mut target = DiskTarget::open_shared(&self.device)?;
        let record = pitstop_image::seed::read(&mut target, self.area).map_err(|e| self.error(e))?;
        let record = record.ok_or_else(|| HostError::Empty(device()))?;
        let read: AgentParams =
            serde_json::from_slice(record.json()).map_err(|_| HostError::NotParams(device()))?;
        params::check(&read).map_err(|_| HostError::NotParams(device()))?;
        Ok(read)
    }

    fn write(&self, params: &AgentParams) -> Result<(), HostError> {
        let mut target = DiskTarget::open_shared(&self.device)?;
        let json = serde_json::to_vec(params)
            .map_err(|_| HostError::NotParams(self.device.display().to_string()))?;
        debug_assert!(self.area.check(target.size()).is_ok());
        pitstop_image::seed::write(&mut target, self.area, &json).map_err(|e| self.error(e))
    }
}

fn read_config(path: &Path) -> Result<Config, HostError> {
    let file = || path.display().to_string();
    match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => Err(HostError::Config { file: file(), why: e.to_string() }),
        Ok(text) => toml::from_str(&text).map_err(|e| HostError::Config { file: file(), why: e.to_string() }),
    }
}

/// Starts the host agent with the seed at `place`.
///
/// # Errors
/// There is no usable seed, or the agent cannot begin.
pub fn start(place: SeedPlace, platform: Arc<dyn Platform>, say: Say) -> Result<Agent, HostError> {
    let params = place.read()?;
    let mut rejoin = params.clone();
    let keep: KeepRejoin = Box::new(move |token: &Secret| {
        rejoin.token = token.clone();
        place.write(&rejoin).map_err(|e| format!("the rejoin token was not kept: {e}"))
    });
    let kind = AgentKind::Host;
    Ok(Agent::start(Options { kind, params, platform, say, keep_rejoin: Some(keep) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_the_right_since_device_names_may_hold_colons() {
        let place = SeedPlace::parse("/dev/disk/by-path/pci-0000:00:04.0:1048576:65536").unwrap();
        assert_eq!(place.device, Path::new("/dev/disk/by-path/pci-0000:00:04.0"));
        assert_eq!(place.area, Seed { offset: 1_048_576, len: 65_536 });
        for bad in ["", "/dev/vda", "/dev/vda:1", "vda:0:512", "/dev/vda:x:512", "/dev/vda:0:-1"] {
            assert!(SeedPlace::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_configuration_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        assert!(read_config(&path).unwrap().seed.is_none());
        std::fs::write(&path, "sead = \"/dev/vda:0:512\"\n").unwrap();
        assert!(read_config(&path).is_err());
    }
}
