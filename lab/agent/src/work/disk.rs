//! Work on disks: an image written and proven, the seed of the host agent.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use pitstop_image::{
    BlockMap, DEFAULT_CHUNK, DiskTarget, Erase, IoMethod, Job, MAX_ENCODED_MAP, MismatchKind, Progress,
    Proof, ProveError, ReadMethod, Seed, Step, Target, WriteError, WriteOptions, ZeroMethod,
};
use pitstop_wire::agent::{AgentParams, DiskMatch, DiskProof, ImageMode, ImageWork, Outcome, SeenDisk};

use super::source::{LinkSource, fetch_map};
use super::{WorkEvent, Worker, failed};

/// How often one chunk is fetched before the image is blamed.
const TRIES: u32 = 3;
/// Shortest time between two words of progress.
const PROGRESS: Duration = Duration::from_millis(250);
/// Places named when a disk differs.
const NAMED: usize = 4;

/// Why a step did not come to a proof; an outcome already.
type Stop = Box<Outcome>;

fn stop(reason: &str) -> Stop {
    Box::new(failed(reason))
}

fn blame_image(reason: String) -> Stop {
    Box::new(Outcome::Failed { reason, image: true })
}

/// Brings a disk to a content and proves it, or only proves.
pub(super) fn image(worker: &Worker, step: u64, work: &ImageWork) -> Outcome {
    let began = Instant::now();
    prove_or_stop(worker, step, work, began).unwrap_or_else(|stop| *stop)
}

fn prove_or_stop(worker: &Worker, step: u64, work: &ImageWork, began: Instant) -> Result<Outcome, Stop> {
    let map = map_of(worker, work.digest.as_deref())?;
    let disk = worker.platform.find_disk(&work.find).map_err(|e| stop(&e.to_string()))?;
    let target = DiskTarget::open(Path::new(&disk.path)).map_err(|e| stop(&e.to_string()))?;
    let mut target = Counted { disk: target, written: 0, erased_by: Vec::new() };
    let last = Cell::new(None);
    let report = |progress: Progress| tell_progress(worker, step, &last, progress);
    let job = Job { map: &map, cancel: worker.mailbox.closed_flag(), progress: &report };
    if work.mode == ImageMode::Write {
        write(worker, &job, &mut target, WriteOptions::default())?;
    }
    let mut proof = prove(&job, &mut target)?;
    if work.mode == ImageMode::Write && lied_about_zeroes(&proof) {
        // The device promised zeroes and kept other bytes: from now on they are written like data.
        let options = WriteOptions { differential: true, erase: Erase::Write, ..WriteOptions::default() };
        write(worker, &job, &mut target, options)?;
        target.erased_by.push(ZeroMethod::Written);
        proof = prove(&job, &mut target)?;
    }
    Ok(judge(work, &disk, &map, &target, &proof, began))
}

/// A disk that counts what is done to it. A write that was interrupted and went on is several jobs, and
/// each of them knows of its own part only.
struct Counted {
    disk: DiskTarget,
    written: u64,
    erased_by: Vec<ZeroMethod>,
}

impl Target for Counted {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<ZeroMethod> {
        let how = self.disk.zero(offset, len)?;
        self.written += len;
        if !self.erased_by.contains(&how) {
            self.erased_by.push(how);
        }
        Ok(how)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }

    fn forget_cached(&mut self) -> io::Result<ReadMethod> {
        self.disk.forget_cached()
    }

    fn io_method(&self) -> IoMethod {
        self.disk.io_method()
    }
}

/// The block map, checked against the digest that names it; without one, that of the blank image.
fn map_of(worker: &Worker, digest: Option<&str>) -> Result<BlockMap, Stop> {
    let Some(digest) = digest else {
        return BlockMap::new(0, DEFAULT_CHUNK, None, Vec::new()).map_err(|e| stop(&e.to_string()));
    };
    let expected: pitstop_image::Digest =
        digest.parse().map_err(|e| blame_image(format!("the order names image {digest:?}: {e}")))?;
    let mut why = String::new();
    for _ in 0..TRIES {
        let bytes = match fetch_map(worker, digest) {
            None => return Err(stop("cancelled")),
            Some(Err(reason)) => return Err(blame_image(format!("no block map of {digest}: {reason}"))),
            Some(Ok(bytes)) => bytes,
        };
        if bytes.len() > MAX_ENCODED_MAP {
            why = format!("{} bytes are too long for a block map", bytes.len());
            continue;
        }
        match BlockMap::decode(&bytes) {
            Ok(map) if map.digest() == expected => return Ok(map),
            Ok(map) => why = format!("the map that came is that of {}", map.digest()),
            Err(e) => why = e.to_string(),
        }
    }
    Err(blame_image(format!("the block map of {digest} was wrong {TRIES} times: {why}")))
}

