//! Getting in: who the host is, and who we are.
//!
//! libssh2 checks no host key by itself. Ours is checked before anything of
//! ours is shown, and one that is not known is never accepted: whoever stands
//! between would get to switch machines.

use super::{Host, HostError};
use crate::secret::Place;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use pitstop_core::inventory::DriverSpec;
use pitstop_wire::agent::Secret;
use sha2::{Digest as _, Sha256};
use socket2::{SockRef, TcpKeepalive};
use ssh2::{CheckResult, HostKeyType, KnownHostFileKind, MethodType, Session};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// What hosts sign with, best first (RFC 8709, RFC 5656, RFC 8332). They are
/// asked for one after the other, since a host shows one key, and `known_hosts`
/// may have another.
pub(super) const KINDS: [&str; 3] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256,ssh-rsa",
];

/// A host that says nothing for so long is gone: noticed within a minute,
/// though there be nothing to say.
const IDLE: Duration = Duration::from_secs(15);
const GONE: Duration = Duration::from_secs(40);

/// Whom we take for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// Who has this key.
    Key(Vec<u8>),
    /// Who has a key in one of these files.
    Files(Vec<PathBuf>),
}

impl Trust {
    pub fn of(spec: &DriverSpec) -> Result<Self, String> {
        if let Some(line) = spec.text("host_key") {
            let key = line.split_whitespace().nth(1).and_then(|key| STANDARD.decode(key).ok());
            return key.map(Self::Key).ok_or_else(|| {
                "`host_key` is a kind and a key, as in `ssh-ed25519 AAAA…` (`ssh-keyscan HOST` prints it)"
                    .to_owned()
            });
        }
        if let Some(file) = spec.text("known_hosts") {
            return Ok(Self::Files(vec![file.into()]));
        }
        let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/known_hosts"));
        Ok(Self::Files(own.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()))
    }

    fn files(&self) -> String {
        match self {
            Self::Key(_) => "`host_key`".to_owned(),
            Self::Files(files) => {
                files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or ")
            }
        }
    }
}

/// Why nobody is logged in.
pub(super) enum Refused {
    /// The host showed a key that we do not know; it may have another that we do.
    Key(HostError),
    /// Anything else.
    Other(HostError),
}

/// A connection that ends with this, from any thread: whoever is blocked in
/// it comes back at once.
pub(super) struct Cut(TcpStream);

