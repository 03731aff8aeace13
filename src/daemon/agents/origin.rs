//! Where a boot agent must come from: the address that was given its
//! parameters. Whoever else shows its token has read it on somebody else's
//! network.

use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentKind, Hello};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which address was given the parameters of each machine's newest attempt.
/// Forgotten at a restart, after which it is not asked.
#[derive(Debug, Default)]
pub struct Origins {
    given: Mutex<HashMap<MachineName, Given>>,
}

#[derive(Debug)]
struct Given {
    nonce: String,
    to: IpAddr,
}

impl Origins {
    /// The parameters of this attempt go there; an older attempt's are
    /// forgotten.
    pub fn give(&self, machine: &MachineName, nonce: &str, to: IpAddr) {
        let given = Given { nonce: nonce.to_owned(), to: to.to_canonical() };
        self.given().insert(machine.clone(), given);
    }

    /// Why an agent that comes from there may not spend its token.
    pub fn refuse(&self, hello: &Hello, from: IpAddr) -> Option<String> {
        // A host agent has its token from the boot agent, over the disk, and
        // its system may well have got itself another address.
        let Hello::Attach { kind: AgentKind::Boot, machine, nonce, .. } = hello else { return None };
        let given = self.given();
        // On a user-mode network all machines share the host's loopback.
        let given = given.get(machine).filter(|g| g.nonce == *nonce && !g.to.is_loopback())?;
        let from = from.to_canonical();
        (from != given.to).then(|| {
            format!("it comes from {from}; the boot parameters of this attempt were given to {}", given.to)
        })
    }

    fn given(&self) -> MutexGuard<'_, HashMap<MachineName, Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_wire::agent::Secret;

    fn attach(kind: AgentKind, nonce: &str) -> Hello {
        Hello::Attach {
            protocol: (1, 1),
            version: "1".into(),
            kind,
            machine: MachineName::new("m1").unwrap(),
            nonce: nonce.into(),
            boot_id: "b".into(),
            token: Secret("t".into()),
            key_hash: String::new(),
        }
    }

    #[test]
    fn a_token_that_was_read_by_a_neighbour_opens_nothing_from_there() {
        let origins = Origins::default();
        let m1 = MachineName::new("m1").unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let refused = |kind, nonce, from| origins.refuse(&attach(kind, nonce), ip(from)).is_some();
        assert!(!refused(AgentKind::Boot, "n1", "192.0.2.2"), "nobody asked over the network");
        origins.give(&m1, "n1", ip("::ffff:192.0.2.1"));
        assert!(refused(AgentKind::Boot, "n1", "192.0.2.2"));
        assert!(refused(AgentKind::Boot, "n1", "127.0.0.1"));
        assert!(!refused(AgentKind::Boot, "n1", "192.0.2.1"));
        assert!(!refused(AgentKind::Host, "n1", "192.0.2.2"), "an image may take another address");
        origins.give(&m1, "n2", ip("192.0.2.3"));
        assert!(!refused(AgentKind::Boot, "n1", "192.0.2.2"), "an old nonce is the core's to refuse");
        assert!(refused(AgentKind::Boot, "n2", "192.0.2.1"));
        origins.give(&m1, "n3", ip("127.0.0.1"));
        assert!(!refused(AgentKind::Boot, "n3", "192.0.2.2"), "behind a user-mode network");
    }
}
