//! Selectors: on command lines, in requests, and in the database.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pitstop_fuzz::{Room, assert_lines, assert_one_line, within};
use pitstop_wire::Selector;
use pitstop_wire::selector::{Facts, Item, Known, SPECIAL_KEYS, SelectorError, TagValue, Term};
use std::borrow::Cow;
use std::collections::BTreeMap;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match within(text.len(), Room::default(), || Selector::parse(text)) {
        Ok(selector) => {
            means_the_same(&selector);
            means_the_same(&selector.acting());
        }
        Err(error) => {
            assert!(error.input.is_empty() || error.input == text);
            says_where(&error);
        }
    }
});

fn says_where(error: &SelectorError) {
    assert!(error.at + error.len <= error.input.len());
    assert!(error.input.get(error.at..error.at + error.len).is_some(), "inside a character: {error:?}");
    assert_one_line(&error.to_string());
    assert_lines(&error.underlined());
}

fn means_the_same(selector: &Selector) {
    let stored = serde_json::to_string(selector).expect("a selector is a text");
    let read: Selector = serde_json::from_str(&stored).expect("what was stored can be read");
    assert_eq!(*selector, read, "{stored}");
    assert_eq!(selector.to_string(), read.to_string());

    let lab = [Machine::plain(), Machine::made_for(selector)];
    let mut known = Known::default();
    for machine in &lab {
        assert_eq!(selector.matches(machine), read.matches(machine));
        assert_eq!(selector.matches(machine), selector.explain(machine).is_ok());
        known.add(machine.name, machine.tags.iter().map(|(key, value)| (key.as_str(), value)));
    }
    let near = selector.near_misses(lab.iter().map(|machine| machine as &dyn Facts));
    assert_eq!(near.matching, lab.iter().filter(|machine| selector.matches(*machine)).count());
    assert_eq!(near.matching + near.misses.iter().map(|(_, count)| count).sum::<usize>(), near.total);
    if let Err(error) = selector.check(&known) {
        assert_eq!(error.input, selector.to_string());
        says_where(&error);
    }
}

struct Machine {
    name: &'static str,
    tags: BTreeMap<String, TagValue>,
}

impl Machine {
    fn plain() -> Self {
        let tags =
            [("soc", TagValue::from("imx8")), ("ram", TagValue::Number("8".parse().expect("a number")))];
        Self { name: "imx8-01", tags: tags.map(|(key, value)| (key.to_owned(), value)).into() }
    }

    /// Has what is asked for, as far as one machine can.
    fn made_for(selector: &Selector) -> Self {
        let mut tags = BTreeMap::new();
        for term in selector.terms() {
            match term {
                Term::In { key, items } => tags.extend(items.first().map(|item| (key.clone(), value(item)))),
                Term::Above { key, bound } | Term::Below { key, bound } => {
                    tags.insert(key.clone(), TagValue::Number(*bound));
                }
                Term::NotIn { .. } | Term::Word(_) => {}
            }
        }
        Self { name: "made", tags }
    }
}

fn value(item: &Item) -> TagValue {
    match item {
        Item::Value(text) => text.parse().map_or(TagValue::Text(text.clone()), TagValue::Number),
        Item::Range { low, high } => low.or(*high).map_or(TagValue::from(""), TagValue::Number),
    }
}

impl Facts for Machine {
    fn tag(&self, key: &str) -> Option<&TagValue> {
        self.tags.get(key)
    }
    fn name(&self) -> &str {
        self.name
    }
    fn special(&self, key: &str) -> Option<Cow<'_, str>> {
        SPECIAL_KEYS.contains(&key).then_some(Cow::Borrowed("free"))
    }
    fn any_tag_value(&self, word: &str) -> bool {
        self.tags.values().any(|tag| tag.is(word))
    }
}
