//! Where in its files an inventory said what, and in which words: for people. Neither makes two inventories different.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::secret::names_a_secret;
use super::tree::{Table, Val};
use super::units;

/// Longest value that is shown, in characters.
const MAX_SHOWN: usize = 80;
/// What stands for a table without keys.
const EMPTY: &str = "{}";

/// A place in a file; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub col: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.col)
    }
}

/// Where one value was set; nowhere where no file names it. Like [`Sources`], it never makes a difference.
#[derive(Debug, Clone, Default)]
pub struct Said(pub Option<Place>);

impl PartialEq for Said {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Said {}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(place) => place.fmt(f),
            None => f.write_str("no file"),
        }
    }
}

/// Where a machine and its keys were set. Places never make two machines different: a moved line changes nothing.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The section of the machine, or of the range it is in.
    pub machine: Place,
    /// The section of its class.
    pub class: Option<Place>,
    /// What it says there.
    pub words: Words,
    /// Sorted by path.
    keys: Box<[(Arc<str>, Place)]>,
}

impl PartialEq for Sources {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Sources {
    /// Takes the places of keys, sorted by dotted path.
    pub(super) fn new(
        machine: Place,
        class: Option<Place>,
        keys: Vec<(Arc<str>, Place)>,
        words: Words,
    ) -> Self {
        Self { machine, class, words, keys: keys.into_boxed_slice() }
    }

    /// The sources of a machine that no file names, as tests make them.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::new(Place { file: Arc::from("-"), line: 1, col: 1 }, None, Vec::new(), Words::default())
    }

    /// Where a key was set, by dotted path (`timeout.power`, `power.ipmi.cipher`): the key itself, or else the nearest
    /// table around it. `None`: a default of pitstop.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Ok(found) = self.keys.binary_search_by(|(key, _)| (**key).cmp(path)) {
                return self.keys.get(found).map(|(_, place)| place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// The values of a file by dotted path, as they were written. Like places, they never make a difference by themselves:
/// `60s` and `1m` are the same.
#[derive(Debug, Clone, Default)]
pub struct Words(Box<[(Arc<str>, Arc<str>)]>);

impl PartialEq for Words {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// One key that says something else than before, in the words of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    /// Its dotted path, as in the inventory: `power.sim.disk`, `disk.root.match.serial`.
    pub key: String,
    /// What it said; `None`: it was not there.
    pub old: Option<String>,
    /// What it says; `None`: it is not there any more.
    pub new: Option<String>,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "not set".to_owned());
        write!(f, "{}: {} → {}", self.key, side(&self.old), side(&self.new))
    }
}

impl Words {
    /// Everything in a table. `keep` may give the same text again and again, so that it is in memory once.
    pub(super) fn of(table: &Table, mut keep: impl FnMut(String) -> Arc<str>) -> Self {
        let mut found = Vec::new();
        collect(table, "", &mut found);
        found.sort();
        Self(found.into_iter().map(|(path, text)| (keep(path), keep(text))).collect())
    }

    fn get(&self, path: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(key, _)| (**key).cmp(path)).ok()?;
        self.0.get(found).map(|(_, text)| &**text)
    }

    /// The values below a path, which may be a table here.
    fn below<'w>(&'w self, path: &'w str) -> impl Iterator<Item = (&'w str, &'w str)> {
        self.0
            .iter()
            .filter_map(move |(key, text)| Some((key.strip_prefix(path)?.strip_prefix('.')?, &**text)))
    }

    /// What is said at a path, be it a value or a table of values.
    fn whole(&self, path: &str) -> Option<String> {
        if let Some(text) = self.get(path) {
            return Some(text.to_owned());
        }
        let inner: Vec<String> = self.below(path).map(|(key, text)| format!("{key} = {text}")).collect();
        (!inner.is_empty()).then(|| format!("{{ {} }}", inner.join(", ")))
    }

    /// The keys that say something else in `new`, sorted.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<KeyChange> {
        let paths: BTreeSet<&str> = self.0.iter().chain(&new.0).map(|(key, _)| &**key).collect();
        let mut shown = BTreeSet::new();
        for path in paths {
            // A value here and a table there (`idle`) are one change; that a table has keys now is none.
            let value = |words: &Self, path: &str| words.get(path).is_some_and(|text| text != EMPTY);
            let above = ancestors(path).find(|above| value(self, above) || value(new, above));
            let emptied = |words: &Self, other: &Self| {
                words.get(path) == Some(EMPTY) && other.below(path).next().is_some()
            };
            if !emptied(self, new) && !emptied(new, self) {
                shown.insert(above.unwrap_or(path));
            }
        }
        let change = |key: &str| {
            let (old, new) = (self.whole(key), new.whole(key));
            let same = match (&old, &new) {
                (Some(old), Some(new)) => same(old, new),
                (old, new) => old == new,
            };
            (!same).then(|| KeyChange { key: key.to_owned(), old: old.map(cut), new: new.map(cut) })
        };
        shown.into_iter().filter_map(change).collect()
    }
}

/// `a.b.c`: `a`, `a.b`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').filter_map(|(dot, _)| path.get(..dot))
}

/// Whether two texts mean the same: `60s` and `1m`.
fn same(old: &str, new: &str) -> bool {
    let equal = |read: fn(&str) -> Result<u64, String>| read(old).ok().is_some_and(|n| read(new) == Ok(n));
    old == new || equal(units::duration_ms) || equal(units::bytes)
}

fn collect(table: &Table, path: &str, found: &mut Vec<(String, String)>) {
    for (key, entry) in table {
        let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match &entry.node.value {
            Val::Table(inner) if !inner.is_empty() => collect(inner, &path, found),
            // Where a secret is to be found is no secret; it stands as `password.file`.
            value if names_a_secret(key) && !path.starts_with("tags.") && !is_table(value) => {
                found.push((path, "(not shown)".to_owned()));
            }
            value => found.push((path, written(value))),
        }
    }
}

fn is_table(value: &Val) -> bool {
    matches!(value, Val::Table(_))
}

/// A value as it is written, without quotes where none are needed, fit for a terminal.
fn written(value: &Val) -> String {
    let plain = |text: &str| !text.is_empty() && !text.contains([',', '"', '[', '{']);
    let text = match value {
        Val::Text(text) if plain(text) => text.clone(),
        Val::Text(text) => format!("{text:?}"),
        Val::Int(int) => int.to_string(),
        Val::Float(float) => float.to_string(),
        Val::Bool(truth) => truth.to_string(),
        Val::Other(kind) => (*kind).to_owned(),
        Val::Table(_) => EMPTY.to_owned(),
        Val::List(items) => {
            let items: Vec<String> = items.iter().map(|item| written(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
