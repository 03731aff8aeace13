//! Takes typed values out of a table, raising a problem at the place of what does not fit.

use std::net::IpAddr;

use super::error::{Problem, Problems};
use super::source::Loc;
use super::tree::{Entry, Table, Val};
use super::units;

/// A table and the path it stands at.
#[derive(Clone, Copy)]
pub(super) struct Reader<'t> {
    pub table: &'t Table,
    pub path: &'t str,
}

impl<'t> Reader<'t> {
    pub fn new(table: &'t Table, path: &'t str) -> Self {
        Self { table, path }
    }

    /// Raises every key that is not one of these.
    pub fn only(&self, keys: &[&str], problems: &mut Problems) {
        for (key, entry) in self.table.iter().filter(|(key, _)| !keys.contains(&&***key)) {
            let problem = Problem::new(entry.key, format!("unknown key `{key}` in {}", self.path))
                .expected(format!("one of {}", list(keys)));
            problems.raise(problem.nearest(key, keys.iter().copied()));
        }
    }

    fn wrong(&self, entry: &Entry, key: &str, takes: &str, problems: &mut Problems) {
        let what = format!("`{key}` in {} takes {takes}, not {}", self.path, entry.node.kind());
        problems.raise(Problem::new(entry.node.at, what));
    }

    pub fn text(&self, key: &str, problems: &mut Problems) -> Option<(&'t str, Loc)> {
        let entry = self.table.get(key)?;
        if let Val::Text(text) = &entry.node.value {
            if !text.is_empty() && !text.contains('\0') {
                return Some((text, entry.node.at));
            }
            problems.raise(Problem::new(
                entry.node.at,
                format!("`{key}` in {} is empty or holds a zero byte", self.path),
            ));
            return None;
        }
        self.wrong(entry, key, "text", problems);
        None
    }

    pub fn string(&self, key: &str, problems: &mut Problems) -> Option<String> {
        self.text(key, problems).map(|(text, _)| text.to_owned())
    }

    pub fn flag(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        let entry = self.table.get(key)?;
        if let Val::Bool(truth) = entry.node.value {
            return Some(truth);
        }
        self.wrong(entry, key, "`true` or `false`", problems);
        None
    }

    /// A whole number from `min` up.
    pub fn count(&self, key: &str, min: u32, problems: &mut Problems) -> Option<u32> {
        let entry = self.table.get(key)?;
        let Val::Int(int) = entry.node.value else {
            self.wrong(entry, key, "a whole number", problems);
            return None;
        };
        let fits = u32::try_from(int).ok().filter(|n| *n >= min);
        if fits.is_none() {
            let what = format!("`{key}` in {} cannot be {int}", self.path);
            problems
                .raise(Problem::new(entry.node.at, what).expected(format!("a whole number from {min} up")));
        }
        fits
    }

    /// Text with a unit, read by one of [`units`].
    fn unit<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
        example: &str,
        problems: &mut Problems,
    ) -> Option<T> {
        let entry = self.table.get(key)?;
        unit(entry, &format!("`{key}` in {}", self.path), read, example, problems)
    }

    pub fn duration(&self, key: &str, problems: &mut Problems) -> Option<u64> {
        self.unit(key, units::duration_ms, "a duration with its unit, `\"30s\"`", problems)
    }

    pub fn size(&self, key: &str, problems: &mut Problems) -> Option<u64> {
        self.unit(key, units::bytes, "a size with its unit, `\"400GB\"`", problems)
    }

    pub fn hours(&self, key: &str, problems: &mut Problems) -> Option<String> {
        self.unit(key, units::hours, "hours of a day, `\"19:00-08:00\"`", problems)
    }

    pub fn address(&self, key: &str, problems: &mut Problems) -> Option<IpAddr> {
        let read = |text: &str| text.parse().map_err(|_| ADDRESS.to_owned());
        self.unit(key, read, ADDRESS, problems)
    }

    /// One of some words.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let (text, at) = self.text(key, problems)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let problem = Problem::new(at, format!("`{key}` in {} cannot be `{text}`", self.path));
            problems.raise(problem.expected(format!("one of {}", list(&known))).nearest(text, known));
        }
        found
    }

    /// The name of something that is declared elsewhere.
    pub fn reference<'n>(
        &self,
        key: &str,
        section: &str,
        names: impl IntoIterator<Item = &'n str> + Clone,
        problems: &mut Problems,
    ) -> Option<String> {
        let (text, at) = self.text(key, problems)?;
        if names.clone().into_iter().any(|name| name == text) {
            return Some(text.to_owned());
        }
        let problem = Problem::new(at, format!("there is no {section} `{text}`"));
        problems.raise(problem.expected(format!("the name of a `[{section}.NAME]`")).nearest(text, names));
        None
    }

    pub fn texts(&self, key: &str, problems: &mut Problems) -> Option<Vec<(&'t str, Loc)>> {
        let entry = self.table.get(key)?;
        let Val::List(items) = &entry.node.value else {
            self.wrong(entry, key, "a list of texts", problems);
            return None;
        };
        let texts: Option<Vec<_>> = items.iter().map(|item| Some((item.as_text()?, item.at))).collect();
        if texts.is_none() {
            let item = items.iter().find(|item| item.as_text().is_none())?;
            problems.raise(Problem::new(
                item.at,
                format!("`{key}` in {} takes a list of texts, not of {}", self.path, item.kind()),
            ));
        }
        texts
    }

    pub fn inner(&self, key: &str, problems: &mut Problems) -> Option<&'t Table> {
        let entry = self.table.get(key)?;
        let table = entry.node.as_table();
        if table.is_none() {
            self.wrong(entry, key, "a table", problems);
        }
        table
    }
}

const ADDRESS: &str = "an IP address, `\"192.0.2.1\"`";

/// A value with a unit; `what` names it in errors.
pub(super) fn unit<T>(
    entry: &Entry,
    what: &str,
    read: impl Fn(&str) -> Result<T, String>,
    example: &str,
    problems: &mut Problems,
) -> Option<T> {
    match &entry.node.value {
        Val::Text(text) => match read(text) {
            Ok(value) => return Some(value),
            Err(expected) => {
                let shown: String = text.chars().take(40).collect();
                problems.raise(
                    Problem::new(entry.node.at, format!("{what} cannot be `{shown}`")).expected(expected),
                );
            }
        },
        Val::Int(n) => problems
            .raise(Problem::new(entry.node.at, format!("{what} is {n} without a unit")).expected(example)),
        _ => problems.raise(
            Problem::new(entry.node.at, format!("{what} cannot be {}", entry.node.kind())).expected(example),
        ),
    }
    None
}

/// Words for people: `` `a`, `b` ``.
pub(super) fn list<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| format!("`{}`", word.as_ref())).collect::<Vec<_>>().join(", ")
}
