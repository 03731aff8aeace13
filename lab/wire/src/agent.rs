//! Messages between the daemon and an agent. The agent always dials out.
//!
//! A connection opens with one [`Hello`] from the agent and one [`Welcome`]
//! from the daemon; then [`ToAgent`] and [`FromAgent`] flow. Image chunks are
//! asked for on the same connection ([`FromAgent::Fetch`]) and arrive as
//! bodies, so a session needs one port and one key.
//!
//! Rules that both ends keep:
//! - `attach` is spent once. The agent invents the session key, sends only
//!   its SHA-256, and the daemon commits that hash before it answers.
//! - `resume` needs the key itself, and the nonce and boot id of the attach.
//! - A result is re-sent until it is acknowledged; the daemon treats
//!   (nonce, step) as the identity of a result, so a repeat is harmless.

use crate::name::MachineName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The agent protocol this build speaks.
pub const PROTOCOL: u32 = 1;

/// How often an agent beats when nothing else is said, in milliseconds.
pub const HEARTBEAT_MS: u64 = 5_000;

/// A secret in transit. Serialises as itself, prints as `…`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which of the two agents speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// In RAM, started by a boot path that pitstop chose after a power-off
    /// that was read back. Only it may prove a disk.
    Boot,
    /// Inside the booted image, where the tenant may be root: it runs
    /// commands and reports, it proves nothing.
    Host,
}

/// What an agent is given at boot, by kernel command line or seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentParams {
    /// `host:port` of the machines' listener.
    pub server: String,
    /// SHA-256 of the CA certificate (DER), hexadecimal.
    pub ca: String,
    /// The machine this agent is to be.
    pub machine: MachineName,
    /// The attempt's nonce.
    pub nonce: String,
    /// The single-use attach token.
    pub token: Secret,
}

/// The agent's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hello", rename_all = "kebab-case")]
pub enum Hello {
    /// First contact of this boot.
    Attach {
        /// Oldest and newest protocol the agent speaks.
        protocol: (u32, u32),
        /// Version of the agent's program.
        version: String,
        /// Which agent.
        kind: AgentKind,
        /// The machine it was told to be.
        machine: MachineName,
        /// The attempt's nonce.
        nonce: String,
        /// The kernel's boot id (or the simulated one): new with every boot.
        boot_id: String,
        /// The single-use token.
        token: Secret,
        /// SHA-256 of the session key the agent made, hexadecimal.
        key_hash: String,
    },
    /// The same boot comes back after a lost connection or a restart of
    /// either side.
    Resume {
        /// Oldest and newest protocol the agent speaks.
        protocol: (u32, u32),
        /// Version of the agent's program.
        version: String,
        /// The machine.
        machine: MachineName,
        /// The attempt's nonce.
        nonce: String,
        /// The boot id given at attach.
        boot_id: String,
        /// The session key.
        key: Secret,
    },
}

impl Hello {
    /// The machine that the agent says it speaks for.
    pub fn machine(&self) -> &MachineName {
        match self {
            Self::Attach { machine, .. } | Self::Resume { machine, .. } => machine,
        }
    }
}

/// The daemon's answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "welcome", rename_all = "kebab-case")]
pub enum Welcome {
    /// Go on. Everything after this is fenced by the session.
    Accepted {
        /// Protocol to speak.
        protocol: u32,
        /// Beat at least this often.
        heartbeat_ms: u64,
        /// A host agent's token for the tenant's own reboots: keep it where
        /// the next boot of this image finds it. Absent for boot agents and
        /// on resume.
        rejoin: Option<Secret>,
    },
    /// Not you, not now. The agent does nothing to the machine; it may retry
    /// with back-off if `retry` is set.
    Refused {
        /// Why, in words.
        reason: String,
        /// Whether the same hello may succeed later (the daemon is starting).
        retry: bool,
    },
}

/// Where an image write begins and what it must leave behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageWork {
    /// Name of the disk in the inventory.
    pub disk: String,
    /// How the agent finds it.
    pub find: DiskMatch,
    /// Digest of the image's block map (`b3:…`); absent: the disk is to be
    /// zero from end to end.
    pub digest: Option<String>,
    /// Write, or only prove what should be there already.
    pub mode: ImageMode,
}

/// Whether a disk is written before it is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageMode {
    /// Erase and write all of it, then prove.
    Write,
    /// Prove; a difference is a failed result, nothing is written.
    Verify,
}

/// How a disk is recognised on the machine. All given keys must agree, and
/// exactly one disk may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskMatch {
    /// Device path or, on simulated machines, the disk file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Serial number as the kernel reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `nvme`, `sata`, `virtio`, `mmc`, `usb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// At least this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// At most this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// A disk the agent sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenDisk {
    /// Device path.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Serial number where the device has one.
    pub serial: Option<String>,
    /// Bus, in the words of [`DiskMatch::bus`].
    pub bus: String,
    /// World-wide name, where it has one (`naa.5000…`, `eui.0025…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version of its firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
}

