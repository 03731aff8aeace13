//! What QEMU is started with.

use crate::error::DriverError;
use crate::power::PowerOn;
use crate::site::Site;
use pitstop_core::inventory::DriverSpec;
use pitstop_wire::agent::Secret;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const DRIVER: &str = "power.qemu";
/// How long QEMU may take until it has set itself up.
const START: Duration = Duration::from_secs(30);
/// A line of a configuration file may have so many bytes (`char line[1024]`
/// in qemu-config.c), with the quotes and the key.
const MAX_VALUE: usize = 960;
/// Longest serial number of a virtio disk (virtio 1.2, 5.2.6.1).
const MAX_SERIAL: usize = 20;

/// How the virtual machine is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its name.
    pub name: String,
    /// Memory in MiB.
    pub memory: u64,
    /// Processors.
    pub cpus: i64,
    /// Its disks: name and size in bytes.
    pub disks: Vec<(String, u64)>,
    /// Its serial lines, in the order of their ports.
    pub consoles: Vec<String>,
    /// The program.
    pub program: String,
    /// The machine's directory.
    pub dir: PathBuf,
}

impl Build {
    /// From the inventory.
    pub fn of(site: &Site, spec: &DriverSpec) -> Result<Self, DriverError> {
        let wrong = |what: String| DriverError::in_inventory(DRIVER, format!("build {}", site.name()), what);
        let bytes = spec.bytes("disk").unwrap_or(2 << 30);
        let mut disks: Vec<_> = site.spec.disks.iter().map(|d| (d.name.clone(), bytes)).collect();
        if disks.is_empty() {
            disks.push(("root".into(), bytes));
        }
        let unix = site.spec.consoles.iter().filter(|(_, c)| c.driver == "unix" && c.text("path").is_none());
        let mut consoles: Vec<_> = unix.map(|(name, _)| name.clone()).collect();
        consoles.sort_by_key(|name| name != "main");
        let plain = |name: &str| {
            name.len() <= MAX_SERIAL
                && !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let names = disks.iter().map(|(name, _)| name).chain(&consoles);
        if let Some(name) = names.into_iter().find(|name| !plain(name)) {
            return Err(wrong(format!(
                "`{name}` is no name for a part of a virtual machine: {MAX_SERIAL} letters, digits, - _ . at most"
            )));
        }
        Ok(Self {
            name: site.name().to_owned(),
            memory: (spec.bytes("memory").unwrap_or(512 << 20) >> 20).max(16),
            cpus: spec.int("cpus").unwrap_or(1),
            disks,
            consoles,
            program: spec.text("program").unwrap_or("qemu-system-x86_64").to_owned(),
            dir: site.state.clone(),
        })
    }

    /// File of a disk.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.dir.join(format!("disk-{name}.img"))
    }

    /// File with QEMU's process number.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("qemu.pid")
    }

    /// Makes disks that are not there, sparse.
    pub fn make_disks(&self) -> Result<(), DriverError> {
        for (name, bytes) in &self.disks {
            let path = self.disk(name);
            let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let made =
                made.and_then(|file| if file.metadata()?.len() == 0 { file.set_len(*bytes) } else { Ok(()) });
            made.map_err(|e| DriverError::new(DRIVER, format!("make the disk {}", path.display()), e))?;
        }
        Ok(())
    }

    /// The arguments; nothing of them is secret.
    pub fn arguments(&self, on: &PowerOn) -> Vec<String> {
        let network = matches!(on, PowerOn::Network { .. });
        let mut args: Vec<String> = Vec::new();
        let mut arg = |key: &str, value: String| args.extend([key.to_owned(), value]);
        arg("-name", format!("pitstop-{}", self.name));
        // Text of firmware goes to the serial line: graphics=off. Not `pc`: there a kernel routes each card's
        // interrupt by interpreted ACPI code, which takes emulation a quarter of a second per card.
        arg("-machine", "q35,graphics=off".into());
        arg("-accel", "tcg".into());
        arg("-cpu", "max".into());
        arg("-m", format!("{}M", self.memory));
        arg("-smp", self.cpus.to_string());
        arg("-display", "none".into());
        for (name, _) in &self.disks {
            let file = escape(&self.disk(name));
            arg("-drive", format!("if=none,id=disk-{name},file={file},format=raw,discard=unmap"));
        }
        for (at, (name, _)) in self.disks.iter().enumerate() {
            // 0 is taken by a kernel that is started directly, 1 by the card.
            arg("-device", format!("virtio-blk-pci,drive=disk-{name},serial={name},bootindex={}", at + 2));
        }
        let url = match on {
            PowerOn::Network { url } => format!(",bootfile={}", url.replace(',', ",,")),
            _ => String::new(),
        };
        arg("-netdev", format!("user,id=net0{url}"));
        let rom = if network { "bootindex=1" } else { "romfile=" };
        arg("-device", format!("virtio-net-pci,netdev=net0,mac={},{rom}", self.mac()));
        arg("-device", "virtio-rng-pci".into());
        for name in &self.consoles {
            let path = escape(&self.dir.join(format!("console-{name}.sock")));
            arg("-chardev", format!("socket,id=console-{name},path={path},server=on,wait=off"));
            arg("-serial", format!("chardev:console-{name}"));
        }
        arg(
            "-chardev",
            format!("socket,id=qmp,path={},server=on,wait=off", escape(&self.dir.join("qmp.sock"))),
        );
        arg("-mon", "chardev=qmp,mode=control".into());
        arg("-pidfile", self.pid_file().to_string_lossy().into_owned());
        arg("-D", self.dir.join("qemu.log").to_string_lossy().into_owned());
        // Its processors start when consoles listen, and it outlives us:
        // -daemonize makes a session of its own once everything is set up.
        args.extend(["-nodefaults", "-no-user-config", "-S", "-daemonize"].map(str::to_owned));
        args
    }

    /// A locally administered address, the same at every start.
    fn mac(&self) -> String {
        // FNV-1a: any function would do that spreads names.
        let hash =
            self.name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let [a, b, c, d] = hash.to_be_bytes();
        format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Starts QEMU; it stands still then.
    pub async fn start(&self, on: &PowerOn) -> Result<(), DriverError> {
        let failed = |e: &dyn std::fmt::Display| DriverError::new(DRIVER, format!("start {}", self.name), e);
        self.make_disks()?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments(on));
        // The command line of the kernel holds a token, and /proc shows
        // arguments to everybody: a file that only we can read carries it.
        let secret = match on {
            PowerOn::Kernel { kernel, initrd, append } => {
                Some(SecretFile::write(&self.dir, kernel, initrd, append)?)
            }
            _ => None,
        };
        if let Some(file) = &secret {
            command.arg("-readconfig").arg(&file.0);
        }
        let errors = self.dir.join("qemu.err");
        let log = File::create(&errors).map_err(|e| failed(&e))?;
        // A file, not a pipe: the daemon of QEMU keeps it open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir(&self.dir);
        // Whoever stops waiting wants it off: before its process number is
        // written down it reads as off already, and would stay. What -daemonize
        // has split off by then ends by itself when it finds its parent gone
        // (os_setup_post in os-posix.c).
        command.kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|e| failed(&e).permanent().next("install qemu-system-x86"))?;
        let ended = match timeout(START, child.wait()).await {
            Ok(ended) => ended.map_err(|e| failed(&e))?,
            Err(_) => return Err(failed(&format!("it is not set up within {} s", START.as_secs()))),
        };
        drop(secret);
        if ended.success() {
            return Ok(());
        }
        // Before its log is open it complains to the one, then to the other.
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let said = read(&errors) + &read(&self.dir.join("qemu.log"));
        let said: String = said.trim().chars().take(400).collect();
        Err(failed(&if said.is_empty() { ended.to_string() } else { said }))
    }
}

