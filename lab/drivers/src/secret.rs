//! Secrets, which the inventory only says where to find.
//!
//! They are read each time they are needed: one that was changed is the new
//! one at the next try, and none lies about in memory meanwhile.

use crate::error::DriverError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pitstop_core::inventory::DriverSpec;
use pitstop_wire::agent::Secret;
use serde_json::Value;
use std::time::Duration;

/// Largest secret that is read, bytes.
const MAX: u64 = 64 << 10;
/// How long a file may take.
const READ: Duration = Duration::from_secs(5);

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file; a line end behind it is not part of it.
    File(String),
    /// In an environment variable of the daemon.
    Env(String),
}

impl Place {
    /// What a field of kind [`Secret`](pitstop_core::inventory::catalogue::FieldKind::Secret) says.
    pub fn of(spec: &DriverSpec, field: &str) -> Option<Self> {
        let reference = spec.fields.get(field)?;
        let text = |key: &str| reference.get(key).and_then(Value::as_str).map(str::to_owned);
        text("file").map(Self::File).or_else(|| text("env").map(Self::Env))
    }

    /// Reads it. `attempted` is what it was needed for.
    ///
    /// # Errors
    /// It is not there or empty, which may be because it is just being
    /// written anew. Without a byte of it.
    pub async fn read(&self, driver: &'static str, attempted: &str) -> Result<Secret, DriverError> {
        let (place, next) = match self {
            Self::File(path) => (path.clone(), "the daemon's user must be able to read it"),
            Self::Env(name) => (format!("${name}"), "set it where the daemon is started"),
        };
        let failed = |what: &dyn std::fmt::Display| {
            DriverError::new(driver, attempted, format!("the secret in {place} {what}")).next(next)
        };
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|e| failed(&format!("cannot be read: {e}")))?,
            Self::File(path) => {
                // A file may be on a disk that hangs; nothing else must.
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path, MAX));
                match tokio::time::timeout(READ, read).await {
                    Ok(Ok(Ok(text))) => text,
                    Ok(Ok(Err(e))) => return Err(failed(&format!("cannot be read: {e}"))),
                    Ok(Err(e)) => return Err(failed(&format!("cannot be read: {e}"))),
                    Err(_) => return Err(failed(&format!("cannot be read within {} s", READ.as_secs()))),
                }
            }
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(failed(&"is empty"));
        }
        Ok(Secret(text.to_owned()))
    }
}

/// What a device said, without the password that it was sent: some repeat in
/// their errors whatever they were asked, the address with all that is in it
/// or a header.
pub fn unsaid(text: &str, user: &str, Secret(password): &Secret) -> String {
    if password.is_empty() {
        return text.to_owned();
    }
    let in_query = utf8_percent_encode(password, NON_ALPHANUMERIC).to_string();
    let in_header = STANDARD.encode(format!("{user}:{password}"));
    text.replace(&in_query, "…").replace(&in_header, "…").replace(password, "…")
}

/// The text of a file, of which no more than `max` bytes are looked at.
pub fn read_file(path: &str, max: u64) -> std::io::Result<String> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // Somebody may name a pipe by mistake, which would be waited for.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(max).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::driver;
    use serde_json::json;

    #[tokio::test]
    async fn a_secret_is_found_where_the_inventory_says_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("word");
        std::fs::write(&file, "hunter2\r\n").unwrap();
        let spec = driver("x", json!({"password": {"file": file}, "other": {"env": "PITSTOP_NO_SUCH_WORD"}}));
        let secret = Place::of(&spec, "password").unwrap().read("x", "look").await.unwrap();
        assert_eq!(secret.0, "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(Place::of(&spec, "missing").is_none());
        let error = Place::of(&spec, "other").unwrap().read("x", "look").await.unwrap_err();
        assert!(error.answer.contains("$PITSTOP_NO_SUCH_WORD"), "{error}");
        std::fs::write(&file, "\n").unwrap();
        let error = Place::of(&spec, "password").unwrap().read("x", "look").await.unwrap_err();
        assert!(error.answer.contains("empty"), "{error}");
        // A file that is no text must not be quoted in the error.
        std::fs::write(&file, b"hunter2\xff").unwrap();
        let error = Place::of(&spec, "password").unwrap().read("x", "look").await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        // A pipe by mistake is refused, and not waited for.
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let error = Place::File(pipe.display().to_string()).read("x", "look").await.unwrap_err();
        assert!(error.answer.contains("no file"), "{error}");
    }
}
