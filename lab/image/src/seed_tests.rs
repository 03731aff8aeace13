use proptest::prelude::*;

use super::*;
use crate::testing::{MemDisk, image, job, sparse};
use crate::{MismatchKind, WriteOptions};

const AREA: Seed = Seed { offset: 4096, len: 4096 };
const BODY: &[u8] = br#"{"server":"https://10.0.0.1","token":"sesame"}"#;

fn blank() -> MemDisk {
    MemDisk { bytes: vec![0; 16_384], ..MemDisk::default() }
}

#[test]
fn a_record_is_read_back_and_touches_nothing_else() {
    let mut disk = blank();
    disk.bytes[4095] = 1;
    disk.bytes[8192] = 2;
    assert_eq!(read(&mut disk, AREA).unwrap(), None);
    write(&mut disk, AREA, BODY).unwrap();
    assert_eq!(read(&mut disk, AREA).unwrap().unwrap().json(), BODY);
    assert_eq!((disk.bytes[4095], disk.bytes[8192]), (1, 2));
    assert!(is_zero(&disk.bytes[4096 + HEADER + BODY.len()..8192]));
    assert!(disk.flushes > 0);
}

#[test]
fn a_shorter_record_leaves_nothing_of_the_longer_one() {
    let mut disk = blank();
    write(&mut disk, AREA, BODY).unwrap();
    write(&mut disk, AREA, b"{}").unwrap();
    assert_eq!(read(&mut disk, AREA).unwrap().unwrap().json(), b"{}");
    assert!(is_zero(&disk.bytes[4096 + HEADER + 2..8192]));
}

#[test]
fn wiping_leaves_zeroes() {
    let mut disk = blank();
    write(&mut disk, AREA, BODY).unwrap();
    wipe(&mut disk, AREA).unwrap();
    assert!(is_zero(&disk.bytes));
    assert_eq!(read(&mut disk, AREA).unwrap(), None);
    assert!(disk.erasures.is_empty(), "a secret is overwritten, not unmapped");
}

#[test]
fn somebody_elses_data_is_neither_overwritten_nor_wiped() {
    let mut disk = blank();
    disk.bytes[8000] = 1;
    assert!(matches!(write(&mut disk, AREA, BODY), Err(SeedError::Occupied(4096))));
    assert!(matches!(wipe(&mut disk, AREA), Err(SeedError::Occupied(4096))));
    assert_eq!(disk.bytes[8000], 1);
    disk.bytes[4096] = b'X';
    assert!(matches!(read(&mut disk, AREA), Err(SeedError::Occupied(4096))));
}

#[test]
fn damage_anywhere_in_a_record_is_noticed() {
    let mut whole = blank();
    write(&mut whole, AREA, BODY).unwrap();
    for at in 0..HEADER + BODY.len() {
        let mut disk = MemDisk { bytes: whole.bytes.clone(), ..MemDisk::default() };
        disk.bytes[4096 + at] ^= 0x20;
        assert!(read(&mut disk, AREA).is_err(), "byte {at}");
    }
}

#[test]
fn what_does_not_fit_or_is_no_json_is_refused() {
    let mut disk = blank();
    let long = format!("\"{}\"", "x".repeat(4096));
    assert!(matches!(write(&mut disk, AREA, long.as_bytes()), Err(SeedError::TooLong { most: 4048, .. })));
    assert!(matches!(write(&mut disk, AREA, b"{"), Err(SeedError::NotJson)));
    for area in [Seed { offset: 16_384, len: 512 }, Seed { offset: 0, len: 0 }, Seed { offset: 1, len: 512 }]
    {
        assert!(matches!(write(&mut disk, area, BODY), Err(SeedError::Area(_))));
        assert!(matches!(read(&mut disk, area), Err(SeedError::Area(_))));
        assert!(matches!(wipe(&mut disk, area), Err(SeedError::Area(_))));
    }
    assert!(disk.writes.is_empty());
}

#[test]
fn nothing_printed_holds_the_body() {
    let mut disk = blank();
    write(&mut disk, AREA, BODY).unwrap();
    let record = read(&mut disk, AREA).unwrap().unwrap();
    assert!(!format!("{record:?}").contains("sesame"));
    let error = write(&mut disk, AREA, br#"{"token":sesame}"#).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("sesame"));
}

#[test]
fn the_proof_comes_before_the_seed_and_would_see_it() {
    let raw = sparse(&[true, false, true], 4096, 0);
    let (map, mut source) = image(&raw, 4096, Some(AREA));
    let mut disk = MemDisk::used(16_384);
    job(&map).write(&mut disk, &mut source, WriteOptions::default()).unwrap();
    assert!(job(&map).prove(&mut disk).unwrap().is_complete_for(&map.summary(), 16_384).is_ok());
    write(&mut disk, AREA, BODY).unwrap();
    let after = job(&map).prove(&mut disk).unwrap();
    assert_eq!(after.mismatches.iter().map(|m| m.kind).collect::<Vec<_>>(), [MismatchKind::Zero]);
    wipe(&mut disk, AREA).unwrap();
    assert!(job(&map).prove(&mut disk).unwrap().is_complete_for(&map.summary(), 16_384).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_make_read_panic(bytes in prop::collection::vec(any::<u8>(), 512..2048), ours in any::<bool>()) {
        let mut bytes = bytes;
        if ours {
            bytes[..8].copy_from_slice(MAGIC);
        }
        let seed = Seed { offset: 0, len: 512 };
        let mut disk = MemDisk { bytes, ..MemDisk::default() };
        prop_assert!(read(&mut disk, seed).is_err());
    }
}
