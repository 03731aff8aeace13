//! `pitstop admin enrol --write`: what was found of machines, as lines of an
//! inventory.

use super::super::fail::Fail;
use super::super::ls::nothing;
use super::super::pick::filter;
use super::super::{Context, Result};
use pitstop_wire::api::{Found, FoundDisk, Machine};
use pitstop_wire::text::{machines, one_line};
use pitstop_wire::{ApiError, Code};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

pub const HELP: &str = "With its first boot of the boot agent a machine reports what it is: serial number, disks, network cards, memory,
processors, firmware. They become tags (`ram=8..`), and from then on each report is compared with them before anything is
written. (`admin prove M` has it boot at once; `admin check --wiring M` without writing anything.) A machine that is not
what it was is quarantined (class drift): to enrol it again is to accept what it is now.

Examples
  pitstop admin enrol state=new                 asks for their number
  pitstop admin enrol srv17 --count 1           also one that differs: accepts what it is now
  pitstop admin enrol kind=server --write lab.d/facts.toml
                                                what was found, for `include` or to be pasted";

/// Writes what was found. A file that is there is left alone.
pub async fn write(cx: &Context, words: &[String], path: &Path) -> Result {
    let select = filter(words)?.acting();
    let found = cx.client.machines(&select.to_string()).await?.machines;
    if found.is_empty() {
        return Err(ApiError::new(Code::NotFound, nothing(&select)).into());
    }
    let known: Vec<(&Machine, &Found)> = found.iter().filter_map(|m| Some((m, m.found.as_ref()?))).collect();
    for m in found.iter().filter(|m| m.found.is_none()) {
        cx.out.say(&format!("{}: our agent never reported from it", m.name));
    }
    if known.is_empty() {
        return Err(ApiError::new(Code::Conflict, "nothing was found of any of them yet")
            .hint("pitstop admin enrol, or for new ones: pitstop admin check --wiring")
            .into());
    }
    let text: String =
        std::iter::once(HEAD.to_owned()).chain(known.iter().map(|(m, f)| lines(m, f))).collect();
    create(path, &text)?;
    let says = format!("{}: what was found of {}", path.display(), machines(known.len()));
    cx.out.object(&known.iter().map(|(m, _)| &m.name).collect::<Vec<_>>(), "", |out| out.line(&says))
}

const HEAD: &str = "# What was found of these machines, written by `pitstop admin enrol --write`. For `include`, or to be pasted: leave out
# what the inventory says already. A disk that is given its serial number here is enrolled anew after the reload.
";

fn create(path: &Path, text: &str) -> Result {
    let failed = |e: std::io::Error| {
        let what = format!("cannot write {}: {e}", path.display());
        match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Fail::from(ApiError::new(Code::Conflict, what).hint("it is left as it is: name another file"))
            }
            _ => Fail::from(ApiError::new(Code::Usage, what)),
        }
    };
    let mut file = OpenOptions::new().create_new(true).write(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// The lines of one machine. What the inventory has no key for is a remark.
fn lines(m: &Machine, found: &Found) -> String {
    let mut text = format!("\n# {}\n", words(found));
    if !found.macs.is_empty() {
        text.push_str(&format!("# network cards: {}\n", one_line(&found.macs.join(", "))));
    }
    let (sure, unsure): (Vec<&FoundDisk>, Vec<&FoundDisk>) =
        found.disks.iter().partition(|disk| disk.name.is_some() && disk.serial.is_some());
    for disk in unsure {
        text.push_str(&format!("# {}\n", disk_words(disk)));
    }
    text.push_str(&format!("[machine.{}]\n", quoted(&m.name)));
    for disk in sure {
        let (name, serial) =
            (disk.name.as_deref().unwrap_or_default(), disk.serial.as_deref().unwrap_or_default());
        let (name, serial) = (quoted(name), quoted(serial));
        text.push_str(&format!("disk.{name}.match.serial = {serial}    # {}\n", disk_words(disk)));
    }
    text
}

fn words(found: &Found) -> String {
    let mut words = vec![found.model.clone().unwrap_or_else(|| "no model".to_owned())];
    words.push(match (&found.serial, &found.uuid) {
        (Some(serial), _) => format!("serial {serial}"),
        (None, Some(uuid)) => format!("UUID {uuid}"),
        (None, None) => "no serial number".to_owned(),
    });
    words.push(format!("{} MiB of memory, {} cores", found.memory >> 20, found.cores.max(found.cpus.min(1))));
    words.extend(found.firmware.iter().map(|(name, version)| format!("{name} {version}")));
    one_line(&words.join("; "))
}

fn disk_words(disk: &FoundDisk) -> String {
    let mut words = vec![format!("{} on {}, {} bytes", disk.path, disk.bus, disk.bytes)];
    words.extend(disk.model.clone());
    match (&disk.serial, &disk.wwn) {
        (None, Some(wwn)) => words.push(format!("no serial number, {wwn}")),
        (None, None) => words.push("no serial number".to_owned()),
        _ => {}
    }
    one_line(&words.join(", "))
}

/// A text of TOML: a JSON string is one, where it has no control characters
/// but those that both escape alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace('\u{7f}', "")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::machine;
    use pitstop_wire::api::Shown;

    fn found() -> Found {
        let disk = |name: Option<&str>, serial: Option<&str>| FoundDisk {
            name: name.map(str::to_owned),
            path: "/dev/nvme0n1".into(),
            bytes: 960_197_124_096,
            bus: "nvme".into(),
            serial: serial.map(str::to_owned),
            model: Some("SAMSUNG \u{1b}[2J\n[machine.other]".into()),
            ..FoundDisk::default()
        };
        Found {
            serial: Some("7XK2M93".into()),
            macs: vec!["e4:43:4b:6a:10:03".into()],
            memory: 64 << 30,
            cores: 32,
            disks: vec![
                disk(Some("root"), Some("S3Z8\"\\x")),
                disk(None, Some("OTHER")),
                disk(Some("tmp"), None),
            ],
            ..Found::default()
        }
    }

    #[test]
    fn what_was_found_is_toml_whatever_a_machine_calls_its_parts() {
        let text = HEAD.to_owned() + &lines(&machine("m0", Shown::Free), &found());
        let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(table.len(), 1, "{text}");
        let m0 = &table["machine"]["m0"];
        assert_eq!(m0["disk"]["root"]["match"]["serial"].as_str(), Some("S3Z8\"\\x"));
        assert!(m0["disk"].get("tmp").is_none(), "what has no number is not named by one: {text}");
        assert!(text.contains("# network cards: e4:43:4b:6a:10:03"), "{text}");
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.toml");
        create(&path, "first").unwrap();
        let Err(Fail::Said(error)) = create(&path, "second") else { panic!("it was written over") };
        assert_eq!(error.code, Code::Conflict);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
    }
}