impl Cut {
    pub fn of(socket: &TcpStream) -> std::io::Result<Self> {
        socket.try_clone().map(Self)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // It may be over already; then there is nothing to end.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// What is needed to log in, read and at hand.
pub(super) struct Words {
    key: Option<Secret>,
    passphrase: Option<Secret>,
}

impl Host {
    /// Connects, and gives the connection and what ends it.
    pub(super) async fn connect(&self) -> Result<(TcpStream, Cut), HostError> {
        let (host, port) = &self.target;
        let connecting = tokio::net::TcpStream::connect((host.as_str(), *port));
        let io = |e: std::io::Error| self.failed(format!("{host}:{port}: {e}"));
        let stream = match tokio::time::timeout(self.limit, connecting).await {
            Ok(stream) => stream.map_err(|e| io(e).next("is it up, and does its ssh server run?"))?,
            Err(_) => {
                let late = format!("no connection to {host}:{port} within {} s", self.limit.as_secs_f32());
                return Err(self.failed(late).next("is it up?"));
            }
        };
        let stream = stream.into_std().map_err(io)?;
        stream.set_nonblocking(false).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let socket = SockRef::from(&stream);
        let probes = TcpKeepalive::new().with_time(IDLE).with_interval(IDLE / 3).with_retries(4);
        socket.set_tcp_keepalive(&probes).map_err(io)?;
        socket.set_tcp_user_timeout(Some(GONE)).map_err(io)?;
        let cut = Cut::of(&stream).map_err(io)?;
        Ok((stream, cut))
    }

    /// Reads what is needed to log in.
    pub(super) async fn words(&self) -> Result<Words, HostError> {
        let read = async |place: &Option<Place>| match place {
            Some(place) => place
                .read("host", "log in")
                .await
                .map(Some)
                .map_err(|e| HostError { next: e.next.clone(), ..self.failed(e.answer) }),
            None => Ok(None),
        };
        Ok(Words { key: read(&self.key).await?, passphrase: read(&self.passphrase).await? })
    }

    /// Logs in over a connection; blocks. `kind` is an index of [`KINDS`].
    pub(super) fn log_in(&self, stream: TcpStream, words: &Words, kind: usize) -> Result<Session, Refused> {
        let failed =
            |what: &str, e: ssh2::Error| Refused::Other(self.failed(format!("{what}: {}", e.message())));
        let mut session = Session::new().map_err(|e| failed("cannot begin", e))?;
        session.set_timeout(u32::try_from(self.limit.as_millis()).unwrap_or(u32::MAX));
        session.set_tcp_stream(stream);
        let kinds = KINDS.get(kind).copied().unwrap_or_default();
        session.method_pref(MethodType::HostKey, kinds).map_err(|e| failed("cannot begin", e))?;
        session.handshake().map_err(|e| {
            let error = self.failed(format!("its ssh server and we come to no terms: {}", e.message()));
            // -5: it has no key of this kind.
            match e.code() {
                ssh2::ErrorCode::Session(-5) => Refused::Key(error.permanent()),
                // -9 and -30: nothing came in time.
                ssh2::ErrorCode::Session(-9 | -30) => {
                    let late = format!("its ssh server gave no answer within {} s", self.limit.as_secs_f32());
                    Refused::Other(self.failed(late).next("does it hang?"))
                }
                _ => Refused::Other(error),
            }
        })?;
        self.check_key(&session)?;
        self.authenticate(&session, words).map_err(Refused::Other)?;
        Ok(session)
    }

    fn check_key(&self, session: &Session) -> Result<(), Refused> {
        let Some((key, kind)) = session.host_key() else {
            return Err(Refused::Other(self.failed("it showed no key")));
        };
        let print = STANDARD_NO_PAD.encode(Sha256::digest(key));
        let shown = format!("{} {}", name_of(kind), STANDARD.encode(key));
        let unknown = |what: &str| self.failed(format!("{what} (it showed SHA256:{print})")).permanent();
        match &self.trust {
            Trust::Key(known) if known == key => Ok(()),
            Trust::Key(_) => {
                let next = "if the host was set up anew, write the new key; else somebody stands between";
                Err(Refused::Key(unknown("its key is not the one that `host_key` says").next(next)))
            }
            Trust::Files(files) => {
                let mut known = session
                    .known_hosts()
                    .map_err(|e| Refused::Other(self.failed(format!("known hosts: {}", e.message()))))?;
                for file in files.iter().filter(|file| file.exists()) {
                    known.read_file(file, KnownHostFileKind::OpenSSH).map_err(|e| {
                        let what = format!("{} cannot be read: {}", file.display(), e.message());
                        Refused::Other(self.failed(what))
                    })?;
                }
                let (host, port) = &self.target;
                match known.check_port(host, *port, key) {
                    CheckResult::Match => Ok(()),
                    CheckResult::Mismatch => {
                        let what = format!("its key is not the one in {}", self.trust.files());
                        let next = "if the host was set up anew, put the new key there; else somebody stands between";
                        Err(Refused::Key(unknown(&what).next(next)))
                    }
                    CheckResult::NotFound | CheckResult::Failure => {
                        let what = format!("its key is not in {}", self.trust.files());
                        let next = format!("if that is its key, write `host_key = \"{shown}\"`");
                        Err(Refused::Key(unknown(&what).next(next)))
                    }
                }
            }
        }
    }

    fn authenticate(&self, session: &Session, words: &Words) -> Result<(), HostError> {
        let user = &self.user;
        let tried = match &words.key {
            Some(Secret(key)) => {
                let passphrase = words.passphrase.as_ref().map(|Secret(text)| text.as_str());
                // The line end that belongs to the file's last line.
                session.userauth_pubkey_memory(user, None, &format!("{key}\n"), passphrase)
            }
            None => session.userauth_agent(user),
        };
        tried.map_err(|e| {
            let how = if words.key.is_some() { "the key" } else { "the daemon's ssh agent" };
            let error = self.failed(format!("it does not let {user} in with {how}: {}", e.message()));
            match e.code() {
                // Timeouts and lost connections pass.
                ssh2::ErrorCode::Session(-9 | -13 | -43 | -7 | -37) => error,
                _ => error
                    .permanent()
                    .next(format!("is the public key in ~{user}/.ssh/authorized_keys there?")),
            }
        })
    }
}

fn name_of(kind: HostKeyType) -> &'static str {
    match kind {
        HostKeyType::Rsa => "ssh-rsa",
        HostKeyType::Dss => "ssh-dss",
        HostKeyType::Ecdsa256 => "ecdsa-sha2-nistp256",
        HostKeyType::Ecdsa384 => "ecdsa-sha2-nistp384",
        HostKeyType::Ecdsa521 => "ecdsa-sha2-nistp521",
        HostKeyType::Ed25519 => "ssh-ed25519",
        HostKeyType::Unknown => "unknown",
    }
}
