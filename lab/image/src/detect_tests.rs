use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn find(disk: &[u8]) -> Option<Seed> {
    let found = find_seed_partition::<Infallible>(disk.len() as u64, &mut |offset, buf| {
        buf.copy_from_slice(&disk[offset as usize..][..buf.len()]);
        Ok(())
    });
    found.unwrap()
}

/// A disk of `sectors` sectors with one GPT entry named `name`.
fn gpt(sector: usize, sectors: usize, name: &str, first: u64, last: u64) -> Vec<u8> {
    let mut disk = vec![0; sectors * sector];
    let header = &mut disk[sector..];
    header[..8].copy_from_slice(b"EFI PART");
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    header[80..84].copy_from_slice(&128u32.to_le_bytes());
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    let entry = &mut disk[2 * sector + 128..];
    entry[..16].fill(1);
    entry[32..40].copy_from_slice(&first.to_le_bytes());
    entry[40..48].copy_from_slice(&last.to_le_bytes());
    for (unit, at) in name.encode_utf16().zip((56..).step_by(2)) {
        entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    disk
}

fn mbr(kind: u8, first: u32, count: u32, sectors: usize) -> Vec<u8> {
    let mut disk = vec![0; sectors * SECTOR];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 16 + 4] = kind;
    disk[446 + 16 + 8..][..4].copy_from_slice(&first.to_le_bytes());
    disk[446 + 16 + 12..][..4].copy_from_slice(&count.to_le_bytes());
    disk
}

#[test]
fn a_gpt_partition_is_found_by_its_name_with_either_sector_size() {
    let small = gpt(512, 100, SEED_PARTITION_NAME, 40, 47);
    assert_eq!(find(&small), Some(Seed { offset: 40 * 512, len: 8 * 512 }));
    let large = gpt(4096, 100, SEED_PARTITION_NAME, 40, 47);
    assert_eq!(find(&large), Some(Seed { offset: 40 * 4096, len: 8 * 4096 }));
    for other in ["", "pitstop", "pitstop-seed2", "PITSTOP-SEED"] {
        assert_eq!(find(&gpt(512, 100, other, 40, 47)), None, "{other}");
    }
}

#[test]
fn an_mbr_partition_is_found_by_its_type() {
    assert_eq!(find(&mbr(0xda, 8, 4, 64)), Some(Seed { offset: 8 * 512, len: 4 * 512 }));
    assert_eq!(find(&mbr(0x83, 8, 4, 64)), None);
    let mut unsigned = mbr(0xda, 8, 4, 64);
    unsigned[511] = 0;
    assert_eq!(find(&unsigned), None);
}

#[test]
fn a_large_partition_gives_its_first_mebibyte() {
    let found = find(&mbr(0xda, 8, 9000, 10_000)).unwrap();
    assert_eq!(found.len, MAX_DETECTED_SEED);
}

#[test]
fn impossible_tables_are_no_tables() {
    for (first, last) in [(40, 39), (90, 100), (0, 5), (u64::MAX, u64::MAX), (1, u64::MAX)] {
        assert_eq!(find(&gpt(512, 100, SEED_PARTITION_NAME, first, last)), None, "{first}..{last}");
    }
    for (first, count) in [(8, 0), (63, 2), (0, 4), (u32::MAX, u32::MAX)] {
        assert_eq!(find(&mbr(0xda, first, count, 64)), None, "{first}+{count}");
    }
    let mut far = gpt(512, 100, SEED_PARTITION_NAME, 40, 47);
    far[512 + 72..512 + 80].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(find(&far), None);
    assert_eq!(find(&[]), None);
    assert_eq!(find(&[0; 511]), None);
}

proptest! {
    /// The closure above panics on a read beyond the end.
    #[test]
    fn no_table_leads_beyond_the_disk(
        mut disk in prop::collection::vec(any::<u8>(), 1024..6000),
        head in prop::collection::vec(any::<u8>(), 20),
        is_gpt in any::<bool>(),
    ) {
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        if is_gpt {
            disk[512..520].copy_from_slice(b"EFI PART");
            let len = disk.len();
            disk[584..604.min(len)].copy_from_slice(&head[..20.min(len - 584)]);
            // A plausible table start half of the time.
            if head[0] & 1 == 0 { disk[584..592].copy_from_slice(&2u64.to_le_bytes()); }
            if head[1] & 1 == 0 { disk[596..600].copy_from_slice(&128u32.to_le_bytes()); }
        }
        if let Some(seed) = find(&disk) {
            prop_assert!(seed.check(disk.len() as u64).is_ok());
        }
    }
}
