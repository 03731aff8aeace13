//! `pitstop image agent`

use super::fail::Fail;
use super::{Context, Result};
use crate::bootimage::{self, BootImageError, KernelSource, Manifest, Modules, Request};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("kernel").required(true).args(["kernel_tree", "deb"])))]
pub struct Args {
    /// An unpacked kernel package: boot/vmlinuz-VERSION and lib/modules/VERSION.
    #[arg(long, value_name = "DIR")]
    kernel_tree: Option<PathBuf>,
    /// A kernel as Debian packages (linux-image-…).
    #[arg(long, value_name = "FILE", num_args = 1..)]
    deb: Vec<PathBuf>,
    /// Which of several kernels, as `uname -r` says it.
    #[arg(long, value_name = "VERSION")]
    kernel_version: Option<String>,
    /// The static pitstop-agent; looked for beside this program unless said.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Modules instead of the usual ones.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    modules: Option<Vec<String>>,
    /// Modules besides.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    add_modules: Vec<String>,
    /// A static busybox, so that commands in RAM have a shell.
    #[arg(long, value_name = "FILE")]
    busybox: Option<PathBuf>,
    /// Also make medium.iso of them, a CD for `boot.virtual-media`; needs grub-mkrescue.
    #[arg(long)]
    medium: bool,
    /// Where vmlinuz, initrd and manifest.json go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub async fn run(cx: &mut Context, args: Args) -> Result {
    let out = args.out.clone();
    let built = tokio::task::spawn_blocking(move || build(args)).await;
    let manifest = built.map_err(|e| Fail::internal(format!("the build ended early: {e}")))?.map_err(fail)?;
    for warning in manifest.warnings() {
        cx.out.say(&format!("warning: {warning}"));
    }
    cx.out.object(&manifest, &out.display().to_string(), |to| {
        let Manifest { kernel, initrd, modules, builtin, left_out, medium, .. } = &manifest;
        to.line(&format!("{}   Linux {} for {}", out.display(), manifest.version, manifest.machine))?;
        to.line(&format!("  kernel    {} bytes", kernel.bytes))?;
        to.line(&format!("  initrd    {} bytes ({} unpacked)", initrd.bytes, manifest.unpacked))?;
        if let Some(medium) = medium {
            to.line(&format!("  medium    {} bytes, for BIOS and UEFI", medium.bytes))?;
        }
        to.line(&format!("  modules   {}, and {} built in", modules.len(), builtin.len()))?;
        let left: Vec<&str> = left_out.iter().map(|left| left.name.as_str()).collect();
        if left.is_empty() { Ok(()) } else { to.line(&format!("  left out  {}", left.join(" "))) }
    })
}

fn build(args: Args) -> std::result::Result<Manifest, BootImageError> {
    let executable = std::env::current_exe().map_err(|source| BootImageError::File {
        what: "find",
        file: "pitstop".into(),
        source,
    })?;
    let kernel = match args.kernel_tree {
        Some(tree) => KernelSource::Tree(tree),
        None => KernelSource::Debs(args.deb),
    };
    bootimage::build(&Request {
        kernel,
        version: args.kernel_version,
        agent: bootimage::find_agent(args.agent.as_deref(), &executable)?,
        modules: Modules { only: args.modules, also: args.add_modules },
        busybox: args.busybox,
        medium: args.medium,
        out: args.out,
    })
}

/// All but a full disk and the like is about what was given.
fn fail(error: BootImageError) -> Fail {
    match error {
        BootImageError::File { .. } => Fail::internal(error.to_string()),
        _ => Fail::usage(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> std::result::Result<Args, clap::Error> {
        Line::try_parse_from(words.split_ascii_whitespace()).map(|line| line.args)
    }

    #[test]
    fn a_kernel_comes_from_exactly_one_place() {
        assert_eq!(parse("x --kernel-tree t --out o").unwrap().kernel_tree.unwrap().to_str(), Some("t"));
        assert_eq!(parse("x --deb a.deb b.deb --out o").unwrap().deb.len(), 2);
        assert!(parse("x --out o").is_err());
        assert!(parse("x --kernel-tree t --deb a.deb --out o").is_err());
        assert!(parse("x --kernel-tree t").is_err(), "nowhere to put it");
    }

    #[test]
    fn lists_of_modules_are_split_at_commas() {
        let args = parse("x --kernel-tree t --out o --modules a,b --add-modules c").unwrap();
        assert_eq!(args.modules.unwrap(), ["a", "b"]);
        assert_eq!(args.add_modules, ["c"]);
        assert!(parse("x --kernel-tree t --out o").unwrap().modules.is_none(), "the usual ones");
    }
}
