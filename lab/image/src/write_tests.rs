use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::Seed;
use crate::testing::{GO_ON, MemDisk, image, job, noise, sparse};

const CHUNK: u32 = 4096;
const C: usize = CHUNK as usize;

/// Data, hole, two data, hole, short data; then a tail of 2.5 chunks.
fn example() -> Vec<u8> {
    sparse(&[true, false, true, true, false, true], C, 1000)
}

fn expected(raw: &[u8], device: usize) -> Vec<u8> {
    let mut all = raw.to_vec();
    all.resize(device, 0);
    all
}

#[test]
fn the_device_is_the_image_and_zeroes_to_its_end() {
    let raw = example();
    let (map, mut source) = image(&raw, CHUNK, None);
    for device in [raw.len(), raw.len() + 1, 6 * C, 8 * C + 77] {
        let mut disk = MemDisk::used(device);
        let written = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
        assert_eq!(disk.bytes, expected(&raw, device), "device of {device}");
        assert_eq!(written.chunks_written, 4);
        assert_eq!(written.bytes_written, map.mapped());
        assert_eq!(written.bytes_written + written.bytes_erased, device as u64);
        assert!(disk.flushes > 0);
        assert!(job(&map).prove(&mut disk).unwrap().is_complete_for(&map.summary(), device as u64).is_ok());
    }
}

#[test]
fn erasing_by_writing_does_without_the_device_promise() {
    let raw = example();
    let (map, mut source) = image(&raw, CHUNK, None);
    let mut disk = MemDisk { lies_about_zeroing: true, ..MemDisk::used(9 * C) };
    let options = WriteOptions { erase: Erase::Write, ..WriteOptions::default() };
    let written = job(&map).write(&mut disk, &mut source, options).unwrap();
    assert_eq!(disk.bytes, expected(&raw, 9 * C));
    assert_eq!(written.erase_methods, [ZeroMethod::Written]);
}

#[test]
fn the_blank_image_erases_everything() {
    let (map, mut source) = image(&[], CHUNK, None);
    let mut disk = MemDisk::used(5 * C + 3);
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    assert!(is_zero(&disk.bytes));
    let proof = job(&map).prove(&mut disk).unwrap();
    assert!(proof.is_complete_for(&map.summary(), disk.bytes.len() as u64).is_ok());
}

#[test]
fn a_device_that_is_too_small_is_left_alone() {
    let (map, mut source) = image(&example(), CHUNK, None);
    let mut disk = MemDisk::used(6 * C - 1001);
    let stopped = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
    assert!(matches!(stopped.cause, WriteError::TooSmall { .. }));
    assert!(disk.bytes.iter().all(|&b| b == 0xa5));
}

#[test]
fn a_corrupt_chunk_is_named_and_never_written() {
    let raw = example();
    let (map, good) = image(&raw, CHUNK, None);
    type Damage = fn(&mut Vec<u8>, &[u8]);
    let damages: [(&str, Damage); 6] = [
        ("a flipped bit", |stored, _| stored[100] ^= 4),
        ("cut off", |stored, _| stored.truncate(50)),
        ("empty", |stored, _| stored.clear()),
        ("another chunk", |stored, other| *stored = other.to_vec()),
        ("too large when decompressed", |stored, _| {
            *stored = zstd::bulk::compress(&vec![1; 1 << 26], 1).unwrap();
        }),
        ("too short when decompressed", |stored, _| *stored = zstd::bulk::compress(&[1; 7], 1).unwrap()),
    ];
    for (what, damage) in damages {
        let mut source = crate::testing::MemSource { stored: good.stored.clone(), ..Default::default() };
        let other = source.stored[&0].clone();
        damage(source.stored.get_mut(&2).unwrap(), &other);
        let mut disk = MemDisk::used(8 * C);
        let stopped = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
        assert!(matches!(stopped.cause, WriteError::ChunkCorrupt { index: 2, .. }), "{what}: {stopped}");
        assert_eq!(stopped.resume_from, 2);
        assert!(disk.bytes[2 * C..].iter().all(|&b| b == 0xa5), "{what} reached the disk");
        // Fetched again, this time whole.
        source.stored = good.stored.clone();
        let options = WriteOptions { resume_from: Some(2), ..WriteOptions::default() };
        job(&map).write(&mut disk, &mut source, options).unwrap();
        assert_eq!(disk.bytes, expected(&raw, 8 * C));
    }
}

