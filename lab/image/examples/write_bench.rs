//! What writing and proving an image costs.
//!
//! ```text
//! cargo run --release -p pitstop-image --example write_bench -- [--dir DIR] [--image FILE] [--target DISK] [--runs N]
//! ```
//!
//! Without `--image` one is made: 1,536 MiB of which 24 % are mapped in 11
//! ranges, filled so that zstd shrinks it to about a third. Without `--target`
//! the disk is a file in DIR. The disk is filled with a marker before each run
//! and scanned for it from outside afterwards: THE TARGET IS ERASED.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use pitstop_image::{
    AddOptions, DiskTarget, FramedSource, ImageStore, Job, StoredImage, Target, WriteOptions,
};
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;
const IMAGE_MIB: usize = 1536;
const MAPPED_MIB: usize = 363;
const RANGES: usize = 11;
const MARKER: [u8; 16] = *b"STALE-MARKER-16B";

struct Args {
    dir: PathBuf,
    image: Option<PathBuf>,
    target: Option<PathBuf>,
    runs: usize,
}

fn args() -> Outcome<Args> {
    let mut args = Args { dir: std::env::temp_dir(), image: None, target: None, runs: 5 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--dir" => args.dir = value.into(),
            "--image" => args.image = Some(value.into()),
            "--target" => args.target = Some(value.into()),
            "--runs" => args.runs = value.parse()?,
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    Ok(args)
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Wall and CPU seconds of one thing.
fn timed<T>(what: impl FnOnce() -> Outcome<T>) -> Outcome<(T, f64, f64)> {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let made = what()?;
    Ok((made, wall.elapsed().as_secs_f64(), cpu_seconds() - cpu))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A small generator, so that every run everywhere has the same image.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Words from a vocabulary and some noise, like a root file system's mix.
fn fill(buf: &mut Vec<u8>, len: usize, random: &mut Random, words: &[Vec<u8>]) {
    buf.clear();
    while buf.len() < len {
        let pick = random.next();
        if pick.is_multiple_of(9) {
            buf.extend_from_slice(&pick.to_le_bytes());
        } else {
            let skewed = (pick >> 8) as usize % words.len() * ((pick >> 40) as usize % 64) / 64;
            buf.extend_from_slice(&words[skewed]);
        }
    }
    buf.truncate(len);
}

fn make_image(path: &Path) -> Outcome<()> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let word = |random: &mut Random| {
        let len = 3 + random.next() as usize % 12;
        (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>()
    };
    let words: Vec<_> = (0..4096).map(|_| word(&mut random)).collect();
    let mut file = File::create(path)?;
    file.set_len((IMAGE_MIB * MIB) as u64)?;
    let mut buf = Vec::new();
    for range in 0..RANGES {
        file.seek(SeekFrom::Start((range * (IMAGE_MIB / RANGES) * MIB) as u64))?;
        for _ in 0..MAPPED_MIB / RANGES {
            fill(&mut buf, MIB, &mut random, &words);
            file.write_all(&buf)?;
        }
    }
    Ok(file.sync_all()?)
}

fn mark(path: &Path, len: u64) -> Outcome<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let piece = MARKER.repeat(MIB / MARKER.len());
    let mut left = len;
    while left > 0 {
        let part = left.min(piece.len() as u64) as usize;
        file.write_all(&piece[..part])?;
        left -= part as u64;
    }
    Ok(file.sync_all()?)
}

/// Reads image and disk from outside: exact, and how many MiB hold the marker.
fn inspect(disk: &Path, image: &Path) -> Outcome<(bool, usize)> {
    let (mut disk, mut image) = (File::open(disk)?, File::open(image)?);
    let (mut is, mut should) = (vec![0; MIB], vec![0; MIB]);
    let (mut exact, mut stale) = (true, 0);
    loop {
        let got = read_piece(&mut disk, &mut is)?;
        if got == 0 {
            return Ok((exact, stale));
        }
        should.fill(0);
        read_piece(&mut image, &mut should)?;
        exact &= is[..got] == should[..got];
        stale += usize::from(is[..got].chunks_exact(16).any(|part| part == MARKER));
    }
}

fn read_piece(file: &mut File, buf: &mut [u8]) -> Outcome<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read(&mut buf[done..])? {
            0 => break,
            got => done += got,
        }
    }
    Ok(done)
}

