//! The program as the first process of a machine: a small init, and the boot agent as its child.
//!
//! Two processes, since a first process that fails takes the kernel with it, and with the kernel the reason.
//! The init only mounts, starts the agent, reaps orphans, and when the agent ends says how and reboots.

mod dhcp;
mod dhcp_packet;
mod entropy;
mod modules;
mod net;

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use pitstop_wire::agent::AgentKind;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::hardware::RealMachine;
use crate::params::{self, ParamsError};
use crate::say::Say;
use crate::session::{Agent, Options, StartError};

/// Modules to load, one path a line, in this order.
const MODULES: &str = "/etc/modules.order";
/// How long the console shows a fatal error before the machine reboots.
const READ_IT: Duration = Duration::from_secs(10);

/// What the agent's own `argv[1]` is when the init starts it.
pub const BOOT: &str = "boot";

/// Why a boot agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file of the kernel could not be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: &'static str,
        /// What came back.
        source: std::io::Error,
    },
    /// The command line does not say who we are.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// The kernel has no entropy.
    #[error(transparent)]
    Entropy(#[from] entropy::NoEntropy),
    /// A thread could not be started.
    #[error("cannot look for network cards: {0}")]
    Net(std::io::Error),
    /// The agent could not begin.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The first process; never returns, since the kernel would panic.
pub fn init() -> ! {
    let trouble = mount_all();
    let say = console();
    say.line(&format!("first process, on Linux {}", rustix::system::uname().release().to_string_lossy()));
    for line in trouble {
        say.line(&line);
    }
    let why = match start_agent() {
        Err(e) => format!("the boot agent did not start: {e}"),
        Ok(pid) => reap_until(pid),
    };
    say.line(&format!("fatal: {why}; this machine reboots in {} s", READ_IT.as_secs()));
    std::thread::sleep(READ_IT);
    loop {
        if let Err(e) = reboot(RebootCommand::Restart) {
            say.line(&format!("reboot refused: {e}"));
        }
        std::thread::sleep(READ_IT);
    }
}

fn mount_all() -> Vec<String> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let open = MountFlags::NOSUID | MountFlags::NODEV;
    let mounts: [(&str, &str, MountFlags, Option<&CStr>); 5] = [
        ("proc", "/proc", strict, None),
        ("sysfs", "/sys", strict, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=755")),
        ("tmpfs", "/run", open, Some(c"mode=755")),
        ("tmpfs", "/tmp", open, Some(c"mode=1777")),
    ];
    let mut trouble = Vec::new();
    for (kind, at, flags, data) in mounts {
        if let Err(e) = fs::create_dir_all(at) {
            trouble.push(format!("mkdir {at}: {e}"));
        }
        match mount(kind, at, kind, flags, data) {
            // BUSY: the kernel mounted it (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(Errno::BUSY) => {}
            Err(e) => trouble.push(format!("mount {kind} at {at}: {e}")),
        }
    }
    trouble
}

/// Lines go to the console itself: the standard streams of an init may lead nowhere. They are stamped as the
/// kernel stamps its own, so that a journal shows what a slow boot waited for.
pub fn console() -> Say {
    match OpenOptions::new().write(true).open("/dev/console") {
        Err(_) => Say::stderr(),
        Ok(console) => Say::new(move |line| {
            let text = stamped(clock_gettime(ClockId::Boottime), line);
            // Nobody can be told that the console does not work.
            let _ = std::io::Write::write_all(&mut &console, text.as_bytes());
        }),
    }
}

fn stamped(since_boot: Timespec, line: &str) -> String {
    format!("[{:5}.{:06}] pitstop-agent: {line}\n", since_boot.tv_sec, since_boot.tv_nsec / 1000)
}

fn start_agent() -> std::io::Result<Pid> {
    let mut agent = Command::new("/proc/self/exe");
    agent.arg(BOOT).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        agent.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    }
    Ok(Pid::from_child(&agent.spawn()?))
}

/// Reaps whatever ends until the agent does; says how it ended.
fn reap_until(agent: Pid) -> String {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == agent => {
                return format!("the boot agent ended: {}", ExitStatus::from_raw(status.as_raw()));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return format!("nobody can say how the boot agent ended (wait: {e})"),
        }
    }
}

/// The boot agent: prepares the kernel and the network, attaches, serves. Returns only if it cannot begin.
///
/// # Errors
/// See [`BootError`].
pub fn boot(say: &Say) -> Result<std::convert::Infallible, BootError> {
    let file = "/proc/cmdline";
    let cmdline = fs::read_to_string(file).map_err(|source| BootError::Read { file, source })?;
    let params = params::from_cmdline(&cmdline)?;
    say.line(&format!("version {}, machine {}", env!("CARGO_PKG_VERSION"), params.machine));
    if let Err(e) = rustix::system::sethostname(params.machine.as_str().as_bytes()) {
        say.line(&format!("host name: {e}"));
    }
    // First: a cable takes its time to come up, and a server to answer, while the other modules load.
    let leases = net::bring_up(say.clone()).map_err(BootError::Net)?;
    modules::load_all(Path::new(MODULES), say);
    entropy::wait(say)?;
    net::first_lease(&leases, say);
    let platform = Arc::new(RealMachine { home: Some("/tmp".into()) });
    let agent = Agent::start(Options {
        kind: AgentKind::Boot,
        params,
        platform,
        say: say.clone(),
        keep_rejoin: None,
    })?;
    agent.wait();
    say.line("waiting to be powered off");
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stamped_as_the_kernels_are() {
        let early = Timespec { tv_sec: 1, tv_nsec: 2_345_678 };
        assert_eq!(stamped(early, "attached"), "[    1.002345] pitstop-agent: attached\n");
        let late = Timespec { tv_sec: 123_456, tv_nsec: 0 };
        assert_eq!(stamped(late, "x"), "[123456.000000] pitstop-agent: x\n");
    }
}
