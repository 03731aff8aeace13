//! `boot.virtual-media`: a CD that the machine's BMC fetches from the daemon, with the boot agent on it.
//!
//! The CD is one file for all machines. A block of it is kept free for what
//! one machine is told; it is filled in while the file is read for that
//! machine, and nowhere else.

use super::{Boot, DEFAULT_APPEND, Delivery, Target, kernel_words};
use crate::error::DriverError;
use crate::power::PowerOn;
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_wire::agent::{AgentParams, Secret};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DRIVER: &str = "boot.virtual-media";

/// What the CD is called beside the boot agent's kernel.
pub const FILE: &str = "medium.iso";
/// Where the daemon serves CDs; whose path begins so is one of ours.
pub const SERVED: &str = "/boot/medium/";
/// Bytes of the block.
pub const BLOCK: usize = 4096;
/// What the block is called on the CD.
pub const BLOCK_FILE: &str = "pitstop/machine.cfg";
/// Files begin at a sector (ECMA-119, section 6.1.2).
const SECTOR: u64 = 2048;
/// How the block of a CD begins that nobody has filled in. GRUB takes it for
/// a comment. Another form of the block gets another number.
const MARK: &str = "# pitstop 1: the daemon fills this in while it serves the medium\n";
/// No transfer of a boot file lasts longer, milliseconds.
const LONGEST_FETCH_MS: u64 = 600_000;
const MAKE: &str = "make it with `pitstop image agent --medium`";

/// What the inventory may say.
pub const SCHEMA: DriverSchema = DriverSchema {
    name: "virtual-media",
    with_power: &["redfish"],
    fields: &[
        FieldSchema::optional("append", FieldKind::Raw, "added to the agent's kernel command line"),
        FieldSchema::optional(
            "server",
            FieldKind::Text,
            "host or IP address under which its BMC reaches this daemon; as the machine itself does unless said",
        ),
        FieldSchema::optional(
            "address",
            FieldKind::Text,
            "IP address that its BMC asks from; nobody else is given the medium",
        ),
        FieldSchema::optional(
            "fetch",
            FieldKind::Duration,
            "how long its BMC may take to fetch the medium before power on, besides `timeout.power`: for one that copies \
             it first; 10m at most",
        ),
    ],
    ..DriverSchema::EMPTY
};

/// The block of a CD that nobody has filled in.
#[must_use]
pub fn empty_block() -> Vec<u8> {
    padded(MARK)
}

fn padded(text: &str) -> Vec<u8> {
    let mut block = text.as_bytes().to_vec();
    block.resize(BLOCK, b'\n');
    block
}

/// What GRUB reads on one machine's CD. `None`: it does not fit.
fn block(append: &str, params: &AgentParams) -> Option<Vec<u8>> {
    let words = kernel_words(params).0;
    // In single quotes everything but they themselves stands for itself.
    let text = format!("set pitstop_append='{append}'\nset pitstop_words='{words}'\n");
    (text.len() < BLOCK && !words.contains('\'')).then(|| padded(&text))
}

/// A CD with the block of one machine in it. The file stays the one that was
/// opened, whatever takes its name meanwhile.
pub struct Medium {
    file: File,
    len: u64,
    at: u64,
    /// Holds the token.
    block: Vec<u8>,
    /// Where the machine's BMC reaches the daemon: `http://192.0.2.1:8069`.
    origin: String,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Medium").field("len", &self.len).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Medium {
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// The power-on from this CD, which is served at `path`: one that begins
    /// with [`SERVED`] and that nobody can guess.
    #[must_use]
    pub fn power_on(&self, path: &str) -> PowerOn {
        PowerOn::Medium { url: Secret(format!("{}{path}", self.origin)) }
    }

    /// Fills `buffer` with what is at `offset`, the machine's block included.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        let (from, to) = (self.at.max(offset), (self.at + BLOCK as u64).min(end));
        if from < to {
            let place = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            buffer[place(from, offset)..place(to, offset)]
                .copy_from_slice(&self.block[place(from, self.at)..place(to, self.at)]);
        }
        Ok(())
    }
}

