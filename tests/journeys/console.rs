//! Consoles as people use them: on a terminal, in a search, with a break.

use crate::harness::{Lab, ONE_BOARD, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    tty: File,
}

impl Terminal {
    fn start(lab: &Lab, args: &[&str]) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let tty = File::options().read(true).write(true).open(path).unwrap();
        let end = || Stdio::from(tty.try_clone().unwrap());
        let child = lab.command(args).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = File::from(keys);
        let mut reads = keys.try_clone().unwrap();
        let (send, screen) = channel();
        // Ends with the last of the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reads.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen, seen: String::new(), tty }
    }

    /// Reads until this is there.
    fn until(&mut self, want: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(want) {
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left);
            let more = more.unwrap_or_else(|_| panic!("`{want}` never comes: {}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.tty).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.seen);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_stays_raw_when_the_console_is_killed() {
    let lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut terminal = Terminal::start(&lab, &["console", "board", "--write"]);
        terminal.until("you write");
        assert!(terminal.is_raw(), "every key is for the machine");
        terminal.signal(signal);
        assert_eq!(terminal.code(), Some(code), "{}", terminal.seen);
        assert!(!terminal.is_raw(), "{signal:?} left it raw");
    }
}

#[test]
fn an_escape_says_who_watches_and_leaves() {
    let lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let mut terminal = Terminal::start(&lab, &["console", "board", "--write", "--escape", "^"]);
    terminal.until("you write");
    terminal.type_in("^?");
    terminal.until("^. leave");
    terminal.type_in("^w");
    terminal.until("watching: ");
    terminal.type_in("^r");
    terminal.until("nobody writes");
    terminal.type_in("^t");
    terminal.seen.clear();
    terminal.until("you write");
    terminal.type_in("^.");
    assert_eq!(terminal.code(), Some(0), "{}", terminal.seen);
    assert!(!terminal.is_raw());
}

#[test]
fn a_journal_is_searched_and_cut_where_it_was_asked_for() {
    let lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let all = lab.ok(&["console", "board", "--all", "--no-follow"]);
    assert!(!all.contains('\u{1b}') && !all.contains('\r'), "words: {all:?}");
    let line = all.lines().rfind(|line| line.len() > 8).unwrap();
    let found = lab.ok(&["console", "board", "--grep", &regex::escape(line)]);
    assert!(found.lines().any(|l| l == line), "{found}");
    let marks = lab.ok(&["console", "board", "--grep", "reserved for R-", "--since", "reserve"]);
    assert!(marks.contains("-- ") && marks.contains("reserved for R-"), "{marks}");
    let nothing = lab.cli(&["console", "board", "--grep", "no machine says this"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (1, ""), "{nothing}");
    assert_eq!(lab.cli(&["console", "board", "--grep", "("]).code, 2);
    let one = lab.ok(&["console", "board", "--lines", "1", "--no-follow"]);
    assert!(one.lines().count() <= 1 && all.ends_with(&one), "{one:?}");
    lab.ok(&["console", "board", "--since", "5m", "--no-follow"]);
    let raw = lab.ok(&["console", "board", "--all", "--no-follow", "-o", "raw"]);
    assert!(raw.contains('\r'), "bytes: {raw:?}");
}

#[test]
fn a_break_that_the_line_cannot_send_is_called_sent() {
    let lab = Lab::started(ONE_BOARD);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    for ask in [&["console", "board", "--break"][..], &["console", "board", "--sysrq", "t"]] {
        let told = lab.cli(ask);
        assert_eq!(told.code != 0, told.stderr.contains("got no break"), "{told}");
        assert_eq!(told.code == 0, told.stderr.contains("sent to board"), "{told}");
    }
    assert_eq!(lab.cli(&["console", "board", "--sysrq", "reboot"]).code, 2);
}
