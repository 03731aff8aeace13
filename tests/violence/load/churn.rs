//! Leases by time: short ones on machines that cost nothing to hand over, and
//! some whose holders switch power.

use super::Voice;
use crate::book::Call;
use pitstop_client::Code;
use pitstop_client::api::{CleanLevel, Extend, PowerDo, PowerRequest, Reserve, Want};

/// Any machine of a kind, as it is, off.
fn bare(kind: &str) -> Reserve {
    Reserve {
        select: Some(format!("kind={kind}")),
        want: Some(Want::Bare),
        clean: Some(CleanLevel::Any),
        length: Some(3_600),
        ..Reserve::default()
    }
}

/// Reserves, claims, extends, gives back, and changes its mind at any point.
pub async fn leases(mut me: Voice) {
    while !me.over() {
        let Ok(Some(row)) = me.ask(Call::Reserve(bare("keep")), "").await else { return };
        let id = row.id.clone();
        let looks = me.rng.usize(1..60);
        if me.until_ready(row, looks).await.is_some() && me.rng.u32(..10) > 0 {
            use_lease(&mut me, &id).await;
        }
        me.give_back(&id).await;
        me.pause(20..120).await;
    }
}

async fn use_lease(me: &mut Voice, id: &str) {
    if let Err(e) = me.ask(Call::Claim, id).await {
        return me.book().violation(format!("{id} was ready and cannot be claimed: {e}"));
    }
    if me.rng.u32(..3) == 0 {
        let more = Extend { length: Some(7_200), until: None };
        if let Err(e) = me.ask(Call::Extend(more), id).await {
            me.book().violation(format!("{id} cannot be extended: {e}"));
        }
    }
    me.pause(5..80).await;
}

/// Holds a machine and switches it.
pub async fn power(mut me: Voice) {
    while !me.over() {
        let Ok(Some(row)) = me.ask(Call::Reserve(bare("bare")), "").await else { return };
        let id = row.id.clone();
        let looks = me.rng.usize(20..400);
        if me.until_ready(row, looks).await.is_some() {
            switch(&mut me, &id).await;
        }
        me.give_back(&id).await;
        me.pause(50..300).await;
    }
}

async fn switch(me: &mut Voice, id: &str) {
    if let Err(e) = me.ask(Call::Claim, id).await {
        return me.book().violation(format!("{id} was ready and cannot be claimed: {e}"));
    }
    let Ok(row) = me.shared.client.reservation(id).await else { return };
    let Some(member) = row.machines.first() else { return };
    for action in [PowerDo::On, PowerDo::Cycle, PowerDo::Off] {
        let call = Call::Power(member.machine.clone(), PowerRequest { action, force: None });
        match me.ask(call, id).await {
            Ok(_) => {}
            // An earlier command may still act: said with the seconds left.
            Err(e) if e.code == Code::Conflict => {}
            Err(e) => return me.book().violation(format!("{id}, power {}: {e}", action.word())),
        }
        me.pause(20..600).await;
    }
}
