//! Checks what the inventory says about a driver against the catalogue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::catalogue::{Catalogue, DriverSchema, FieldKind, FieldSchema, Kind, Reads, Word};
use super::error::{Problem, Problems};
use super::model::DriverSpec;
use super::reader::{list, unit};
use super::secret::names_a_secret;
use super::source::{Loc, SourceMap};
use super::template::{self, TemplateError};
use super::tree::{Entry, Node, Table, Val};
use super::units;

/// Fields every power leg has, whatever switches it.
pub(super) const LEG_FIELDS: [&str; 3] = ["min_off", "readback", "use"];

/// What the drivers of a machine are read with.
pub(super) struct Drivers<'a> {
    pub sources: &'a SourceMap,
    pub catalogue: &'a dyn Catalogue,
    pub problems: &'a mut Problems,
    /// Hosts and controllers by name, with the driver that reaches each.
    pub hosts: &'a BTreeMap<String, DriverSpec>,
    pub controllers: &'a BTreeMap<String, DriverSpec>,
    pub claims: &'a mut Claims,
    pub interner: &'a mut Interner,
}

/// For whom a driver is read.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    /// Fills `{name}`.
    pub name: &'a str,
    /// Fills `{n}`.
    pub n: Option<u32>,
    /// Names of its consoles.
    pub consoles: &'a [&'a str],
    /// Its power driver; `None` while that is read, and where it is wrong itself.
    pub power: Option<&'a str>,
    /// It is a class without machines: what is missing a machine would add, and of what is not built nothing is used.
    pub class: bool,
}

/// A driver, chosen and looked up, with what was written about it.
pub(super) struct Chosen<'c, 't> {
    pub schema: &'c DriverSchema,
    pub entry: &'t Entry,
    pub table: &'t Table,
}

/// Things of the world that only one driver can have: who has what so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    taken: HashMap<Claim, (Loc, String)>,
    told: HashSet<(Loc, Loc)>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Claim {
    what: &'static str,
    host: Option<String>,
    controller: Option<String>,
    values: Vec<String>,
}

/// Keeps equal fields of many machines once.
#[derive(Debug, Default)]
pub(super) struct Interner(HashMap<String, Arc<Map<String, Value>>>);

impl Interner {
    fn keep(&mut self, fields: Map<String, Value>) -> Arc<Map<String, Value>> {
        let text = Value::Object(fields.clone()).to_string();
        Arc::clone(self.0.entry(text).or_insert_with(|| Arc::new(fields)))
    }
}

