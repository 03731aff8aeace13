//! The last part of a wiring check: our agent boots on the machine and says
//! which one it is.

use super::super::super::Result;
use super::Progress;
use pitstop_client::EventQuery;
use pitstop_wire::api::{CheckedPart, Found, Machine, TurnState};
use std::time::{Duration, Instant};

/// Between two looks at the row.
const LOOK: Duration = Duration::from_millis(250);

/// Boots our agent, and compares what it reports with what was enrolled.
pub(super) async fn report(progress: &Progress<'_>) -> Result<CheckedPart> {
    let Progress { cx, name } = *progress;
    let began = Instant::now();
    let before = cx.client.machine(name).await?;
    let newest = cx.client.history(&query(name, None)).await?.events.last().map(|e| e.number);
    progress.say("boots our agent, which reports and writes nothing");
    cx.client.look_wiring(name).await?;
    let mut said = String::new();
    let row = loop {
        let row = cx.client.machine(name).await?;
        // The second try would tell no more than the first.
        let Some(turn) = row.turn.clone().filter(|turn| turn.failed == 0) else { break row };
        tell(progress, &turn, &mut said);
        tokio::time::sleep(LOOK).await;
    };
    let since = newest.map(|number| (number + 1).to_string());
    let failed = cx.client.history(&query(name, since)).await?.events;
    let failed = failed
        .into_iter()
        .find(|e| e.kind == "phase-failed")
        .map(|e| e.text.trim_start_matches("✗ ").to_owned());
    let judged = match failed {
        Some(text) => Err(text),
        None => judge(&before, &row),
    };
    let ok = judged.is_ok();
    Ok(CheckedPart {
        part: "agent".to_owned(),
        driver: String::new(),
        ok,
        says: judged.unwrap_or_else(|text| text),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn query(name: &str, since: Option<String>) -> EventQuery {
    let last = since.is_none().then_some(1);
    EventQuery { machine: Some(name.to_owned()), since, last, ..EventQuery::default() }
}

fn tell(progress: &Progress<'_>, turn: &TurnState, said: &mut String) {
    if turn.phase != *said {
        let limit = super::super::super::times::left(turn.deadline);
        progress.say(&format!("our agent: {}, for {limit} at most", turn.phase));
        said.clone_from(&turn.phase);
    }
}

/// What is to be said of a report that the daemon found nothing wrong with.
fn judge(before: &Machine, now: &Machine) -> std::result::Result<String, String> {
    let Some(found) = &now.found else { return Err("our agent booted, and reported nothing".to_owned()) };
    let known = |name: &str| found.disks.iter().any(|disk| disk.name.as_deref() == Some(name));
    let missing: Vec<&str> = now.disks.iter().map(|d| d.name.as_str()).filter(|name| !known(name)).collect();
    if !missing.is_empty() {
        let text = "what the inventory says of a disk fits none, or several, of those that our agent found";
        return Err(format!("{text}: {}; it found {}", missing.join(", "), disks(found)));
    }
    let differences: Vec<&str> = now.differences.iter().map(|d| d.text.as_str()).collect();
    let how = match (&before.found, differences.is_empty()) {
        (None, _) => "nothing was known of it: recorded".to_owned(),
        (Some(_), true) => "as it was enrolled".to_owned(),
        (Some(_), false) => format!("since it was enrolled: {}", differences.join("; ")),
    };
    Ok(format!("{}; {how}", words(found)))
}

fn words(found: &Found) -> String {
    let serial =
        found.serial.as_ref().map_or_else(|| "no serial number".to_owned(), |s| format!("serial {s}"));
    let cards = match found.macs.as_slice() {
        [] => "no network card".to_owned(),
        macs => macs.join(", "),
    };
    format!("reports {serial}, {cards}, {}", disks(found))
}

fn disks(found: &Found) -> String {
    let disk = |disk: &pitstop_wire::api::FoundDisk| {
        format!("disk {}", disk.serial.as_deref().unwrap_or(disk.path.as_str()))
    };
    match found.disks.as_slice() {
        [] => "no disk".to_owned(),
        disks => disks.iter().map(disk).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::machine;
    use pitstop_wire::api::{Differs, FoundDisk, Shown};

    fn row(disk: Option<&str>) -> Machine {
        let root = pitstop_wire::api::DiskState {
            name: "root".into(),
            content: "unknown".into(),
            digest: None,
            proven: None,
            boot: None,
            by_command: None,
            by: None,
            image_bytes: None,
            read_bytes: None,
            written_bytes: None,
            device_bytes: None,
            used_by: None,
        };
        let name = disk.map(str::to_owned);
        let disk =
            FoundDisk { name, path: "/dev/vda".into(), serial: Some("D1".into()), ..FoundDisk::default() };
        let found = Found { serial: Some("S1".into()), disks: vec![disk], ..Found::default() };
        Machine { found: Some(found), disks: vec![root], ..machine("m0", Shown::New) }
    }

    #[test]
    fn a_first_report_is_recorded_and_a_later_one_compared() {
        let (nothing, known) = (machine("m0", Shown::New), row(Some("root")));
        assert_eq!(
            judge(&nothing, &known).unwrap(),
            "reports serial S1, no network card, disk D1; nothing was known of it: recorded"
        );
        assert!(judge(&known, &known).unwrap().ends_with("as it was enrolled"));
        let text = "network card 52:54:00:00:00:02 is new";
        let differs =
            Machine { differences: vec![Differs { text: text.into(), grave: false }], ..known.clone() };
        assert!(judge(&known, &differs).unwrap().contains(text));
    }

    #[test]
    fn a_disk_of_the_inventory_that_is_not_there_is_found_out() {
        let text = judge(&row(None), &row(None)).unwrap_err();
        assert!(text.contains("root") && text.contains("D1"), "{text}");
        assert!(judge(&row(None), &machine("m0", Shown::New)).is_err(), "a report is missing");
    }
}
