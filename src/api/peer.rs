//! Who is at the other end of a Unix socket.

use pitstop_wire::{ApiError, Code, UserName};
use std::sync::Arc;

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub user: UserName,
    /// May override others, with a reason.
    pub admin: bool,
}

impl Peer {
    /// The user behind a uid. Root and the user the daemon runs as are
    /// admins: they could change its files anyway.
    ///
    /// # Errors
    /// Where not even the number makes a name.
    pub fn of_uid(uid: u32, own: u32) -> Result<Self, ApiError> {
        let named = uzers::get_user_by_uid(uid);
        let named = named.and_then(|u| UserName::new(&u.name().to_string_lossy()).ok());
        // An account without an entry, or with a name of another alphabet.
        let user = match named {
            Some(name) => name,
            None => UserName::new(&format!("uid{uid}"))
                .map_err(|e| ApiError::new(Code::NotAllowed, format!("uid {uid} has no usable name: {e}")))?,
        };
        Ok(Self { user, admin: uid == 0 || uid == own })
    }
}

/// What a connection carries to its requests.
pub type PeerResult = Arc<Result<Peer, ApiError>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_own_user_are_admins_and_nobody_else() {
        let root = Peer::of_uid(0, 1_000).unwrap();
        assert_eq!((root.user.as_str(), root.admin), ("root", true));
        assert!(Peer::of_uid(54_321, 54_321).unwrap().admin);
        let other = Peer::of_uid(54_321, 1_000).unwrap();
        assert_eq!((other.user.as_str(), other.admin), ("uid54321", false));
    }
}
