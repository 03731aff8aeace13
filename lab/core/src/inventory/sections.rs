//! Everything in the inventory but the machines: the lab, hosts, controllers, circuits, resources, policies, groups.

use std::collections::BTreeMap;

use pitstop_wire::{MachineName, Selector, UserName};

use super::catalogue::Kind;
use super::driver::{Drivers, Owner, choose};
use super::error::{Problem, Problems};
use super::load::{named, section};
use super::model::{
    AfterBuild, AtEnd, Circuit, DriverSpec, Extend, Group, Idle, Inventory, LabInfo, Lease, MachineSpec,
    OnAgentLost, OnFailure, Policy, Resource, Said, WatchConsoles,
};
use super::not_yet;
use super::reader::Reader;
use super::source::SourceMap;
use super::tree::{Entry, Table, Val};

const TOP: [&str; 11] = [
    "format",
    "include",
    "lab",
    "host",
    "controller",
    "circuit",
    "resource",
    "policy",
    "group",
    "class",
    "machine",
];

/// Words of `after_build`.
pub(super) const AFTER_BUILD: [(&str, AfterBuild); 3] =
    [("reimage", AfterBuild::Reimage), ("power-off", AfterBuild::PowerOff), ("keep", AfterBuild::Keep)];

/// Words of `watch_consoles`.
const WATCH_CONSOLES: [(&str, WatchConsoles); 3] =
    [("all", WatchConsoles::All), ("group", WatchConsoles::Group), ("holder", WatchConsoles::Holder)];
/// The least room for console journals: less than a few segments would keep nothing.
const LEAST_QUOTA: u64 = 16 << 20;

/// Reads every section but the classes and machines.
pub(super) fn read(root: &Table, sources: &SourceMap, inventory: &mut Inventory, problems: &mut Problems) {
    Reader::new(root, "the inventory").only(&TOP, problems);
    if let Some(table) = section(root, "lab", problems) {
        inventory.lab = lab(table, problems);
    }
    for (name, entry, table) in named(root, "circuit", problems) {
        inventory.circuits.insert(name.to_string(), circuit(name, entry, table, sources, problems));
    }
    for (name, entry, table) in named(root, "resource", problems) {
        not_yet::usable("resource.*", entry.key, problems);
        inventory
            .resources
            .extend(resource(name, entry, table, problems).map(|resource| (name.to_string(), resource)));
    }
    for (name, _, table) in named(root, "policy", problems) {
        inventory.policies.insert(name.to_string(), policy(name, table, problems));
    }
    for (name, _, table) in named(root, "group", problems) {
        inventory.groups.insert(name.to_string(), group(name, table, problems));
    }
    check_groups(root, inventory, problems);
}

fn lab(table: &Table, problems: &mut Problems) -> LabInfo {
    let reader = Reader::new(table, "`lab`");
    reader.only(&["name", "zone", "console_quota", "watch_consoles"], problems);
    let default = LabInfo::default();
    let zone = reader.text("zone", problems).map(|(zone, at)| {
        if !is_zone(zone) {
            let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
            let problem = Problem::new(at, format!("`{zone}` is not a time zone"));
            let problem = problem.expected("a name such as `Europe/Berlin`");
            problems.raise(problem.nearest(zone, names.iter().map(String::as_str)));
        }
        zone.to_owned()
    });
    LabInfo {
        name: reader.string("name", problems).unwrap_or(default.name),
        zone: zone.unwrap_or(default.zone),
        console_quota: console_quota(&reader, problems),
        watch_consoles: reader.word("watch_consoles", &WATCH_CONSOLES, problems).unwrap_or_default(),
    }
}

/// Room on the disk for console journals, of the lab or of a machine.
pub(super) fn console_quota(reader: &Reader<'_>, problems: &mut Problems) -> Option<u64> {
    let bytes = reader.size("console_quota", problems)?;
    if bytes < LEAST_QUOTA
        && let Some(entry) = reader.table.get("console_quota")
    {
        let what = "`console_quota` leaves no room for what a machine says in one boot";
        problems.raise(Problem::new(entry.node.at, what).expected("at least `16MiB`"));
    }
    Some(bytes)
}

/// Whether this host knows the time zone. One without the list of them (the package `tzdata`) takes any name.
fn is_zone(zone: &str) -> bool {
    let db = jiff::tz::db();
    let written = zone.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c));
    let listed = db.available().any(|name| name.as_str() != "UTC");
    written && (!listed || db.get(zone).is_ok())
}

fn circuit(
    name: &str,
    entry: &Entry,
    table: &Table,
    sources: &SourceMap,
    problems: &mut Problems,
) -> Circuit {
    let path = format!("`circuit.{name}`");
    let reader = Reader::new(table, &path);
    reader.only(&["max_starting", "max_on", "note"], problems);
    let said = |key| Said(table.get(key).map(|entry| sources.place(entry.key)));
    let circuit = Circuit {
        max_starting: reader.count("max_starting", 1, problems),
        max_on: reader.count("max_on", 1, problems),
        said_starting: said("max_starting"),
        said_on: said("max_on"),
    };
    if !table.contains_key("max_starting") && !table.contains_key("max_on") {
        problems.raise(
            Problem::new(entry.key, format!("{path} limits nothing")).expected("`max_starting` or `max_on`"),
        );
    }
    circuit
}

