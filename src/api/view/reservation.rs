//! Reservations as outsiders see them.

use super::Clock;
use pitstop_core::Lab;
use pitstop_core::id::ReservationId;
use pitstop_core::reservation::{self as core, Status};
use pitstop_wire::api::{
    CleanLevel, End, EndKind, Hold, Member, Reservation, ReservationState, Reservations, Role, Schema, Want,
};

/// One reservation.
pub fn reservation(lab: &Lab, r: &core::Reservation) -> Reservation {
    let clock = Clock::of(lab);
    let role = |index: usize| r.ask.roles.get(index).map(|role| role.name.clone()).unwrap_or_default();
    Reservation {
        schema: Schema::new("pitstop.reservation/1"),
        id: r.id.to_string(),
        owner: r.owner.clone(),
        state: state(r),
        roles: (r.ask.roles.iter())
            .map(|role| Role { name: role.name.clone(), select: role.select.clone(), count: role.count })
            .collect(),
        machines: (r.members.iter())
            .map(|m| Member { role: role(m.role), machine: m.machine.clone(), ready: m.ready })
            .collect(),
        image: r.ask.image.as_ref().map(|i| i.name.clone()),
        want: want(r.ask.want),
        hold: match r.ask.hold {
            core::Hold::Session { silence } => Hold::Session { silence: silence.div_ceil(1_000) },
            core::Hold::Time => Hold::Time,
        },
        clean: clean(r.ask.clean),
        priority: r.ask.priority,
        reason: r.ask.reason.clone(),
        created: pitstop_wire::api::Time(r.created_wall),
        limit: r.ask.limit.map(|ms| ms.div_ceil(1_000)),
        ends: r.ends.map(|at| clock.wall(at)),
        unclaimed_until: match r.status {
            Status::Ready { unclaimed_until } => Some(clock.wall(unclaimed_until)),
            _ => None,
        },
        position: if r.status == Status::Waiting { position(lab, r.id) } else { None },
        failed_on: r.failed_on.clone(),
        end: match &r.status {
            Status::Ended { at, why } => {
                Some(End { kind: end_kind(why), at: clock.wall(*at), text: r.end_words(why) })
            }
            _ => None,
        },
    }
}

/// Several reservations.
pub fn reservations(list: Vec<Reservation>) -> Reservations {
    Reservations { schema: Schema::new("pitstop.reservations/1"), reservations: list }
}

fn position(lab: &Lab, id: ReservationId) -> Option<usize> {
    lab.queue().position(|r| r.id == id).map(|index| index + 1)
}

fn state(r: &core::Reservation) -> ReservationState {
    match r.status {
        Status::Waiting => ReservationState::Waiting,
        Status::Preparing => ReservationState::Preparing,
        Status::Ready { .. } => ReservationState::Ready,
        Status::Active => ReservationState::Active,
        Status::Ended { .. } => ReservationState::Ended,
    }
}

fn want(want: core::Want) -> Want {
    match want {
        core::Want::Bare => Want::Bare,
        core::Want::Agent => Want::Agent,
        core::Want::Image => Want::Image,
    }
}

fn clean(clean: core::CleanLevel) -> CleanLevel {
    match clean {
        core::CleanLevel::Any => CleanLevel::Any,
        core::CleanLevel::ByCommand => CleanLevel::ByCommand,
        core::CleanLevel::Proven => CleanLevel::Proven,
    }
}

fn end_kind(end: &core::End) -> EndKind {
    match end {
        core::End::Released { .. } => EndKind::Released,
        core::End::Expired => EndKind::Expired,
        core::End::Lost => EndKind::Lost,
        core::End::Unclaimed => EndKind::Unclaimed,
        core::End::TimedOut => EndKind::TimedOut,
        core::End::Restored => EndKind::Restored,
        core::End::Failed { .. } => EndKind::Failed,
    }
}
