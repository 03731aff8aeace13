//! The store under pressure: somebody else holds it, the disk is full, a
//! second daemon comes. Whoever was answered keeps what he was told.

use crate::harness::{Lab, Running, kind, numbers};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

const INVENTORY: &str = r#"
format = 1
[lab]
name = "store"
[class.board]
console.main.sim = {}
boot.sim         = {}
disk.root        = {}
ready.agent      = {}
power.sim        = { disk = "1M", boot = "10ms" }
[machine.board]
class = "board"
[machine.spare]
class = "board"
"#;

#[test]
fn a_second_daemon_is_refused_and_the_first_one_undisturbed() {
    let lab = Lab::started(INVENTORY);
    lab.ok(&["reserve", "name=board", "--want", "agent"]);
    let before = lab.events_at_rest();
    let pid = lab.pid().to_string();
    let inventory = lab.path("inventory.toml").display().to_string();
    let copy = lab.path("copy.toml").display().to_string();
    std::fs::write(&copy, INVENTORY).unwrap();
    let elsewhere = lab.path("other").display().to_string();
    let other_socket = lab.path("other.sock").display().to_string();
    let serve = |args: &[&str]| {
        let done = lab.cli(&[&["serve", "--simulated"], args].concat());
        assert_eq!(done.code, 1, "{done}");
        assert!(done.stdout.is_empty());
        done.stderr
    };
    let same_data = serve(&["--inventory", &copy, "--socket", &other_socket]);
    let data = lab.data().display().to_string();
    for word in ["another pitstop", &pid, &data, "stop it, or use --data"] {
        assert!(same_data.contains(word), "`{word}`: {same_data}");
    }
    let same_inventory = serve(&["--inventory", &inventory, "--data", &elsewhere, "--socket", &other_socket]);
    for word in ["another pitstop", &pid, "runs the machines of", "use --inventory"] {
        assert!(same_inventory.contains(word), "`{word}`: {same_inventory}");
    }
    let same_socket = serve(&["--inventory", &copy, "--data", &elsewhere]);
    assert!(
        same_socket.contains("another daemon answers at") && same_socket.contains("--socket"),
        "{same_socket}"
    );

    assert_eq!(lab.events(), before, "nothing happened to the first one");
    assert_eq!(lab.ok(&["run", "board", "--", "echo", "mine"]), "mine\n");
    assert_eq!(lab.machine("board")["agent"]["connected"], true);
}

/// Many ask at the same time; each with a key of his own.
fn ask(lab: &Lab, count: usize, keys: &str) -> Vec<Running> {
    (0..count)
        .map(|n| {
            let key = format!("{keys}-{n}");
            lab.spawn(&["--idempotency-key", &key, "-o", "name", "reserve", "--no-wait", "name=board"])
        })
        .collect()
}

fn queued(lab: &Lab) -> Vec<String> {
    let events = lab.events();
    let ids = events.iter().filter(|e| kind(e) == "queued");
    ids.map(|e| e["reservation"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_locked_database_is_waited_for() {
    const LOCKED: Duration = Duration::from_secs(10);
    let lab = Lab::started(INVENTORY);
    let began = Instant::now();
    let other = rusqlite::Connection::open(lab.data().join("lab.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let asking = ask(&lab, 8, "locked");
    // Reads need no lock, and go on.
    while began.elapsed() < LOCKED {
        assert_eq!(lab.machine("spare")["state"], "free");
        assert!(queued(&lab).is_empty(), "nothing is shown that is not stored");
        std::thread::sleep(Duration::from_millis(200));
    }
    other.execute_batch("COMMIT").unwrap();
    let answers: Vec<_> = asking.into_iter().map(Running::finish).collect();
    for done in &answers {
        assert_eq!(done.code, 0, "{done}");
    }
    let told: BTreeSet<String> = answers.iter().map(|d| d.stdout.trim().to_owned()).collect();
    assert_eq!(told.len(), 8, "each got one of his own: {told:?}");
    assert_eq!(queued(&lab).into_iter().collect::<BTreeSet<_>>(), told);
}

/// A lab on a small file system of its own, which can be full.
fn on_a_small_disk() -> Lab {
    let mut lab = Lab::new(INVENTORY);
    std::fs::create_dir(lab.data()).unwrap();
    let namespace = ["unshare", "--map-root-user", "--mount"];
    let given = Command::new(namespace[0]).args(&namespace[1..]).arg("true").status().unwrap();
    if given.success() {
        lab.serve_within(&[&namespace[..], &["sh", "-c", SMALL_DISK, "sh"]].concat());
    } else {
        let namespace = ["unshare", "--mount", "--propagation", "unchanged"];
        lab.serve_within(&[&namespace[..], &["sh", "-c", SMALL_DISK_IN_CHROOT, "sh"]].concat());
    }
    lab
}

const SMALL_DISK: &str = r#"mount -t tmpfs -o size=8m,mode=0700 pitstop "$PITSTOP_DATA" && exec "$@""#;

/// In a chroot there is no user namespace, and `/` is no mount that could be
/// made private. Who enters his own mount namespace has its root as his, and
/// may: else the new mount would be the host's, too.
const SMALL_DISK_IN_CHROOT: &str = r#"
    cd "$PITSTOP_DATA" && nsenter --mount=/proc/self/ns/mnt sh -c '
        mount --make-rprivate / && mount -t tmpfs -o size=8m,mode=0700 pitstop "/proc/$PPID/cwd"
    ' && cd / && exec "$@""#;

#[test]
fn a_full_disk_loses_nothing_that_was_answered() {
    let lab = on_a_small_disk();
    let answered = ask(&lab, 2, "before");
    let mut told: BTreeSet<String> =
        answered.into_iter().map(|r| r.finish().stdout.trim().to_owned()).collect();
    // The daemon's own view of its data directory.
    let filler = std::path::PathBuf::from(format!("/proc/{}/root{}/filler", lab.pid(), lab.data().display()));
    fill(&filler);
    let mut full = ask(&lab, 4, "full");
    let refused: Vec<_> = full.drain(..).map(Running::finish).collect();
    for done in &refused {
        assert!(done.code == 8 || done.code == 0, "{done}");
        if done.code == 0 {
            told.insert(done.stdout.trim().to_owned());
        } else {
            assert!(done.stderr.contains("full"), "says why: {done}");
            assert!(
                done.stderr.contains("retry") || done.stderr.contains("again"),
                "says what to do: {done}"
            );
        }
    }
    assert!(refused.iter().any(|d| d.code == 8), "the disk was full: {refused:?}");
    assert_eq!(queued(&lab).into_iter().collect::<BTreeSet<_>>(), told, "who was refused has nothing");
    lab.ok(&["status"]);

    std::fs::remove_file(&filler).unwrap();
    let again: Vec<_> = ask(&lab, 4, "full").into_iter().map(Running::finish).collect();
    for done in &again {
        assert_eq!(done.code, 0, "{done}");
        told.insert(done.stdout.trim().to_owned());
    }
    assert_eq!(queued(&lab).len(), 6, "one per key, however often it was sent");
    assert_eq!(queued(&lab).into_iter().collect::<BTreeSet<_>>(), told);
    let events = numbers(&lab.events());
    assert!(events.windows(2).all(|w| w[0] < w[1]));
}

/// Takes all the space there is.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [64 << 10, 4 << 10, 1] {
        let piece = vec![1; size];
        while file.write_all(&piece).is_ok() {}
    }
}
