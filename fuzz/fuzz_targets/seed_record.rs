//! Seed records: left by the boot agent, on a disk that a tenant may write.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::disk::Disk;
use pitstop_fuzz::{Room, assert_one_line, within};
use pitstop_image::Seed;
use pitstop_image::seed::{read, wipe, write};

/// The area is read with buffers of its own length, whatever is in it.
const ROOM: Room = Room { base: 1 << 20, per_byte: 8 };

fuzz_target!(|data: &[u8]| {
    // A sector in front, the area, a sector behind it.
    let len = data.len().div_ceil(512).max(1) * 512;
    let seed = Seed { offset: 512, len: len as u64 };
    let mut disk = Disk::used(len + 1024);
    disk.0[512..512 + len].fill(0);
    disk.0[512..512 + data.len()].copy_from_slice(data);

    match within(len, ROOM, || read(&mut disk, seed)) {
        Ok(Some(record)) => {
            let mut other = disk.clone();
            write(&mut other, seed, record.json()).expect("what was read can be written over itself");
            assert_eq!(read(&mut other, seed).expect("readable").as_ref(), Some(&record));
            wipe(&mut other, seed).expect("a record may be wiped");
            assert!(other.0[512..512 + len].iter().all(|byte| *byte == 0));
            assert!(
                other.0[..512].iter().chain(&other.0[512 + len..]).all(|byte| *byte == 0xa5),
                "others' bytes"
            );
        }
        Ok(None) => {}
        Err(error) => assert_one_line(&error.to_string()),
    }
});
