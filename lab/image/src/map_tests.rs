use proptest::prelude::*;

use super::*;

fn data(n: u8) -> Chunk {
    Chunk::Data([n; 32])
}

fn map() -> BlockMap {
    BlockMap::new(3 * 4096 + 1, 4096, None, vec![data(1), Chunk::Zero, data(2), data(3)]).unwrap()
}

#[test]
fn a_map_survives_the_wire() {
    let map = map();
    let back = BlockMap::decode(&map.encode()).unwrap();
    assert_eq!(back, map);
    assert_eq!(back.digest().as_bytes(), blake3::hash(&map.encode()).as_bytes());
    assert_eq!(BlockMap::decode_expecting(&map.encode(), &map.digest()), Ok(map));
}

#[test]
fn lengths_and_sums_know_the_short_last_chunk() {
    let map = map();
    assert_eq!([0, 1, 3, 4].map(|index| map.chunk_len(index)), [4096, 4096, 1, 0]);
    assert_eq!(map.chunk_len(u64::MAX), 0);
    assert_eq!(map.chunk_at(u64::MAX), Chunk::Zero);
    assert_eq!(map.mapped(), 2 * 4096 + 1);
    let summary = map.summary();
    assert_eq!((summary.chunks, summary.mapped, summary.size), (4, 8193, 12_289));
}

#[test]
fn the_digest_tells_everything_apart() {
    let seed = |offset| Some(Seed { offset, len: 512 });
    let chunks = || vec![data(1), Chunk::Zero];
    let maps = [
        BlockMap::new(8192, 4096, None, chunks()).unwrap(),
        BlockMap::new(8191, 4096, None, chunks()).unwrap(),
        BlockMap::new(16_384, 8192, None, chunks()).unwrap(),
        BlockMap::new(8192, 4096, None, vec![Chunk::Zero, data(1)]).unwrap(),
        BlockMap::new(8192, 4096, None, vec![data(1), data(0)]).unwrap(),
        BlockMap::new(8192, 4096, seed(4096), chunks()).unwrap(),
        BlockMap::new(8192, 4096, seed(4608), chunks()).unwrap(),
    ];
    let digests: std::collections::BTreeSet<_> = maps.iter().map(BlockMap::digest).collect();
    assert_eq!(digests.len(), maps.len());
}

#[test]
fn the_blank_image_is_a_map() {
    let map = BlockMap::new(0, 4096, None, Vec::new()).unwrap();
    assert_eq!(BlockMap::decode(&map.encode()).unwrap(), map);
    assert_eq!(map.summary().chunks, 0);
}

#[test]
fn bounds_are_kept_before_memory_is_taken() {
    let head = |size: u64, chunk: u32| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(size.to_le_bytes());
        bytes.extend(chunk.to_le_bytes());
        bytes.extend([0; 16]);
        BlockMap::decode(&bytes)
    };
    assert_eq!(head(u64::MAX, 4096), Err(MapError::Size(u64::MAX)));
    assert_eq!(head(MAX_IMAGE_SIZE + 1, MAX_CHUNK), Err(MapError::Size(MAX_IMAGE_SIZE + 1)));
    for chunk in [0, 1, 2048, 4097, 12_288, MAX_CHUNK * 2, u32::MAX] {
        assert_eq!(head(4096, chunk), Err(MapError::ChunkLength(chunk)));
    }
    assert_eq!(head(MAX_IMAGE_SIZE, 4096), Err(MapError::TooManyChunks(1 << 32)));
    // A million chunks promised, none sent.
    assert_eq!(head(MAX_IMAGE_SIZE, MAX_CHUNK), Err(MapError::Truncated(HEADER)));
}

