use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Machine {
    name: &'static str,
    tags: BTreeMap<&'static str, TagValue>,
    special: BTreeMap<&'static str, &'static str>,
}

impl Facts for Machine {
    fn tag(&self, key: &str) -> Option<&TagValue> {
        self.tags.get(key)
    }
    fn name(&self) -> &str {
        self.name
    }
    fn special(&self, key: &str) -> Option<Cow<'_, str>> {
        self.special.get(key).map(|word| Cow::Borrowed(*word))
    }
    fn any_tag_value(&self, word: &str) -> bool {
        self.tags.values().any(|tag| tag.is(word))
    }
}

fn num(n: i64) -> TagValue {
    TagValue::Number(Number::from_int(n).unwrap())
}

fn board(name: &'static str, soc: &'static str, ram: i64) -> Machine {
    Machine {
        name,
        tags: BTreeMap::from([("soc", soc.into()), ("ram", num(ram)), ("rack", "row 3".into())]),
        special: BTreeMap::from([("state", "free"), ("clean", "proven"), ("health", "good")]),
    }
}

fn known() -> Known {
    let mut known = Known::default();
    for machine in [board("imx8-01", "imx8", 8), board("imx9-01", "imx9", 4)] {
        known.add(machine.name, machine.tags.iter().map(|(key, value)| (*key, value)));
    }
    known.words("clean", &["proven", "by-command", "none"]);
    known
}

fn sel(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{error}\n{}", error.underlined()))
}

#[test]
fn each_form_matches_what_it_says() {
    let machine = board("imx8-01", "imx8", 8);
    for (text, expected) in [
        ("", true),
        ("  ", true),
        ("soc=imx8", true),
        ("soc=imx8,imx9", true),
        ("soc=imx9", false),
        ("soc!=imx9", true),
        ("soc!=imx9,imx8", false),
        ("gpu=t4", false),
        ("gpu!=t4", true),
        ("ram=8", true),
        ("ram=8.0", true),
        ("ram=8..", true),
        ("ram=9..", false),
        ("ram=..8", true),
        ("ram=..7", false),
        ("ram=4..8", true),
        ("ram=4,16..", false),
        ("ram=8,16..", true),
        ("ram!=..4", true),
        ("ram>=8", true),
        ("ram<=8", true),
        ("ram>8", false),
        ("ram>7.5", true),
        ("ram<8", false),
        ("soc=1..", false),
        ("rack=\"row 3\"", true),
        ("imx8", true),
        ("imx8-01", true),
        ("imx8-0", false),
        ("8", true),
        ("name=imx8-01", true),
        ("name!=imx8-01", false),
        ("state=free clean=proven", true),
        ("holder=anna", false),
        ("holder!=anna", true),
        ("soc=imx8 ram=16..", false),
    ] {
        assert_eq!(sel(text).matches(&machine), expected, "{text}");
    }
}

