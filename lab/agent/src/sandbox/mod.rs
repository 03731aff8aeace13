//! Where commands run. On a real machine: right here. On a simulated one, which shares this host with
//! people who did not ask for it: in namespaces of their own, one set per boot of the machine, so that two
//! commands of one tenant see each other's files and processes as they would on a real machine.
//!
//! The namespaces are made by a helper process, this program started again ([`main`]): it enters them and
//! starts itself once more as their first process (`init`), which takes orders on a socket. When the
//! simulated machine is killed, the helper dies with it (PR_SET_PDEATHSIG), with the helper its child, and
//! with the first process of a PID namespace the kernel kills everything in it.

mod chroot;
mod init;
mod mounts;
mod outer;
mod protocol;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pitstop_wire::run::Command;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::run::spawner::Facts;
use protocol::{FromInit, Setup, ToInit};

/// How long the namespaces may take to be set up.
const START: Duration = Duration::from_secs(20);

/// How to start this program's sandbox helper: a program and arguments whose `main` calls
/// [`main`](self::main()) before it starts any thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper(Vec<OsString>);

impl Helper {
    /// This very program with these arguments, e.g. `["sim-sandbox"]`.
    pub fn this_program<I: Into<OsString>>(args: impl IntoIterator<Item = I>) -> Self {
        Self::program("/proc/self/exe", args)
    }

    /// Another program that calls [`main`](self::main()).
    pub fn program<I: Into<OsString>>(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = I>,
    ) -> Self {
        Self(std::iter::once(program.into()).chain(args.into_iter().map(Into::into)).collect())
    }
}

/// The namespaces of one simulated machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// What starts the helper.
    pub helper: Helper,
    /// Host name inside.
    pub hostname: String,
    /// The machine's disk file; inside it is `PITSTOP_DISK`.
    pub disk: Option<PathBuf>,
    /// What runs commands named [`STEP`] where the host refuses namespaces. It gets their arguments and
    /// `PITSTOP_DISK`, has no sandbox, and must do no harm whatever the arguments are: any tenant may
    /// give it any.
    pub steps: Option<Helper>,
}

/// Name of the commands that [`Namespaces::steps`] runs.
pub const STEP: &str = "pitstop-step";

impl Namespaces {
    /// The program and arguments of a command that may run without namespaces.
    pub(crate) fn step(&self, command: &Command) -> Option<Command> {
        let [name, args @ ..] = command.argv.as_slice() else { return None };
        let Helper(program) = self.steps.as_ref().filter(|_| name == STEP)?;
        let program = program.iter().map(|word| word.to_string_lossy().into_owned());
        let argv = program.chain(args.iter().cloned()).collect();
        // The environment is not the tenant's to choose out here.
        Some(Command { argv, env: Vec::new(), cwd: None, stdin: command.stdin })
    }
}

/// Where commands run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// As children of the agent, which has the machine to itself.
    Here {
        /// Working directory of commands that name none.
        home: Option<String>,
    },
    /// In namespaces of their own.
    Namespaces(Namespaces),
}

/// The helper's `main`: call it from a program's own `main`, before any thread is started, when the
/// arguments given to [`Helper`] are seen.
pub fn main() -> ExitCode {
    if rustix::process::getpid().as_raw_nonzero().get() == 1 { init::main() } else { outer::main() }
}

/// Says whether this host lets commands have namespaces of their own, by making them once.
///
/// # Errors
/// What was refused, in words for a person.
pub fn probe(helper: &Helper) -> Result<(), String> {
    let setup = Namespaces { helper: helper.clone(), hostname: "probe".into(), disk: None, steps: None };
    let mut link = Link::start(&setup)?;
    link.end(Duration::ZERO);
    Ok(())
}

/// Namespaces that are made when the first command wants them.
pub(crate) struct Sandboxed {
    setup: Namespaces,
    link: Option<Link>,
}

impl Sandboxed {
    pub(crate) fn new(setup: Namespaces) -> Self {
        Self { setup, link: None }
    }

