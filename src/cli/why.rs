//! `pitstop why`

use super::status::arrow;
use super::{Context, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A machine or R-…; yours if there is only one.
    #[arg(value_name = "MACHINE|R-…")]
    what: Option<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let what = match &args.what {
        Some(what) => match super::pick::thing(what)? {
            super::pick::Thing::Machine(name) => name.to_string(),
            super::pick::Thing::Reservation(id) => id,
        },
        None => super::pick::reservation(cx, None).await?,
    };
    let why = cx.client.why(&what).await?;
    cx.out.object(&why, &why.about, |out| {
        out.line(&why.summary)?;
        let texts = why.lines.iter().filter(|l| l.next.is_some()).map(|l| l.text.chars().count());
        let width = texts.filter(|n| *n <= 76).max().unwrap_or(0);
        for line in &why.lines {
            let text = match &line.next {
                Some(_) => format!("  {:<width$}{}", line.text, arrow(line.next.as_deref())),
                None => format!("  {}", line.text),
            };
            out.line(&text)?;
        }
        Ok(())
    })
}