#[test]
fn comparisons_have_one_canonical_form() {
    for (text, canonical) in [
        ("ram>=8   soc=a", "ram=8.. soc=a"),
        ("ram<=8", "ram=..8"),
        ("ram>8", "ram>8"),
        ("rack=\"B2\"", "rack=B2"),
        ("v=\"1..2\"", "v=\"1..2\""),
        ("ram=08..", "ram=8.."),
    ] {
        assert_eq!(sel(text).to_string(), canonical);
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, at, part) in [
        ("soc=", 4, "the FILTER ends too early"),
        ("soc=imx8 =x", 9, "expected a key or a word"),
        ("ram=8..4", 4, "the smaller number first, `4..8`"),
        ("ram=..", 4, "is not a range"),
        ("ram=8G..", 4, "numbers without unit"),
        ("ram>=big", 5, "not a number"),
        ("soc==x", 3, "expected `=`"),
        ("soc=a,,b", 6, "expected a value"),
        ("rack=\"row", 5, "the quote is not closed"),
        ("a\"b\"", 1, "cannot stand here"),
        ("sö=x", 0, "cannot be a key"),
        ("a=\u{1b}[0m", 2, "control character"),
    ] {
        let error = Selector::parse(text).unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn what_is_wrong_in_quotes_is_underlined_with_them_and_never_ends_inside_a_character() {
    for (text, wrong) in [("ram>=\"Ě\"", "\"Ě\""), ("\"räm\"=8", "\"räm\""), ("ram<\"viel\" a", "\"viel\"")]
    {
        let error = Selector::parse(text).unwrap_err();
        assert_eq!(text.get(error.at..error.at + error.len), Some(wrong), "{error:?}");
    }
}

#[test]
fn an_endless_selector_is_refused_without_repeating_it() {
    let error = Selector::parse(&"x".repeat(MAX_SELECTOR + 1)).unwrap_err();
    assert!(error.to_string().contains("1025 bytes") && error.input.is_empty());
}

#[test]
fn a_misspelt_key_or_value_is_answered_with_the_nearest() {
    for (text, at, part) in [
        ("sok=imx8", 0, "did you mean `soc`?"),
        ("ram=8.. soc=imx7", 12, "expected `imx8`, `imx9`"),
        ("imx8-1", 0, "did you mean `imx8-01`?"),
        ("name=imx9-1", 5, "did you mean `imx9-01`?"),
        ("ram", 0, "expected `ram=8..`"),
        ("soc", 0, "expected `soc=VALUE`"),
        ("state", 0, "is a key"),
        ("soc=8..", 4, "not a number"),
        ("soc>8", 0, "not a number"),
        ("clean=provn", 6, "did you mean `proven`?"),
        ("name=1..", 5, "not a number"),
    ] {
        let error = sel(text).check(&known()).unwrap_err();
        assert!(error.to_string().contains(part), "{text}: {error}");
        assert_eq!(error.at, at, "{text}: {error}");
    }
    for good in [
        "soc=imx8,imx7",
        "ram=64..",
        "ram=8.0",
        "soc!=zzz",
        "imx9",
        "holder=anna",
        "state=any",
        "rack=\"row 3\"",
    ] {
        sel(good).check(&known()).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

#[test]
fn a_bare_word_of_an_acting_verb_is_a_name() {
    assert_eq!(sel("a1 a2").acting().to_string(), "name=a1,a2");
    assert!(!sel("imx8").acting().matches(&board("imx8-01", "imx8", 8)), "a tag's value switched a machine");
}

#[test]
fn arguments_are_joined() {
    assert_eq!(Selector::from_args(&["soc=imx8", "ram=8.."]).unwrap(), sel("soc=imx8 ram=8.."));
}

#[test]
fn near_misses_say_what_stands_between() {
    let lab = [board("a", "imx8", 8), board("b", "imx8", 4), board("c", "imx9", 8), board("d", "imx9", 4)];
    let near = sel("soc=imx8 ram=8..").near_misses(lab.iter().map(|m| m as &dyn Facts));
    assert_eq!((near.total, near.matching), (4, 1));
    assert_eq!(near.misses, [("soc".to_owned(), 2), ("ram".to_owned(), 1)]);
    let relaxed: Vec<_> = near.relaxed.iter().map(|r| (r.term.as_str(), r.machines.join(","))).collect();
    assert_eq!(relaxed, [("soc=imx8", "c".to_owned()), ("ram=8..", "b".to_owned())]);
    let selector = sel("soc=imx8 ram=8..");
    assert_eq!(selector.explain(&lab[1]).unwrap_err().term.to_string(), "ram=8..");
}

#[test]
fn json_is_the_text() {
    let selector: Selector = serde_json::from_str("\"soc=imx8 ram>=8\"").unwrap();
    assert_eq!(serde_json::to_string(&selector).unwrap(), "\"soc=imx8 ram=8..\"");
}

/// The daemon could not read its database any more after somebody had asked for this.
#[test]
fn what_was_accepted_can_be_read_back_though_its_canonical_form_is_longer() {
    let bounds = ["a>=8"; 204].join(" ");
    let dots = ["a..b"; 204].join(" ");
    for text in [bounds, dots, "x".repeat(MAX_SELECTOR), ["x"; 512].join(" ")] {
        for selector in [sel(&text), sel(&text).acting()] {
            let stored = serde_json::to_string(&selector).unwrap();
            assert_eq!(serde_json::from_str::<Selector>(&stored).unwrap(), selector);
        }
    }
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        (-1000_i64..1000).prop_map(|n| Number::from_int(n).unwrap()),
        (-1.0e9_f64..1.0e9).prop_map(|n| Number::new(n).unwrap()),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        "[ -!#-~äß]{1,12}".prop_map(Item::Value),
        (number(), number()).prop_map(|(a, b)| Item::Range { low: Some(a.min(b)), high: Some(a.max(b)) }),
        number().prop_map(|n| Item::Range { low: Some(n), high: None }),
        number().prop_map(|n| Item::Range { low: None, high: Some(n) }),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let key = "[a-zA-Z][a-z0-9_-]{0,8}";
    let items = || prop::collection::vec(item(), 1..4);
    prop_oneof![
        (key, items()).prop_map(|(key, items)| Term::In { key, items }),
        (key, items()).prop_map(|(key, items)| Term::NotIn { key, items }),
        (key, number()).prop_map(|(key, bound)| Term::Above { key, bound }),
        (key, number()).prop_map(|(key, bound)| Term::Below { key, bound }),
        "[ -!#-~]{1,12}".prop_map(Term::Word),
    ]
}

proptest! {
    #[test]
    fn the_canonical_form_means_the_same(terms in prop::collection::vec(term(), 0..6)) {
        let selector = Selector { terms };
        let text = selector.to_string();
        prop_assert_eq!(Selector::parse(&text).unwrap(), selector, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_inside_it(text in "[ -~ä\"=.,<>!]{0,40}") {
        match Selector::parse(&text) {
            Ok(selector) => prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector),
            Err(error) => {
                prop_assert!(text.get(error.at..error.at + error.len).is_some(), "{:?}", error);
                prop_assert!(!error.underlined().is_empty());
            }
        }
    }
}
