use super::*;
use crate::testing::sshd::{Sshd, at_bench, there};
use crate::testing::{driver, leg, none, site};
use pitstop_core::inventory::MachineSpec;
use pitstop_wire::MachineName;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// A board whose programmer is on this host, or on the bench host.
fn board(name: &str, dir: &Path, sshd: Option<&Sshd>, fields: Value) -> Programmer {
    let site = site(dir, leg(driver("none", none())), None, driver("power", none()));
    let reimage = driver("command", fields);
    let reimage = if sshd.is_some() { there(reimage) } else { reimage };
    let name = MachineName::new(name).unwrap();
    let spec = Arc::new(MachineSpec { name, reimage, ..(*site.spec).clone() });
    let site = Site { spec, ..site };
    Programmer::of(&sshd.map_or(site.clone(), |sshd| at_bench(site, sshd.fields()))).unwrap()
}

fn hook(dir: &Path, sshd: Option<&Sshd>, run: &[&str]) -> HookProgram {
    let site = site(dir, leg(driver("none", none())), None, driver("power", none()));
    let command = driver("hook", json!({"run": run, "timeout": 60_000}));
    let command = if sshd.is_some() { there(command) } else { command };
    let hook = Hook { name: "x".into(), command };
    HookProgram::of(&sshd.map_or(site.clone(), |sshd| at_bench(site, sshd.fields())), &hook).unwrap()
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ seed).collect()
}

fn opened(bytes: Vec<u8>) -> (u64, Open) {
    let len = bytes.len() as u64;
    (len, Arc::new(move || Ok(Box::new(std::io::Cursor::new(bytes.clone())))))
}

/// Both kinds of host, one after the other.
async fn everywhere<'s, F: Future<Output = ()>>(
    dir: &'s Path,
    sshd: &'s Sshd,
    test: impl Fn(&'s Path, Option<&'s Sshd>) -> F,
) {
    test(dir, None).await;
    test(dir, Some(sshd)).await;
}

#[derive(Default)]
struct Heard(Vec<u8>);

impl Hear for Heard {
    fn hear(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

async fn until(what: &str, seen: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lives(pid: &str) -> bool {
    // A zombie has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn an_image_reaches_the_programmer_whole_and_nothing_of_it_stays() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        let (flash, told) = (dir.join("flash"), dir.join("told"));
        let script =
            "cat \"$1\" >\"$2\"; echo \"$1\" >\"$3\"; stat -c %a \"$(dirname \"$1\")\" \"$1\" >>\"$3\"";
        let run = json!(["sh", "-c", script, "write", "{image}", flash, told]);
        let board = board("b1", dir, sshd, json!({"run": run, "read_back": ["cat", flash]}));
        let image = bytes(3_000_001, 7);
        let (len, open) = opened(image.clone());
        board.write("whole", len, open).await.unwrap();
        assert!(std::fs::read(&flash).unwrap() == image);
        let told = std::fs::read_to_string(&told).unwrap();
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told[1..], ["700", "600"], "others can read it");
        assert!(told[0].contains("b1") && told[0].contains("whole"), "{told:?}");
        assert!(!Path::new(told[0]).exists() && !Path::new(told[0]).parent().unwrap().exists());
        // Far more than is kept of a program's output.
        let ear = Arc::new(Mutex::new(Heard::default()));
        board.read_back(ear.clone()).await.unwrap();
        assert!(ear.lock().unwrap().0 == image, "what is read back is not what is there");
        assert!(board.reader().unwrap().starts_with("cat on "));
    })
    .await;
}

#[tokio::test]
async fn two_boards_of_one_bench_host_share_a_file() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        // Each waits until the other has its file, too.
        let script = "cp \"$1\" \"$2\"; touch \"$2.in\"; while [ ! -e \"$3.in\" ]; do sleep 0.05; done; cmp \"$1\" \"$2\"";
        let write = |name: &'static str, other: &'static str, seed: u8| {
            let run = json!(["sh", "-c", script, "write", "{image}", dir.join(name), dir.join(other)]);
            let board = board(name, dir, sshd, json!({"run": run}));
            let (len, open) = opened(bytes(500_000, seed));
            // The same attempt's name by chance would do no harm either.
            async move { board.write("same", len, open).await }
        };
        let (one, two) = tokio::join!(write("b1", "b2", 1), write("b2", "b1", 2));
        one.unwrap();
        two.unwrap();
        assert!(std::fs::read(dir.join("b1")).unwrap() == bytes(500_000, 1));
        assert!(std::fs::read(dir.join("b2")).unwrap() == bytes(500_000, 2));
        for name in ["b1", "b2", "b1.in", "b2.in"] {
            std::fs::remove_file(dir.join(name)).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn what_went_wrong_is_put_down_to_whose_it_is() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        let of = |run: Value| board("b1", dir, sshd, json!({"run": run, "timeout": 20_000}));
        let fails = of(json!(["sh", "-c", "echo no target >&2; exit 3", "x", "{image}"]));
        let (len, open) = opened(bytes(10, 0));
        let trouble = fails.write("n1", len, open.clone()).await.unwrap_err();
        assert!(!trouble.lab && trouble.over, "{trouble:?}");
        assert!(trouble.error.to_string().contains("no target"), "{trouble:?}");
        let missing = of(json!(["no-such-programmer", "{image}"])).write("n2", len, open.clone()).await;
        let trouble = missing.unwrap_err();
        assert!(trouble.lab && trouble.error.to_string().contains("no-such-programmer"), "{trouble:?}");
        // Our own disk fails in the middle of the image.
        let broken: Open = Arc::new(|| {
            let good = std::io::Cursor::new(vec![1; 400_000]);
            Ok(Box::new(good.chain(Broken)))
        });
        let well = || of(json!(["true", "{image}"]));
        let trouble = well().write("n3", 800_000, broken).await.unwrap_err();
        assert!(trouble.lab && trouble.error.to_string().contains("input/output"), "{trouble:?}");
        let none: Open = Arc::new(|| Err(std::io::Error::other("no descriptors")));
        let trouble = well().write("n4", 10, none).await.unwrap_err();
        assert!(trouble.lab && trouble.error.to_string().contains("no descriptors"), "{trouble:?}");
        // The host has no room for the file.
        let taken = PathBuf::from(Errand::path("pitstop-b1-n5", ""));
        std::fs::create_dir_all(&taken).unwrap();
        let trouble = well().write("n5", len, open.clone()).await.unwrap_err();
        assert!(trouble.lab && trouble.error.to_string().contains("could not be stored"), "{trouble:?}");
        assert!(taken.exists(), "what is another's was removed");
        std::fs::remove_dir(&taken).unwrap();
        let slow = board(
            "b1",
            dir,
            sshd,
            json!({"run": ["sh", "-c", "exec sleep 60", "x", "{image}"], "timeout": 1_500}),
        );
        let trouble = slow.write("n6", len, open).await.unwrap_err();
        assert!(!trouble.lab && trouble.over == sshd.is_none(), "{trouble:?}");
        for nonce in ["n1", "n2", "n3", "n4", "n6"] {
            let left = PathBuf::from(Errand::path(&format!("pitstop-b1-{nonce}"), ""));
            until("its files are gone", || !left.exists()).await;
        }
    })
    .await;
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("input/output error"))
    }
}

