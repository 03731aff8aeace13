//! From the merged keys of a machine to its [`MachineSpec`].

use std::collections::BTreeMap;
use std::sync::Arc;

use pitstop_wire::selector::{Number, SPECIAL_KEYS, TagValue};

use super::catalogue::Kind;
use super::driver::{Drivers, Owner, built};
use super::error::{Problem, Problems};
use super::expand::Layered;
use super::hook::flash;
use super::model::{
    AfterBuild, DiskContent, DiskMatch, DiskSpec, DriverSpec, HealthCheck, Idle, Inventory, LegSpec, Limits,
    MachineSpec, OtherDisks, Verify,
};
use super::not_yet;
use super::reader::Reader;
use super::sections::{AFTER_BUILD, console_quota, idle, on_agent_lost};
use super::source::Loc;
use super::tree::{Entry, Table, Val};

/// Keys of a machine, and of a class but for `class` itself.
pub(super) const KEYS: [&str; 27] = [
    "class",
    "tags",
    "location",
    "note",
    "circuit",
    "image",
    "server",
    "power",
    "mains",
    "console",
    "boot",
    "disk",
    "other_disks",
    "ready",
    "reimage",
    "shell",
    "switch",
    "button",
    "hook",
    "shared",
    "policy",
    "after_build",
    "idle",
    "on_agent_lost",
    "timeout",
    "health",
    "console_quota",
];

const OTHER_DISKS: [(&str, OtherDisks); 2] =
    [("quarantine", OtherDisks::Quarantine), ("unproven", OtherDisks::Unproven)];

/// Where tags were first seen as a number or as text.
pub(super) type TagKinds = BTreeMap<String, (bool, Loc)>;

/// Reads one machine.
pub(super) struct MachineReader<'a, 'd> {
    pub machine: &'a Layered<'a>,
    pub drivers: &'a mut Drivers<'d>,
    pub inventory: &'a Inventory,
    pub tags: &'a mut TagKinds,
}

impl MachineReader<'_, '_> {
    /// The machine, or `None` after something was raised. All of it is read before anything is given up, so that every
    /// fault is told at once.
    pub fn read(mut self) -> Option<MachineSpec> {
        let merged = Arc::clone(&self.machine.merged);
        let table = &merged.table;
        let reader = Reader::new(table, "a machine");
        reader.only(&KEYS, self.drivers.problems);
        let names: Vec<&str> = self.names_of(table, "console");
        let owner = Owner {
            name: &self.machine.name,
            n: self.machine.n,
            consoles: &names,
            power: None,
            class: self.machine.only_class,
        };
        let legs = self.legs(table, owner);
        let power = legs.iter().find(|leg| leg.name == "power").map(|leg| leg.driver.driver.clone());
        let owner = Owner { power: power.as_deref(), ..owner };

        let consoles = self.consoles(table, owner);
        let boot = self.slot(Kind::Boot, table, owner);
        let ready = self.slot(Kind::Ready, table, owner);
        if let (Some(ready), Some(entry)) = (&ready, table.get("ready")) {
            self.sees_power(ready, &legs, entry);
        }
        let reimage = self.optional_slot(Kind::Reimage, table, owner);
        let shell = self.optional_slot(Kind::Shell, table, owner);
        let switches = self.named_slots(Kind::Switch, table, owner);
        let buttons = self.named_slots(Kind::Button, table, owner);
        let hooks = self.hooks(table, owner);
        let mut rest = self.rest(table, &reader, owner);
        let reimage = reimage.unwrap_or_else(|| DriverSpec::named("agent"));
        if let (Some(ready), false) = (&ready, self.machine.only_class) {
            self.hooks_fit(&hooks, ready, table);
            self.reimage_fits(&reimage, (ready, &legs), table);
        }
        if reimage.driver == "command" && rest.disks.is_empty() {
            rest.disks.push(flash(&reimage));
        }
        Some(MachineSpec {
            legs: real_legs(legs, &rest.disks),
            consoles: consoles?,
            boot: boot?,
            ready: ready?,
            reimage,
            hooks,
            shell,
            switches,
            buttons,
            ..rest
        })
    }

