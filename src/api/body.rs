//! Bodies of requests, read from JSON. What is wrong is said with its place and the nearest word.

use pitstop_wire::text::brief;
use pitstop_wire::{ApiError, Code};
use serde::de::DeserializeOwned;

/// Characters of a serde message that are repeated: it quotes what it does not know, whatever that is, and lists what it knows.
const LONGEST: usize = 500;

/// Reads a body.
///
/// # Errors
/// What is no JSON of this shape, as something to answer with.
pub fn read_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Nothing is the same as nothing said.
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // serde takes a list for a struct, field by field: nobody means that.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let message = "line 1, column 1 of the body: a list, expected an object";
        return Err(ApiError::new(Code::Usage, message));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let text = e.to_string();
        // serde_json ends with "at line 1 column 9"; it goes to the front.
        let what = text.split(" at line ").next().unwrap_or(&text);
        let message =
            format!("line {}, column {} of the body: {}", e.line(), e.column(), brief(what, LONGEST));
        let error = ApiError::new(Code::Usage, message);
        match did_you_mean(what) {
            Some(word) => error.hint(format!("did you mean `{word}`?")),
            None => error,
        }
    })
}

/// The known word nearest to the unknown one in a serde message: "unknown
/// field `slect`, expected one of `select`, `count`".
pub fn did_you_mean(message: &str) -> Option<&str> {
    // The unknown word is quoted as it came, backticks and all; what is known stands behind the last of these.
    let (unknown, known) = message.strip_prefix("unknown ")?.rsplit_once("`, expected ")?;
    let (_, unknown) = unknown.split_once('`')?;
    pitstop_wire::nearest(unknown, known.split('`').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_wire::api::Reserve;
    use proptest::prelude::*;

    fn refused(body: &str) -> ApiError {
        read_body::<Reserve>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn bad_bodies_are_refused_with_place_and_nearest_word() {
        let e = refused("{\"slect\": \"a\"}");
        assert_eq!(e.code, Code::Usage);
        assert!(e.message.starts_with("line 1, column "), "{}", e.message);
        assert_eq!(e.hint.as_deref(), Some("did you mean `select`?"));
        assert_eq!(refused("{\"want\": \"imag\"}").hint.as_deref(), Some("did you mean `image`?"));
        for bad in [
            "[",
            "{\"count\": -1}",
            "{\"count\": 1.5}",
            "{\"until\": \"18:00\"}",
            "null",
            "{} x",
            "\u{0}",
            "{\"count\": 1e99}",
        ] {
            assert_eq!(refused(bad).code, Code::Usage, "{bad}");
        }
    }

    #[test]
    fn a_refusal_repeats_neither_control_characters_nor_megabytes() {
        let e = refused(&format!("{{\"\\u001b[2J{}\": 1}}", "x".repeat(1 << 20)));
        assert!(e.message.len() < 1_000 && !e.message.contains(char::is_control), "{:?}", e.message);
    }

    #[test]
    fn a_backtick_in_an_unknown_field_made_its_rest_the_word_that_was_meant() {
        for field in ["`2], ` is\nx`", "selec`, expected one of `x\n`, `selec"] {
            let e = refused(&serde_json::json!({ field: 1 }).to_string());
            assert!(e.hint.as_deref().is_none_or(|hint| hint == "did you mean `select`?"), "{e:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_not_a_stack_overflow() {
        refused(&"[".repeat(200_000));
    }

    #[test]
    fn an_empty_body_says_nothing() {
        assert_eq!(read_body::<Reserve>(b"").ok(), Some(Reserve::default()));
    }

    proptest! {
        #[test]
        fn any_body_is_taken_or_refused_at_a_place_in_words(
            parts in prop::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "{", "}", "[", ":", ",", "\n", "null", "7", "\"select\"", "\"count\"", "\"until\"", "\"\\u001b\"",
                ]).prop_map(str::to_owned),
                ".",
            ], 0..12),
        ) {
            match read_body::<Reserve>(parts.concat().as_bytes()) {
                Ok(reserve) => {
                    let again = serde_json::to_vec(&reserve).unwrap();
                    prop_assert_eq!(read_body::<Reserve>(&again).unwrap(), reserve);
                }
                Err(e) => {
                    prop_assert!(e.message.starts_with("line "), "{}", e.message);
                    prop_assert!(!e.message.contains(char::is_control), "{:?}", e.message);
                }
            }
        }
    }
}
