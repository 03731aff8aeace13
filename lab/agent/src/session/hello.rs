//! Who the agent is to the daemon, and what it says first on a new connection.

use pitstop_wire::agent::{AgentKind, AgentParams, Hello, PROTOCOL, Secret};
use sha2::{Digest, Sha256};

/// What the agent knows about its attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The daemon has not seen the token.
    Fresh,
    /// An attach was sent and never answered: the daemon may have committed it or not. Both questions are
    /// asked in turn, [`DOUBTS`] by number, until one is answered with yes.
    Doubtful(usize),
    /// The daemon knows the key.
    Attached,
}

/// A resume first, since the token is probably spent; then an attach with the same key; then a resume once
/// more, because the lost attach may have been committed between the two.
const DOUBTS: [Ask; 3] = [Ask::Resume, Ask::Attach, Ask::Resume];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Attach,
    Resume,
}

/// The agent's identity for one boot.
pub(crate) struct Identity {
    kind: AgentKind,
    params: AgentParams,
    boot_id: String,
    key: Secret,
    key_hash: String,
    standing: Standing,
}

impl Identity {
    /// A new identity with a fresh key of 256 bits.
    pub(crate) fn new(
        kind: AgentKind,
        params: AgentParams,
        boot_id: String,
    ) -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        let key = hex::encode(bytes);
        let key_hash = hex::encode(Sha256::digest(key.as_bytes()));
        Ok(Self { kind, params, boot_id, key: Secret(key), key_hash, standing: Standing::Fresh })
    }

    /// What to say first on a connection that stands.
    pub(crate) fn hello(&mut self) -> Hello {
        let ask = match self.standing {
            Standing::Fresh => {
                // Noted before it is sent: afterwards nobody can tell whether it arrived.
                self.standing = Standing::Doubtful(0);
                Ask::Attach
            }
            Standing::Doubtful(at) => DOUBTS[at],
            Standing::Attached => Ask::Resume,
        };
        let (protocol, version) = ((PROTOCOL, PROTOCOL), env!("CARGO_PKG_VERSION").to_owned());
        let (machine, nonce) = (self.params.machine.clone(), self.params.nonce.clone());
        let boot_id = self.boot_id.clone();
        match ask {
            Ask::Attach => Hello::Attach {
                protocol,
                version,
                kind: self.kind,
                machine,
                nonce,
                boot_id,
                token: self.params.token.clone(),
                key_hash: self.key_hash.clone(),
            },
            Ask::Resume => {
                Hello::Resume { protocol, version, machine, nonce, boot_id, key: self.key.clone() }
            }
        }
    }

    /// The daemon took us.
    pub(crate) fn accepted(&mut self) {
        self.standing = Standing::Attached;
    }

    /// The daemon refused the last hello. Says whether there is anything left to try.
    pub(crate) fn refused(&mut self, sent: &Hello, retry: bool) -> bool {
        let first_attach = matches!(sent, Hello::Attach { .. }) && self.standing == Standing::Doubtful(0);
        if first_attach {
            // Answered, so there is no doubt: the token was not spent by us.
            self.standing = Standing::Fresh;
            return retry;
        }
        match self.standing {
            _ if retry => true,
            Standing::Doubtful(at) if at + 1 < DOUBTS.len() => {
                self.standing = Standing::Doubtful(at + 1);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn machine(&self) -> &str {
        self.params.machine.as_str()
    }

    pub(crate) fn kind(&self) -> AgentKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let params = AgentParams {
            server: "127.0.0.1:1".into(),
            ca: "00".repeat(32),
            machine: "m1".parse().unwrap(),
            nonce: "n".into(),
            token: Secret("t".into()),
        };
        Identity::new(AgentKind::Boot, params, "boot-1".into()).unwrap()
    }

    fn name(hello: &Hello) -> &'static str {
        match hello {
            Hello::Attach { .. } => "attach",
            Hello::Resume { .. } => "resume",
        }
    }

    #[test]
    fn only_the_hash_of_the_key_travels_with_the_attach() {
        let mut me = identity();
        let Hello::Attach { key_hash, .. } = me.hello() else { panic!("attach comes first") };
        let Hello::Resume { key, .. } = me.hello() else { panic!("a lost attach is asked about") };
        assert_eq!(key_hash, hex::encode(Sha256::digest(key.0.as_bytes())));
        assert_eq!(key.0.len(), 64);
    }

    #[test]
    fn an_unanswered_attach_is_resumed_then_repeated_then_resumed_and_then_given_up() {
        let mut me = identity();
        assert_eq!(name(&me.hello()), "attach");
        for (expected, goes_on) in [("resume", true), ("attach", true), ("resume", false)] {
            let hello = me.hello();
            assert_eq!(name(&hello), expected);
            assert_eq!(me.refused(&hello, false), goes_on);
        }
    }

    #[test]
    fn a_refused_attach_is_final_unless_the_daemon_says_later() {
        let mut me = identity();
        let hello = me.hello();
        assert!(me.refused(&hello, true));
        let hello = me.hello();
        assert_eq!(name(&hello), "attach", "answered, so there is no doubt");
        assert!(!me.refused(&hello, false));
    }

    #[test]
    fn after_an_attach_there_are_only_resumes() {
        let mut me = identity();
        me.hello();
        me.accepted();
        for _ in 0..3 {
            let hello = me.hello();
            assert_eq!(name(&hello), "resume");
            assert!(me.refused(&hello, true));
        }
        let hello = me.hello();
        assert!(!me.refused(&hello, false));
    }
}