    /// Only our agent shows by its new boot id that it is not the last boot
    /// that still runs. Anything else says so only of a machine that was off.
    fn sees_power(&mut self, ready: &DriverSpec, legs: &[LegSpec], entry: &Entry) {
        let Some(blind) = legs.iter().find(|leg| !leg.readback) else { return };
        if ready.driver != "agent" {
            let what = format!(
                "`ready.{}` cannot tell this boot from the last one: `{}` is not read back",
                ready.driver, blind.name
            );
            let problem = Problem::new(entry.key, what).expected("`ready.agent`, or legs that can be read");
            self.drivers.problems.raise(problem);
        }
    }

    /// Everything that is not a driver.
    fn rest(&mut self, table: &Table, reader: &Reader<'_>, owner: Owner<'_>) -> MachineSpec {
        let (tags, disks) = (self.tags(table, owner), self.disks(table));
        let (location, image) = (self.filled("location", reader, owner), self.filled("image", reader, owner));
        let problems = &mut *self.drivers.problems;
        let circuits = self.inventory.circuits.keys().map(String::as_str);
        let policies = self.inventory.policies.keys().map(String::as_str);
        let spec = MachineSpec {
            name: self.machine.name.clone(),
            n: self.machine.n,
            class: self.machine.class.map(|(name, _)| name.to_owned()),
            tags,
            location,
            note: reader.string("note", problems),
            circuit: reader.reference("circuit", "circuit", circuits, problems),
            image,
            server: reader.address("server", problems),
            disks,
            other_disks: reader.word("other_disks", &OTHER_DISKS, problems).unwrap_or_default(),
            shared: reader.flag("shared", problems).unwrap_or(false),
            policy: reader.reference("policy", "policy", policies, problems),
            after_build: reader.word("after_build", &AFTER_BUILD, problems),
            idle: idle(reader, problems),
            on_agent_lost: on_agent_lost(reader, problems),
            limits: limits(reader, problems),
            health: reader.inner("health", problems).and_then(|table| health(table, problems)),
            console_quota: console_quota(reader, problems),
            sources: Arc::clone(&self.machine.merged.sources),
            legs: Vec::new(),
            consoles: BTreeMap::new(),
            boot: DriverSpec::default(),
            ready: DriverSpec::default(),
            reimage: DriverSpec::default(),
            shell: None,
            switches: BTreeMap::new(),
            buttons: BTreeMap::new(),
            hooks: BTreeMap::new(),
        };
        if !self.machine.only_class {
            self.check_keep(&spec, table);
            self.check_warm(&spec, table);
        }
        spec
    }

    /// Whether the key is there and in this release.
    fn usable(&mut self, key: &str, table: &Table) -> bool {
        let Some(entry) = table.get(key) else { return false };
        let mut unused = Problems::default();
        let problems = if self.machine.only_class { &mut unused } else { &mut *self.drivers.problems };
        not_yet::usable(&format!("machine.*.{key}"), entry.key, problems)
    }

    /// A key that must be there: the error points at the machine and says what its class is.
    fn missing(&mut self, key: &str, expected: &str) {
        let Layered { label, section, class, whole, .. } = *self.machine;
        if !whole {
            return;
        }
        let mut problem =
            Problem::new(section.key, format!("machine `{label}` has no `{key}`")).expected(expected);
        if let Some((class, entry)) = class {
            problem = problem.also(entry.key, format!("neither has its class `{class}`"));
        }
        self.drivers.problems.raise(problem);
    }

    fn slot(&mut self, kind: Kind, table: &Table, owner: Owner<'_>) -> Option<DriverSpec> {
        let key = kind.key();
        if let Some(entry) = table.get(key) {
            return self.drivers.read(kind, key, entry, owner);
        }
        let drivers = built(self.drivers.catalogue.drivers(kind));
        let example = drivers.first().map_or("…", |name| *name);
        self.missing(key, &format!("the driver, `{key}.{example} = {{ … }}`"));
        None
    }

    fn optional_slot(&mut self, kind: Kind, table: &Table, owner: Owner<'_>) -> Option<DriverSpec> {
        let entry = table.get(kind.key()).filter(|_| self.usable(kind.key(), table))?;
        self.drivers.read(kind, kind.key(), entry, owner)
    }

