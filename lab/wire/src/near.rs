//! The word that was probably meant.

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

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("dsik", ["boot", "disk"]), Some("disk"));
        assert_eq!(nearest("Bord01", ["board02", "board01"]), Some("board01"));
        assert_eq!(nearest("colour", ["disk", "ram"]), None);
        assert_eq!(nearest("", ["disk"]), None);
    }
}
