//! Packs closed segments, and drops the oldest where there are too many.

use super::segments::{Segment, Segments};
use super::{JournalError, at, packed_path, segment_path};
use pitstop_core::inventory::model::Inventory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

/// How hard zstd tries: a boot's log becomes a tenth, at 200 MB/s.
const LEVEL: i32 = 3;
/// Where the positions are that a failure needs.
const HELD: &str = "held";

/// Bytes of disk that journals may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Those of one machine, where it has no other.
    pub machine: u64,
    /// Those of these machines.
    pub machines: BTreeMap<String, u64>,
    /// All of them.
    pub lab: u64,
}

impl Default for Quota {
    /// A machine that talks all day at 115200 baud fills its own in a week.
    fn default() -> Self {
        Self { machine: 256 << 20, machines: BTreeMap::new(), lab: 32 << 30 }
    }
}

impl Quota {
    /// What the inventory gives them.
    pub fn of(inventory: &Inventory) -> Self {
        let said = inventory.machines.values().filter_map(|m| Some((m.name.to_string(), m.console_quota?)));
        let default = Self::default();
        Self { machines: said.collect(), lab: inventory.lab.console_quota.unwrap_or(default.lab), ..default }
    }

    /// That of the machine whose journals are here.
    fn of_machine(&self, dir: &Path) -> u64 {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.and_then(|name| self.machines.get(name)).copied().unwrap_or(self.machine)
    }
}

/// The thread that does it.
#[derive(Debug, Clone)]
pub struct Keeper {
    sender: Sender<Order>,
}

enum Order {
    Limit(Quota),
    Closed(PathBuf),
    Hold(PathBuf, u64, u64),
    Release(PathBuf),
    Flush(Sender<()>),
}

impl Keeper {
    /// Starts it for the consoles below `root`.
    pub fn start(root: &Path, quota: Quota) -> std::io::Result<Self> {
        let (sender, orders) = channel();
        let root = root.to_owned();
        std::thread::Builder::new().name("keeper".into()).spawn(move || work(&root, quota, &orders))?;
        Ok(Self { sender })
    }

    /// From now on so much room is theirs; what is over is dropped.
    pub fn limit(&self, quota: Quota) {
        self.order(Order::Limit(quota));
    }

    /// A console of this directory began a segment: the others are closed.
    pub fn closed(&self, dir: &Path) {
        self.order(Order::Closed(dir.to_owned()));
    }

    /// A failure needs these positions: they stay, whatever the quota says.
    pub fn hold(&self, dir: &Path, from: u64, to: u64) {
        self.order(Order::Hold(dir.to_owned(), from, to));
    }

    /// Nobody needs them any more.
    pub fn release(&self, dir: &Path) {
        self.order(Order::Release(dir.to_owned()));
    }

    /// Returns when everything so far is done.
    pub fn flush(&self) {
        let (done, is_done) = channel();
        self.order(Order::Flush(done));
        // It ends either way: with the word or with the thread.
        let _ = is_done.recv();
    }

    fn order(&self, order: Order) {
        // The thread lives as long as the process.
        drop(self.sender.send(order));
    }
}

fn work(root: &Path, mut quota: Quota, orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let done = match order {
            Order::Limit(same) if same == quota => Ok(()),
            Order::Limit(other) => {
                quota = other;
                let machines = dirs_in(root).try_for_each(|machine| enforce_machine(&quota, &machine));
                machines.and_then(|()| enforce_lab(root, &quota))
            }
            Order::Closed(dir) => closed(root, &quota, &dir),
            Order::Hold(dir, from, to) => hold(&dir, from, to),
            Order::Release(dir) => release(&dir),
            Order::Flush(done) => {
                // Nobody may be waiting any more.
                let _ = done.send(());
                Ok(())
            }
        };
        if let Err(e) = done {
            tracing::warn!("console journal: {e}");
        }
    }
}

fn closed(root: &Path, quota: &Quota, dir: &Path) -> Result<(), JournalError> {
    // The newest is open.
    let segments = Segments::of(dir).list;
    let packed = segments.iter().rev().skip(1).filter(|s| !s.packed).try_for_each(|s| pack(dir, s));
    // Where there is no room to pack, dropping makes some.
    enforce(root, quota, dir)?;
    packed
}

