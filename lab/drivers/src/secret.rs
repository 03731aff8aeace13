//! Secrets, which the inventory only says where to find.
//!
//! They are read each time they are needed: one that was changed is the new
//! one at the next try, and none lies about in memory meanwhile.

use crate::error::DriverError;
use pitstop_core::inventory::DriverSpec;
use pitstop_wire::agent::Secret;
use serde_json::Value;

/// Largest secret that is read, bytes.
const MAX: u64 = 64 << 10;

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
    /// It is not there or empty; permanent, and without a byte of it.
    pub fn read(&self, driver: &'static str, attempted: &str) -> Result<Secret, DriverError> {
        let failed =
            |what: String, next: &str| DriverError::new(driver, attempted, what).permanent().next(next);
        let text = match self {
            Self::File(path) => read_file(path).map_err(|e| {
                failed(
                    format!("the secret in {path} cannot be read: {e}"),
                    "the daemon's user must be able to read it",
                )
            })?,
            Self::Env(name) => std::env::var(name).map_err(|e| {
                failed(
                    format!("the secret in ${name} cannot be read: {e}"),
                    "set it where the daemon is started",
                )
            })?,
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            let place = match self {
                Self::File(path) => path.clone(),
                Self::Env(name) => format!("${name}"),
            };
            return Err(failed(format!("the secret in {place} is empty"), "put it there"));
        }
        Ok(Secret(text.to_owned()))
    }
}

fn read_file(path: &str) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    // Somebody may name a device by mistake.
    std::fs::File::open(path)?.take(MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::driver;
    use serde_json::json;

    #[test]
    fn a_secret_is_found_where_the_inventory_says_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("word");
        std::fs::write(&file, "hunter2\r\n").unwrap();
        let spec = driver("x", json!({"password": {"file": file}, "other": {"env": "PITSTOP_NO_SUCH_WORD"}}));
        let secret = Place::of(&spec, "password").unwrap().read("x", "look").unwrap();
        assert_eq!(secret.0, "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(Place::of(&spec, "missing").is_none());
        let error = Place::of(&spec, "other").unwrap().read("x", "look").unwrap_err();
        assert!(error.permanent && error.answer.contains("$PITSTOP_NO_SUCH_WORD"), "{error}");
        std::fs::write(&file, "\n").unwrap();
        let error = Place::of(&spec, "password").unwrap().read("x", "look").unwrap_err();
        assert!(error.answer.contains("empty"), "{error}");
        // A file that is no text must not be quoted in the error.
        std::fs::write(&file, b"hunter2\xff").unwrap();
        let error = Place::of(&spec, "password").unwrap().read("x", "look").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
