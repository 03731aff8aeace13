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

/// `1 machine`, `5 machines`.
pub fn machines(n: usize) -> String {
    if n == 1 { "1 machine".to_owned() } else { format!("{n} machines") }
}

#[cfg(test)]
mod tests {
    use super::{machines, nearest, one_line};

    #[test]
    fn a_text_from_elsewhere_steers_no_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a [2Jb c");
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
}
