//! Which machine and which reservation a change is about.

use super::Change;
use crate::id::ReservationId;
use pitstop_wire::MachineName;

impl Change {
    /// The machine this is about, if it is about one.
    pub fn machine(&self) -> Option<&MachineName> {
        use Change::*;
        match self {
            MachineDeclared { machine, .. }
            | MachineDoubted { machine, .. }
            | CircuitSet { machine, .. }
            | GaveWay { machine, .. }
            | ProofAsked { machine }
            | PowerCut { machine, .. }
            | CutOver { machine, .. }
            | MachineForgotten { machine }
            | HealthSet { machine, .. }
            | ImageFailed { machine, .. }
            | Granted { machine, .. }
            | MemberDropped { machine, .. }
            | MemberReady { machine, .. }
            | TurnStarted { machine, .. }
            | PhaseEntered { machine, .. }
            | DeadlineMoved { machine, .. }
            | PhaseFailed { machine, .. }
            | AttemptStarted { machine, .. }
            | TokenIssued { machine, .. }
            | AttemptBurned { machine }
            | PowerIntended { machine, .. }
            | PowerUnsettled { machine, .. }
            | PowerSettled { machine, .. }
            | PowerSeen { machine, .. }
            | AgentAttached { machine, .. }
            | AgentResumed { machine, .. }
            | AgentLost { machine }
            | AgentRefused { machine, .. }
            | ConsoleSaid { machine, .. }
            | AgentDismissed { machine }
            | StepTold { machine, .. }
            | StepDone { machine, .. }
            | HardwareSeen { machine, .. }
            | BaselineSet { machine, .. }
            | FactsDiffer { machine, .. }
            | WiringBegun { machine, .. }
            | WiringEnded { machine, .. }
            | DiskWriting { machine, .. }
            | DiskProven { machine, .. }
            | DiskUsed { machine, .. }
            | MachineReady { machine, .. }
            | WarmTaken { machine, .. }
            | InUse { machine }
            | Freed { machine, .. }
            | ProofPassed { machine }
            | ProofInVain { machine }
            | QuarantineExcused { machine }
            | PowerByHolder { machine, .. }
            | PowerByAdmin { machine, .. }
            | EvidenceSeen { machine, .. }
            | ActBegun { machine, .. }
            | ActDone { machine, .. }
            | ActFailed { machine, .. }
            | ProgramBegun { machine, .. }
            | ProgramEnded { machine, .. }
            | ProgramGone { machine, .. }
            | HooksDone { machine, .. }
            | NotMeddled { machine }
            | DiskByCommand { machine, .. }
            | LandingMoved { machine, .. }
            | CycleStopped { machine }
            | RunStarted { machine, .. } => Some(machine),
            _ => None,
        }
    }

    /// The reservation this is about, if it is about one.
    pub fn reservation(&self) -> Option<ReservationId> {
        use Change::*;
        match self {
            Queued { reservation, .. }
            | Granted { reservation, .. }
            | MemberDropped { reservation, .. }
            | Requeued { reservation }
            | MemberReady { reservation, .. }
            | ReservationReady { reservation, .. }
            | ClaimMoved { reservation, .. }
            | Claimed { reservation }
            | Extended { reservation, .. }
            | Ended { reservation, .. }
            | ReservationForgotten { reservation }
            | ImageReplaced { reservation, .. }
            | WarmTaken { reservation, .. }
            | RunStarted { reservation, .. } => Some(*reservation),
            TurnStarted { reservation, .. } => *reservation,
            _ => None,
        }
    }
}
