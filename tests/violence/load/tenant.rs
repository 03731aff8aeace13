//! Tenants of whole machines: a command runs while the lab's daemon comes and
//! goes, and its output arrives whole. They leave marks on the disk, which no
//! later tenant may find.

use super::Voice;
use crate::book::{Call, MARK, MARK_NAME, Tenancy, foreign_marks};
use pitstop_client::api::{Member, Reserve, Want};
use pitstop_client::{Code, Feed};
use pitstop_drivers::sim::{self, Request, Status};
use pitstop_wire::MachineName;
use pitstop_wire::run::{Command, End};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a machine may take to be prepared while daemons die, in looks of
/// some 40 ms each.
const LOOKS: usize = 4_500;

/// One tenancy after the other.
pub async fn tenancies(mut me: Voice) {
    while !me.over() {
        let ask = Reserve {
            select: Some("kind=board".to_owned()),
            want: Some(Want::Agent),
            length: Some(3_600),
            ..Reserve::default()
        };
        let Ok(Some(row)) = me.ask(Call::Reserve(ask), "").await else { return };
        let id = row.id.clone();
        if let Some(members) = prepared(&mut me, row).await {
            live_in(&mut me, &id, &members).await;
        }
        me.give_back(&id).await;
        me.pause(20..200).await;
    }
}

async fn prepared(me: &mut Voice, row: pitstop_client::api::Reservation) -> Option<Vec<Member>> {
    let mut row = row;
    for _ in 0..LOOKS / 50 {
        if me.over() {
            return None;
        }
        if let Some(members) = me.until_ready(row.clone(), 50).await {
            return Some(members);
        }
        match me.shared.client.reservation(&row.id).await {
            Ok(newer) => row = newer,
            Err(e) if e.code == Code::NotKnown => {}
            Err(_) => return None,
        }
    }
    me.book().violation(format!("{} does not get its machine: {}", row.id, row.state.word()));
    None
}

async fn live_in(me: &mut Voice, id: &str, members: &[Member]) {
    let [Member { machine, .. }] = members else { return };
    let name = format!("{:0width$x}", me.rng.u64(..), width = MARK_NAME);
    look_for_marks(me, machine, &name);
    if let Err(e) = me.ask(Call::Claim, id).await {
        return me.book().violation(format!("{id} was ready and cannot be claimed: {e}"));
    }
    let Some(status) = status(me, machine).await else { return };
    let Some(boot_id) = status.boot_id else {
        return me.book().violation(format!("{machine} is in use by {id} and runs nothing"));
    };
    let tenancy = Tenancy { reservation: id.to_owned(), boot_id, boots: status.boots };
    me.book().moves_in(machine, tenancy);
    run(me, machine, &name).await;
    me.book().moves_out(machine);
}

fn dir(me: &Voice, machine: &MachineName) -> PathBuf {
    me.shared.data.join("machines").join(machine.as_str())
}

async fn status(me: &Voice, machine: &MachineName) -> Option<Status> {
    match sim::request(&dir(me, machine), &Request::Status).await {
        Ok(Some(reply)) => reply.status,
        other => {
            me.book().violation(format!("{machine} is in use and does not answer: {other:?}"));
            None
        }
    }
}

fn look_for_marks(me: &Voice, machine: &MachineName, own: &str) {
    let file = dir(me, machine).join("disk-root.img");
    match std::fs::read(&file) {
        Ok(disk) => {
            let foreign = foreign_marks(&disk, own);
            if !foreign.is_empty() {
                me.book().violation(format!("{machine} is handed over with marks of {foreign:?}"));
            }
        }
        Err(e) => me.book().violation(format!("{}: {e}", file.display())),
    }
}

/// Leaves marks and counts, while the daemon is killed.
async fn run(me: &mut Voice, machine: &MachineName, name: &str) {
    let lines = me.rng.usize(20..200);
    let script = format!(
        "for at in 8 100 240; do printf {MARK}{name} | dd of=$PITSTOP_DISK bs=4096 seek=$at conv=notrunc 2>/dev/null; done
         i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 7"
    );
    let command =
        Command { argv: vec!["sh".into(), "-c".into(), script], env: vec![], cwd: None, stdin: false };
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    let (_input, inputs) = mpsc::channel(1);
    let (_signal, signals) = mpsc::channel(1);
    let feed = Feed { input: inputs, signals };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let client = me.shared.client.clone().with_patience(Duration::from_secs(120));
    let began = Instant::now();
    let end = client.run(machine.as_str(), command, feed, &mut out, &mut err).await;
    let whole = out == expected.as_bytes();
    match end {
        Ok(End::Exit { code: 7 }) if whole => drop(me.shared.commands.fetch_add(1, Ordering::Relaxed)),
        Ok(end) => {
            let (out, err) = (out.len(), String::from_utf8_lossy(&err).into_owned());
            let words =
                format!("a command on {machine} ended with {end:?}, {out} bytes, whole: {whole}: {err}");
            me.book().violation(words);
        }
        Err(e) => {
            let s = began.elapsed().as_secs();
            me.book().violation(format!("a command on {machine} was lost after {s} s: {e}"));
        }
    }
}
