//! What every console driver must do.

use super::fake::Fake;
use super::{Console, Line};
use crate::testing::console_server::{Server, pty, pyserial, ser2net};
use crate::testing::{driver, leg, none, site};
use serde_json::json;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

const PATIENCE: Duration = Duration::from_secs(20);

async fn expect(line: &mut Box<dyn Line>, want: &[u8]) {
    let mut got = vec![0; want.len()];
    tokio::time::timeout(PATIENCE, line.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, want);
}

/// Every byte there is, so that nothing is taken for a control character.
fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

async fn ends(line: &mut Box<dyn Line>) {
    let mut rest = Vec::new();
    // The end of a line may be an error or the end of a stream.
    let end =
        tokio::time::timeout(PATIENCE, line.read_to_end(&mut rest)).await.expect("a lost line must end");
    assert!(rest.is_empty() || end.is_ok());
}

#[tokio::test]
async fn the_fake() {
    let fake = Fake::default();
    fake.open().await.err().expect("nothing is plugged in");
    let mut machine = fake.plug();
    let mut line = fake.open().await.unwrap();
    machine.write_all(&all_bytes()).await.unwrap();
    expect(&mut line, &all_bytes()).await;
    line.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    machine.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    line.send_break().unwrap();
    assert_eq!(fake.breaks(), 1);
    drop(machine);
    ends(&mut line).await;
}

#[tokio::test]
async fn a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let spec = driver("unix", json!({"path": path}));
    let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
    let console = super::unix::make(&site, "main").unwrap();
    console.open().await.err().expect("nobody listens");
    let listener = UnixListener::bind(&path).unwrap();
    let mut line = console.open().await.unwrap();
    let (mut machine, _) = listener.accept().await.unwrap();
    machine.write_all(&all_bytes()).await.unwrap();
    expect(&mut line, &all_bytes()).await;
    line.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    machine.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    drop(machine);
    ends(&mut line).await;
}

fn serial(dir: &Path, device: &Path) -> Arc<dyn Console> {
    let spec = driver("serial", json!({"device": device, "baud": 74_880}));
    let site = site(dir, leg(driver("none", none())), Some(spec), driver("power", none()));
    super::serial::make(&site, "main").unwrap()
}

#[tokio::test]
async fn a_serial_port() {
    let dir = tempfile::tempdir().unwrap();
    let (master, path) = pty();
    let console = serial(dir.path(), &path);
    let mut line = console.open().await.unwrap();
    let second = console.open().await.err().expect("a port has one reader");
    assert!(!second.permanent);
    let mut machine = File::from(master);
    machine.write_all(&all_bytes()).unwrap();
    expect(&mut line, &all_bytes()).await;
    line.write_all(b"hello\n\x13").await.unwrap();
    let mut got = [0; 7];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello\n\x13", "the port must be raw");
    line.send_break().unwrap();
    // The plug is pulled: a read of 0 bytes, which is the end.
    drop(machine);
    ends(&mut line).await;
    drop(line);
    console.open().await.err().expect("the port is gone");
}

#[tokio::test]
async fn a_pseudo_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("port");
    let spec = driver("pty", json!({ "path": link }));
    let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
    let console = super::pty::make(&site, "main").unwrap();
    console.open().await.err().expect("the machine is off");
    let (master, path) = pty();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut line = console.open().await.unwrap();
    let second = console.open().await.err().expect("a terminal has one reader");
    assert!(second.to_string().contains("console.pty"), "{second}");
    let mut machine = File::from(master);
    machine.write_all(&all_bytes()).unwrap();
    expect(&mut line, &all_bytes()).await;
    line.write_all(b"hello\n\x13").await.unwrap();
    let mut got = [0; 7];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello\n\x13", "the terminal must be raw");
    line.send_break().unwrap();
    drop(machine);
    ends(&mut line).await;
}

/// A port is read again only when it has more: to ask each time whether it
/// has would cost as much as reading. Nothing may be left in it, and its end
/// not be missed.
#[tokio::test]
async fn what_comes_while_a_port_is_read_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let (master, path) = pty();
    let mut line = serial(dir.path(), &path).open().await.unwrap();
    let mut machine = File::from(master);
    let all: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let said = all.clone();
    let speaks = std::thread::spawn(move || {
        // Pieces of all sizes, as much as the port takes.
        let mut rest = &said[..];
        for size in (1..5_000).step_by(37).cycle() {
            let (piece, more) = rest.split_at(size.min(rest.len()));
            machine.write_all(piece).unwrap();
            rest = more;
            if rest.is_empty() {
                return machine;
            }
        }
        unreachable!("it cycles");
    });
    expect(&mut line, &all).await;
    drop(speaks.join().unwrap());
    ends(&mut line).await;
}

