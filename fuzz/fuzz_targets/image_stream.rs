//! An image on its way to a disk: a block map and a stream of frames, both from the network.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::disk::Disk;
use pitstop_fuzz::{Room, assert_one_line, within};
use pitstop_image::{BlockMap, FramedSource, Job, WriteOptions};
use std::sync::atomic::AtomicBool;

const DISK: usize = 64 << 10;
/// Buffers for a chunk as stored and as written, and what zstd keeps; chunks are small here.
const ROOM: Room = Room { base: 2 << 20, per_byte: 64 };

static GO_ON: AtomicBool = AtomicBool::new(false);

fuzz_target!(|data: &[u8]| {
    // The length of the map, the map, the stream.
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let Some((map, stream)) = rest.split_at_checked(u16::from_le_bytes(*len).into()) else { return };
    let Ok(map) = BlockMap::decode(map) else { return };
    if map.chunk() as usize > DISK {
        return;
    }
    let mut disk = Disk::used(DISK);
    let job = Job { map: &map, cancel: &GO_ON, progress: &|_| {} };
    let mut source = FramedSource::new(stream, map.chunk());
    let written = within(data.len(), ROOM, || job.write(&mut disk, &mut source, WriteOptions::default()));
    match written {
        Ok(_) => {
            let proof = job.prove(&mut disk).expect("a disk in memory can be read");
            assert_eq!(proof.is_complete_for(&map.summary(), DISK as u64), Ok(()));
            assert!(
                disk.0[map.size() as usize..].iter().all(|byte| *byte == 0),
                "old bytes behind the image"
            );
        }
        Err(stopped) => {
            assert_one_line(&stopped.cause.to_string());
            assert!(
                map.mapped() > 0 || map.size() > DISK as u64,
                "nothing was to be fetched: {}",
                stopped.cause
            );
        }
    }
});
