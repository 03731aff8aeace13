//! Whole builds, of good trees and of hostile ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

use super::testing::{kernel, module, program, put, unpack};
use super::*;

const VERSION: &str = "6.1.0-9-cloud-amd64";

struct Lab {
    dir: TempDir,
}

impl Lab {
    /// A tree with a kernel and three modules, and an agent beside it.
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        lab.put(&format!("boot/vmlinuz-{VERSION}"), &kernel());
        lab.put(&format!("boot/config-{VERSION}"), b"CONFIG_X=y\nCONFIG_RD_ZSTD=y\nCONFIG_RD_GZIP=y\n");
        lab.module("drivers/virtio/virtio_ring.ko", "depends=\0");
        lab.module("drivers/virtio/virtio.ko", "depends=virtio_ring\0");
        lab.module("drivers/net/virtio-net.ko", "depends=virtio,virtio_ring\0");
        lab.put(&format!("lib/modules/{VERSION}/modules.builtin"), b"kernel/drivers/nvme/host/nvme.ko\n");
        fs::write(lab.dir.path().join("agent"), program(false)).unwrap();
        lab
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        put(&self.root(), path, bytes);
    }

    fn module(&self, path: &str, info: &str) {
        self.put(&format!("lib/modules/{VERSION}/kernel/{path}"), &module(info));
    }

    fn request(&self) -> Request {
        Request {
            kernel: KernelSource::Tree(self.root()),
            version: None,
            agent: self.dir.path().join("agent"),
            modules: Modules::default(),
            busybox: None,
            medium: false,
            out: self.out(),
        }
    }

    fn build(&self) -> Result<Manifest, BootImageError> {
        build(&self.request())
    }

    fn refuses(&self, words: &str) {
        let error = self.build().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!self.out().exists(), "nothing is left of a build that failed");
    }
}

