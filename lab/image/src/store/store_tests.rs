use std::io::Read;

use super::*;
use crate::source::{ChunkSource, FramedSource, SourceError};
use crate::testing::{noise, sparse};
use crate::{BlockMap, Chunk};

const C: usize = 4096;

fn options() -> AddOptions {
    AddOptions {
        kind: "os".into(),
        added_unix_ms: 1_700_000_000_000,
        chunk: C as u32,
        ..AddOptions::default()
    }
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

fn count(dir: &Path, part: &str) -> usize {
    std::fs::read_dir(dir.join(part)).unwrap().count()
}

fn raw() -> Vec<u8> {
    sparse(&[true, false, false, true, true], C, 123)
}

fn content(store: &ImageStore, digest: &Digest) -> Vec<u8> {
    let image = store.open_image(digest).unwrap();
    let mut bytes = vec![0; image.map().size() as usize];
    ImageReader::new(&*image).unwrap().read_at(0, &mut bytes).unwrap();
    bytes
}

/// Gives a few bytes, then fails.
struct Breaks(usize);
impl Read for Breaks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.0.min(buf.len());
        if len == 0 {
            return Err(io::Error::other("cable pulled"));
        }
        buf[..len].fill(7);
        self.0 -= len;
        Ok(len)
    }
}

#[test]
fn what_goes_in_comes_out_raw_or_compressed() {
    let (dir, store) = store();
    let raw = raw();
    let plain = store.add("debian-12", &raw[..], &options()).unwrap();
    assert_eq!(plain.size, raw.len() as u64);
    assert_eq!(plain.mapped, 3 * C as u64 - 123);
    assert_eq!(plain.sha256, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&raw)));
    assert_eq!(content(&store, &plain.digest), raw);

    let file = dir.path().join("raw.zst");
    // Two frames, as parallel compressors make them.
    let mut compressed = zstd::bulk::compress(&raw[..5000], 1).unwrap();
    compressed.extend(zstd::bulk::compress(&raw[5000..], 1).unwrap());
    std::fs::write(&file, compressed).unwrap();
    let packed = store.add_file("debian-12-zst", &file, &options()).unwrap();
    assert_eq!((packed.digest, &packed.sha256), (plain.digest, &plain.sha256));
    assert_eq!(count(dir.path(), "blobs"), 1, "the same content twice is one blob");
    assert_eq!(count(dir.path(), "tmp"), 0);
}

#[test]
fn images_are_found_by_name_and_digest_also_after_a_restart() {
    let (dir, store) = store();
    let b = store.add("b", &noise(9000, 1)[..], &options()).unwrap();
    let a = store.add("a", &noise(9000, 2)[..], &options()).unwrap();
    drop(store);
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(store.list().unwrap(), [a.clone(), b.clone()]);
    assert_eq!(store.get("a").unwrap(), a);
    assert_eq!(store.get(&b.digest.to_string()).unwrap(), b);
    let absent = Digest::from_bytes([1; 32]).to_string();
    assert!(matches!(store.get("c"), Err(StoreError::Unknown(_))));
    assert!(matches!(store.get(&absent), Err(StoreError::Unknown(_))));
    assert!(matches!(store.get("b3:12"), Err(StoreError::Digest { .. })));
}

#[test]
fn names_cannot_leave_the_directory() {
    let (_dir, store) = store();
    let long = "a".repeat(65);
    for bad in ["", ".", "..", "../x", "a/b", "A", "-a", ".a", "a b", "ä", "a\0", &long] {
        assert!(matches!(store.add(bad, &[1u8][..], &options()), Err(StoreError::Name(_))), "{bad:?}");
        assert!(matches!(store.get(bad), Err(StoreError::Name(_))), "{bad:?}");
        assert!(matches!(store.remove(bad), Err(StoreError::Name(_))), "{bad:?}");
    }
    for good in ["a", "0", "debian-12.5_x86", &long[..64]] {
        store.add(good, &[1u8][..], &options()).unwrap();
    }
}