    pub(crate) fn spawn(
        &mut self,
        key: u64,
        command: &Command,
        stdio: &[OwnedFd; 3],
        facts: &Arc<Facts>,
    ) -> Result<(), String> {
        if self.link.as_mut().is_some_and(|link| link.is_dead()) {
            self.link = None;
        }
        let link = match &mut self.link {
            Some(link) => link,
            none => {
                let link = Link::start(&self.setup)?;
                link.listen(Arc::clone(facts))?;
                none.insert(link)
            }
        };
        protocol::send_command(&link.socket, key, command, stdio)
            .map_err(|e| format!("the sandbox of this machine does not take commands: {e}"))
    }

    pub(crate) fn signal(&mut self, key: u64, signal: i32) -> Result<(), String> {
        let Some(link) = &self.link else { return Ok(()) };
        protocol::send(&link.socket, &ToInit::Signal { key, signal }, &[])
            .map_err(|e| format!("the sandbox of this machine does not take signals: {e}"))
    }

    pub(crate) fn end(&mut self, grace: Duration) {
        if let Some(mut link) = self.link.take() {
            link.end(grace);
        }
    }
}

/// The helper process and the socket to the first process inside.
struct Link {
    child: Child,
    socket: Arc<OwnedFd>,
}

impl Link {
    fn start(setup: &Namespaces) -> Result<Self, String> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| format!("no socket for the sandbox: {e}"))?;
        let [program, args @ ..] = setup.helper.0.as_slice() else {
            return Err("no helper program is named for the sandbox".into());
        };
        let child = std::process::Command::new(program)
            .args(args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start the sandbox helper {}: {e}", program.display()))?;
        let mut link = Self { child, socket: Arc::new(socket) };
        let disk = setup.disk.clone();
        let hello = Setup { hostname: setup.hostname.clone(), disk };
        match link.hand_shake(hello) {
            Ok(()) => Ok(link),
            Err(reason) => {
                link.end(Duration::ZERO);
                Err(reason)
            }
        }
    }

    fn hand_shake(&mut self, setup: Setup) -> Result<(), String> {
        // A helper that was refused is gone already; what it said about it is read all the same.
        let _ = protocol::send(&self.socket, &ToInit::Setup(setup), &[]);
        self.readable(START).then_some(()).ok_or("the sandbox helper does not answer")?;
        match protocol::receive::<FromInit>(&self.socket) {
            Ok(Some((FromInit::Ready, _))) => Ok(()),
            Ok(Some((FromInit::Refused { reason }, _))) => Err(reason),
            Ok(Some((other, _))) => Err(format!("the sandbox helper answered {other:?}")),
            Ok(None) => Err("the sandbox helper died at once".into()),
            Err(e) => Err(format!("the sandbox helper was not understood: {e}")),
        }
    }

    fn readable(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&*self.socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        matches!(poll(&mut fds, Some(&limit)), Ok(n) if n > 0)
    }

    /// Passes on what the first process inside reports, until it is gone.
    fn listen(&self, facts: Arc<Facts>) -> Result<(), String> {
        let socket = Arc::clone(&self.socket);
        let listen = move || {
            loop {
                match protocol::receive::<FromInit>(&socket) {
                    Ok(Some((FromInit::Spawned { key }, _))) => facts.started(key),
                    Ok(Some((FromInit::Ended { key, end }, _))) => facts.ended(key, end),
                    Ok(Some((FromInit::Said { line }, _))) => facts.say(&line),
                    Ok(Some((FromInit::Ready | FromInit::Refused { .. }, _))) => {}
                    Ok(None) => break facts.all_ended("the machine's sandbox ended"),
                    Err(e) => break facts.all_ended(&format!("the machine's sandbox failed: {e}")),
                }
            }
        };
        std::thread::Builder::new()
            .name("agent-sandbox".into())
            .stack_size(256 << 10)
            .spawn(listen)
            .map(|_| ())
            .map_err(|e| format!("no thread for the sandbox: {e}"))
    }

    fn is_dead(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends everything inside: SIGTERM, `grace`, SIGKILL.
    fn end(&mut self, grace: Duration) {
        if !grace.is_zero() && protocol::send(&self.socket, &ToInit::End, &[]).is_ok() {
            let deadline = std::time::Instant::now() + grace + Duration::from_millis(500);
            while !self.is_dead() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Killing what has been reaped already is refused by `Child`, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.is_dead() {
            self.end(Duration::ZERO);
        }
    }
}
