//! `pitstop admin fsck`

use super::super::fail::Fail;
use super::super::{Context, Result, paths};
use super::backup::failed;
use crate::daemon::lock::Lock;
use crate::store::{self, Checked, FILE};
use pitstop_wire::api::{Fsck, FsckFinding, Schema};
use pitstop_wire::text::machines;
use pitstop_wire::{ApiError, Code};
use std::path::{Path, PathBuf};

pub const HELP: &str = "Exit code 0: nothing is wrong; 1: something is, and is listed.

Examples
  pitstop admin fsck --data /var/lib/pitstop
  pitstop admin fsck --db /backup/lab-2026-11-28.db --json";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup, or a database anywhere.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    db: Option<PathBuf>,
    /// The lab's data directory, its daemon stopped; PITSTOP_DATA unless said.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(cx: &Context, args: &Args) -> Result {
    let data = args.data.clone().unwrap_or_else(paths::data);
    let (file, data) = match &args.db {
        Some(file) => (file.clone(), None),
        None => (data.join(FILE), Some(data)),
    };
    let _lock = still(file.parent().unwrap_or(Path::new("")))?;
    let checked = store::check(&file).map_err(failed)?;
    let findings = found(&checked, data.as_deref());
    let told = Fsck {
        schema: Schema::new("pitstop.fsck/1"),
        file: file.display().to_string(),
        ok: findings.is_empty(),
        tables: checked.schema,
        copy: checked.copy,
        records: checked.meta.records,
        epoch: checked.meta.epoch.0,
        machines: checked.machines,
        reservations: checked.reservations,
        findings,
        more: checked.more,
    };
    cx.out.object(&told, &told.file, |out| lines(&told).iter().try_for_each(|line| out.line(line)))?;
    if told.ok { Ok(()) } else { Err(Fail::Exit(1)) }
}

/// Keeps daemons away while the database is looked at.
fn still(data: &Path) -> Result<Option<Lock>> {
    Lock::looked_at(data).map_err(|e| {
        let error = ApiError::new(Code::Conflict, e.to_string());
        Fail::from(error).hint("or check a backup: pitstop admin backup FILE; pitstop admin fsck --db FILE")
    })
}

/// What is wrong with a database, and with the images that it names.
pub fn found(checked: &Checked, data: Option<&Path>) -> Vec<FsckFinding> {
    let in_database =
        checked.findings.iter().map(|f| FsckFinding { about: f.about.clone(), text: f.what.clone() });
    let missing = data.into_iter().flat_map(|data| {
        let blobs = data.join("images").join("blobs");
        let there = move |digest: &str| {
            let hex = digest.rsplit(':').next().unwrap_or_default();
            blobs.join(hex).join("manifest.json").is_file()
        };
        checked.images.iter().filter(move |(digest, _)| !there(digest)).map(|(digest, name)| FsckFinding {
            about: format!("image {name}"),
            text: format!("its bytes ({digest}) are not in the image store: add it again"),
        })
    });
    in_database.chain(missing).collect()
}

fn lines(told: &Fsck) -> Vec<String> {
    let mut lines: Vec<String> = told.findings.iter().map(|f| format!("{}: {}", f.about, f.text)).collect();
    if told.more > 0 {
        lines.push(format!("and {} more", told.more));
    }
    let copy = if told.copy { ", a backup" } else { "" };
    let judged = if told.ok { "no errors" } else { "damaged; restore a backup: pitstop admin restore FILE" };
    lines.push(format!(
        "{}{copy}: {}, {} reservations, {} records, epoch {}: {judged}",
        told.file,
        machines(told.machines),
        told.reservations,
        told.records,
        told.epoch
    ));
    lines
}
