//! Who may speak for a machine. Everybody else is refused, and it is on
//! record why.

use crate::harness::wire::{Link, boot_script, parameters, runtime};
use crate::harness::{Lab, kind, of_kind};
use pitstop_drivers::sim::Request;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, FromAgent, Hardware, Hello, Outcome, PROTOCOL, Secret, SeenDisk,
    ToAgent, Welcome, Work,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// `board` and `other` hang in their firmware, so that the test is what boots
/// on them; `told` does not boot from the network.
const INVENTORY: &str = r#"
format = 1
[lab]
name = "refusals"
[class.board]
console.main.sim = {}
disk.root        = {}
ready.agent      = {}
boot.sim         = { delivery = "http" }
power.sim        = { disk = "1M", boot = "10ms", faults = ["never-boots"] }
timeout          = { power = "2s", firmware = "60s", attach = "60s", reimage = "60s" }
[machine.board]
class = "board"
[machine.other]
class = "board"
[machine.told]
class = "board"
boot.sim  = { delivery = "power-on" }
"#;

const KEY: &str = "the session's own key";

fn attach(params: &AgentParams, boot_id: &str) -> Hello {
    Hello::Attach {
        protocol: (PROTOCOL, PROTOCOL),
        version: "0.0.1-journey".into(),
        kind: AgentKind::Boot,
        machine: params.machine.clone(),
        nonce: params.nonce.clone(),
        boot_id: boot_id.into(),
        token: params.token.clone(),
        key_hash: hex::encode(Sha256::digest(KEY)),
    }
}

fn resume(params: &AgentParams, boot_id: &str, key: &str) -> Hello {
    Hello::Resume {
        protocol: (PROTOCOL, PROTOCOL),
        version: "0.0.1-journey".into(),
        machine: params.machine.clone(),
        nonce: params.nonce.clone(),
        boot_id: boot_id.into(),
        key: Secret(key.into()),
    }
}

/// Reserves the machine and waits until it is to fetch its parameters.
fn until_asked(lab: &Lab, machine: &str) -> String {
    let id = lab.queue(&[&format!("name={machine}"), "--want", "agent"]);
    lab.until(&format!("{machine} is on and hangs"), || {
        let m = lab.machine(machine);
        let waits = m["turn"]["phase"] == "boot agent" && m["legs"][0]["unsettled"] == 0;
        (waits && lab.sim_status(machine).doing == "hung").then_some(())
    });
    id
}

fn refusals(lab: &Lab, machine: &str) -> Vec<String> {
    let events = lab.events();
    of_kind(&events, machine, "agent-refused")
        .iter()
        .map(|e| e["text"].as_str().unwrap().to_owned())
        .collect()
}

struct Door<'l> {
    lab: &'l Lab,
    runtime: tokio::runtime::Runtime,
    server: String,
}

impl Door<'_> {
    fn hello(&self, hello: &Hello) -> (Link, Welcome) {
        Link::hello(&self.runtime, self.lab, &self.server, hello)
    }

    /// The hello is refused for this reason, on record once more, and the
    /// daemon hangs up.
    fn refuses(&self, hello: &Hello, why: &str) {
        let (Hello::Attach { machine, .. } | Hello::Resume { machine, .. }) = hello;
        let before = refusals(self.lab, machine).len();
        let (mut link, welcome) = self.hello(hello);
        let Welcome::Refused { reason, retry } = welcome else { panic!("accepted, but: {why}") };
        assert!(reason.contains(why) && !retry, "{reason}, expected: {why}");
        assert_eq!(link.next(&self.runtime), None, "after a refusal nothing is said");
        let recorded = refusals(self.lab, machine);
        assert_eq!(recorded.len(), before + 1, "{recorded:?}");
        assert!(recorded.last().unwrap().contains(why), "{recorded:?}");
    }
}