#[tokio::test]
async fn a_serial_port_that_was_lost_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("port");
    let (first, path) = pty();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let console = serial(dir.path(), &link);
    let mut line = console.open().await.unwrap();
    drop(first);
    ends(&mut line).await;
    drop(line);
    let (second, path) = pty();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut line = console.open().await.unwrap();
    let mut machine = File::from(second);
    machine.write_all(b"back").unwrap();
    expect(&mut line, b"back").await;
}

fn serial_with(dir: &Path, mut fields: serde_json::Value, device: &Path) -> Arc<dyn Console> {
    fields["device"] = json!(device);
    let site =
        site(dir, leg(driver("none", none())), Some(driver("serial", fields)), driver("power", none()));
    super::serial::make(&site, "main").unwrap()
}

#[tokio::test]
async fn a_key_that_is_typed_during_a_break_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut machine, path, _open) = raw_pty();
    let console = serial_with(dir.path(), json!({}), &path);
    let mut line = console.open().await.unwrap();
    line.send_break().unwrap();
    // It is taken when the break is over, and not before.
    let begun = tokio::time::Instant::now();
    line.write_all(b"t").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(250), "tcsendbreak(3): at least 0.25 s");
    let mut got = [0; 1];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"t");
}

#[tokio::test]
async fn a_boot_loader_that_is_typed_at_too_fast_loses_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (mut machine, path, _open) = raw_pty();
    let console = serial_with(dir.path(), json!({"char_delay": 20}), &path);
    let mut line = console.open().await.unwrap();
    let begun = tokio::time::Instant::now();
    line.write_all(b"printenv\r").await.unwrap();
    assert!(begun.elapsed() >= 8 * Duration::from_millis(20), "a pause behind each but the last");
    let mut got = [0; 9];
    machine.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"printenv\r");
}

#[tokio::test]
async fn a_port_without_control_lines_says_so_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (_machine, path, _open) = raw_pty();
    for name in ["dtr", "rts"] {
        let console = serial_with(dir.path(), json!({ name: false }), &path);
        // A pty has none, as some USB adapters have none.
        let error = console.open().await.err().unwrap();
        assert!(error.answer.contains(&format!("{} cannot be set", name.to_uppercase())), "{error}");
    }
}

#[test]
fn a_serial_port_must_be_named_once() {
    let dir = tempfile::tempdir().unwrap();
    for fields in [
        json!({}),
        json!({"device": "/dev/a", "by_id": "b"}),
        json!({"by_id": "../tty"}),
        json!({"usb": "a/b"}),
    ] {
        let spec = driver("serial", fields);
        let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
        assert!(super::serial::make(&site, "main").err().unwrap().permanent);
    }
}

#[tokio::test]
async fn a_bmcs_serial_line() {
    let dir = tempfile::tempdir().unwrap();
    let bmc = crate::testing::bmc::Bmc::start(dir.path());
    let mut machine = tokio::net::TcpStream::from_std(bmc.line()).unwrap();
    let power = leg(driver("ipmi", bmc.fields()));
    let site = site(dir.path(), power, Some(driver("sol", none())), driver("power", none()));
    let console = super::sol::make(&site, "main").unwrap();
    let mut line = console.open().await.unwrap();
    machine.write_all(&all_bytes()).await.unwrap();
    expect(&mut line, &all_bytes()).await;
    // ipmi_sim may lose the first packet that is typed in a session.
    line.write_all(b"?").await.unwrap();
    machine.write_all(b"x").await.unwrap();
    expect(&mut line, b"x").await;
    line.write_all(b"\n~.hello~B").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"~B") {
        let byte =
            tokio::time::timeout(PATIENCE, machine.read_u8()).await.expect("all of it arrives").unwrap();
        got.push(byte);
    }
    assert!(got.ends_with(b"\n~.hello~B"), "nothing typed may be taken for a command: {got:?}");
    line.send_break().unwrap();
    line.write_all(b"!").await.unwrap();
    while tokio::time::timeout(PATIENCE, machine.read_u8()).await.expect("it goes on").unwrap() != b'!' {}
    machine.write_all(b"y").await.unwrap();
    expect(&mut line, b"y").await;
    // Whoever has the line has it alone; who steals gets it.
    let second = driver("sol", json!({"steal": false}));
    let polite = {
        let leg = leg(driver("ipmi", bmc.fields()));
        let site = crate::testing::site(dir.path(), leg, Some(second), driver("power", none()));
        super::sol::make(&site, "main").unwrap()
    };
    let error = polite.open().await.err().expect("the line is taken");
    assert_eq!(error.answer, "somebody else has the BMC's serial line");
    assert!(error.attempted.starts_with("open the serial line"), "{error}");
    let mut thief = console.open().await.unwrap();
    machine.write_all(b"mine").await.unwrap();
    expect(&mut thief, b"mine").await;
    let stolen =
        tokio::time::timeout(6 * PATIENCE, line.read_u8()).await.expect("it is noticed").unwrap_err();
    assert!(stolen.to_string().contains("somebody else took"), "{stolen}");
}

