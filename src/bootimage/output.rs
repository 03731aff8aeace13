//! Compressing the initrd, and putting the files where machines get them.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::manifest::Compression;
use super::{BootImageError, INITRD, KERNEL, MANIFEST, MEDIUM, Manifest, pipe};

/// The kernel unpacks with a window of at most 128 MiB (lib/decompress_unzstd.c); level 19 needs 8.
const LEVEL: i32 = 19;

/// Compresses an archive as the kernel can unpack it.
pub(super) fn compress(archive: &[u8], how: Compression) -> Result<Vec<u8>, BootImageError> {
    match how {
        Compression::None => Ok(archive.to_vec()),
        Compression::Zstd => {
            zstd::encode_all(archive, LEVEL).map_err(BootImageError::file("compress", INITRD))
        }
        Compression::Gzip => {
            let input = tempfile::tempfile().and_then(|mut file| {
                file.write_all(archive)?;
                file.rewind()?;
                Ok(file)
            });
            let input = input.map_err(BootImageError::file("write a temporary copy of", INITRD))?;
            // -n: no time and no name in it.
            pipe::through("gzip", &["-9nc"], input, 2 * archive.len() as u64 + 4096, Path::new(INITRD))
        }
    }
}

/// Puts the files into `out`. All are written and on the disk before the first takes its place, and a reader
/// who has one open keeps it whole. A medium that was there and is not made anew goes: it has another agent.
pub(super) fn write(
    out: &Path,
    kernel: &[u8],
    initrd: &[u8],
    medium: Option<&[u8]>,
    manifest: &Manifest,
) -> Result<(), BootImageError> {
    fs::create_dir_all(out).map_err(BootImageError::file("make", out))?;
    let mut json = serde_json::to_vec_pretty(manifest)
        .map_err(|e| BootImageError::file("write", out.join(MANIFEST))(e.into()))?;
    json.push(b'\n');
    let mut ready = Vec::new();
    let medium_file = medium.map(|bytes| (MEDIUM, bytes));
    let files = [(KERNEL, kernel), (INITRD, initrd)].into_iter().chain(medium_file);
    for (name, bytes) in files.chain([(MANIFEST, &json[..])]) {
        ready.push((name, stage(out, bytes).map_err(BootImageError::file("write", out.join(name)))?));
    }
    if medium.is_none() {
        let stale = out.join(MEDIUM);
        match fs::remove_file(&stale) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(BootImageError::file("remove", stale)(e));
            }
            _ => {}
        }
    }
    for (name, file) in ready {
        let file_name = out.join(name);
        file.persist(&file_name).map_err(|e| BootImageError::file("replace", file_name)(e.error))?;
    }
    File::open(out).and_then(|dir| dir.sync_all()).map_err(BootImageError::file("write", out))
}

fn stage(out: &Path, bytes: &[u8]) -> std::io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".new-").permissions(mode).tempfile_in(out)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}
