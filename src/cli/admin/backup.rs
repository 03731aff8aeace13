//! `pitstop admin backup` and `pitstop admin restore`

use super::super::fail::Fail;
use super::super::times;
use super::super::{Context, Result, paths};
use super::fsck::found;
use crate::daemon::lock::Lock;
use crate::store::{self, StoreError};
use pitstop_wire::api::{Backup as Told, Restore as Restored, Schema, Time};
use pitstop_wire::{ApiError, Code};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub const BACKUP_HELP: &str =
    "It holds all that is known of the lab, and no image, console journal or key of its CA.

Examples
  pitstop admin backup /backup/lab-$(date +%F).db
  pitstop admin backup lab.db --force --json";

pub const RESTORE_HELP: &str =
    "At the next start every reservation of the backup has ended, and no disk counts as clean until it is
proven again: a backup does not know who has had which machine since. Nothing is switched by that.

Example
  systemctl stop pitstop; pitstop admin restore /backup/lab-2026-11-28.db; systemctl start pitstop";

#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The file to write.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The backup, or any other lab's database.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The lab's data directory; PITSTOP_DATA unless said.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Although the backup is damaged: it is all there is.
    #[arg(long)]
    force: bool,
}

/// The daemon sends it; it is written here, by whoever asks for it.
pub async fn backup(cx: &Context, args: &Backup) -> Result {
    let file = std::path::absolute(&args.file)?;
    if !args.force && file.exists() {
        return Err(there_already(&file));
    }
    let name = file.file_name().ok_or_else(|| Fail::usage(format!("{} is no file", file.display())))?;
    let mut aside = name.to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let aside = Aside(file.with_file_name(aside));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside.0);
    let made = made.map_err(|e| unwritten(&aside.0, &e))?;
    let mut to = tokio::fs::File::from_std(made);
    cx.client.backup(&mut to).await?;
    to.sync_all().await.map_err(|e| unwritten(&aside.0, &e))?;
    let told = told(&aside.0, &file)?;
    put_in_place(&aside.0, &file, args.force)?;
    cx.out.object(&told, &told.file, |out| out.line(&words(&told)))
}

/// A file in the making, gone unless it was put in its place.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        // After a rename it is not there.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn put_in_place(aside: &Path, file: &Path, force: bool) -> Result {
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let renamed = renameat_with(CWD, aside, CWD, file, flags).map_err(io::Error::from);
    renamed.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => there_already(file),
        _ => unwritten(file, &e),
    })?;
    // The new name is in the directory.
    let dir = file.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| unwritten(file, &e))
}

fn there_already(file: &Path) -> Fail {
    let error = ApiError::new(Code::Conflict, format!("{} is there already", file.display()));
    Fail::from(error).hint("name another file, or replace it with --force")
}

fn unwritten(file: &Path, error: &io::Error) -> Fail {
    Fail::internal(format!("the backup {} cannot be written: {error}", file.display()))
}

/// What a copy holds, told under the name it will have.
fn told(path: &Path, file: &Path) -> Result<Told> {
    let held = store::summary(path).map_err(failed)?;
    Ok(Told {
        schema: Schema::new("pitstop.backup/1"),
        file: file.display().to_string(),
        bytes: held.bytes,
        records: held.records,
        epoch: held.epoch,
        machines: held.machines,
        reservations: held.reservations,
        newest: Time(held.newest),
    })
}

fn words(told: &Told) -> String {
    let Told { file, bytes, records, epoch, machines, reservations, newest, .. } = told;
    let newest = times::ago(*newest);
    format!(
        "{file}: {} and {reservations} open reservations, {records} records, epoch {epoch}, newest {newest}, {bytes} bytes",
        pitstop_wire::text::machines(usize::try_from(*machines).unwrap_or(usize::MAX)),
    )
}

/// No daemon can be asked for it: none may run.
pub fn restore(cx: &Context, args: &Restore) -> Result {
    let data = std::path::absolute(args.data.clone().unwrap_or_else(paths::data))?;
    let _lock = Lock::data(&data).map_err(|e| ApiError::new(Code::Conflict, e.to_string()))?;
    let checked = store::check(&args.file).map_err(failed)?;
    if let Some(first) = checked.findings.first().filter(|_| !args.force) {
        let file = args.file.display();
        let text = format!("{file} is damaged ({}: {}); nothing was changed", first.about, first.what);
        let hint = format!("pitstop admin fsck --db {file}; if there is no better one: --force");
        return Err(Fail::internal(text).hint(hint));
    }
    let backup = told(&args.file, &args.file)?;
    let done = store::restore(&args.file, &data).map_err(failed)?;
    let restored = Restored {
        schema: Schema::new("pitstop.restore/1"),
        backup,
        data: data.display().to_string(),
        replaced: done.replaced.map(|path| path.display().to_string()),
    };
    for wrong in found(&checked, Some(&data)) {
        cx.out.say(&format!("{}: {}", wrong.about, wrong.text));
    }
    cx.out.object(&restored, &restored.data, |out| {
        out.line(&format!("restored {}", words(&restored.backup)))?;
        if let Some(replaced) = &restored.replaced {
            out.line(&format!("what was there is kept as {replaced}"))?;
        }
        out.line("at the next start every reservation has ended, and disks are proven again before anybody gets them")
    })
}

/// A store's failure in the terms of every other one.
pub fn failed(error: StoreError) -> Fail {
    let code = match &error {
        StoreError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::NotFound,
        StoreError::Newer { .. } | StoreError::Foreign { .. } => Code::Conflict,
        _ => Code::Internal,
    };
    ApiError::new(code, error.to_string()).into()
}
