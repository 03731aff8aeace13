//! Wall time on the wire.

use crate::text::brief;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A moment by the wall clock, in milliseconds since 1970; RFC 3339 in UTC
/// on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// Now, by this computer's clock.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds from `earlier` to this moment; 0 if that is later.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    fn timestamp(self) -> jiff::Timestamp {
        let end = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(end)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| {
            let text = brief(text, 60);
            format!("`{text}` is no moment; they look like 2026-11-22T14:21:00Z, with an offset or Z")
        })?;
        Ok(Self(moment.as_millisecond()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2026-11-22T14:21:00.000Z"])
            .into()
    }
}

impl utoipa::ToSchema for Time {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_and_come_back() {
        let t = Time(1_795_357_260_250);
        assert_eq!(t.to_string(), "2026-11-22T14:21:00.250Z");
        assert_eq!(serde_json::from_str::<Time>(&serde_json::to_string(&t).unwrap()).unwrap(), t);
        assert_eq!("2026-11-22T15:21:00.25+01:00".parse::<Time>().unwrap(), t);
    }

    #[test]
    fn a_time_without_offset_is_refused_since_nobody_knows_whose_it_is() {
        assert!("2026-11-22T15:21:00".parse::<Time>().is_err());
        assert!("18:00".parse::<Time>().is_err());
        assert!(!"\u{1b}[2J".parse::<Time>().unwrap_err().contains(char::is_control));
    }

    #[test]
    fn times_out_of_range_are_clamped_not_a_panic() {
        assert!(!Time(i64::MAX).to_string().is_empty());
        assert!(!Time(i64::MIN).to_string().is_empty());
        assert_eq!(Time(i64::MIN).since(Time(i64::MAX)), 0);
    }
}
