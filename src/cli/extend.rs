//! `pitstop extend`

use super::times::{clock, duration, left, moment};
use super::{Context, Result};
use pitstop_wire::api::{Extend, Time};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A machine you hold, or R-…; yours if there is only one.
    #[arg(value_name = "MACHINE|R-…")]
    what: Option<String>,
    /// From now: 30m, 2h; as long as the policy gives unless said.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "until")]
    length: Option<std::time::Duration>,
    /// Until then: 18:00, or RFC 3339.
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    until: Option<Time>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let id = super::pick::reservation(cx, args.what.as_deref()).await?;
    let more = Extend { length: args.length.map(|d| d.as_secs()), until: args.until };
    let r = cx.client.extend(&id, &more, cx.key.clone()).await?;
    cx.out.object(&r, &r.id, |out| match r.ends {
        Some(at) => out.line(&format!("{} till {} ({} left)", r.id, clock(at), left(at))),
        None => out.line(&format!("{} has no end", r.id)),
    })
}