    fn names_of<'t>(&self, table: &'t Table, key: &str) -> Vec<&'t str> {
        let inner = table.get(key).and_then(|entry| entry.node.as_table());
        inner.into_iter().flatten().map(|(name, _)| &**name).collect()
    }

    fn legs(&mut self, table: &Table, owner: Owner<'_>) -> Vec<LegSpec> {
        let mut legs = Vec::new();
        if !table.contains_key("power") {
            self.slot(Kind::Power, &Table::new(), owner);
        }
        for name in ["power", "mains"] {
            let Some(entry) = table.get(name) else { continue };
            let Some(driver) = self.drivers.read(Kind::Power, name, entry, owner) else { continue };
            let fields =
                entry.node.as_table().and_then(|slot| slot.get(driver.driver.as_str())?.node.as_table());
            let empty = Table::new();
            let path = format!("`{name}.{}`", driver.driver);
            let reader = Reader::new(fields.unwrap_or(&empty), &path);
            let problems = &mut *self.drivers.problems;
            let leg = LegSpec {
                name: name.to_owned(),
                min_off_ms: reader.duration("min_off", problems).unwrap_or(0),
                readback: reader
                    .word("readback", &[("state", true), ("none", false)], problems)
                    .unwrap_or(true),
                usage: reader.string("use", problems),
                driver,
            };
            self.spare(name, &reader, &leg);
            if leg.readback && !owner.class {
                let at = entry.node.as_table().and_then(|slot| slot.get(leg.driver.driver.as_str()));
                self.drivers.readable(name, at.unwrap_or(entry).key, &leg.driver);
            }
            legs.push(leg);
        }
        legs
    }

    /// `use` of the leg in front of the first: one of a few words, since it says what is switched when.
    fn spare(&mut self, name: &str, reader: &Reader<'_>, leg: &LegSpec) {
        if name != "mains" {
            return;
        }
        let problems = &mut *self.drivers.problems;
        reader.word("use", &LegSpec::USES, problems);
        if leg.is_spare()
            && !leg.readback
            && let Some(entry) = reader.table.get("readback")
        {
            let what =
                "a spare leg must be read back: what hangs on it is believed to be off by nothing else";
            problems.raise(
                Problem::new(entry.node.at, what).expected("a leg that can be read, or `use = \"together\"`"),
            );
        }
    }

    fn consoles(&mut self, table: &Table, owner: Owner<'_>) -> Option<BTreeMap<String, DriverSpec>> {
        if !table.contains_key("console") {
            self.missing(
                "console",
                "a console, `console.main.X = { … }`, or `console = {}` where there is none",
            );
            return None;
        }
        Some(self.named_slots(Kind::Console, table, owner))
    }

    fn named_slots(&mut self, kind: Kind, table: &Table, owner: Owner<'_>) -> BTreeMap<String, DriverSpec> {
        let key = kind.key();
        let mut found = BTreeMap::new();
        if !self.usable(key, table) {
            return found;
        }
        for (name, entry) in
            Reader::new(table, "a machine").inner(key, self.drivers.problems).into_iter().flatten()
        {
            if !plain_name(name) {
                raise_name(key, name, entry, self.drivers.problems);
            } else if let Some(spec) = self.drivers.read(kind, &format!("{key}.{name}"), entry, owner) {
                found.insert(name.to_string(), spec);
            }
        }
        found
    }

    fn filled(&mut self, key: &str, reader: &Reader<'_>, owner: Owner<'_>) -> Option<String> {
        let (text, _) = reader.text(key, self.drivers.problems)?;
        let node = &reader.table.get(key)?.node;
        self.drivers.fill(text, node, &[], owner)
    }

    fn tags(&mut self, table: &Table, owner: Owner<'_>) -> BTreeMap<String, TagValue> {
        let mut tags = BTreeMap::new();
        for (key, entry) in
            Reader::new(table, "a machine").inner("tags", self.drivers.problems).into_iter().flatten()
        {
            if !plain_name(key) || SPECIAL_KEYS.contains(&&**key) {
                let what = format!("`{key}` cannot be a tag");
                let expected = format!(
                    "letters, digits, '.', '_', '-', and none of {}",
                    super::reader::list(&SPECIAL_KEYS)
                );
                self.drivers.problems.raise(Problem::new(entry.key, what).expected(expected));
                continue;
            }
            let Some(value) = self.tag(key, entry, owner) else { continue };
            self.check_tag_kind(key, &value, entry.node.at);
            tags.insert(key.to_string(), value);
        }
        tags
    }

    fn tag(&mut self, key: &str, entry: &Entry, owner: Owner<'_>) -> Option<TagValue> {
        let value = match &entry.node.value {
            Val::Text(text) => {
                let text = self.drivers.fill(text, &entry.node, &[], owner)?;
                // A selector must be able to name it.
                let fits = !text.is_empty()
                    && text.len() <= 256
                    && !text.contains(|c: char| c.is_control() || c == '"');
                fits.then_some(TagValue::Text(text))
            }
            Val::Bool(truth) => Some(TagValue::Text(truth.to_string())),
            Val::Int(int) => Number::from_int(*int).map(TagValue::Number),
            Val::Float(float) => Number::new(*float).map(TagValue::Number),
            _ => None,
        };
        if value.is_none() {
            let what = format!("tag `{key}` cannot have this value");
            let problem = Problem::new(entry.node.at, what);
            self.drivers.problems.raise(
                problem.expected("text of 1 to 256 characters without quotes, or a number without unit"),
            );
        }
        value
    }

    /// `ram = 8` here and `ram = "8"` there would make `ram=8..` pass over half of the machines.
    fn check_tag_kind(&mut self, key: &str, value: &TagValue, at: Loc) {
        let numeric = matches!(value, TagValue::Number(_));
        let (first, first_at) = *self.tags.entry(key.to_owned()).or_insert((numeric, at));
        if first != numeric {
            let word = |numeric: bool| if numeric { "a number" } else { "text" };
            let what = format!("tag `{key}` is {} here and {} elsewhere", word(numeric), word(first));
            self.drivers
                .problems
                .raise(Problem::new(at, what).also(first_at, format!("{} here", word(first))));
        }
    }

    fn disks(&mut self, table: &Table) -> Vec<DiskSpec> {
        let mut disks: Vec<(DiskSpec, &Entry)> = Vec::new();
        let problems = &mut *self.drivers.problems;
        for (name, entry) in Reader::new(table, "a machine").inner("disk", problems).into_iter().flatten() {
            let Some(inner) = entry.node.as_table().filter(|_| plain_name(name)) else {
                raise_name("disk", name, entry, problems);
                continue;
            };
            let disk = disk(name, inner, problems);
            if let Some((other, other_entry)) =
                disks.iter().find(|(other, _)| other.matching == disk.matching)
            {
                let what = format!("disks `{}` and `{name}` would match the same disk", other.name);
                problems.raise(Problem::new(entry.key, what).also(other_entry.key, "the other"));
            }
            disks.push((disk, entry));
        }
        disks.into_iter().map(|(disk, _)| disk).collect()
    }

    /// Keeping a used disk is for machines that everybody knows to be shared.
    fn check_keep(&mut self, spec: &MachineSpec, table: &Table) {
        let by_policy = spec.policy.as_ref().and_then(|name| self.inventory.policies.get(name)?.after_build);
        let (key, said) = if spec.after_build.is_some() {
            ("after_build", spec.after_build)
        } else {
            ("policy", by_policy)
        };
        if let (Some(AfterBuild::Keep), false, Some(entry)) = (said, spec.shared, table.get(key)) {
            let what = "a disk is kept only on machines that are marked as shared";
            self.drivers.problems.raise(
                Problem::new(entry.node.at, what)
                    .expected("`shared = true` on this machine, or another rule"),
            );
        }
    }

    /// What waits booted waits with the machine's own image.
    fn check_warm(&mut self, spec: &MachineSpec, table: &Table) {
        let by_policy = spec.policy.as_ref().and_then(|name| self.inventory.policies.get(name)?.idle);
        let (key, said) = if spec.idle.is_some() { ("idle", spec.idle) } else { ("policy", by_policy) };
        if let (Some(Idle::Warm { .. }), None, Some(entry)) = (said, &spec.image, table.get(key)) {
            let what = format!("`{key}` keeps this machine booted, and it has no `image` to boot");
            let expected = "`image = \"NAME\"` on this machine or its class; or `idle = \"off\"`";
            self.drivers.problems.raise(Problem::new(entry.node.at, what).expected(expected));
        }
    }
}

