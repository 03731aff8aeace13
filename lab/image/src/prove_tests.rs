use super::*;
use crate::testing::{MemDisk, image, job, sparse};
use crate::{BlockMap, WriteOptions};

const C: usize = 4096;

/// Data, hole, data, short data, and a tail: written and exact.
fn proven() -> (BlockMap, MemDisk) {
    let raw = sparse(&[true, false, true, true], C, 96);
    let (map, mut source) = image(&raw, C as u32, None);
    let mut disk = MemDisk::used(6 * C + 10);
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    (map, disk)
}

#[test]
fn a_flipped_bit_is_found_where_it_is() {
    let image_end = 4 * C as u64 - 96;
    let c = C as u64;
    let cases = [
        (5, Mismatch { offset: 0, len: c, kind: MismatchKind::Data }),
        (c + 77, Mismatch { offset: c + 77, len: 1, kind: MismatchKind::Zero }),
        (3 * c, Mismatch { offset: 3 * c, len: c - 96, kind: MismatchKind::Data }),
        (image_end, Mismatch { offset: image_end, len: 1, kind: MismatchKind::Tail }),
        (6 * c + 9, Mismatch { offset: 6 * c + 9, len: 1, kind: MismatchKind::Tail }),
    ];
    for (at, place) in cases {
        let (map, mut disk) = proven();
        disk.bytes[at as usize] ^= 0x40;
        let proof = job(&map).prove(&mut disk).unwrap();
        assert_eq!(proof.mismatches, [place], "bit flipped at {at}");
        let missing = proof.missing_for(&map.summary(), disk.size());
        assert_eq!(missing, [Missing::Mismatches { count: 1, first: place.offset }]);
    }
}

#[test]
fn a_device_that_only_says_it_erased_is_found_out() {
    let raw = sparse(&[true, false, true], C, 0);
    let (map, mut source) = image(&raw, C as u32, None);
    let mut disk = MemDisk { lies_about_zeroing: true, ..MemDisk::used(5 * C) };
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    let proof = job(&map).prove(&mut disk).unwrap();
    let kinds: Vec<_> = proof.mismatches.iter().map(|place| (place.offset / C as u64, place.kind)).collect();
    assert_eq!(kinds, [(1, MismatchKind::Zero), (3, MismatchKind::Tail), (4, MismatchKind::Tail)]);
}

#[test]
fn each_missing_item_is_named() {
    let (map, mut disk) = proven();
    let size = disk.size();
    let good = job(&map).prove(&mut disk).unwrap();
    assert_eq!(good.is_complete_for(&map.summary(), size), Ok(()));
    assert_eq!(good.bytes_read, size);
    assert!(matches!(good.missing_for(&map.summary(), size + 1)[0], Missing::DeviceSize { .. }));

    type Spoil = fn(&mut Proof);
    let spoils: [(&str, Spoil); 8] = [
        ("image", |p| p.digest = Digest::from_bytes([0; 32])),
        ("device", |p| p.device_size -= 1),
        ("bytes read", |p| p.bytes_read -= 1),
        ("chunks checked", |p| p.chunks_checked -= 1),
        ("data bytes checked", |p| p.data_bytes_checked = 0),
        ("zero bytes checked", |p| p.zero_bytes_checked += 1),
        ("tail bytes checked", |p| p.tail_bytes_checked -= 1),
        ("places differ", |p| p.mismatch_count = 3),
    ];
    for (what, spoil) in spoils {
        let mut proof = good.clone();
        spoil(&mut proof);
        let missing = proof.missing_for(&map.summary(), size);
        assert_eq!(missing.len(), 1, "{what}: {missing:?}");
        assert!(missing[0].to_string().contains(what), "{what}: {}", missing[0]);
    }
}

#[test]
fn many_differences_are_counted_and_the_first_are_named() {
    let (map, _) = image(&vec![0; 100 * C], C as u32, None);
    let mut disk = MemDisk::used(200 * C);
    let proof = job(&map).prove(&mut disk).unwrap();
    assert_eq!((proof.mismatch_count, proof.mismatches.len()), (200, MAX_MISMATCHES));
}

#[test]
fn an_unreadable_place_is_no_proof() {
    let (map, mut disk) = proven();
    disk.bad_read = Some(5 * C as u64);
    assert!(matches!(job(&map).prove(&mut disk), Err(ProveError::Read { .. })));
    disk.bad_read = None;
    disk.fails_flush = true;
    assert!(matches!(job(&map).prove(&mut disk), Err(ProveError::Flush(_))));
    let mut small = MemDisk::used(4096);
    assert!(matches!(job(&map).prove(&mut small), Err(ProveError::TooSmall { .. })));
}

#[test]
fn cancelling_gives_no_proof() {
    let (map, mut disk) = proven();
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let job = Job { map: &map, cancel: &cancel, progress: &|_| {} };
    assert!(matches!(job.prove(&mut disk), Err(ProveError::Cancelled)));
}

#[test]
fn a_proof_survives_the_wire() {
    let (map, mut disk) = proven();
    disk.bytes[0] ^= 1;
    let proof = job(&map).prove(&mut disk).unwrap();
    let json = serde_json::to_string(&proof).unwrap();
    assert_eq!(serde_json::from_str::<Proof>(&json).unwrap(), proof);
    let missing = proof.missing_for(&map.summary(), 1);
    let json = serde_json::to_string(&missing).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Missing>>(&json).unwrap(), missing);
}