#[test]
fn only_the_one_agent_of_this_attempt_gets_in() {
    let lab = Lab::started(INVENTORY);
    until_asked(&lab, "board");
    until_asked(&lab, "other");
    let params = parameters(&boot_script(&lab, "board").1);
    let others = parameters(&boot_script(&lab, "other").1);
    let door = Door { lab: &lab, runtime: runtime(), server: params.server.clone() };
    let mine = |change: fn(&mut AgentParams)| {
        let mut params = params.clone();
        change(&mut params);
        attach(&params, "boot-1")
    };

    let mut old = attach(&params, "boot-1");
    if let Hello::Attach { protocol, .. } = &mut old {
        *protocol = (0, 0);
    }
    door.refuses(&old, "speaks protocol 0 to 0");
    door.refuses(&mine(|p| p.nonce = "of-yesterday".into()), "the nonce is not this attempt's");
    door.refuses(&mine(|p| p.token = Secret("guessed".into())), "the token does not open this attempt");
    let stolen = AgentParams { token: others.token.clone(), ..params.clone() };
    door.refuses(&attach(&stolen, "boot-1"), "the token belongs to another machine");
    let mut host = attach(&params, "boot-1");
    if let Hello::Attach { kind, .. } = &mut host {
        *kind = AgentKind::Host;
    }
    door.refuses(&host, "the token does not open this attempt");
    door.refuses(&resume(&params, "boot-1", KEY), "there is no session");
    assert_eq!(lab.machine("board")["turn"]["failed"], 0, "strangers do not end an attempt");

    // The right one is let in all the same, and only once.
    let (mut link, welcome) = door.hello(&attach(&params, "boot-1"));
    assert!(matches!(welcome, Welcome::Accepted { rejoin: None, .. }), "{welcome:?}");
    assert!(matches!(link.next(&door.runtime), Some(ToAgent::Do { step: 1, work: Work::Look })));
    door.refuses(&attach(&params, "boot-1"), "the token was already used");
    door.refuses(&resume(&params, "boot-1", "another key"), "the key does not open this session");
    door.refuses(&resume(&params, "boot-2", KEY), "the session was opened by another boot");
    let stale = AgentParams { nonce: "of-yesterday".into(), ..params.clone() };
    door.refuses(&resume(&stale, "boot-1", KEY), "the nonce is not this session's");
    assert_eq!(lab.machine("board")["agent"]["connected"], true, "the session is untouched");
    let (mut link, welcome) = door.hello(&resume(&params, "boot-1", KEY));
    assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
    assert!(
        matches!(link.next(&door.runtime), Some(ToAgent::Do { step: 1, work: Work::Look })),
        "told again"
    );

    // A second boot with the token of the first: overheard, or the machine
    // fell over. Either way it ends the attempt.
    door.refuses(&attach(&params, "boot-2"), "the token was already used");
    let failed = lab.until("the attempt is over", || {
        let events = lab.events();
        of_kind(&events, "board", "phase-failed").first().map(|e| (*e).clone())
    });
    assert_eq!(failed["data"]["failure"]["class"], "agent", "{failed}");
    while let Some(message) = link.next(&door.runtime) {
        assert!(matches!(message, ToAgent::Bye { .. }), "{message:?}");
    }
    door.refuses(&resume(&params, "boot-1", KEY), "there is no session");
    // All of this was about one machine.
    assert_eq!(lab.machine("other")["turn"]["failed"], 0);
    no_secret_was_told(&lab, &[&params, &others]);
}

