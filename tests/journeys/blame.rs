//! A bad image, a sick machine: who is blamed, and how everything comes back
//! without a person.

use crate::harness::{Lab, kind, of_kind};
use jiff::Timestamp;
use pitstop::sim::image::{Options, Panic, SEED_LEN, SEED_OFFSET};
use std::collections::{BTreeMap, BTreeSet};

const CLASS: &str = r#"
format = 1
[lab]
name = "blame"
[class.board]
image            = "blue"
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
power.sim        = { disk = "3M", boot = "10ms" }
"#;

/// Thirty machines whose image panics at boot.
fn thirty() -> Lab {
    let mut text = CLASS.to_owned();
    // The limit on the evidence is what a bad image costs; all others are so
    // generous that a busy host does not break machines.
    text.push_str(
        "timeout = { power = \"20s\", firmware = \"1s\", attach = \"60s\", reimage = \"60s\", evidence = \"2s\" }\n",
    );
    text.push_str("[machine.\"b[01-30]\"]\nclass = \"board\"\n");
    let lab = Lab::started(&text);
    lab.image("blue", &Options { content: 64 << 10, panic: Some(Panic::Kernel), ..Options::default() });
    lab.image("green", &Options { content: 64 << 10, ..Options::default() });
    lab
}

/// Machines of which this was told.
fn machines(lab: &Lab, wanted: &str) -> BTreeSet<String> {
    let of = |e: &serde_json::Value| Some(e["machine"].as_str()?.to_owned());
    lab.events().iter().filter(|e| kind(e) == wanted).filter_map(of).collect()
}

#[test]
fn one_bad_image_takes_thirty_machines_out() {
    let lab = thirty();
    let bad: Vec<String> = (0..6).map(|_| lab.queue(&["--want", "image"])).collect();
    let green = lab.queue(&["--image", "green"]);
    lab.until("the image is suspected", || {
        let image = lab.json(&["image", "show", "blue"]);
        image["suspected"].as_array().is_some_and(|list| !list.is_empty()).then_some(())
    });
    lab.until_reservation(&green, "ready");
    // Those that were on their way when the second one failed.
    lab.until("all that tried it are told", || {
        let over =
            |id: &String| ["ended", "waiting"].contains(&lab.reservation(id)["state"].as_str().unwrap());
        bad.iter().all(over).then_some(())
    });
    let quarantined: BTreeSet<String> = lab
        .events()
        .iter()
        .filter(|e| kind(e) == "health-set" && e["text"].as_str().unwrap().contains("quarantined"))
        .filter_map(|e| Some(e["machine"].as_str()?.to_owned()))
        .collect();
    assert!(quarantined.len() <= 6, "a fifth of thirty at most: {quarantined:?}");
    let tried = machines(&lab, "image-failed");
    // Each of the six tried one or two; of the others nobody was asked.
    assert!((2..=12).contains(&tried.len()), "{tried:?}");
    assert!(lab.ok(&["status"]).contains("image blue is suspected"), "nobody is alarmed");

    // Whoever comes now waits and is told why; the other image goes on.
    let late = lab.queue(&["--want", "image"]);
    let why = lab.ok(&["why", &late]);
    assert!(why.contains("image blue is suspected") && why.contains("pitstop image add blue"), "{why}");
    let more = lab.queue(&["--image", "green"]);
    lab.until_reservation(&more, "ready");
    lab.until("nobody is in quarantine, and nobody helped", || {
        let status = lab.json(&["status"]);
        (status["counts"]["failed"] == 0).then_some(())
    });

    let file = lab.path("blue2.img");
    let options = Options { content: 96 << 10, ..Options::default() };
    pitstop::sim::image::mksimimage(&file, "blue2", 2 << 20, &options).unwrap();
    let seed = format!("{SEED_OFFSET},{SEED_LEN}");
    lab.ok(&["image", "add", "blue", file.to_str().unwrap(), "--replace", "--seed", &seed]);
    lab.until_reservation(&late, "ready");
    assert_eq!(lab.json(&["image", "show", "blue"])["suspected"], serde_json::Value::Null);
    costs(&lab);
}