#[test]
fn wrong_options_and_sources_leave_the_store_as_it_was() {
    let (dir, store) = store();
    let half = zstd::bulk::compress(&noise(50_000, 3), 1).unwrap();
    let broken = store.add("x", &half[..half.len() / 2], &options());
    assert!(matches!(broken, Err(StoreError::Source { .. })), "{broken:?}");
    let pulled = store.add("x", Breaks(10_000), &options());
    assert!(matches!(pulled, Err(StoreError::Source { offset: 8192, .. })), "{pulled:?}");
    assert!(matches!(store.add("x", &[][..], &options()), Err(StoreError::Empty)));
    let odd = AddOptions { chunk: 5000, ..options() };
    assert!(matches!(store.add("x", &[1u8][..], &odd), Err(StoreError::Map(_))));
    let kind = AddOptions { kind: "a\nb".into(), ..options() };
    assert!(matches!(store.add("x", &[1u8][..], &kind), Err(StoreError::Kind)));
    assert!(matches!(store.add_file("x", Path::new("/nonexistent"), &options()), Err(StoreError::Io { .. })));
    for part in ["blobs", "names", "tmp"] {
        assert_eq!(count(dir.path(), part), 0, "{part}");
    }
}

#[test]
fn a_name_moves_to_new_content_and_the_old_goes_with_the_sweep() {
    let (dir, store) = store();
    let old = store.add("nightly", &noise(9000, 1)[..], &options()).unwrap();
    let new = store.add("nightly", &noise(9000, 2)[..], &options()).unwrap();
    assert_eq!(store.get("nightly").unwrap(), new);
    assert_eq!(store.sweep(&|digest| *digest == old.digest).unwrap(), []);
    assert_eq!(content(&store, &old.digest), noise(9000, 1));
    assert_eq!(store.sweep(&|_| false).unwrap(), [old.digest]);
    assert!(matches!(store.by_digest(&old.digest), Err(StoreError::Unknown(_))));
    assert_eq!((count(dir.path(), "blobs"), count(dir.path(), "tmp")), (1, 0));
}

#[test]
fn removing_says_what_is_left_and_an_open_image_can_be_read_on() {
    let (_dir, store) = store();
    let one = store.add("one", &raw()[..], &options()).unwrap();
    store.add("two", &raw()[..], &options()).unwrap();
    assert_eq!(store.remove("one").unwrap(), Removed { digest: one.digest, still_named: true });
    assert!(matches!(store.remove("one"), Err(StoreError::Unknown(_))));
    assert_eq!(store.remove("two").unwrap(), Removed { digest: one.digest, still_named: false });
    let open = store.open_image(&one.digest).unwrap();
    assert_eq!(store.sweep(&|_| false).unwrap(), [one.digest]);
    assert!(open.chunk(0).is_ok());
    drop(open);
    assert!(matches!(store.open_image(&one.digest), Err(StoreError::Unknown(_))));
}

#[test]
fn a_crash_leaves_nothing_but_rubbish_that_the_next_open_clears() {
    let (dir, store) = store();
    let kept = store.add("kept", &raw()[..], &options()).unwrap();
    drop(store);
    // As killed while taking in, and while replacing a name.
    let half = dir.path().join("tmp/4711-0");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("data"), noise(5000, 1)).unwrap();
    std::fs::write(dir.path().join("tmp/stray"), b"x").unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(count(dir.path(), "tmp"), 0);
    assert_eq!(store.list().unwrap(), [kept]);
    // As killed between publishing the blob and its name: the blob is whole,
    // has no name, and goes with the sweep unless it is added again.
    std::fs::remove_file(dir.path().join("names/kept.json")).unwrap();
    let again = store.add("again", &raw()[..], &options()).unwrap();
    assert_eq!(store.sweep(&|_| false).unwrap(), []);
    assert_eq!(content(&store, &again.digest), raw());
}

