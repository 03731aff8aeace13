use super::super::tests::{Loop, served};
use super::*;
use pitstop_drivers::boot::medium::{BLOCK, FILE, empty_block};
use pitstop_wire::agent::{AgentParams, Secret};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

const LEN: usize = 300_000;

/// A shop with one CD, lent to `m1`, and the CD's own bytes.
struct Lent {
    at: SocketAddr,
    front: Arc<Loop>,
    rigs: Arc<crate::daemon::hands::Rigs>,
    path: String,
    loan: Arc<Loan>,
    bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

async fn lent(boot: &str) -> Lent {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "format = 1\n[machine.m1]\npower.redfish = {{ address = \"bmc.lab\" }}\ndisk.root = {{}}\nconsole = {{}}\n\
         boot.virtual-media = {{ {boot} }}\nready.agent = {{}}\n"
    );
    let mut bytes: Vec<u8> = (0..LEN).map(|i| (i % 253) as u8).collect();
    bytes[4096..4096 + BLOCK].copy_from_slice(&empty_block());
    std::fs::create_dir(dir.path().join("agent")).unwrap();
    std::fs::write(dir.path().join("agent").join(FILE), &bytes).unwrap();
    let front = Arc::new(Loop::default());
    let (at, rigs) = served(&dir, &text, front.clone()).await;
    let machine = MachineName::new("m1").unwrap();
    let (nonce, token) = ("n".into(), Secret("s3cr3t".into()));
    let (server, ca) = ("192.0.2.1:7443".into(), "cafe".into());
    let params = AgentParams { server, ca, machine: machine.clone(), nonce, token };
    let rig = rigs.get(&machine).unwrap();
    let medium = rig.boot().unwrap().medium(&params).unwrap();
    medium.read_at(&mut bytes, 0).unwrap();
    let (path, loan) = rigs.media.lend(&machine, medium).unwrap();
    Lent { at, front, rigs, path, loan, bytes, _dir: dir }
}

impl Lent {
    /// Head and body of an answer.
    async fn ask(&self, from: [u8; 4], method: &str, path: &str, more: &str) -> (String, Vec<u8>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(self.at).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..split].to_vec()).unwrap(), answer[split + 4..].to_vec())
    }

    async fn get(&self, more: &str) -> (String, Vec<u8>) {
        self.ask(BMC, "GET", &self.path, more).await
    }

    fn burned(&self) -> usize {
        self.front.asked.load(Ordering::Relaxed)
    }
}

const BMC: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

#[tokio::test]
async fn a_bmc_reads_its_cd_in_pieces_as_often_as_it_likes() {
    let lent = lent("").await;
    assert!(lent.path.len() > SERVED.len() + 64, "a key that can be guessed: {}", lent.path);
    let (head, body) = lent.ask(BMC, "HEAD", &lent.path, "").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    assert!(
        head.contains(&format!("content-length: {LEN}")) && head.contains("accept-ranges: bytes"),
        "{head}"
    );
    assert!(
        lent.loan.progress().contains("was given 0 bytes of a medium of 300000"),
        "{}",
        lent.loan.progress()
    );
    let (head, body) = lent.get("").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == lent.bytes, "{head}");
    assert!(body.windows(20).any(|w| w == b"pitstop.token=s3cr3t"), "its parameters are on it");
    for _ in 0..3 {
        let (head, body) = lent.get("range: bytes=4000-8999\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 206") && head.contains("content-range: bytes 4000-8999/300000"),
            "{head}"
        );
        assert!(body == lent.bytes[4000..9000]);
    }
    let (head, body) = lent.get("range: bytes=-10\r\n").await;
    assert!(
        head.contains("content-range: bytes 299990-299999/300000") && body == lent.bytes[LEN - 10..],
        "{head}"
    );
    let (head, _) = lent.get("range: bytes=300000-\r\n").await;
    assert!(head.starts_with("HTTP/1.1 416") && head.contains("content-range: bytes */300000"), "{head}");
    assert_eq!(lent.burned(), 0);
    let given = 300_000 + 3 * 5_000 + 10;
    assert!(
        lent.loan.progress().contains(&format!("(127.0.0.1) was given {given} bytes")),
        "{}",
        lent.loan.progress()
    );
}