/// What it cost is in the report.
fn costs(lab: &Lab) {
    let report = lab.json(&["report", "--by", "class"]);
    let board = &report["lines"][0];
    assert_eq!((&board["name"], &board["machines"]), (&"board".into(), &30.into()), "{report}");
    assert!(board["failed_tries"].as_u64().unwrap() >= 3, "{report}");
    let (lost, tries) = (board["lost"].as_f64().unwrap(), failed_tries(lab));
    assert!(tries > 0.0 && lost > 0.99 * tries, "{tries} s by the history; {report}");
    let causes = lab.ok(&["report", "--by", "cause", "-o", "csv"]);
    assert!(causes.lines().any(|line| line.starts_with("boot,")), "{causes}");
    let users = lab.json(&["report", "--by", "user"]);
    assert!(users["lines"][0]["ready_p95"].as_f64().is_some(), "{users}");
    assert!(lab.ok(&["report"]).contains("QUARANTINES"));
}

/// How long the tries that failed took, in seconds, by the history: each since
/// its turn began, or the one before it failed.
fn failed_tries(lab: &Lab) -> f64 {
    let mut since: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut all = 0.0;
    for event in lab.events() {
        let Some(machine) = event["machine"].as_str() else { continue };
        let at: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        match kind(&event) {
            "turn-started" => drop(since.insert(machine.to_owned(), at)),
            "phase-failed" => {
                let began = since.insert(machine.to_owned(), at);
                all += began.map_or(0.0, |began| at.duration_since(began).as_secs_f64());
            }
            _ => {}
        }
    }
    all
}

/// The command runs in the machine's own image, as a tenant's would.
#[test]
fn a_health_check_runs_in_the_image_and_its_disk_is_wiped_after() {
    let mut text = CLASS.to_owned();
    text.push_str("[machine.well]\nclass = \"board\"\n");
    text.push_str(
        "health = { every = \"10m\", run = [\"sh\", \"-c\", \"echo so far; hostname | grep -q blue\"] }\n",
    );
    text.push_str("[machine.sick]\nclass = \"board\"\n");
    text.push_str("health = { every = \"10m\", run = [\"sh\", \"-c\", \"echo 3 of 4 fans >&2; exit 7\"] }\n");
    let lab = Lab::started(&text);
    lab.image("blue", &Options { content: 64 << 10, ..Options::default() });
    for machine in ["well", "sick"] {
        lab.ok(&["admin", "prove", machine]);
    }
    let sick = lab.until_state("sick", "quarantined");
    assert_eq!((&sick["health"]["class"], &sick["health"]["phase"]), (&"health".into(), &"check".into()));
    let evidence = sick["health"]["evidence"].as_str().unwrap();
    assert!(evidence.contains("ended with 7") && evidence.contains("3 of 4 fans"), "{evidence}");
    assert!(sick["health"]["again"].as_str().is_some(), "it is not said when it is proven again");
    let passed = lab.until("the well one is through", || {
        let events = lab.events();
        let passed = of_kind(&events, "well", "proof-passed").len();
        (passed > 0).then_some(passed)
    });
    assert_eq!(passed, 1);
    let well = lab.until_state("well", "free");
    assert_eq!((&well["health"]["is"], &well["clean"]), (&"good".into(), &"proven".into()), "{well}");
}

/// A failure says more than that time is over, and the machine's own last
/// words stand beside it.
#[test]
fn a_quarantine_is_explained_with_what_is_known() {
    let mut text = CLASS.to_owned();
    text.push_str("[machine.board]\nclass = \"board\"\npower.sim.faults = [\"agent-silent\"]\n");
    text.push_str(
        "timeout = { power = \"20s\", firmware = \"1s\", attach = \"1s\", reimage = \"60s\", evidence = \"9s\" }\n",
    );
    let lab = Lab::started(&text);
    lab.queue(&["--want", "agent"]);
    let board = lab.until_state("board", "quarantined");
    let evidence = board["health"]["evidence"].as_str().unwrap();
    assert!(evidence.contains("boot parameters were given out"), "{evidence}");
    assert!(evidence.contains("power reads on"), "{evidence}");
    let why = lab.ok(&["why", "board"]);
    assert!(why.contains("it is proven by itself in"), "{why}");
    assert!(why.contains("console: "), "the console's last words are missing: {why}");
}