fn resource(name: &str, entry: &Entry, table: &Table, problems: &mut Problems) -> Option<Resource> {
    let path = format!("`resource.{name}`");
    let reader = Reader::new(table, &path);
    reader.only(&["count", "note"], problems);
    let note = reader.string("note", problems);
    if !table.contains_key("count") {
        problems.raise(
            Problem::new(entry.key, format!("{path} does not say how many there are"))
                .expected("`count = 1`"),
        );
    }
    reader.count("count", 1, problems).map(|count| Resource { count, note })
}

fn policy(name: &str, table: &Table, problems: &mut Problems) -> Policy {
    let path = format!("`policy.{name}`");
    let reader = Reader::new(table, &path);
    reader.only(&["after_build", "idle", "on_agent_lost", "on_failure", "lease", "at_end"], problems);
    for key in ["on_failure", "at_end"] {
        if let Some(entry) = table.get(key) {
            not_yet::usable(&format!("policy.*.{key}"), entry.key, problems);
        }
    }
    Policy {
        after_build: reader.word("after_build", &AFTER_BUILD, problems),
        idle: idle(&reader, problems),
        on_agent_lost: on_agent_lost(&reader, problems),
        on_failure: reader.inner("on_failure", problems).and_then(|table| on_failure(table, problems)),
        lease: reader.inner("lease", problems).and_then(|table| lease(table, problems)),
        at_end: reader.inner("at_end", problems).map(|table| at_end(table, problems)),
    }
}

/// Policies of a role that keep machines booted, in a lab in which no machine that they are for has anything to boot.
pub(super) fn check_warm(
    root: &Table,
    policies: &BTreeMap<String, Policy>,
    machines: &BTreeMap<MachineName, MachineSpec>,
    problems: &mut Problems,
) {
    for (name, _, table) in named(root, "policy", problems) {
        let warm = policies.get(&**name).is_some_and(|policy| matches!(policy.idle, Some(Idle::Warm { .. })));
        let said = |spec: &MachineSpec| {
            let own = spec.policy.as_ref().and_then(|policy| policies.get(policy)?.idle);
            spec.idle.or(own).is_some()
        };
        let without = machines.values().all(|spec| said(spec) || spec.image.is_none());
        let Some(entry) = table.get("idle").filter(|_| warm && without && !machines.is_empty()) else {
            continue;
        };
        let what =
            format!("`idle` in `policy.{name}` keeps machines booted, and no machine has an `image` to boot");
        let expected = "`image = \"NAME\"` in a machine or its class; or `idle = \"off\"`";
        problems.raise(Problem::new(entry.node.at, what).expected(expected));
    }
}

/// `"off" | "warm" | { warm = "4h" }`
pub(super) fn idle(reader: &Reader<'_>, problems: &mut Problems) -> Option<Idle> {
    if let Val::Table(table) = &reader.table.get("idle")?.node.value {
        let inner = Reader::new(table, "`idle`");
        inner.only(&["warm"], problems);
        return inner.duration("warm", problems).map(|max_age_ms| Idle::Warm { max_age_ms });
    }
    let warm = Idle::Warm { max_age_ms: Idle::DEFAULT_WARM_MS };
    reader.word("idle", &[("off", Idle::Off), ("warm", warm)], problems)
}

/// `"ignore" | { fail_after = "15s" }`
pub(super) fn on_agent_lost(reader: &Reader<'_>, problems: &mut Problems) -> Option<OnAgentLost> {
    if let Val::Table(table) = &reader.table.get("on_agent_lost")?.node.value {
        let inner = Reader::new(table, "`on_agent_lost`");
        inner.only(&["fail_after"], problems);
        return inner.duration("fail_after", problems).map(|ms| OnAgentLost::FailAfter { ms });
    }
    reader.word("on_agent_lost", &[("ignore", OnAgentLost::Ignore)], problems)
}

fn on_failure(table: &Table, problems: &mut Problems) -> Option<OnFailure> {
    let reader = Reader::new(table, "`on_failure`");
    reader.only(&["hold", "at_most", "may_take"], problems);
    let at_most = reader.count("at_most", 1, problems).unwrap_or(1);
    let may_take = reader.texts("may_take", problems).unwrap_or_default();
    let may_take = may_take.into_iter().map(|(group, _)| group.to_owned()).collect();
    reader.duration("hold", problems).map(|hold_ms| OnFailure { hold_ms, at_most, may_take })
}

