//! From sections to machines: ranges are counted out, and class, range and machine laid over each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pitstop_wire::MachineName;

use super::error::{Problem, Problems};
use super::load::named;
use super::model::{Place, Sources, Words};
use super::source::SourceMap;
use super::tree::{Entry, Table, Val, overlay_machine};

/// Most machines of one lab.
pub const MAX_MACHINES: usize = 100_000;

/// A machine with all its layers merged.
pub(super) struct Layered<'t> {
    pub name: MachineName,
    /// Its number in its range, or at the end of its name.
    pub n: Option<u32>,
    /// The section it stands in as written, `srv[01-30]`.
    pub label: &'t str,
    /// That section.
    pub section: &'t Entry,
    pub class: Option<(&'t str, &'t Entry)>,
    /// Its class was found; else nobody can say what the machine lacks.
    pub whole: bool,
    /// It is no machine but a class that none uses.
    pub only_class: bool,
    /// Shared by the machines of a range that add nothing of their own.
    pub merged: Arc<Merged>,
}

/// The result of laying layers over each other.
pub(super) struct Merged {
    pub table: Table,
    pub sources: Arc<Sources>,
}

#[derive(Clone, Copy)]
struct Section<'t> {
    label: &'t Arc<str>,
    entry: &'t Entry,
    table: &'t Table,
}

#[derive(Clone, Copy)]
struct Slot<'t> {
    n: Option<u32>,
    range: Option<Section<'t>>,
    own: Option<Section<'t>>,
}

/// All machines by name, one at a time: the merged keys of a large lab are not held together.
pub(super) struct Machines<'t, 'm> {
    slots: std::collections::btree_map::IntoIter<MachineName, Slot<'t>>,
    merger: Merger<'t, 'm>,
}

impl<'t, 'm> Machines<'t, 'm> {
    /// Finds the machines of the inventory.
    pub fn of(root: &'t Table, sources: &'m SourceMap, problems: &mut Problems) -> Self {
        let classes = named(root, "class", problems)
            .into_iter()
            .map(|(label, entry, table)| (&**label, Section { label, entry, table }))
            .collect();
        let merger = Merger { classes, sources, texts: HashMap::new(), cache: HashMap::new() };
        Self { slots: slots(root, problems).into_iter(), merger }
    }

    /// The next machine.
    pub fn next(&mut self, problems: &mut Problems) -> Option<Layered<'t>> {
        let (name, slot) = self.slots.next()?;
        self.merger.layer(name, slot, problems).or_else(|| self.next(problems))
    }

    /// The classes that no machine uses, each as a machine that adds nothing.
    pub fn unused_classes(mut self, root: &'t Table) -> Vec<Layered<'t>> {
        let machines = root.get("machine").and_then(|entry| entry.node.as_table());
        let used: BTreeSet<&str> = machines
            .into_iter()
            .flat_map(|machines| machines.values())
            .filter_map(|machine| machine.node.as_table()?.get("class")?.node.as_text())
            .collect();
        let classes = self.merger.classes.clone();
        classes
            .into_values()
            .filter(|class| !used.contains(&**class.label))
            .filter_map(|class| {
                // Its name stands in for `{name}`, where it can be one.
                let name = MachineName::new(class.label).or_else(|_| MachineName::new("m1")).ok()?;
                let merged = self.merger.shared(Some(class), class);
                let (label, section) = (&**class.label, class.entry);
                let n = Some(1);
                Some(Layered { name, n, label, section, class: None, whole: false, only_class: true, merged })
            })
            .collect()
    }
}

/// Which sections each machine has.
fn slots<'t>(root: &'t Table, problems: &mut Problems) -> BTreeMap<MachineName, Slot<'t>> {
    let mut slots: BTreeMap<MachineName, Slot<'t>> = BTreeMap::new();
    let mut single = Vec::new();
    for (label, entry, table) in named(root, "machine", problems) {
        let section = Section { label, entry, table };
        if label.contains(['[', ']']) {
            add_range(&mut slots, section, problems);
        } else {
            single.push(section);
        }
    }
    for section in single {
        match MachineName::new(section.label) {
            Ok(name) => {
                let n = trailing_number(&name);
                slots.entry(name).or_insert(Slot { n, range: None, own: None }).own = Some(section);
            }
            Err(error) => problems.raise(Problem::new(section.entry.key, error.to_string())),
        }
        if slots.len() > MAX_MACHINES {
            problems.raise(Problem::new(section.entry.key, format!("more than {MAX_MACHINES} machines")));
            break;
        }
    }
    slots
}

