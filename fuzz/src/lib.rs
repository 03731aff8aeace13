//! What all fuzz targets hold a decoder to, besides not panicking: memory and time that fit the input, texts that
//! are fit for a terminal, and the same answer however a stream is cut.

pub mod disk;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory for tables, buffers and error texts that no input asks for, in bytes.
const BASE: usize = 256 << 10;
/// Processor time for a small input, in milliseconds: an instrumented decoder needs some microseconds, and a
/// page fault on a busy machine a thousand times that.
const BASE_MS: u64 = 1_000;
/// Processor time for each KiB of input, in milliseconds. What is quadratic exceeds it long before it is felt.
const MS_PER_KIB: u64 = 50;

/// How much memory a decoder may have at once.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Whatever the input is.
    pub base: usize,
    /// For each byte of the input.
    pub per_byte: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { base: BASE, per_byte: 64 }
    }
}

/// Runs a decoder on `len` bytes and holds it to memory and time that fit them: a length that is only announced
/// must cost nothing.
pub fn within<T>(len: usize, room: Room, decode: impl FnOnce() -> T) -> T {
    let (before, began) = (MEMORY.current_usage(), processor_ms());
    MEMORY.reset_peak_usage();
    let decoded = decode();
    let (used, most) = (MEMORY.peak_usage().saturating_sub(before), room.base + room.per_byte * len);
    assert!(used <= most, "{used} bytes of memory for an input of {len}; at most {most} are right");
    let (took, most) = (processor_ms().saturating_sub(began), BASE_MS + MS_PER_KIB * (len as u64 / 1024));
    assert!(took <= most, "{took} ms for an input of {len} bytes; at most {most} are right");
    decoded
}

/// Of this thread: a machine that is busy with something else is not held against the decoder.
fn processor_ms() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// A text on one line that steers no terminal.
#[track_caller]
pub fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "control characters in {text:?}");
}

/// A text of several lines that steers no terminal.
#[track_caller]
pub fn assert_lines(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "control characters in {text:?}");
}

/// Cuts a stream into pieces as a network might; `how` says where. Every value cuts differently.
pub fn cut(stream: &[u8], how: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (stream, u32::from(how));
    std::iter::from_fn(move || {
        // The constants of Numerical Recipes; all that is asked of them is variety.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = if how.is_multiple_of(2) { 7 } else { 200 };
        let (piece, left) = rest.split_at_checked(1 + (state >> 16) as usize % most).unwrap_or((rest, &[]));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first byte says what is done with the rest.
pub fn first(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}
