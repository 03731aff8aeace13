//! The parsed text as a tree in which every key and value knows its place, and how trees are laid over each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{Problem, Problems};
use super::source::Loc;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Loc,
    pub value: Val,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Val {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Dates, and numbers no machine holds; nothing in an inventory takes one.
    Other(&'static str),
    List(Vec<Node>),
    Table(Table),
}

/// Keys in alphabetical order.
pub(super) type Table = BTreeMap<Arc<str>, Entry>;

/// What stands behind a key, and the place of the key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Loc,
    pub node: Node,
}

impl Node {
    /// The kind of value, for people.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Val::Text(_) => "text",
            Val::Int(_) | Val::Float(_) => "a number",
            Val::Bool(_) => "a truth value",
            Val::Other(kind) => kind,
            Val::List(_) => "a list",
            Val::Table(_) => "a table",
        }
    }

    pub fn as_table(&self) -> Option<&Table> {
        if let Val::Table(table) = &self.value { Some(table) } else { None }
    }

    pub fn as_text(&self) -> Option<&str> {
        if let Val::Text(text) = &self.value { Some(text) } else { None }
    }
}

/// Deepest tree; the inventory needs 7. Everything that walks it recursively relies on this.
const MAX_DEPTH: usize = 24;

/// Turns what the TOML parser gave into a tree of our own.
pub(super) fn convert(file: u16, table: &DeTable<'_>) -> Table {
    convert_at(file, table, 0)
}

fn convert_at(file: u16, table: &DeTable<'_>, depth: usize) -> Table {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
        (
            Arc::from(key.get_ref().as_ref()),
            Entry { key: loc(file, key.span()), node: node(file, value, depth) },
        )
    };
    table.iter().map(entry).collect()
}

fn node(file: u16, value: &toml::Spanned<DeValue<'_>>, depth: usize) -> Node {
    let converted = match value.get_ref() {
        DeValue::String(text) => Val::Text(text.to_string()),
        DeValue::Integer(int) => {
            let digits = int.as_str();
            i64::from_str_radix(digits, int.radix())
                .map_or(Val::Other("a number of more than 64 bits"), Val::Int)
        }
        DeValue::Float(float) => float.as_str().parse().map_or(Val::Other("a number"), Val::Float),
        DeValue::Boolean(truth) => Val::Bool(*truth),
        DeValue::Datetime(_) => Val::Other("a date or time"),
        DeValue::Array(_) | DeValue::Table(_) if depth == MAX_DEPTH => {
            Val::Other("something nested that deeply")
        }
        DeValue::Array(items) => Val::List(items.iter().map(|item| node(file, item, depth + 1)).collect()),
        DeValue::Table(table) => Val::Table(convert_at(file, table, depth + 1)),
    };
    Node { at: loc(file, value.span()), value: converted }
}

pub(super) fn loc(file: u16, span: std::ops::Range<usize>) -> Loc {
    // Files are far below 4 GiB.
    let byte = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Loc { file, start: byte(span.start), end: byte(span.end) }
}

/// Adds the sections of another file. Files are equals: none overrides another, so a key set in two of them is an error.
pub(super) fn combine(into: &mut Table, from: Table, path: &str, problems: &mut Problems) {
    for (key, entry) in from {
        let Some(existing) = into.get_mut(&key) else {
            into.insert(key, entry);
            continue;
        };
        let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match (&mut existing.node.value, entry.node.value) {
            (Val::Table(old), Val::Table(new)) => combine(old, new, &path, problems),
            _ => problems.raise(
                Problem::new(entry.key, format!("`{path}` is set in two files"))
                    .also(existing.key, "first set here")
                    .expected("each key in one file only"),
            ),
        }
    }
}

/// Keys of a machine that hold exactly one driver.
const SLOTS: [&str; 6] = ["power", "mains", "boot", "ready", "reimage", "shell"];
/// Keys of a machine that hold a driver under each name.
const NAMED_SLOTS: [&str; 3] = ["console", "switch", "button"];

/// Lays the keys of a machine over those of its class (or of its range): tables merge by path, anything else is replaced.
/// Drivers merge with the same driver and replace another whole, or a machine whose class has a BMC could never get a plug.
pub(super) fn overlay_machine(base: &Table, top: &Table) -> Table {
    overlay_with(base, top, |key, below, above| {
        if SLOTS.contains(&key) {
            return overlay_slot(below, above);
        }
        if NAMED_SLOTS.contains(&key) {
            // `console = {}` says that there is none, whatever the class has.
            return if above.is_empty() {
                Table::new()
            } else {
                overlay_with(below, above, |_, b, a| overlay_slot(b, a))
            };
        }
        overlay(below, above)
    })
}

fn overlay_slot(base: &Table, top: &Table) -> Table {
    if top.keys().all(|driver| base.contains_key(driver)) { overlay(base, top) } else { top.clone() }
}

fn overlay(base: &Table, top: &Table) -> Table {
    overlay_with(base, top, |_, below, above| overlay(below, above))
}

fn overlay_with(base: &Table, top: &Table, both: impl Fn(&str, &Table, &Table) -> Table) -> Table {
    let mut merged = base.clone();
    for (key, entry) in top {
        let mut entry = entry.clone();
        if let (Some(below), Val::Table(above)) =
            (base.get(key).and_then(|e| e.node.as_table()), &entry.node.value)
        {
            entry.node.value = Val::Table(both(key, below, above));
        }
        merged.insert(Arc::clone(key), entry);
    }
    merged
}
