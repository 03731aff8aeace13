//! Machines that misbehave: out of use where they must be, with a class and
//! a reason; forgiven where they recover; and nobody's build suffers for it.

use crate::harness::{Lab, kind, of_kind};
use pitstop::sim::image::{Options, Panic};
use pitstop_drivers::sim::Request;

/// A machine with this fault, and one beside it that is well. Each such pair
/// is a class: of a large one that fails all at once nobody is blamed.
fn inventory(faults: &[(&str, &str)]) -> String {
    let mut text = "format = 1\n[lab]\nname = \"faults\"\n".to_owned();
    for pair in 0..faults.len().div_ceil(2) {
        text.push_str(&format!("[class.board{pair}]{CLASS}"));
    }
    for (n, (name, fault)) in faults.iter().enumerate() {
        let list =
            if fault.is_empty() { String::new() } else { format!("power.sim.faults = [\"{fault}\"]\n") };
        let pair = n / 2;
        text.push_str(&format!("[machine.{name}]\nclass = \"board{pair}\"\ntags = {{ n = {n} }}\n{list}"));
    }
    text
}

const CLASS: &str = r#"
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
power.sim        = { disk = "4M", boot = "10ms" }
timeout          = { power = "3s", firmware = "4s", attach = "4s", reimage = "60s", evidence = "30s", handover = "30s" }
"#;

/// A fault, the class of failure it leads to, and words of the evidence.
struct Case {
    fault: &'static str,
    class: &'static str,
    words: &'static str,
}

const CASES: [Case; 7] = [
    Case { fault: "power-ignored", class: "power", words: "read back off" },
    Case { fault: "power-lost:0", class: "power", words: "off" },
    Case { fault: "unreadable", class: "power", words: "off within" },
    Case { fault: "never-boots", class: "boot", words: "no agent in" },
    Case { fault: "panic", class: "boot", words: "Kernel panic" },
    Case { fault: "agent-silent", class: "boot", words: "no agent in" },
    Case { fault: "image-corrupt", class: "disk", words: "does not hold what was written" },
];

/// Each of these machines fails twice: it is quarantined with the class,
/// explained, and back by a proving turn once the fault is gone. Its
/// reservation gets the other machine. All at the same time, since each takes
/// its time.
#[test]
fn machines_that_fail_are_quarantined_and_their_reservations_served() {
    let names: Vec<(String, String)> =
        (0..CASES.len()).map(|n| (format!("bad{n}"), format!("well{n}"))).collect();
    let faults: Vec<(&str, &str)> = names
        .iter()
        .zip(&CASES)
        .flat_map(|((bad, well), case)| [(&**bad, case.fault), (&**well, "")])
        .collect();
    let lab = Lab::started(&inventory(&faults));
    lab.image("blue", &Options { content: 256 << 10, ..Options::default() });
    let ids: Vec<String> = names
        .iter()
        .map(|(bad, well)| lab.queue(&[&format!("name={bad},{well}"), "--image", "blue"]))
        .collect();
    for (((bad, well), case), id) in names.iter().zip(&CASES).zip(&ids) {
        let ready = lab.until_reservation(id, "ready");
        assert_eq!(ready["machines"][0]["machine"], **well, "{}: {ready}", case.fault);
        assert_eq!(ready["failed_on"][0], **bad, "{}: {ready}", case.fault);
        is_quarantined(&lab, bad, case);
        assert!(lab.ok(&["why", id]).contains(&format!("{bad} failed it")));
        // Nobody gets it, however long he waits.
        assert_eq!(lab.cli(&["reserve", &format!("name={bad}"), "--timeout", "1s"]).code, 6);
        lab.sim(bad, &Request::Heal);
        lab.ok(&["admin", "prove", bad]);
    }
    for (((bad, well), case), id) in names.iter().zip(&CASES).zip(&ids) {
        let back = lab.until_state(bad, "free");
        let shown = (&back["health"]["is"], &back["clean"]);
        assert_eq!(shown, (&"good".into(), &"proven".into()), "{}: {back}", case.fault);
        assert_eq!(lab.machine(well)["holder"]["reservation"], **id, "{}: all the while", case.fault);
        lab.ok(&["reserve", "--resume", id]);
        assert_eq!(lab.ok(&["run", well, "--", "hostname"]), "blue\n");
    }
    let events = lab.events();
    for (_, well) in &names {
        assert_eq!(of_kind(&events, well, "phase-failed").len(), 0, "{well} did nothing wrong");
    }
}

fn is_quarantined(lab: &Lab, bad: &str, case: &Case) {
    let m = lab.until_state(bad, "quarantined");
    assert_eq!((&m["health"]["is"], &m["shown"]), (&"quarantined".into(), &"failed".into()));
    assert_eq!(m["health"]["class"], case.class, "{}: {}", case.fault, m["health"]);
    let evidence = m["health"]["evidence"].as_str().unwrap();
    assert!(evidence.contains(case.words), "{}: {evidence}", case.fault);
    assert_eq!(of_kind(&lab.events(), bad, "phase-failed").len(), 2, "{}: tried twice", case.fault);
    let why = lab.ok(&["why", bad]);
    for word in ["quarantined", case.class, evidence, &format!("pitstop admin prove {bad}")] {
        assert!(why.contains(word), "{}: `{word}` is not in: {why}", case.fault);
    }
    assert!(lab.ok(&["status"]).contains(bad), "an alert names it");
}