#[test]
fn more_compressed_bytes_than_a_chunk_can_have_are_refused() {
    let (map, mut source) = image(&noise(C, 1), CHUNK, None);
    source.stored.insert(0, vec![0; max_stored_len(CHUNK) + 1]);
    let stopped = job(&map).write(&mut MemDisk::used(C), &mut source, WriteOptions::default());
    assert!(matches!(stopped.unwrap_err().cause, WriteError::ChunkCorrupt { index: 0, .. }));
}

#[test]
fn resuming_after_any_interruption_equals_a_fresh_write() {
    let raw = example();
    let device = 9 * C + 5;
    for end in 0..6 {
        let (map, mut source) = image(&raw, CHUNK, None);
        source.ends_before = Some(end);
        let mut disk = MemDisk::used(device);
        let stopped = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
        assert!(matches!(stopped.cause, WriteError::Source(SourceError::Io { .. })));
        assert!(stopped.resume_from >= end);
        source.ends_before = None;
        source.asked.clear();
        let options = WriteOptions { resume_from: Some(stopped.resume_from), ..WriteOptions::default() };
        job(&map).write(&mut disk, &mut source, options).unwrap();
        assert_eq!(disk.bytes, expected(&raw, device), "broken off at {end}");
        assert!(source.asked.iter().all(|&index| index >= end), "fetched again what was done");
    }
}

#[test]
fn a_bad_block_says_where_and_the_tail_can_be_resumed() {
    let raw = example();
    let (map, mut source) = image(&raw, CHUNK, None);
    let mut disk = MemDisk { bad_write: Some(7 * C as u64 + 9), ..MemDisk::used(9 * C) };
    let stopped = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
    assert!(matches!(stopped.cause, WriteError::Device { what: "erase", .. }), "{stopped}");
    assert_eq!(stopped.resume_from, 6, "the tail begins at chunk 6");
    disk.bad_write = None;
    source.asked.clear();
    let options = WriteOptions { resume_from: Some(6), ..WriteOptions::default() };
    let written = job(&map).write(&mut disk, &mut source, options).unwrap();
    assert_eq!((written.started_at, written.bytes_erased), (6, 3 * C as u64));
    assert!(source.asked.is_empty());
    assert_eq!(disk.bytes, expected(&raw, 9 * C));
    let options = WriteOptions { resume_from: Some(10), ..WriteOptions::default() };
    let beyond = job(&map).write(&mut disk, &mut source, options).unwrap_err();
    assert!(matches!(beyond.cause, WriteError::ResumeBeyondEnd { asked: 10, chunks: 9 }));
}

#[test]
fn a_failed_flush_makes_the_whole_write_void() {
    let (map, mut source) = image(&example(), CHUNK, None);
    let mut disk = MemDisk { fails_flush: true, ..MemDisk::used(6 * C) };
    let stopped = job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
    assert_eq!(stopped.resume_from, 0);
}

#[test]
fn a_differential_write_touches_only_what_differs() {
    let raw = example();
    let device = 9 * C;
    let (map, mut source) = image(&raw, CHUNK, None);
    let mut disk = MemDisk { bytes: expected(&raw, device), ..MemDisk::default() };
    let options = WriteOptions { differential: true, ..WriteOptions::default() };
    let same = job(&map).write(&mut disk, &mut source, options).unwrap();
    assert_eq!((same.chunks_written, same.chunks_kept, same.bytes_erased), (0, 4, 0));
    assert!(disk.writes.is_empty() && disk.erasures.is_empty() && source.asked.is_empty());

    // A changed file, a byte in free space, one behind the short last chunk's
    // end, one in the tail.
    for at in [2 * C + 5, C + 1, raw.len() + 3, 8 * C] {
        disk.bytes[at] ^= 0xff;
    }
    let written = job(&map).write(&mut disk, &mut source, options).unwrap();
    assert_eq!(disk.bytes, expected(&raw, device));
    assert_eq!(source.asked, [2, 5]);
    assert_eq!((written.chunks_written, written.chunks_kept), (2, 2));
    assert_eq!(disk.writes, [(2 * C as u64, C as u64), (5 * C as u64, C as u64)]);
    assert_eq!(disk.erasures, [(C as u64, C as u64), (8 * C as u64, C as u64)]);
}