/// What the boot agent found when it started. Agents of earlier versions do
/// not report all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Every whole disk.
    pub disks: Vec<SeenDisk>,
    /// Hardware addresses of the network cards.
    pub macs: Vec<String>,
    /// Memory in bytes.
    pub memory: u64,
    /// Logical processors.
    pub cpus: u32,
    /// Processor cores; 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cores: u32,
    /// Architecture: `x86_64`, `aarch64`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// Serial number of the machine, by SMBIOS or device tree; of its board
    /// or chassis where the machine itself has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// UUID of the machine, by SMBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Versions of its firmware: `bios`, `ec`, `u-boot`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub firmware: BTreeMap<String, String>,
}

/// What firmware says where nobody filled in a number: the same on every
/// machine of its kind, so it tells none of them apart.
pub fn is_placeholder(number: &str) -> bool {
    const WORDS: [&str; 16] = [
        "default string",
        "to be filled by o.e.m.",
        "to be filled by oem",
        "system serial number",
        "chassis serial number",
        "base board serial number",
        "serial number",
        "not specified",
        "not applicable",
        "not available",
        "unknown",
        "none",
        "n/a",
        "invalid",
        "oem",
        "empty",
    ];
    // 03000200-0400-… is the one that a maker of firmware leaves in its samples.
    const SAMPLES: [&str; 3] = ["0123456789", "123456789", "03000200-0400-0500-0006-000700080009"];
    let text = number.trim().to_ascii_lowercase();
    let plain: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let all_one = plain.iter().all(|c| Some(c) == plain.first());
    (all_one && (plain.len() > 3 || matches!(plain.first(), None | Some('0'))))
        || WORDS.contains(&text.as_str())
        || SAMPLES.contains(&text.as_str())
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One piece of work of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum Work {
    /// Report the hardware.
    Look,
    /// Bring a disk to a content and prove it.
    Image(ImageWork),
    /// Leave the host agent's parameters where the image says, outside its
    /// digest, and read them back.
    Seed {
        /// The disk.
        find: DiskMatch,
        /// Offset of the seed area in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// What the host agent is to find.
        params: AgentParams,
    },
    /// Stay in RAM and serve the tenant from there (`ram` hand-over).
    Serve,
}

/// What was erased, written and read back on one disk, item by item. A
/// missing or wrong item is no proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskProof {
    /// The device that was proven.
    pub path: String,
    /// Its serial number, where it has one.
    pub serial: Option<String>,
    /// Its size in bytes.
    pub device_bytes: u64,
    /// Digest of what was read back; absent for an all-zero disk.
    pub digest: Option<String>,
    /// Bytes read back.
    pub read_bytes: u64,
    /// Bytes proven equal to the image.
    pub image_bytes: u64,
    /// Bytes proven zero: holes of the image and all behind its end.
    pub zero_bytes: u64,
    /// Bytes written in this step; 0 for a verify.
    pub written_bytes: u64,
    /// How zeroes were made: `write`, `blkzeroout`, `punch`, `none`.
    pub erase: String,
    /// Wall time of the step in milliseconds.
    pub took_ms: u64,
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The machine's hardware. Much longer than any other outcome, hence the box.
    Seen(Box<Hardware>),
    /// The disk holds what was asked for.
    Proven(DiskProof),
    /// `verify` found something else; nothing was written.
    Differs {
        /// Where, in words, bounded.
        at: String,
    },
    /// The seed is written and was read back.
    Seeded,
    /// The agent serves from RAM.
    Serving,
    /// It did not work.
    Failed {
        /// What was attempted and what came back.
        reason: String,
        /// Whether the image's bytes are at fault rather than the machine.
        image: bool,
    },
}

/// Daemon to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToAgent {
    /// Do this; a repeated step is not done twice.
    Do {
        /// Number of the step within the attempt.
        step: u64,
        /// The work.
        work: Work,
    },
    /// The result of `step` is committed: stop re-sending.
    Ack {
        /// The step.
        step: u64,
    },
    /// The block map asked for (body: its bytes).
    Map {
        /// Digest.
        digest: String,
    },
    /// The chunk asked for (body: as stored, zstd).
    Chunk {
        /// Digest of the image.
        digest: String,
        /// Index of the chunk.
        index: u64,
    },
    /// What was asked for is not to be had.
    NoChunk {
        /// Digest of the image.
        digest: String,
        /// Index of the chunk; absent for a map.
        index: Option<u64>,
        /// Why.
        reason: String,
    },
    /// A command's stream message (see [`crate::run`]).
    Run(crate::run::ToRun),
    /// The session is over: stop commands, forget the key.
    Bye {
        /// Why.
        reason: String,
    },
}

