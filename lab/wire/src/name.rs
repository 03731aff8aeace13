//! Names that people choose and that travel everywhere: of machines and of users.
//!
//! Both are checked once, where they enter, so that nothing behind has to ask again whether a name is safe in a path, a
//! topic, a log line or a terminal.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest machine name, in bytes: a DNS label, since most labs name machines after hosts.
pub const MAX_MACHINE_NAME: usize = 63;
/// Longest user name, in bytes (`ci/…` accounts and mail addresses fit).
pub const MAX_USER_NAME: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a {what} name cannot be empty")]
    Empty {
        /// `machine` or `user`.
        what: &'static str,
    },
    /// More bytes than allowed.
    #[error("this {what} name has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// `machine` or `user`.
        what: &'static str,
        /// Length found, in bytes.
        len: usize,
        /// Longest allowed, in bytes.
        max: usize,
    },
    /// A character that is not allowed, or not allowed in front.
    #[error("{found:?} at position {at} is not allowed in a {what} name; allowed: {allowed}")]
    Character {
        /// `machine` or `user`.
        what: &'static str,
        /// The character.
        found: char,
        /// Its byte position, from 0.
        at: usize,
        /// What may stand there, for people.
        allowed: &'static str,
    },
}

struct Rules {
    what: &'static str,
    max: usize,
    extra: &'static str,
    allowed: &'static str,
}

const MACHINE: Rules = Rules {
    what: "machine",
    max: MAX_MACHINE_NAME,
    extra: "._-",
    allowed: "a letter or digit first, then letters, digits, '.', '_', '-'",
};
const USER: Rules = Rules {
    what: "user",
    max: MAX_USER_NAME,
    extra: "._-@+",
    allowed: "a letter or digit first, then letters, digits, '.', '_', '-', '@', '+'",
};

impl Rules {
    fn check(&self, text: &str) -> Result<(), NameError> {
        let what = self.what;
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if text.len() > self.max {
            return Err(NameError::TooLong { what, len: text.len(), max: self.max });
        }
        for (at, found) in text.char_indices() {
            let ok = found.is_ascii_alphanumeric() || (at > 0 && self.extra.contains(found));
            if !ok {
                return Err(NameError::Character { what, found, at, allowed: self.allowed });
            }
        }
        Ok(())
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $rules:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and takes it as a name.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or holds a character that is not allowed.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $rules.check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `pad` so that `{:<12}` lines up columns.
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Sound because `Hash`, `Eq` and `Ord` are those of the text itself.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .max_length(Some($rules.max))
                    .description(Some($rules.allowed))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

name_type!(
    /// The name of a machine: `[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}`. Cheap to clone.
    MachineName,
    MACHINE
);
name_type!(
    /// The name of a user or of a CI account: `[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,127}`. Cheap to clone.
    UserName,
    USER
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_taken() {
        for good in ["imx8-01", "srv01", "a", "PC.lab_3", "0x", &"m".repeat(63)] {
            assert_eq!(MachineName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(UserName::new("anna+ci@lab.example").unwrap(), "anna+ci@lab.example");
    }

    #[test]
    fn names_that_could_leave_a_path_or_a_line_are_refused() {
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a\n", "a\0", "ä", "a@b", "$(x)", &"m".repeat(64)] {
            assert!(MachineName::new(bad).is_err(), "{bad:?} was taken");
        }
        for bad in ["", "@", "-a", "a/b", "a b", "a\u{1b}[0m"] {
            assert!(UserName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_error_names_the_character_and_its_place() {
        let error = MachineName::new("imx8/01").unwrap_err();
        assert!(
            error.to_string().starts_with("'/' at position 4 is not allowed in a machine name"),
            "{error}"
        );
    }

    #[test]
    fn json_is_the_text_and_is_checked() {
        let name: MachineName = serde_json::from_str("\"srv17\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"srv17\"");
        assert!(serde_json::from_str::<MachineName>("\"a/b\"").is_err());
        // An escaped text cannot be borrowed; it must still be read.
        assert_eq!(serde_json::from_str::<MachineName>("\"srv\\u0031\"").unwrap(), "srv1");
    }

    #[test]
    fn maps_are_looked_up_by_text() {
        let map = std::collections::BTreeMap::from([(MachineName::new("b").unwrap(), 1)]);
        assert_eq!(map.get("b"), Some(&1));
    }
}
