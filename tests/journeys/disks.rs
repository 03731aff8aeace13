//! What a holder leaves on a disk, and who ever sees it again.

use crate::harness::{Lab, assert_exactly, kind, of_kind};
use pitstop::sim::image::Options;
use serde_json::Value;

const MARKER: &str = "left-behind-by-the-last-one";

fn inventory(policy: &str, more: &str) -> String {
    format!(
        r#"
format = 1
[lab]
name = "disks"
[policy.person]
after_build = "{policy}"
[policy.ci]
after_build = "{policy}"
[class.board]
tags             = {{ kind = "board" }}
image            = "blue"
console.main.sim = {{}}
boot.sim         = {{}}
disk.root        = {{}}
ready.agent      = {{}}
power.sim        = {{ disk = "8M", boot = "10ms" }}
timeout          = {{ power = "10s", firmware = "30s", attach = "30s", reimage = "60s", evidence = "30s" }}
{more}
[machine.board]
class = "board"
[machine.other]
class = "board"
"#
    )
}

fn started(policy: &str, more: &str) -> (Lab, std::path::PathBuf) {
    let lab = Lab::started(&inventory(policy, more));
    let image = lab.image("blue", &Options { content: 1 << 20, ..Options::default() });
    (lab, image)
}

/// Writes markers where the image has content, where it has a hole, and
/// behind its end.
fn soil(lab: &Lab, machine: &str) {
    let at = [128 << 10, 1_500_000, 3 << 20, (8 << 20) - MARKER.len()];
    for offset in at {
        let script =
            format!("printf {MARKER} | dd of=$PITSTOP_DISK bs=1 seek={offset} conv=notrunc status=none");
        lab.ok(&["run", machine, "--", "sh", "-c", &script]);
    }
    assert_eq!(markers(lab, machine), at.len(), "the markers are on the disk");
}

/// How often the marker is on the disk, seen from outside.
fn markers(lab: &Lab, machine: &str) -> usize {
    let bytes = std::fs::read(lab.disk(machine, "root")).unwrap();
    bytes.windows(MARKER.len()).filter(|w| *w == MARKER.as_bytes()).count()
}

fn take(lab: &Lab, args: &[&str]) -> String {
    let id = lab.queue(args);
    lab.until_reservation(&id, "ready");
    lab.ok(&["reserve", "--resume", &id]);
    id
}

fn proofs(lab: &Lab, machine: &str) -> usize {
    of_kind(&lab.events(), machine, "disk-proven").len()
}