/// Agent to daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromAgent {
    /// I live. Sent from another thread than the one that writes disks.
    Beat,
    /// How far a step is; may be dropped.
    Progress {
        /// The step.
        step: u64,
        /// `write` or `prove`.
        phase: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A step ended.
    Done {
        /// The step.
        step: u64,
        /// How.
        outcome: Outcome,
    },
    /// Send the block map of this image.
    FetchMap {
        /// Digest.
        digest: String,
    },
    /// Send a chunk.
    Fetch {
        /// Digest of the image.
        digest: String,
        /// Index of the chunk.
        index: u64,
    },
    /// A command's stream message.
    Run(crate::run::FromRun),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk() -> impl Strategy<Value = SeenDisk> {
        let names = any::<(Option<String>, Option<String>, Option<String>, Option<String>)>();
        (any::<String>(), any::<u64>(), any::<String>(), names).prop_map(
            |(path, bytes, bus, (serial, wwn, model, firmware))| SeenDisk {
                path,
                bytes,
                serial,
                bus,
                wwn,
                model,
                firmware,
            },
        )
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let machine = any::<(Option<String>, Option<String>, Option<String>, String)>();
        let numbers = any::<(u64, u32, u32)>();
        let firmware = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
        let parts = (prop::collection::vec(disk(), 0..3), any::<Vec<String>>(), numbers, machine, firmware);
        let seen =
            parts.prop_map(|(disks, macs, (memory, cpus, cores), (serial, uuid, model, arch), firmware)| {
                Outcome::Seen(Box::new(Hardware {
                    disks,
                    macs,
                    memory,
                    cpus,
                    cores,
                    arch,
                    serial,
                    uuid,
                    model,
                    firmware,
                }))
            });
        prop_oneof![
            seen,
            any::<String>().prop_map(|at| Outcome::Differs { at }),
            Just(Outcome::Seeded),
            Just(Outcome::Serving),
            (any::<String>(), any::<bool>()).prop_map(|(reason, image)| Outcome::Failed { reason, image }),
        ]
    }

    fn hello(token: String) -> Hello {
        Hello::Attach {
            protocol: (1, PROTOCOL),
            version: "0.1.0".to_owned(),
            kind: AgentKind::Boot,
            machine: MachineName::new("m1").unwrap(),
            nonce: "n".to_owned(),
            boot_id: "b".to_owned(),
            token: Secret(token),
            key_hash: "h".to_owned(),
        }
    }

    #[test]
    fn what_an_earlier_agent_reports_is_understood() {
        let said = r#"{"outcome":"seen","disks":[{"path":"/dev/vda","bytes":8,"serial":null,"bus":"virtio"}],
                       "macs":["52:54:00:00:00:01"],"memory":1024,"cpus":2}"#;
        let Outcome::Seen(hardware) = serde_json::from_str(said).unwrap() else { panic!() };
        assert_eq!((hardware.disks.len(), hardware.cpus, hardware.serial), (1, 2, None));
    }

    #[test]
    fn numbers_that_tell_no_machine_apart_are_none() {
        for none in [
            "",
            " ",
            "0",
            "00000000",
            "....",
            "To Be Filled By O.E.M.",
            "Default string",
            "FFFFFFFF",
            "00000000-0000-0000-0000-000000000000",
            "0123456789",
            "N/A",
        ] {
            assert!(is_placeholder(none), "{none:?}");
        }
        for number in ["ABC123", "S3Z8NB0K512345", "4c4c4544-0035-3310-8051-b4c04f4d3232", "root", "1", "号"]
        {
            assert!(!is_placeholder(number), "{number:?}");
        }
    }

    #[test]
    fn an_outcome_is_no_larger_than_a_proof_needs() {
        assert!(size_of::<Outcome>() <= size_of::<DiskProof>() + 16, "{}", size_of::<Outcome>());
    }

    proptest! {
        #[test]
        fn what_an_agent_reports_arrives_as_it_was_said(step in any::<u64>(), outcome in outcome()) {
            let said = FromAgent::Done { step, outcome };
            let heard = serde_json::from_slice(&serde_json::to_vec(&said).unwrap()).unwrap();
            prop_assert_eq!(said, heard);
        }

        #[test]
        fn a_token_travels_and_is_never_printed(token in "[!-~]{8,40}") {
            let hello = hello(token.clone());
            let printed = format!("{hello:?} {hello:#?}");
            prop_assert!(!printed.contains(&token));
            let heard = serde_json::from_slice(&serde_json::to_vec(&hello).unwrap()).unwrap();
            prop_assert_eq!(hello, heard);
        }
    }
}