#[test]
fn opening_does_not_clear_away_what_another_is_just_adding() {
    let (dir, store) = store();
    struct OpensMeanwhile<'a>(&'a Path, Vec<u8>);
    impl Read for OpensMeanwhile<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            ImageStore::open(self.0).map_err(io::Error::other)?;
            let len = buf.len().min(self.1.len());
            buf[..len].copy_from_slice(&self.1.drain(..len).collect::<Vec<_>>());
            Ok(len)
        }
    }
    let added = store.add("x", OpensMeanwhile(dir.path(), raw()), &options()).unwrap();
    assert_eq!(content(&store, &added.digest), raw());
}

#[test]
fn adding_and_sweeping_at_once_never_loses_a_named_image() {
    let (dir, _) = store();
    std::thread::scope(|scope| {
        for worker in 0..3u8 {
            let dir = dir.path();
            scope.spawn(move || {
                let store = ImageStore::open(dir).unwrap();
                for round in 0..8u8 {
                    let name = format!("image-{worker}");
                    let added = store.add(&name, &noise(6000, round % 2)[..], &options()).unwrap();
                    store.sweep(&|_| false).unwrap();
                    assert_eq!(content(&store, &added.digest), noise(6000, round % 2));
                }
            });
        }
    });
}

#[test]
fn damage_is_noticed_and_named() {
    let (dir, store) = store();
    let digest = store.add("x", &raw()[..], &options()).unwrap().digest;
    let blob = dir.path().join("blobs").join(digest.to_hex());
    store.open_image(&digest).unwrap().verify().unwrap();
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = blob.join(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        std::fs::write(&path, bad).unwrap();
        let result = store.open_image(&digest).and_then(|image| image.verify());
        std::fs::write(&path, good).unwrap();
        assert!(matches!(result, Err(StoreError::Damaged { .. })), "{name}: {result:?}");
    };
    spoil("map", &|bytes| bytes[50] ^= 1);
    spoil("index", &|bytes| bytes[0] ^= 1);
    spoil("index", &|bytes| bytes.truncate(5));
    spoil("index", &|bytes| bytes.extend([0; 4]));
    spoil("index", &|bytes| bytes[3] = 0xff);
    spoil("data", &|bytes| bytes[700] ^= 1);
    spoil("data", &|bytes| bytes.push(0));
    store.open_image(&digest).unwrap().verify().unwrap();
    std::fs::write(dir.path().join("names/x.json"), b"{}").unwrap();
    assert!(matches!(store.list(), Err(StoreError::Damaged { .. })));
}

#[test]
fn adding_again_mends_a_damaged_image() {
    let (dir, store) = store();
    let digest = store.add("x", &raw()[..], &options()).unwrap().digest;
    let blob = dir.path().join("blobs").join(digest.to_hex());
    for name in ["map", "index", "data", "manifest.json"] {
        let damages: [&dyn Fn(&Path); 2] =
            [&|path| std::fs::write(path, b"rubbish").unwrap(), &|path| std::fs::remove_file(path).unwrap()];
        for damage in damages {
            damage(&blob.join(name));
            store.add("x", &raw()[..], &options()).unwrap();
            assert_eq!(store.by_digest(&digest).unwrap().digest, digest);
            assert_eq!(content(&store, &digest), raw(), "{name}");
        }
    }
    assert_eq!((count(dir.path(), "blobs"), count(dir.path(), "tmp")), (1, 0));
}

#[test]
fn a_given_seed_area_must_be_zero_and_inside() {
    let (_dir, store) = store();
    let at = |offset, len| AddOptions { seed: SeedChoice::At(Seed { offset, len }), ..options() };
    let seeded = store.add("s", &raw()[..], &at(C as u64, 1024)).unwrap();
    assert_eq!(seeded.seed, Some(Seed { offset: C as u64, len: 1024 }));
    assert_eq!(store.open_image(&seeded.digest).unwrap().map().seed(), seeded.seed);
    let plain = store.add("p", &raw()[..], &options()).unwrap();
    assert_eq!((plain.seed, &plain.sha256), (None, &seeded.sha256));
    let used = store.add("u", &raw()[..], &at(0, 512));
    assert!(matches!(used, Err(StoreError::SeedInUse { at: 0, .. })), "{used:?}");
    assert!(matches!(store.add("o", &raw()[..], &at(1 << 30, 512)), Err(StoreError::Map(_))));
}