#[test]
fn reimage_leaves_nothing_of_a_holder_who_was_killed() {
    let (lab, image) = started("reimage", "");
    let child = lab.path("child");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", child.display());
    let mut holder = lab.spawn(&[
        "reserve",
        "name=board",
        "--image",
        "blue",
        "--silence",
        "5s",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    lab.until("the holder works", || child.exists().then_some(()));
    soil(&lab, "board");
    holder.kill9();
    holder.wait_alone();
    let child: i32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(child).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let m = lab.until_state("board", "free");
    assert_eq!(m["clean"], "proven", "{m}");
    assert_eq!(markers(&lab, "board"), 0);
    assert_exactly(&lab.disk("board", "root"), Some(&image));
    // Already what is wanted: proven again, not written again.
    let before = lab.events().len();
    let id = take(&lab, &["name=board", "--image", "blue"]);
    let events = lab.events().split_off(before);
    let proof = of_kind(&events, "board", "disk-proven")[0];
    assert_eq!(proof["data"]["certificate"]["proof"]["written_bytes"], 0, "{proof}");
    assert_eq!(lab.ok(&["run", "board", "--", "hostname"]), "blue\n");
    lab.ok(&["release", &id]);
    lab.until_state("board", "free");
}

#[test]
fn power_off_keeps_the_disk_until_somebody_wants_the_machine() {
    let (lab, _) = started("power-off", "");
    let red = lab.image("red", &Options { content: 512 << 10, ..Options::default() });
    let id = take(&lab, &["name=board", "--image", "blue"]);
    soil(&lab, "board");
    lab.ok(&["release", &id]);
    let m = lab.until_state("board", "free");
    assert_eq!((&m["clean"], &m["legs"][0]["reading"]), (&"used".into(), &"off".into()), "{m}");
    assert!(markers(&lab, "board") > 0, "off, and nothing else");
    let before = proofs(&lab, "board");
    // A bare machine is switched off and clean when it is handed over.
    let id = take(&lab, &["name=board", "--image", "red", "--want", "bare"]);
    assert_eq!(proofs(&lab, "board"), before + 1);
    assert_eq!(markers(&lab, "board"), 0);
    assert_exactly(&lab.disk("board", "root"), Some(&red));
    lab.ok(&["release", &id]);
    lab.until_state("board", "free");
}

#[test]
fn keep_hands_a_used_disk_only_to_who_accepts_one() {
    let (lab, _) = started("keep", "shared = true");
    let id = take(&lab, &["name=board", "--image", "blue"]);
    soil(&lab, "board");
    lab.ok(&["release", &id]);
    let m = lab.until_state("board", "free");
    assert_eq!(m["clean"], "used", "{m}");
    let before = proofs(&lab, "board");
    let id = take(&lab, &["name=board", "--want", "agent", "--clean", "any"]);
    assert_eq!(proofs(&lab, "board"), before, "as it is");
    assert!(markers(&lab, "board") > 0);
    let seen =
        lab.ok(&["run", "board", "--", "sh", "-c", &format!("grep -c {MARKER} $PITSTOP_DISK || true")]);
    assert_ne!(seen, "0\n", "he accepted what he finds");
    lab.ok(&["release", &id]);
    lab.until_state("board", "free");
    // Who says nothing gets a clean one all the same.
    let id = take(&lab, &["name=board", "--want", "agent"]);
    assert_eq!(proofs(&lab, "board"), before + 1);
    assert_eq!(markers(&lab, "board"), 0);
    lab.ok(&["release", &id]);
    lab.until_state("board", "free");
}

#[test]
fn a_holders_own_reimage_brings_the_machine_back_to_him() {
    let (lab, _) = started("reimage", "");
    lab.image("red", &Options { content: 512 << 10, ..Options::default() });
    let id = take(&lab, &["name=board", "--image", "blue"]);
    soil(&lab, "board");
    lab.ok(&["--yes", "reimage", "board", "--image", "red"]);
    lab.until("it is his again", || {
        let m = lab.machine("board");
        (m["state"] == "in-use" && m["image"] == "red").then_some(())
    });
    assert_eq!(lab.machine("board")["holder"]["reservation"], id);
    assert_eq!(lab.ok(&["run", "board", "--", "hostname"]), "red\n");
    assert_eq!(markers(&lab, "board"), 0);
    lab.ok(&["release", &id]);
    lab.until_state("board", "free");
}

#[test]
fn two_machines_come_together_or_not_at_all_and_in_order() {
    let (lab, _) = started("reimage", "");
    let first = take(&lab, &["name=board", "--want", "agent"]);
    let pair = lab.queue(&["-n", "2", "kind=board", "--want", "agent"]);
    let later = lab.queue(&["kind=board", "--want", "agent"]);
    let waits = |id: &str| lab.reservation(id);
    assert_eq!(waits(&pair)["state"], "waiting");
    assert!(waits(&pair)["machines"].as_array().unwrap().is_empty(), "half of it is nothing");
    assert_eq!(lab.machine("other")["state"], "free", "kept for the elder one");
    assert_eq!((&waits(&pair)["position"], &waits(&later)["position"]), (&1.into(), &2.into()));
    assert!(lab.ok(&["why", &later]).contains(&format!("kept for {pair}")));
    lab.ok(&["release", &first]);
    let ready = lab.until_reservation(&pair, "ready");
    assert_eq!(ready["machines"].as_array().unwrap().len(), 2);
    assert_eq!(waits(&later)["state"], "waiting");
    let events = lab.events();
    let granted: Vec<&Value> =
        events.iter().filter(|e| kind(e) == "granted" && e["reservation"] == *pair).collect();
    let [a, b] = granted.as_slice() else { panic!("{granted:?}") };
    let between = events.iter().filter(|e| {
        e["number"].as_u64() > a["number"].as_u64() && e["number"].as_u64() < b["number"].as_u64()
    });
    assert!(
        between.clone().all(|e| e["time"] == a["time"]),
        "in one step: {:?}",
        between.collect::<Vec<_>>()
    );
    lab.ok(&["reserve", "--resume", &pair]);
    for machine in ["board", "other"] {
        assert_eq!(lab.machine(machine)["state"], "in-use");
    }
    lab.ok(&["release", &pair]);
    lab.until_reservation(&later, "ready");
    lab.ok(&["release", &later]);
    lab.until_state("board", "free");
    lab.until_state("other", "free");
}
