//! Finding the seed area by the partition made for it.

use crate::map::Seed;

/// Name of the GPT partition that is a seed area.
pub const SEED_PARTITION_NAME: &str = "pitstop-seed";

/// Of a larger partition only so much, from its start, is the seed area: 1 MiB.
pub const MAX_DETECTED_SEED: u64 = 1 << 20;

/// MBR partition type "non-filesystem data".
const MBR_NON_FS_DATA: u8 = 0xda;

const SECTOR: usize = 512;
/// The UEFI specification (§5.3) demands room for 128; 1024 is generous.
const MAX_GPT_ENTRIES: u32 = 1024;

type ReadAt<'r, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'r;

/// Looks for the partition made for the seed on a disk or image of `size`
/// bytes: the first GPT partition named [`SEED_PARTITION_NAME`] (512 or 4096
/// byte sectors), else the first primary MBR partition of type 0xDA. At most
/// its first [`MAX_DETECTED_SEED`] bytes are given. Whether they are zero, or
/// hold a record, is for the caller to see.
///
/// A table that makes no sense is no table: `None`.
///
/// # Errors
/// Only those of `read_at`, which is never asked beyond `size`.
pub fn find_seed_partition<E>(size: u64, read_at: &mut ReadAt<'_, E>) -> Result<Option<Seed>, E> {
    if size < SECTOR as u64 {
        return Ok(None);
    }
    for sector in [512, 4096] {
        if let Some(seed) = in_gpt(size, sector, read_at)? {
            return Ok(Some(seed));
        }
    }
    in_mbr(size, read_at)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

/// UEFI specification 2.10, §5.3.2 (header) and §5.3.3 (entries).
fn in_gpt<E>(size: u64, sector: u64, read_at: &mut ReadAt<'_, E>) -> Result<Option<Seed>, E> {
    let mut header = [0u8; 92];
    if size < 2 * sector {
        return Ok(None);
    }
    read_at(sector, &mut header)?;
    if &header[..8] != b"EFI PART" {
        return Ok(None);
    }
    let (table, count, entry) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    if !(128..=4096).contains(&entry) || !entry.is_power_of_two() {
        return Ok(None);
    }
    let mut bytes = [0u8; 128];
    for index in 0..u64::from(count.min(MAX_GPT_ENTRIES)) {
        let at = table.checked_mul(sector).and_then(|start| start.checked_add(index * u64::from(entry)));
        let Some(at) = at.filter(|at| at.checked_add(128).is_some_and(|end| end <= size)) else {
            return Ok(None);
        };
        read_at(at, &mut bytes)?;
        let unused = bytes[..16] == [0; 16];
        if !unused && has_seed_name(&bytes[56..128]) {
            let (first, last) = (u64_at(&bytes, 32), u64_at(&bytes, 40));
            let sectors = last.checked_sub(first).map(|n| n.saturating_add(1));
            return Ok(sectors.and_then(|sectors| seed(size, sector, first, sectors)));
        }
    }
    Ok(None)
}

/// UTF-16LE, padded with zeroes.
fn has_seed_name(name: &[u8]) -> bool {
    let units = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    units.take_while(|&unit| unit != 0).eq(SEED_PARTITION_NAME.encode_utf16())
}

fn in_mbr<E>(size: u64, read_at: &mut ReadAt<'_, E>) -> Result<Option<Seed>, E> {
    let mut sector = [0u8; SECTOR];
    read_at(0, &mut sector)?;
    if sector[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let mut entries = sector[446..510].chunks_exact(16);
    let entry = entries.find(|entry| entry[4] == MBR_NON_FS_DATA);
    Ok(entry.and_then(|e| seed(size, 512, u64::from(u32_at(e, 8)), u64::from(u32_at(e, 12)))))
}

fn seed(size: u64, sector: u64, first: u64, sectors: u64) -> Option<Seed> {
    // Sector 0 holds the table itself.
    let offset = first.checked_mul(sector).filter(|&offset| offset > 0)?;
    let len = sectors.saturating_mul(sector);
    offset.checked_add(len).filter(|&end| end <= size)?;
    let seed = Seed { offset, len: len.min(MAX_DETECTED_SEED) };
    seed.check(size).ok().map(|()| seed)
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
