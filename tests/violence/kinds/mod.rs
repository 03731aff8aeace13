//! The kinds of violence, one file each. A kind does its harm to a lab under
//! load and leaves it alone again; what became of it is judged afterwards.

mod clock;
mod descriptors;
mod flood;
mod full;
mod idle;
mod junk;
mod kill;
mod locked;
mod pause;
mod second;

use crate::arena::Arena;
use crate::harness::Lab;

/// What a kind did, in words, or what went wrong meanwhile.
pub type Harm = Result<String, String>;

/// What a lab needs before it is started. Kinds that need the same share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    SmallDisk,
    Clock,
}

impl Needs {
    /// Changes a lab that nothing runs on yet.
    pub fn prepare(self, lab: &mut Lab) {
        match self {
            Self::Nothing => {}
            Self::SmallDisk => full::prepare(lab),
            Self::Clock => clock::prepare(lab),
        }
    }
}

/// One kind.
pub struct Kind {
    /// Its name on the command line.
    pub name: &'static str,
    /// What its lab needs.
    pub needs: Needs,
    /// Does the harm.
    pub harm: fn(&mut Arena) -> Harm,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind { name: "kill", needs: Needs::Nothing, harm: kill::harm },
    Kind { name: "pause", needs: Needs::Nothing, harm: pause::harm },
    Kind { name: "second", needs: Needs::Nothing, harm: second::harm },
    Kind { name: "locked", needs: Needs::Nothing, harm: locked::harm },
    Kind { name: "descriptors", needs: Needs::Nothing, harm: descriptors::harm },
    Kind { name: "flood", needs: Needs::Nothing, harm: flood::harm },
    Kind { name: "idle", needs: Needs::Nothing, harm: idle::harm },
    Kind { name: "junk", needs: Needs::Nothing, harm: junk::harm },
    Kind { name: "clock", needs: Needs::Clock, harm: clock::harm },
    Kind { name: "full", needs: Needs::SmallDisk, harm: full::harm },
];