/// `power.none` is no leg: there is nothing to switch, to read or to wait for. On a machine with disks it stays one, of
/// which nothing is ever known: no disk may be proven where nobody can end what the last holder started.
fn real_legs(mut legs: Vec<LegSpec>, disks: &[DiskSpec]) -> Vec<LegSpec> {
    if disks.is_empty() {
        legs.retain(|leg| leg.driver.driver != "none");
    }
    legs
}

fn raise_name(key: &str, name: &str, entry: &Entry, problems: &mut Problems) {
    let problem = if plain_name(name) {
        Problem::new(entry.node.at, format!("`{key}.{name}` takes a table, not {}", entry.node.kind()))
    } else {
        Problem::new(entry.key, format!("`{name}` cannot be the name of a {key}"))
            .expected("letters, digits, '.', '_', '-'")
    };
    problems.raise(problem);
}

/// Names of tags, consoles and disks go into paths and selectors.
pub(super) fn plain_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits)
}

fn disk(name: &str, table: &Table, problems: &mut Problems) -> DiskSpec {
    const CONTENT: [(&str, DiskContent); 2] = [("image", DiskContent::Image), ("zero", DiskContent::Zero)];
    let path = format!("`disk.{name}`");
    let reader = Reader::new(table, &path);
    reader.only(&["match", "content", "verify"], problems);
    DiskSpec {
        name: name.to_owned(),
        matching: reader
            .inner("match", problems)
            .map(|table| disk_match(table, problems))
            .unwrap_or_default(),
        content: reader.word("content", &CONTENT, problems).unwrap_or_default(),
        verify: reader.word("verify", &[("full", Verify::Full)], problems).unwrap_or_default(),
    }
}