/// Writes; goes on at the same chunk after a corrupt one, up to [`TRIES`] times.
fn write(
    worker: &Worker,
    job: &Job<'_>,
    target: &mut Counted,
    mut options: WriteOptions,
) -> Result<(), Stop> {
    let mut source = LinkSource::new(worker, job.map);
    let mut corrupt = (u64::MAX, 0);
    loop {
        let stopped = match job.write(target, &mut source, options) {
            Ok(_) => {
                worker.platform.written(target.disk.path());
                return Ok(());
            }
            Err(stopped) => stopped,
        };
        if worker.mailbox.is_closed() {
            return Err(stop("cancelled"));
        }
        let WriteError::ChunkCorrupt { index, .. } = &stopped.cause else {
            return Err(match &stopped.cause {
                WriteError::Source(e) => blame_image(e.to_string()),
                // The machine is what it always was: others would fail too.
                e @ WriteError::TooSmall { .. } => {
                    blame_image(format!("{}: {e}", target.disk.path().display()))
                }
                other => stop(&format!("{}: {other}", target.disk.path().display())),
            });
        };
        corrupt = if corrupt.0 == *index { (*index, corrupt.1 + 1) } else { (*index, 1) };
        if corrupt.1 >= TRIES {
            return Err(blame_image(format!("{} ({TRIES} times in a row)", stopped.cause)));
        }
        options.resume_from = Some(stopped.resume_from);
    }
}

fn prove(job: &Job<'_>, target: &mut Counted) -> Result<Proof, Stop> {
    job.prove(target).map_err(|e| match e {
        ProveError::Cancelled => stop("cancelled"),
        other => stop(&format!("{}: {other}", target.disk.path().display())),
    })
}

fn lied_about_zeroes(proof: &Proof) -> bool {
    let zero = |kind| matches!(kind, MismatchKind::Zero | MismatchKind::Tail);
    !proof.mismatches.is_empty() && proof.mismatches.iter().all(|place| zero(place.kind))
}

/// Turns what was read back into the outcome.
fn judge(
    work: &ImageWork,
    disk: &SeenDisk,
    map: &BlockMap,
    target: &Counted,
    proof: &Proof,
    began: Instant,
) -> Outcome {
    if let Err(missing) = proof.is_complete_for(&map.summary(), target.size()) {
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let places: Vec<String> = proof
            .mismatches
            .iter()
            .take(NAMED)
            .map(|place| format!("{} bytes at {}", place.len, place.offset))
            .collect();
        let at = format!("{}: {} ({})", disk.path, missing.join("; "), places.join(", "));
        return match work.mode {
            ImageMode::Verify if proof.mismatch_count > 0 => Outcome::Differs { at },
            _ => failed(&format!("the disk does not hold what was written to it: {at}")),
        };
    }
    Outcome::Proven(DiskProof {
        path: disk.path.clone(),
        serial: disk.serial.clone(),
        device_bytes: proof.device_size,
        digest: work.digest.as_ref().map(|_| proof.digest.to_string()),
        read_bytes: proof.bytes_read,
        image_bytes: proof.data_bytes_checked,
        zero_bytes: proof.zero_bytes_checked + proof.tail_bytes_checked,
        written_bytes: target.written,
        erase: erased_by(&target.erased_by),
        took_ms: began.elapsed().as_millis() as u64,
    })
}

fn erased_by(methods: &[ZeroMethod]) -> String {
    let words: Vec<&str> = methods
        .iter()
        .map(|method| match method {
            ZeroMethod::ZeroOut => "blkzeroout",
            ZeroMethod::PunchHole => "punch",
            ZeroMethod::ZeroRange => "zero-range",
            ZeroMethod::Written => "write",
        })
        .collect();
    if words.is_empty() { "none".into() } else { words.join("+") }
}

fn tell_progress(worker: &Worker, step: u64, last: &Cell<Option<Instant>>, progress: Progress) {
    let phase = match progress.step {
        Step::Write => "write",
        Step::Prove => "prove",
        Step::Flush => return,
    };
    if last.get().is_some_and(|at| at.elapsed() < PROGRESS) {
        return;
    }
    last.set(Some(Instant::now()));
    worker.tell(WorkEvent::Progress { step, phase, done: progress.done, total: progress.total });
}

/// Writes the host agent's parameters where the image says, and reads them back.
pub(super) fn seed(
    worker: &Worker,
    find: &DiskMatch,
    offset: u64,
    len: u64,
    params: &AgentParams,
) -> Outcome {
    let write = || {
        let disk = worker.platform.find_disk(find).map_err(|e| e.to_string())?;
        let mut target = DiskTarget::open(Path::new(&disk.path)).map_err(|e| e.to_string())?;
        let json = serde_json::to_vec(params).map_err(|e| e.to_string())?;
        pitstop_image::seed::write(&mut target, Seed { offset, len }, &json)
            .map_err(|e| format!("{}: {e}", disk.path))
    };
    match write() {
        Ok(()) => Outcome::Seeded,
        Err(reason) => failed(&reason),
    }
}