#[test]
fn a_proof_with_a_piece_missing_is_no_proof() {
    let lab = Lab::started(INVENTORY);
    until_asked(&lab, "board");
    let params = parameters(&boot_script(&lab, "board").1);
    let door = Door { lab: &lab, runtime: runtime(), server: params.server.clone() };
    let (mut link, _) = door.hello(&attach(&params, "boot-1"));
    assert!(matches!(link.next(&door.runtime), Some(ToAgent::Do { step: 1, .. })));
    let disk = SeenDisk {
        path: "/dev/vda".into(),
        bytes: 1 << 20,
        serial: None,
        bus: "virtio".into(),
        ..SeenDisk::default()
    };
    let hardware = Hardware { disks: vec![disk], ..Hardware::default() };
    let done = |step, outcome| FromAgent::Done { step, outcome };
    link.say(&door.runtime, &done(1, Outcome::Seen(Box::new(hardware))));
    while !matches!(link.next(&door.runtime).unwrap(), ToAgent::Do { step: 2, work: Work::Image(_) }) {}
    assert_eq!(lab.machine("board")["disks"][0]["content"], "writing");
    let proof = DiskProof {
        path: "/dev/vda".into(),
        serial: None,
        device_bytes: 1 << 20,
        digest: None,
        read_bytes: (1 << 20) - 512,
        image_bytes: 0,
        zero_bytes: 1 << 20,
        written_bytes: 1 << 20,
        erase: "write".into(),
        took_ms: 1,
    };
    link.say(&door.runtime, &done(2, Outcome::Proven(proof)));
    let failed = lab.until("the proof is refused", || {
        let events = lab.events();
        of_kind(&events, "board", "phase-failed").first().map(|e| (*e).clone())
    });
    assert!(failed["text"].as_str().unwrap().contains("were read back"), "{failed}");
    assert_eq!(lab.machine("board")["disks"][0]["content"], "writing", "nothing was proven");
}

#[test]
fn boot_parameters_are_given_out_once() {
    let lab = Lab::started(INVENTORY);
    // A machine that is told by its power-on has nothing to ask for, and
    // nobody who asks in its name does it harm.
    let told = lab.queue(&["name=told", "--want", "agent"]);
    lab.until("told is on", || (lab.machine("told")["turn"]["phase"] == "boot agent").then_some(()));
    assert_eq!(boot_script(&lab, "told").0, 403);
    assert_eq!(boot_script(&lab, "nobody").0, 404);
    assert_eq!(lab.machine("told")["turn"]["failed"], 0);
    lab.ok(&["release", &told]);

    let id = until_asked(&lab, "board");
    let params = parameters(&boot_script(&lab, "board").1);
    // This boot hangs; the next one does not.
    lab.sim("board", &Request::Heal);
    let (status, second) = boot_script(&lab, "board");
    assert_eq!(status, 200, "firmware shows no other answer to anybody");
    assert!(second.contains("boots nothing") && !second.contains("kernel"), "{second}");
    assert!(!second.contains(&params.token.0));
    let events = lab.events();
    assert_eq!(of_kind(&events, "board", "attempt-burned").len(), 1);
    let failed = of_kind(&events, "board", "phase-failed")[0].clone();
    assert_eq!(failed["data"]["failure"]["class"], "boot", "{failed}");
    let door = Door { lab: &lab, runtime: runtime(), server: params.server.clone() };
    let (_, welcome) = door.hello(&attach(&params, "boot-1"));
    assert!(matches!(welcome, Welcome::Refused { .. }), "a burned token opens nothing: {welcome:?}");

    // The next attempt boots by itself, over the same path.
    lab.until_reservation(&id, "ready");
    let events = lab.events();
    assert_eq!(of_kind(&events, "board", "attempt-burned").len(), 1, "burned once");
    assert_eq!(lab.machine("board")["health"]["is"], "good");
    assert_eq!(events.iter().filter(|e| kind(e) == "phase-failed").count(), 1);
    no_secret_was_told(&lab, &[&params]);
}

/// Events and views carry neither nonce nor token.
fn no_secret_was_told(lab: &Lab, given: &[&AgentParams]) {
    let shown = [
        serde_json::to_string(&lab.events()).unwrap(),
        lab.ok(&["ls", "-o", "json"]),
        lab.ok(&["why", "board"]),
        lab.log(),
    ];
    for params in given {
        for text in &shown {
            assert!(!text.contains(&params.token.0) && !text.contains(&params.nonce), "a secret in: {text}");
        }
    }
    let value: Value = serde_json::from_str(&shown[0]).unwrap();
    assert!(!value.as_array().unwrap().is_empty());
}
