//! The disk under the database is full for some seconds. Nothing that was
//! answered is lost, reads go on, and the lab goes on by itself once there is
//! space.

use super::Harm;
use crate::arena::Arena;
use crate::harness::Lab;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Enough for the database and its log, and soon full.
const SIZE: &str = "size=64m,mode=0700";

/// Puts the lab's data on a small disk of its own. Only in a mount namespace,
/// which `tests/violence/run` makes: it ends with us, and the disk with it.
pub fn prepare(lab: &mut Lab) {
    assert!(std::env::var_os("PITSTOP_OWN_MOUNTS").is_some(), "start this with tests/violence/run");
    std::fs::create_dir(lab.data()).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "pitstop"]).arg(lab.data()).status();
    assert!(mount.unwrap().success(), "no small disk can be mounted");
}

/// Fills it, frees it; sometimes the daemon is killed in between.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(500..1_500);
    let filler = arena.lab.data().join("filler");
    let failed = |e: std::io::Error| format!("{}: {e}", filler.display());
    fill(&filler).map_err(failed)?;
    let full = arena.work(3_000..6_000);
    arena.until_answered()?;
    if !arena.lab.log().contains("a commit failed") {
        return Err("the disk was full and every commit went well: this shows nothing".to_owned());
    }
    let killed = arena.rng.bool();
    if killed {
        arena.lab.kill9();
    }
    std::fs::remove_file(&filler).map_err(failed)?;
    if killed {
        arena.lab.start();
    }
    let after = arena.until_served()?;
    let how = if killed { ", killed while it was" } else { "" };
    Ok(format!("full for {} ms{how}, served again after {} ms", full.as_millis(), after.as_millis()))
}

/// Takes all the space there is, to the last byte.
fn fill(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 64 << 10, 4 << 10, 1] {
        let piece = vec![1; size];
        while file.write_all(&piece).is_ok() {}
    }
    Ok(())
}
