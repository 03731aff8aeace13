//! The first block of a simulated image: in words, what the machine does when it boots it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// First line of a simulated image.
pub const MAGIC: &str = "PITSTOP-SIM-IMAGE 1";
/// Bytes at the beginning of the disk that the header may fill.
pub const HEADER: usize = 4096;

/// What a simulated image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Name of the system.
    pub hostname: String,
    /// When its kernel panics, if it does.
    pub panic: Option<Panic>,
    /// How long it takes to boot, in milliseconds; `None`: as the machine does.
    pub boot_ms: Option<u64>,
    /// Where its seed area is: offset and length in bytes.
    pub seed: Option<(u64, u64)>,
}

/// When a kernel panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Before its init runs.
    Kernel,
    /// Some time after the host agent was started.
    Late,
}

impl Header {
    /// Reads the header of a disk. `None`: there is no simulated image on it.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let text = block.split(|b| *b == 0).next()?;
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let keys: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
        let seed = keys.get("seed").and_then(|text| text.split_once(','));
        let plain = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
        Some(Self {
            hostname: keys.get("hostname").filter(|t| plain(t)).unwrap_or(&"simulated").to_string(),
            panic: match keys.get("panic").copied() {
                Some("kernel") => Some(Panic::Kernel),
                Some("late") => Some(Panic::Late),
                _ => None,
            },
            boot_ms: keys.get("boot_ms").and_then(|ms| ms.parse().ok()),
            seed: seed.and_then(|(offset, len)| Some((offset.parse().ok()?, len.parse().ok()?))),
        })
    }

    /// Reads the header of a disk file.
    pub fn of_disk(path: &Path) -> std::io::Result<Option<Self>> {
        let mut block = Vec::with_capacity(HEADER);
        File::open(path)?.take(HEADER as u64).read_to_end(&mut block)?;
        Ok(Self::parse(&block))
    }

    /// The header as it stands on a disk.
    pub fn text(&self) -> String {
        let mut text = format!("{MAGIC}\nhostname={}\n", self.hostname);
        match self.panic {
            Some(Panic::Kernel) => text.push_str("panic=kernel\n"),
            Some(Panic::Late) => text.push_str("panic=late\n"),
            None => {}
        }
        if let Some(ms) = self.boot_ms {
            text.push_str(&format!("boot_ms={ms}\n"));
        }
        if let Some((offset, len)) = self.seed {
            text.push_str(&format!("seed={offset},{len}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_simulated_image_boots_nothing() {
        for block in [&b""[..], b"\0\0\0", b"PITSTOP-SIM-IMAGE 2\n", b"\xff\xfe"] {
            assert_eq!(Header::parse(block), None);
        }
        let odd = Header::parse(b"PITSTOP-SIM-IMAGE 1\nhostname=\x1b]0;x\nseed=1\npanic=often\0").unwrap();
        assert_eq!(odd, Header { hostname: "simulated".into(), ..Header::default() });
    }
}
