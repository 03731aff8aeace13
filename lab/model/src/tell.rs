//! A way through the world in words.

use crate::action::{Action, Arrival, Boots, Death, Finish, Look, Move, Sending};
use crate::world::{Order, World};
use pitstop_core::machine::Stage;
use pitstop_core::machine::Switch;

/// Each action with when it happens, and where it leaves the machine.
pub fn path(path: &[(World, Option<Action>)]) -> Vec<String> {
    let after = path.iter().skip(1).map(|(world, _)| world);
    let steps = path.iter().filter_map(|(world, action)| Some((world, action.as_ref()?)));
    steps.zip(after).map(|((before, action), after)| step(before, action, after)).collect()
}

fn step(before: &World, action: &Action, after: &World) -> String {
    let mut line = format!("{:>6.1} s  {}", (before.now.0 as f64) / 1_000.0, what(before, &action.what));
    match action.death {
        Death::None => {}
        Death::BeforeCommit => line += "; the daemon dies before its commit",
        Death::AfterCommit => line += "; the daemon dies after its commit",
    }
    let (was, is) = (place(before), place(after));
    if was != is {
        line += &format!("  → {is}");
    }
    line
}

/// Where the machine is, by the store.
fn place(world: &World) -> String {
    let Some(machine) = world.row() else { return "no machine".into() };
    let clean = machine.clean();
    match &machine.stage {
        Stage::Turn(turn) => format!("{}, {} (disk {clean})", machine.state(), turn.phase.name()),
        Stage::Ready { reservation: Some(id), .. } | Stage::InUse { reservation: id, .. } => {
            format!("{} for {id} (disk {clean})", machine.state())
        }
        _ => format!("{} (disk {clean})", machine.state()),
    }
}

fn what(world: &World, what: &Move) -> String {
    let user = |client: &usize| world.setting.asks[*client].user.to_string();
    match what {
        Move::Reserve(client) => format!("{} asks for a machine", user(client)),
        Move::Claim(client) => format!("{} comes for it", user(client)),
        Move::Release(client) => format!("{} releases it", user(client)),
        Move::Switch(client, action) => format!("{} switches it: {action:?}", user(client)).to_lowercase(),
        Move::Reimage(client) => format!("{} has it written again", user(client)),
        Move::Prove => "the admin has it proven".into(),
        Move::Send(order, sending) => format!("the lane sends {}{}", order_of(world, *order), sent(*sending)),
        Move::Land(order, Boots::AsTold) => format!("power {} lands", order_of(world, *order)),
        Move::Land(order, Boots::ItsDisk) => {
            format!("power {} lands, and the machine boots its own disk", order_of(world, *order))
        }
        Move::ReadBack(order, how) => format!("{} is read back{}", order_of(world, *order), arrives(*how)),
        Move::Look(_, Look::Seen(how)) => format!("power is read{}", arrives(*how)),
        Move::Look(_, Look::Unknown) => "power is read: no answer".into(),
        Move::Hello(how) => format!("{} says hello{}", agent(world), arrives(*how)),
        Move::Finish(finish) => {
            let doing = world.agent.as_ref().and_then(|a| a.doing.as_ref());
            let step = doing.map(|(step, _)| *step).unwrap_or_default();
            let how = match finish {
                Finish::Done(how) => format!("is done with step {step}{}", arrives(*how)),
                Finish::Unheard => format!("is done with step {step}, and its connection breaks"),
                Finish::Broken => format!("cannot write in step {step}"),
            };
            format!("{} {how}", agent(world))
        }
        Move::Repeat => format!("{} says its result again", agent(world)),
        Move::Stray(index) => format!("a stray message arrives: {}", stray(world, *index)),
        Move::SlowOrder(order) => format!("{} takes its time", order_of(world, *order)),
        Move::SlowAgent => format!("{} takes its time", agent(world)),
        Move::Cut => format!("the connection of {} breaks", agent(world)),
        Move::Reboot => "the machine reboots by itself".into(),
        Move::Swap => "another disk is put in the place of its own".into(),
        Move::Crash => "the daemon dies".into(),
        Move::Stop => "the daemon is stopped, and taken for dead".into(),
        Move::Restart => "a daemon starts".into(),
        Move::LateRestart => "a daemon starts, an hour later".into(),
        Move::Wake => "the stopped daemon wakes".into(),
        Move::Tick => "a deadline is judged".into(),
        Move::Wait => "time passes".into(),
    }
}

fn order_of(world: &World, index: usize) -> String {
    let on = |order: &Order| if order.want == Switch::On { "on" } else { "off" };
    world.orders.get(index).map(|o| format!("{} ({})", on(o), o.intent)).unwrap_or_default()
}

fn sent(sending: Sending) -> &'static str {
    match sending {
        Sending::Accepted => "",
        Sending::Lost => ": accepted, and nothing happens",
        Sending::Refused => ": an error",
        Sending::RefusedAndLands => ": an error, and it will land",
    }
}

fn arrives(how: Arrival) -> &'static str {
    match how {
        Arrival::Prompt => "",
        Arrival::Late => "; the message is overtaken",
        Arrival::Twice => "; a copy of the message is on its way",
    }
}

fn agent(world: &World) -> String {
    let agent = world.agent.as_ref();
    agent.map(|a| format!("the {:?} agent of {}", a.kind, a.boot_id).to_lowercase()).unwrap_or_default()
}

fn stray(world: &World, index: usize) -> String {
    use pitstop_core::event::{Event, Report};
    match world.strays.get(index) {
        Some(Event::Agent { boot_id, report: Report::Done { step, .. }, .. }) => {
            format!("{boot_id}'s result of step {step}")
        }
        Some(Event::Hello(hello)) => format!("a hello for {}", hello.machine()),
        Some(Event::Fact { .. }) => "a reading of power".into(),
        _ => "a message".into(),
    }
}
