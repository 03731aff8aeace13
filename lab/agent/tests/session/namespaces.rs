//! Commands of a simulated machine. Where the host refuses namespaces, the refusal is what is tested.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pitstop_agent::sandbox::{Helper, Namespaces, Place, probe};
use pitstop_wire::agent::AgentKind;
use pitstop_wire::run::{Command, End, ToRun};

use crate::commands::{Heard, shell, start_command};
use crate::daemon::{Console, Daemon, Machine, PATIENCE, Peer, farewell, start};

fn helper() -> Helper {
    Helper::program(env!("CARGO_BIN_EXE_pitstop-agent"), ["sandbox"])
}

struct Lab {
    agent: pitstop_agent::Agent,
    peer: Peer,
    disk: PathBuf,
    _daemon: Daemon,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let daemon = Daemon::start().await;
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, b"disk content").unwrap();
        let namespaces = Namespaces {
            helper: helper(),
            hostname: "imx8-01".into(),
            disk: Some(disk.clone()),
            steps: None,
        };
        let machine = Machine { place: Place::Namespaces(namespaces), ..Machine::new(Some(&disk)) };
        let agent = start(AgentKind::Host, daemon.params(), machine, &Console::default());
        let (peer, _) = daemon.welcome().await;
        Self { agent, peer, disk, _daemon: daemon, _dir: dir }
    }

    async fn run(&mut self, id: &str, script: &str) -> Heard {
        self.peer.run(start_command(id, &shell(script), 0), &[]).await;
        Heard::to_end(&mut self.peer).await
    }

    async fn end(self) {
        self.agent.stop();
        farewell(self.agent).await;
    }
}

/// The refusal of this host, if it refuses; then `run` must say the same.
async fn refused(lab: &mut Lab) -> bool {
    let Err(reason) = probe(&helper()) else { return false };
    let heard = lab.run("refused", "true").await;
    assert_eq!(heard.end, Some(End::Failed { reason: reason.clone() }));
    assert!(reason.contains("refuses"), "{reason}");
    true
}

async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn commands_have_a_machine_of_their_own_and_share_it() {
    let mut lab = Lab::new().await;
    if !refused(&mut lab).await {
        let script = "hostname; id -u; cat $PITSTOP_DISK; echo; echo $HOME; ls -A /tmp; echo x > /tmp/note; ls /proc/1/ns \
                      > /dev/null; exit 4";
        let heard = lab.run("1", script).await;
        let text = String::from_utf8_lossy(&heard.stdout);
        assert_eq!(
            text,
            "imx8-01\n0\ndisk content\n/tmp\ndisk\n",
            "{}",
            String::from_utf8_lossy(&heard.stderr)
        );
        assert_eq!(heard.end, Some(End::Exit { code: 4 }));
        let heard = lab.run("2", "cat /tmp/note; printf new > $PITSTOP_DISK; kill -9 $$").await;
        assert_eq!(heard.stdout, b"x\n");
        assert_eq!(heard.end, Some(End::Signal { signal: 9 }));
        assert_eq!(fs::read(&lab.disk).unwrap(), b"new");
    }
    lab.end().await;
}

#[tokio::test]
async fn the_host_is_out_of_reach() {
    let mut lab = Lab::new().await;
    if !refused(&mut lab).await {
        let beside = lab.disk.with_file_name("beside");
        fs::write(&beside, b"host").unwrap();
        let target = format!("{}/target-of-test", env!("CARGO_TARGET_TMPDIR"));
        let script = format!(
            "ls {beside} && exit 1; echo x > {target} && exit 2; ls /dev | sort | tr '\\n' ' '; \
             kill -0 {pid} && exit 3; exit 0",
            beside = beside.display(),
            pid = std::process::id(),
        );
        let heard = lab.run("1", &script).await;
        assert_eq!(heard.end, Some(End::Exit { code: 0 }), "{}", String::from_utf8_lossy(&heard.stderr));
        let devices = String::from_utf8_lossy(&heard.stdout).into_owned();
        assert!(
            devices.contains("null") && !devices.contains("sda") && !devices.contains("mem"),
            "{devices}"
        );
        assert!(!Path::new(&target).exists());
    }
    lab.end().await;
}

