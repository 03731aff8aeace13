//! What is wrong with an inventory: all of it at once, each with its place, what was expected and the nearest word.

use std::collections::HashSet;
use std::fmt;

use pitstop_wire::text::one_line;
use serde::Serialize;

use super::model::Place;
use super::secret::masked;
use super::source::{Loc, SourceMap};

/// More errors than this are counted, not listed.
const MAX_ERRORS: usize = 100;
/// Longest source line that is shown whole, in characters.
const MAX_LINE: usize = 160;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InventoryError {
    /// Where it begins.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What could stand there.
    pub expected: Option<String>,
    /// The known word nearest to the one written.
    pub nearest: Option<String>,
    /// Other places that have to do with it, and how.
    pub also: Vec<(Place, String)>,
    /// The source line, with secrets and control characters masked; empty when the file could not be read.
    pub line: String,
    /// First character of the line that is underlined, from 0, and how many are.
    pub underline: (usize, usize),
}

/// Everything that is wrong with an inventory, in the order of the files. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InventoryErrors {
    /// The errors.
    pub errors: Vec<InventoryError>,
    /// How many more there are.
    pub more: usize,
}

impl std::error::Error for InventoryErrors {}

impl fmt::Display for InventoryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        let total = self.errors.len() + self.more;
        write!(f, "{total} {} in the inventory", if total == 1 { "error" } else { "errors" })?;
        if self.more > 0 {
            write!(f, ", the first {} of them above", self.errors.len())?;
        }
        f.write_str("; nothing was changed")
    }
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.place.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "error: {}", self.what)?;
        writeln!(f, "{margin}--> {}", self.place)?;
        if !self.line.is_empty() {
            let (start, len) = self.underline;
            writeln!(f, "{margin} |\n{number} | {}", self.line)?;
            writeln!(f, "{margin} | {}{}", " ".repeat(start), "^".repeat(len.max(1)))?;
        }
        for (place, how) in &self.also {
            writeln!(f, "{margin} = {how}: {place}")?;
        }
        if let Some(expected) = &self.expected {
            writeln!(f, "{margin} = expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            writeln!(f, "{margin} = did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

/// An error on its way: places are still bytes.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    at: Loc,
    what: String,
    expected: Option<String>,
    nearest: Option<String>,
    also: Vec<(Loc, String)>,
}

impl Problem {
    /// Whatever the file holds, what is quoted of it stays in one line and steers no terminal.
    pub fn new(at: Loc, what: impl Into<String>) -> Self {
        Self { at, what: one_line(&what.into()), expected: None, nearest: None, also: Vec::new() }
    }

    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(one_line(&expected.into()));
        self
    }

    /// Says which of the candidates the word may have meant, if one is near enough.
    pub fn nearest<'a>(mut self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        self.nearest = pitstop_wire::nearest(word, candidates).map(one_line);
        self
    }

    pub fn also(mut self, at: Loc, how: impl Into<String>) -> Self {
        self.also.push((at, one_line(&how.into())));
        self
    }
}

/// The problems found so far. What a class does wrong is found again in each of its machines and kept once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    seen: HashSet<(Loc, String)>,
}

impl Problems {
    pub fn raise(&mut self, problem: Problem) {
        if self.seen.insert((problem.at, problem.what.clone())) {
            self.list.push(problem);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn finish(mut self, sources: &SourceMap) -> InventoryErrors {
        self.list.sort_by_key(|problem| problem.at);
        let more = self.list.len().saturating_sub(MAX_ERRORS);
        self.list.truncate(MAX_ERRORS);
        let errors = self.list.into_iter().map(|problem| resolve(problem, sources)).collect();
        InventoryErrors { errors, more }
    }
}

fn resolve(problem: Problem, sources: &SourceMap) -> InventoryError {
    let (line, range) = sources.line(problem.at);
    let (line, underline) = show(line, masked(sources.before(problem.at), line), range.start, range.end);
    InventoryError {
        place: sources.place(problem.at),
        what: problem.what,
        expected: problem.expected,
        nearest: problem.nearest,
        also: problem.also.into_iter().map(|(at, how)| (sources.place(at), how)).collect(),
        line,
        underline,
    }
}

/// Prepares a line for a terminal: control characters replaced, cut to a window around what is wrong. `masked` is the
/// line with as many characters.
fn show(line: &str, masked: Vec<char>, from: usize, to: usize) -> (String, (usize, usize)) {
    let chars_before = |byte: usize| line.get(..byte).map_or(0, |before| before.chars().count());
    let (start, end) = (chars_before(from), chars_before(to));
    let shown: Vec<char> = masked.into_iter().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let skip = if shown.len() <= MAX_LINE { 0 } else { start.saturating_sub(MAX_LINE / 2) };
    let window: String = shown.iter().skip(skip).take(MAX_LINE).collect();
    let len = (end - start).min(MAX_LINE.saturating_sub(start - skip));
    (window.trim_end().to_owned(), (start - skip, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_of_a_file_steers_no_terminal() {
        let at = Loc { file: 0, start: 0, end: 0 };
        let problem =
            Problem::new(at, "`\t\u{1b}]52;c`").expected("a\nb").also(at, "c\r").nearest("a\tb", ["a\tc"]);
        assert_eq!(problem.what, "`  ]52;c`");
        assert_eq!((problem.expected.as_deref(), problem.nearest.as_deref()), (Some("a b"), Some("a c")));
        assert_eq!(problem.also[0].1, "c ");
    }

    #[test]
    fn a_long_line_is_cut_around_the_error() {
        let line = format!("{}WRONG{}", "a".repeat(500), "b".repeat(500));
        let (shown, (start, len)) = show(&line, line.chars().collect(), 500, 505);
        assert_eq!(shown.chars().skip(start).take(len).collect::<String>(), "WRONG");
        assert!(shown.chars().count() <= MAX_LINE);
    }

    #[test]
    fn a_source_line_cannot_move_the_cursor() {
        let line = "x = \u{1b}[2J\u{9b}1m";
        let (shown, _) = show(line, line.chars().collect(), 0, 1);
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}
