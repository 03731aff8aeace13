//! `pitstop demo`, as a newcomer starts it.

use super::{DEADLINE, until};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pitstop");

/// A demo that runs. Dropped, it is told to stop.
struct Demo {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Demo {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("PITSTOP_FORCE_TTY").env_remove("CLICOLOR_FORCE");
        let mut child = command.spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        Self { child, lines, seen: Vec::new() }
    }

    fn of(args: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("demo").args(args);
        Self::start(command)
    }

    /// Waits for a line with these words.
    fn line(&mut self, words: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(DEADLINE) else {
                panic!("never: {words}\n{}", self.seen.join("\n"))
            };
            self.seen.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Where it keeps its things.
    fn dir(&mut self) -> PathBuf {
        let line = self.line("gone at the end");
        line.split([' ', ',']).find(|word| word.contains("pitstop-demo-")).unwrap().into()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code, once it ended by itself.
    fn end(&mut self) -> i32 {
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        let mut code = None;
        until("the demo ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }

    fn text(&self) -> String {
        self.seen.join("\n")
    }

    fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(rustix::process::Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn lines(from: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    lines
}

/// Processes whose arguments or environment name the directory.
fn processes(dir: &Path) -> usize {
    let word = dir.to_str().unwrap().as_bytes();
    let names = |file: PathBuf| {
        std::fs::read(file).is_ok_and(|text| text.windows(word.len()).any(|window| window == word))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    entries.filter(|p| names(p.join("cmdline")) || names(p.join("environ"))).count()
}

fn nothing_is_left(dir: &Path) {
    assert!(!dir.exists(), "{} is left", dir.display());
    until("every process of the demo is gone", || processes(dir) == 0);
}

#[test]
fn the_demo_shows_what_it_promises_and_leaves_nothing() {
    let mut demo = Demo::of(&[]);
    let dir = demo.dir();
    demo.line("marks of build-2");
    assert!(processes(&dir) >= 12, "machines are processes: {}", processes(&dir));
    assert_eq!(demo.end(), 0, "{}\n{}", demo.text(), demo.complaints());
    let text = demo.text();
    assert!(text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "plain text only, on a pipe: {text}");
    for words in [
        "both are taken, so it waits",
        "place 1 of 1 in the queue",
        "its session stopped beating",
        "quarantined, class boot",
        "Kernel panic - not syncing",
        "board04 instead of board03",
        "16 of 16 MiB read back: proven",
        "no mark of any build anywhere",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    nothing_is_left(&dir);
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let mut demo = Demo::of(&[]);
    let dir = demo.dir();
    demo.line("marks left on the disk");
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.end(), 130, "{}", demo.text());
    nothing_is_left(&dir);
}

#[test]
fn a_mark_that_is_left_on_any_disk_is_found_and_said() {
    let mut demo = Demo::of(&[]);
    let disk = demo.dir().join("data/machines/pc07/disk-root.img");
    demo.line("runs");
    let disk = std::fs::File::options().write(true).open(disk).unwrap();
    disk.write_all_at(b"pitstop-demo-mark/", 77_777).unwrap();
    assert_eq!(demo.end(), 1, "{}", demo.text());
    let text = demo.text();
    assert!(text.contains("missing: pc07: 1 marks of builds"), "{text}");
    assert!(!text.contains("no mark of any build"), "{text}");
}

#[test]
fn where_namespaces_are_refused_builds_are_built_in_steps_and_it_says_so() {
    // In a namespace in which no other may be made. Where not even that is had, they are refused anyway; but
    // root in a chroot would find his way, and goes without his capabilities.
    let script = "if ! unshare -Ur true; then
            [ \"$(id -u)\" != 0 ] || exec setpriv --bounding-set=-all \"$0\" demo --stay
            exec \"$0\" demo --stay
        fi
        exec unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" demo --stay' \"$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM]);
    let mut demo = Demo::start(command);
    let dir = demo.dir();
    demo.line("this host refuses user namespaces");
    demo.line("built-in steps only, without a sandbox");
    demo.line("The lab stays");
    assert!(demo.text().contains("Every build got a clean machine"), "{}", demo.text());
    // Nothing but the steps is let out of the sandbox that is not there.
    let cli = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("PITSTOP_SOCKET", dir.join("sock")).stdin(Stdio::null());
        super::Ran::of(command.output().unwrap())
    };
    // Inside we are root of the namespace, outside whoever runs the test: the same uid.
    assert_eq!(cli(&["reserve", "pc01", "--want", "agent"]).code, 0);
    let ran = cli(&["run", "pc01", "--", "true"]);
    assert!(ran.code == 125 && ran.err.contains("refuses user namespaces"), "{}: {}", ran.code, ran.err);
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.end(), 0, "{}", demo.text());
    nothing_is_left(&dir);
}

#[test]
fn the_lab_stays_for_commands_until_ctrl_c() {
    let mut demo = Demo::of(&["--stay"]);
    let dir = demo.dir();
    demo.line("The lab stays until ctrl-C");
    let command = demo.line(" ls");
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let listed = Command::new(program).args(words).args(["-o", "name"]).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 12, "{command}");
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.end(), 0, "{}", demo.text());
    nothing_is_left(&dir);
}
