//! What a holder may do with his machine: power, commands, a fresh image.

use super::Step;
use super::circuit::Room;
use crate::effect::{Boot, Effect};
use crate::event::{Act, Caller, PowerAction};
use crate::id::{IntentId, ReservationId};
use crate::machine::{Content, DiskPlan, Goal, Health, Intent, Machine, Purpose, Stage, Switch};
use crate::record::Change;
use crate::reservation::Want;
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::{Value, json};

/// How long after it was asked for a switch may begin to move (ms).
const ACT_BEGINS: u64 = 10_000;
/// How long a program or device may take for an act that does not say (ms).
const ACT_LASTS: u64 = 20_000;

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
        match self.machine(name) {
            Some(machine) if caller.admin && machine.is_out_of_use() => {
                self.admin_power(&machine, action, force)
            }
            _ => self.holder_power(caller, name, action, force),
        }
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
            PowerAction::Cycle => {
                return Err(no(format!("{name} is out of use, where power is not cycled in one go"))
                    .hint(format!("pitstop power {name} off, then on")));
            }
        };
        if want == Switch::On {
            self.is_settled(machine).map_err(|error| error.hint("wait, or switch it off"))?;
            if self.room_for(machine) != Room::Now {
                return Err(self.no_room(machine, "switched on"));
            }
            self.is_free_to_start(machine)?;
        }
        let (to, why) = (name.clone(), reason.map(str::to_owned));
        self.change(Change::PowerByAdmin { machine: to, action: format!("power {word}"), reason: why });
        // It boots what is on its disks, and that writes there.
        if want == Switch::On {
            self.distrust_disks(machine);
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
        if action == PowerAction::On {
            self.is_free_to_start(&machine)?;
        }
        let (word, want) = match action {
            PowerAction::On => ("on", Switch::On),
            PowerAction::Off => ("off", Switch::Off),
            PowerAction::Cycle => ("cycle", Switch::Off),
        };
        self.change(Change::PowerByHolder { machine: name.clone(), action: word.to_owned() });
        self.switch_all(name, want, Boot::AsIs);
        // The on of a cycle has as long again.
        let commands = if action == PowerAction::Cycle { 2 } else { 1 };
        Ok(self.switched(name, word, commands))
    }

    /// What was proven is not any more: somebody may write there by hand.
    fn distrust_disks(&mut self, machine: &Machine) {
        for (disk, row) in machine.disks.iter().enumerate() {
            if matches!(row.content, Content::Proven(_) | Content::ByCommand(_)) {
                self.change(Change::DiskUsed { machine: machine.name.clone(), disk, by: None });
            }
        }
    }

    /// A switch, a button or a nudge, by whoever may switch power: an SD card
    /// taken from a machine is as good as its plug pulled.
    pub(crate) fn act(
        &mut self,
        caller: &Caller,
        name: &MachineName,
        act: Act,
        force: Option<&str>,
    ) -> Result<Value, ApiError> {
        self.still_known(name)?;
        let by_hand = match self.machine(name) {
            Some(machine) if caller.admin && machine.is_out_of_use() => {
                Some((reason_if_new(&machine, force)?.map(str::to_owned), machine))
            }
            _ => {
                self.in_use(caller, name, force)?;
                None
            }
        };
        // What is refused leaves no record, and no disk distrusted.
        self.has_fixture(name, &act)?;
        match (by_hand, &act) {
            (Some((reason, machine)), _) => {
                self.distrust_disks(&machine);
                let action = act.to_string();
                self.change(Change::PowerByAdmin { machine: name.clone(), action, reason });
            }
            // Whatever becomes of its agent is the holder's own doing.
            (None, Act::Nudge(nudge)) => {
                let action = nudge.word().to_owned();
                self.change(Change::PowerByHolder { machine: name.clone(), action });
            }
            (None, _) => {}
        }
        let what = act.to_string();
        let id = self.lab.machines.get(name).map_or(0, |m| m.intents) + 1;
        let until = self.now() + ACT_BEGINS;
        let may_land_until = until + self.act_lasts(name, &act);
        // What it does to the machine may be as much as switching it on.
        let intent = Intent { id, want: Switch::On, may_land_until, open: false, twin: true };
        self.change(Change::ActBegun { machine: name.clone(), what: what.clone(), intent });
        self.effect(Effect::Act { machine: name.clone(), intent: id, act, until });
        Ok(json!({ "machine": name, "what": what }))
    }

    /// Whether the machine has what is to be flipped, pressed or nudged.
    fn has_fixture(&self, name: &MachineName, act: &Act) -> Result<(), ApiError> {
        let spec = self.spec(name);
        let (kind, of, wanted) = match act {
            Act::Flip { switch, .. } => ("switch", spec.map(|s| &s.switches), switch),
            Act::Press { button } => ("button", spec.map(|s| &s.buttons), button),
            Act::Nudge(_) if spec.is_some_and(|s| s.legs.is_empty()) => {
                return Err(ApiError::new(Code::Conflict, format!("{name} has no power leg")));
            }
            Act::Nudge(_) => return Ok(()),
        };
        let has: Vec<&str> = of.into_iter().flat_map(|all| all.keys().map(String::as_str)).collect();
        if has.contains(&wanted.as_str()) {
            return Ok(());
        }
        let hint =
            if has.is_empty() { format!("it has no {kind}") } else { format!("it has {}", has.join(", ")) };
        Err(ApiError::new(Code::NotFound, format!("{name} has no {kind} `{wanted}`")).hint(hint))
    }

    /// How long an act may take once it was begun: its program, once more to
    /// let go or to read, and as long again for a device that was slow.
    fn act_lasts(&self, name: &MachineName, act: &Act) -> u64 {
        let spec = self.spec(name);
        let driver = match act {
            Act::Flip { switch, .. } => spec.and_then(|s| s.switches.get(switch)),
            Act::Press { button } => spec.and_then(|s| s.buttons.get(button)),
            Act::Nudge(_) => None,
        };
        let ms = |field: &str| driver.and_then(|d| d.ms(field));
        2 * ms("timeout").unwrap_or(ACT_LASTS) + ms("press").unwrap_or(0) + self.limits(name).power_ms
    }

    /// An act is over. One that failed may still be done later.
    pub(crate) fn acted(
        &mut self,
        name: &MachineName,
        intent: IntentId,
        act: &Act,
        begun: bool,
        result: Result<(), String>,
    ) {
        if self.machine(name).is_none() {
            return;
        }
        let (machine, what) = (name.clone(), act.to_string());
        match result {
            Ok(()) => self.change(Change::ActDone { machine, intent, what }),
            Err(answer) => {
                let intent = (!begun).then_some(intent);
                self.change(Change::ActFailed { machine, intent, what, answer });
            }
        }
        self.power_progress(name);
    }

    fn switched(&self, name: &MachineName, word: &str, commands: u64) -> Value {
        let ms = self.machine(name).and_then(|m| self.landing(&m));
        let settled = ms.map(|ms| (ms * commands).div_ceil(1_000));
        json!({ "machine": name, "power": word, "settled_within": settled })
    }

    /// Milliseconds until no power command may land any more, if one may.
    pub(crate) fn landing(&self, machine: &Machine) -> Option<u64> {
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
        let board = self.programmer(name).is_some();
        if self.runs_no_agent(name) && !board {
            return Err(ApiError::new(
                Code::Conflict,
                format!("{name} runs no agent that could write its disks"),
            ));
        }
        let seedless = image.as_ref().filter(|i| i.seed.is_none() && !board);
        if let (Goal::Image, Some(seedless)) = (goal, seedless) {
            let text = format!("image `{}` has no seed area for the host agent", seedless.name);
            return Err(ApiError::new(Code::Conflict, text).hint("add it with --seed"));
        }
        if (goal == Goal::Image || board) && image.is_none() {
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
