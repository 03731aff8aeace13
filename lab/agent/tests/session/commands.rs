use pitstop_agent::Farewell;
use pitstop_wire::agent::{AgentKind, FromAgent, Outcome, ToAgent, Work};
use pitstop_wire::run::{Command, End, FromRun, Stream, ToRun, WINDOW};

use crate::daemon::{Console, Daemon, Machine, Peer, farewell, start};

pub fn shell(script: &str) -> Command {
    Command {
        argv: ["sh", "-c", script].map(Into::into).into(),
        env: vec![("GREETING".into(), "hello world; rm".into())],
        cwd: None,
        stdin: false,
    }
}

pub fn start_command(id: &str, command: &Command, stdout: u64) -> ToRun {
    ToRun::Start { id: id.into(), command: command.clone(), stdout, stderr: 0 }
}

/// What a caller collects.
#[derive(Default, Debug)]
pub struct Heard {
    pub started: Option<u64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub taken: u64,
    pub end: Option<End>,
}

impl Heard {
    /// Takes in one message; bytes must follow without a gap.
    pub fn take(&mut self, message: FromRun, body: &[u8]) {
        match message {
            FromRun::Started { input, .. } => self.started = Some(input),
            FromRun::Output { stream, offset, .. } => {
                let into = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
                assert_eq!(offset, into.len() as u64, "bytes lost or repeated");
                into.extend_from_slice(body);
            }
            FromRun::Taken { input, .. } => self.taken = input,
            FromRun::Ended { end, .. } => self.end = Some(end),
        }
    }

    /// Listens until `enough`.
    pub async fn until(&mut self, peer: &mut Peer, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let (message, body) = peer.next_run().await;
            self.take(message, &body);
        }
    }

    pub async fn to_end(peer: &mut Peer) -> Self {
        let mut heard = Self::default();
        heard.until(peer, |h| h.end.is_some()).await;
        heard
    }
}

pub fn seen(id: &str, stdout: u64, end: bool) -> ToRun {
    ToRun::Seen { id: id.into(), stdout, stderr: 0, end }
}

struct Lab {
    daemon: Daemon,
    agent: pitstop_agent::Agent,
}

impl Lab {
    async fn new() -> (Self, Peer) {
        let daemon = Daemon::start().await;
        let agent = start(AgentKind::Host, daemon.params(), Machine::new(None), &Console::default());
        let (peer, _) = daemon.welcome().await;
        (Self { daemon, agent }, peer)
    }

    async fn end(self) {
        self.agent.stop();
        farewell(self.agent).await;
    }
}

