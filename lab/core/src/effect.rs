//! Effects: what is to be done about a decision. They leave only after the
//! records of their step are committed; a lost effect is
//! found again on start, but for an act of a person ([`Effect::Act`]): he is told that it was not done.

use crate::event::Act;
use crate::id::IntentId;
use crate::inventory::Point;
use crate::machine::Switch;
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::ToAgent;
use std::collections::BTreeMap;

/// Something a hand is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "few at a time, moved once")]
pub enum Effect {
    /// Switch a leg, read it back, and report [`crate::event::Fact::Power`].
    /// A leg that reads as wanted before anything was sent is left alone: a
    /// command that changes nothing cannot be seen to have landed, and a slow
    /// controller might act on it when the machine is somebody else's.
    Power {
        /// The machine.
        machine: MachineName,
        /// Index of the leg.
        leg: usize,
        /// The stored intent.
        intent: IntentId,
        /// On or off.
        want: Switch,
        /// What an `on` is to boot. [`Boot::AsIs`] is a person's command; with
        /// any other the machine is on a turn, and what stands beside it is
        /// put back to where a machine has it that is to boot.
        boot: Boot,
        /// Until when the report is due, and a command may be sent: the
        /// intent's own time counts from the decision, too, however long the
        /// commit, or the legs before this one, have taken since.
        until: LabTime,
    },
    /// Read a leg and report [`crate::event::Fact::Read`].
    Observe {
        /// The machine.
        machine: MachineName,
        /// Index of the leg.
        leg: usize,
    },
    /// Say something to the agent of this attempt, if it is connected. If it
    /// is not, nothing is lost: it is said again when it resumes.
    Tell {
        /// The machine.
        machine: MachineName,
        /// The attempt's nonce.
        nonce: String,
        /// What.
        message: ToAgent,
    },
    /// Run the machine's health check in its image, if its agent is connected,
    /// and report [`crate::event::Fact::Checked`]. Asked for again while it
    /// runs, it is not begun twice. If the agent is not connected, it is
    /// asked for again when it resumes.
    Check {
        /// The machine.
        machine: MachineName,
        /// The attempt's nonce.
        nonce: String,
        /// Program and arguments.
        run: Vec<String>,
    },
    /// Flip a switch, press a button or nudge the machine, and report [`crate::event::Fact::Acted`].
    Act {
        /// The machine.
        machine: MachineName,
        /// The stored intent.
        intent: IntentId,
        /// What.
        act: Act,
        /// Not to be begun any more after this: the machine may be somebody
        /// else's by then.
        until: LabTime,
    },
    /// Watch for what shows that the machine is up (`ready.console`, …), from
    /// now on and until it was seen, and report
    /// [`crate::event::Fact::Witnessed`].
    Witness {
        /// The machine.
        machine: MachineName,
        /// The turn's number, and which of its tries.
        turn: (u64, u32),
        /// Not after this.
        until: LabTime,
    },
    /// Run a hook of the machine's once, and report [`crate::event::Fact::Hooked`].
    Hook {
        /// The machine.
        machine: MachineName,
        /// The stored intent.
        intent: IntentId,
        /// What the report carries, and what belongs to this run alone.
        nonce: String,
        /// At which point.
        point: Point,
        /// Its name there.
        hook: String,
        /// What its placeholders stand for.
        fill: Fill,
        /// Until when the report is due; what still runs then is ended.
        until: LabTime,
    },
    /// Have the board's programmer write an image and read it back, and report
    /// [`crate::event::Fact::Programmed`].
    Program {
        /// The machine.
        machine: MachineName,
        /// The stored intent.
        intent: IntentId,
        /// What the report carries, and what belongs to this run alone.
        nonce: String,
        /// Digest of the image.
        image: String,
        /// Whether it is written, or only read back and compared.
        write: bool,
        /// Until when the report is due; what still runs then is ended.
        until: LabTime,
    },
    /// End the program of this run: nobody waits for it any more. Once it is
    /// known to be gone, report [`crate::event::Fact::Gone`].
    Stop {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
    },
    /// Close the agent's connection.
    Dismiss {
        /// The machine.
        machine: MachineName,
        /// What to tell it.
        reason: String,
    },
}

/// What the placeholders of a program stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fill {
    /// Those that are words.
    pub words: BTreeMap<String, String>,
    /// Those that are paths of files with the bytes of an image: its digest.
    pub files: BTreeMap<String, String>,
}

/// What a power-on is to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// Our boot agent: the boot driver asks for the attempt's parameters.
    Agent,
    /// The machine's own disk.
    Disk,
    /// Whatever the machine does by itself (a person's own command).
    AsIs,
}
