//! The selector: one small, shell-safe grammar for choosing machines, the same on the command line, in the dashboard, in
//! the API and in CI plugins.
//!
//! ```text
//! soc=imx8,imx9 ram=8.. rack!=B2 clean=proven imx8-01
//! ```
//!
//! Terms are separated by blanks and must all hold.
//!
//! | term | holds when |
//! |---|---|
//! | `key=a,b` | the tag is one of the values |
//! | `key!=a,b` | the tag is none of them, or is not there |
//! | `ram=8..` `ram=..4` `ram=4..8` | the number is in the range, ends included; ranges and values mix: `ram=4,16..` |
//! | `ram>=8` `ram<=4` `ram>8` `ram<4` | the same for people who quote their shell arguments |
//! | `word` | some tag has this value, or the machine has this name |
//!
//! The keys `name`, `state`, `clean`, `health` and `holder` ask for what pitstop knows, not for tags. Values that hold
//! blanks or one of `, = ! < >` stand in double quotes: `rack="row 3"`.

mod check;
mod error;
mod near;
mod parse;
mod value;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use check::{Known, KnownTag};
pub use error::SelectorError;
pub use near::{NearMisses, Relaxed};
pub use value::{Number, TagValue};

/// Longest selector that somebody may write, in bytes.
pub const MAX_SELECTOR: usize = 1024;

/// Longest canonical form, in bytes. It may be longer than what was written: `a>=8` becomes `a=8..`, a word that has to
/// be a name gets `name=` in front, `a..b` gets quotes. None of it doubles the length.
const MAX_CANONICAL: usize = 2 * MAX_SELECTOR;

/// Keys that are not tags; no machine of the inventory can have a tag of such a name.
pub const SPECIAL_KEYS: [&str; 5] = ["name", "state", "clean", "health", "holder"];

/// What a selector asks of a machine.
pub trait Facts {
    /// A tag of the machine.
    fn tag(&self, key: &str) -> Option<&TagValue>;
    /// Its name.
    fn name(&self) -> &str;
    /// The word behind one of [`SPECIAL_KEYS`] but `name`; `None` when there is none, such as a holder of a free machine.
    fn special(&self, key: &str) -> Option<Cow<'_, str>>;
    /// Whether any tag has this value; see [`TagValue::is`].
    fn any_tag_value(&self, word: &str) -> bool;
}

/// A parsed selector. Without terms it matches every machine.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    terms: Vec<Term>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Term {
    /// `key=…`
    In {
        /// Tag or special key.
        key: String,
        /// At least one.
        items: Vec<Item>,
    },
    /// `key!=…`
    NotIn {
        /// Tag or special key.
        key: String,
        /// At least one.
        items: Vec<Item>,
    },
    /// `key>8`: the bound itself does not count, which no range can say.
    Above {
        /// Tag.
        key: String,
        /// The bound.
        bound: Number,
    },
    /// `key<8`
    Below {
        /// Tag.
        key: String,
        /// The bound.
        bound: Number,
    },
    /// A bare word.
    Word(String),
}

/// One of the things after `=`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Item {
    /// A value.
    Value(String),
    /// A range, ends included; at least one end is there.
    Range {
        /// Smallest.
        low: Option<Number>,
        /// Largest.
        high: Option<Number>,
    },
}

