use pitstop_agent::Farewell;
use pitstop_wire::agent::{AgentKind, FromAgent, Hello, Outcome, ToAgent, Welcome, Work};
use sha2::{Digest, Sha256};

use crate::daemon::{Console, Daemon, Machine, accepted, farewell, start};

fn refused(reason: &str, retry: bool) -> Welcome {
    Welcome::Refused { reason: reason.into(), retry }
}

#[tokio::test]
async fn an_attach_shows_token_and_hash_and_a_lost_connection_is_resumed_with_the_key() {
    let daemon = Daemon::start().await;
    let console = Console::default();
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &console);
    let (mut peer, hello) = daemon.welcome().await;
    let Hello::Attach { kind, nonce, boot_id, token, key_hash, .. } = hello else { panic!("{hello:?}") };
    assert_eq!((kind, nonce.as_str(), boot_id.as_str()), (AgentKind::Boot, "nonce-1", "boot-1"));
    assert_eq!(token.0, "token-1");
    assert_eq!(peer.any().await.unwrap().0, FromAgent::Beat);
    drop(peer);
    let (mut peer, hello) = daemon.welcome().await;
    let Hello::Resume { key, nonce, boot_id, .. } = hello else { panic!("{hello:?}") };
    assert_eq!((nonce.as_str(), boot_id.as_str()), ("nonce-1", "boot-1"));
    assert_eq!(hex::encode(Sha256::digest(key.0.as_bytes())), key_hash);
    peer.send(&ToAgent::Bye { reason: "released".into() }, &[]).await;
    assert_eq!(farewell(agent).await, Farewell::Bye { reason: "released".into() });
    let text = console.text();
    assert!(text.contains("attached as boot agent of m1") && text.contains("resumed"), "{text}");
    assert!(!text.contains("token-1") && !text.contains(&key.0), "secrets on the console: {text}");
}

#[tokio::test]
async fn a_daemon_of_another_ca_is_told_nothing() {
    let (daemon, other) = (Daemon::start().await, Daemon::start().await);
    let mut params = daemon.params();
    params.ca = other.ca;
    let agent = start(AgentKind::Boot, params, Machine::new(None), &Console::default());
    daemon.handshake_error().await;
    agent.stop();
    assert_eq!(farewell(agent).await, Farewell::Stopped);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_though_the_ca_is_right() {
    let daemon = Daemon::with_certificate((2000, 3000), "elsewhere").await;
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &Console::default());
    daemon.handshake_error().await;
    agent.stop();
    farewell(agent).await;
}

#[tokio::test]
async fn a_machine_whose_clock_is_far_off_attaches_all_the_same() {
    for years in [(2900, 3000), (1990, 1991)] {
        let daemon = Daemon::with_certificate(years, "pitstop").await;
        let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &Console::default());
        daemon.welcome().await;
        agent.stop();
        farewell(agent).await;
    }
}

#[tokio::test]
async fn a_final_refusal_ends_the_agent_and_a_passing_one_does_not() {
    let daemon = Daemon::start().await;
    let console = Console::default();
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &console);
    let (mut peer, hello) = daemon.accept().await;
    assert!(matches!(hello, Hello::Attach { .. }));
    peer.answer(&refused("the daemon is starting", true)).await;
    let (mut peer, hello) = daemon.accept().await;
    assert!(matches!(hello, Hello::Attach { .. }), "it was refused, so nothing was committed");
    peer.answer(&refused("this token was spent", false)).await;
    assert_eq!(farewell(agent).await, Farewell::Refused { reason: "this token was spent".into() });
    assert!(console.text().contains("this token was spent"));
}

#[tokio::test]
async fn an_unanswered_attach_is_followed_by_a_resume_and_then_by_the_same_attach() {
    let daemon = Daemon::start().await;
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &Console::default());
    let (peer, first) = daemon.accept().await;
    drop(peer);
    let (mut peer, hello) = daemon.accept().await;
    assert!(matches!(hello, Hello::Resume { .. }), "{hello:?}");
    peer.answer(&refused("unknown session", false)).await;
    let (mut peer, hello) = daemon.accept().await;
    assert_eq!(hello, first, "the same token and the same key");
    peer.answer(&accepted(None)).await;
    peer.order(1, Work::Look).await;
    assert!(matches!(peer.next().await.0, FromAgent::Done { step: 1, outcome: Outcome::Seen(_) }));
    agent.stop();
    farewell(agent).await;
}

#[tokio::test]
async fn nonsense_from_the_daemon_costs_the_connection_and_not_the_agent() {
    let daemon = Daemon::start().await;
    let agent = start(AgentKind::Boot, daemon.params(), Machine::new(None), &Console::default());
    let (mut peer, _) = daemon.accept().await;
    // A welcome that is none: a result, in the shape of another message.
    peer.send(&ToAgent::Ack { step: 1 }, &[]).await;
    peer.hung_up().await;
    let (mut peer, _) = daemon.welcome().await;
    peer.answer(&accepted(None)).await;
    peer.hung_up().await;
    let (peer, hello) = daemon.welcome().await;
    assert!(matches!(hello, Hello::Resume { .. }));
    drop(peer);
    agent.stop();
    farewell(agent).await;
}