#[tokio::test]
async fn a_hook_gets_its_words_as_they_are() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        let out = dir.join("out");
        let script = "printf '<%s>' \"$@\" >$0; cat \"$3\" >>$0";
        let run = [
            "sh",
            "-c",
            script,
            out.to_str().unwrap(),
            "{machine}",
            "x{image.name}y",
            "{image.boot}",
            "$HOME;`id`",
        ];
        let words = BTreeMap::from([
            ("machine".to_owned(), "m 1".to_owned()),
            ("image.name".to_owned(), "a'b\"$(id)".to_owned()),
        ]);
        let (len, open) = opened(b"boot loader".to_vec());
        let files = vec![("image.boot".to_owned(), len, open)];
        hook(dir, sshd, &run).run("n1", &words, files).await.unwrap();
        let said = std::fs::read_to_string(&out).unwrap();
        let path = Errand::path("pitstop-m1-n1", "image.boot");
        assert_eq!(said, format!("<m 1><xa'b\"$(id)y><{path}><$HOME;`id`>boot loader"));
        std::fs::remove_file(&out).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_says_much_comes_to_its_own_end() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        let script = "yes out | head -c 2000000; yes err | head -c 2000000 >&2; exit 7";
        let trouble = hook(dir, sshd, &["sh", "-c", script]).run("n1", &BTreeMap::new(), Vec::new()).await;
        let trouble = trouble.unwrap_err();
        assert!(!trouble.lab && trouble.error.to_string().contains('7'), "{trouble:?}");
    })
    .await;
}

/// Starts something in the background, says what it is, and stays.
fn stays(begun: &Path) -> Vec<String> {
    let script = format!(
        "trap '' TERM HUP INT; sleep 300 & echo $! $$ >{begun}.new; mv {begun}.new {begun}; sleep 300",
        begun = begun.display()
    );
    ["sh", "-c", &script, "x", "{image}"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_program_nobody_waits_for_is_ended_with_all_it_started() {
    let (dir, bench) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sshd = Sshd::start(bench.path(), &["ed25519"]);
    everywhere(dir.path(), &sshd, |dir, sshd| async move {
        let begun = dir.join("begun");
        let board = board("b1", dir, sshd, json!({"run": stays(&begun)}));
        let (len, open) = opened(bytes(100_000, 3));
        {
            let running = board.write("left", len, open);
            tokio::select! {
                done = running => panic!("{done:?}"),
                () = until("it runs", || begun.exists()) => {}
            }
        }
        let pids = std::fs::read_to_string(&begun).unwrap();
        until("it is gone", || !pids.split_whitespace().any(lives)).await;
        let left = PathBuf::from(Errand::path("pitstop-b1-left", ""));
        until("its files are gone", || !left.exists()).await;
        std::fs::remove_file(&begun).unwrap();
    })
    .await;
}

/// Where the next test says what its program writes to.
const BEGUN: &str = "PITSTOP_TEST_BEGUN";

/// The daemon of the next test: it runs a program, and is killed.
#[tokio::test]
async fn a_daemon_that_is_killed() {
    let Some(begun) = std::env::var_os(BEGUN).map(PathBuf::from) else { return };
    let dir = tempfile::tempdir().unwrap();
    let board = board("held", dir.path(), None, json!({"run": stays(&begun)}));
    let (len, open) = opened(bytes(1000, 1));
    let nonce = begun.file_name().unwrap().to_str().unwrap().to_owned();
    let done = board.write(&nonce, len, open).await;
    panic!("it came to an end: {done:?}");
}

#[tokio::test]
async fn a_program_outlives_its_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let nonce = format!("begun-{}", std::process::id());
    let begun = dir.path().join(&nonce);
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program::tests::a_daemon_that_is_killed", "--nocapture"])
        .env(BEGUN, &begun)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("its program runs", || begun.exists()).await;
    let files = PathBuf::from(Errand::path(&format!("pitstop-held-{nonce}"), ""));
    assert!(files.exists());
    assert_eq!(files.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let pids = std::fs::read_to_string(&begun).unwrap();
    until("its program is gone", || !pids.split_whitespace().any(lives)).await;
    until("its files are gone", || !files.exists()).await;
}