fn lease(table: &Table, problems: &mut Problems) -> Option<Lease> {
    const EXTEND: [(&str, Extend); 3] = [
        ("always", Extend::Always),
        ("while-nobody-waits", Extend::WhileNobodyWaits),
        ("never", Extend::Never),
    ];
    let reader = Reader::new(table, "`lease`");
    reader.only(&["default", "max", "extend"], problems);
    let extend = reader.word("extend", &EXTEND, problems).unwrap_or_default();
    let default = reader.duration("default", problems);
    let max = reader.duration("max", problems);
    if let (Some(default), Some(max), Some(entry)) = (default, max, table.get("default"))
        && (default > max || default == 0)
    {
        let what =
            if default == 0 { "a lease of no time" } else { "the default lease is longer than the longest" };
        problems.raise(Problem::new(entry.node.at, what).expected("more than nothing, at most `max`"));
    }
    // A lease that says one of the two means the same for the other.
    let default_ms = default.or(max)?;
    Some(Lease { default_ms, max_ms: max.unwrap_or(default_ms), extend })
}

fn at_end(table: &Table, problems: &mut Problems) -> AtEnd {
    let reader = Reader::new(table, "`at_end`");
    reader.only(&["warn", "quiet", "then", "keep_disk"], problems);
    let mut warn_ms = Vec::new();
    for (text, at) in reader.texts("warn", problems).unwrap_or_default() {
        match super::units::duration_ms(text) {
            Ok(ms) => warn_ms.push(ms),
            Err(expected) => {
                problems.raise(Problem::new(at, format!("`warn` cannot be `{text}`")).expected(expected));
            }
        }
    }
    warn_ms.sort_unstable_by_key(|ms| std::cmp::Reverse(*ms));
    warn_ms.dedup();
    AtEnd {
        warn_ms,
        quiet: reader.hours("quiet", problems),
        then: reader.word("then", &AFTER_BUILD, problems).unwrap_or(AfterBuild::PowerOff),
        keep_disk_ms: reader.duration("keep_disk", problems),
    }
}

fn group(name: &str, table: &Table, problems: &mut Problems) -> Group {
    let path = format!("`group.{name}`");
    let reader = Reader::new(table, &path);
    reader.only(&["members", "may"], problems);
    let mut members = Vec::new();
    for (text, at) in reader.texts("members", problems).unwrap_or_default() {
        match UserName::new(text) {
            Ok(user) => members.push(user.to_string()),
            Err(error) => problems.raise(Problem::new(at, error.to_string())),
        }
    }
    let mut group = Group { members, select: None, machines: None, priority: None, watch_consoles: None };
    if let Some(may) = reader.inner("may", problems) {
        let may = Reader::new(may, "`may`");
        may.only(&["select", "machines", "priority", "watch_consoles"], problems);
        for key in ["select", "machines", "priority"] {
            if let Some(entry) = may.table.get(key) {
                not_yet::usable(&format!("group.*.may.{key}"), entry.key, problems);
            }
        }
        group.machines = may.count("machines", 0, problems);
        group.priority = may.count("priority", 0, problems).map(i64::from);
        group.select = may.text("select", problems).and_then(|(text, at)| {
            let selector =
                Selector::parse(text).map_err(|error| problems.raise(Problem::new(at, error.to_string())));
            selector.ok().map(|selector| selector.to_string())
        });
        group.watch_consoles = may.word("watch_consoles", &WATCH_CONSOLES, problems);
    }
    group
}

/// Groups that policies name must exist.
fn check_groups(root: &Table, inventory: &Inventory, problems: &mut Problems) {
    let known: Vec<&str> = inventory.groups.keys().map(String::as_str).collect();
    for (_, _, policy) in named(root, "policy", problems) {
        let Some(table) = policy.get("on_failure").and_then(|entry| entry.node.as_table()) else { continue };
        for (text, at) in Reader::new(table, "`on_failure`").texts("may_take", problems).unwrap_or_default() {
            if !known.contains(&text) {
                let problem = Problem::new(at, format!("there is no group `{text}`"))
                    .expected("the name of a `[group.NAME]`");
                problems.raise(problem.nearest(text, known.iter().copied()));
            }
        }
    }
}

/// Hosts or controllers. One whose driver is not built may be declared: only its use is an error.
pub(super) fn reached(root: &Table, kind: Kind, drivers: &mut Drivers<'_>) -> BTreeMap<String, DriverSpec> {
    let mut found = BTreeMap::new();
    for (name, entry, _) in named(root, kind.key(), drivers.problems) {
        let slot = format!("{}.{name}", kind.key());
        let Some(chosen) = choose(kind, &slot, entry, drivers.catalogue, drivers.problems) else {
            // Known by name all the same, or each machine that uses it would be reported too.
            found.insert(name.to_string(), DriverSpec::default());
            continue;
        };
        let owner = Owner { name, n: None, consoles: &[], power: None, class: false };
        let spec = drivers.declared(&slot, &chosen, owner);
        found.insert(name.to_string(), spec.unwrap_or_else(|| DriverSpec::named(chosen.schema.name)));
    }
    found
}
