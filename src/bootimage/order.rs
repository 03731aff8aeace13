//! Which modules go in, and in which order they are loaded.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::manifest::Left;
use super::modinfo::name_of;
use super::module::Module;
use super::{BootImageError, DEFAULT_MODULES, Modules};

/// A chain of dependencies longer than this is no kernel's.
const MAX_DEPTH: usize = 64;
/// All modules together, in bytes.
const MAX_TOTAL: u64 = 256 << 20;

/// What a kernel has under the name of a module.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A module.
    Module(Module),
    /// It is part of the kernel.
    BuiltIn,
    /// Neither.
    Nothing,
}

/// What goes into the boot image.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Modules; each after those that it needs.
    pub(super) order: Vec<Module>,
    /// Asked for and part of the kernel.
    pub(super) builtin: Vec<String>,
    /// Of the default list, and not put in.
    pub(super) left_out: Vec<Left>,
}

/// Orders the modules that are wanted and what they need. `find` is asked at most once a name.
pub(super) fn plan(
    modules: &Modules,
    find: impl FnMut(&str) -> Result<Found, BootImageError>,
) -> Result<Plan, BootImageError> {
    let mut resolver = Resolver { find, known: BTreeMap::new(), order: Vec::new() };
    let mut plan = Plan::default();
    for (name, must) in wanted(modules)? {
        let mut chain = Chain::default();
        match resolver.visit(&name, &mut chain)? {
            Ok(()) if matches!(resolver.known.get(&name), Some(Known::BuiltIn)) => plan.builtin.push(name),
            Ok(()) => resolver.order.append(&mut chain.ready),
            Err(why) if must => return Err(BootImageError::ModuleWanted { name, why }),
            Err(why) => plan.left_out.push(Left { name, why }),
        }
    }
    let total: u64 = resolver.order.iter().map(|module| module.bytes.len() as u64).sum();
    if total > MAX_TOTAL {
        return Err(BootImageError::TooManyModules { limit: MAX_TOTAL });
    }
    plan.order = resolver.order.iter().map(|module| Module::clone(module)).collect();
    Ok(plan)
}

/// Each name once, and whether it was asked for by a person.
fn wanted(modules: &Modules) -> Result<Vec<(String, bool)>, BootImageError> {
    let named = |text: &String| name_of(text).ok_or_else(|| BootImageError::BadName(text.clone()));
    let mut list: Vec<(String, bool)> = Vec::new();
    let first: Vec<(String, bool)> = match &modules.only {
        None => DEFAULT_MODULES.iter().map(|&name| (name.to_owned(), false)).collect(),
        Some(only) => {
            only.iter().map(|name| Ok((named(name)?, true))).collect::<Result<_, BootImageError>>()?
        }
    };
    let also = modules.also.iter().map(|name| Ok((named(name)?, true)));
    for entry in first.into_iter().map(Ok).chain(also) {
        let (name, must) = entry?;
        match list.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 |= must,
            None => list.push((name, must)),
        }
    }
    Ok(list)
}

#[derive(Debug, Clone)]
enum Known {
    Module(Rc<Module>),
    BuiltIn,
    Nothing,
}

/// What one wanted module brings along; thrown away if it turns out to be impossible.
#[derive(Debug, Default)]
struct Chain {
    open: Vec<String>,
    ready: Vec<Rc<Module>>,
}

struct Resolver<F> {
    find: F,
    known: BTreeMap<String, Known>,
    order: Vec<Rc<Module>>,
}

/// Inner: the reason why a module cannot be loaded.
type Visit = Result<Result<(), String>, BootImageError>;

impl<F: FnMut(&str) -> Result<Found, BootImageError>> Resolver<F> {
    fn visit(&mut self, name: &str, chain: &mut Chain) -> Visit {
        if self.order.iter().chain(&chain.ready).any(|module| module.name == name) {
            return Ok(Ok(()));
        }
        if chain.open.iter().any(|open| open == name) {
            return Ok(Err(format!("it needs itself: {} → {name}", chain.open.join(" → "))));
        }
        if chain.open.len() >= MAX_DEPTH {
            return Ok(Err(format!("it needs a chain of more than {MAX_DEPTH} modules")));
        }
        let module = match self.look(name)? {
            Known::BuiltIn => return Ok(Ok(())),
            Known::Nothing => return Ok(Err(Self::nowhere(name, chain))),
            Known::Module(module) => module,
        };
        chain.open.push(name.to_owned());
        let visited = self.visit_needs(&module, chain);
        chain.open.pop();
        if matches!(visited, Ok(Ok(()))) {
            chain.ready.push(module);
        }
        visited
    }