/// The first term of a selector that a machine fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing<'s> {
    /// Its place in [`Selector::terms`].
    pub index: usize,
    /// The term.
    pub term: &'s Term,
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// [`SelectorError`] with the byte position in the text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text, MAX_SELECTOR)
    }

    /// Reads a selector that a shell has cut into arguments. The positions in errors count from the start of the
    /// arguments joined by one blank.
    ///
    /// # Errors
    /// As [`Selector::parse`].
    pub fn from_args<S: AsRef<str>>(args: &[S]) -> Result<Self, SelectorError> {
        let joined = args.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
        Self::parse(&joined)
    }

    /// The selector for exactly one machine.
    #[must_use]
    pub fn name(name: &crate::MachineName) -> Self {
        let items = vec![Item::Value(name.to_string())];
        Self { terms: vec![Term::In { key: "name".to_owned(), items }] }
    }

    /// For verbs that act: a bare word is an exact machine name, never a tag's value that happens to match half the
    /// lab, and several words are several machines.
    #[must_use]
    pub fn acting(self) -> Self {
        let mut names = Vec::new();
        let mut terms = Vec::new();
        for term in self.terms {
            match term {
                Term::Word(word) => names.push(Item::Value(word)),
                other => terms.push(other),
            }
        }
        if !names.is_empty() {
            terms.insert(0, Term::In { key: "name".to_owned(), items: names });
        }
        Self { terms }
    }

    /// Its terms, in the order written.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Whether it matches every machine.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the machine fulfils every term.
    #[must_use]
    pub fn matches(&self, facts: &dyn Facts) -> bool {
        self.terms.iter().all(|term| term.holds(facts))
    }

    /// Like [`Selector::matches`], saying which term fails first.
    ///
    /// # Errors
    /// That term.
    pub fn explain(&self, facts: &dyn Facts) -> Result<(), Failing<'_>> {
        let failing = self.terms.iter().enumerate().find(|(_, term)| !term.holds(facts));
        failing.map_or(Ok(()), |(index, term)| Err(Failing { index, term }))
    }
}

impl Term {
    /// The key; of a bare word the word itself.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::In { key, .. }
            | Self::NotIn { key, .. }
            | Self::Above { key, .. }
            | Self::Below { key, .. } => key,
            Self::Word(word) => word,
        }
    }

    /// Whether a machine fulfils it.
    #[must_use]
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        match self {
            Self::In { key, items } => any_item(facts, key, items),
            Self::NotIn { key, items } => !any_item(facts, key, items),
            Self::Above { key, bound } => number(facts, key).is_some_and(|n| n > *bound),
            Self::Below { key, bound } => number(facts, key).is_some_and(|n| n < *bound),
            Self::Word(word) => facts.name() == word || facts.any_tag_value(word),
        }
    }
}

fn any_item(facts: &dyn Facts, key: &str, items: &[Item]) -> bool {
    if SPECIAL_KEYS.contains(&key) {
        let word = if key == "name" { Some(Cow::Borrowed(facts.name())) } else { facts.special(key) };
        return word
            .is_some_and(|word| items.iter().any(|item| matches!(item, Item::Value(v) if *v == word)));
    }
    facts.tag(key).is_some_and(|tag| items.iter().any(|item| item.takes(tag)))
}

fn number(facts: &dyn Facts, key: &str) -> Option<Number> {
    facts.tag(key).and_then(TagValue::number)
}

impl Item {
    fn takes(&self, tag: &TagValue) -> bool {
        match self {
            Self::Value(value) => tag.is(value),
            Self::Range { low, high } => tag
                .number()
                .is_some_and(|n| low.is_none_or(|low| low <= n) && high.is_none_or(|high| n <= high)),
        }
    }
}

/// The canonical form: parsing it gives an equal selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{term}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, sign, items) = match self {
            Self::In { key, items } => (key, "=", items),
            Self::NotIn { key, items } => (key, "!=", items),
            Self::Above { key, bound } => return write!(f, "{key}>{bound}"),
            Self::Below { key, bound } => return write!(f, "{key}<{bound}"),
            Self::Word(word) => return write_value(f, word),
        };
        write!(f, "{key}{sign}")?;
        for (index, item) in items.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write_value(f, value),
            Self::Range { low, high } => {
                low.map_or(Ok(()), |low| write!(f, "{low}"))?;
                f.write_str("..")?;
                high.map_or(Ok(()), |high| write!(f, "{high}"))
            }
        }
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    if parse::needs_quotes(value) { write!(f, "\"{value}\"") } else { f.write_str(value) }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The canonical form of a selector that was accepted once: a reservation with it stands in the database.
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        parse::selector(&text, MAX_CANONICAL).map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Selector {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .max_length(Some(MAX_SELECTOR))
            .description(Some("Terms that must all hold: `soc=imx8,imx9 ram=8.. rack!=B2 clean=proven`"))
            .examples(["soc=imx8 ram=8.."])
            .into()
    }
}

impl utoipa::ToSchema for Selector {}

#[cfg(test)]
mod tests;