#[tokio::test]
async fn both_streams_arrive_whole_before_the_exit_code_and_no_shell_sees_the_arguments() {
    let (lab, mut peer) = Lab::new().await;
    let script = "printf '%s' \"$GREETING\"; echo oops >&2; pwd >&2; exit 7";
    peer.run(start_command("1", &shell(script), 0), &[]).await;
    let heard = Heard::to_end(&mut peer).await;
    assert_eq!(heard.started, Some(0));
    assert_eq!(heard.stdout, b"hello world; rm");
    assert_eq!(heard.stderr, b"oops\n/tmp\n");
    assert_eq!(heard.end, Some(End::Exit { code: 7 }));
    let argv = ["printf", "%s", "$HOME `id` *"].map(Into::into).into();
    let command = Command { argv, env: vec![], cwd: None, stdin: false };
    peer.run(start_command("2", &command, 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.stdout, b"$HOME `id` *");
    lab.end().await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let (lab, mut peer) = Lab::new().await;
    let command = |argv: &[&str], cwd: Option<&str>| Command {
        argv: argv.iter().map(|&s| s.into()).collect(),
        env: vec![],
        cwd: cwd.map(Into::into),
        stdin: false,
    };
    let cases = [
        (command(&["/no/such/program"], None), "/no/such/program"),
        (command(&[], None), "no program"),
        (command(&["true"], Some("/no/such/place")), "/no/such/place"),
        (command(&["true", "a\0b"], None), "NUL"),
    ];
    for (at, (command, expected)) in cases.iter().enumerate() {
        peer.run(start_command(&at.to_string(), command, 0), &[]).await;
        let heard = Heard::to_end(&mut peer).await;
        assert_eq!(heard.started, None);
        let Some(End::Failed { reason }) = &heard.end else { panic!("{heard:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
    lab.end().await;
}

#[tokio::test]
async fn standard_input_is_taken_once_whatever_is_repeated() {
    let (lab, mut peer) = Lab::new().await;
    let command = Command { stdin: true, ..shell("cat") };
    peer.run(start_command("1", &command, 0), &[]).await;
    let input = |offset, eof| ToRun::Input { id: "1".into(), offset, eof };
    peer.run(input(0, false), b"hello ").await;
    peer.run(input(100, false), b"from the future").await;
    peer.run(input(0, false), b"hello world").await;
    peer.run(input(6, true), b"world").await;
    let heard = Heard::to_end(&mut peer).await;
    assert_eq!(heard.stdout, b"hello world");
    assert_eq!(heard.end, Some(End::Exit { code: 0 }));
    lab.end().await;
}

#[tokio::test]
async fn a_command_without_input_reads_the_end_at_once() {
    let (lab, mut peer) = Lab::new().await;
    peer.run(start_command("1", &shell("cat; echo done"), 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.stdout, b"done\n");
    lab.end().await;
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let (lab, mut peer) = Lab::new().await;
    let inner = "trap 'echo inner; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let script = format!("trap 'wait; exit 3' TERM; sh -c \"{inner}\" & wait; wait");
    peer.run(start_command("1", &shell(&script), 0), &[]).await;
    let mut heard = Heard::default();
    heard.until(&mut peer, |h| h.stdout == b"ready\n").await;
    peer.run(ToRun::Signal { id: "1".into(), signal: 15 }, &[]).await;
    heard.until(&mut peer, |h| h.end.is_some()).await;
    assert_eq!(heard.stdout, b"ready\ninner\n");
    assert_eq!(heard.end, Some(End::Exit { code: 3 }));
    peer.run(start_command("2", &shell("echo up; exec sleep 600"), 0), &[]).await;
    let mut heard = Heard::default();
    heard.until(&mut peer, |h| !h.stdout.is_empty()).await;
    peer.run(ToRun::Signal { id: "2".into(), signal: 9 }, &[]).await;
    heard.until(&mut peer, |h| h.end.is_some()).await;
    assert_eq!(heard.end, Some(End::Signal { signal: 9 }));
    lab.end().await;
}

#[tokio::test]
async fn output_beyond_the_window_waits_in_the_command_until_some_is_seen() {
    let (lab, mut peer) = Lab::new().await;
    let total = 3 * WINDOW as u64;
    let script = format!("head -c {total} /dev/zero; echo finished >&2");
    peer.run(start_command("1", &shell(&script), 0), &[]).await;
    let mut heard = Heard::default();
    heard.until(&mut peer, |h| h.stdout.len() == WINDOW).await;
    // Answered by the same loop that would send more: nothing more was sent, and the command is not done.
    peer.order(1, Work::Look).await;
    let next = peer.next().await.0;
    assert!(matches!(next, FromAgent::Done { step: 1, .. }), "more than the window: {next:?}");
    assert!(heard.stderr.is_empty());
    while heard.end.is_none() {
        peer.run(seen("1", heard.stdout.len() as u64, false), &[]).await;
        let (message, body) = peer.next_run().await;
        heard.take(message, &body);
    }
    assert_eq!(heard.stdout.len() as u64, total);
    assert_eq!(heard.stderr, b"finished\n");
    lab.end().await;
}

#[tokio::test]
async fn a_command_goes_on_without_a_connection_and_its_output_comes_without_loss_or_repeat() {
    let (lab, mut peer) = Lab::new().await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 5";
    let command = shell(script);
    peer.run(start_command("1", &command, 0), &[]).await;
    let mut heard = Heard::default();
    heard.until(&mut peer, |h| h.stdout.len() > 500).await;
    // The caller keeps only what it had at some earlier moment.
    heard.stdout.truncate(321);
    drop(peer);
    let (mut peer, _) = lab.daemon.welcome().await;
    // A second command answers first: nobody asked for the first one on this connection.
    peer.run(start_command("2", &shell("echo two"), 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.stdout, b"two\n");
    let other = shell("echo a repeat does not run this");
    peer.run(start_command("1", &other, heard.stdout.len() as u64), &[]).await;
    heard.until(&mut peer, |h| h.end.is_some()).await;
    let expected: String = (0..3000).map(|i| format!("line {i}\n")).collect();
    assert!(heard.stdout == expected.as_bytes());
    assert_eq!(heard.end, Some(End::Exit { code: 5 }));
    // Kept until the end was seen; then the id is free, and the command is another.
    peer.run(start_command("1", &other, heard.stdout.len() as u64), &[]).await;
    let mut again = Heard { stdout: heard.stdout.clone(), ..Heard::default() };
    again.until(&mut peer, |h| h.end.is_some()).await;
    assert_eq!(again.end, Some(End::Exit { code: 5 }));
    peer.run(seen("1", heard.stdout.len() as u64, true), &[]).await;
    peer.run(start_command("1", &other, 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.stdout, b"a repeat does not run this\n");
    lab.end().await;
}

#[tokio::test]
async fn something_left_in_the_background_does_not_keep_the_end_back() {
    let (lab, mut peer) = Lab::new().await;
    peer.run(start_command("1", &shell("sleep 20 & echo away"), 0), &[]).await;
    let heard = Heard::to_end(&mut peer).await;
    assert_eq!((heard.stdout.as_slice(), heard.end), (&b"away\n"[..], Some(End::Exit { code: 0 })));
    lab.end().await;
}

#[tokio::test]
async fn goodbye_ends_commands_also_those_that_ignore_sigterm() {
    let (lab, mut peer) = Lab::new().await;
    let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
    peer.run(start_command("1", &shell(script), 0), &[]).await;
    let mut heard = Heard::default();
    heard.until(&mut peer, |h| h.stdout.ends_with(b"\n")).await;
    let pid = String::from_utf8(heard.stdout).unwrap();
    peer.send(&ToAgent::Bye { reason: "released".into() }, &[]).await;
    assert_eq!(farewell(lab.agent).await, Farewell::Bye { reason: "released".into() });
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    let deadline = std::time::Instant::now() + crate::daemon::PATIENCE;
    while !gone() {
        assert!(std::time::Instant::now() < deadline, "the command outlived its session");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_boot_agent_serves_commands_only_after_it_was_told_to() {
    let daemon = Daemon::start().await;
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &Console::default());
    let (mut peer, _) = daemon.welcome().await;
    peer.run(start_command("1", &shell("echo early"), 0), &[]).await;
    let heard = Heard::to_end(&mut peer).await;
    assert!(matches!(heard.end, Some(End::Failed { .. })), "{heard:?}");
    peer.order(1, Work::Serve).await;
    assert_eq!(peer.next().await.0, FromAgent::Done { step: 1, outcome: Outcome::Serving });
    peer.run(start_command("1", &shell("echo late"), 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.stdout, b"late\n");
    agent.stop();
    farewell(agent).await;
}

#[tokio::test]
async fn the_65th_command_is_refused_and_room_is_made_by_seeing_ends() {
    let (lab, mut peer) = Lab::new().await;
    for id in 0..64 {
        peer.run(start_command(&id.to_string(), &shell("true"), 0), &[]).await;
        Heard::to_end(&mut peer).await;
    }
    peer.run(start_command("one more", &shell("true"), 0), &[]).await;
    let heard = Heard::to_end(&mut peer).await;
    assert!(matches!(&heard.end, Some(End::Failed { reason }) if reason.contains("64")), "{heard:?}");
    peer.run(seen("7", 0, true), &[]).await;
    peer.run(start_command("one more", &shell("true"), 0), &[]).await;
    assert_eq!(Heard::to_end(&mut peer).await.end, Some(End::Exit { code: 0 }));
    lab.end().await;
}
