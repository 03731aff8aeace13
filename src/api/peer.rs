//! Who is at the other end of a Unix socket.

use nix::unistd::{Uid, User};
use pitstop_wire::{ApiError, Code, UserName};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub user: UserName,
    /// May override others, with a reason.
    pub admin: bool,
}

/// The users who were here. Their names are remembered: without a free file
/// descriptor, or a directory server, nobody's can be looked up, and whoever
/// came by his number then would be somebody else, to whom nothing belongs.
pub struct Peers {
    /// The user the daemon runs as.
    own: u32,
    names: Mutex<HashMap<u32, UserName>>,
}

impl Peers {
    /// Knows nobody but the daemon's own user.
    pub fn new(own: u32) -> Self {
        let peers = Self { own, names: Mutex::default() };
        // Whoever starts a lab uses it. If there is no name, it is asked for again.
        let _ = peers.of_uid(own);
        peers
    }

    /// The user behind a uid. Root and the user the daemon runs as are
    /// admins: they could change its files anyway.
    ///
    /// # Errors
    /// Where not even the number makes a name; where the name cannot be
    /// looked up and was not known before.
    pub fn of_uid(&self, uid: u32) -> Result<Peer, ApiError> {
        let user = self.name(uid, User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|u| u.name)))?;
        Ok(Peer { user, admin: uid == 0 || uid == self.own })
    }

    fn name(&self, uid: u32, entry: nix::Result<Option<String>>) -> Result<UserName, ApiError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // An account may have a name of another alphabet.
        let named = entry.map(|name| name.and_then(|name| UserName::new(&name).ok()));
        if let Ok(Some(name)) = &named {
            names.insert(uid, name.clone());
        }
        match (names.get(&uid), named) {
            (Some(name), _) => Ok(name.clone()),
            (None, Ok(_)) => UserName::new(&format!("uid{uid}"))
                .map_err(|e| ApiError::new(Code::NotAllowed, format!("uid {uid} has no usable name: {e}"))),
            (None, Err(e)) => {
                let text = format!("the name of the user with uid {uid} cannot be looked up: {e}");
                Err(ApiError::new(Code::NotKnown, text).hint("nothing was done; try again"))
            }
        }
    }
}

/// What a connection carries to its requests.
pub type PeerResult = Arc<Result<Peer, ApiError>>;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn root_and_the_daemons_own_user_are_admins_and_nobody_else() {
        let peers = Peers::new(54_321);
        let root = peers.of_uid(0).unwrap();
        assert_eq!((root.user.as_str(), root.admin), ("root", true));
        let own = peers.of_uid(54_321).unwrap();
        assert_eq!((own.user.as_str(), own.admin), ("uid54321", true));
        assert!(!peers.of_uid(54_322).unwrap().admin);
    }

    #[test]
    fn a_user_whose_name_cannot_be_looked_up_is_nobody_else() {
        let peers = Peers::new(0);
        let stranger = peers.name(7, Err(Errno::EMFILE)).unwrap_err();
        assert_eq!(stranger.code, Code::NotKnown, "{stranger:?}");
        assert_eq!(peers.name(7, Ok(Some("ada".into()))).unwrap().as_str(), "ada");
        assert_eq!(peers.name(7, Err(Errno::EMFILE)).unwrap().as_str(), "ada");
        assert_eq!(peers.name(7, Ok(None)).unwrap().as_str(), "ada", "some libraries call that no entry");
        assert_eq!(peers.name(7, Ok(Some("bob".into()))).unwrap().as_str(), "bob");
    }
}
