//! Compares a selector with what the lab has, so that a typing error is an answer and not an endless wait.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, SPECIAL_KEYS, Selector, SelectorError, TagValue, Term};
use crate::nearest;

/// Everything a selector can name in a lab.
#[derive(Debug, Clone, Default)]
pub struct Known {
    tags: BTreeMap<String, KnownTag>,
    machines: BTreeSet<String>,
    special: BTreeMap<&'static str, &'static [&'static str]>,
}

/// What is known of one tag.
#[derive(Debug, Clone, Default)]
pub struct KnownTag {
    /// Some machine has it as a number.
    pub numeric: bool,
    /// Every value some machine has, as text.
    pub values: BTreeSet<String>,
}

impl Known {
    /// Adds a machine and its tags.
    pub fn add<'a>(&mut self, name: &str, tags: impl IntoIterator<Item = (&'a str, &'a TagValue)>) {
        self.machines.insert(name.to_owned());
        for (key, value) in tags {
            let known = self.tags.entry(key.to_owned()).or_default();
            known.numeric |= matches!(value, TagValue::Number(_));
            known.values.insert(value.to_string());
        }
    }

    /// Says which words a special key can have (`state`, `clean`, `health`); without this any word is taken.
    pub fn words(&mut self, key: &'static str, words: &'static [&'static str]) {
        self.special.insert(key, words);
    }

    /// The tags, for completion.
    #[must_use]
    pub fn tags(&self) -> &BTreeMap<String, KnownTag> {
        &self.tags
    }

    fn has_word(&self, word: &str) -> bool {
        self.machines.contains(word) || self.tags.values().any(|tag| tag.has(word))
    }
}

impl KnownTag {
    fn has(&self, value: &str) -> bool {
        // `8.0` is written differently from `8` and means the same.
        self.values.contains(value)
            || value.parse::<super::Number>().is_ok_and(|n| self.values.contains(&n.to_string()))
    }
}

impl Selector {
    /// Whether each term names something the lab has. Positions in errors count in the canonical form.
    ///
    /// # Errors
    /// The first term that can never match: an unknown key, a value no machine has, a bare word that is a key.
    pub fn check(&self, known: &Known) -> Result<(), SelectorError> {
        let input = self.to_string();
        let mut at = 0;
        for term in &self.terms {
            let text = term.to_string();
            let wrong =
                |from: usize, len: usize, what: String| SelectorError::new(&input, at + from, len, what);
            match term {
                Term::Word(word) => check_word(word, known, |what| wrong(0, text.len(), what))?,
                Term::In { key, items } => {
                    check_key(key, known, |what| wrong(0, key.len(), what))?;
                    let from = key.len() + 1;
                    check_values(key, items, known, |what| wrong(from, text.len() - from, what))?;
                }
                Term::NotIn { key, .. } => check_key(key, known, |what| wrong(0, key.len(), what))?,
                Term::Above { key, .. } | Term::Below { key, .. } => {
                    check_key(key, known, |what| wrong(0, key.len(), what))?;
                    check_numeric(key, known, |what| wrong(0, text.len(), what))?;
                }
            }
            at += text.len() + 1;
        }
        Ok(())
    }
}

fn check_word(
    word: &str,
    known: &Known,
    wrong: impl Fn(String) -> SelectorError,
) -> Result<(), SelectorError> {
    if known.has_word(word) {
        return Ok(());
    }
    if let Some(tag) = known.tags.get(word) {
        let hint =
            if tag.numeric { format!("`{word}=8..` or `{word}=8`") } else { format!("`{word}=VALUE`") };
        return Err(wrong(format!("`{word}` is a tag, not a value")).expected(hint));
    }
    if SPECIAL_KEYS.contains(&word) {
        return Err(wrong(format!("`{word}` is a key, not a value")).expected(format!("`{word}=VALUE`")));
    }
    let values = known.tags.values().filter(|tag| !tag.numeric).flat_map(|tag| &tag.values);
    let candidates = known.machines.iter().chain(values).map(String::as_str);
    Err(wrong(format!("no machine is called `{word}`, and no tag has this value"))
        .nearest(nearest(word, candidates)))
}

fn check_key(key: &str, known: &Known, wrong: impl Fn(String) -> SelectorError) -> Result<(), SelectorError> {
    if known.tags.contains_key(key) || SPECIAL_KEYS.contains(&key) {
        return Ok(());
    }
    let candidates = known.tags.keys().map(String::as_str).chain(SPECIAL_KEYS);
    Err(wrong(format!("no machine has a tag `{key}`")).nearest(nearest(key, candidates)))
}

/// One known value is enough: of `soc=imx8,imx9` the second may come next week.
fn check_values(
    key: &str,
    items: &[Item],
    known: &Known,
    wrong: impl Fn(String) -> SelectorError,
) -> Result<(), SelectorError> {
    let special = SPECIAL_KEYS.contains(&key);
    if items.iter().any(|item| matches!(item, Item::Range { .. })) {
        return check_numeric(key, known, wrong);
    }
    let values: Vec<&str> =
        items.iter().filter_map(|i| if let Item::Value(v) = i { Some(v.as_str()) } else { None }).collect();
    let candidates: Vec<&str> = match (key, known.special.get(key), known.tags.get(key)) {
        ("name", ..) => known.machines.iter().map(String::as_str).collect(),
        (_, Some(words), _) => words.to_vec(),
        _ if special => return Ok(()),
        (_, _, Some(tag)) if values.iter().any(|value| tag.has(value)) => return Ok(()),
        (_, _, Some(tag)) => tag.values.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    if values.iter().any(|value| candidates.contains(value)) {
        return Ok(());
    }
    let nearest = values.first().and_then(|value| nearest(value, candidates.iter().copied()));
    let what = match key {
        "name" => format!("no machine is called {}", list(&values)),
        _ => format!("no machine can have {key} = {}", list(&values)),
    };
    let error = wrong(what).nearest(nearest);
    Err(if candidates.len() <= 16 && key != "name" { error.expected(list(&candidates)) } else { error })
}

fn check_numeric(
    key: &str,
    known: &Known,
    wrong: impl Fn(String) -> SelectorError,
) -> Result<(), SelectorError> {
    if known.tags.get(key).is_some_and(|tag| tag.numeric) {
        return Ok(());
    }
    Err(wrong(format!("`{key}` is not a number, so it has no ranges")).expected(format!("`{key}=VALUE`")))
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
