//! Values of tags: text, or a number without a unit.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Beyond this an `f64` no longer holds every whole number, and `ram=9007199254740993` would match its neighbour.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Most digits of a number: the smallest that an inventory can say is printed with as many zeros.
const LONGEST: usize = 350;

/// A finite number. Whole numbers are exact (up to 2^53, larger ones are refused), so `ram=8` and `ram=8.0` are the same.
#[derive(Clone, Copy, PartialEq)]
pub struct Number(f64);

impl Number {
    /// Takes a number; `None` when it is not finite or too large to be exact.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        // `+ 0.0` turns -0 into 0, so that equal numbers print and hash alike.
        (value.is_finite() && value.abs() <= EXACT).then_some(Self(value + 0.0))
    }

    /// Takes a whole number; `None` when it is too large to be exact.
    #[must_use]
    pub fn from_int(value: i64) -> Option<Self> {
        #[allow(clippy::cast_precision_loss)] // what would lose precision is refused by `new`
        Self::new(value as f64).filter(|_| value.unsigned_abs() <= 1 << 53)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

// Sound: a `Number` is never NaN.
impl Eq for Number {}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Decimal digits with an optional sign and fraction; no exponent, no `inf`, no `nan`.
impl FromStr for Number {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let shape = digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.ends_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && digits.len() <= LONGEST;
        if !shape {
            return Err(());
        }
        text.parse::<f64>().ok().and_then(Self::new).ok_or(())
    }
}

/// What a tag says about a machine: `soc = "imx8mp"`, `ram = 4`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TagValue {
    /// A word. Truth values of the inventory are the words `true` and `false`.
    Text(String),
    /// A number without a unit; what it counts is said by the tag's name.
    Number(Number),
}

impl TagValue {
    /// The number, when it is one.
    #[must_use]
    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Text(_) => None,
        }
    }

    /// Whether a word written in a selector means this value.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        match self {
            Self::Text(text) => text == word,
            Self::Number(n) => word.parse() == Ok(*n),
        }
    }
}

impl From<&str> for TagValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for TagValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Number(n) => f.pad(&n.to_string()),
        }
    }
}

impl Serialize for TagValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            // A whole number leaves as one: readers of the JSON expect `8`, not `8.0`.
            #[allow(clippy::cast_possible_truncation)] // whole and within 2^53
            Self::Number(n) if n.get().fract() == 0.0 => serializer.serialize_i64(n.get() as i64),
            Self::Number(n) => serializer.serialize_f64(n.get()),
        }
    }
}

impl<'de> Deserialize<'de> for TagValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Bool(bool),
            Number(f64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Bool(truth) => Ok(Self::Text(truth.to_string())),
            Raw::Text(text) => Ok(Self::Text(text)),
            Raw::Number(n) => Number::new(n)
                .map(Self::Number)
                .ok_or_else(|| serde::de::Error::custom(format_args!("{n} is too large for a tag"))),
        }
    }
}

impl utoipa::PartialSchema for TagValue {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
        ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Number]))
            .description(Some("Text, or a number without a unit"))
            .into()
    }
}

impl utoipa::ToSchema for TagValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_or_refused() {
        assert_eq!(Number::from_int(1 << 53).map(|n| n.to_string()).as_deref(), Some("9007199254740992"));
        assert_eq!(Number::from_int((1 << 53) + 1), None);
        assert_eq!(Number::new(f64::NAN), None);
        assert_eq!(Number::new(-0.0), Number::new(0.0));
        for bad in ["", "-", "1e3", "inf", "nan", ".5", "5.", "1.2.3", "0x10", "1_000", " 1"] {
            assert!(bad.parse::<Number>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_smallest_number_is_found_by_what_is_shown_of_it() {
        for n in [1e-48, f64::MIN_POSITIVE, 5e-324, -1.234e-300] {
            let tag = TagValue::Number(Number::new(n).unwrap());
            assert!(tag.is(&tag.to_string()), "{tag}");
        }
    }

    #[test]
    fn a_fraction_comes_back_from_json_as_the_same_number() {
        let tag = TagValue::Number("900900900001070.9323531".parse().unwrap());
        assert_eq!(serde_json::from_str::<TagValue>(&serde_json::to_string(&tag).unwrap()).unwrap(), tag);
    }

    #[test]
    fn json_of_tags_is_plain() {
        let values: Vec<TagValue> = serde_json::from_str(r#"["imx8", 8, 1.5, true]"#).unwrap();
        assert_eq!(serde_json::to_string(&values).unwrap(), r#"["imx8",8,1.5,"true"]"#);
        assert!(values[1].is("8") && values[1].is("8.0") && !values[1].is("08x"));
    }
}
