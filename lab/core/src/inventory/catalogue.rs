//! What the inventory may say about drivers. The core knows none by name: whoever links the drivers hands in a
//! [`Catalogue`] of them, those that are planned but not built included, so that using one is answered by a sentence.

use super::reader::list;

/// Where in the inventory a driver stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `power.X`, `mains.X`
    Power,
    /// `console.NAME.X`
    Console,
    /// `boot.X`
    Boot,
    /// `ready.X`
    Ready,
    /// `reimage.X`
    Reimage,
    /// `shell.X`
    Shell,
    /// `switch.NAME.X`
    Switch,
    /// `button.NAME.X`
    Button,
    /// `[[machine.M.hook.POINT]] NAME = { … }`: the first of the list says what one takes.
    Hook,
    /// `[host.NAME] X = { … }`
    Host,
    /// `[controller.NAME] X = { … }`
    Controller,
}

impl Kind {
    /// The key of the inventory, and the word for it in errors.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Console => "console",
            Self::Boot => "boot",
            Self::Ready => "ready",
            Self::Reimage => "reimage",
            Self::Shell => "shell",
            Self::Switch => "switch",
            Self::Button => "button",
            Self::Hook => "hook",
            Self::Host => "host",
            Self::Controller => "controller",
        }
    }
}

/// All drivers this release knows by name.
pub trait Catalogue {
    /// The drivers that may stand in this place, built or planned.
    fn drivers(&self, kind: Kind) -> &[DriverSchema];
}

/// What one driver takes.
#[derive(Debug, Clone, Copy)]
pub struct DriverSchema {
    /// The key it is written as.
    pub name: &'static str,
    /// Its fields. `host` and `controller` are listed like any other (kinds [`FieldKind::HostRef`],
    /// [`FieldKind::ControllerRef`]); `min_off`, `readback` and `use` of a power leg are not, every leg has them.
    pub fields: &'static [FieldSchema],
    /// Things of the world that only one machine can have.
    pub unique: &'static [Unique],
    /// The power drivers of a machine it works with; empty = all. (A simulated console needs a simulated machine.)
    pub with_power: &'static [&'static str],
    /// How a power driver knows the state of a leg.
    pub reads: Reads,
    /// `None` = built. Else what to tell who uses it, as a sentence: `it comes with the BMC drivers`.
    pub not_built: Option<&'static str>,
}

impl DriverSchema {
    /// A driver that is built and takes no fields.
    pub const EMPTY: Self =
        Self { name: "", fields: &[], unique: &[], with_power: &[], reads: Reads::Itself, not_built: None };
}

/// How a power driver knows the state of a leg. Of a leg that nothing reads the inventory must say `readback = "none"`:
/// else each of its commands would be waited for until it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// It asks what it switches.
    Itself,
    /// Only where this field says how.
    By(&'static str),
    /// What it switches cannot tell.
    Never,
    /// As the driver of its controller does.
    AsController,
}

/// Fields that together name one thing of the world. Two drivers with equal values, on the same host and the same
/// controller, are an error that names both places. Counts only where all the fields are set, or are something unsaid.
#[derive(Debug, Clone, Copy)]
pub struct Unique {
    /// The thing, for people: `outlet`, `serial port`, `MAC address`, `disk file`. Compared across drivers.
    pub what: &'static str,
    /// The fields.
    pub fields: &'static [&'static str],
}

/// One field of a driver.
#[derive(Debug, Clone, Copy)]
pub struct FieldSchema {
    /// The key.
    pub name: &'static str,
    /// What it takes.
    pub kind: FieldKind,
    /// Whether the driver cannot do without.
    pub required: bool,
    /// What it is where nobody says, for [`Unique`]: two machines of which one says it and one does not may mean the
    /// same thing. `{name}` in it is the machine's name.
    pub unsaid: Option<&'static str>,
    /// One line for people.
    pub doc: &'static str,
}

impl FieldSchema {
    /// A field the driver can do without.
    #[must_use]
    pub const fn optional(name: &'static str, kind: FieldKind, doc: &'static str) -> Self {
        Self { name, kind, required: false, unsaid: None, doc }
    }

    /// A field the driver needs.
    #[must_use]
    pub const fn required(name: &'static str, kind: FieldKind, doc: &'static str) -> Self {
        Self { name, kind, required: true, unsaid: None, doc }
    }

    /// The same, with what it is where nobody says.
    #[must_use]
    pub const fn or(self, unsaid: &'static str) -> Self {
        Self { unsaid: Some(unsaid), ..self }
    }
}