fn add_range<'t>(slots: &mut BTreeMap<MachineName, Slot<'t>>, section: Section<'t>, problems: &mut Problems) {
    let numbers = match Range::parse(section.label) {
        Ok(range) if range.count() + slots.len() as u64 <= MAX_MACHINES as u64 => range,
        Ok(range) => {
            let what =
                format!("this range of {} brings the lab above {MAX_MACHINES} machines", range.count());
            return problems.raise(Problem::new(section.entry.key, what));
        }
        Err(what) => {
            let expected = "one range with its numbers in order, `srv[01-30]` or `srv[1-8,12]`";
            return problems.raise(Problem::new(section.entry.key, what).expected(expected));
        }
    };
    for (n, text) in numbers.names() {
        let name = match MachineName::new(&text) {
            Ok(name) => name,
            Err(error) => return problems.raise(Problem::new(section.entry.key, error.to_string())),
        };
        if let Some(Slot { range: Some(other), .. }) = slots.get(&name) {
            // One error for the pair of ranges, not one per machine.
            let what = format!("`{name}` is already in the range `{}`", other.label);
            return problems.raise(Problem::new(section.entry.key, what).also(other.entry.key, "that range"));
        }
        slots.insert(name, Slot { n: Some(n), range: Some(section), own: None });
    }
}

/// `srv[01-30]`
struct Range<'l> {
    before: &'l str,
    after: &'l str,
    /// Digits to pad to.
    width: usize,
    spans: Vec<(u32, u32)>,
}

impl<'l> Range<'l> {
    fn parse(label: &'l str) -> Result<Self, String> {
        let wrong = || format!("`{label}` is not a range of machines");
        let (before, rest) = label.split_once('[').ok_or_else(wrong)?;
        let (inside, after) = rest.split_once(']').ok_or_else(wrong)?;
        if after.contains(['[', ']']) || before.contains(']') {
            return Err(format!("`{label}` has more than one range"));
        }
        let mut range = Self { before, after, width: 0, spans: Vec::new() };
        for part in inside.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            range.add(low, high).ok_or_else(wrong)?;
        }
        Ok(range)
    }

    fn add(&mut self, low: &str, high: &str) -> Option<()> {
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (from, to) = (number(low)?, number(high)?);
        // `[01-30]` pads, `[1-30]` does not; a mixture such as `[01-300]` would leave it open how 7 is written.
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        let width = if padded(low) || padded(high) { low.len() } else { 0 };
        let fits = (width == 0 || low.len() == high.len())
            && (self.spans.is_empty() || self.width == width || width == 0);
        let in_order = self.spans.last().is_none_or(|(_, last)| *last < from) && from <= to;
        if !fits || !in_order {
            return None;
        }
        self.width = self.width.max(width);
        self.spans.push((from, to));
        Some(())
    }

    fn count(&self) -> u64 {
        self.spans.iter().map(|(from, to)| u64::from(to - from) + 1).sum()
    }

    fn names(&self) -> impl Iterator<Item = (u32, String)> + '_ {
        let numbers = self.spans.iter().flat_map(|(from, to)| *from..=*to);
        numbers.map(|n| (n, format!("{}{n:0width$}{}", self.before, self.after, width = self.width)))
    }
}

fn trailing_number(name: &str) -> Option<u32> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name.get(name.len() - digits..)?.parse().ok()
}

struct Merger<'t, 'm> {
    classes: BTreeMap<&'t str, Section<'t>>,
    sources: &'m SourceMap,
    /// Each path and each value once, however many machines have it.
    texts: HashMap<String, Arc<str>>,
    cache: HashMap<(Option<&'t str>, &'t str), Arc<Merged>>,
}

