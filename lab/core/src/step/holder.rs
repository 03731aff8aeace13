//! What a holder may do with his machine: power, commands, a fresh image.

use super::Step;
use crate::effect::{Boot, Effect};
use crate::event::{Act, Caller, Nudge, PowerAction};
use crate::id::ReservationId;
use crate::machine::{Content, DiskPlan, Goal, Health, Machine, Purpose, Stage, Switch};
use crate::record::Change;
use crate::reservation::Want;
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::{Value, json};

/// How long after it was asked for a switch may begin to move (ms).
const ACT_BEGINS: u64 = 10_000;

impl Step<'_> {
    /// The machine, if this caller may act on it: its holder, or an admin
    /// who gives a reason. Checked here, at execution, so that an answer
    /// given to a confirmation that aged past a change of holder is no.
    pub(crate) fn held_by(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        force: Option<&str>,
    ) -> Result<std::sync::Arc<Machine>, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        let holder = machine.reservation().and_then(|id| self.lab.reservations.get(&id)).cloned();
        match holder {
            Some(r) if r.owner == caller.user => Ok(machine),
            Some(r) => {
                if force.is_some_and(|why| !why.trim().is_empty()) && caller.admin {
                    return Ok(machine);
                }
                Err(ApiError::new(Code::Held, format!("{name} is held by {} ({})", r.owner, r.id))
                    .holder(r.owner.to_string())
                    .hint("ask the holder; admins: --force --reason TEXT"))
            }
            None => Err(ApiError::new(Code::Conflict, format!("{name} is not held by you: nobody holds it"))
                .hint(format!("pitstop reserve name={name}"))),
        }
    }

    /// The same, and the machine must be in use (a ready one becomes so: to
    /// act on it is to come for it).
    pub(crate) fn in_use(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        force: Option<&str>,
    ) -> Result<(std::sync::Arc<Machine>, ReservationId), ApiError> {
        let machine = self.held_by(caller, name, force)?;
        if let Stage::Ready { reservation: Some(id), .. } = machine.stage {
            self.claim(id)?;
        }
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        match machine.stage {
            Stage::InUse { reservation, .. } => Ok((machine, reservation)),
            _ => Err(ApiError::new(Code::Conflict, format!("{name} is not ready yet: {}", machine.state()))
                .hint(format!("pitstop why {name}"))),
        }
    }

    /// Power by hand: a holder's, or an admin's of a machine that nobody can
    /// get.
    pub(crate) fn power_by_hand(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        action: PowerAction,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        match (self.machine(name), action) {
            (_, PowerAction::Nudge(nudge)) => self.nudge(caller, name, nudge, force),
            (Some(machine), _) if caller.admin && machine.is_out_of_use() => {
                self.admin_power(&machine, action, force)
            }
            _ => self.holder_power(caller, name, action, force),
        }
    }

    /// The machine is asked, or starts again. Whatever becomes of its agent is
    /// the holder's own doing.
    fn nudge(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        nudge: Nudge,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        self.may_act(caller, name, force)?;
        self.still_known(name)?;
        if self.machine(name).is_some_and(|m| m.legs.is_empty()) {
            return Err(ApiError::new(Code::Conflict, format!("{name} has no power leg")));
        }
        self.change(Change::PowerByHolder { machine: name.clone(), action: nudge.word().to_owned() });
        Ok(self.begin_act(name, Act::Nudge(nudge)))
    }

    /// An admin repairs a machine, or wires it. It is given to nobody before
    /// all this is settled, as after any power command.
    fn admin_power(
        &mut self,
        machine: &Machine,
        action: PowerAction,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        let name = &machine.name;
        let no = |text: String| ApiError::new(Code::Conflict, text);
        let reason = reason_if_new(machine, force)?;
        if self.changed_parts(name) || machine.legs.is_empty() {
            return Err(no(format!("{name} has no legs that the inventory knows"))
                .hint(format!("pitstop why {name}")));
        }
        let (word, want) = match action {
            PowerAction::On => ("on", Switch::On),
            PowerAction::Off => ("off", Switch::Off),
            PowerAction::Nudge(nudge) => return Ok(self.begin_act(name, Act::Nudge(nudge))),
            PowerAction::Cycle => {
                return Err(no(format!("{name} is out of use, where power is not cycled in one go"))
                    .hint(format!("pitstop power {name} off, then on")));
            }
        };
        if want == Switch::On {
            self.is_settled(machine).map_err(|error| error.hint("wait, or switch it off"))?;
        }
        let (to, why) = (name.clone(), reason.map(str::to_owned));
        self.change(Change::PowerByAdmin { machine: to, action: word.to_owned(), reason: why });
        // It boots what is on its disks, and that writes there.
        if want == Switch::On {
            let unused = |at: &usize| !matches!(machine.disks[*at].content, Content::Used { .. });
            for disk in (0..machine.disks.len()).filter(unused) {
                self.change(Change::DiskUsed { machine: name.clone(), disk, by: None });
            }
        }
        self.switch_all(name, want, Boot::AsIs);
        Ok(self.switched(name, word, 1))
    }

    fn holder_power(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        action: PowerAction,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        self.still_known(name)?;
        let (machine, _) = self.in_use(caller, name, force)?;
        if machine.legs.is_empty() {
            return Err(ApiError::new(Code::Conflict, format!("{name} has no power leg")));
        }
        if action != PowerAction::Off {
            self.is_settled(&machine).map_err(|error| error.hint("wait, or switch it off"))?;
        }
        let (word, want) = match action {
            PowerAction::On => ("on", Switch::On),
            PowerAction::Off => ("off", Switch::Off),
            PowerAction::Cycle => ("cycle", Switch::Off),
            PowerAction::Nudge(nudge) => return Ok(self.begin_act(name, Act::Nudge(nudge))),
        };
        self.change(Change::PowerByHolder { machine: name.clone(), action: word.to_owned() });
        self.switch_all(name, want, Boot::AsIs);
        // The on of a cycle has as long again.
        let commands = if action == PowerAction::Cycle { 2 } else { 1 };
        Ok(self.switched(name, word, commands))
    }

    /// A switch or a button, by whoever may switch power: an SD card taken
    /// from a machine is as good as its plug pulled.
    pub(crate) fn act(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        act: Act,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        self.may_act(caller, name, force)?;
        let (kind, of, wanted) = match (&act, self.spec(name)) {
            (Act::Flip { switch, .. }, spec) => ("switch", spec.map(|s| &s.switches), switch),
            (Act::Press { button }, spec) => ("button", spec.map(|s| &s.buttons), button),
            (Act::Nudge(nudge), _) => return self.nudge(caller, name, *nudge, force),
        };
        let has: Vec<&str> = of.into_iter().flat_map(|all| all.keys().map(String::as_str)).collect();
        if !has.contains(&wanted.as_str()) {
            let text = format!("{name} has no {kind} `{wanted}`");
            let hint = if has.is_empty() {
                format!("it has no {kind}")
            } else {
                format!("it has {}", has.join(", "))
            };
            return Err(ApiError::new(Code::NotFound, text).hint(hint));
        }
        Ok(self.begin_act(name, act))
    }

    fn may_act(&mut self, caller: &Caller, name: &MachineName, force: Option<&str>) -> Result<(), ApiError> {
        match self.machine(name) {
            Some(machine) if caller.admin && machine.is_out_of_use() => {
                reason_if_new(&machine, force).map(drop)
            }
            _ => self.in_use(caller, name, force).map(drop),
        }
    }

    fn begin_act(&mut self, name: &MachineName, act: Act) -> Value {
        let what = act.to_string();
        self.change(Change::ActBegun { machine: name.clone(), what: what.clone() });
        let until = self.now() + ACT_BEGINS;
        self.effect(Effect::Act { machine: name.clone(), act, until });
        json!({ "machine": name, "what": what })
    }

    pub(crate) fn acted(&mut self, machine: MachineName, act: &Act, result: Result<(), String>) {
        if self.machine(&machine).is_none() {
            return;
        }
        let what = act.to_string();
        self.change(match result {
            Ok(()) => Change::ActDone { machine, what },
            Err(answer) => Change::ActFailed { machine, what, answer },
        });
    }

    fn switched(&self, name: &MachineName, word: &str, commands: u64) -> Value {
        let ms = self.machine(name).and_then(|m| self.landing(&m));
        let settled = ms.map(|ms| (ms * commands).div_ceil(1_000));
        json!({ "machine": name, "power": word, "settled_within": settled })
    }

    /// Milliseconds until no power command may land any more, if one may.
    fn landing(&self, machine: &Machine) -> Option<u64> {
        let last = machine.legs.iter().flat_map(|l| &l.unsettled).map(|i| i.may_land_until).max();
        last.map(|at| at - self.now())
    }

    /// Whether what was commanded is over; else for how long it may not be.
    pub(crate) fn is_settled(&self, machine: &Machine) -> Result<(), ApiError> {
        let Some(ms) = self.landing(machine) else { return Ok(()) };
        let seconds = ms / 1_000 + 1;
        let text = format!("an earlier power command may still act on {} for {seconds} s", machine.name);
        let mut error = ApiError::new(Code::Conflict, text);
        error.retry_after = Some(seconds);
        Err(error)
    }

    pub(crate) fn run_started(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        command: &str,
    ) -> Result<Value, ApiError> {
        let (machine, reservation) = self.in_use(caller, name, None)?;
        let Some(agent) = &machine.agent else {
            return Err(ApiError::new(Code::Conflict, format!("{name} runs no agent"))
                .hint("reserve with --want image or --want agent to run commands"));
        };
        let (nonce, boot_id) = (agent.nonce.clone(), agent.boot_id.clone());
        let command: String = command.chars().filter(|c| !c.is_control()).take(200).collect();
        self.change(Change::RunStarted { machine: name.clone(), reservation, command });
        Ok(
            json!({ "machine": name, "reservation": reservation.to_string(), "nonce": nonce, "boot_id": boot_id }),
        )
    }

    /// A turn from the holder back to the holder.
    pub(crate) fn holder_reimage(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        image: Option<&str>,
    ) -> Result<Value, ApiError> {
        self.still_known(name)?;
        let (machine, id) = self.in_use(caller, name, None)?;
        let image = match image {
            Some(image) => Some(self.image(image)?),
            None => match &machine.stage {
                Stage::InUse { image: Some(image), .. } => Some(image.clone()),
                _ => self.lab.default_image(name),
            },
        };
        let want = self.lab.reservations.get(&id).map_or(Want::Image, |r| r.ask.want);
        let goal = match want {
            Want::Bare => Goal::Off,
            Want::Agent => Goal::Agent,
            Want::Image => Goal::Image,
        };
        if self.runs_no_agent(name) {
            return Err(ApiError::new(
                Code::Conflict,
                format!("{name} runs no agent that could write its disks"),
            ));
        }
        if let (Goal::Image, Some(seedless)) = (goal, image.as_ref().filter(|i| i.seed.is_none())) {
            let text = format!("image `{}` has no seed area for the host agent", seedless.name);
            return Err(ApiError::new(Code::Conflict, text).hint("add it with --seed"));
        }
        if goal == Goal::Image && image.is_none() {
            return Err(ApiError::new(Code::Conflict, format!("there is no image to write to {name}"))
                .hint("pitstop image ls"));
        }
        self.begin_turn(name, Purpose::Prepare, goal, Some(id), image, DiskPlan::Write);
        Ok(json!({ "machine": name, "reservation": id.to_string() }))
    }

    /// A reload may have given the machine other legs and disks while it is
    /// held. Nobody has accepted that those are switched and erased.
    fn still_known(&self, name: &MachineName) -> Result<(), ApiError> {
        if self.is_known(name) || self.machine(name).is_none() {
            return Ok(());
        }
        let text = format!("{name} has other legs or disks in the inventory now than when you got it");
        Err(ApiError::new(Code::Conflict, text).hint("release it; an admin must enrol it again"))
    }

    pub(crate) fn no_machine(&self, name: &MachineName) -> ApiError {
        let near = pitstop_wire::nearest(name.as_str(), self.lab.machines.keys().map(|m| m.as_str()));
        let error = ApiError::new(Code::NotFound, format!("there is no machine `{name}`"));
        match near {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("pitstop ls"),
        }
    }
}

/// The reason that was given; one is needed where the machine is new.
fn reason_if_new<'f>(machine: &Machine, force: Option<&'f str>) -> Result<Option<&'f str>, ApiError> {
    let reason = force.map(str::trim).filter(|why| !why.is_empty());
    if machine.health == Health::New && reason.is_none() {
        let text = format!("{} is new: nothing of it is switched before an admin says so", machine.name);
        return Err(ApiError::new(Code::Conflict, text).hint("pitstop admin enrol, or --force --reason TEXT"));
    }
    Ok(reason)
}
