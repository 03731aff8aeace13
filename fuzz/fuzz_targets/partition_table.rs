//! Partition tables: of images that people upload, and of disks that tenants wrote.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, within};
use pitstop_image::{MAX_DETECTED_SEED, find_seed_partition};
use std::convert::Infallible;

/// The table is at the beginning of a larger disk, as tables are.
const BEHIND: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    for size in [data.len() as u64, data.len() as u64 + BEHIND] {
        let mut reads = 0;
        let found = within(data.len(), Room::default(), || {
            find_seed_partition::<Infallible>(size, &mut |offset, buf| {
                reads += 1;
                read(data, size, offset, buf);
                Ok(())
            })
        });
        assert!(reads < 3_000, "a table may not be read for ever");
        let Ok(found) = found;
        if let Some(seed) = found {
            assert_eq!(seed.check(size), Ok(()));
            assert!(seed.offset > 0, "the table itself would be overwritten");
            assert!(seed.len <= MAX_DETECTED_SEED);
        }
    }
});

fn read(data: &[u8], size: u64, offset: u64, buf: &mut [u8]) {
    assert!(offset + buf.len() as u64 <= size, "a read beyond the end");
    for (at, byte) in (offset..).zip(buf) {
        *byte = data.get(at as usize).copied().unwrap_or(0);
    }
}