impl<'t> Merger<'t, '_> {
    fn layer(&mut self, name: MachineName, slot: Slot<'t>, problems: &mut Problems) -> Option<Layered<'t>> {
        let section = slot.own.or(slot.range)?;
        let named =
            [slot.own, slot.range].into_iter().flatten().any(|section| section.table.contains_key("class"));
        let class = self.class(slot, problems);
        let whole = class.is_some() || !named;
        let merged = match slot.own {
            None => self.shared(class, section),
            Some(own) => {
                let layers = [class, slot.range, Some(own)];
                Arc::new(self.merge(layers.into_iter().flatten()))
            }
        };
        let class = class.map(|class| (&**class.label, class.entry));
        Some(Layered {
            name,
            n: slot.n,
            label: section.label,
            section: section.entry,
            class,
            whole,
            only_class: false,
            merged,
        })
    }

    /// The class that the machine, or else its range, names.
    fn class(&self, slot: Slot<'t>, problems: &mut Problems) -> Option<Section<'t>> {
        let entry =
            [slot.own, slot.range].into_iter().flatten().find_map(|section| section.table.get("class"))?;
        let Val::Text(name) = &entry.node.value else {
            let what = format!("`class` takes the name of a class, not {}", entry.node.kind());
            problems.raise(Problem::new(entry.node.at, what));
            return None;
        };
        let class = self.classes.get(name.as_str()).copied();
        if class.is_none() {
            let problem = Problem::new(entry.node.at, format!("there is no class `{name}`"));
            problems.raise(problem.nearest(name, self.classes.keys().copied()));
        }
        class
    }

    fn shared(&mut self, class: Option<Section<'t>>, section: Section<'t>) -> Arc<Merged> {
        let key = (class.map(|class| &**class.label), &**section.label);
        if let Some(merged) = self.cache.get(&key) {
            return Arc::clone(merged);
        }
        let merged = Arc::new(self.merge([class, Some(section)].into_iter().flatten()));
        self.cache.insert(key, Arc::clone(&merged));
        merged
    }

    fn merge(&mut self, layers: impl Iterator<Item = Section<'t>>) -> Merged {
        let mut table = Table::new();
        let mut machine: Option<Place> = None;
        for layer in layers {
            table = if table.is_empty() { layer.table.clone() } else { overlay_machine(&table, layer.table) };
            machine = Some(self.sources.place(layer.entry.key));
        }
        let class =
            table.get("class").and_then(|entry| entry.node.as_text()).and_then(|name| self.classes.get(name));
        let class = class.map(|class| self.sources.place(class.entry.key));
        let mut keys = Vec::new();
        self.places(&table, "", &mut keys);
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        let machine = machine.unwrap_or(Place { file: Arc::from(""), line: 1, col: 1 });
        let words = Words::of(&table, |text| self.keep(text));
        Merged { table, sources: Arc::new(Sources::new(machine, class, keys, words)) }
    }

    fn places(&mut self, table: &Table, path: &str, keys: &mut Vec<(Arc<str>, Place)>) {
        for (key, entry) in table {
            let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
            if let Val::Table(inner) = &entry.node.value {
                self.places(inner, &path, keys);
            }
            keys.push((self.keep(path), self.sources.place(entry.key)));
        }
    }

    fn keep(&mut self, text: String) -> Arc<str> {
        Arc::clone(self.texts.entry(text).or_insert_with_key(|text| Arc::from(text.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(label: &str) -> Result<Vec<String>, String> {
        Range::parse(label).map(|range| range.names().map(|(_, name)| name).collect())
    }

    #[test]
    fn ranges_keep_their_zeroes() {
        assert_eq!(names("srv[08-11]").unwrap(), ["srv08", "srv09", "srv10", "srv11"]);
        assert_eq!(names("srv[8-11]").unwrap(), ["srv8", "srv9", "srv10", "srv11"]);
        assert_eq!(names("r[001-002,010]-a").unwrap(), ["r001-a", "r002-a", "r010-a"]);
        assert_eq!(names("r[7]").unwrap(), ["r7"]);
    }

    #[test]
    fn ranges_that_could_be_read_in_two_ways_are_refused() {
        for label in [
            "a[3-1]",
            "a[01-100]",
            "a[1-2",
            "a1-2]",
            "a[]",
            "a[1-2][1-2]",
            "a[1-2-3]",
            "a[x-y]",
            "a[+1-2]",
            "a[1-3,2]",
            "a[99999999999]",
        ] {
            assert!(names(label).is_err(), "{label} was taken");
        }
    }

    #[test]
    fn a_name_ends_with_its_number() {
        assert_eq!(trailing_number("srv017"), Some(17));
        assert_eq!(trailing_number("imx8"), Some(8));
        assert_eq!(trailing_number("pc-a"), None);
        assert_eq!(trailing_number("x99999999999999"), None);
    }
}