type Make = fn(&crate::Site, &str) -> Result<Arc<dyn Console>, crate::DriverError>;

fn at(make: Make, kind: &str, address: &str) -> Arc<dyn Console> {
    let dir = tempfile::tempdir().unwrap();
    let spec = driver(kind, json!({"address": address}));
    make(&site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none())), "main").unwrap()
}

/// A console server takes a moment to listen.
async fn opened(console: &dyn Console) -> Box<dyn Line> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match console.open().await {
            Ok(line) => return line,
            Err(e) => assert!(tokio::time::Instant::now() < deadline, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A pty that changes no byte, as a serial port changes none.
/// It is kept open, or reading its master would fail while nobody has it.
fn raw_pty() -> (File, std::path::PathBuf, File) {
    let (master, path) = pty();
    let terminal = File::options().read(true).write(true).open(&path).unwrap();
    let mut modes = rustix::termios::tcgetattr(&terminal).unwrap();
    modes.make_raw();
    rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &modes).unwrap();
    (master.into(), path, terminal)
}

/// Bytes pass in both directions whatever they are, and the end of the server
/// is the end of the line.
async fn carries(console: &dyn Console, mut machine: File, server: Server) {
    let mut line = opened(console).await;
    // What the server says of itself comes before it takes the port.
    line.write_all(b"?").await.unwrap();
    let mut machine = tokio::task::spawn_blocking(move || {
        let mut got = [0; 1];
        machine.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"?");
        machine
    })
    .await
    .unwrap();
    machine.write_all(&all_bytes()).unwrap();
    expect(&mut line, &all_bytes()).await;
    line.write_all(&all_bytes()).await.unwrap();
    let mut got = vec![0; 256];
    let mut machine = tokio::task::spawn_blocking(move || {
        machine.read_exact(&mut got).unwrap();
        assert_eq!(got, all_bytes());
        machine
    })
    .await
    .unwrap();
    machine.write_all(b"still here").unwrap();
    expect(&mut line, b"still here").await;
    drop(server);
    ends(&mut line).await;
    console.open().await.err().expect("the server is gone");
}

#[tokio::test]
async fn a_raw_port_of_ser2net() {
    let (dir, (machine, path, _open)) = (tempfile::tempdir().unwrap(), raw_pty());
    let server = ser2net(dir.path(), &[("tcp", &path)]);
    let console = at(super::tcp::make, "tcp", &server.ports[0]);
    carries(console.as_ref(), machine, server).await;
}

#[tokio::test]
async fn a_telnet_port_of_ser2net() {
    let (dir, (machine, path, _open)) = (tempfile::tempdir().unwrap(), raw_pty());
    let server = ser2net(dir.path(), &[("telnet,tcp", &path)]);
    let console = at(super::telnet::telnet, "telnet", &server.ports[0]);
    carries(console.as_ref(), machine, server).await;
}

#[tokio::test]
async fn an_rfc2217_port_of_ser2net_over_a_pty_that_answers_half_of_what_is_asked() {
    let (dir, (machine, path, _open)) = (tempfile::tempdir().unwrap(), raw_pty());
    let server = ser2net(dir.path(), &[("telnet(rfc2217),tcp", &path)]);
    let console = at(super::telnet::rfc2217, "rfc2217", &server.ports[0]);
    carries(console.as_ref(), machine, server).await;
}

#[tokio::test]
async fn an_rfc2217_port_of_pyserial_is_set_up_and_sent_a_break() {
    let server = pyserial();
    let dir = tempfile::tempdir().unwrap();
    let spec = driver("rfc2217", json!({"address": server.ports[0], "baud": 57_600}));
    let site = site(dir.path(), leg(driver("none", none())), Some(spec), driver("power", none()));
    let console = super::telnet::rfc2217(&site, "main").unwrap();
    let mut line = opened(console.as_ref()).await;
    line.write_all(&all_bytes()).await.unwrap();
    expect(&mut line, &all_bytes()).await;
    line.send_break().unwrap();
    expect(&mut line, b"broke 57600").await;
    drop(server);
    ends(&mut line).await;
}