#[test]
fn a_seed_partition_is_found_and_taken_only_when_it_is_empty() {
    let (_dir, store) = store();
    let mut disk = sparse(&[true; 4], C, 0);
    disk.resize(20 * C, 0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446..462].fill(0);
    disk[450] = 0xda;
    disk[454..458].copy_from_slice(&64u32.to_le_bytes());
    disk[458..462].copy_from_slice(&16u32.to_le_bytes());
    let found = store.add("found", &disk[..], &options()).unwrap();
    assert_eq!(found.seed, Some(Seed { offset: 64 * 512, len: 16 * 512 }));
    let none = AddOptions { seed: SeedChoice::None, ..options() };
    assert_eq!(store.add("none", &disk[..], &none).unwrap().seed, None);
    disk[70 * 512] = 1;
    assert_eq!(store.add("used", &disk[..], &options()).unwrap().seed, None);
}

#[test]
fn one_stream_of_frames_feeds_a_whole_image_or_its_rest() {
    let (_dir, store) = store();
    let digest = store.add("x", &raw()[..], &options()).unwrap().digest;
    let image = store.open_image(&digest).unwrap();
    let limit = crate::max_stored_len(C as u32);
    for from in 0..=6 {
        let mut bytes = Vec::new();
        image.frames(from).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, image.frames_len(from));
        let mut source = FramedSource::new(&bytes[..], C as u32);
        for index in [0u64, 3, 4].into_iter().filter(|&index| index >= from) {
            let mut out = Vec::new();
            source.fetch(index, limit, &mut out).unwrap();
            assert_eq!(out, store.open_chunk(&digest, index).unwrap());
        }
        assert!(source.into_inner().is_empty());
    }
    // Skips what is not asked for, cannot go back, and does not invent an end.
    let mut bytes = Vec::new();
    image.frames(0).read_to_end(&mut bytes).unwrap();
    let mut source = FramedSource::new(&bytes[..], C as u32);
    let mut out = Vec::new();
    source.fetch(4, limit, &mut out).unwrap();
    assert!(matches!(source.fetch(4, limit, &mut out), Err(SourceError::Io { .. })));
    let mut source = FramedSource::new(&bytes[..], C as u32);
    assert!(matches!(source.fetch(1, limit, &mut out), Err(SourceError::Protocol { .. })));
    let mut cut = FramedSource::new(&bytes[..20], C as u32);
    assert!(matches!(cut.fetch(0, limit, &mut out), Err(SourceError::Io { index: 0, .. })));
    let huge = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let mut huge = FramedSource::new(&huge[..], C as u32);
    assert!(matches!(huge.fetch(0, limit, &mut out), Err(SourceError::Protocol { .. })));
}

#[test]
fn a_name_that_is_to_be_kept_is_taken_by_another_image() {
    let (_dir, store) = store();
    let keep = AddOptions { keep: true, ..options() };
    let first = store.add("os", &[1; C][..], &keep).unwrap();
    let error = store.add("os", &[2; C][..], &keep).unwrap_err();
    assert!(matches!(&error, StoreError::Taken { digest, .. } if *digest == first.digest), "{error}");
    assert_eq!(store.get("os").unwrap().digest, first.digest);
    assert_eq!(store.add("os", &[1; C][..], &keep).unwrap().digest, first.digest, "the same again is fine");
    assert_ne!(store.add("os", &[2; C][..], &options()).unwrap().digest, first.digest);
}

#[test]
fn chunks_that_are_not_stored_are_refused() {
    let (_dir, store) = store();
    let digest = store.add("x", &raw()[..], &options()).unwrap().digest;
    for index in [1, 2, 5, u64::MAX] {
        assert!(matches!(store.open_chunk(&digest, index), Err(StoreError::NoSuchChunk { .. })), "{index}");
    }
    let map =
        BlockMap::decode_expecting(&store.open_image(&digest).unwrap().map().encode(), &digest).unwrap();
    assert_eq!(map.chunk_at(1), Chunk::Zero);
}
