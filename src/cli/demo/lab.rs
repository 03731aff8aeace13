//! The demo's lab: a daemon in this process, twelve machines in processes of
//! their own, all of it in one temporary directory.

use crate::cli::fail::Fail;
use crate::cli::serve::failed;
use crate::cli::{Context, Result};
use crate::daemon::serve::{Options, ServeError, serve};
use crate::sim::image::{self, mksimimage};
use pitstop_client::Client;
use pitstop_drivers::sim::Request;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Two boards that three builds want, three of which one is broken, and seven
/// PCs. The broken one has short limits: nobody should have to wait for it.
const INVENTORY: &str = r#"format = 1
[lab]
name = "demo"
zone = "UTC"
[class.machine]
image            = "demo-os"
power.sim        = { disk = "16M" }
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
[machine."board[01-02]"]
class = "machine"
tags  = { kind = "board", soc = "imx8", ram = 4 }
[machine."board[03-05]"]
class = "machine"
tags  = { kind = "board", soc = "imx9", ram = 8 }
[machine.board03]
power.sim.faults = ["panic"]
timeout          = { power = "2s", firmware = "500ms", attach = "500ms" }
[machine."pc[01-07]"]
class = "machine"
tags  = { kind = "pc", ram = 16 }
"#;
/// The image that builds ask for.
pub const IMAGE: &str = "demo-os";
const IMAGE_BYTES: u64 = 8 << 20;
/// Bytes that the directory's own path may have, so that the sockets of
/// machines below it have room for theirs (unix(7): 108).
const LONGEST_BASE: usize = 50;

/// A daemon of our own, in this process, and its machines.
pub struct Lab {
    /// Speaks to the daemon.
    pub client: Client,
    dir: TempDir,
    stop: CancellationToken,
    served: JoinHandle<std::result::Result<(), ServeError>>,
}

impl Lab {
    /// Starts the daemon, which starts the machines.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pitstop-demo-").tempdir_in(base());
        let dir = dir.map_err(|e| Fail::internal(format!("no temporary directory can be made: {e}")))?;
        let wrong = |e: std::io::Error| Fail::internal(format!("{}: {e}", dir.path().display()));
        let inventory = dir.path().join("inventory.toml");
        std::fs::write(&inventory, INVENTORY).map_err(wrong)?;
        let options = Options {
            data: dir.path().join("data"),
            inventory,
            socket: dir.path().join("sock"),
            simulated: true,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            boot_port: None,
            program: std::env::current_exe().map_err(wrong)?,
        };
        let client = Client::new(&options.socket);
        let stop = CancellationToken::new();
        let (ready, told) = oneshot::channel();
        let served = tokio::spawn(serve(options, stop.clone(), ready));
        if told.await.is_ok() {
            return Ok(Self { client, dir, stop, served });
        }
        match served.await {
            Ok(Err(error)) => Err(failed(error)),
            _ => Err(Fail::internal("the daemon ended while it started")),
        }
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The disk of a machine, seen from outside.
    pub fn disk(&self, machine: &str) -> PathBuf {
        self.machines().join(machine).join("disk-root.img")
    }

    /// The image as it was given to the daemon.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join(format!("{IMAGE}.raw"))
    }

    fn machines(&self) -> PathBuf {
        self.dir.path().join("data/machines")
    }

    /// How many machines have a process of their own.
    pub async fn processes(&self) -> Result<usize> {
        let mut pids = BTreeSet::new();
        for entry in std::fs::read_dir(self.machines())?.flatten() {
            let asked = pitstop_drivers::sim::request(&entry.path(), &Request::Status).await;
            let reply = asked.map_err(|e| Fail::internal(e.to_string()))?;
            pids.extend(reply.and_then(|r| r.status).map(|s| s.pid));
        }
        Ok(pids.len())
    }

    /// Makes the image and gives it to the daemon.
    pub async fn add_image(&self) -> Result {
        let path = self.image();
        let options = image::Options { content: 1 << 20, ..image::Options::default() };
        mksimimage(&path, IMAGE, IMAGE_BYTES, &options)
            .map_err(|e| Fail::internal(format!("the demo's image cannot be made: {e}")))?;
        let opened = tokio::fs::File::open(&path).await?;
        let seed = format!("{},{}", image::SEED_OFFSET, image::SEED_LEN);
        self.client.add_image(IMAGE, opened, Some(&seed), false, None).await?;
        Ok(())
    }

    /// Commands to try, until somebody presses ctrl-C.
    pub fn invite(&self, cx: &Context) -> Result {
        let program = program();
        let socket = self.client.socket().display().to_string();
        cx.out.line("")?;
        cx.out.line("The lab stays until ctrl-C. In another terminal:")?;
        let words = [
            "ls",
            "why board03",
            "console board03 --since boot --no-follow",
            "reserve kind=pc --want agent --for 10m",
            "run -- uname -a",
            "release",
            "events --all",
        ];
        for words in words {
            cx.out.line(&format!("  {program} --socket {socket} {words}"))?;
        }
        Ok(())
    }

    /// The daemon first, then the hardware it would otherwise miss.
    pub async fn stop(self) -> Result {
        let machines = self.machines();
        self.stop.cancel();
        let ended = match self.served.await {
            Ok(ended) => ended.map_err(failed),
            Err(error) => Err(Fail::internal(format!("the daemon died: {error}"))),
        };
        let off = switch_all_off(&machines).await;
        let gone = self.dir.close();
        ended
            .and(off)
            .and(gone.map_err(|e| Fail::internal(format!("the demo's directory cannot be removed: {e}"))))
    }
}

/// Ends the process of every machine there ever was.
async fn switch_all_off(machines: &Path) -> Result {
    let mut stopping = JoinSet::new();
    for entry in std::fs::read_dir(machines).into_iter().flatten().flatten() {
        stopping.spawn(async move { pitstop_drivers::sim::stop(&entry.path()).await });
    }
    let mut all = Ok(());
    while let Some(stopped) = stopping.join_next().await {
        let stopped = stopped.map_err(|e| Fail::internal(format!("a machine was not stopped: {e}")));
        all = all.and(stopped.and_then(|off| off.map_err(|e| Fail::internal(e.to_string()))));
    }
    all
}

fn base() -> PathBuf {
    let wanted = std::env::temp_dir();
    if wanted.as_os_str().len() <= LONGEST_BASE { wanted } else { "/tmp".into() }
}

/// This program as one types it here.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "pitstop".to_owned() };
    let here = std::env::current_dir().ok().and_then(|dir| path.strip_prefix(dir).ok().map(Path::to_owned));
    here.unwrap_or(path).display().to_string()
}

/// The most memory this process ever had, in bytes (proc(5), VmHWM).
pub fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_core::inventory::Inventory;

    #[test]
    fn the_demos_lab_has_twelve_machines_of_which_one_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("inventory.toml");
        std::fs::write(&file, INVENTORY).unwrap();
        let inventory = Inventory::load(&file, pitstop_drivers::factories()).unwrap();
        assert_eq!(inventory.machines.len(), 12);
        let faults = |m: &pitstop_core::inventory::MachineSpec| {
            m.legs.iter().filter_map(|l| l.driver.list("faults")).flatten().count()
        };
        let broken: Vec<_> =
            inventory.machines.values().filter(|m| faults(m) > 0).map(|m| m.name.as_str()).collect();
        assert_eq!(broken, ["board03"]);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert!(peak_memory().unwrap() > 1 << 20);
    }
}
