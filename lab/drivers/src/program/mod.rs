//! Programs of the lab's own that run for a machine: its hooks, and what
//! writes and reads back the flash of a board that runs no agent.

#[cfg(test)]
mod tests;

use crate::child::{Ran, RunError, first_line};
use crate::error::DriverError;
use crate::host::{Bench, Errand, Hear, HostError, Open, Parcel};
use crate::power::programs::{self, HOST};
use crate::site::Site;
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema};
use pitstop_core::inventory::template::render;
use pitstop_core::inventory::{DriverSpec, Hook, Point};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long each program of a programmer may take, where the inventory does not say.
const PROGRAM_MS: u64 = 300_000;

/// `[[machine.M.hook.POINT]]`
pub const HOOK: DriverSchema = DriverSchema {
    name: "hook",
    fields: &[
        FieldSchema::required(
            "run",
            FieldKind::Argv(&["machine", "image"]),
            "what is run: exit code 0 = well. `{machine}` is its name, `{image.name}` and `{image.digest}` are of the \
             image of the turn; `{image}` is the path of a file with its bytes, `{image.X}` of one with those of the \
             image `NAME.X`",
        ),
        FieldSchema::optional("timeout", FieldKind::Duration, "how long it may take, 1m unless said"),
        FieldSchema::optional(
            "on_error",
            FieldKind::OneOf(&["quarantine", "warn"]),
            "what its failure means: the turn fails, unless said, and the machine is quarantined when it fails again; \
             or it is only told",
        ),
        HOST,
    ],
    ..DriverSchema::EMPTY
};

/// `reimage.command`
pub const REIMAGE: DriverSchema = DriverSchema {
    name: "command",
    fields: &[
        FieldSchema::required(
            "run",
            FieldKind::Argv(&["image"]),
            "writes the board: exit code 0 = well. `{image}` is the path of a file with the image, which no other \
             board has",
        ),
        FieldSchema::optional(
            "read_back",
            FieldKind::Argv(&[]),
            "prints what is on the board: the image, and behind it nothing but 0x00 or 0xff. Without it the board is \
             never clean",
        ),
        FieldSchema::optional(
            "power",
            FieldKind::OneOf(&["on", "off"]),
            "whether the board has power meanwhile; `on` unless said",
        ),
        FieldSchema::optional(
            "timeout",
            FieldKind::Duration,
            "how long each may take, and the way of the image; 5m unless said",
        ),
        HOST,
    ],
    ..DriverSchema::EMPTY
};

/// Why a program did not do its work.
#[derive(Debug)]
pub struct Trouble {
    /// Whether it is the lab's own (its disk, a bench host, a program that is not installed), and not the machine's.
    pub lab: bool,
    /// Whether the program is known to be over.
    pub over: bool,
    /// What was attempted and what came back.
    pub error: DriverError,
}

/// A program of one machine, as the inventory has it.
pub struct Command {
    driver: &'static str,
    machine: String,
    bench: Bench,
    limit: Duration,
}

impl Command {
    fn of(driver: &'static str, site: &Site, spec: &DriverSpec, usual: u64) -> Result<Self, DriverError> {
        let limit = Duration::from_millis(spec.ms("timeout").unwrap_or(usual));
        Ok(Self { driver, machine: site.name().to_owned(), bench: Bench::of(driver, site, spec)?, limit })
    }

    /// Runs one to its end.
    async fn run(
        &self,
        argv: Vec<String>,
        directory: &str,
        files: Vec<Parcel>,
        ear: Option<Arc<Mutex<dyn Hear>>>,
    ) -> Result<Ran, Trouble> {
        let program = argv.first().cloned().unwrap_or_default();
        let attempted = format!("run {program} on {} for {}", self.bench, self.machine);
        let errand = Errand { argv, limit: self.limit, directory: directory.to_owned(), files, ear };
        let ran = match self.bench.errand(&errand).await {
            Ok(ran) if ran.status.success() => return Ok(ran),
            Ok(ran) => {
                let said = first_line(&format!("{}\n{}", ran.err, ran.out));
                let error = DriverError::new(self.driver, attempted, format!("{}: {said}", ran.status));
                return Err(Trouble { lab: false, over: true, error });
            }
            Err(error) => error,
        };
        // What runs here was killed before this was told.
        let here = matches!(self.bench, Bench::Here);
        let never = matches!(&ran, RunError::Host(HostError { permanent: true, .. }));
        let over =
            here || never || matches!(ran, RunError::Start(_) | RunError::Store(_) | RunError::Busy(_));
        let lab = !matches!(ran, RunError::Late(_) | RunError::Wait(_));
        Err(Trouble { lab, over, error: ran.into_driver(self.driver, attempted) })
    }
}

