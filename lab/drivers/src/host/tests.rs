use super::script::BEGIN;
use super::*;
use crate::testing::console_server::pty;
use crate::testing::sshd::{PASSPHRASE, Sshd, at_bench, there};
use crate::testing::{driver, leg, none, site};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(30);

fn bench(fields: Value) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let site = at_bench(site(dir.path(), leg(driver("none", none())), None, driver("power", none())), fields);
    Bench::of("power.command", &site, &there(driver("command", none()))).unwrap()
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

async fn run(bench: &Bench, argv: &[&str]) -> Result<Ran, RunError> {
    bench.run(&words(argv), PATIENCE).await
}

async fn refused(fields: Value) -> HostError {
    match run(&bench(fields), &["true"]).await {
        Err(RunError::Host(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_runs_there_with_its_arguments_untouched_and_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let bench = bench(sshd.fields());
    let odd = ["a b", "", "$HOME `id` $(id)", "'\"\\", "*", "ü\n\t", "-n", "{x}", "!!"];
    let ran = run(&bench, &[&["printf", "<%s>"][..], &odd].concat()).await.unwrap();
    let want: String = odd.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!((ran.status.code(), ran.out), (Some(0), want));
    let ran = run(&bench, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
    assert_eq!((ran.status.code(), ran.out.trim(), ran.err.trim()), (Some(3), "out", "err"));
    // What a host says to everybody who logs in is nobody's output.
    let greeted = run(&bench, &["sh", "-c", "exec cat"]).await.unwrap();
    assert_eq!((greeted.out.as_str(), greeted.err.as_str()), ("", ""));
    // More than is kept, on both, and the end is found all the same.
    let flood = "yes out | head -c 3000000; yes err | head -c 3000000 >&2; exit 4";
    let ran = run(&bench, &["sh", "-c", flood]).await.unwrap();
    assert_eq!((ran.status.code(), ran.out.len()), (Some(4), (64 << 10) - BEGIN.len()));
    // What it leaves behind ends with it and holds nobody up.
    let begun = Instant::now();
    run(&bench, &["sh", "-c", "sleep 300 & echo $!"]).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(100));
    let Err(RunError::Host(error)) = run(&bench, &["no-such-program"]).await else { panic!() };
    assert!(error.permanent && error.to_string().contains("no-such-program"), "{error}");
    // It reads nothing, rather than what is not meant for it.
    assert_eq!(run(&bench, &["cat"]).await.unwrap().out, "");
}

#[tokio::test]
async fn a_program_nobody_waits_for_any_more_is_killed_there_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let bench = bench(sshd.fields());
    let begun = sshd.file("begun");
    let script = format!(
        "trap '' TERM HUP; sleep 300 & echo $! $$ >{begun}.new; mv {begun}.new {begun}; sleep 300",
        begun = begun.display()
    );
    let argv = words(&["sh", "-c", &script]);
    {
        let running = bench.run(&argv, PATIENCE);
        let seen = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            done = running => panic!("{done:?}"),
            () = seen => {}
        }
    }
    let pids = std::fs::read_to_string(&begun).unwrap();
    let end = Instant::now() + PATIENCE;
    while pids.split_whitespace().any(|pid| std::path::Path::new("/proc").join(pid).exists()) {
        assert!(Instant::now() < end, "it goes on: {pids}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = bench.run(&words(&["sleep", "60"]), Duration::from_secs(2)).await;
    assert!(matches!(late, Err(RunError::Late(_))), "{late:?}");
}

/// What waits for a place counts as late, and its clock there begins anew.
#[tokio::test]
async fn whoever_waits_for_a_place_has_as_long_again() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let bench = bench(sshd.but(json!({"at_once": 1})));
    let begun = dir.path().join("begun");
    let script = format!("echo > {}; sleep 60", begun.display());
    let argv = words(&["sh", "-c", &script]);
    let first = bench.run(&argv, PATIENCE);
    let second = async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.run(&words(&["true"]), Duration::from_millis(300)).await
    };
    tokio::select! {
        done = first => panic!("{done:?}"),
        second = second => assert!(matches!(second, Err(RunError::Busy(_))), "{second:?}"),
    }
    let soon = Instant::now() + Duration::from_secs(5);
    assert!(super::work::clock(soon) <= 7);
    assert_eq!(super::work::clock(Instant::now()), 2, "what is over may not begin anew");
}

#[tokio::test]
async fn a_host_is_who_it_says_by_any_of_its_keys_and_a_stranger_is_not_let_near() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519", "ecdsa", "rsa"]);
    for kind in ["ed25519", "ecdsa", "rsa"] {
        run(&bench(sshd.but(json!({"host_key": sshd.host_key(kind)}))), &["true"]).await.unwrap();
        let known = sshd.but(json!({"host_key": null, "known_hosts": sshd.known_hosts(kind)}));
        run(&bench(known), &["true"]).await.unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    let stranger = Sshd::start(other.path(), &["ed25519"]);
    let error = refused(sshd.but(json!({"host_key": stranger.host_key("ed25519")}))).await;
    assert!(error.permanent && error.to_string().contains("stands between"), "{error}");
    let known = stranger.known_hosts("ed25519");
    let text =
        std::fs::read_to_string(&known).unwrap().replace(&stranger.port.to_string(), &sshd.port.to_string());
    std::fs::write(&known, text).unwrap();
    let error = refused(sshd.but(json!({"host_key": null, "known_hosts": known}))).await;
    assert!(error.permanent && error.to_string().contains("is not the one in"), "{error}");
    // One that is not known at all: the line to write is told.
    let empty = sshd.file("empty");
    std::fs::write(&empty, "").unwrap();
    let error = refused(sshd.but(json!({"host_key": null, "known_hosts": empty}))).await;
    assert!(error.permanent && error.to_string().contains(&sshd.host_key("ed25519")), "{error}");
}

#[tokio::test]
async fn a_login_that_fails_says_whose_fault_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let error = refused(sshd.but(json!({"key": {"file": sshd.file("stranger")}}))).await;
    assert!(error.permanent && error.to_string().contains("authorized_keys"), "{error}");
    let locked = || json!({"file": sshd.file("locked")});
    let word = sshd.file("word");
    std::fs::write(&word, PASSPHRASE).unwrap();
    run(&bench(sshd.but(json!({"key": locked(), "passphrase": {"file": word}}))), &["true"]).await.unwrap();
    std::fs::write(&word, "wrong-99d0").unwrap();
    let error = refused(sshd.but(json!({"key": locked(), "passphrase": {"file": word}}))).await;
    assert!(error.permanent && !error.to_string().contains("wrong-99d0"), "{error}");
    let error = refused(sshd.but(json!({"key": {"file": "/nonexistent"}}))).await;
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    // Nobody there, and somebody who says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = refused(sshd.but(json!({"address": address, "timeout": 500}))).await;
    assert!(!error.permanent, "{error}");
    drop(silent);
    let error = refused(sshd.but(json!({"address": address}))).await;
    assert!(!error.permanent && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn no_more_programs_run_there_than_it_bears() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let bench = bench(sshd.but(json!({"at_once": 2})));
    // Each counts who is there with it.
    let script =
        format!("cd {}; mkdir in.$$; ls -d in.* | wc -l; sleep 0.2; rmdir in.$$", sshd.file("").display());
    let argv = words(&["sh", "-c", &script]);
    let all = (0..6).map(|_| {
        let (bench, argv) = (bench.clone(), argv.clone());
        tokio::spawn(async move { bench.run(&argv, PATIENCE).await.unwrap().out })
    });
    for ran in all.collect::<Vec<_>>() {
        let there: usize = ran.await.unwrap().trim().parse().unwrap();
        assert!((1..=2).contains(&there), "{there}");
    }
}

#[tokio::test]
async fn a_serial_line_of_a_bench_host() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let (master, path) = pty();
    let link = sshd.file("port");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let spec = there(driver("serial", json!({"device": link, "baud": 115_200})));
    let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
    let console = crate::console::serial::make(&at_bench(site, sshd.fields()), "main").unwrap();
    let mut line = console.open().await.unwrap();
    let second = console.open().await.err().expect("a port has one reader");
    assert!(!second.permanent && second.answer.contains("in use"), "{second}");
    let mut machine = std::fs::File::from(master);
    let all: Vec<u8> = (0..=255).collect();
    machine.write_all(&all).unwrap();
    let mut got = vec![0; all.len()];
    tokio::time::timeout(PATIENCE, line.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, all);
    line.write_all(b"hello\n\x13").await.unwrap();
    let mut got = [0; 7];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello\n\x13", "the port must be raw");
    line.send_break().unwrap();
    // The plug is pulled: that is the end.
    drop(machine);
    let mut rest = Vec::new();
    // An error is an end too.
    let _ = tokio::time::timeout(PATIENCE, line.read_to_end(&mut rest)).await.expect("a lost line must end");
    drop(line);
    std::fs::remove_file(&link).unwrap();
    let gone = console.open().await.err().expect("the port is gone");
    assert!(gone.answer.contains("plugged in"), "{gone}");
}