impl Drivers<'_> {
    fn raise(&mut self, problem: Problem) {
        self.problems.raise(problem);
    }

    /// Reads the driver in a slot: `power`, `console.main`, `boot`, … `slot` names it in errors.
    pub fn read(&mut self, kind: Kind, slot: &str, entry: &Entry, owner: Owner<'_>) -> Option<DriverSpec> {
        let catalogue = self.catalogue;
        let chosen = choose(kind, slot, entry, catalogue, self.problems)?;
        self.built(kind, &chosen, owner)?;
        self.fields(slot, &chosen, owner)
    }

    /// Reads what reaches a host or a controller. What is not built may be declared, and has no schema to check against.
    pub fn declared(&mut self, slot: &str, chosen: &Chosen<'_, '_>, owner: Owner<'_>) -> Option<DriverSpec> {
        if chosen.schema.not_built.is_some() {
            refuse_literal_secrets(chosen.table, self.problems);
            return None;
        }
        self.fields(slot, chosen, owner)
    }

    /// Raises it if nothing reads a leg that nobody said cannot be read. `at` is where its driver is named.
    pub fn readable(&mut self, slot: &str, at: Loc, leg: &DriverSpec) {
        let reads = |kind, driver: &str| {
            let schemas = self.catalogue.drivers(kind);
            schemas.iter().find(|schema| schema.name == driver).map_or(Reads::Itself, |schema| schema.reads)
        };
        let reads = match reads(Kind::Power, &leg.driver) {
            Reads::AsController => {
                let controller = leg.controller.as_ref().and_then(|name| self.controllers.get(name));
                controller.map_or(Reads::Itself, |device| reads(Kind::Controller, &device.driver))
            }
            reads => reads,
        };
        let what = format!("nothing reads the state of `{slot}.{}`", leg.driver);
        let told = "`readback = \"none\"`: off is then assumed, and shown so";
        match reads {
            Reads::By(field) if !leg.fields.contains_key(field) => {
                self.raise(Problem::new(at, what).expected(format!("`{field}`, or {told}")));
            }
            Reads::Never => self.raise(Problem::new(at, what).expected(told)),
            Reads::By(_) | Reads::Itself | Reads::AsController => {}
        }
    }

    /// Whether the chosen driver can be used on this machine in this release.
    fn built(&mut self, kind: Kind, chosen: &Chosen<'_, '_>, owner: Owner<'_>) -> Option<()> {
        let name = chosen.schema.name;
        if let Some(why) = chosen.schema.not_built {
            refuse_literal_secrets(chosen.table, self.problems);
            if owner.class {
                return None;
            }
            let built = built(self.catalogue.drivers(kind));
            let problem =
                Problem::new(chosen.entry.key, format!("driver `{name}` is not in this release: {why}"));
            self.raise(problem.expected(format!("one that is built: {}", list(&built))));
            return None;
        }
        let fits =
            |power: &&str| chosen.schema.with_power.is_empty() || chosen.schema.with_power.contains(power);
        if let Some(power) = owner.power.filter(|power| !fits(power)) {
            let needed = list(chosen.schema.with_power);
            let what = format!(
                "{} driver `{name}` works only with power {needed}; this machine has `{power}`",
                kind.key()
            );
            self.raise(Problem::new(chosen.entry.key, what));
        }
        Some(())
    }

    /// Reads all fields, raising every one that is wrong, unknown or missing.
    pub fn fields(&mut self, slot: &str, chosen: &Chosen<'_, '_>, owner: Owner<'_>) -> Option<DriverSpec> {
        let before = self.problems.count();
        let schema = chosen.schema;
        let mut spec = DriverSpec::named(schema.name);
        let mut fields = Map::new();
        for (key, entry) in chosen.table {
            if slot_is_leg(slot) && LEG_FIELDS.contains(&&**key) {
                continue;
            }
            let Some(field) = schema.fields.iter().find(|field| *field.name == **key) else {
                self.unknown_field(slot, key, entry, schema);
                continue;
            };
            let Some(value) = self.value(field, entry, owner) else { continue };
            match (field.kind, value) {
                (FieldKind::HostRef, Value::String(host)) => spec.host = Some(host),
                (FieldKind::ControllerRef, Value::String(controller)) => spec.controller = Some(controller),
                (_, value) => drop(fields.insert(key.to_string(), value)),
            }
        }
        let missing = |field: &&FieldSchema| field.required && !chosen.table.contains_key(field.name);
        for field in schema.fields.iter().filter(|field| !owner.class && missing(field)) {
            let what = format!("`{}` needs `{}`", called(slot, schema.name), field.name);
            self.raise(
                Problem::new(chosen.entry.key, what).expected(format!("`{}`: {}", field.name, field.doc)),
            );
        }
        if !owner.class {
            self.claim(&spec, &fields, chosen, owner);
        }
        spec.fields = self.interner.keep(fields);
        // Anything found wrong before or since was raised; a spec with holes must not reach a driver.
        (self.problems.count() == before).then_some(spec)
    }

    fn unknown_field(&mut self, slot: &str, key: &str, entry: &Entry, schema: &DriverSchema) {
        let mut known: Vec<&str> = schema.fields.iter().map(|field| field.name).collect();
        if slot_is_leg(slot) {
            known.extend(LEG_FIELDS);
        }
        let problem =
            Problem::new(entry.key, format!("`{}` has no field `{key}`", called(slot, schema.name)));
        let expected =
            if known.is_empty() { "no fields at all".to_owned() } else { format!("one of {}", list(&known)) };
        self.raise(problem.expected(expected).nearest(key, known));
    }

    fn value(&mut self, field: &FieldSchema, entry: &Entry, owner: Owner<'_>) -> Option<Value> {
        let what = format!("`{}`", field.name);
        let node = &entry.node;
        match (field.kind, &node.value) {
            (FieldKind::Duration, _) => {
                unit(entry, &what, units::duration_ms, "a duration with its unit, `\"30s\"`", self.problems)
                    .map(Value::from)
            }
            (FieldKind::Size, _) => {
                unit(entry, &what, units::bytes, "a size with its unit, `\"512M\"`", self.problems)
                    .map(Value::from)
            }
            (FieldKind::Secret, _) => secret(field.name, entry, self.problems),
            (FieldKind::Bool, Val::Bool(truth)) => Some(Value::Bool(*truth)),
            (FieldKind::Raw, Val::Text(text)) if !text.contains('\0') => Some(Value::from(text.as_str())),
            (FieldKind::Int { min, max }, Val::Int(int)) => self.int(&what, node, *int, min, max),
            (FieldKind::Int { min, max }, Val::Text(text)) => {
                let filled = self.fill(text, node, &[], owner)?;
                match filled.parse() {
                    Ok(int) => self.int(&what, node, int, min, max),
                    Err(_) => self.wrong(field, node),
                }
            }
            (FieldKind::Label, Val::Int(int)) => Some(Value::from(int.to_string())),
            (FieldKind::Text | FieldKind::Label | FieldKind::Path, Val::Text(text)) => {
                self.fill(text, node, &[], owner).map(Value::from)
            }
            (FieldKind::Address { port }, Val::Text(text)) => {
                let filled = self.fill(text, node, &[], owner)?;
                match units::address(&filled, port) {
                    Ok(address) => Some(Value::from(address)),
                    Err(expected) => {
                        let shown: String = filled.chars().take(40).collect();
                        self.raise(
                            Problem::new(node.at, format!("{what} cannot be `{shown}`")).expected(expected),
                        );
                        None
                    }
                }
            }
            (FieldKind::Mac, Val::Text(_)) => {
                unit(entry, &what, units::mac, "a hardware address", self.problems).map(Value::from)
            }
            (FieldKind::Argv(later), Val::List(items)) => self.argv(field, node, items, later, owner),
            (FieldKind::List, Val::List(items)) => {
                let texts: Option<Vec<Value>> =
                    items.iter().map(|item| item.as_text().map(Value::from)).collect();
                texts.map(Value::Array).or_else(|| self.wrong(field, node))
            }
            (FieldKind::Words(words), Val::List(items)) => self.words(field, node, items, words),
            (FieldKind::ConsoleRef, Val::Text(text)) if owner.class => Some(Value::from(text.as_str())),
            (FieldKind::OneOf(words), Val::Text(text)) => self.one_of(&what, node, text, words, "one of"),
            (FieldKind::ConsoleRef, Val::Text(text)) => {
                self.one_of(&what, node, text, owner.consoles, "a console of this machine:")
            }
            (FieldKind::HostRef, Val::Text(text)) => self.through("host", Kind::Host, text, node),
            (FieldKind::ControllerRef, Val::Text(text)) => {
                self.through("controller", Kind::Controller, text, node)
            }
            _ => self.wrong(field, node),
        }
    }

    fn wrong(&mut self, field: &FieldSchema, node: &Node) -> Option<Value> {
        let what = format!("`{}` cannot be {}", field.name, node.kind());
        self.raise(Problem::new(node.at, what).expected(format!("{}: {}", field.kind.takes(), field.doc)));
        None
    }

    fn int(&mut self, what: &str, node: &Node, int: i64, min: i64, max: i64) -> Option<Value> {
        if (min..=max).contains(&int) {
            return Some(Value::from(int));
        }
        self.raise(
            Problem::new(node.at, format!("{what} cannot be {int}")).expected(format!("{min} to {max}")),
        );
        None
    }

    fn one_of(
        &mut self,
        what: &str,
        node: &Node,
        text: &str,
        words: &[&str],
        expected: &str,
    ) -> Option<Value> {
        if words.contains(&text) {
            return Some(Value::from(text));
        }
        let problem = Problem::new(node.at, format!("{what} cannot be `{text}`"));
        self.raise(
            problem.expected(format!("{expected} {}", list(words))).nearest(text, words.iter().copied()),
        );
        None
    }

    fn words(&mut self, field: &FieldSchema, node: &Node, items: &[Node], words: &[Word]) -> Option<Value> {
        let before = self.problems.count();
        for item in items {
            let Some(text) = item.as_text() else { return self.wrong(field, node) };
            if !words.iter().any(|word| word.fits(text)) {
                let shown: Vec<String> = words.iter().map(Word::to_string).collect();
                let name = text.split([':', '*']).next().unwrap_or_default();
                let what = format!("`{}` cannot hold `{text}`", field.name);
                let expected = format!("one of {}; `*3` behind one: three times", list(&shown));
                // Who has the name right has its number wrong.
                let right = words.iter().any(|word| word.name == name);
                let known = words.iter().filter(|_| !right).map(|word| word.name);
                self.raise(Problem::new(item.at, what).expected(expected).nearest(name, known));
            }
        }
        let texts = items.iter().filter_map(Node::as_text).map(Value::from).collect();
        (self.problems.count() == before).then_some(Value::Array(texts))
    }

    /// A host or a controller: it must be declared, and reached by something that is built.
    fn through(&mut self, section: &str, kind: Kind, name: &str, node: &Node) -> Option<Value> {
        let declared = if kind == Kind::Host { self.hosts } else { self.controllers };
        let Some(spec) = declared.get(name) else {
            let problem = Problem::new(node.at, format!("there is no {section} `{name}`"));
            let problem = problem.expected(format!("the name of a `[{section}.NAME]`"));
            self.raise(problem.nearest(name, declared.keys().map(String::as_str)));
            return None;
        };
        let schema = self.catalogue.drivers(kind).iter().find(|schema| schema.name == spec.driver);
        if let Some(why) = schema.and_then(|schema| schema.not_built) {
            let what = format!(
                "{section} `{name}` is reached by `{}`, which is not in this release: {why}",
                spec.driver
            );
            self.raise(Problem::new(node.at, what));
            return None;
        }
        Some(Value::from(name))
    }

    fn argv(
        &mut self,
        field: &FieldSchema,
        node: &Node,
        items: &[Node],
        later: &[&str],
        owner: Owner<'_>,
    ) -> Option<Value> {
        if items.is_empty() || items.iter().any(|item| item.as_text().is_none()) {
            return self.wrong(field, node);
        }
        let filled: Vec<Option<String>> = items
            .iter()
            .map(|item| self.fill(item.as_text().unwrap_or_default(), item, later, owner))
            .collect();
        filled.into_iter().map(|text| text.map(Value::from)).collect::<Option<Vec<_>>>().map(Value::Array)
    }

    /// Fills in the placeholders of a text that are known now.
    pub fn fill(&mut self, text: &str, node: &Node, later: &[&str], owner: Owner<'_>) -> Option<String> {
        let value = |placeholder: &str| match placeholder {
            "name" => Some(owner.name.to_owned()),
            "n" => owner.n.map(|n| n.to_string()),
            _ => None,
        };
        // Argument lists are rendered once more when they run; anything else is final.
        let filled = if later.is_empty() {
            template::render(text, value)
        } else {
            template::prepare(text, later, value)
        };
        match filled {
            Ok(text) if text.contains('\0') => {
                self.raise(Problem::new(node.at, "a text here cannot hold a zero byte"));
            }
            Ok(text) => return Some(text),
            Err(TemplateError::Unknown(name)) if name == "n" => {
                let what = format!("`{{n}}` needs a number, and the name `{}` ends with none", owner.name);
                self.raise(Problem::new(self.inside(node.at, "{n}"), what));
            }
            Err(TemplateError::Unknown(name)) => {
                let known: Vec<String> =
                    ["name", "n"].iter().chain(later).map(|word| format!("{{{word}}}")).collect();
                let problem = Problem::new(
                    self.inside(node.at, &format!("{{{name}}}")),
                    format!("unknown placeholder `{{{name}}}`"),
                )
                .expected(format!("one of {}; a brace itself is written twice, `{{{{`", list(&known)));
                let words = ["name", "n"].into_iter().chain(later.iter().copied());
                self.raise(problem.nearest(&name, words));
            }
            Err(error @ TemplateError::Brace(brace)) => {
                let problem = Problem::new(self.inside(node.at, &brace.to_string()), format!("{error}"));
                self.raise(problem.expected(format!("`{brace}{brace}` for the brace itself")));
            }
        }
        None
    }

    /// The place of a part of a text. Where escapes hide it, the whole text.
    fn inside(&self, at: Loc, part: &str) -> Loc {
        let found = self.sources.slice(at).find(part).and_then(|offset| u32::try_from(offset).ok());
        let len = u32::try_from(part.len()).unwrap_or_default();
        found.map_or(at, |offset| Loc { start: at.start + offset, end: at.start + offset + len, ..at })
    }

    fn claim(
        &mut self,
        spec: &DriverSpec,
        fields: &Map<String, Value>,
        chosen: &Chosen<'_, '_>,
        owner: Owner<'_>,
    ) {
        for unique in chosen.schema.unique {
            let value = |field: &&str| {
                let unsaid = || {
                    let unsaid = chosen.schema.fields.iter().find(|f| f.name == *field)?.unsaid?;
                    Some(unsaid.replace("{name}", owner.name))
                };
                fields.get(*field).map(plain).or_else(unsaid)
            };
            let values: Option<Vec<String>> = unique.fields.iter().map(value).collect();
            let Some(values) = values else { continue };
            let said = unique.fields.first().and_then(|field| chosen.table.get(*field));
            let place = said.map_or(chosen.entry.key, |entry| entry.node.at);
            let shown =
                values.iter().filter(|v| !v.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
            let of = spec
                .controller
                .as_ref()
                .or(spec.host.as_ref())
                .map(|of| format!(" of `{of}`"))
                .unwrap_or_default();
            let claim = Claim {
                what: unique.what,
                host: spec.host.clone(),
                controller: spec.controller.clone(),
                values,
            };
            let name = owner.name;
            if let Some((at, other)) = self.claims.take(claim, place, name) {
                let whose = if other == name { "twice by".to_owned() } else { format!("by `{other}` and") };
                let what = format!("{} `{shown}`{of} is used {whose} `{name}`", unique.what);
                let problem = Problem::new(place, what).also(at, format!("used by `{other}` here"));
                let same = at == place;
                let hint = "a value of its own for each machine of a range, with `{n}` or `{name}` in it";
                self.raise(if same { problem.expected(hint) } else { problem });
            }
        }
    }
}

