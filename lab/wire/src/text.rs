//! Words for people, alike wherever they are said.

/// The nearest of some words, where one is near enough to be worth saying.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    words
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A text in one line, without what would steer a terminal: machines and
/// other people may have written it.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The beginning of a text in one line, at most `most` characters of it: for errors that quote what somebody sent, who
/// may have sent megabytes.
pub fn brief(text: &str, most: usize) -> String {
    let mut chars = text.chars();
    let begin: String = chars.by_ref().take(most).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    one_line(&begin) + more
}

/// `1 machine`, `5 machines`.
pub fn machines(n: usize) -> String {
    if n == 1 { "1 machine".to_owned() } else { format!("{n} machines") }
}

#[cfg(test)]
mod tests {
    use super::{brief, machines, nearest, one_line};
    use proptest::prelude::*;

    #[test]
    fn a_text_from_elsewhere_steers_no_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }

    #[test]
    fn what_is_quoted_is_short() {
        assert_eq!(brief("ä\u{9b}bc", 4), "ä bc");
        assert_eq!(brief("äbcde", 4), "äbcd…");
    }

    #[test]
    fn one_machine_is_not_machines() {
        assert_eq!((machines(0), machines(1)), ("0 machines".to_owned(), "1 machine".to_owned()));
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("dsik", ["boot", "disk"]), Some("disk"));
        assert_eq!(nearest("Bord01", ["board02", "board01"]), Some("board01"));
        assert_eq!(nearest("colour", ["disk", "ram"]), None);
        assert_eq!(nearest("", ["disk"]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_said_becomes_one_line_once(text in any::<String>(), most in 0_usize..40) {
            let line = one_line(&text);
            prop_assert!(!line.contains(char::is_control));
            prop_assert_eq!(one_line(&line), line.clone());
            let begin = brief(&text, most);
            prop_assert!(begin.chars().count() <= most + 1);
            prop_assert!(line.starts_with(begin.strip_suffix('…').unwrap_or(&begin)));
        }
    }
}
