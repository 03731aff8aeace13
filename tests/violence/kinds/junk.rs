//! Bytes that make no sense, and requests without an end, to each listener.
//! They cost the daemon neither its life nor its memory, and change nothing.

use super::Harm;
use crate::arena::Arena;
use crate::harness::wire::Link;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a stranger goes on.
const WAIT: Duration = Duration::from_millis(300);
/// Most that strangers may cost, in KiB.
const MEMORY: u64 = 96 << 10;
/// Length of what has no end.
const HUGE: usize = 16 << 20;

/// Says all of it to both.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    let before = memory(arena)?;
    let mut said = 0;
    for text in nonsense(arena) {
        said += say(UnixStream::connect(arena.lab.path("sock")), &text);
        said += say(TcpStream::connect(("127.0.0.1", arena.machines_port())), &text);
    }
    frames(arena)?;
    let grown = memory(arena)?.saturating_sub(before);
    if grown > MEMORY {
        return Err(format!("nonsense made the daemon grow by {} MiB", grown >> 10));
    }
    let after = arena.until_served()?;
    let (said, grown, after) = (said >> 10, grown >> 10, after.as_millis());
    Ok(format!("{said} KiB of nonsense were taken, {grown} MiB more at most, served after {after} ms"))
}

fn nonsense(arena: &mut Arena) -> Vec<Vec<u8>> {
    let mut noise = vec![0; 256 << 10];
    arena.rng.fill(&mut noise);
    let post = |what: &str| {
        format!("POST /api/v1/reservations HTTP/1.1\r\nHost: lab\r\n{what}\r\n\r\n").into_bytes()
    };
    let with = |mut head: Vec<u8>, byte: &[u8]| {
        head.extend(byte.repeat(HUGE / byte.len()));
        head
    };
    vec![
        noise,
        vec![0; HUGE],
        // A TLS record, and a hello that is longer than any.
        with(b"\x16\x03\x01\xff\xff\x01\xff\xff\xff".to_vec(), b"\xaa"),
        with(b"GET /".to_vec(), b"a"),
        with(b"GET / HTTP/1.1\r\nHost: lab\r\nX: ".to_vec(), b"x"),
        with(b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n"),
        with(post("Content-Length: 99999999999"), b"{"),
        with(post("Content-Length: 2000000"), b"["),
        with(post("Transfer-Encoding: chunked"), b"8\r\n{\"a\":{\"a\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 3"),
        post("Content-Length: -1"),
        post("Content-Length: 18446744073709551616"),
        b"GET /api/v1/machines?select=%00%ff HTTP/1.1\r\nHost: lab\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /api/v1/status HTTP/1.1\r\nHost: lab\r\n\r\n".repeat(2_000),
    ]
}

/// Says it as long as anybody listens; how many bytes were taken.
fn say<S: Stream>(stream: std::io::Result<S>, text: &[u8]) -> usize {
    let Ok(mut stream) = stream else { return 0 };
    stream.wait_at_most(WAIT);
    let mut taken = 0;
    for piece in text.chunks(64 << 10) {
        match stream.write(piece) {
            Ok(n) if n == piece.len() => taken += n,
            Ok(n) => return taken + n,
            Err(_) => return taken,
        }
    }
    let mut answer = [0; 4 << 10];
    while stream.read(&mut answer).is_ok_and(|n| n > 0) {}
    taken
}

trait Stream: std::io::Read + std::io::Write {
    fn wait_at_most(&self, time: Duration);
}

impl Stream for UnixStream {
    fn wait_at_most(&self, time: Duration) {
        let _ = (self.set_read_timeout(Some(time)), self.set_write_timeout(Some(time)));
    }
}

impl Stream for TcpStream {
    fn wait_at_most(&self, time: Duration) {
        let _ = (self.set_read_timeout(Some(time)), self.set_write_timeout(Some(time)));
    }
}

/// Frames within TLS: a stranger who knows the lab's CA.
fn frames(arena: &Arena) -> Result<(), String> {
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let frame = |head: &[u8]| {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        [&length(head.len() + 4)[..], &length(head.len()), head].concat()
    };
    let messages = [
        vec![0xff; 8],
        vec![0; 8],
        [vec![0, 0, 0, 8], vec![0xff; 8]].concat(),
        frame(deep.as_bytes()),
        frame(b"{\"hello\":\"attach\"}"),
        // Longer than a hello may be, as far as it goes.
        [vec![0, 0x10, 0, 0], vec![0x41; 4 << 20]].concat(),
    ];
    for message in messages {
        arena.block(Link::stranger(&arena.lab, arena.machines_port(), &message))?;
    }
    Ok(())
}

/// The most memory that the daemon ever had, in KiB.
fn memory(arena: &Arena) -> Result<u64, String> {
    let path = format!("/proc/{}/status", arena.lab.pid());
    let status = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("{line} is no size"))
}
