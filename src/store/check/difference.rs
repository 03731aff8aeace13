//! Rows against the history that led to them.

use super::Checked;
use pitstop_core::Lab;
use pitstop_core::lab::{Meta, Row};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Names each row that is not what the records made. `is` has the rows as they
/// are stored.
pub fn compare(
    is: &BTreeMap<String, Value>,
    meta: &Meta,
    told: &Lab,
    damaged: &BTreeSet<String>,
    checked: &mut Checked,
) {
    let must = by_name(told);
    for (about, must) in &must {
        match is.get(about) {
            Some(is) => {
                if let Some((place, is, must)) = first_difference(is, must, String::new()) {
                    let what = format!("{place} is {is}, and the history says {must}");
                    checked.add(about, what);
                }
            }
            None if damaged.contains(about) => {}
            None => checked.add(about, "it has no row, and the history says that it is there"),
        }
    }
    for about in is.keys().filter(|about| !must.contains_key(*about)) {
        checked.add(about, "it has a row, and the history says that it is gone");
    }
    let must = told.meta();
    if meta != must {
        let both = (serde_json::to_value(meta), serde_json::to_value(must));
        let difference = match &both {
            (Ok(is), Ok(must)) => first_difference(is, must, String::new()),
            _ => None,
        };
        if let Some((place, is, must)) = difference {
            checked.add("table meta", format!("{place} is {is}, and the history says {must}"));
        }
    }
}

fn by_name(lab: &Lab) -> BTreeMap<String, Value> {
    let value = |row: Row| match row {
        Row::Machine(m) => (format!("machine {}", m.name), serde_json::to_value(&*m)),
        Row::Reservation(r) => (format!("reservation {}", r.id.0), serde_json::to_value(&*r)),
        Row::Image(i) => (format!("image {}", i.image.name), serde_json::to_value(&*i)),
        Row::Key(k) => (format!("key {}", k.number), serde_json::to_value(&*k)),
    };
    // What was read from JSON can be written as JSON.
    lab.rows().rows.into_iter().map(value).map(|(name, v)| (name, v.unwrap_or_default())).collect()
}

/// What a machine's row learns as time passes. A program that did not learn it
/// yet wrote history that this one learns from, and rows that it does not.
const LEARNED: [&str; 7] = ["usual", "quarantines", "worked", "checked", "answer", "changed", "in_vain"];

/// Where two values first differ, and what each says there.
fn first_difference(is: &Value, must: &Value, place: String) -> Option<(String, String, String)> {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (is, must) {
        (a, b) if a == b => None,
        // What an older program did not know of is not in the rows it wrote.
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .filter(|(name, _)| !LEARNED.contains(&name.as_str()))
            .find_map(|(name, is)| first_difference(is, b.get(name).unwrap_or(&Value::Null), below(name))),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.into_iter().find_map(|(n, (a, b))| first_difference(a, b, below(&n.to_string())))
        }
        (a, b) => Some((place, short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        format!("{}…", text.chars().take(59).collect::<String>())
    }
}