#[test]
fn zero_runs_are_erased_in_few_and_bounded_requests() {
    let size = 3 * ERASE_PIECE + 4096;
    let (map, mut source) = image(&[], 1 << 20, None);
    struct Counting(u64, Vec<u64>);
    impl Target for Counting {
        fn size(&self) -> u64 {
            self.0
        }
        fn read_at(&mut self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("a plain write does not read"))
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::Error::other("there is nothing to write"))
        }
        fn zero(&mut self, _: u64, len: u64) -> io::Result<ZeroMethod> {
            self.1.push(len);
            Ok(ZeroMethod::ZeroOut)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn forget_cached(&mut self) -> io::Result<crate::ReadMethod> {
            Ok(crate::ReadMethod::Direct)
        }
        fn io_method(&self) -> IoMethod {
            IoMethod::Direct
        }
    }
    let mut disk = Counting(size, Vec::new());
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    assert_eq!(disk.1, [ERASE_PIECE, ERASE_PIECE, ERASE_PIECE, 4096]);
}

#[test]
fn cancel_stops_before_the_next_chunk_and_can_be_resumed() {
    let raw = example();
    let (map, mut source) = image(&raw, CHUNK, None);
    let cancel = AtomicBool::new(false);
    let seen = RefCell::new(Vec::new());
    let progress = |p: Progress| {
        seen.borrow_mut().push(p);
        cancel.store(p.done >= 3 * C as u64, Ordering::Relaxed);
    };
    let mut disk = MemDisk::used(8 * C);
    let cancelled = Job { map: &map, cancel: &cancel, progress: &progress };
    let stopped = cancelled.write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
    assert!(matches!(stopped.cause, WriteError::Cancelled));
    assert_eq!(stopped.resume_from, 3);
    assert_eq!(seen.borrow().last().map(|p| (p.step, p.done)), Some((Step::Write, 3 * C as u64)));
    let options = WriteOptions { resume_from: Some(3), ..WriteOptions::default() };
    job(&map).write(&mut disk, &mut source, options).unwrap();
    assert_eq!(disk.bytes, expected(&raw, 8 * C));
}

#[test]
fn progress_rises_to_the_end_of_the_device() {
    let (map, mut source) = image(&example(), CHUNK, None);
    let seen = RefCell::new(Vec::new());
    let progress = |p: Progress| seen.borrow_mut().push(p);
    let job = Job { map: &map, cancel: &GO_ON, progress: &progress };
    let mut disk = MemDisk::used(8 * C + 5);
    job.write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    job.prove(&mut disk).unwrap();
    let seen = seen.into_inner();
    for step in [Step::Write, Step::Prove] {
        let done: Vec<_> = seen.iter().filter(|p| p.step == step).map(|p| p.done).collect();
        assert!(done.is_sorted());
        assert_eq!(done.last(), Some(&(8 * C as u64 + 5)));
    }
    assert!(seen.iter().any(|p| p.step == Step::Flush));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any sparse image on any used disk, broken off anywhere, plain or
    /// differential: afterwards exact, proven, and a later bit flip is found.
    #[test]
    fn what_is_written_is_proven_and_what_is_changed_is_not(
        layout in prop::collection::vec(any::<bool>(), 1..24),
        short in 0usize..C,
        tail in 0usize..5 * C,
        broken in prop::option::of(0u64..24),
        differential in any::<bool>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let raw = sparse(&layout, C, short);
        let (map, mut source) = image(&raw, CHUNK, None);
        let device = raw.len() + tail;
        let mut disk = MemDisk::used(device);
        source.ends_before = broken;
        let mut options = WriteOptions { differential, ..WriteOptions::default() };
        if let Err(stopped) = job(&map).write(&mut disk, &mut source, options) {
            source.ends_before = None;
            options.resume_from = Some(stopped.resume_from);
            job(&map).write(&mut disk, &mut source, options).unwrap();
        }
        prop_assert_eq!(&disk.bytes, &expected(&raw, device));
        let proof = job(&map).prove(&mut disk).unwrap();
        prop_assert_eq!(proof.is_complete_for(&map.summary(), device as u64), Ok(()));

        let at = flip.index(device);
        disk.bytes[at] ^= 1;
        let proof = job(&map).prove(&mut disk).unwrap();
        prop_assert!(proof.is_complete_for(&map.summary(), device as u64).is_err());
        prop_assert_eq!(proof.mismatches.len(), 1);
        let place = proof.mismatches[0];
        prop_assert!((place.offset..place.offset + place.len).contains(&(at as u64)));
    }
}

#[test]
fn the_seed_area_is_erased_like_any_zeroes() {
    let raw = example();
    let seed = Seed { offset: C as u64, len: 1024 };
    let (map, mut source) = image(&raw, CHUNK, Some(seed));
    let mut disk = MemDisk::used(8 * C);
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    assert_eq!(disk.bytes, expected(&raw, 8 * C));
}