impl Claims {
    /// Takes a thing; gives who had it before, once for each pair of places.
    fn take(&mut self, claim: Claim, at: Loc, name: &str) -> Option<(Loc, String)> {
        match self.taken.entry(claim) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert((at, name.to_owned()));
                None
            }
            std::collections::hash_map::Entry::Occupied(taken) => {
                let (other_at, other) = taken.get();
                self.told.insert((*other_at, at)).then(|| (*other_at, other.clone()))
            }
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A driver in its slot, as it is written. A hook names none.
fn called(slot: &str, driver: &str) -> String {
    if slot.starts_with("hook.") { slot.to_owned() } else { format!("{slot}.{driver}") }
}

fn slot_is_leg(slot: &str) -> bool {
    matches!(slot, "power" | "mains")
}

/// Finds the one driver a slot names.
pub(super) fn choose<'c, 't>(
    kind: Kind,
    slot: &str,
    entry: &'t Entry,
    catalogue: &'c dyn Catalogue,
    problems: &mut Problems,
) -> Option<Chosen<'c, 't>> {
    let schemas = catalogue.drivers(kind);
    let names: Vec<&str> = schemas.iter().map(|schema| schema.name).collect();
    let expected = format!("one of {}", list(&built(schemas)));
    let Some(table) = entry.node.as_table() else {
        let what = format!("`{slot}` takes a driver, not {}", entry.node.kind());
        problems.raise(Problem::new(entry.node.at, what).expected(expected));
        return None;
    };
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(_, entry)| entry.key);
    let Some((first, first_entry)) = entries.first() else {
        problems.raise(Problem::new(entry.key, format!("`{slot}` names no driver")).expected(expected));
        return None;
    };
    let known = |name: &str| schemas.iter().find(|schema| schema.name == name);
    for (key, second) in entries.iter().skip(1) {
        let problem = match (known(key), known(first)) {
            (None, Some(schema))
                if schema.fields.iter().any(|field| field.name == &***key)
                    || LEG_FIELDS.contains(&&***key) =>
            {
                Problem::new(second.key, format!("`{key}` stands beside the driver, not in it"))
                    .expected(format!("`{slot}.{first}.{key}`"))
            }
            (None, _) => unknown_driver(kind, key, second, &names, &expected),
            (Some(_), _) => Problem::new(second.key, format!("`{slot}` has a second driver, `{key}`"))
                .expected("exactly one")
                .also(first_entry.key, format!("the first, `{first}`")),
        };
        problems.raise(problem);
    }
    let Some(schema) = known(first) else {
        problems.raise(unknown_driver(kind, first, first_entry, &names, &expected));
        return None;
    };
    let Some(table) = first_entry.node.as_table() else {
        let what = format!("`{slot}.{first}` takes a table of fields, not {}", first_entry.node.kind());
        problems.raise(
            Problem::new(first_entry.node.at, what)
                .expected(format!("`{slot}.{first} = {{}}` where there are none")),
        );
        return None;
    };
    Some(Chosen { schema, entry: first_entry, table })
}

