//! Waiting for entropy, aloud. A machine without a hardware source may have none for minutes, and the
//! first key or random number would then hang without a word.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::say::Say;

/// How long to wait.
const LIMIT: Duration = Duration::from_secs(60);
/// How often to say so.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long it may take without a word.
const QUIET: Duration = Duration::from_millis(200);

/// The kernel's random numbers did not become ready.
#[derive(Debug, thiserror::Error)]
#[error(
    "no entropy after {} s: give the machine a random source (virtio-rng, RDRAND, a TPM), and its module",
    LIMIT.as_secs()
)]
pub struct NoEntropy;

/// Waits until the kernel's random numbers are ready. /dev/random becomes readable exactly then.
pub(super) fn wait(say: &Say) -> Result<(), NoEntropy> {
    let source = match std::fs::File::open("/dev/random") {
        Ok(source) => source,
        Err(e) => {
            say.line(&format!("/dev/random: {e}; going on without a look at the entropy"));
            return Ok(());
        }
    };
    let ready = |limit: Duration| {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        let mut fds = [PollFd::new(&source, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&limit)), Ok(n) if n > 0)
    };
    if ready(QUIET) {
        return Ok(());
    }
    for waited in 0..LIMIT.as_secs() / SAY_EVERY.as_secs() {
        say.line(&format!("waiting for entropy ({} s)", waited * SAY_EVERY.as_secs()));
        if ready(SAY_EVERY) {
            say.line("entropy is ready");
            return Ok(());
        }
    }
    Err(NoEntropy)
}