#[test]
fn bytes_that_are_nearly_a_map_are_refused() {
    let good = map().encode();
    for cut in 0..good.len() {
        assert!(BlockMap::decode(&good[..cut]).is_err(), "cut to {cut}");
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(BlockMap::decode(&long), Err(MapError::Trailing(1)));
    let mut version = good.clone();
    version[7] = 2;
    assert_eq!(BlockMap::decode(&version), Err(MapError::Magic));
    let mut tag = good.clone();
    tag[HEADER] = 7;
    assert_eq!(BlockMap::decode(&tag), Err(MapError::Tag { index: 0, tag: 7 }));
    let other = Digest::from_bytes([9; 32]);
    assert!(matches!(BlockMap::decode_expecting(&good, &other), Err(MapError::OtherImage { .. })));
}

#[test]
fn the_number_of_chunks_must_fit_the_size() {
    let made = BlockMap::new(8193, 4096, None, vec![Chunk::Zero; 2]);
    assert_eq!(made, Err(MapError::ChunkCount { expected: 3, got: 2 }));
    assert!(BlockMap::new(8193, 4096, None, vec![Chunk::Zero; 4]).is_err());
}

#[test]
fn a_seed_area_lies_inside_on_blocks_and_on_zeroes() {
    let with = |offset, len| {
        let chunks = vec![data(1), Chunk::Zero, Chunk::Zero, data(2)];
        BlockMap::new(4 * 4096, 4096, Some(Seed { offset, len }), chunks)
    };
    assert!(with(4096, 8192).is_ok());
    // Shares chunks with data: their zeroes are checked elsewhere.
    assert!(with(512, 512).is_ok());
    for (offset, len) in [
        (4096, 0),
        (4096, 511),
        (4096, 513),
        (4097, 512),
        (16_384, 512),
        (15_872, 1024),
        (0, 4096),
        (0, MAX_SEED + 512),
        (u64::MAX - 511, 512),
    ] {
        assert!(with(offset, len).is_err(), "{offset}+{len}");
    }
}

#[test]
fn a_digest_has_one_spelling() {
    let digest = Digest::from_bytes([0xab; 32]);
    let text = digest.to_string();
    assert_eq!(text.parse(), Ok(digest));
    assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<Digest>(&format!("\"{text}\"")).unwrap(), digest);
    let upper = text.to_uppercase().replace("B3:", "b3:");
    for bad in ["", "b3:", &text[3..], &text[..66], &upper, &format!("{text}0"), "b3:zz"] {
        assert_eq!(bad.parse::<Digest>(), Err(ParseDigestError), "{bad}");
    }
}

fn any_map() -> impl Strategy<Value = BlockMap> {
    let chunk = prop_oneof![Just(Chunk::Zero), any::<[u8; 32]>().prop_map(Chunk::Data)];
    let chunks = prop::collection::vec(chunk, 0..40);
    (chunks, 12u32..=24, any::<u32>(), any::<bool>()).prop_map(|(chunks, shift, short, seeded)| {
        let len = 1u32 << shift;
        let full = chunks.len() as u64 * u64::from(len);
        let size = full.saturating_sub(u64::from(short % len));
        let zero = chunks.iter().position(|c| *c == Chunk::Zero);
        let seed = zero.map(|at| Seed { offset: at as u64 * u64::from(len), len: 512 });
        let seed = seed.filter(|seed| seeded && seed.check(size).is_ok());
        BlockMap::new(size, len, seed, chunks).unwrap()
    })
}

proptest! {
    #[test]
    fn every_map_survives_the_wire(map in any_map()) {
        let bytes = map.encode();
        prop_assert!(bytes.len() <= MAX_ENCODED_MAP);
        prop_assert_eq!(BlockMap::decode_expecting(&bytes, &map.digest()), Ok(map));
    }

    #[test]
    fn no_bytes_make_decode_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(BlockMap::decode(&bytes).is_err() || bytes.starts_with(MAGIC));
    }

    /// A changed map is refused, or is another image: never the same digest.
    #[test]
    fn a_changed_byte_is_noticed(map in any_map(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = map.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(BlockMap::decode_expecting(&bytes, &map.digest()).is_err());
        if let Ok(other) = BlockMap::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}
