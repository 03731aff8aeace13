//! From an image file through the store and the stream to a disk and its proof.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pitstop_image::{
    AddOptions, BlockMap, DiskTarget, Erase, FramedSource, ImageStore, Job, ReadMethod, Seed, SeedChoice,
    StoredImage, Target, WriteError, WriteOptions, is_zero, seed,
};
use proptest::prelude::*;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn job(map: &BlockMap) -> Job<'_> {
    Job { map, cancel: &GO_ON, progress: &|_| {} }
}

/// What the former user left, in free space and everywhere else.
const MARKER: &[u8] = b"FORMER-USER-WAS-HERE";

fn used_disk(path: &Path, len: usize) -> DiskTarget {
    let bytes: Vec<u8> = MARKER.iter().copied().cycle().take(len).collect();
    std::fs::write(path, bytes).unwrap();
    DiskTarget::open(path).unwrap()
}

/// Chunks where `layout` is true hold bytes made of their number.
fn raw_image(layout: &[bool], chunk: usize, len: usize) -> Vec<u8> {
    let mut raw = vec![0u8; layout.len() * chunk];
    for (index, part) in raw.chunks_mut(chunk).enumerate().filter(|(index, _)| layout[*index]) {
        for (at, byte) in part.iter_mut().enumerate() {
            *byte = ((at * 31) ^ (index * 7) ^ (at >> 8)) as u8 | 1;
        }
    }
    raw.truncate(len);
    raw
}

fn stored(dir: &Path, raw: &[u8], options: &AddOptions) -> std::sync::Arc<StoredImage> {
    let store = ImageStore::open(&dir.join("store")).unwrap();
    let manifest = store.add("image", raw, options).unwrap();
    store.open_image(&manifest.digest).unwrap()
}

#[test]
fn an_image_reaches_a_used_disk_exactly_and_nothing_else_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mib = 1 << 20;
    let raw = raw_image(&[true, false, false, true, true, false, true], mib, 6 * mib + 12_345);
    let image = stored(dir.path(), &raw, &AddOptions::default());
    // The agent knows the map from its bytes alone.
    let map = BlockMap::decode_expecting(&image.map().encode(), &image.map().digest()).unwrap();
    let path = dir.path().join("disk");
    let device = 9 * mib + 4096 + 100;
    for erase in [Erase::Offload, Erase::Write] {
        let mut disk = used_disk(&path, device);
        let mut source = FramedSource::new(image.frames(0), map.chunk());
        let options = WriteOptions { erase, ..WriteOptions::default() };
        let written = job(&map).write(&mut disk, &mut source, options).unwrap();
        assert_eq!(written.chunks_written, 4);
        let proof = job(&map).prove(&mut disk).unwrap();
        assert_eq!(proof.is_complete_for(&map.summary(), device as u64), Ok(()));
        assert!(matches!(proof.method, ReadMethod::Direct | ReadMethod::CacheDropped));

        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), device);
        assert!(bytes[..raw.len()] == raw, "the image is not exact");
        assert!(is_zero(&bytes[raw.len()..]), "the tail is not zero");
        assert!(!bytes.windows(MARKER.len()).any(|window| window == MARKER));
    }
}

#[test]
fn a_stream_cut_off_is_resumed_with_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_image(&[true, true, false, true, true], 4096, 5 * 4096);
    let options = AddOptions { chunk: 4096, ..AddOptions::default() };
    let image = stored(dir.path(), &raw, &options);
    let path = dir.path().join("disk");
    let whole = image.frames_len(0);
    for cut in 0..whole {
        let mut disk = used_disk(&path, 7 * 4096);
        let mut frames = Vec::new();
        std::io::Read::read_to_end(&mut image.frames(0), &mut frames).unwrap();
        let mut source = FramedSource::new(&frames[..cut as usize], 4096);
        let stopped = job(image.map()).write(&mut disk, &mut source, WriteOptions::default()).unwrap_err();
        assert!(matches!(stopped.cause, WriteError::Source(_)), "{stopped}");
        let mut source = FramedSource::new(image.frames(stopped.resume_from), 4096);
        let options = WriteOptions { resume_from: Some(stopped.resume_from), ..WriteOptions::default() };
        job(image.map()).write(&mut disk, &mut source, options).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..raw.len()] == raw && is_zero(&bytes[raw.len()..]), "cut at {cut}");
    }
}