#[tokio::test]
async fn somebody_else_with_the_address_of_the_cd_burns_the_attempt_and_gets_nothing() {
    let lent = lent("").await;
    let (head, _) = lent.get("range: bytes=0-99\r\n").await;
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    let (head, body) = lent.ask(ELSEWHERE, "GET", &lent.path, "range: bytes=4096-8191\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(!String::from_utf8_lossy(&body).contains("s3cr3t"));
    assert_eq!(lent.burned(), 1, "the attempt goes on with parameters that somebody may have read");
    let (head, _) = lent.get("").await;
    assert!(head.starts_with("HTTP/1.1 404"), "it is lent no more: {head}");
    assert_eq!(lent.burned(), 1, "an attempt is burned once");
}

#[tokio::test]
async fn a_bmc_that_is_known_by_its_address_is_the_only_one_and_nobody_else_burns_anything() {
    let lent = lent("address = \"127.0.0.1\"").await;
    let (head, _) = lent.ask(ELSEWHERE, "GET", &lent.path, "").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let (head, body) = lent.get("").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == lent.bytes, "{head}");
    let (head, _) = lent.ask(ELSEWHERE, "HEAD", &lent.path, "").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(lent.burned(), 0);
}

#[tokio::test]
async fn a_cd_whose_use_is_over_is_there_for_nobody() {
    let lent = lent("").await;
    let machine = MachineName::new("m1").unwrap();
    for path in ["/boot/medium//agent.iso", "/boot/medium/0/agent.iso", &lent.path.replace("agent.iso", "")] {
        let (head, _) = lent.ask(BMC, "GET", path, "").await;
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
    }
    assert!(lent.rigs.media.is_lent(&lent.loan));
    assert!(lent.rigs.media.end(&machine).is_some_and(|loan| Arc::ptr_eq(&loan, &lent.loan)));
    assert!(!lent.rigs.media.is_lent(&lent.loan) && lent.rigs.media.end(&machine).is_none());
    let (head, _) = lent.get("").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    lent.loan.piece(0, 10).expect_err("a transfer that is under way ends as well");
    assert_eq!(lent.burned(), 0);
}

#[tokio::test]
async fn a_machine_has_one_cd_and_one_that_is_gone_has_none() {
    let first = lent("").await;
    let machine = MachineName::new("m1").unwrap();
    let params = AgentParams {
        server: "192.0.2.1:7443".into(),
        ca: "cafe".into(),
        machine: machine.clone(),
        nonce: "n2".into(),
        token: Secret("other".into()),
    };
    let medium = first.rigs.get(&machine).unwrap().boot().unwrap().medium(&params).unwrap();
    let (path, second) = first.rigs.media.lend(&machine, medium).unwrap();
    assert_ne!(path, first.path);
    assert!(!first.rigs.media.is_lent(&first.loan) && first.rigs.media.is_lent(&second));
    first.rigs.media.keep(|name| *name == machine);
    assert!(first.rigs.media.is_lent(&second));
    first.rigs.load(pitstop_drivers::factories(), &Default::default());
    assert!(!first.rigs.media.is_lent(&second), "its machine is not in the inventory any more");
}

#[test]
fn a_range_is_one_part_or_left_out_of_account() {
    let of = |range: &str, if_range: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(known) = if_range {
            headers.insert(header::IF_RANGE, known.parse().unwrap());
        }
        wanted(&headers, "\"e\"", 100)
    };
    assert_eq!(wanted(&HeaderMap::new(), "\"e\"", 100), Wanted::All);
    for (range, part) in [
        ("bytes=0-0", Wanted::Part(0, 1)),
        ("bytes=10-19", Wanted::Part(10, 20)),
        ("bytes=10-", Wanted::Part(10, 100)),
        ("bytes=-5", Wanted::Part(95, 100)),
        ("bytes=-500", Wanted::Part(0, 100)),
        ("bytes=90-18446744073709551615", Wanted::Part(90, 100)),
        ("bytes=100-", Wanted::Outside),
        ("bytes=100-200", Wanted::Outside),
        ("bytes=-0", Wanted::Outside),
        ("bytes=20-10", Wanted::All),
        ("bytes=0-1,5-6", Wanted::All),
        ("bytes=+1-2", Wanted::All),
        ("bytes=-", Wanted::All),
        ("bytes=a-b", Wanted::All),
        ("bytes=99999999999999999999-", Wanted::All),
        ("lines=0-1", Wanted::All),
    ] {
        assert_eq!(of(range, None), part, "{range}");
    }
    assert_eq!(of("bytes=1-2", Some("\"e\"")), Wanted::Part(1, 3));
    assert_eq!(of("bytes=1-2", Some("\"other\"")), Wanted::All);
    assert_eq!(of("bytes=1-2", Some("Mon, 02 Nov 2026 10:00:00 GMT")), Wanted::All);
}