/// Packs a segment. It is there in one form or the other at every moment.
fn pack(dir: &Path, segment: &Segment) -> Result<(), JournalError> {
    let from = segment.path(dir);
    let to = packed_path(dir, segment.start, segment.len);
    let temporary = dir.join("packing");
    let packed = (|| {
        let mut plain = File::open(&from)?;
        let modified = plain.metadata()?.modified()?;
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut encoder = zstd::Encoder::new(BufWriter::new(&file), LEVEL)?;
        encoder.include_checksum(true)?;
        std::io::copy(&mut plain, &mut encoder)?;
        encoder.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.set_modified(modified)?;
        file.sync_all()?;
        fs::rename(&temporary, &to)?;
        fs::remove_file(&from)
    })();
    packed.map_err(at("pack", &from))
}

/// Positions that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    from: u64,
    to: u64,
}

fn held(dir: &Path) -> Option<Held> {
    serde_json::from_slice(&fs::read(dir.join(HELD)).ok()?).ok()
}

fn hold(dir: &Path, from: u64, to: u64) -> Result<(), JournalError> {
    let path = dir.join(HELD);
    // A second failure of the same turn adds to the first.
    let from = held(dir).map_or(from, |before| before.from.min(from));
    let text = serde_json::to_vec(&Held { from, to }).map_err(|e| at("write", &path)(e.into()))?;
    fs::create_dir_all(dir).and_then(|()| fs::write(&path, text)).map_err(at("write", &path))
}

fn release(dir: &Path) -> Result<(), JournalError> {
    let path = dir.join(HELD);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// A segment that may be dropped, or not.
struct Kept {
    dir: PathBuf,
    segment: Segment,
    /// Bytes on the disk.
    size: u64,
    modified: SystemTime,
    may_go: bool,
}

fn enforce(root: &Path, quota: &Quota, dir: &Path) -> Result<(), JournalError> {
    enforce_machine(quota, dir.parent().unwrap_or(dir))?;
    enforce_lab(root, quota)
}

fn enforce_machine(quota: &Quota, machine: &Path) -> Result<(), JournalError> {
    drop_oldest(consoles_of(machine).flat_map(|dir| kept(&dir)).collect(), quota.of_machine(machine))
}

fn enforce_lab(root: &Path, quota: &Quota) -> Result<(), JournalError> {
    let all = dirs_in(root).flat_map(|machine| consoles_of(&machine).collect::<Vec<_>>());
    drop_oldest(all.flat_map(|dir| kept(&dir)).collect(), quota.lab)
}

fn dirs_in(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn consoles_of(machine: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    dirs_in(machine)
}

fn kept(dir: &Path) -> Vec<Kept> {
    let held = held(dir);
    let segments = Segments::of(dir).list;
    let newest = segments.last().map(|s| s.start);
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let kept = |segment: Segment| {
        let needed = held.is_some_and(|h| segment.start < h.to && h.from < segment.end());
        let modified = fs::metadata(segment.path(dir)).and_then(|meta| meta.modified());
        Kept {
            size: size(segment.path(dir)) + size(segment_path(dir, segment.start, "idx")),
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            may_go: !needed && Some(segment.start) != newest,
            dir: dir.to_owned(),
            segment,
        }
    };
    segments.into_iter().map(kept).collect()
}

fn drop_oldest(mut all: Vec<Kept>, most: u64) -> Result<(), JournalError> {
    let mut size: u64 = all.iter().map(|kept| kept.size).sum();
    all.sort_by_key(|kept| (kept.modified, kept.segment.start));
    for kept in all.iter().filter(|kept| kept.may_go) {
        if size <= most {
            return Ok(());
        }
        for path in [kept.segment.path(&kept.dir), segment_path(&kept.dir, kept.segment.start, "idx")] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at("remove", &path)(e)),
                _ => {}
            }
        }
        size -= kept.size;
    }
    if size > most {
        tracing::warn!(
            "console journals take {size} bytes, more than the {most} they may: what is left is needed"
        );
    }
    Ok(())
}