#[test]
fn a_byte_changed_behind_the_writers_back_is_found_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_image(&[true, false, true], 4096, 3 * 4096);
    let options = AddOptions { chunk: 4096, ..AddOptions::default() };
    let image = stored(dir.path(), &raw, &options);
    let path = dir.path().join("disk");
    let mut disk = used_disk(&path, 5 * 4096);
    let mut source = std::sync::Arc::clone(&image);
    job(image.map()).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    for at in [0u64, 5000, 3 * 4096 + 9, 5 * 4096 - 1] {
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x08], at).unwrap();
        let proof = job(image.map()).prove(&mut disk).unwrap();
        assert_eq!(proof.mismatch_count, 1);
        let place = proof.mismatches[0];
        assert!((place.offset..place.offset + place.len).contains(&at), "{at}: {place:?}");
        file.write_all_at(&byte, at).unwrap();
    }
    let proof = job(image.map()).prove(&mut disk).unwrap();
    assert_eq!(proof.is_complete_for(&image.map().summary(), 5 * 4096), Ok(()));
}

#[test]
fn the_seed_goes_where_the_image_says_after_the_proof() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_image(&[true, false, true], 4096, 3 * 4096);
    let area = Seed { offset: 4096, len: 2048 };
    let options = AddOptions { chunk: 4096, seed: SeedChoice::At(area), ..AddOptions::default() };
    let image = stored(dir.path(), &raw, &options);
    let path = dir.path().join("disk");
    let mut disk = used_disk(&path, 4 * 4096);
    let mut source = std::sync::Arc::clone(&image);
    job(image.map()).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    let proof = job(image.map()).prove(&mut disk).unwrap();
    assert_eq!(proof.is_complete_for(&image.map().summary(), disk.size()), Ok(()));
    let place = image.map().seed().unwrap();
    seed::write(&mut disk, place, br#"{"nonce":7}"#).unwrap();
    drop(disk);
    let mut host = DiskTarget::open_shared(&path).unwrap();
    assert_eq!(seed::read(&mut host, place).unwrap().unwrap().json(), br#"{"nonce":7}"#);
    seed::wipe(&mut host, place).unwrap();
    assert!(std::fs::read(&path).unwrap()[..raw.len()] == raw);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The same as on disks in memory, through files, direct I/O and holes.
    #[test]
    fn any_sparse_image_on_any_disk_file_is_exact_and_proven(
        layout in prop::collection::vec(any::<bool>(), 1..12),
        short in 0usize..4096,
        tail in 0usize..20_000,
        differential in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let raw = raw_image(&layout, 4096, layout.len() * 4096 - short);
        let options = AddOptions { chunk: 4096, ..AddOptions::default() };
        let image = stored(dir.path(), &raw, &options);
        let path = dir.path().join("disk");
        let device = raw.len() + tail;
        let mut disk = used_disk(&path, device);
        let mut source = std::sync::Arc::clone(&image);
        let options = WriteOptions { differential, ..WriteOptions::default() };
        job(image.map()).write(&mut disk, &mut source, options).unwrap();
        let proof = job(image.map()).prove(&mut disk).unwrap();
        prop_assert_eq!(proof.is_complete_for(&image.map().summary(), device as u64), Ok(()));
        let bytes = std::fs::read(&path).unwrap();
        prop_assert!(bytes[..raw.len()] == raw && is_zero(&bytes[raw.len()..]));
    }
}