/// A name that no other run has, and no other machine, for what it is given.
fn directory(machine: &str, nonce: &str) -> String {
    format!("pitstop-{machine}-{nonce}")
}

/// A hook of a machine.
pub struct HookProgram {
    command: Command,
    run: Vec<String>,
}

impl HookProgram {
    /// A hook as the inventory has it.
    ///
    /// # Errors
    /// It cannot be run; permanent.
    pub fn of(site: &Site, hook: &Hook) -> Result<Self, DriverError> {
        let spec = &hook.command;
        let run = programs::argv(spec, "run").ok_or_else(|| {
            DriverError::in_inventory("hook", format!("run {}", hook.name), "`run` names no program")
        })?;
        Ok(Self { command: Command::of("hook", site, spec, Hook::TIMEOUT_MS)?, run })
    }

    /// Whether what it started is known to be gone when nobody waits for it any more.
    pub fn is_here(&self) -> bool {
        matches!(self.command.bench, Bench::Here)
    }

    /// Runs it once, with these words and files for its placeholders. `nonce` is of this run.
    ///
    /// # Errors
    /// [`Trouble`]
    pub async fn run(
        &self,
        nonce: &str,
        words: &BTreeMap<String, String>,
        files: Vec<(String, u64, Open)>,
    ) -> Result<(), Trouble> {
        let home = directory(&self.command.machine, nonce);
        let mut paths = words.clone();
        let mut parcels = Vec::new();
        for (place, bytes, open) in files {
            paths.insert(place.clone(), Errand::path(&home, &place));
            parcels.push(Parcel { name: place, bytes, open });
        }
        let argv = filled(&self.run, &paths).map_err(|e| Trouble {
            lab: true,
            over: true,
            error: DriverError::in_inventory("hook", format!("run {:?}", self.run.first()), e),
        })?;
        self.command.run(argv, &home, parcels, None).await.map(drop)
    }
}

/// What writes a board's flash, and reads it back.
pub struct Programmer {
    command: Command,
    run: Vec<String>,
    read_back: Option<Vec<String>>,
}

impl Programmer {
    /// The machine's programmer.
    ///
    /// # Errors
    /// It cannot be run; permanent.
    pub fn of(site: &Site) -> Result<Self, DriverError> {
        let spec = &site.spec.reimage;
        let wrong =
            |what: &str| DriverError::in_inventory("reimage.command", format!("write {}", site.name()), what);
        let run = programs::argv(spec, "run").ok_or_else(|| wrong("`run` names no program"))?;
        let command = Command::of("reimage.command", site, spec, PROGRAM_MS)?;
        Ok(Self { command, run, read_back: programs::argv(spec, "read_back") })
    }

    /// Whether what it started is known to be gone when nobody waits for it any more.
    pub fn is_here(&self) -> bool {
        matches!(self.command.bench, Bench::Here)
    }

    /// The program that reads back, and where, in words; `None`: nothing does.
    pub fn reader(&self) -> Option<String> {
        let program = self.read_back.as_ref()?.first()?;
        Some(format!("{program} on {}", self.command.bench))
    }

    /// Writes an image of so many bytes. `nonce` is of this run.
    ///
    /// # Errors
    /// [`Trouble`]
    pub async fn write(&self, nonce: &str, bytes: u64, open: Open) -> Result<(), Trouble> {
        let home = directory(&self.command.machine, nonce);
        let paths = BTreeMap::from([("image".to_owned(), Errand::path(&home, "image"))]);
        let argv = filled(&self.run, &paths).map_err(|e| Trouble {
            lab: true,
            over: true,
            error: DriverError::in_inventory("reimage.command", "write it", e),
        })?;
        let file = Parcel { name: "image".to_owned(), bytes, open };
        self.command.run(argv, &home, vec![file], None).await.map(drop)
    }

    /// Reads back what is on the board.
    ///
    /// # Errors
    /// [`Trouble`]
    pub async fn read_back(&self, ear: Arc<Mutex<dyn Hear>>) -> Result<(), Trouble> {
        let argv = self.read_back.clone().unwrap_or_default();
        self.command.run(argv, "", Vec::new(), Some(ear)).await.map(drop)
    }
}

/// The command with its placeholders filled in, each within its own word.
fn filled(argv: &[String], paths: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let fill = |word: &String| render(word, |name| paths.get(name).cloned());
    argv.iter().map(fill).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// A machine's hooks, by point and name.
pub type HookPrograms = BTreeMap<(Point, String), Result<Arc<HookProgram>, DriverError>>;

/// All hooks of a machine.
pub fn hooks(site: &Site) -> HookPrograms {
    let all = site.spec.hooks.iter().flat_map(|(point, hooks)| hooks.iter().map(|hook| (*point, hook)));
    all.map(|(point, hook)| ((point, hook.name.clone()), HookProgram::of(site, hook).map(Arc::new))).collect()
}