/// With this fault the machine serves all the same, the first time.
fn is_forgiven(fault: &str, image: bool, failures: usize) -> Lab {
    let lab = Lab::started(&inventory(&[("bad", fault), ("well", "")]));
    lab.image("blue", &Options { content: 256 << 10, ..Options::default() });
    let want: &[&str] = if image { &["--image", "blue"] } else { &["--want", "agent"] };
    let id = lab.queue(&[&["name=bad"], want].concat());
    lab.until_reservation(&id, "ready");
    lab.ok(&["reserve", "--resume", &id]);
    assert_eq!(lab.ok(&["run", "bad", "--", "echo", "well"]), "well\n");
    lab.ok(&["release", &id]);
    let bad = lab.until_state("bad", "free");
    assert_eq!((&bad["health"]["is"], &bad["clean"]), (&"good".into(), &"proven".into()), "{bad}");
    let events = lab.events();
    assert_eq!(of_kind(&events, "bad", "phase-failed").len(), failures, "{fault}");
    lab
}

#[test]
fn faults_that_pass_are_forgiven() {
    for (fault, failures) in [
        ("panic*1", 1),
        ("power-ignored*1", 1),
        ("power-late:300", 0),
        ("agent-late:500", 0),
        ("console-mute", 0),
    ] {
        is_forgiven(fault, true, failures);
    }
}

#[test]
fn a_second_agent_with_the_same_parameters_is_refused_and_does_no_harm() {
    let lab = is_forgiven("agent-twice", false, 0);
    let events = lab.events();
    let refused = of_kind(&events, "bad", "agent-refused");
    assert!(!refused.is_empty());
    assert!(refused[0]["text"].as_str().unwrap().contains("the token was already used"), "{}", refused[0]);
}

#[test]
fn after_three_machines_a_reservation_gives_up() {
    let faults = ["m1", "m2", "m3", "m4"].map(|name| (name, "image-corrupt"));
    let lab = Lab::started(&inventory(&faults));
    lab.image("blue", &Options::default());
    let id = lab.queue(&["name=m1,m2,m3,m4", "--image", "blue"]);
    let ended = lab.until_reservation(&id, "ended");
    assert_eq!(ended["end"]["kind"], "failed", "{ended}");
    let failed_on = ended["failed_on"].as_array().unwrap();
    assert_eq!(failed_on.len(), 3, "{ended}");
    for (machine, _) in faults {
        let tried = failed_on.contains(&machine.into());
        let m = lab.until_state(machine, if tried { "quarantined" } else { "free" });
        assert_eq!(m["turns"], u64::from(tried), "{m}");
    }
    let done = lab.cli(&["reserve", "--resume", &id]);
    assert_eq!(done.code, 7, "{done}");
    assert!(done.stderr.contains("disk failure"), "{done}");
}

#[test]
fn an_image_that_fits_no_disk_is_not_the_machines_fault() {
    let lab = Lab::started(&inventory(&[("board", "")]).replace("4M", "1M"));
    lab.image("blue", &Options::default());
    let id = lab.queue(&["name=board", "--image", "blue"]);
    let ended = lab.until_reservation(&id, "ended");
    let text = ended["end"]["text"].as_str().unwrap();
    assert!(text.contains("image failure") && text.contains("take a larger disk"), "{text}");
    let m = lab.until_state("board", "free");
    assert_eq!((&m["health"]["is"], &m["clean"]), (&"good".into(), &"proven".into()), "{m}");
}

#[test]
fn a_disk_that_nobody_declared_is_no_clean_machine() {
    let inventory = inventory(&[("bad", ""), ("well", "")])
        .replace("[machine.bad]", "[machine.bad]\npower.sim.extra = [\"usb\"]");
    let lab = Lab::started(&inventory);
    let id = lab.queue(&["name=bad,well", "--want", "agent"]);
    let ready = lab.until_reservation(&id, "ready");
    assert_eq!(ready["machines"][0]["machine"], "well", "{ready}");
    let bad = lab.until_state("bad", "quarantined");
    assert_eq!(bad["health"]["class"], "disk");
    assert!(bad["health"]["evidence"].as_str().unwrap().contains("does not declare"), "{bad}");
}

#[test]
fn a_system_that_panics_in_its_holders_hands_is_his_matter() {
    // Its kernel panics four boot times after the agent was started: late
    // enough for the hand-over.
    let lab = Lab::started(&inventory(&[("board", "")]).replace("10ms", "1s"));
    lab.image("late", &Options { panic: Some(Panic::Late), boot_ms: Some(10), ..Options::default() });
    let id = lab.queue(&["name=board", "--image", "late"]);
    lab.until_reservation(&id, "ready");
    lab.ok(&["reserve", "--resume", &id]);
    lab.until("its kernel has panicked", || (lab.sim_status("board").doing == "hung").then_some(()));
    lab.until("its silence is seen", || (lab.machine("board")["agent"]["connected"] == false).then_some(()));
    let m = lab.machine("board");
    assert_eq!((&m["state"], &m["holder"]["reservation"]), (&"in-use".into(), &id.as_str().into()), "{m}");
    lab.ok(&["release", &id]);
    let m = lab.until_state("board", "free");
    assert_eq!(m["health"]["is"], "good");
    assert!(lab.events().iter().all(|e| kind(e) != "phase-failed"));
}
