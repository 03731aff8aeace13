//! `pitstop reimage`

use super::fail::Fail;
use super::{Context, Result};
use pitstop_wire::api::Reimage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine; yours if there is only one.
    machine: Option<String>,
    /// The image; the one it has unless said.
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let machine = super::pick::machine(cx, args.machine.as_deref()).await?;
    if !cx.yes {
        if !cx.out.can_ask {
            return Err(Fail::usage(format!("this erases the disks of {machine}")).hint("say so with --yes"));
        }
        super::admin::confirm(
            cx,
            &format!("This erases the disks of {machine}. Type its name to go on: "),
            &machine,
        )?;
    }
    let done = cx.client.reimage(&machine, &Reimage { image: args.image.clone() }, cx.key.clone()).await?;
    cx.out.object(&done, &machine, |out| out.line(&done.text))
}