    fn visit_needs(&mut self, module: &Module, chain: &mut Chain) -> Visit {
        for hope in &module.hopes {
            let before = chain.ready.len();
            if self.visit(hope, chain)?.is_err() {
                // Only a hope: the module works without it.
                chain.ready.truncate(before);
            }
        }
        for need in &module.depends {
            if let Err(why) = self.visit(need, chain)? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    fn nowhere(name: &str, chain: &Chain) -> String {
        match chain.open.last() {
            None => "this kernel has no such module".to_owned(),
            Some(by) => format!("{by} needs {name}, which this kernel's tree does not have"),
        }
    }

    fn look(&mut self, name: &str) -> Result<Known, BootImageError> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let known = match (self.find)(name)? {
            Found::Module(module) => Known::Module(Rc::new(module)),
            Found::BuiltIn => Known::BuiltIn,
            Found::Nothing => Known::Nothing,
        };
        self.known.insert(name.to_owned(), known.clone());
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name: needs | hopes`, or `name!` for a built-in one.
    fn kernel(lines: &'static [&'static str]) -> impl FnMut(&str) -> Result<Found, BootImageError> {
        let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        move |name| {
            if lines.contains(&format!("{name}!").as_str()) {
                return Ok(Found::BuiltIn);
            }
            let line = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.map_or(Found::Nothing, |rest| {
                let (depends, hopes) = rest.split_once('|').unwrap_or((rest, ""));
                let (depends, hopes) = (words(depends), words(hopes));
                Found::Module(Module {
                    path: format!("{name}.ko"),
                    name: name.into(),
                    depends,
                    hopes,
                    bytes: vec![],
                })
            }))
        }
    }

    fn only(names: &[&str]) -> Modules {
        Modules { only: Some(names.iter().map(|&n| n.to_owned()).collect()), also: vec![] }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.order.iter().map(|m| m.name.as_str()).collect()
    }

    const VIRTIO: &[&str] = &[
        "virtio_ring:",
        "virtio:virtio_ring",
        "virtio_pci:virtio_ring virtio virtio_pci_modern_dev",
        "virtio_pci_modern_dev:",
        "failover:",
        "net_failover:failover",
        "virtio_net:virtio virtio_ring net_failover | absent",
        "nvme!",
        "broken:virtio gone",
        "loop_a:loop_b",
        "loop_b:loop_a",
        "eager:virtio_ring | loop_a failover",
    ];

    #[test]
    fn each_module_comes_after_those_it_needs_and_once() {
        let plan = plan(&only(&["virtio-net", "virtio_pci", "virtio", "nvme"]), kernel(VIRTIO)).unwrap();
        assert_eq!(
            names(&plan),
            [
                "virtio_ring",
                "virtio",
                "failover",
                "net_failover",
                "virtio_net",
                "virtio_pci_modern_dev",
                "virtio_pci"
            ]
        );
        assert_eq!(plan.builtin, ["nvme"]);
    }

    #[test]
    fn a_default_module_that_cannot_be_loaded_is_listed_and_brings_nothing_along() {
        let plan =
            plan(&Modules::default(), kernel(&["virtio_net:failover gone", "failover:", "nvme!"])).unwrap();
        assert!(plan.order.is_empty(), "failover alone is of no use: {:?}", names(&plan));
        assert_eq!(plan.builtin, ["nvme"]);
        let why = |name: &str| plan.left_out.iter().find(|left| left.name == name).unwrap().why.clone();
        assert_eq!(why("virtio_net"), "virtio_net needs gone, which this kernel's tree does not have");
        assert_eq!(why("ahci"), "this kernel has no such module");
        assert_eq!(plan.left_out.len() + 1, DEFAULT_MODULES.len());
    }

    #[test]
    fn a_module_asked_for_by_name_must_be_there() {
        for (name, words) in
            [("broken", "needs gone"), ("e1000e", "no such module"), ("loop_a", "needs itself")]
        {
            let error = plan(&only(&[name]), kernel(VIRTIO)).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(name), "{error}");
        }
        let also = Modules { only: None, also: vec!["e1000e".into()] };
        assert!(plan(&also, kernel(VIRTIO)).is_err(), "also if the default list has it");
        assert!(matches!(plan(&only(&["../x"]), kernel(VIRTIO)), Err(BootImageError::BadName(_))));
    }

    #[test]
    fn a_hope_that_fails_harms_nobody() {
        let plan = plan(&only(&["eager"]), kernel(VIRTIO)).unwrap();
        assert_eq!(names(&plan), ["failover", "virtio_ring", "eager"]);
    }

    #[test]
    fn an_endless_chain_ends() {
        let find = |name: &str| {
            let depends = vec![format!("{name}x")];
            Ok(Found::Module(Module {
                path: String::new(),
                name: name.into(),
                depends,
                hopes: vec![],
                bytes: vec![],
            }))
        };
        let error = plan(&only(&["x"]), find).unwrap_err().to_string();
        assert!(error.contains("a chain of more than 64"), "{error}");
    }
}
