//! SIGKILL at any moment: what a crash, an OOM killer or a pulled plug does to
//! the process. The kill itself is how every round ends; this one does nothing
//! before it.

use crate::arena::Arena;

/// Waits for the moment: mostly soon, so that rounds are many; sometimes long
/// enough for whole turns to be under way.
pub fn harm(arena: &mut Arena) -> Result<String, String> {
    let time = match arena.rng.u32(..20) {
        0 => arena.work(1_500..4_000),
        1..4 => arena.work(400..1_500),
        _ => arena.work(20..400),
    };
    Ok(format!("killed {} ms after its start", time.as_millis()))
}
