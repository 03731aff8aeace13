//! What is wrong with a selector, and where.

use std::fmt;

/// A selector that cannot be read, or that no machine can ever match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError {
    /// The text the position counts in.
    pub input: String,
    /// First byte of what is wrong.
    pub at: usize,
    /// How many bytes are wrong; 0 where something is missing.
    pub len: usize,
    /// What is wrong.
    pub what: String,
    /// What could stand there.
    pub expected: Option<String>,
    /// The known word that is nearest to the one written.
    pub nearest: Option<String>,
}

impl SelectorError {
    pub(super) fn new(input: &str, at: usize, len: usize, what: impl Into<String>) -> Self {
        Self { input: input.to_owned(), at, len, what: what.into(), expected: None, nearest: None }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn nearest(mut self, nearest: Option<&str>) -> Self {
        self.nearest = nearest.map(str::to_owned);
        self
    }

    /// The selector with the wrong part underlined, on two lines.
    #[must_use]
    pub fn underlined(&self) -> String {
        let end = (self.at + self.len).min(self.input.len());
        let before = self.input.get(..self.at).unwrap_or_default().chars().count();
        let wrong = self.input.get(self.at..end).unwrap_or_default().chars().count().max(1);
        let shown: String = self.input.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!("{shown}\n{}{}", " ".repeat(before), "^".repeat(wrong))
    }
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {} of the FILTER)", self.what, self.at)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

impl std::error::Error for SelectorError {}