/// Whether what is to be a CD has exactly one block, as it is made.
///
/// # Errors
/// What is wrong with it.
pub fn has_block(bytes: &[u8]) -> Result<(), String> {
    let read = |buffer: &mut [u8], at: u64| {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let found = at.checked_add(buffer.len()).and_then(|end| bytes.get(at..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    };
    find_block(bytes.len() as u64, read).map(drop)
}

/// Finds the block of a CD of `len` bytes; where it begins.
fn find_block(len: u64, read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Result<u64, String> {
    let (empty, mut head, mut found) = (empty_block(), vec![0; MARK.len()], None);
    let mut at = 0;
    while at + BLOCK as u64 <= len {
        read(&mut head, at).map_err(|e| e.to_string())?;
        if head == MARK.as_bytes() {
            let mut whole = vec![0; BLOCK];
            read(&mut whole, at).map_err(|e| e.to_string())?;
            if whole != empty || found.replace(at).is_some() {
                return Err("its block for the machine is not as it was made".to_owned());
            }
        }
        at += SECTOR;
    }
    found.ok_or_else(|| {
        "it has no block for the machine: another release of pitstop made it, or none".to_owned()
    })
}

struct VirtualMedia {
    machine: String,
    file: PathBuf,
    origin: String,
    append: String,
    address: Option<IpAddr>,
}

/// Makes the driver.
pub fn make(site: &Site) -> Result<Arc<dyn Boot>, DriverError> {
    let spec = &site.spec.boot;
    let wrong = |what: String| DriverError::in_inventory(DRIVER, format!("boot {}", site.name()), what);
    let Some(port) = site.boot_port else {
        return Err(DriverError::new(DRIVER, format!("boot {}", site.name()), "nothing serves boot files")
            .permanent()
            .next("start the daemon with a boot listener"));
    };
    let append = spec.text("append").unwrap_or(DEFAULT_APPEND);
    if append.contains('\'') || append.contains(char::is_control) {
        return Err(wrong(
            "`append` has an apostrophe or a line end, which the boot loader cannot quote".into(),
        ));
    }
    if spec.ms("fetch").is_some_and(|ms| ms > LONGEST_FETCH_MS) {
        return Err(wrong("`fetch` can be 10m at most: no transfer of a boot file lasts longer".into()));
    }
    let server = spec.text("server").unwrap_or(&site.address);
    let host = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let is_host = !server.is_empty() && server.chars().all(host);
    if !is_host && server.parse::<Ipv6Addr>().is_err() {
        return Err(wrong(format!("`server` is no host: `{server}`")));
    }
    Ok(Arc::new(VirtualMedia {
        machine: site.name().to_owned(),
        file: site.agent.join(FILE),
        origin: format!("http://{}", crate::address::join(server, port)),
        append: append.to_owned(),
        address: super::asks_from(DRIVER, site)?,
    }))
}

impl VirtualMedia {
    fn open(&self) -> Result<(File, u64, u64), DriverError> {
        let failed = |what: String| {
            DriverError::new(DRIVER, format!("have {} boot from {}", self.machine, self.file.display()), what)
                .permanent()
                .next(MAKE)
        };
        let file = open_file(&self.file).map_err(|e| failed(e.to_string()))?;
        let len = file.metadata().map_err(|e| failed(e.to_string()))?.len();
        let at = find_block(len, |buffer, at| file.read_exact_at(buffer, at)).map_err(failed)?;
        Ok((file, at, len))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

impl Boot for VirtualMedia {
    fn look(&self) -> Result<String, DriverError> {
        self.open()?;
        Ok(format!("the medium is there; its BMC must reach {}", self.origin))
    }

    fn delivery(&self) -> Delivery {
        Delivery::Medium
    }

    fn power_on(&self, target: Target<'_>) -> Result<PowerOn, DriverError> {
        match target {
            Target::Agent(_) => Err(super::no_parameters(DRIVER, &self.machine)),
            // Not the CD first: what is in the drive by then is not ours.
            Target::Disk | Target::AsIs => Ok(PowerOn::Disk),
        }
    }

    fn medium(&self, params: &AgentParams) -> Result<Medium, DriverError> {
        let (file, at, len) = self.open()?;
        let block = block(&self.append, params).ok_or_else(|| {
            let what = format!("make the medium of {}", self.machine);
            DriverError::in_inventory(DRIVER, what, format!("`append` does not fit into {BLOCK} bytes"))
        })?;
        Ok(Medium { file, len, at, block, origin: self.origin.clone() })
    }

    fn asks_from(&self) -> Option<IpAddr> {
        self.address
    }
}

#[cfg(test)]
mod tests;