/// Peak memory of this process in MiB.
fn peak_mib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}

fn run(image: &Arc<StoredImage>, disk: &Path) -> Outcome<[f64; 4]> {
    let go_on = AtomicBool::new(false);
    let job = Job { map: image.map(), cancel: &go_on, progress: &|_| {} };
    let mut target = DiskTarget::open(disk)?;
    let mut source = FramedSource::new(image.frames(0), image.map().chunk());
    let write = || Ok(job.write(&mut target, &mut source, WriteOptions::default())?);
    let (written, wall_w, cpu_w) = timed(write)?;
    let (proof, wall_p, cpu_p) = timed(|| Ok(job.prove(&mut target)?))?;
    let complete = proof.is_complete_for(&image.map().summary(), target.size());
    println!(
        "  write {wall_w:.2} s, {cpu_w:.3} CPU-s ({:?}, erase {:?}, {} MiB data, {} MiB erased) · \
         prove {wall_p:.2} s, {cpu_p:.3} CPU-s ({:?}, {} MiB) {}",
        written.method,
        written.erase_methods,
        written.bytes_written as usize / MIB,
        written.bytes_erased as usize / MIB,
        proof.method,
        proof.bytes_read as usize / MIB,
        if complete.is_ok() { "complete" } else { "NOT COMPLETE" },
    );
    complete.map_err(|missing| format!("no proof: {missing:?}"))?;
    Ok([wall_w, cpu_w, wall_p, cpu_p])
}

fn main() -> Outcome<()> {
    let args = args()?;
    let scratch = tempfile::tempdir_in(&args.dir)?;
    let raw = match &args.image {
        Some(path) => path.clone(),
        None => {
            let path = scratch.path().join("image.raw");
            make_image(&path)?;
            path
        }
    };
    let store = ImageStore::open(&scratch.path().join("store"))?;
    let (manifest, wall, cpu) = timed(|| Ok(store.add_file("bench", &raw, &AddOptions::default())?))?;
    println!(
        "image {}: {} MiB, {} MiB mapped ({} %), {} MiB stored; added in {wall:.2} s, {cpu:.2} CPU-s",
        manifest.digest,
        manifest.size as usize / MIB,
        manifest.mapped as usize / MIB,
        manifest.mapped * 100 / manifest.size,
        manifest.stored as usize / MIB,
    );
    let image = store.open_image(&manifest.digest)?;
    let file = scratch.path().join("disk.raw");
    let disk = args.target.as_deref().unwrap_or(&file);
    let size = match &args.target {
        Some(path) => DiskTarget::open(path)?.size(),
        None => manifest.size,
    };
    let mut figures = Vec::new();
    for _ in 0..args.runs.max(1) {
        mark(disk, size)?;
        figures.push(run(&image, disk)?);
        let (exact, stale) = inspect(disk, &raw)?;
        if !exact || stale > 0 {
            return Err(format!("the disk is not the image: exact {exact}, {stale} MiB stale").into());
        }
    }
    let [wall_w, cpu_w, wall_p, cpu_p] = [0, 1, 2, 3].map(|n| median(figures.iter().map(|f| f[n]).collect()));
    println!(
        "median of {}: write {wall_w:.2} s, {cpu_w:.3} CPU-s · prove {wall_p:.2} s, {cpu_p:.3} CPU-s · \
         exact, 0 MiB stale · peak memory {} MiB",
        figures.len(),
        peak_mib()?,
    );
    Ok(())
}