#[tokio::test]
async fn signals_and_input_pass_into_the_namespaces() {
    let mut lab = Lab::new().await;
    if !refused(&mut lab).await {
        let command = Command {
            stdin: true,
            ..shell("trap 'echo int; exit 9' INT; read line; echo got $line; while :; do sleep 0.05; done")
        };
        lab.peer.run(start_command("1", &command, 0), &[]).await;
        lab.peer.run(ToRun::Input { id: "1".into(), offset: 0, eof: false }, b"word\n").await;
        let mut heard = Heard::default();
        heard.until(&mut lab.peer, |h| h.stdout == b"got word\n").await;
        lab.peer.run(ToRun::Signal { id: "1".into(), signal: 2 }, &[]).await;
        heard.until(&mut lab.peer, |h| h.end.is_some()).await;
        assert_eq!(heard.stdout, b"got word\nint\n");
        assert_eq!(heard.end, Some(End::Exit { code: 9 }));
    }
    lab.end().await;
}

#[test]
fn signals_that_the_agent_was_started_to_ignore_reach_its_commands() {
    // As a script does that starts it with `&`, or nohup.
    let script = "trap '' HUP INT QUIT; exec \"$0\" --exact \
                  namespaces::signals_and_input_pass_into_the_namespaces commands::a_signal_reaches_the_whole_group";
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").args(["-c", script]).arg(this).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(" 2 passed; 0 failed"), "{said}");
}

#[tokio::test]
async fn orphans_are_reaped_and_nothing_outlives_the_machine() {
    let mut lab = Lab::new().await;
    if !refused(&mut lab).await {
        // Unique, so that it can be found in the host's process list.
        let nap = format!("6{}", std::process::id());
        let heard = lab
            .run(
                "1",
                &format!("(setsid sleep {nap} > /dev/null 2>&1 &) ; (true &) ; sleep 0.1; ps ax || true"),
            )
            .await;
        assert_eq!(heard.end, Some(End::Exit { code: 0 }));
        assert!(!String::from_utf8_lossy(&heard.stdout).contains("<defunct>"));
        assert!(sleeps(&nap), "the background process should run on");
        lab.agent.stop();
        farewell(lab.agent).await;
        wait_until("a process outlived its machine", || !sleeps(&nap)).await;
    } else {
        lab.end().await;
    }
}

/// Whether a `sleep` of just this length runs anywhere on the host.
fn sleeps(nap: &str) -> bool {
    let wanted = format!("sleep\0{nap}\0");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
}

#[test]
fn a_refusal_names_what_was_refused() {
    // A user namespace in which no other may be made. Where not even that is had, the agent is refused itself;
    // but root in a chroot would find his way, and goes without his capabilities.
    let agent = env!("CARGO_BIN_EXE_pitstop-agent");
    let script = format!(
        "unshare -Urm sh -c 'mount -t proc proc /proc; echo 0 > /proc/sys/user/max_user_namespaces; \
         exec {agent} sandbox' && exit
         [ \"$(id -u)\" != 0 ] || exec setpriv --bounding-set=-all {agent} sandbox
         exec {agent} sandbox"
    );
    let error = probe(&Helper::program("sh", ["-c", &script])).unwrap_err();
    assert!(error.contains("this host refuses user namespaces (unshare: "), "{error}");
}

#[test]
fn a_helper_that_is_none_is_an_error_and_not_a_hang() {
    let error = probe(&Helper::program("/bin/false", ["sandbox"])).unwrap_err();
    assert!(error.contains("helper"), "{error}");
    assert!(probe(&Helper::program("/no/such/helper", ["x"])).unwrap_err().contains("/no/such/helper"));
}
