//! Numbers and secrets that name things.

use pitstop_wire::text::brief;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// A reservation, shown as `R-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReservationId(pub u64);

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R-{}", self.0)
    }
}

impl FromStr for ReservationId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.strip_prefix("R-")
            .or_else(|| s.strip_prefix("r-"))
            .and_then(|n| n.parse().ok())
            .map(Self)
            .ok_or_else(|| format!("`{}` is no reservation; they look like R-17", brief(s, 60)))
    }
}

/// Which daemon speaks: each start takes the next epoch, in a commit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Number of a record: dense, ascending, assigned in the commit.
pub type RecordNo = u64;
/// Number of a power intent, unique within its machine for ever.
pub type IntentId = u64;
/// Number of an attempt, unique within its machine for ever.
pub type AttemptNo = u64;

/// Hash of a secret; all that is ever stored of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The SHA-256 of a secret's text.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Reads the hexadecimal form an agent sends.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).ok()?;
        Some(Self(out))
    }

    /// Whether `secret` is the one, in constant time.
    pub fn matches(&self, secret: &str) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({}…)", hex::encode(&self.0[..4]))
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not a SHA-256 in hexadecimal"))
    }
}

/// Randomness that came with an event, drawn out under different labels so
/// that one event may need several secrets.
#[derive(Debug, Clone, Copy)]
pub struct Entropy(pub [u8; 32]);

impl Entropy {
    /// 128 bits in hexadecimal for what must be unique, under `label`.
    pub fn nonce(&self, label: &str) -> String {
        hex::encode(&self.draw(label)[..16])
    }

    /// 256 bits in hexadecimal for what must stay secret, under `label`.
    pub fn token(&self, label: &str) -> String {
        hex::encode(self.draw(label))
    }

    fn draw(&self, label: &str) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(self.0);
        h.update(label.as_bytes());
        h.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_read_as_it_is_shown_and_nothing_else_is_repeated_whole() {
        assert_eq!("r-17".parse::<ReservationId>().unwrap().to_string(), "R-17");
        for bad in ["", "17", "R-", "R-x", "R--1", "R-\u{1b}[2J", &"x".repeat(1000)] {
            let error = bad.parse::<ReservationId>().unwrap_err();
            assert!(error.len() < 120 && !error.contains(char::is_control), "{error:?}");
        }
    }
}
