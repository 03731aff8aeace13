//! A catalogue of invented drivers with every kind of field, so that these tests do not change with the real ones.

use pitstop_core::inventory::{Catalogue, DriverSchema, FieldKind, FieldSchema, Kind, Takes, Unique, Word};

pub struct Invented;

const HOST: FieldSchema = FieldSchema::optional("host", FieldKind::HostRef, "where it is plugged in");

const fn built(
    name: &'static str,
    fields: &'static [FieldSchema],
    unique: &'static [Unique],
) -> DriverSchema {
    DriverSchema { name, fields, unique, ..DriverSchema::EMPTY }
}

const fn with(
    name: &'static str,
    fields: &'static [FieldSchema],
    power: &'static [&'static str],
) -> DriverSchema {
    DriverSchema { name, fields, with_power: power, ..DriverSchema::EMPTY }
}

const fn planned(name: &'static str) -> DriverSchema {
    DriverSchema { name, not_built: Some("it comes later"), ..DriverSchema::EMPTY }
}

const FAULTS: &[Word] = &[
    Word { name: "panic", takes: Takes::Nothing },
    Word { name: "lost", takes: Takes::Perhaps("MS") },
    Word { name: "late", takes: Takes::Number("MS") },
];

const POWER: &[DriverSchema] = &[
    built(
        "sim",
        &[
            FieldSchema::optional("disk", FieldKind::Size, "size of each disk"),
            FieldSchema::optional("faults", FieldKind::Words(FAULTS), "what goes wrong"),
        ],
        &[],
    ),
    built(
        "qemu",
        &[
            FieldSchema::optional("memory", FieldKind::Size, "memory"),
            FieldSchema::optional("cpus", FieldKind::Int { min: 1, max: 256 }, "processors"),
            FieldSchema::optional("disk", FieldKind::Size, "size of the disk"),
            FieldSchema::optional("file", FieldKind::Path, "file of the disk"),
        ],
        &[Unique { what: "disk file", fields: &["file"] }],
    ),
    built(
        "command",
        &[
            FieldSchema::required("on", FieldKind::Argv(&[]), "switches it on"),
            FieldSchema::required("off", FieldKind::Argv(&[]), "switches it off"),
            FieldSchema::optional("state", FieldKind::Argv(&["leg"]), "prints `on` or `off`"),
            HOST,
        ],
        &[],
    ),
    built(
        "outlet",
        &[
            FieldSchema::required("controller", FieldKind::ControllerRef, "the PDU"),
            FieldSchema::required("outlet", FieldKind::Label, "the outlet"),
        ],
        &[Unique { what: "outlet", fields: &["outlet"] }],
    ),
    built(
        "bmc",
        &[
            FieldSchema::required("address", FieldKind::Text, "its address"),
            FieldSchema::optional("password", FieldKind::Secret, "its password"),
            FieldSchema::optional("cipher", FieldKind::Int { min: 0, max: 17 }, "its cipher suite"),
        ],
        &[Unique { what: "address", fields: &["address"] }],
    ),
    planned("ipmi"),
];

const CONSOLE: &[DriverSchema] = &[
    with("sim", &[], &["sim"]),
    with("unix", &[], &["qemu"]),
    built(
        "serial",
        &[
            FieldSchema::optional("path", FieldKind::Path, "the device"),
            FieldSchema::optional("by_path", FieldKind::Text, "its name under by-path"),
            FieldSchema::optional("baud", FieldKind::Int { min: 50, max: 4_000_000 }, "its speed"),
            HOST,
        ],
        &[Unique { what: "serial port", fields: &["path"] }],
    ),
    planned("sol"),
];

const BOOT: &[DriverSchema] = &[
    with("sim", &[], &["sim"]),
    with(
        "direct",
        &[FieldSchema::optional("image", FieldKind::OneOf(&["agent"]), "what is started")],
        &["qemu"],
    ),
    built(
        "pxe",
        &[
            FieldSchema::optional("mac", FieldKind::Mac, "the card that boots"),
            FieldSchema::optional("firmware", FieldKind::OneOf(&["uefi", "bios"]), "kind of firmware"),
            FieldSchema::optional("console", FieldKind::ConsoleRef, "where it is watched"),
            FieldSchema::optional("match", FieldKind::Raw, "a regular expression"),
            FieldSchema::optional("wait", FieldKind::Duration, "how long"),
            FieldSchema::optional("quiet", FieldKind::Bool, "whether it is watched"),
        ],
        &[Unique { what: "MAC address", fields: &["mac"] }],
    ),
    planned("u-boot"),
];

const AGENT: &[DriverSchema] =
    &[built("agent", &[], &[]), built("power", &[], &[]), planned("console"), planned("command")];
const REIMAGE: &[DriverSchema] = &[
    built("agent", &[], &[]),
    built(
        "command",
        &[
            FieldSchema::required("run", FieldKind::Argv(&["image"]), "writes `{image}`"),
            FieldSchema::optional("read_back", FieldKind::Argv(&[]), "prints what is there"),
            HOST,
        ],
        &[],
    ),
];
const HOOKS: &[DriverSchema] = &[built(
    "hook",
    &[
        FieldSchema::required("run", FieldKind::Argv(&["machine", "image"]), "what is run"),
        FieldSchema::optional("timeout", FieldKind::Duration, "how long it may take"),
        FieldSchema::optional(
            "on_error",
            FieldKind::OneOf(&["quarantine", "warn"]),
            "what its failure means",
        ),
        HOST,
    ],
    &[],
)];
const SHELL: &[DriverSchema] = &[planned("ssh")];
const BY_COMMAND: &[DriverSchema] = &[planned("command")];
const HOSTS: &[DriverSchema] = &[built("local", &[], &[]), planned("ssh")];
const CONTROLLERS: &[DriverSchema] = &[
    built(
        "queue",
        &[FieldSchema::optional("at_once", FieldKind::Int { min: 1, max: 64 }, "commands at a time")],
        &[],
    ),
    built("snmp", &[FieldSchema::required("community", FieldKind::Secret, "community")], &[]),
];

impl Catalogue for Invented {
    fn drivers(&self, kind: Kind) -> &[DriverSchema] {
        match kind {
            Kind::Power => POWER,
            Kind::Console => CONSOLE,
            Kind::Boot => BOOT,
            Kind::Ready => AGENT,
            Kind::Reimage => REIMAGE,
            Kind::Shell => SHELL,
            Kind::Switch | Kind::Button => BY_COMMAND,
            Kind::Hook => HOOKS,
            Kind::Host => HOSTS,
            Kind::Controller => CONTROLLERS,
        }
    }
}
