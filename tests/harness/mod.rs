//! A lab of simulated machines in a directory of its own, with a daemon that
//! can be killed. Nothing here waits longer than [`PATIENCE`], and nothing
//! outlives its test.

mod events;
mod program;
pub mod wire;

pub use events::{Follow, kind, numbers, of_kind, phase};
pub use program::{Done, Running};

use pitstop::sim::image::{Options, SEED_LEN, SEED_OFFSET, mksimimage};
use pitstop_drivers::sim::{self, Reply, Request, Status};
use serde_json::Value;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No condition takes this long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A lab of one board, the common case.
pub const ONE_BOARD: &str = r#"
format = 1
[lab]
name = "one-board"
[machine.board]
power.sim        = { disk = "1M", boot = "10ms" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
timeout          = { power = "10s", firmware = "30s", attach = "30s", reimage = "60s" }
"#;

/// A lab and, while one runs, its daemon.
pub struct Lab {
    dir: TempDir,
    daemon: Option<Running>,
    environment: Vec<(String, String)>,
}

impl Lab {
    /// A lab with this inventory; nothing runs yet.
    pub fn new(inventory: &str) -> Self {
        // Short: paths of sockets have 107 bytes at most.
        let dir = tempfile::Builder::new().prefix("j").tempdir().unwrap();
        std::fs::write(dir.path().join("inventory.toml"), inventory).unwrap();
        Self { dir, daemon: None, environment: Vec::new() }
    }

    /// Everything that is started from now on has this in its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A lab whose daemon runs.
    pub fn started(inventory: &str) -> Self {
        let mut lab = Self::new(inventory);
        lab.start();
        lab
    }

    /// Where everything of this lab is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Starts the daemon and waits until it serves.
    pub fn start(&mut self) {
        self.serve_within(&[]);
    }

    /// The same, by way of another command that becomes the daemon.
    pub fn serve_within(&mut self, wrapper: &[&str]) {
        assert!(self.daemon.is_none(), "a daemon runs already");
        let inventory = self.path("inventory.toml").display().to_string();
        let own = [env!("CARGO_BIN_EXE_pitstop"), "serve", "--simulated", "--inventory", &inventory];
        let words = [wrapper, &own].concat();
        let mut command = std::process::Command::new(words[0]);
        self.at_home(command.args(&words[1..]));
        let mut daemon = Running::start(command);
        let line = daemon.until_stderr(|line| line.starts_with("lab "));
        self.daemon = Some(daemon);
        if line.is_none() {
            panic!("the daemon does not serve:\n{}", self.log());
        }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").pid()
    }

    /// Whether the daemon lives, as far as its own process goes.
    pub fn runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Running::is_running)
    }

    /// SIGKILL: what a crash, an OOM killer or a pulled plug does.
    pub fn kill9(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill9();
        daemon.wait();
        self.keep_log(&daemon);
    }

    /// Asks it to stop, and demands that it does so in order.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.signal(rustix::process::Signal::TERM);
        let done = daemon.wait();
        self.keep_log(&daemon);
        assert_eq!(done, Some(0), "the daemon stops in order:\n{}", self.log());
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.daemon.as_ref().expect("a daemon runs").signal(signal);
    }

    /// Waits for the daemon's end; its exit code.
    pub fn until_stopped(&mut self) -> i32 {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let code = daemon.wait();
        self.keep_log(&daemon);
        code.unwrap_or_else(|| panic!("the daemon does not stop:\n{}", self.log()))
    }

    /// Waits for words in the daemon's log.
    pub fn until_logged(&self, words: &str) {
        self.until(&format!("`{words}` is logged"), || self.log().contains(words).then_some(()));
    }

    /// All that daemons of this lab have logged.
    pub fn log(&self) -> String {
        let before = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        before + &self.daemon.as_ref().map(Running::stderr).unwrap_or_default()
    }

    fn keep_log(&self, daemon: &Running) {
        let file = std::fs::File::options().create(true).append(true).open(self.path("log"));
        file.unwrap().write_all(daemon.stderr().as_bytes()).unwrap();
    }

    /// `pitstop ARGS` towards this lab, to its end.
    pub fn cli(&self, args: &[&str]) -> Done {
        self.spawn(args).finish()
    }

    /// The same, which must go well: its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.cli(args);
        assert_eq!(done.code, 0, "pitstop {}: {done}\n{}", args.join(" "), self.log());
        done.stdout
    }

    /// The same with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let at = args.iter().position(|a| *a == "--").unwrap_or(args.len());
        let mut all = args.to_vec();
        all.insert(at, "--json");
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("pitstop {}: {e}: {text}", args.join(" ")))
    }

    /// `pitstop ARGS`, left running.
    pub fn spawn(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// `pitstop ARGS` with this lab's socket and data directory.
    /// `pitstop ARGS`, not started yet.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pitstop"));
        self.at_home(command.args(args));
        command
    }

    fn at_home(&self, command: &mut std::process::Command) {
        command.env("PITSTOP_SOCKET", self.path("sock")).env("PITSTOP_DATA", self.data());
        command.env("PITSTOP_LOG", "info").env("NO_COLOR", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    /// A machine as the API shows it.
    pub fn machine(&self, name: &str) -> Value {
        self.json(&["show", name])
    }

    /// A reservation as the API shows it.
    pub fn reservation(&self, id: &str) -> Value {
        self.json(&["show", id])
    }

    /// Asks for machines without waiting; the reservation's id.
    pub fn queue(&self, args: &[&str]) -> String {
        let mut all = vec!["reserve", "--no-wait"];
        all.extend(args);
        self.json(&all)["id"].as_str().unwrap().to_owned()
    }

    /// Waits for a machine to be in this state.
    pub fn until_state(&self, machine: &str, state: &str) -> Value {
        self.until(&format!("{machine} is {state}"), || {
            let m = self.machine(machine);
            (m["state"] == state).then_some(m)
        })
    }

    /// Waits for a reservation to be in this state.
    pub fn until_reservation(&self, id: &str, state: &str) -> Value {
        self.until(&format!("{id} is {state}"), || {
            let r = self.reservation(id);
            (r["state"] == state).then_some(r)
        })
    }

    /// Waits until `look` finds something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        match until(&mut look) {
            Some(found) => found,
            None => panic!(
                "after {} s it is still not so that {what}\n{}\n{}",
                PATIENCE.as_secs(),
                self.cli(&["events", "-a", "-n", "200"]),
                self.log()
            ),
        }
    }

    /// The whole history that is shown to people, details too.
    pub fn events(&self) -> Vec<Value> {
        let history = self.json(&["events", "--all", "--last", "100000"]);
        history["events"].as_array().unwrap().clone()
    }

    /// The same once the daemon has looked at its machines, as it does at
    /// every start: a first reading of their power is a change of its own.
    pub fn events_at_rest(&self) -> Vec<Value> {
        self.until("every power leg was read", || {
            let machines = self.json(&["ls"]);
            let read = |m: &Value| {
                let row = self.machine(m["name"].as_str().unwrap_or_default());
                row["legs"].as_array().is_some_and(|legs| legs.iter().all(|leg| leg["reading"].is_string()))
            };
            machines["machines"].as_array()?.iter().all(read).then(|| self.events())
        })
    }

    /// What is on record now and what comes.
    pub fn follow(&self) -> Follow {
        Follow::start(self.spawn(&["events", "--follow", "--all", "--last", "100000", "-o", "jsonl"]))
    }

    /// The database, read only.
    pub fn database(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        rusqlite::Connection::open_with_flags(self.data().join("lab.db"), flags).unwrap()
    }

    /// Makes a simulated image and adds it. Its raw file is kept.
    pub fn image(&self, name: &str, options: &Options) -> PathBuf {
        let file = self.path(&format!("{name}.img"));
        mksimimage(&file, name, 2 << 20, options).unwrap();
        let seed = format!("{SEED_OFFSET},{SEED_LEN}");
        self.ok(&["image", "add", name, file.to_str().unwrap(), "--seed", &seed]);
        file
    }

    /// File of a machine's disk.
    pub fn disk(&self, machine: &str, disk: &str) -> PathBuf {
        self.data().join("machines").join(machine).join(format!("disk-{disk}.img"))
    }

    /// Asks the simulated machine itself.
    pub fn sim(&self, machine: &str, request: &Request) -> Reply {
        let dir = self.data().join("machines").join(machine);
        let reply = block(sim::request(&dir, request)).unwrap();
        let reply = reply.unwrap_or_else(|| panic!("{machine} has no process"));
        assert_eq!(reply.error, None, "{machine}: {request:?}");
        reply
    }

    /// What the simulated machine itself says of its state.
    pub fn sim_status(&self, machine: &str) -> Status {
        self.sim(machine, &Request::Status).status.unwrap()
    }

    /// Processes that were started for this lab and live.
    fn left(&self) -> Vec<(u32, String)> {
        let word = self.dir.path().display().to_string();
        program::processes().filter(|(_, command)| command.contains(&word)).collect()
    }

    /// Asks each machine's process to end, by its own view of the files.
    fn stop_machines(&self) {
        for (pid, command) in self.left() {
            let words: Vec<&str> = command.split(' ').collect();
            let Some(at) = words.iter().position(|w| *w == "--dir") else { continue };
            let dir = PathBuf::from(format!("/proc/{pid}/root{}", words[at + 1]));
            if let Err(e) = block(sim::stop(&dir)) {
                eprintln!("{}: {e}", dir.display());
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Killed, so that it does not start machines again.
        self.daemon = None;
        self.stop_machines();
        let gone = until(&mut || self.left().is_empty().then_some(()));
        if gone.is_none() {
            let left = self.left();
            for (pid, _) in &left {
                program::kill(*pid);
            }
            // A second panic would hide the first.
            assert!(std::thread::panicking(), "the lab left processes behind: {left:?}");
        }
    }
}

/// Waits until `look` finds something, at most [`PATIENCE`].
pub fn until<T>(look: &mut impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs something asynchronous to its end.
pub fn block<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it takes too long") })
}

/// Whether the disk file holds the image, and zeroes behind it.
pub fn assert_exactly(disk: &Path, image: Option<&Path>) {
    let disk_bytes = std::fs::read(disk).unwrap();
    let image_bytes = image.map(|i| std::fs::read(i).unwrap()).unwrap_or_default();
    assert!(disk_bytes.len() >= image_bytes.len() && !disk_bytes.is_empty(), "{}", disk.display());
    let (head, tail) = disk_bytes.split_at(image_bytes.len());
    let differs = head.iter().zip(&image_bytes).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{} differs from its image at this byte", disk.display());
    let rest = tail.iter().position(|b| *b != 0);
    assert_eq!(rest, None, "{} is not zero so many bytes behind its image", disk.display());
}