fn disk_match(table: &Table, problems: &mut Problems) -> DiskMatch {
    let reader = Reader::new(table, "`match`");
    reader.only(&["path", "serial", "bus", "min", "max"], problems);
    let found = DiskMatch {
        path: reader.string("path", problems),
        serial: reader.string("serial", problems),
        bus: reader.string("bus", problems),
        min: reader.size("min", problems),
        max: reader.size("max", problems),
        by: None,
    };
    if let (Some(min), Some(max), Some(entry)) = (found.min, found.max, table.get("max"))
        && max < min
    {
        problems.raise(
            Problem::new(entry.node.at, "no disk is that small and that large").expected("`max` above `min`"),
        );
    }
    found
}

/// `health = { every = "24h", run = ["stress-ng", "--timeout", "60s"] }`
fn health(table: &Table, problems: &mut Problems) -> Option<HealthCheck> {
    let reader = Reader::new(table, "`health`");
    reader.only(&["every", "run", "within"], problems);
    let run = reader.texts("run", problems).unwrap_or_default();
    let run: Vec<String> = run.into_iter().map(|(text, _)| text.to_owned()).collect();
    let every_ms = reader.duration("every", problems);
    if let (Some(ms), Some(entry)) = (every_ms, table.get("every"))
        && ms < HealthCheck::LEAST_MS
    {
        // Each check erases and writes its disks.
        problems.raise(
            Problem::new(entry.node.at, "a machine cannot be checked that often").expected("at least `10m`"),
        );
    }
    let within_ms = reader.duration("within", problems).unwrap_or(HealthCheck::WITHIN_MS);
    Some(HealthCheck { every_ms: every_ms.unwrap_or(HealthCheck::EVERY_MS), run, within_ms })
}

fn limits(reader: &Reader<'_>, problems: &mut Problems) -> Limits {
    let mut limits = Limits::default();
    let Some(table) = reader.inner("timeout", problems) else { return limits };
    let inner = Reader::new(table, "`timeout`");
    inner.only(&Limits::KEYS, problems);
    for key in Limits::KEYS {
        let said = inner.duration(key, problems);
        if let (Some(0), Some(entry)) = (said, table.get(key)) {
            problems
                .raise(Problem::new(entry.node.at, format!("`{key}` in `timeout` leaves no time at all")));
        }
        if let (Some(ms), Some(limit)) = (said, limits.get_mut(key)) {
            *limit = ms;
        }
    }
    limits
}