/// What a field takes, and what the driver gets in [`DriverSpec::fields`](super::model::DriverSpec::fields).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Text; `{name}` and `{n}` are filled in, `{{` and `}}` are braces. Gives text.
    Text,
    /// Text taken as it stands: a prompt, a regular expression, a kernel command line. Gives text.
    Raw,
    /// Text as above or a whole number, for what is numbered on one device and lettered on the next. Gives text.
    Label,
    /// A whole number, or text that is one once `{n}` is filled in. Gives an integer.
    Int {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// `true` or `false`.
    Bool,
    /// `"30s"`, `"1h30m"`: a unit is needed. Gives milliseconds.
    Duration,
    /// `"512M"`, `"400GB"`: a unit is needed; K, M, G, T and KiB, … count by 1024, KB, … by 1000. Gives bytes.
    Size,
    /// `{ env = "NAME" }` or `{ file = "/path" }`, never the secret itself. Gives that table.
    Secret,
    /// A path; `{name}` and `{n}` are filled in. Gives text.
    Path,
    /// A device in the network: `host`, `host:port`; `{name}` and `{n}` are filled in. Gives `host:port` in lower case
    /// (an IPv6 address in brackets).
    Address {
        /// The port where none is written; `None`: one must be.
        port: Option<u16>,
    },
    /// A hardware address, `aa:bb:cc:dd:ee:ff`. Gives it in lower case.
    Mac,
    /// A command as a list, not run by a shell; `{name}` and `{n}` are filled in. The placeholders named here are
    /// filled in when it runs, by [`template::render`](super::template::render). Gives a list of text.
    Argv(&'static [&'static str]),
    /// A list of plain texts. Gives a list of text.
    List,
    /// A list of these words: `NAME`, `NAME:NUMBER` where it takes a number, and `*COUNT` behind either. Gives a list of
    /// text.
    Words(&'static [Word]),
    /// One of these words. Gives text.
    OneOf(&'static [&'static str]),
    /// The name of a `[host.NAME]`; goes to [`DriverSpec::host`](super::model::DriverSpec::host).
    HostRef,
    /// The name of a `[controller.NAME]`; goes to [`DriverSpec::controller`](super::model::DriverSpec::controller).
    ControllerRef,
    /// The name of a console of the same machine. Gives text.
    ConsoleRef,
}

impl FieldKind {
    /// What it takes, for people.
    #[must_use]
    pub fn takes(self) -> String {
        match self {
            Self::Text | Self::Raw => "text".to_owned(),
            Self::Label => "text or a number".to_owned(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Duration => "a duration".to_owned(),
            Self::Size => "a size".to_owned(),
            Self::Secret => "a reference to a secret".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Address { port: Some(_) } => "an address, `host` or `host:port`".to_owned(),
            Self::Address { port: None } => "an address, `host:port`".to_owned(),
            Self::Mac => "a hardware address".to_owned(),
            Self::Argv(_) => "a command as a list, `[\"program\", \"argument\"]`".to_owned(),
            Self::List | Self::Words(_) => "a list of texts".to_owned(),
            Self::OneOf(words) => format!("one of {}", list(words)),
            Self::HostRef => "the name of a host".to_owned(),
            Self::ControllerRef => "the name of a controller".to_owned(),
            Self::ConsoleRef => "the name of a console of the machine".to_owned(),
        }
    }
}

/// A word of [`FieldKind::Words`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub name: &'static str,
    /// Whether a number stands behind it.
    pub takes: Takes,
}

/// Whether a number stands behind a [`Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// None.
    Nothing,
    /// One may, of this unit.
    Perhaps(&'static str),
    /// One must, of this unit.
    Number(&'static str),
}

impl Word {
    /// Whether `text` is this word as it may be written.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().is_ok() && text.bytes().all(|b| b.is_ascii_digit());
        let (rest, counted) =
            text.split_once('*').map_or((text, true), |(rest, count)| (rest, count.parse::<u32>().is_ok()));
        let (name, given) = rest.split_once(':').map_or((rest, None), |(name, given)| (name, Some(given)));
        let takes = match (self.takes, given) {
            (Takes::Nothing | Takes::Perhaps(_), None) => true,
            (Takes::Nothing, Some(_)) | (Takes::Number(_), None) => false,
            (Takes::Perhaps(_) | Takes::Number(_), Some(given)) => number(given),
        };
        name == self.name && takes && counted
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.takes {
            Takes::Nothing => write!(f, "{}", self.name),
            Takes::Perhaps(unit) => write!(f, "{}[:{unit}]", self.name),
            Takes::Number(unit) => write!(f, "{}:{unit}", self.name),
        }
    }
}