/// QEMU's own way of writing a comma.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A configuration file that is gone when this is dropped.
struct SecretFile(PathBuf);

impl SecretFile {
    fn write(dir: &Path, kernel: &Path, initrd: &Path, append: &Secret) -> Result<Self, DriverError> {
        let fail =
            |e: &dyn std::fmt::Display| DriverError::new(DRIVER, "hand over the kernel's command line", e);
        let text = configuration(kernel, initrd, append).map_err(|e| fail(&e).permanent())?;
        let path = dir.join("boot.cfg");
        // One that was left behind may belong to somebody who reads it.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(&e)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).map_err(|e| fail(&e))?;
        let this = Self(path);
        file.write_all(text.as_bytes()).map_err(|e| fail(&e))?;
        Ok(this)
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!("{} cannot be removed: {e}", self.0.display());
        }
    }
}

fn configuration(kernel: &Path, initrd: &Path, append: &Secret) -> Result<String, String> {
    let mut text = "[machine]\n".to_owned();
    let values = [
        ("kernel", kernel.to_string_lossy()),
        ("initrd", initrd.to_string_lossy()),
        ("append", append.0.as_str().into()),
    ];
    for (key, value) in values {
        if value.len() > MAX_VALUE || value.contains(['"', '\n', '\\']) {
            return Err(format!("`{key}` has {} bytes; {MAX_VALUE} without quotes fit", value.len()));
        }
        text.push_str(&format!("  {key} = \"{value}\"\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build {
            name: "vm-1".into(),
            memory: 512,
            cpus: 1,
            disks: vec![("root".into(), 1 << 30), ("scratch".into(), 1 << 20)],
            consoles: vec!["main".into()],
            program: "qemu-system-x86_64".into(),
            dir: "/lab,1/vm-1".into(),
        }
    }

    #[test]
    fn the_token_is_in_a_file_and_never_in_an_argument() {
        let append = Secret("console=ttyS0 pitstop.token=s3cr3t".into());
        let on = PowerOn::Kernel { kernel: "/k".into(), initrd: "/i".into(), append: append.clone() };
        let args = build().arguments(&on).join(" ");
        assert!(!args.contains("s3cr3t") && !args.contains("-append"), "{args}");
        let dir = tempfile::tempdir().unwrap();
        let file = SecretFile::write(dir.path(), Path::new("/k"), Path::new("/i"), &append).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            std::fs::read_to_string(&file.0)
                .unwrap()
                .contains("append = \"console=ttyS0 pitstop.token=s3cr3t\"")
        );
        let path = file.0.clone();
        drop(file);
        assert!(!path.exists());
        assert!(configuration(Path::new("/k"), Path::new("/i"), &Secret("x\"\n[machine]".into())).is_err());
    }

    #[test]
    fn a_network_boot_asks_the_card_first_and_others_have_no_boot_rom() {
        let url = "http://10.0.2.2:1/boot/vm-1/script".to_owned();
        let args = build().arguments(&PowerOn::Network { url }).join(" ");
        assert!(
            args.contains("bootfile=http://10.0.2.2:1/boot/vm-1/script") && args.contains(",bootindex=1")
        );
        let args = build().arguments(&PowerOn::Disk).join(" ");
        assert!(
            args.contains("romfile=")
                && !args.contains("bootindex=1")
                && args.contains("serial=root,bootindex=2")
        );
        assert!(args.contains("/lab,,1/vm-1/disk-root.img"), "a comma in a path ends no option: {args}");
        assert!(args.contains("-accel tcg"));
    }
}