/// The drivers that can be used.
pub(super) fn built(schemas: &[DriverSchema]) -> Vec<&'static str> {
    schemas.iter().filter(|schema| schema.not_built.is_none()).map(|schema| schema.name).collect()
}

fn unknown_driver(kind: Kind, key: &str, entry: &Entry, names: &[&str], expected: &str) -> Problem {
    let problem = Problem::new(entry.key, format!("there is no {} driver `{key}`", kind.key()));
    problem.expected(expected).nearest(key, names.iter().copied())
}

/// `{ env = "NAME" }` or `{ file = "/path" }`.
fn secret(field: &str, entry: &Entry, problems: &mut Problems) -> Option<Value> {
    const EXPECTED: &str = "where it is found: `{ file = \"/etc/pitstop/…\" }` or `{ env = \"…\" }`";
    let Some(table) = entry.node.as_table() else {
        let what = format!("`{field}` is a secret and cannot stand in the inventory");
        problems.raise(Problem::new(entry.node.at, what).expected(EXPECTED));
        return None;
    };
    let source = table.iter().next().filter(|_| table.len() == 1);
    let reference = source.and_then(|(key, value)| Some((&**key, value.node.as_text()?, value.node.at)));
    let fits = match reference {
        Some(("file", path, _)) => !path.is_empty() && !path.contains('\0'),
        Some(("env", name, _)) => {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        }
        _ => false,
    };
    let Some((key, text, _)) = reference.filter(|_| fits) else {
        problems.raise(
            Problem::new(entry.node.at, format!("`{field}` does not say where the secret is"))
                .expected(EXPECTED),
        );
        return None;
    };
    Some(Value::Object(Map::from_iter([(key.to_owned(), Value::from(text))])))
}

/// Even a driver that is not built must not lead people to write passwords down.
fn refuse_literal_secrets(table: &Table, problems: &mut Problems) {
    for (key, entry) in
        table.iter().filter(|(key, entry)| names_a_secret(key) && entry.node.as_table().is_none())
    {
        secret(key, entry, problems);
    }
}