#[test]
fn a_build_holds_the_agent_its_modules_and_their_order() {
    let lab = Lab::new();
    let manifest = lab.build().unwrap();
    assert_eq!(fs::read(lab.out().join(KERNEL)).unwrap(), kernel());
    let initrd = fs::read(lab.out().join(INITRD)).unwrap();
    let archive = zstd::decode_all(&initrd[..]).unwrap();
    assert_eq!(archive.len() as u64, manifest.unpacked);
    let files = unpack(&archive);
    let of = |name: &str| files.iter().find(|file| file.name == name).unwrap();
    assert_eq!(of("init").body, program(false));
    assert_eq!(of("init").mode, 0o100_755);
    assert_eq!(of("dev/console").device, (5, 1));
    let order = "kernel/drivers/virtio/virtio_ring.ko\nkernel/drivers/virtio/virtio.ko\nkernel/drivers/net/virtio-net.ko\n";
    assert_eq!(String::from_utf8_lossy(&of("etc/modules.order").body), order);
    for path in order.lines() {
        assert!(!of(&format!("lib/modules/{VERSION}/{path}")).body.is_empty());
    }
    let read: Manifest = serde_json::from_slice(&fs::read(lab.out().join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(manifest.modules.join("\n") + "\n", order);
    assert_eq!(manifest.builtin, ["nvme"]);
    assert_eq!(manifest.initrd, FileNote::of(&initrd));
    assert!(manifest.left_out.iter().any(|left| left.name == "e1000e"), "what is missing is said");
    assert!(manifest.warnings().is_empty(), "{:?}", manifest.warnings());
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (one, two) = (Lab::new(), Lab::new());
    one.build().unwrap();
    two.build().unwrap();
    two.build().unwrap();
    for name in [KERNEL, INITRD, MANIFEST] {
        assert_eq!(
            fs::read(one.out().join(name)).unwrap(),
            fs::read(two.out().join(name)).unwrap(),
            "{name}"
        );
    }
    let left: Vec<_> = fs::read_dir(two.out()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no temporary file stays: {left:?}");
}

#[test]
fn a_medium_with_an_older_agent_stays_beside_a_new_one() {
    let lab = Lab::new();
    let manifest = build(&Request { medium: true, ..lab.request() }).unwrap();
    let medium = fs::read(lab.out().join(MEDIUM)).unwrap();
    assert_eq!(manifest.medium, Some(FileNote::of(&medium)));
    let kernel = kernel();
    assert!(medium.chunks(2048).any(|sector| sector.starts_with(&kernel)), "another kernel is on it");
    assert_eq!(lab.build().unwrap().medium, None);
    assert!(!lab.out().join(MEDIUM).exists());
    let read: Manifest = serde_json::from_slice(&fs::read(lab.out().join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(read.medium, None);
}

#[test]
fn a_kernel_without_zstd_gets_gzip_and_one_without_both_gets_it_plain() {
    let lab = Lab::new();
    lab.put(&format!("boot/config-{VERSION}"), b"# CONFIG_RD_ZSTD is not set\nCONFIG_RD_GZIP=y\n");
    assert_eq!(lab.build().unwrap().compression, Compression::Gzip);
    let output =
        Command::new("gzip").arg("-dc").stdin(fs::File::open(lab.out().join(INITRD)).unwrap()).output();
    let gzip = output.unwrap().stdout;
    lab.put(&format!("boot/config-{VERSION}"), b"");
    assert_eq!(lab.build().unwrap().compression, Compression::None);
    assert_eq!(fs::read(lab.out().join(INITRD)).unwrap(), gzip);
    assert!(!unpack(&gzip).is_empty());
    fs::remove_file(lab.root().join(format!("boot/config-{VERSION}"))).unwrap();
    assert_eq!(lab.build().unwrap().compression, Compression::Gzip, "nothing known: what all kernels have");
}

#[test]
fn a_shell_is_in_it_when_asked_for() {
    let lab = Lab::new();
    let request = Request { busybox: Some(lab.dir.path().join("agent")), ..lab.request() };
    build(&request).unwrap();
    let files = unpack(&zstd::decode_all(&fs::read(lab.out().join(INITRD)).unwrap()[..]).unwrap());
    let shell = files.iter().find(|file| file.name == "bin/sh").unwrap();
    assert_eq!(shell.body, b"busybox");
}

#[test]
fn a_tree_with_its_modules_in_usr_and_its_kernel_beside_them_is_read_too() {
    let lab = Lab::new();
    fs::create_dir_all(lab.root().join("usr")).unwrap();
    fs::rename(lab.root().join("lib"), lab.root().join("usr/lib")).unwrap();
    symlink("usr/lib", lab.root().join("lib")).unwrap();
    fs::rename(
        lab.root().join(format!("boot/vmlinuz-{VERSION}")),
        lab.root().join(format!("usr/lib/modules/{VERSION}/vmlinuz")),
    )
    .unwrap();
    assert_eq!(lab.build().unwrap().modules.len(), 3);
}

#[test]
fn an_update_of_a_module_counts_more_than_the_original() {
    let lab = Lab::new();
    lab.put(&format!("lib/modules/{VERSION}/updates/dkms/virtio-net.ko"), &module("depends=\0"));
    assert!(lab.build().unwrap().modules.contains(&"updates/dkms/virtio-net.ko".to_owned()));
}

#[test]
fn of_several_kernels_one_must_be_named() {
    let lab = Lab::new();
    lab.put("boot/vmlinuz-6.1.0-10", &kernel());
    lab.refuses("several kernels (6.1.0-10, 6.1.0-9-cloud-amd64)");
    let named = |version: &str| build(&Request { version: Some(version.into()), ..lab.request() });
    assert!(named("6.1.0-11").unwrap_err().to_string().contains("holds no kernel 6.1.0-11"));
    let bare = named("6.1.0-10").unwrap();
    assert!(bare.modules.is_empty());
    assert_eq!(bare.warnings().len(), 2, "no card, no disk: {:?}", bare.warnings());
    assert_eq!(named(VERSION).unwrap().modules.len(), 3);
}

#[test]
fn a_tree_without_a_kernel_and_a_kernel_that_is_none_are_refused() {
    let lab = Lab::new();
    lab.put(&format!("boot/vmlinuz-{VERSION}"), b"root:x:0:0");
    lab.refuses("neither an x86 bzImage nor an arm64 Image");
    fs::remove_dir_all(lab.root().join("boot")).unwrap();
    lab.refuses("holds no kernel");
}

#[test]
fn links_out_of_the_tree_are_not_followed() {
    let secret = tempfile::tempdir().unwrap();
    put(secret.path(), "vmlinuz", &kernel());
    put(secret.path(), &format!("{VERSION}/kernel/x.ko"), &module(""));

    let lab = Lab::new();
    let vmlinuz = lab.root().join(format!("boot/vmlinuz-{VERSION}"));
    fs::remove_file(&vmlinuz).unwrap();
    symlink(secret.path().join("vmlinuz"), &vmlinuz).unwrap();
    lab.refuses("is a symbolic link; nothing outside");

    let lab = Lab::new();
    fs::remove_dir_all(lab.root().join("lib/modules")).unwrap();
    symlink(secret.path(), lab.root().join("lib/modules")).unwrap();
    lab.refuses("leads out of the tree");

    let lab = Lab::new();
    let net = lab.root().join(format!("lib/modules/{VERSION}/kernel/drivers/net/virtio-net.ko"));
    fs::remove_file(&net).unwrap();
    symlink(secret.path().join(format!("{VERSION}/kernel/x.ko")), &net).unwrap();
    symlink("/", lab.root().join(format!("lib/modules/{VERSION}/build"))).unwrap();
    let manifest = lab.build().unwrap();
    assert!(manifest.left_out.iter().any(|left| left.name == "virtio_net"), "a link is no module");
}

#[test]
fn pipes_and_directories_with_a_kernels_name_do_not_hang_the_build() {
    let lab = Lab::new();
    let vmlinuz = lab.root().join(format!("boot/vmlinuz-{VERSION}"));
    fs::remove_file(&vmlinuz).unwrap();
    assert!(Command::new("mkfifo").arg(&vmlinuz).status().unwrap().success());
    lab.refuses("no regular file");
    fs::remove_file(&vmlinuz).unwrap();
    fs::create_dir(&vmlinuz).unwrap();
    lab.refuses("no regular file");
}

#[test]
fn names_that_would_change_the_list_of_modules_are_passed_over() {
    let lab = Lab::new();
    fs::remove_file(lab.root().join(format!("lib/modules/{VERSION}/kernel/drivers/net/virtio-net.ko")))
        .unwrap();
    lab.module("net\n/etc/evil/virtio_net.ko", "depends=\0");
    lab.module("net #/virtio_net.ko", "depends=\0");
    let manifest = lab.build().unwrap();
    assert!(manifest.left_out.iter().any(|left| left.name == "virtio_net"));
}

#[test]
fn a_bottomless_tree_is_left() {
    let lab = Lab::new();
    let deep = "d/".repeat(40);
    lab.module(&format!("{deep}x.ko"), "");
    lab.refuses("deeper directories than any kernel");
}

#[test]
fn a_broken_module_that_is_wanted_stops_the_build_and_another_does_not() {
    let lab = Lab::new();
    lab.put(&format!("lib/modules/{VERSION}/kernel/sound/broken.ko"), b"no module");
    lab.build().unwrap();
    fs::remove_dir_all(lab.out()).unwrap();
    lab.put(&format!("lib/modules/{VERSION}/kernel/drivers/net/virtio-net.ko"), b"no module");
    lab.refuses("is no kernel module");
}

#[test]
fn an_agent_that_needs_libraries_or_another_processor_is_refused() {
    let lab = Lab::new();
    fs::write(lab.dir.path().join("agent"), program(true)).unwrap();
    lab.refuses("is linked dynamically");
    let mut arm = program(false);
    arm[18..20].copy_from_slice(&183_u16.to_le_bytes());
    fs::write(lab.dir.path().join("agent"), arm).unwrap();
    lab.refuses("is for aarch64, the kernel for x86_64");
}

#[test]
fn a_build_that_fails_leaves_the_former_one() {
    let lab = Lab::new();
    lab.build().unwrap();
    let before = fs::read(lab.out().join(INITRD)).unwrap();
    lab.put(&format!("boot/vmlinuz-{VERSION}"), b"none");
    assert!(lab.build().is_err());
    assert_eq!(fs::read(lab.out().join(INITRD)).unwrap(), before);
}