#[tokio::test]
async fn a_line_that_is_given_up_is_free_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let (_master, path) = pty();
    let spec = there(driver("serial", json!({"device": path})));
    let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
    let console = crate::console::serial::make(&at_bench(site, sshd.fields()), "main").unwrap();
    drop(console.open().await.unwrap());
    let end = Instant::now() + PATIENCE;
    loop {
        match console.open().await {
            Ok(_) => break,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
    }
}

#[tokio::test]
async fn a_programs_line_here_and_there() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    for on in [None, Some("bench1".to_owned())] {
        let talker =
            json!({"run": ["sh", "-c", "echo ready; echo trouble >&2; read -r word; echo \"<$word>\""]});
        let spec = DriverSpec { host: on, ..driver("command", talker) };
        let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
        let console = crate::console::command::make(&at_bench(site, sshd.fields()), "main").unwrap();
        let mut line = console.open().await.unwrap();
        line.write_all(b"hello\n").await.unwrap();
        let mut all = String::new();
        // An error is an end too.
        let _ = tokio::time::timeout(PATIENCE, line.read_to_string(&mut all)).await.expect("it ends");
        for said in ["ready", "trouble", "<hello>"] {
            assert!(all.contains(said), "{all}");
        }
    }
}

#[tokio::test]
async fn a_leg_that_is_switched_by_programs_of_a_bench_host() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path(), &["ed25519"]);
    let state = sshd.file("on");
    let fields = json!({"on": ["touch", state], "off": ["rm", "-f", state], "status": ["test", "-e", state]});
    let leg = leg(there(driver("command", fields)));
    let site = at_bench(site(dir.path(), leg.clone(), None, driver("power", none())), sshd.fields());
    let power = crate::power::command::make(&site, &leg).unwrap();
    crate::power::conformance::obeys(power.as_ref()).await;
    drop(sshd);
    let error = power.read().await.unwrap_err();
    assert!(!error.permanent && error.answer.contains("host bench1"), "a lost host is not off: {error}");
}
