//! Block maps: what the daemon sends to agents and what the store keeps.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_one_line, within};
use pitstop_image::{BlockMap, Chunk};

fuzz_target!(|data: &[u8]| {
    match within(data.len(), Room::default(), || BlockMap::decode(data)) {
        Ok(map) => is_sound(&map, data),
        Err(error) => assert_one_line(&error.to_string()),
    }
});

fn is_sound(map: &BlockMap, data: &[u8]) {
    assert_eq!(map.encode(), data, "a map has one spelling");
    assert_eq!(BlockMap::decode_expecting(data, &map.digest()).as_ref(), Ok(map));
    assert_eq!(map.digest().to_string().parse(), Ok(map.digest()));
    // The chunks lie side by side from the first byte to the last, so that mapped ranges are sorted and disjoint.
    let mut end = 0;
    let mut mapped = 0;
    for (index, chunk) in map.chunks().iter().enumerate() {
        let len = map.chunk_len(index as u64) as u64;
        assert!(len > 0 && len <= u64::from(map.chunk()));
        assert_eq!(end, index as u64 * u64::from(map.chunk()));
        end += len;
        mapped += if *chunk == Chunk::Zero { 0 } else { len };
    }
    assert_eq!((end, mapped), (map.size(), map.mapped()));
    assert_eq!(map.chunk_len(map.chunks().len() as u64), 0);
    if let Some(seed) = map.seed() {
        assert!(seed.len > 0 && seed.offset + seed.len <= map.size());
        let inside =
            seed.offset.div_ceil(map.chunk().into())..(seed.offset + seed.len) / u64::from(map.chunk());
        assert!(inside.into_iter().all(|index| map.chunk_at(index) == Chunk::Zero));
    }
}
